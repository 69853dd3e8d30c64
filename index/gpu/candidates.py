"""Candidates on a device: the estimates of `kernels.candidates`, to the bit, for several queries at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hiperrag.index import kernels
from hiperrag.index.codec import OFFSET, FloatArray, QueryCodes
from hiperrag.index.gpu.tensors import DeviceLists, DeviceTokens, best
from hiperrag.index.kernels import Effort
from hiperrag.index.vectors import BLOCK_ROWS

Rows = npt.NDArray[np.int64]
_BLOCK_PRODUCTS = 1 << 25
"""Products with means held at a time."""


class _Postings(NamedTuple):
    """Entries of the probed centroids, by query token: cells (n,) query * n_passages + row, gains (n,) float32 bits.

    Those of token t are ends[t - 1]:ends[t]. imputed: (n_queries,) what a passage gets that is listed nowhere.
    """

    cells: Tensor
    gains: Tensor
    ends: list[int]
    imputed: FloatArray


def candidates(
    tokens: DeviceTokens,
    lists: DeviceLists,
    queries: Sequence[QueryCodes],
    allowed: Tensor | None,
    effort: Effort,
    unlisted: bool,
) -> list[tuple[Rows, FloatArray]]:
    """For each query what `kernels.candidates` gives; allowed: (n_passages,) bool or None for all.

    Needs about 64 bytes a passage and query.
    """
    n_queries, n_passages, device = len(queries), tokens.n_passages, tokens.device
    postings = _look_up(tokens, lists, queries, effort.n_probe)
    totals = torch.zeros(n_queries * n_passages, dtype=torch.float32, device=device)
    gains = torch.zeros(n_queries * n_passages, dtype=torch.int32, device=device)
    start = 0
    for end in postings.ends:  # one query token after the other, as on the CPU
        if end > start:
            gains.zero_()
            # Gains are not negative, so the bits of the highest are the highest.
            gains.scatter_reduce_(0, postings.cells[start:end], postings.gains[start:end], "amax")
            totals += gains.view(torch.float32)
        start = end
    eligible = torch.full((n_queries * n_passages,), unlisted, dtype=torch.bool, device=device)
    eligible[postings.cells] = True
    eligible = eligible.view(n_queries, n_passages) & (tokens.offsets[1:] > tokens.offsets[:-1])
    if allowed is not None:
        eligible &= allowed
    totals = totals.view(n_queries, n_passages)
    rows, n_first = best(totals, max(effort.n, effort.n_first), eligible=eligible)
    estimates = totals.gather(1, rows) + torch.from_numpy(postings.imputed).to(device)[:, None]
    estimates += _mean_terms(tokens, queries, effort.mean_weight, rows)
    first = torch.arange(rows.shape[1], device=device) < n_first[:, None]
    columns, n_found = best(estimates, effort.n, rows=rows, eligible=first)
    found = zip(
        rows.gather(1, columns).cpu().numpy(), estimates.gather(1, columns).cpu().numpy(), n_found.tolist(), strict=True
    )
    return [(listed[:n], values[:n]) for listed, values, n in found]


def _look_up(tokens: DeviceTokens, lists: DeviceLists, queries: Sequence[QueryCodes], n_probe: int) -> _Postings:
    device, n_blocks = tokens.device, len(lists.starts)
    n_tokens = max(len(query.values) for query in queries)
    values = np.zeros((n_tokens, len(queries), tokens.codec.code_dim), dtype=np.int8)
    scales = np.zeros((n_tokens, len(queries)), dtype=np.float32)
    for number, query in enumerate(queries):
        values[: len(query.values), number], scales[: len(query.scales), number] = query.values, query.scales
    if not n_tokens:
        nothing = torch.empty(0, dtype=torch.int64, device=device)
        return _Postings(nothing, nothing.int(), [], np.zeros(len(queries), dtype=np.float32))
    chosen, cosines, following = _probe(lists, torch.from_numpy(values).to(device), n_probe)
    weights = torch.from_numpy(scales).to(device)
    gains = (cosines - following[:, :, None]) * weights[:, :, None]
    lengths = torch.tensor([len(query.values) for query in queries], device=device)
    real = torch.arange(n_tokens, device=device)[:, None] < lengths
    # (token, query, probe, block): where its entries begin and how many there are
    begins = lists.starts[:, chosen].permute(1, 2, 3, 0)
    counts = (lists.starts[:, chosen + 1].permute(1, 2, 3, 0) - begins) * real[:, :, None, None]
    ends, imputed = counts.sum(dim=(1, 2, 3)).cumsum(0).tolist(), _imputed(following.cpu().numpy(), scales)
    flat = counts.reshape(-1)
    segments = torch.repeat_interleave(torch.arange(flat.numel(), device=device), flat, output_size=ends[-1])
    within = torch.arange(ends[-1], device=device) - (flat.cumsum(0) - flat)[segments]
    in_block = lists.postings[begins.reshape(-1)[segments] + within].to(torch.int64).bitwise_and(0xFFFF)
    rows = in_block + segments % n_blocks * BLOCK_ROWS
    probes = segments // n_blocks
    lines = probes // chosen.shape[2] % len(queries)
    bits = gains.reshape(-1).view(torch.int32)[probes]
    return _Postings(lines * tokens.n_passages + rows, bits, ends, imputed)


def _probe(lists: DeviceLists, values: Tensor, n_probe: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of (n_tokens, n_queries, code_dim) query tokens the nearest centroids, their cosines, and the first left out."""
    centroids = lists.centroids
    shape = values.shape[:2]
    cosines = (values.reshape(-1, values.shape[2]).to(centroids.dtype) @ centroids.T).float() * lists.centroid_scales
    wanted = min(n_probe + 1, len(centroids))
    order, _ = best(cosines, wanted)
    near = cosines.gather(1, order)
    probed = min(n_probe, wanted)
    return (
        order[:, :probed].reshape(*shape, probed),
        near[:, :probed].reshape(*shape, probed),
        near[:, wanted - 1].reshape(shape),
    )


def _imputed(following: FloatArray, scales: FloatArray) -> FloatArray:
    total = np.zeros(following.shape[1], dtype=np.float32)
    for token in range(len(following)):
        total += following[token] * scales[token]
    return total


def _mean_terms(tokens: DeviceTokens, queries: Sequence[QueryCodes], weight: float, rows: Tensor) -> Tensor:
    """Weighted inner product of each query's sum with the means at its rows: (n_queries, n_rows)."""
    sums, scales = zip(*(kernels.sum_query(query, weight) for query in queries), strict=True)
    on_device = torch.from_numpy(np.stack(sums)).to(tokens.device, torch.int32)
    factors = torch.from_numpy(np.array(scales, dtype=np.float32)).to(tokens.device)[:, None] * tokens.mean_scales[rows]
    terms = torch.empty(rows.shape, dtype=torch.float32, device=tokens.device)
    step = max(1, _BLOCK_PRODUCTS // max(1, rows.shape[1] * on_device.shape[1]))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        products = (tokens.means[rows[some]].to(torch.int32) - OFFSET) * on_device[some, None]
        terms[some] = products.sum(dim=2, dtype=torch.int32).float() * factors[some]
    return terms
