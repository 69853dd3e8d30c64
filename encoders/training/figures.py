"""How well held-out queries find their passages among all held-out passages: a quick look, not an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hiperrag.encoders.training.losses import Labels
from hiperrag.encoders.training.maxsim import maxsim
from hiperrag.encoders.training.model import Encoding, TextReader, TrainedEncoder
from hiperrag.encoders.training.pairs import Pair, document_of, text_hash

MOST = 1_000
"""Pairs looked at."""


def held_out_figures(
    encoder: TrainedEncoder, reader: TextReader, pairs: Sequence[Pair], chunk_tokens: int, precision: torch.dtype
) -> dict[str, dict[str, float]]:
    """MRR@10 and Recall@1 by pooled vectors and by MaxSim, each query against the passages of `pairs` (at most 1,000).

    Other passages of the query's document do not count as wrong answers. Empty where there are fewer than two pairs.
    """
    pairs = pairs[:: max(1, len(pairs) // MOST)][:MOST]
    if len(pairs) < 2:
        return {}
    encoder.eval()
    texts = [*reader.queries([p.query for p in pairs]), *reader.passages([p.positive for p in pairs])]
    with torch.no_grad():
        vectors = Encoding(encoder, texts, chunk_tokens, 0, precision, cache=True).vectors
        n, tokens = len(pairs), sum(vectors.lengths[: len(pairs)])
        late = maxsim(vectors.tokens[:tokens], vectors.lengths[:n], vectors.tokens[tokens:], vectors.lengths[n:])
        pooled = vectors.pooled[:n] @ vectors.pooled[n:].T
    encoder.train()
    hashes = torch.tensor([[text_hash(p.query), text_hash(p.positive), text_hash(document_of(p))] for p in pairs])
    order = torch.arange(n)
    labels = Labels(hashes, hashes, order, torch.zeros_like(order))
    forbidden = labels.forbidden(slice(None), order).to(pooled.device)
    return {"pooled": _figures(pooled, forbidden), "maxsim": _figures(late, forbidden)}


def _figures(scores: Tensor, forbidden: Tensor) -> dict[str, float]:
    scores = scores.masked_fill(forbidden, -torch.inf)
    ranks = 1 + (scores > scores.diagonal()[:, None]).sum(1)
    reciprocal = torch.where(ranks <= 10, 1 / ranks, 0.0)
    return {
        "n": len(scores),
        "mrr@10": round(float(reciprocal.mean()), 4),
        "recall@1": round(float((ranks == 1).float().mean()), 4),
    }
