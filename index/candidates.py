"""Which passages have a token near which centroid: made from a shard's codes alone, so it can be made at any time.

Token vectors are clustered in two levels (k-means of k-means), because assigning a token then costs 2 sqrt(C) inner
products instead of C. Each centroid lists the passages that have a token in its cell, once each (PLAID, Santhanam et
al. 2022, section 4.2).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hiperrag.index.codec import FloatArray, TokenCodes, quantize_rows
from hiperrag.index.kernels import CENTROID_BLOCK
from hiperrag.index.vectors import BLOCK_ROWS, CandidateArrays, TokenArrays

SAMPLES_PER_CENTROID = 40
ITERATIONS = 8
_BLOCK_TOKENS = 65_536
"""Tokens decoded at a time."""


class _Tree(NamedTuple):
    """roots: (n_roots, dim). Leaves of root r: leaves[bounds[r]:bounds[r + 1]], each (dim,)."""

    roots: FloatArray
    leaves: FloatArray
    bounds: npt.NDArray[np.int64]


def build_candidates(tokens: TokenArrays) -> CandidateArrays:
    """Cluster a shard's token vectors and list each centroid's passages; deterministic."""
    n_centroids = number_of_centroids(len(tokens.codes))
    tree = _grow(_sample(tokens, n_centroids * SAMPLES_PER_CENTROID), n_centroids)
    centroids, scales = quantize_rows(_padded(tree.leaves, n_centroids))
    n_passages = len(tokens.mean_scales)
    starts, postings, total = [], [], 0
    for first in range(0, n_passages, BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, n_passages)
        block_starts, block_postings = _list_block(tokens, tree, first, last, n_centroids)
        starts.append(block_starts + total)
        postings.append(block_postings)
        total += len(block_postings)
    return CandidateArrays(centroids, scales, np.stack(starts).astype(np.uint64), np.concatenate(postings))


def number_of_centroids(n_tokens: int) -> int:
    """About the square root of the number of tokens, as a power of two."""
    return int(np.clip(2 ** round(np.log2(max(1, n_tokens)) / 2), CENTROID_BLOCK, 1 << 16))


def _sample(tokens: TokenArrays, wanted: int) -> FloatArray:
    n_tokens = len(tokens.codes)
    if not n_tokens:  # all passages are empty: one centroid that lists none of them
        return np.zeros((1, tokens.codec.code_dim), dtype=np.float32)
    picked = np.arange(n_tokens)
    if n_tokens > wanted:
        picked = np.sort(np.random.default_rng(2).choice(n_tokens, wanted, replace=False))
    return _decode(tokens, picked)


def _decode(tokens: TokenArrays, picked: npt.NDArray[np.int64]) -> FloatArray:
    """Approximate vectors of the listed tokens (rising), in the codec's rotated space."""
    owners = np.searchsorted(tokens.offsets, picked, side="right") - 1
    rows, lengths = np.unique(owners, return_counts=True)
    codes = TokenCodes(
        tokens.codes[picked],
        tokens.scales[picked],
        lengths.astype(np.uint16),
        tokens.means[rows],
        tokens.mean_scales[rows],
    )
    return tokens.codec.decode(codes)


def _grow(sample: FloatArray, n_leaves: int) -> _Tree:
    n_roots = max(1, 2 ** round(np.log2(n_leaves) / 2))
    roots = _cluster(sample, n_roots)
    order, bounds = _group(_nearest(sample, roots), len(roots))
    shares = _shares(np.diff(bounds), n_leaves)
    leaves = [
        _cluster(sample[order[bounds[root] : bounds[root + 1]]], int(share))
        for root, share in enumerate(shares)
        if share
    ]
    kept = roots[shares > 0]
    return _Tree(kept, np.concatenate(leaves), np.concatenate([[0], np.cumsum([len(leaf) for leaf in leaves])]))


