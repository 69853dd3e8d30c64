"""Token pooling (Clavié, Chaffin & Adams 2024): similar token vectors of a passage are replaced by their mean."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt


def pool_tokens(
    tokens: npt.NDArray[np.float32], offsets: npt.NDArray[np.int64], factor: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Keep about one of `factor` token vectors of each passage: means of Ward clusters, unit norm.

    tokens: (offsets[-1], dim), unit norm; rows offsets[i]:offsets[i + 1] belong to passage i. Returns the same two.
    """
    if factor == 1:
        return tokens, offsets
    pooled = [_pool(tokens[start:stop], factor) for start, stop in pairwise(offsets)]
    bounds = np.cumsum([0, *(len(rows) for rows in pooled)], dtype=np.int64)
    return np.concatenate(pooled) if pooled else tokens, bounds


def _pool(rows: npt.NDArray[np.float32], factor: int) -> npt.NDArray[np.float32]:
    from scipy.cluster.hierarchy import fcluster, linkage

    wanted = max(1, len(rows) // factor)
    if len(rows) <= wanted:
        return rows
    clusters = fcluster(linkage(rows, method="ward"), wanted, criterion="maxclust") - 1
    sums = np.zeros((int(clusters.max()) + 1, rows.shape[1]), dtype=np.float32)
    np.add.at(sums, clusters, rows)
    means: npt.NDArray[np.float32] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return means
