"""`candidates.build_candidates` on a device: the same two levels of clusters, by k-means in torch.

k-means starts from other vectors than FAISS's, so the clusters are others, of the same kind. Deterministic.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hiperrag.index import candidates as reference
from hiperrag.index.candidates import ITERATIONS, SAMPLES_PER_CENTROID, number_of_centroids
from hiperrag.index.codec import OFFSET, quantize_rows
from hiperrag.index.gpu.maxsim import unpack
from hiperrag.index.gpu.tensors import DeviceTokens, full_precision, upload
from hiperrag.index.vectors import BLOCK_ROWS, CandidateArrays, TokenArrays

_BLOCK_VALUES = 1 << 26
"""Coordinates decoded, or cosines computed, at a time."""


class _Tree(NamedTuple):
    """roots: (n_roots, dim). Leaves of root r: leaves[bounds[r]:bounds[r + 1]], each (dim,)."""

    roots: Tensor
    leaves: Tensor
    bounds: npt.NDArray[np.int64]


def build_candidates(tokens: TokenArrays, device: torch.device) -> CandidateArrays:
    """See `candidates.build_candidates`. Takes some 2 GB of device memory beside the codes of 65,536 passages."""
    if not len(tokens.codes):
        return reference.build_candidates(tokens)
    n_centroids, n_passages = number_of_centroids(len(tokens.codes)), len(tokens.mean_scales)
    with full_precision():
        tree = _grow(_sample(tokens, n_centroids * SAMPLES_PER_CENTROID, device), n_centroids)
        centroids, scales = quantize_rows(reference._padded(tree.leaves.cpu().numpy(), n_centroids))
        starts, postings, total = [], [], 0
        for first in range(0, n_passages, BLOCK_ROWS):
            last = min(first + BLOCK_ROWS, n_passages)
            block_starts, block_postings = _list_block(_part(tokens, first, last, device), tree, n_centroids)
            starts.append(block_starts + total)
            postings.append(block_postings)
            total += len(block_postings)
    return CandidateArrays(centroids, scales, np.stack(starts).astype(np.uint64), np.concatenate(postings))


def _part(tokens: TokenArrays, first: int, last: int, device: torch.device) -> DeviceTokens:
    """Some passages of a shard, on the device."""
    taken = slice(int(tokens.offsets[first]), int(tokens.offsets[last]))
    part = TokenArrays(
        tokens.codec,
        tokens.codes[taken],
        tokens.scales[taken],
        tokens.offsets[first : last + 1] - tokens.offsets[first],
        tokens.means[first:last],
        tokens.mean_scales[first:last],
    )
    return DeviceTokens.upload(part, device)


def _sample(tokens: TokenArrays, wanted: int, device: torch.device) -> Tensor:
    n_tokens = len(tokens.codes)
    picked = np.arange(n_tokens)
    if n_tokens > wanted:
        picked = np.sort(np.random.default_rng(2).choice(n_tokens, wanted, replace=False))
    owners, lengths = np.unique(np.searchsorted(tokens.offsets, picked, side="right") - 1, return_counts=True)
    chosen = TokenArrays(
        tokens.codec,
        tokens.codes[picked],
        tokens.scales[picked],
        np.concatenate([[0], np.cumsum(lengths)]),
        tokens.means[owners],
        tokens.mean_scales[owners],
    )
    return _decode(DeviceTokens.upload(chosen, device), 0, len(picked))[0]


def _decode(tokens: DeviceTokens, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Approximate vectors of tokens start..stop in the codec's rotated space, and their passages."""
    positions = torch.arange(start, stop, device=tokens.device)
    owners = torch.searchsorted(tokens.offsets, positions, right=True) - 1
    vectors = unpack(tokens, tokens.codes[start:stop]).float()
    vectors *= tokens.scale_table[tokens.scales[start:stop].int()][:, None]
    vectors += ((tokens.means.float() - OFFSET) * tokens.mean_scales[:, None])[owners]
    return vectors, owners


