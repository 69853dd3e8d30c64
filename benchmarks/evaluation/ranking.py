"""How good a ranking of documents is; agrees with trec_eval (the tests compare with ir-measures)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def ndcg(ranked: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """nDCG@k with linear gains (Järvelin & Kekäläinen 2002); 0 where nothing is relevant."""
    gains = [max(judged.get(document, 0), 0) for document in ranked[:k]]
    ideal = sorted((gain for gain in judged.values() if gain > 0), reverse=True)[:k]
    return _discounted(gains) / _discounted(ideal) if ideal else 0.0


def reciprocal_rank(ranked: Sequence[str], judged: Mapping[str, int]) -> float:
    """1 / rank of the first relevant document; 0 where none is ranked."""
    return next((1 / rank for rank, document in enumerate(ranked, 1) if judged.get(document, 0) > 0), 0.0)


def recall(ranked: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """Share of the relevant documents among the first k."""
    relevant = {document for document, gain in judged.items() if gain > 0}
    return len(relevant & set(ranked[:k])) / len(relevant) if relevant else 0.0


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))
