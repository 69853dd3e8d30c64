"""How likely a generator finds a given answer, token by token, after several conversations that begin alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from hiperrag.errors import UserError

if TYPE_CHECKING:
    import torch

    from hiperrag.answering.generators.base import Generator, Message

STEP = 512
"""Tokens that pass through the model at once: bounds the memory of attention and of the logits."""


NO_LOG_PROBABILITIES = (
    "the generator gives no log-probabilities of a given text, which attribution needs; use a local generator"
    " (default, hf:, gguf:) or a vLLM server"
)


class CannotScoreError(UserError):
    """The generator cannot say how likely an answer is; the message names neither its folder nor its address."""


class TokenScore(NamedTuple):
    """One token of an answer, after all before it."""

    text: str
    end: int
    """Where it ends in the answer, in characters."""
    log_p: float
    """Natural logarithm of its probability."""
    entropy: float | None
    """Of the distribution it was taken from, in nats; None where the generator gives no whole distributions."""


@runtime_checkable
class ScoringGenerator(Protocol):
    """A generator that can say how likely each token of a given answer is."""

    spec: str

    def score_answers(
        self, conversations: Sequence[list[Message]], answer: str
    ) -> Iterator[tuple[int, list[TokenScore]]]:
        """(number of the conversation, tokens of `answer` after it), each conversation once, in any order.

        CannotScoreError where the generator gives no log-probabilities, or a conversation exceeds its window.
        """
        ...


def scorer(generator: Generator) -> ScoringGenerator:
    """The generator, if it can score answers; CannotScoreError otherwise."""
    if isinstance(generator, ScoringGenerator):
        return generator
    raise CannotScoreError(NO_LOG_PROBABILITIES)


def score_tokens(
    model: Any, pairs: Sequence[tuple[list[int], list[int]]]
) -> Iterator[tuple[int, list[float], list[float]]]:
    """(number of the pair, log-probabilities, entropies in nats) of the tokens of `rest` in each (beginning, rest).

    Sorted token by token, neighbours share their longest beginnings; its keys and values are computed once and
    kept, so that each pair costs the tokens after the place where it departs from the one before. Memory is that
    of one pair's keys and values. Beginnings are not empty.
    """
    from transformers import DynamicCache

    cache, held = DynamicCache(), list[int]()
    for number in sorted(range(len(pairs)), key=lambda i: pairs[i][0] + pairs[i][1]):
        beginning, rest = pairs[number]
        fed = (beginning + rest)[:-1]
        shared = min(common_prefix(held, fed), len(beginning) - 1)
        if shared < len(held):
            cache.crop(shared - len(held))
        held = fed
        scores, entropies = _continue(model, cache, fed[shared:], rest)
        yield number, scores, entropies


def _continue(model: Any, cache: Any, new: list[int], rest: list[int]) -> tuple[list[float], list[float]]:
    """Feed the tokens `new`, of which the last len(rest) each predict a token of `rest`."""
    import torch

    scores: list[float] = []
    entropies: list[float] = []
    predicting = len(new) - len(rest)
    with torch.inference_mode():
        for start in range(0, len(new), STEP):
            ids = torch.tensor([new[start : start + STEP]], device=model.device)
            n_wanted = max(0, start + ids.shape[1] - max(start, predicting))
            logits = model(
                input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=max(1, n_wanted)
            ).logits[0]
            if n_wanted:
                wanted = rest[len(scores) : len(scores) + n_wanted]
                log_p = log_probabilities(logits)
                chosen = log_p.gather(1, torch.tensor(wanted, device=log_p.device)[:, None])[:, 0]
                scores.extend(chosen.tolist())
                entropies.extend((-(log_p.exp() * log_p).nansum(-1)).tolist())
    return scores, entropies


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Log-softmax over the last axis, in single precision or better."""
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def common_prefix(*rows: Sequence[int]) -> int:
    """How many tokens all sequences have in common at their beginnings."""
    for i, column in enumerate(zip(*rows, strict=False)):
        if len(set(column)) > 1:
            return i
    return min(map(len, rows))


def score_answers(
    model: Any, tokenizer: Any, prompts: Sequence[str], answer: str
) -> Iterator[tuple[int, list[TokenScore]]]:
    """ScoringGenerator.score_answers of a transformers model with a fast tokenizer, for prompts in its chat form."""
    special = not tokenizer.chat_template
    beginnings = [tokenizer(prompt, add_special_tokens=special)["input_ids"] for prompt in prompts]
    encoded = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    rest, ends = encoded["input_ids"], [end for _, end in encoded["offset_mapping"]]
    window = getattr(model.config, "max_position_embeddings", None)
    longest = max(len(beginning) for beginning in beginnings) + len(rest)
    if window and longest > window:
        raise CannotScoreError(
            f"passages and answer have {longest} tokens and the generator takes {window}; ask for fewer passages"
        )
    texts = [answer[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    for i, scores, entropies in score_tokens(model, [(beginning, rest) for beginning in beginnings]):
        yield i, [TokenScore(*token) for token in zip(texts, ends, scores, entropies, strict=True)]
