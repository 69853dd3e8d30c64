"""The compressed vectors of one encoded part, waiting for their shard."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hiperrag.files import atomic_directory
from hiperrag.index.build import Piece
from hiperrag.index.codec import Bits, Codec, TokenCodes

_NAMES = (*(field.name for field in dataclasses.fields(TokenCodes)), "pooled", "truncated")


@dataclasses.dataclass(frozen=True, slots=True)
class PartVectors:
    """A folder of .npy files: the arrays of `codec.TokenCodes`, pooled vectors, and which texts were truncated."""

    folder: Path

    def write(self, piece: Piece, truncated: npt.NDArray[np.bool_]) -> None:
        """Store a piece; its pooled vectors are kept as float16."""
        assert piece.pooled is not None, "encoders give pooled vectors"
        arrays = {field.name: getattr(piece.codes, field.name) for field in dataclasses.fields(TokenCodes)}
        arrays |= {"pooled": piece.pooled.astype(np.float16), "truncated": truncated}
        with atomic_directory(self.folder) as temporary:
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array)

    def read(self, dim: int, bits: Bits) -> Piece:
        """The piece, its arrays memory-mapped."""
        arrays = {name: np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in _NAMES[:-1]}
        pooled = arrays.pop("pooled")
        return Piece(Codec(dim, bits), TokenCodes(**arrays), pooled)

    def counts(self) -> tuple[int, int, int]:
        """Passages, token vectors, truncated passages."""
        truncated = np.load(self.folder / "truncated.npy")
        n_tokens = np.load(self.folder / "scales.npy", mmap_mode="r").shape[0]
        return len(truncated), n_tokens, int(np.count_nonzero(truncated))
