"""Decode and MaxSim in one Triton kernel: codes are read once, products are 8-bit integers on tensor cores.

One program scores one passage with one tile of query tokens: tile by tile of its tokens, it turns codes into levels in
registers, multiplies (int8 x int8 -> int32), scales, and keeps the running maximum of each query token.
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from hiperrag.index.codec import OFFSET, Codec
from hiperrag.index.gpu.maxsim import LARGEST_TILE, PackedQueries
from hiperrag.index.gpu.tensors import DeviceTokens

BLOCK_TOKENS = 32
"""Passage tokens decoded at a time."""
LARGEST_BLOCK_BYTES = 128
SMALLEST_BLOCK_BYTES = 32
"""Bytes of a token's code multiplied at a time: the second is the least that tensor cores take."""
_LARGEST_GRID = 65_535
"""Tiles of queries in one launch."""


def launch(tokens: DeviceTokens, queries: PackedQueries, rows: Tensor | None) -> Tensor:
    """See `maxsim.maxsim`."""
    n_queries, own = len(queries.values), rows is not None and rows.dim() == 2
    n_rows = tokens.n_passages if rows is None else rows.shape[-1]
    settings = constants(tokens.codec, queries.lanes, n_queries, alone=own)
    group = settings["GROUP"]
    n_groups = -(-n_queries // group)
    values, scales = _filled(queries.values, n_groups * group), _filled(queries.scales, n_groups * group)
    out = torch.empty((n_groups * group, n_rows), dtype=torch.float32, device=tokens.device)
    if not n_rows:
        return out[:n_queries]
    where = tokens.offsets if rows is None else rows.contiguous()
    for first in range(0, n_groups, _LARGEST_GRID):
        last = min(first + _LARGEST_GRID, n_groups)
        _run(
            (n_rows, last - first),
            tokens,
            where[first:last] if own else where,
            n_rows if own else 0,
            values[first * group :],
            scales[first * group :],
            out[first * group :],
            {**settings, "ALL": rows is None},
        )
    return out[:n_queries]


def constants(codec: Codec, lanes: int, n_queries: int, alone: bool) -> dict[str, int]:
    """The kernel's compile-time constants; `alone`: queries do not share passages."""
    group = 1 if alone else max(1, min(LARGEST_TILE // lanes, 1 << (n_queries - 1).bit_length()))
    lanes_at_once = min(lanes, LARGEST_TILE)
    table = np.zeros(16, dtype=np.uint8)
    table[: 1 << min(codec.bits, 4)] = codec.levels[:16] ^ np.uint8(OFFSET)
    words = table.view("<i8")
    return {
        "CODE_DIM": codec.code_dim,
        "BITS": codec.bits,
        "WIDTH": codec.width,
        "LOW": int(words[0]),
        "HIGH": int(words[1]),
        "GROUP": group,
        "LANES": lanes_at_once,
        "TURNS": lanes // lanes_at_once,
        "BLOCK_TOKENS": BLOCK_TOKENS,
        "BLOCK_BYTES": _block(codec.width),
        "BLOCK_DIMS": _block(codec.code_dim),
    }


def warps(settings: dict[str, int]) -> int:
    """Warps of a program: two share the tokens of a block, but would share a wide tile instead, both decoding all."""
    return 2 if settings["GROUP"] * settings["LANES"] <= BLOCK_TOKENS else 1


def _run(
    grid: tuple[int, int],
    tokens: DeviceTokens,
    rows: Tensor,
    row_stride: int,
    values: Tensor,
    scales: Tensor,
    out: Tensor,
    settings: dict[str, int],
) -> None:
    """On the tensors' device, without fused multiply-add, as on the CPU."""
    with torch.cuda.device(tokens.device) if tokens.device.type == "cuda" else contextlib.nullcontext():
        maxsim_kernel[grid](
            tokens.codes,
            tokens.scales,
            tokens.scale_table,
            tokens.offsets,
            tokens.means,
            tokens.mean_scales,
            rows,
            row_stride,
            values,
            scales,
            out,
            grid[0],
            **settings,
            num_warps=warps(settings),
            enable_fp_fusion=False,
        )


def _block(size: int) -> int:
    """The largest power of two that divides `size`, within limits; what is beyond `size` is masked."""
    return min(max(size & -size, SMALLEST_BLOCK_BYTES), LARGEST_BLOCK_BYTES)


def _filled(tensor: Tensor, n: int) -> Tensor:
    if len(tensor) == n:
        return tensor.contiguous()
    return torch.cat([tensor, tensor.new_zeros((n - len(tensor), *tensor.shape[1:]))])


@triton.jit  # type: ignore[untyped-decorator]
def _levels(packed, field: tl.constexpr, BITS: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Signed levels of one field of the bytes, looked up in a table of eight bytes a word."""
    if BITS == 8:
        return (packed.to(tl.int16) - 128).to(tl.int8)
    value = (packed.to(tl.int32) >> (field * BITS)) & ((1 << BITS) - 1)
    word = tl.where(value < 8, LOW, HIGH)
    return (word >> ((value & 7) * 8).to(tl.int64)).to(tl.int8)


@triton.jit  # type: ignore[untyped-decorator]
def maxsim_kernel(  # type: ignore[no-untyped-def]
    codes,
    token_scales,
    scale_table,
    offsets,
    means,
    mean_scales,
    rows,
    row_stride,
    values,
    query_scales,
    out,
    n_rows,
    CODE_DIM: tl.constexpr,  # noqa: N803
    BITS: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    LOW: tl.constexpr,  # noqa: N803
    HIGH: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    LANES: tl.constexpr,  # noqa: N803
    TURNS: tl.constexpr,  # noqa: N803
    BLOCK_TOKENS: tl.constexpr,  # noqa: N803
    BLOCK_BYTES: tl.constexpr,  # noqa: N803
    BLOCK_DIMS: tl.constexpr,  # noqa: N803
    ALL: tl.constexpr,  # noqa: N803
):
    """out[group * GROUP + g, position] of GROUP queries of LANES tokens each, or of one of TURNS * LANES tokens.

    The passage is rows[group * row_stride + position], or position itself when ALL. values: (n_queries, TURNS * LANES,
    CODE_DIM) int8. A token beyond the passage's end counts as -inf; a padded query token has zero values and scale.
    """
    position = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1).to(tl.int64)
    row = position if ALL else tl.load(rows + group * row_stride + position)
    first = tl.load(offsets + row)
    length = (tl.load(offsets + row + 1) - first).to(tl.int32)
    mean_scale = tl.load(mean_scales + row)
    lane = tl.arange(0, GROUP * LANES)
    in_block = tl.arange(0, BLOCK_BYTES)
    total = tl.zeros([GROUP], dtype=tl.float64)
    for turn in range(TURNS):
        tile = (group * TURNS + turn) * (GROUP * LANES) + lane
        best = tl.full([GROUP * LANES], float("-inf"), dtype=tl.float32)
        for start in range(0, length, BLOCK_TOKENS):
            token = start + tl.arange(0, BLOCK_TOKENS)
            inside = token < length
            products = tl.zeros([BLOCK_TOKENS, GROUP * LANES], dtype=tl.int32)
            for begin in tl.static_range(0, WIDTH, BLOCK_BYTES):
                byte = begin + in_block
                within = byte < WIDTH
                packed = tl.load(
                    codes + (first + token)[:, None] * WIDTH + byte[None, :],
                    mask=inside[:, None] & within[None, :],
                    other=0,
                )
                for field in tl.static_range(0, 8 // BITS):
                    query = tl.load(
                        values + tile[None, :] * CODE_DIM + (field * WIDTH + byte)[:, None],
                        mask=within[:, None],
                        other=0,
                    )
                    levels = _levels(packed, field, BITS, LOW, HIGH)
                    products = tl.dot(levels, query, acc=products, out_dtype=tl.int32)
            step = tl.load(token_scales + first + token, mask=inside, other=0).to(tl.int32)
            cosines = products.to(tl.float32) * tl.load(scale_table + step)[:, None]
            cosines = tl.where(inside[:, None], cosines, float("-inf"))
            best = tl.maximum(best, tl.max(cosines, axis=0))
        base = tl.zeros([GROUP * LANES], dtype=tl.int32)
        for begin in tl.static_range(0, CODE_DIM, BLOCK_DIMS):
            dimension = begin + tl.arange(0, BLOCK_DIMS)
            within = dimension < CODE_DIM
            mean = tl.load(means + row * CODE_DIM + dimension, mask=within, other=128).to(tl.int32) - 128
            query = tl.load(values + tile[:, None] * CODE_DIM + dimension[None, :], mask=within[None, :], other=0)
            base += tl.sum(query.to(tl.int32) * mean[None, :], axis=1)
        best = tl.where(length > 0, best, 0.0)
        gains = (best + base.to(tl.float32) * mean_scale) * tl.load(query_scales + tile)
        total += tl.sum(tl.reshape(gains.to(tl.float64), [GROUP, LANES]), axis=1)
    score = tl.where(length > 0, total, float("-inf")).to(tl.float32)
    tl.store(out + (group * GROUP + tl.arange(0, GROUP)) * n_rows + position, score)
