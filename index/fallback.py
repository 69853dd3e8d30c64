"""The kernels in NumPy: the same results as `_kernels.c`, to the bit, where it could not be compiled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hiperrag.index.codec import OFFSET, QueryCodes
from hiperrag.index.vectors import BLOCK_ROWS, CandidateArrays, TokenArrays

FloatArray = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
_BLOCK_TOKENS = 16_384
_MULTIPLIER, _STEP = 0x9E3779B97F4A7C15, 0x9E3779B97F4A7C16


def maxsim(tokens: TokenArrays, queries: Sequence[QueryCodes], rows: Rows) -> FloatArray:
    """See `kernels.maxsim`."""
    values = np.concatenate([query.values for query in queries]).astype(_exact_float(tokens.codec.code_dim))
    scales = np.concatenate([query.scales for query in queries])
    bounds = np.cumsum([0, *(len(query.values) for query in queries)])
    out = np.full((len(queries), len(rows)), -np.inf, dtype=np.float32)
    lengths = tokens.offsets[rows + 1] - tokens.offsets[rows]
    filled = np.flatnonzero(lengths)
    ends = np.cumsum(lengths[filled])
    first = 0
    while first < len(filled):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _BLOCK_TOKENS, side="right")))
        chosen = filled[first:last]
        out[:, chosen] = _score_block(tokens, values, scales, bounds, rows[chosen])
        first = last
    return out


def _score_block(
    tokens: TokenArrays, values: npt.NDArray[np.floating], scales: FloatArray, bounds: Rows, rows: Rows
) -> FloatArray:
    starts, ends = tokens.offsets[rows], tokens.offsets[rows + 1]
    picked = np.concatenate([np.arange(a, b) for a, b in zip(starts, ends, strict=True)])
    levels = tokens.codec.unpack(tokens.codes[picked]).astype(values.dtype) - OFFSET
    cosines = (levels @ values.T).astype(np.float32) * tokens.codec.scale_table[tokens.scales[picked]][:, None]
    lengths = ends - starts
    best = np.maximum.reduceat(cosines, np.cumsum(lengths) - lengths, axis=0)
    means = tokens.means[rows].astype(values.dtype) - OFFSET
    base = (means @ values.T).astype(np.float32) * tokens.mean_scales[rows][:, None]
    products = ((best + base) * scales).astype(np.float64)
    sums = np.zeros((len(bounds) - 1, len(rows)))
    for query in range(len(bounds) - 1):
        for token in range(bounds[query], bounds[query + 1]):  # in this order, as in C
            sums[query] += products[:, token]
    return sums.astype(np.float32)


def candidates(
    tokens: TokenArrays,
    lists: CandidateArrays,
    query: QueryCodes,
    allowed: npt.NDArray[np.bool_] | None,
    unlisted: bool,
    query_sum: npt.NDArray[np.int16],
    sum_scale: np.float32,
    n_probe: int,
    n_first: int,
    n: int,
) -> tuple[Rows, FloatArray]:
    """See `kernels.candidates`."""
    chosen, values, following = _probe_centroids(lists, query, n_probe)
    imputed = np.float32(0)
    for token in range(len(following)):
        imputed += following[token] * query.scales[token]
    n_passages = len(tokens.mean_scales)
    estimates = np.zeros(n_passages, dtype=np.float32)
    listed = np.full(n_passages, unlisted)
    for token in range(len(query.values)):
        gains = np.full(n_passages, -np.inf, dtype=np.float32)
        for centroid, value in reversed(list(zip(chosen[token], values[token], strict=True))):
            gains[_listed_by(lists, centroid)] = (value - following[token]) * query.scales[token]
        here = gains > -np.inf
        estimates[here] += gains[here]
        listed |= here
    listed &= np.diff(tokens.offsets) > 0
    rows = np.flatnonzero(listed if allowed is None else listed & allowed)
    rows = _best(estimates[rows], rows, n_first)
    means = tokens.means[rows].astype(np.int64) - OFFSET
    products = (means @ query_sum.astype(np.int64)).astype(np.float32)
    better = estimates[rows] + imputed + products * (sum_scale * tokens.mean_scales[rows])
    order = np.lexsort((rows, -better))[:n]
    return rows[order], better[order]


def _probe_centroids(
    lists: CandidateArrays, query: QueryCodes, n_probe: int
) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
    exact = _exact_float(lists.centroids.shape[1])
    centroids = lists.centroids.astype(exact) - OFFSET
    cosines = (query.values.astype(exact) @ centroids.T).astype(np.float32) * lists.centroid_scales
    order = np.argsort(-cosines, axis=1, kind="stable")
    wanted = min(n_probe + 1, cosines.shape[1])
    chosen = order[:, : min(n_probe, wanted)]
    following = np.take_along_axis(cosines, order[:, wanted - 1 : wanted], axis=1)[:, 0]
    return chosen, np.take_along_axis(cosines, chosen, axis=1), following


def _listed_by(lists: CandidateArrays, centroid: int) -> Rows:
    """All passages that one centroid lists."""
    found = []
    for block, starts in enumerate(lists.starts):
        entries = lists.postings[int(starts[centroid]) : int(starts[centroid + 1])]
        found.append(entries.astype(np.int64) + block * BLOCK_ROWS)
    return np.concatenate(found)


def _best(scores: FloatArray, rows: Rows, n: int) -> Rows:
    """Rows with the n highest scores; among equals the lowest rows."""
    return rows[np.lexsort((rows, -scores))[:n]]


def _exact_float(dim: int) -> type[np.floating]:
    """Products of signed bytes over `dim` dimensions add up exactly in this type."""
    return np.float32 if dim * 128 * 128 < 1 << 24 else np.float64


def checksum(data: npt.NDArray[np.uint8]) -> int:
    """See `kernels.checksum`."""
    padded = np.zeros(-(-len(data) // 8) * 8, dtype=np.uint8)
    padded[: len(data)] = data
    words = padded.view("<u8")
    with np.errstate(over="ignore"):
        multipliers = np.uint64(_MULTIPLIER) + np.arange(len(words), dtype=np.uint64) * np.uint64(_STEP)
        return int((words * multipliers).sum(dtype=np.uint64))


def passage_checksums(tokens: TokenArrays, rows: Rows) -> npt.NDArray[np.uint64]:
    """See `kernels.passage_checksums`."""
    sums = np.empty(len(rows), dtype=np.uint64)
    for position, row in enumerate(rows):
        start, stop = tokens.offsets[row], tokens.offsets[row + 1]
        parts = (tokens.codes[start:stop].reshape(-1), tokens.scales[start:stop], tokens.means[row])
        sums[position] = sum(map(checksum, parts)) % (1 << 64)
    return sums
