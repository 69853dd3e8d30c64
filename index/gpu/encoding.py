"""`Codec.encode` on a device.

The rotation and the means are exact on both, as in `codec`; the norms are sums of float32 in another order, so a code
differs from the CPU's only where that moves a coordinate over the boundary between two levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hiperrag.index import codec as reference
from hiperrag.index.codec import LARGEST, OFFSET, Codec, TokenCodes
from hiperrag.index.gpu.tensors import full_precision, upload

_BLOCK_VALUES = 1 << 26
"""Coordinates encoded at a time."""


def encode(
    codec: Codec, tokens: npt.NDArray[np.floating[Any]], offsets: npt.NDArray[np.int64], device: torch.device
) -> TokenCodes:
    """See `Codec.encode`."""
    lengths = np.diff(offsets)
    if lengths.max(initial=0) > reference.MOST_TOKENS:
        raise ValueError(f"a passage of {lengths.max()} token vectors; at most {reference.MOST_TOKENS} can be stored")
    n_tokens = int(offsets[-1])
    codes = np.empty((n_tokens, codec.width), dtype=np.uint8)
    scales = np.empty(n_tokens, dtype=np.uint8)
    means = np.empty((len(lengths), codec.code_dim), dtype=np.uint8)
    mean_scales = np.empty(len(lengths), dtype=np.float32)
    first = 0
    while first < len(lengths):
        last = int(np.searchsorted(offsets, offsets[first] + _BLOCK_VALUES // codec.code_dim, side="right")) - 1
        last = min(max(last, first + 1), len(lengths))
        part = slice(int(offsets[first]), int(offsets[last]))
        block = _encode_block(codec, upload(tokens[part], device), upload(lengths[first:last], device))
        codes[part], scales[part], means[first:last], mean_scales[first:last] = (out.cpu().numpy() for out in block)
        first = last
    return TokenCodes(codes, scales, lengths.astype(np.uint16), means, mean_scales)


def _encode_block(codec: Codec, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rotated = _rotate(codec, tokens)
    owners = torch.repeat_interleave(torch.arange(len(lengths), device=tokens.device), lengths)
    # Sums of multiples of one number are exact in 64 bits, so their order does not matter.
    sums = torch.zeros((len(lengths), codec.code_dim), dtype=torch.float64, device=tokens.device)
    sums.index_add_(0, owners, rotated.double())
    means, mean_scales = quantize_rows((sums / lengths.clamp(min=1)[:, None]).float())
    rotated -= ((means.float() - OFFSET) * mean_scales[:, None])[owners]
    return *_encode_differences(codec, rotated), means, mean_scales


def _rotate(codec: Codec, tokens: Tensor) -> Tensor:
    unit = float(reference._UNIT)
    rotation = upload(reference._rotation(codec.code_dim)[: codec.dim], tokens.device)
    with full_precision():
        return ((tokens.float() / unit).round_() @ rotation).mul_(unit**2)


def _encode_differences(codec: Codec, rotated: Tensor) -> tuple[Tensor, Tensor]:
    norms = rotated.square().sum(dim=1).sqrt()
    deviations = torch.where(norms > 0, norms, 1) / float(np.float32(np.sqrt(codec.code_dim)))
    bins = rotated * (reference._BINS_PER_DEVIATION / deviations)[:, None]
    bins = (bins + reference._N_BINS // 2).clamp_(0, reference._N_BINS - 1).int()
    fields = upload(reference._fields(codec.bits), rotated.device)[bins]
    table = upload(codec.levels, rotated.device)
    levels = table[fields.int()]
    products = (rotated * (levels.float() - OFFSET)).sum(dim=1)
    unbiased = norms.square() / products.clamp(min=float(np.finfo(np.float32).tiny))
    scales = (unbiased / float(codec.scale_table[1])).round().clamp(0, 255).to(torch.uint8)
    if codec.bits == 8:
        return levels, scales
    codes = torch.zeros((len(fields), codec.width), dtype=torch.uint8, device=rotated.device)
    for number in range(8 // codec.bits):
        codes |= fields[:, number * codec.width : (number + 1) * codec.width] << (number * codec.bits)
    return codes, scales


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """See `codec.quantize_rows`."""
    scales = rows.abs().amax(dim=1) / LARGEST
    values = (rows / torch.where(scales > 0, scales, 1)[:, None]).round() + OFFSET
    return values.to(torch.uint8), scales
