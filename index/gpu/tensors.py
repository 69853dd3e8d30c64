"""A shard's arrays as tensors, and the best of a list under the tie rules of search."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hiperrag.errors import UserError
from hiperrag.index.codec import OFFSET, Codec
from hiperrag.index.vectors import BLOCK_ROWS, CandidateArrays, TokenArrays

_SLAB_BYTES = 1 << 26
_INELIGIBLE = -(1 << 63)
_LAST_ROW = (1 << 31) - 1


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceTokens:
    """`TokenArrays` on a device, with the codec's tables: levels (2 ** bits,) int8, scale_table (256,) float32."""

    codec: Codec
    codes: Tensor
    scales: Tensor
    offsets: Tensor
    means: Tensor
    mean_scales: Tensor
    levels: Tensor
    scale_table: Tensor

    @classmethod
    def upload(cls, tokens: TokenArrays, device: torch.device) -> DeviceTokens:
        """Copy to the device, a slab at a time."""
        return cls(
            tokens.codec,
            upload(tokens.codes, device),
            upload(tokens.scales, device),
            upload(tokens.offsets, device),
            upload(tokens.means, device),
            upload(tokens.mean_scales, device),
            upload(tokens.codec.levels ^ np.uint8(OFFSET), device).view(torch.int8),
            upload(tokens.codec.scale_table, device),
        )

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.codes.device

    @property
    def n_passages(self) -> int:
        """Rows of the shard."""
        return len(self.mean_scales)


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceLists:
    """`CandidateArrays` on a device: centroids (n_centroids, code_dim) as exact floats, postings as int16 bits."""

    centroids: Tensor
    centroid_scales: Tensor
    starts: Tensor
    postings: Tensor

    @classmethod
    def upload(cls, lists: CandidateArrays, n_passages: int, device: torch.device) -> DeviceLists:
        """Copy to the device; UserError where a posting names no passage, for a GPU would not survive it."""
        starts = lists.starts.astype(np.int64)
        last_block = lists.postings[starts[-1, 0] :]
        if starts.max(initial=0) > len(lists.postings) or last_block.max(initial=0) >= _last_size(n_passages):
            raise UserError("damaged shard (a posting names no passage); run `hiperrag doctor COLLECTION`")
        centroids = upload(lists.centroids, device).to(exact_float(lists.centroids.shape[1])) - OFFSET
        postings = upload(lists.postings.view(np.int16), device)
        return cls(centroids, upload(lists.centroid_scales, device), upload(starts, device), postings)


def upload(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A copy of an array, which may be mapped from disk, on the device."""
    dtype = torch.from_numpy(np.empty(0, dtype=array.dtype)).dtype
    tensor = torch.empty(array.shape, dtype=dtype, device=device)
    step = max(1, _SLAB_BYTES // max(1, array.nbytes // max(1, len(array))))
    for start in range(0, len(array), step):
        tensor[start : start + step] = torch.from_numpy(np.array(array[start : start + step]))
    return tensor


def exact_float(dim: int) -> torch.dtype:
    """Products of signed bytes over `dim` dimensions add up exactly in this type, in reduced precision (TF32) too."""
    return torch.float32 if dim * 128 * 128 < 1 << 24 else torch.float64


def best(values: Tensor, n: int, rows: Tensor | None = None, eligible: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The n highest of each line of values (lines, m): columns (lines, <= n), best first, and how many of them count.

    Among equals the lowest `rows` (lines, m) come first, by default the columns. eligible: (lines, m) or (m,) bool,
    False leaves one out. The counts are (lines,).
    """
    bits = (values + 0.0).view(torch.int32)  # -0.0 equals 0.0
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    ties = torch.arange(values.shape[1], device=values.device) if rows is None else rows
    keys = (rising.to(torch.int64) << 32) + (_LAST_ROW - ties)
    if eligible is not None:
        keys.masked_fill_(~eligible, _INELIGIBLE)
    top = keys.topk(min(n, values.shape[1]), dim=1)
    return top.indices, (top.values != _INELIGIBLE).sum(dim=1)


def _last_size(n_passages: int) -> int:
    return (n_passages - 1) % BLOCK_ROWS + 1


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 matrices in float32, whatever precision the encoder chose (TF32 has 11 bits)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
