"""Log-likelihood of a question's options: the prompt is read once, and the options in the same pass as its end.

The options stand one after another behind the prompt, each at the positions that follow it; a mask keeps them from
seeing each other. So nothing is padded, and only as many logits are computed as there are tokens to be scored.
Between the prompts of one question, what they begin with in common is kept; and so is, for all questions, the text
that every prompt begins with. Nothing depends on other questions: a question's scores are the same, bit by bit,
whatever runs before, after or beside it.

Tokens are those of lm-evaluation-harness: prompt and option are tokenized as one text, so that the boundary is the
tokenizer's own, and white space that ends the prompt belongs to the option.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hiperrag.answering.generators.local import LocalGenerator
from hiperrag.answering.generators.scoring import STEP, common_prefix, log_probabilities

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, slots=True)
class Scored:
    """What a model thinks of the options after one prompt."""

    log_likelihoods: list[float]
    """Sum of natural-log probabilities of each option's tokens."""
    n_tokens: int
    """Tokens of the prompt, counted once, and of the options."""
    truncated: bool
    """Whether the prompt's beginning was cut to fit the model's window."""


class OptionScorer:
    """Scores options with a local causal model. For one thread."""

    def __init__(self, generator: LocalGenerator) -> None:
        self._model: Any = generator.model
        self._tokenizer: Any = generator.tokenizer
        config = self._model.config.get_text_config()
        self.window: int = getattr(config, "max_position_embeddings", None) or 1 << 30
        self._sliding: int | None = (
            config.sliding_window if "sliding_attention" in (getattr(config, "layer_types", None) or ()) else None
        )
        self._head, self._held = _Read(), _Read()

    @property
    def on_gpu(self) -> bool:
        """Whether the model runs on a GPU."""
        return bool(self._model.device.type == "cuda")

    def count(self, text: str) -> int:
        """Tokens of a text, special ones included."""
        return len(self._tokenizer(text)["input_ids"])

    def read_head(self, prompts: Sequence[str], *, chat: bool = False) -> int:
        """Read once what all prompts begin with, of which these are examples; its number of tokens."""
        rows = [self._tokenizer(prompt, add_special_tokens=not chat)["input_ids"] for prompt in prompts]
        # The last token may be another where the text goes on.
        tokens = rows[0][: max(0, common_prefix(*rows) - 1)]
        self._head = _Read()
        self._read(self._head, tokens)
        self.forget()
        return len(tokens)

    def forget(self) -> None:
        """Begin a question: of the prompts read so far only their common head is kept."""
        self._held = copy.deepcopy(self._head)

    def score(self, prompt: str, options: Sequence[str], *, chat: bool = False) -> Scored:
        """Score each option as the continuation of `prompt`; with `chat` the prompt holds its special tokens itself."""
        contexts, whole = zip(*(self._tokens(prompt, option, chat) for option in options), strict=True)
        # Where merges reach over the boundary, options may disagree on the prompt's last tokens.
        shared = min(common_prefix(*whole), *map(len, contexts))
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

        held = self._held
        known = min(common_prefix(held.tokens, prefix), len(prefix) - 1)
        held.shorten(known)
        self._read(held, prefix[known:-1][: (len(prefix) - 1 - known) // STEP * STEP])
        new = prefix[len(held.tokens) :]
        fed = [rest[:-1] for rest in rests]
        starts = list(itertools.accumulate(map(len, fed), initial=0))
        with torch.inference_mode():
            logits = self._forward(held, new, fed, 1 + starts[-1])
            log_p = log_probabilities(logits)
            totals = []
            for start, rest, n in zip(starts, rests, scored, strict=False):
                rows = [0, *range(1 + start, start + len(rest))]
                totals.append(float(log_p[rows, rest][-n:].double().sum()))
        held.tokens += new
        held.shorten(len(prefix))
        return totals

    def _read(self, held: _Read, tokens: list[int]) -> None:
        """Read tokens on, in steps."""
        import torch

        with torch.inference_mode():
            for start in range(0, len(tokens), STEP):
                step = tokens[start : start + STEP]
                self._forward(held, step, [], 1)
                held.tokens += step

    def _forward(self, held: _Read, new: list[int], branches: list[list[int]], n_logits: int) -> Any:
        """Read `new`, then the branches, each of which follows `new`: logits (n_logits, vocabulary) at the end."""
        import torch

        device, n_held, n_prefix = self._model.device, len(held.tokens), len(held.tokens) + len(new)
        positions = torch.tensor(
            [*range(n_held, n_prefix), *(n_prefix + i for branch in branches for i in range(len(branch)))]
        )
        owners = torch.tensor([0] * len(new) + [n for n, branch in enumerate(branches, 1) for _ in branch])
        options: dict[str, Any] = {}
        if len(branches) > 1 or (self._sliding and n_held):
            options["attention_mask"] = self._mask(positions, owners, n_held)
        logits = self._model(
            input_ids=torch.tensor([new + [token for branch in branches for token in branch]], device=device),
            position_ids=positions[None].to(device),
            past_key_values=held.cache,
            use_cache=True,
            logits_to_keep=n_logits,
            **options,
        ).logits
        return logits[0]

    def _mask(self, positions: torch.Tensor, owners: torch.Tensor, n_held: int) -> Any:
        """What is added to the attention scores (1, 1, new tokens, all tokens): no branch (owner > 0) sees another."""
        import torch

        seen = torch.cat([torch.arange(n_held), positions])
        seen_owners = torch.cat([torch.zeros(n_held, dtype=owners.dtype), owners])
        distance = positions[:, None] - seen
        visible = (distance >= 0) & ((seen_owners == 0) | (seen_owners == owners[:, None]))
        if self._sliding is None:
            return self._added(visible)
        near = visible & (distance < self._sliding)
        return {"full_attention": self._added(visible), "sliding_attention": self._added(near)}

    def _added(self, visible: torch.Tensor) -> Any:
        import torch

        dtype = self._model.dtype
        added = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)
        return added[None, None].to(self._model.device)


class _Read:
    """Tokens that the model has read, and its keys and values of them."""

    def __init__(self) -> None:
        from transformers import DynamicCache

        self.tokens: list[int] = []
        self.cache: Any = DynamicCache()

    def shorten(self, length: int) -> None:
        """Keep the first `length` tokens, whatever else is in the cache."""
        excess = self.cache.get_seq_length() - length
        if excess > 0:
            self.cache.crop(-excess)
        del self.tokens[length:]
