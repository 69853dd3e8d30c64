"""MaxSim of queries with compressed passages on a device: one fused kernel, or torch where Triton is missing.

Both compute the integers of `kernels.maxsim` and its float32 operations in their order; only the final sum over query
tokens, which is in float64 there and here, is added up in another order. So a score differs from the CPU's only where
float64 rounding moves it over a boundary of float32.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hiperrag.index.codec import ALIGNMENT, OFFSET, Codec, FloatArray, QueryCodes
from hiperrag.index.gpu.tensors import DeviceTokens, exact_float
from hiperrag.index.vectors import TokenArrays

LANES = 16
"""Queries are padded to a power of two of tokens, at least this many."""
LARGEST_TILE = 64
"""Query tokens scored side by side; longer queries take several turns."""
_BLOCK_PRODUCTS = 1 << 24
"""Cosines held at a time by the torch operations."""

Rows = npt.NDArray[np.int64]
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class PackedQueries:
    """Queries of one padded length: numbers (n,) in the caller's list, values (n, lanes, code_dim), scales (n, lanes).

    Padding is a zero vector with a zero scale, which adds exactly 0 to a sum over query tokens.
    """

    numbers: Rows
    values: Tensor
    scales: Tensor

    @property
    def lanes(self) -> int:
        """Tokens of each query, padding included."""
        return self.values.shape[1]


def pack(queries: Sequence[QueryCodes], device: torch.device) -> Iterator[PackedQueries]:
    """Queries by padded length: powers of two up to LARGEST_TILE, multiples of it beyond."""
    padded = [_padded(len(query.values)) for query in queries]
    for lanes in sorted(set(padded)):
        numbers = [number for number, wanted in enumerate(padded) if wanted == lanes]
        values = np.zeros((len(numbers), lanes, queries[0].values.shape[1]), dtype=np.int8)
        scales = np.zeros((len(numbers), lanes), dtype=np.float32)
        for place, number in enumerate(numbers):
            values[place, : len(queries[number].values)] = queries[number].values
            scales[place, : len(queries[number].values)] = queries[number].scales
        yield PackedQueries(np.array(numbers), torch.from_numpy(values).to(device), torch.from_numpy(scales).to(device))


def maxsim(tokens: DeviceTokens, queries: PackedQueries, rows: Tensor | None) -> Tensor:
    """MaxSim, float32, (n_queries, n_rows); -inf for a passage without tokens.

    rows: None for all passages; (n_rows,) for the same passages for all queries; (n_queries, n_rows) for each query's
    own. Each passage is decoded once for a tile of queries, and the cosines of its tokens are never stored.
    """
    if fused(tokens.device):
        from hiperrag.index.gpu import fused_maxsim

        return fused_maxsim.launch(tokens, queries, rows)
    return by_torch(tokens, queries, rows)


def by_torch(tokens: DeviceTokens, queries: PackedQueries, rows: Tensor | None) -> Tensor:
    """`maxsim` in torch operations, which run anywhere."""
    if rows is None:
        rows = torch.arange(tokens.n_passages, device=tokens.device)
    if rows.dim() == 1:
        return _by_torch(tokens, queries.values, queries.scales, rows)
    parts = [_by_torch(tokens, queries.values[i : i + 1], queries.scales[i : i + 1], rows[i]) for i in range(len(rows))]
    return torch.cat(parts)


@cache
def fused(device: torch.device) -> bool:
    """Whether the Triton kernel runs on the device (on the CPU only in Triton's interpreter).

    It is tried on one passage, for Triton compiles when first used, with a C compiler that a machine may not have.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    if device.type != "cuda":
        return os.environ.get("TRITON_INTERPRET") == "1"
    from hiperrag.index.gpu import fused_maxsim

    one = DeviceTokens.upload(_ONE_PASSAGE, device)
    query = next(pack([QueryCodes(np.ones((1, ALIGNMENT), np.int8), np.ones(1, np.float32))], device))
    try:
        return bool(torch.equal(fused_maxsim.launch(one, query, None), by_torch(one, query, None)))
    except Exception as error:  # whatever a compiler, its launcher or an old GPU may say
        _log.warning("MaxSim on %s is slower than it could be, Triton fails: %s", device, str(error)[:200])
        return False


_ONE_PASSAGE = TokenArrays(
    Codec(ALIGNMENT, 8),
    np.full((1, ALIGNMENT), OFFSET + 1, dtype=np.uint8),
    np.full(1, 255, dtype=np.uint8),
    np.array([0, 1]),
    np.full((1, ALIGNMENT), OFFSET + 1, dtype=np.uint8),
    np.ones(1, dtype=np.float32),
)


def _padded(n_tokens: int) -> int:
    if n_tokens > LARGEST_TILE:
        return -(-n_tokens // LARGEST_TILE) * LARGEST_TILE
    return max(LANES, 1 << max(0, n_tokens - 1).bit_length())


def _by_torch(tokens: DeviceTokens, values: Tensor, scales: Tensor, rows: Tensor) -> Tensor:
    out = torch.full((len(values), len(rows)), -torch.inf, dtype=torch.float32, device=tokens.device)
    lengths = tokens.offsets[rows + 1] - tokens.offsets[rows]
    filled = torch.nonzero(lengths)[:, 0]
    ends = lengths[filled].cumsum(0).cpu().numpy()
    flat = values.reshape(-1, values.shape[2]).to(exact_float(values.shape[2])).T
    block = max(1, _BLOCK_PRODUCTS // flat.shape[1])
    first = 0
    while first < len(filled):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + block, side="right")))
        chosen = filled[first:last]
        out[:, chosen] = _score_block(tokens, flat, scales, rows[chosen], lengths[chosen])
        first = last
    return out


def _score_block(tokens: DeviceTokens, flat: Tensor, scales: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
    owners = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), lengths)
    before = lengths.cumsum(0) - lengths
    picked = torch.arange(len(owners), device=rows.device) + (tokens.offsets[rows] - before)[owners]
    levels = unpack(tokens, tokens.codes[picked]).to(flat.dtype)
    cosines = (levels @ flat).float() * tokens.scale_table[tokens.scales[picked].int()][:, None]
    best = torch.full((len(rows), flat.shape[1]), -torch.inf, dtype=torch.float32, device=rows.device)
    best.scatter_reduce_(0, owners[:, None].expand_as(cosines), cosines, "amax")
    base = ((tokens.means[rows].to(flat.dtype) - OFFSET) @ flat).float() * tokens.mean_scales[rows][:, None]
    products = ((best + base) * scales.reshape(-1)).double()
    return products.reshape(len(rows), *scales.shape).sum(dim=2).float().T


def unpack(tokens: DeviceTokens, codes: Tensor) -> Tensor:
    """Signed level of each dimension: (n, width) -> (n, code_dim) int8."""
    bits = tokens.codec.bits
    if bits == 8:
        return (codes ^ OFFSET).view(torch.int8)
    fields = [(codes >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return tokens.levels[torch.cat(fields, dim=1).int()]


def to_numpy(scores: Tensor) -> FloatArray:
    """Scores on the host."""
    array: FloatArray = scores.cpu().numpy()
    return array
