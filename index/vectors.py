"""The arrays that kernels work on."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from hiperrag.index.codec import Bytes, Codec, FloatArray

BLOCK_ROWS = 65_536
"""Passages that share a block of postings, so that a posting is 16 bits."""


@dataclasses.dataclass(frozen=True, slots=True)
class TokenArrays:
    """Compressed token vectors of a shard, as in `codec.TokenCodes`; offsets: (n_passages + 1,)."""

    codec: Codec
    codes: Bytes
    scales: Bytes
    offsets: npt.NDArray[np.int64]
    means: Bytes
    mean_scales: FloatArray


@dataclasses.dataclass(frozen=True, slots=True)
class CandidateArrays:
    """Which passages have a token near which centroid.

    centroids: (n_centroids, code_dim) offset bytes, times centroid_scales: (n_centroids,). starts: (n_blocks,
    n_centroids + 1): passages of block b near centroid c are postings[starts[b, c]:starts[b, c + 1]], as rows within
    the block.
    """

    centroids: Bytes
    centroid_scales: FloatArray
    starts: npt.NDArray[np.uint64]
    postings: npt.NDArray[np.uint16]