def _grow(sample: Tensor, n_leaves: int) -> _Tree:
    n_roots = max(1, 2 ** round(np.log2(n_leaves) / 2))
    roots = _cluster(sample, n_roots)
    order, bounds = _group(_nearest(sample, roots), len(roots))
    shares = reference._shares(np.diff(bounds), n_leaves)
    leaves = [
        _cluster(sample[order[bounds[root] : bounds[root + 1]]], int(share))
        for root, share in enumerate(shares)
        if share
    ]
    kept = roots[torch.from_numpy(shares > 0).to(roots.device)]
    return _Tree(kept, torch.cat(leaves), np.concatenate([[0], np.cumsum([len(leaf) for leaf in leaves])]))


def _cluster(vectors: Tensor, k: int) -> Tensor:
    """k unit vectors by spherical k-means; the vectors themselves when there are no more than k."""
    if len(vectors) <= k:
        return _normalised(vectors)
    seeds = np.random.default_rng(3).choice(len(vectors), k, replace=False)
    centroids = _normalised(vectors[torch.from_numpy(seeds).to(vectors.device)])
    for _ in range(ITERATIONS):
        nearest = _nearest(vectors, centroids)
        order, bounds = _group(nearest, k)
        sums = torch.segment_reduce(
            vectors[order], "sum", lengths=upload(np.diff(bounds), vectors.device), axis=0, unsafe=True
        )
        empty = upload(np.flatnonzero(np.diff(bounds) == 0), vectors.device)
        if len(empty):  # move to the vectors that are worst served
            cosines = (vectors * centroids[nearest]).sum(dim=1)
            sums[empty] = vectors[torch.sort(cosines, stable=True).indices[: len(empty)]]
        centroids = _normalised(sums)
    return centroids


def _normalised(vectors: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / norms.clamp(min=1e-12)


def _nearest(vectors: Tensor, centroids: Tensor) -> Tensor:
    step = max(1, _BLOCK_VALUES // len(centroids))
    starts = range(0, len(vectors), step)
    return torch.cat([(vectors[start : start + step] @ centroids.T).argmax(dim=1) for start in starts])


def _group(numbers: Tensor, n_groups: int) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Positions sorted by their number, and where each number's begin."""
    order = torch.argsort(numbers, stable=True)
    counts = torch.bincount(numbers, minlength=n_groups).cpu().numpy()
    return order, np.concatenate([[0], np.cumsum(counts)])


def _assign(vectors: Tensor, tree: _Tree) -> Tensor:
    """The leaf of each vector: the nearest under its nearest root."""
    leaves = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    order, bounds = _group(_nearest(vectors, tree.roots), len(tree.roots))
    for root in range(len(tree.roots)):
        members = order[bounds[root] : bounds[root + 1]]
        if len(members):
            first, last = tree.bounds[root], tree.bounds[root + 1]
            leaves[members] = first + _nearest(vectors[members], tree.leaves[first:last])
    return leaves


def _list_block(
    tokens: DeviceTokens, tree: _Tree, n_centroids: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
    """Lists of a block's passages: starts (n_centroids + 1,) and rows within the block."""
    step = max(1, _BLOCK_VALUES // tokens.codec.code_dim)
    keys = [torch.empty(0, dtype=torch.int64, device=tokens.device)]
    for start in range(0, len(tokens.codes), step):
        vectors, owners = _decode(tokens, start, min(start + step, len(tokens.codes)))
        keys.append(torch.unique(_assign(vectors, tree) * BLOCK_ROWS + owners))
    listed = torch.unique(torch.cat(keys))
    bounds = torch.arange(n_centroids + 1, device=tokens.device) * BLOCK_ROWS
    starts = torch.searchsorted(listed, bounds).cpu().numpy()
    return starts, (listed % BLOCK_ROWS).cpu().numpy().astype(np.uint16)
