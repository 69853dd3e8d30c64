"""Exact brute force: float32 matrix product with every token, best per passage, sum."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

_BLOCK_TOKENS = 8_192
"""Tokens scored at once: what the product leaves behind stays in the cache."""
_FEW_COLUMNS = 64


class Engine:
    """Keeps all token vectors in memory as float32."""

    version = np.__version__

    def __init__(self, threads: int) -> None:
        del threads  # OMP_NUM_THREADS and its kin rule NumPy's BLAS

    def build(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> int:
        """Nothing to build: the bytes are those of the float32 vectors and the offsets."""
        del index, options
        return int(tokens.size * 4 + offsets.nbytes)

    def open(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> None:
        del index, options
        self.tokens, self.offsets = tokens.astype(np.float32), offsets

    def search(self, queries: list[Any], k: int, setting: dict[str, Any]) -> list[list[int]]:
        """The k passages with the largest MaxSim of each query; queries of a batch share the matrix products."""
        del setting
        joined = np.ascontiguousarray(np.concatenate(queries).T)
        starts = np.cumsum([0, *(len(query) for query in queries[:-1])])
        scores = np.empty((len(queries), len(self.offsets) - 1), dtype=np.float32)
        first = 0
        while first < len(self.offsets) - 1:
            last = int(np.searchsorted(self.offsets, self.offsets[first] + _BLOCK_TOKENS, side="right")) - 1
            last = max(last, first + 1)
            start, stop = self.offsets[first], self.offsets[last]
            best = _best(self.tokens[start:stop] @ joined, self.offsets[first : last + 1] - start)
            scores[:, first:last] = np.add.reduceat(best, starts, axis=1).T
            first = last
        k = min(k, scores.shape[1])
        candidates = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        return [_ranked(row, score) for row, score in zip(candidates, scores, strict=True)]


def _best(products: Any, bounds: Any) -> Any:
    """The maximum over each passage's rows; the faster of two ways, depending on the number of columns."""
    if products.shape[1] <= _FEW_COLUMNS:
        return np.maximum.reduceat(products, bounds[:-1], axis=0)
    return np.stack([products[first:last].max(axis=0) for first, last in pairwise(bounds)])


def _ranked(candidates: Any, scores: Any) -> list[int]:
    order = np.lexsort((candidates, -scores[candidates]))
    return [int(passage) for passage in candidates[order]]
