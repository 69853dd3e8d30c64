"""Compression of token vectors to 2, 4 or 8 bits a dimension, with nothing trained or shared.

A token vector is stored relative to the mean of its passage's token vectors: contextual vectors of one passage have
much in common. The difference is turned by a fixed random rotation, after which its coordinates are close to normal
whatever the encoder, so each is rounded to the levels that are optimal for a normal variable (Max 1960; Lloyd 1982). A
scale per token makes inner products with the stored vector unbiased (RaBitQ, Gao & Long 2024, section 3.2). Since a
code depends on nothing but its passage, shards can be written anywhere and merged as they are.
"""

from __future__ import annotations

import dataclasses
from functools import cache, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Bits = Literal[2, 4, 8]
BITS: tuple[Bits, ...] = (2, 4, 8)
FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

ALIGNMENT = 16
"""Code dimensions are a multiple of this; token vectors are padded with zeros."""
OFFSET = 128
"""Levels, means and centroids are signed bytes, stored with this offset."""
LARGEST = 127
MOST_TOKENS = 65_535
"""Token vectors of one passage; its length is stored in 16 bits."""
_NORMAL_LEVELS = {
    2: (0.4528, 1.5104),
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326),
}
"""Positive levels of the optimal quantizer of a standard normal variable (Max 1960, table I)."""
_LARGEST_8 = 4.0
"""8 bits: evenly spaced levels up to this many standard deviations."""
_SCALE_STEP = 1 / 128
_UNIT = np.float32(1 / 4096)
"""Step of the coordinates that are rotated, and of the rotation's: far below the error of any code."""
_BLOCK = 65_536
"""Tokens encoded at a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class TokenCodes:
    """Compressed token vectors of n passages.

    codes: (n_tokens, code_dim * bits / 8); byte b holds in field f dimension b + f * width. scales: (n_tokens,), in
    units of the codec's `scale_table`. lengths: (n,) tokens of each passage. means: (n, code_dim) offset bytes, times
    mean_scales: (n,).
    """

    codes: Bytes
    scales: Bytes
    lengths: npt.NDArray[np.uint16]
    means: Bytes
    mean_scales: FloatArray


@dataclasses.dataclass(frozen=True, slots=True)
class QueryCodes:
    """A query's token vectors as 8-bit integers in the codec's rotated space: values (n, code_dim), scales (n,)."""

    values: npt.NDArray[np.int8]
    scales: FloatArray


@dataclasses.dataclass(frozen=True, slots=True)
class Codec:
    """Encodes token vectors of `dim` dimensions; two with equal fields are interchangeable."""

    dim: int
    bits: Bits

    @property
    def code_dim(self) -> int:
        """Dimensions after padding."""
        return -(-self.dim // ALIGNMENT) * ALIGNMENT

    @property
    def width(self) -> int:
        """Bytes of a token's code."""
        return self.code_dim * self.bits // 8

    @property
    def levels(self) -> Bytes:
        """(2 ** bits,) what a field's value stands for, with OFFSET."""
        return _levels(self.bits)

    @property
    def scale_table(self) -> FloatArray:
        """(256,) what a token's scale byte stands for."""
        return _scale_table(self.code_dim, self.bits)

    def encode(self, tokens: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64]) -> TokenCodes:
        """Compress token vectors (offsets[-1], dim); rows offsets[i]:offsets[i + 1] belong to passage i.

        A passage's codes are the same to the bit whatever is encoded with it. ValueError where a passage has more
        than `MOST_TOKENS`.
        """
        lengths = np.diff(offsets)
        if lengths.max(initial=0) > MOST_TOKENS:
            raise ValueError(f"a passage of {lengths.max()} token vectors; at most {MOST_TOKENS} can be stored")
        n_tokens = int(offsets[-1])
        codes = np.empty((n_tokens, self.width), dtype=np.uint8)
        scales = np.empty(n_tokens, dtype=np.uint8)
        means = np.full((len(lengths), self.code_dim), OFFSET, dtype=np.uint8)
        mean_scales = np.zeros(len(lengths), dtype=np.float32)
        first = 0
        while first < len(lengths):
            last = int(np.searchsorted(offsets, offsets[first] + _BLOCK, side="right")) - 1
            last = min(max(last, first + 1), len(lengths))
            start, stop = int(offsets[first]), int(offsets[last])
            rotated = self.rotate(tokens[start:stop])
            owner = np.repeat(np.arange(last - first), lengths[first:last])
            means[first:last], mean_scales[first:last] = quantize_rows(_means(rotated, lengths[first:last]))
            rotated -= dequantize_rows(means[first:last], mean_scales[first:last])[owner]
            codes[start:stop], scales[start:stop] = self._encode_differences(rotated)
            first = last
        return TokenCodes(codes, scales, lengths.astype(np.uint16), means, mean_scales)

    def encode_query(self, tokens: FloatArray) -> QueryCodes:
        """A query's token vectors (n, dim) as integers."""
        values, scales = quantize_rows(self.rotate(tokens))
        return QueryCodes((values.astype(np.int16) - OFFSET).astype(np.int8), scales)

    def decode(self, codes: TokenCodes) -> FloatArray:
        """Approximate token vectors in the rotated space, (n_tokens, code_dim)."""
        differences = self.unpack(codes.codes).astype(np.float32) - OFFSET
        differences *= self.scale_table[codes.scales][:, None]
        means = dequantize_rows(codes.means, codes.mean_scales)
        differences += np.repeat(means, codes.lengths, axis=0)
        return differences

    def unpack(self, codes: Bytes) -> Bytes:
        """Level of each dimension, with OFFSET: (n, width) -> (n, code_dim)."""
        if self.bits == 8:
            return codes
        mask = np.uint8((1 << self.bits) - 1)
        fields = [(codes >> np.uint8(shift)) & mask for shift in range(0, 8, self.bits)]
        unpacked: Bytes = self.levels[np.concatenate(fields, axis=1)]
        return unpacked

    def rotate(self, tokens: npt.NDArray[np.floating]) -> FloatArray:
        """(n, dim) -> (n, code_dim), inner products kept; multiples of `_UNIT` ** 2.

        Computed on integers that fit a float32, so that no order of summation, number of threads or processor changes
        a bit, as long as the vectors are no longer than 1.
        """
        steps = np.asarray(tokens, dtype=np.float32) / _UNIT
        rotated: FloatArray = np.rint(steps, out=steps) @ _rotation(self.code_dim)[: self.dim]
        rotated *= _UNIT**2
        return rotated

    def _encode_differences(self, rotated: FloatArray) -> tuple[Bytes, Bytes]:
        norms = np.linalg.norm(rotated, axis=1, keepdims=True)
        deviations = np.where(norms > 0, norms, 1) / np.float32(np.sqrt(self.code_dim))
        bins = rotated * (_BINS_PER_DEVIATION / deviations)
        bins += _N_BINS // 2
        np.clip(bins, 0, _N_BINS - 1, out=bins)
        fields = _fields(self.bits)[bins.astype(np.int16)]
        levels = self.levels[fields].astype(np.float32) - OFFSET
        products = np.einsum("ij,ij->i", rotated, levels)
        unbiased = norms[:, 0] ** 2 / np.maximum(products, np.finfo(np.float32).tiny)
        scales = np.rint(unbiased / self.scale_table[1]).clip(0, 255).astype(np.uint8)
        if self.bits == 8:
            return self.levels[fields], scales
        codes = np.zeros((len(fields), self.width), dtype=np.uint8)
        for number in range(8 // self.bits):
            part = fields[:, number * self.width : (number + 1) * self.width]
            codes |= part << np.uint8(number * self.bits)
        return codes, scales


def quantize_rows(rows: FloatArray) -> tuple[Bytes, FloatArray]:
    """Each row as offset bytes and a scale: (n, d) -> (n, d), (n,)."""
    largest = np.abs(rows).max(axis=1, initial=0.0, keepdims=True)
    scales = (largest / LARGEST).astype(np.float32)
    divisors = np.where(scales > 0, scales, 1)
    return (np.rint(rows / divisors) + OFFSET).astype(np.uint8), scales[:, 0]


def dequantize_rows(values: Bytes, scales: FloatArray) -> FloatArray:
    """What `quantize_rows` stored."""
    rows: FloatArray = (values.astype(np.float32) - OFFSET) * scales[:, None]
    return rows


def _means(rows: FloatArray, lengths: npt.NDArray[np.int64]) -> FloatArray:
    """Mean of consecutive rows; zeros where there are none."""
    means = np.zeros((len(lengths), rows.shape[1]), dtype=np.float32)
    filled = lengths > 0
    if filled.any():
        starts = (np.cumsum(lengths) - lengths)[filled]
        # Sums of multiples of one number are exact in 64 bits, so their order does not matter.
        means[filled] = np.add.reduceat(rows, starts, axis=0, dtype=np.float64) / lengths[filled, None]
    return means


@lru_cache(maxsize=4)
def _rotation(dim: int) -> FloatArray:
    """A fixed random orthogonal matrix (QR of a normal matrix, signs settled by R's diagonal), in units of `_UNIT`."""
    q, r = np.linalg.qr(np.random.default_rng(1).standard_normal((dim, dim)))
    rotation: FloatArray = np.rint(q * np.sign(np.diag(r)) / _UNIT).astype(np.float32)
    rotation.flags.writeable = False
    return rotation


@cache
def _deviations(bits: Bits) -> npt.NDArray[np.float64]:
    """Levels in standard deviations, rising."""
    if bits == 8:
        return np.linspace(-_LARGEST_8, _LARGEST_8, 2 * LARGEST + 1)
    positive = np.array(_NORMAL_LEVELS[bits])
    return np.concatenate([-positive[::-1], positive])


@cache
def _levels(bits: Bits) -> Bytes:
    deviations = _deviations(bits)
    levels: Bytes = (np.rint(deviations / deviations[-1] * LARGEST) + OFFSET).astype(np.uint8)
    levels.flags.writeable = False
    return levels


@lru_cache(maxsize=8)
def _scale_table(code_dim: int, bits: Bits) -> FloatArray:
    unit = _deviations(bits)[-1] / LARGEST / np.sqrt(code_dim)
    table: FloatArray = (np.arange(256) * (_SCALE_STEP * unit)).astype(np.float32)
    table.flags.writeable = False
    return table


_N_BINS = 2_048
_BINS_PER_DEVIATION = 225.0


@cache
def _fields(bits: Bits) -> Bytes:
    """(_N_BINS,) field value of the level nearest to the middle of each bin of the normal variable."""
    middles = (np.arange(_N_BINS) - _N_BINS // 2 + 0.5) / _BINS_PER_DEVIATION
    deviations = _deviations(bits)
    return np.searchsorted((deviations[1:] + deviations[:-1]) / 2, middles).astype(np.uint8)