def _shares(sizes: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """`total` leaves shared out in proportion to the sizes, none to an empty root, at most one per sample."""
    shares: npt.NDArray[np.int64] = np.floor(sizes * total / max(1, sizes.sum())).astype(np.int64)
    shares = np.minimum(np.maximum(shares, sizes > 0), sizes)
    while shares.sum() > total:
        shares[np.argmax(shares)] -= 1
    return shares


def _cluster(vectors: FloatArray, k: int) -> FloatArray:
    """k unit vectors by spherical k-means; the vectors themselves when there are no more than k."""
    import faiss

    if len(vectors) <= k:
        units: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return units
    kmeans: Any = faiss.Clustering(vectors.shape[1], k)
    kmeans.niter, kmeans.spherical, kmeans.seed = ITERATIONS, True, 3
    kmeans.min_points_per_centroid, kmeans.max_points_per_centroid = 1, len(vectors)
    # faiss.Kmeans reads the centroids from a C++ vector, which fails in a process that has loaded PyMuPDF: both
    # libraries have that type from SWIG. The index holds them as well.
    index = faiss.IndexFlatIP(vectors.shape[1])
    kmeans.train(np.ascontiguousarray(vectors, dtype=np.float32), index)
    centroids: FloatArray = index.reconstruct_n(0, k)
    return centroids


def _nearest(vectors: FloatArray, centroids: FloatArray) -> npt.NDArray[np.int64]:
    found = np.empty(len(vectors), dtype=np.int64)
    step = max(1, (1 << 22) // len(centroids))
    for start in range(0, len(vectors), step):
        found[start : start + step] = (vectors[start : start + step] @ centroids.T).argmax(axis=1)
    return found


def _group(numbers: npt.NDArray[np.int64], n_groups: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions sorted by their number, and where each number's begin."""
    order = np.argsort(numbers, kind="stable")
    return order, np.searchsorted(numbers[order], np.arange(n_groups + 1))


def _assign(vectors: FloatArray, tree: _Tree) -> npt.NDArray[np.int64]:
    """The leaf of each vector: the nearest under its nearest root."""
    leaves = np.empty(len(vectors), dtype=np.int64)
    order, bounds = _group(_nearest(vectors, tree.roots), len(tree.roots))
    for root in range(len(tree.roots)):
        members = order[bounds[root] : bounds[root + 1]]
        if len(members):
            first, last = tree.bounds[root], tree.bounds[root + 1]
            leaves[members] = first + _nearest(vectors[members], tree.leaves[first:last])
    return leaves


def _list_block(
    tokens: TokenArrays, tree: _Tree, first: int, last: int, n_centroids: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
    """Lists of passages first..last: starts (n_centroids + 1,) and rows within the block."""
    start, stop = int(tokens.offsets[first]), int(tokens.offsets[last])
    keys = []
    for a in range(start, stop, _BLOCK_TOKENS):
        picked = np.arange(a, min(a + _BLOCK_TOKENS, stop))
        owners = np.searchsorted(tokens.offsets, picked, side="right") - 1 - first
        keys.append(_distinct((_assign(_decode(tokens, picked), tree) * BLOCK_ROWS + owners).astype(np.uint32)))
    listed = _distinct(np.concatenate(keys)) if keys else np.empty(0, dtype=np.uint32)
    bounds = np.arange(n_centroids + 1, dtype=np.uint64) * BLOCK_ROWS
    return np.searchsorted(listed, bounds), (listed % BLOCK_ROWS).astype(np.uint16)


def _distinct(numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Rising, each once. np.unique hashes integers, which takes some 70 times as long."""
    ordered = np.sort(numbers)
    kept = np.ones(len(ordered), dtype=bool)
    kept[1:] = ordered[1:] != ordered[:-1]
    return ordered[kept]


def _padded(leaves: FloatArray, n: int) -> FloatArray:
    """Zero vectors for the leaves that a small sample did not give; no passage is listed there."""
    padded = np.zeros((n, leaves.shape[1]), dtype=np.float32)
    padded[: len(leaves)] = leaves
    return padded
