"""What a single token of the prompt does: the response's probability with the token over that with any in its place.

The score of "Probabilistic Attribution For Large Language Models" (Shilpika, Graziani, Lusch, Vishwanath & Papka 2026,
arXiv:2605.21726), as its abstract defines it. With a prompt a t b, of which t is one token, and a response r,

    effect(t) = log p(r | a t b) - log p(r | a _ b),
    p(r | a _ b) = sum_v p(v | a) p(b | a v) p(r | a v b)  /  sum_v p(v | a) p(b | a v),

where v runs over the vocabulary: Bayes' rule inverts the next-token probabilities into p(v | a, b), under which the
token is summed out. `entropy` is that of p(v | a, b), in nats: how far the rest of the prompt leaves the token open.
We compute the sums over the `alternatives` likeliest v after a, and t itself; with the whole vocabulary they are
exact. `mass` is the share of p(v | a) that the sums cover.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from hiperrag.answering.generators.scoring import log_probabilities, score_tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Marginal:
    """One token of a prompt, at `position`; in nats."""

    position: int
    effect: float
    entropy: float
    mass: float


def marginalise(
    model: Any, prompt: Sequence[int], response: Sequence[int], positions: Sequence[int], alternatives: int
) -> list[Marginal]:
    """The effect of the tokens at `positions` (1 .. len(prompt) - 1) of a prompt on the response.

    Costs a pass over the tokens after each position for every alternative.
    """
    return [_marginal(model, list(prompt), list(response), position, alternatives) for position in positions]


def _marginal(model: Any, prompt: list[int], response: list[int], position: int, alternatives: int) -> Marginal:
    before, actual, after = prompt[:position], prompt[position], prompt[position + 1 :]
    tokens = list(dict.fromkeys([actual, *_likeliest(model, before, alternatives)]))
    pairs = [(before, [token, *after, *response]) for token in tokens]
    log_prior = np.zeros(len(tokens))
    log_after = np.zeros(len(tokens))
    log_response = np.zeros(len(tokens))
    for i, scores, _ in score_tokens(model, pairs):
        log_prior[i] = scores[0]
        log_after[i] = sum(scores[1 : 1 + len(after)])
        log_response[i] = sum(scores[1 + len(after) :])
    log_posterior = log_prior + log_after - np.logaddexp.reduce(log_prior + log_after)
    marginal = np.logaddexp.reduce(log_posterior + log_response)
    posterior = np.exp(log_posterior)
    return Marginal(
        position=position,
        effect=float(log_response[0] - marginal),
        entropy=float(-(posterior * log_posterior).sum()),
        mass=float(np.exp(log_prior).sum()),
    )


def _likeliest(model: Any, before: list[int], n: int) -> list[int]:
    """The n tokens that the model finds likeliest after `before`."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([before], device=model.device), logits_to_keep=1).logits[0, -1]
    return [int(token) for token in log_probabilities(logits).topk(min(n, logits.shape[-1])).indices]
