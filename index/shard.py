"""A shard: the vectors of a bounded number of passages, in plain storage.

Files of a shard's folder:
  pooled.faiss   IndexFlatIP over pooled vectors, one row per passage
  tokens.npy     (n_tokens, dim) float16 token vectors of all passages, one after the other
  offsets.npy    (n_passages + 1,) int64; rows offsets[i]:offsets[i + 1] of tokens.npy belong to passage i
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hiperrag.errors import UserError
from hiperrag.files import atomic_directory, sha256_file

VERSION = 1
"""Changes when the same vectors would be stored differently."""

FILES = ("pooled.faiss", "tokens.npy", "offsets.npy")
FloatArray = npt.NDArray[np.float32]


class Vectors(NamedTuple):
    """Vectors of n passages: tokens (offsets[-1], dim), offsets (n + 1,), pooled (n, pooled_dim), truncated (n,)."""

    tokens: npt.NDArray[np.float16]
    offsets: npt.NDArray[np.int64]
    pooled: FloatArray
    truncated: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class PartVectors:
    """The vectors of one encoded part, waiting for their shard: a folder of .npy files, memory-mapped."""

    folder: Path

    def write(
        self,
        tokens: FloatArray,
        offsets: npt.NDArray[np.int64],
        pooled: FloatArray,
        truncated: npt.NDArray[np.bool_],
    ) -> None:
        """Store the vectors; tokens are kept as float16."""
        with atomic_directory(self.folder) as temporary:
            for name, array in Vectors(tokens.astype(np.float16), offsets, pooled, truncated)._asdict().items():
                np.save(temporary / f"{name}.npy", array)

    def read(self) -> Vectors:
        """Open the vectors without reading them whole."""
        return Vectors(*(np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in Vectors._fields))


def write_shard(folder: Path, parts: Sequence[PartVectors]) -> dict[str, str]:
    """Build a shard from encoded parts without reading them whole; return the SHA-256 of each of its files."""
    import faiss

    vectors = [part.read() for part in parts]
    n_tokens = sum(len(part.tokens) for part in vectors)
    dim, pooled_dim = vectors[0].tokens.shape[1], vectors[0].pooled.shape[1]
    index = faiss.IndexFlatIP(pooled_dim)
    all_offsets = [np.zeros(1, dtype=np.int64)]
    with atomic_directory(folder) as temporary:
        stored = np.lib.format.open_memmap(temporary / "tokens.npy", mode="w+", dtype=np.float16, shape=(n_tokens, dim))
        start = 0
        for part in vectors:
            stored[start : start + len(part.tokens)] = part.tokens
            all_offsets.append(part.offsets[1:] + start)
            index.add(np.ascontiguousarray(part.pooled, dtype=np.float32))
            start += len(part.tokens)
        stored.flush()
        del stored
        np.save(temporary / "offsets.npy", np.concatenate(all_offsets))
        faiss.write_index(index, str(temporary / "pooled.faiss"))
        return {name: sha256_file(temporary / name) for name in FILES}


class Shard:
    """A shard opened for reading; token vectors stay on disk and are paged in as they are needed."""

    def __init__(self, folder: Path) -> None:
        import faiss

        try:
            self.tokens: npt.NDArray[np.float16] = np.load(folder / "tokens.npy", mmap_mode="r")
            self.offsets: npt.NDArray[np.int64] = np.load(folder / "offsets.npy")
            self.pooled = faiss.read_index(str(folder / "pooled.faiss"), faiss.IO_FLAG_MMAP)
        except (OSError, ValueError, RuntimeError, EOFError) as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"{folder}: damaged shard ({reason}); run `hiperrag doctor COLLECTION`") from None
        self.n_passages: int = self.pooled.ntotal
        if (
            len(self.offsets) != self.n_passages + 1
            or self.offsets[-1] != len(self.tokens)
            or np.any(np.diff(self.offsets) < 0)
        ):
            raise UserError(f"{folder}: damaged shard (its files disagree); run `hiperrag doctor COLLECTION`")

    def candidates(self, pooled: FloatArray, k: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """The k nearest passages of each query by pooled cosine.

        pooled: (n_queries, pooled_dim). Returns scores and rows, both (n_queries, min(k, n_passages)).
        """
        scores, rows = self.pooled.search(np.ascontiguousarray(pooled), min(k, self.n_passages))
        return scores, rows

    def maxsim(self, query: FloatArray, rows: npt.NDArray[np.int64]) -> FloatArray:
        """MaxSim of one query's token vectors (n_query_tokens, dim) with the passages at `rows`, in that order."""
        starts, ends = self.offsets[rows], self.offsets[rows + 1]
        if not len(rows):
            return np.zeros(0, dtype=np.float32)
        tokens = np.concatenate([self.tokens[a:b] for a, b in zip(starts, ends, strict=True)])
        best: FloatArray = _best_cosines(query, tokens.astype(np.float32), ends - starts).sum(axis=1)
        return best

    def maxsim_all(self, queries: Sequence[FloatArray], block_tokens: int = 8_192) -> FloatArray:
        """MaxSim of each query with every passage of the shard: brute force, in blocks of bounded size.

        queries: token vectors (n_query_tokens, dim) of each query. Returns (n_queries, n_passages).
        """
        scores = np.empty((len(queries), self.n_passages), dtype=np.float32)
        joined = np.concatenate(queries)
        starts = np.cumsum([0, *(len(query) for query in queries[:-1])])
        first = 0
        while first < self.n_passages:
            last = int(np.searchsorted(self.offsets, self.offsets[first] + block_tokens, side="right")) - 1
            last = min(max(last, first + 1), self.n_passages)
            block = self.tokens[self.offsets[first] : self.offsets[last]].astype(np.float32)
            best = _best_cosines(joined, block, np.diff(self.offsets[first : last + 1]))
            scores[:, first:last] = np.add.reduceat(best, starts, axis=1).T
            first = last
        return scores


def _best_cosines(query: FloatArray, tokens: FloatArray, lengths: npt.NDArray[np.int64]) -> FloatArray:
    """The best cosine of each query token with each passage's tokens.

    query: (q, dim); tokens: (sum(lengths), dim), passage after passage. Returns (n_passages, q); -inf for a
    passage without tokens.
    """
    best = np.full((len(lengths), len(query)), -np.inf, dtype=np.float32)
    filled = lengths > 0
    if filled.any():
        starts = (np.cumsum(lengths) - lengths)[filled]
        best[filled] = np.maximum.reduceat(tokens @ query.T, starts, axis=0)
    return best
