"""Log-likelihood of a question's options: the prompt is read once, the options run over its cache together.

Tokens are those of lm-evaluation-harness: prompt and option are tokenized as one text, so that the boundary is the
tokenizer's own, and white space that ends the prompt belongs to the option. Nothing depends on other questions: a
question's scores are the same whatever runs before, after or beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hiperrag.answering.generators.local import LocalGenerator


@dataclasses.dataclass(frozen=True, slots=True)
class Scored:
    """What a model thinks of the options after one prompt."""

    log_likelihoods: list[float]
    """Sum of natural-log probabilities of each option's tokens."""
    n_tokens: int
    """Tokens the model read: the prompt once, and the options."""
    truncated: bool
    """Whether the prompt's beginning was cut to fit the model's window."""


class OptionScorer:
    """Scores options with a local causal model."""

    def __init__(self, generator: LocalGenerator) -> None:
        self._model: Any = generator.model
        self._tokenizer: Any = generator.tokenizer
        self.window: int = getattr(self._model.config, "max_position_embeddings", None) or 1 << 30

    @property
    def on_gpu(self) -> bool:
        """Whether the model runs on a GPU."""
        return bool(self._model.device.type == "cuda")

    def count(self, text: str) -> int:
        """Tokens of a text, special ones included."""
        return len(self._tokenizer(text)["input_ids"])

    def score(self, prompt: str, options: Sequence[str], *, chat: bool = False) -> Scored:
        """Score each option as the continuation of `prompt`; with `chat` the prompt holds its special tokens itself."""
        contexts, whole = zip(*(self._tokens(prompt, option, chat) for option in options), strict=True)
        # Where merges reach over the boundary, options may disagree on the prompt's last tokens.
        shared = min(_common_prefix(whole), *map(len, contexts))
        cut = max(0, max(map(len, whole)) - self.window)
        scores = self._score(
            whole[0][cut:shared],
            [tokens[shared:] for tokens in whole],
            [len(tokens) - len(context) for tokens, context in zip(whole, contexts, strict=True)],
        )
        n_tokens = shared - cut + sum(len(tokens) - shared for tokens in whole)
        return Scored(scores, n_tokens, cut > 0)

    def _tokens(self, prompt: str, option: str, chat: bool) -> tuple[list[int], list[int]]:
        """Tokens of the prompt alone and of both together; the first may differ from a prefix of the second."""
        context = prompt if chat else prompt.rstrip()
        texts = [context, prompt + option]
        alone, together = self._tokenizer(texts, add_special_tokens=not chat)["input_ids"]
        return alone, together

    def _score(self, prefix: list[int], rests: list[list[int]], scored: list[int]) -> list[float]:
        """Log-likelihood of the last `scored[i]` tokens of prefix + rests[i]."""
        import torch

        device = self._model.device
        with torch.inference_mode():
            read = self._model(torch.tensor([prefix], device=device), use_cache=True, logits_to_keep=1)
            first = read.logits[0, -1].float().log_softmax(-1)
            longer = [i for i, rest in enumerate(rests) if len(rest) > 1]
            follow = self._continue(read.past_key_values, len(prefix), [rests[i][:-1] for i in longer])
            totals = []
            for i, rest in enumerate(rests):
                log_probabilities = [first[rest[0]]]
                if len(rest) > 1:
                    rows = follow[longer.index(i)]
                    log_probabilities += [rows[n, token] for n, token in enumerate(rest[1:])]
                totals.append(float(sum(value.double() for value in log_probabilities[-scored[i] :])))
        return totals

    def _continue(self, cache: Any, n_prefix: int, rows: list[list[int]]) -> Any:
        """Log-probabilities (row, position, vocabulary) after each token of the rows, all read over one cache."""
        import torch

        if not rows:
            return None
        width = max(map(len, rows))
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.zeros((len(rows), n_prefix + width), dtype=torch.long)
        mask[:, :n_prefix] = 1
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, n_prefix : n_prefix + len(row)] = 1
        positions = torch.arange(n_prefix, n_prefix + width).repeat(len(rows), 1)
        cache.batch_repeat_interleave(len(rows))
        device = self._model.device
        logits = self._model(
            ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
        ).logits
        return logits.float().log_softmax(-1)


def _common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share."""
    n = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        n += 1
    return n
