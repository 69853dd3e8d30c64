"""Late interaction and BM25 in one score.

Candidates are the passages that pooled vectors propose together with the best few by BM25; each gets both scores. On
each of four development sets this beat late interaction alone, with any weight from 0.1 to 0.7; reciprocal rank fusion
did not (`benchmarks/hybrid.py` measures what each leg adds).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LEXICAL_CANDIDATES = 50
"""Passages that BM25 adds to the candidates."""
LEXICAL_WEIGHT = 0.3
"""What the best conceivable BM25 counts, as a share of the best conceivable MaxSim."""

FloatArray = npt.NDArray[np.float32]


def fuse(maxsim: FloatArray, n_query_tokens: int, bm25: FloatArray, limit: float) -> FloatArray:
    """The fused scores of one query's candidates, in units of MaxSim; both scores (n_candidates,), in the same order.

    MaxSim / n_query_tokens and BM25 / limit both end at 1, whatever the query and the collection, and are added with
    LEXICAL_WEIGHT (convex combination normalised by theoretical bounds: Bruch, Gai & Ingber 2023, "An Analysis of
    Fusion Functions for Hybrid Retrieval"), then multiplied by n_query_tokens. limit: `LexicalQuery.limit`; where it is
    0, because the collection has none of the query's words, MaxSim is the score. A MaxSim of -inf (no token vectors)
    stays.
    """
    if limit <= 0:
        return maxsim
    return maxsim + np.float32(LEXICAL_WEIGHT * n_query_tokens / limit) * bm25
