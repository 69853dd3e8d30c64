"""A shard: a bounded number of passages with their compressed token vectors, pooled vectors, lists and text.

Files of a shard's folder (arrays are .npy):
  shard.json                         what the folder holds, with a checksum of each file but passages.jsonl and the
                                     first three of the next, and one of itself
  codes scales means                 token vectors, as in `codec.TokenCodes`; `checks` has a checksum per passage
  lengths mean_scales                the same, small
  centroids centroid_scales starts postings    candidate lists, as in `vectors.CandidateArrays`
  pooled.faiss                       pooled vectors, 8 bits a dimension (absent where the encoder gives none)
  passages.jsonl rows.npy columns.parquet    the passages, as in `passages.py`
  lexical_*.npy                      the words of the passages, as in `lexical.py`

Everything is mapped when the shard is opened, and checked before it is used: small arrays at once, pooled vectors and
words when they are first asked for, a passage's vectors and text when they are first read.
"""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hiperrag.errors import UserError
from hiperrag.index import kernels
from hiperrag.index.codec import BITS, Codec, FloatArray, QueryCodes
from hiperrag.index.kernels import Effort
from hiperrag.index.lexical import FILES, Lexical
from hiperrag.index.passages import COLUMNS, ROWS, PassageStore
from hiperrag.index.storage import Files, damaged, first_line, open_array, read_description
from hiperrag.index.vectors import BLOCK_ROWS, CandidateArrays, TokenArrays

if TYPE_CHECKING:
    from hiperrag.index.gpu.shard import DeviceShard

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
POOLED = "pooled.faiss"
ARRAYS = (
    *("codes", "scales", "means", "checks", "lengths", "mean_scales"),
    *("centroids", "centroid_scales", "starts", "postings"),
)


class Shard:
    """A shard opened for reading. Vectors and text stay on disk and are paged in as they are needed.

    `deleted`: (n_passages,) bool, passages that count as gone, or None. `on_device`: the vectors on a GPU, where
    `gpu.accelerate` put them, and None elsewhere.
    """

    on_device: DeviceShard | None = None

    def __init__(self, folder: Path, deleted: Mask | None = None) -> None:
        _allow_many_files()
        self.folder = folder
        self.description = described = read_description(folder)
        if set(ARRAYS) - set(described.arrays) or described.bits not in BITS:
            raise damaged(folder, "its description lacks arrays")
        arrays = {name: open_array(folder, name, described.arrays[name]) for name in ARRAYS}
        self.codec = Codec(described.dim, next(bits for bits in BITS if bits == described.bits))
        offsets = np.concatenate([[0], np.cumsum(arrays["lengths"], dtype=np.int64)])
        self.tokens = TokenArrays(
            self.codec, arrays["codes"], arrays["scales"], offsets, arrays["means"], arrays["mean_scales"]
        )
        self.lists = CandidateArrays(
            arrays["centroids"], arrays["centroid_scales"], arrays["starts"], arrays["postings"]
        )
        self._checks: npt.NDArray[np.uint32] = arrays["checks"]
        self._checked = np.zeros(described.n_passages, dtype=bool)
        self._check_shapes()
        self.deleted = deleted
        self._files = Files(folder, described)
        self._files.check([ROWS, COLUMNS])
        # Open from the start, so that the shard stays readable when its files are replaced.
        self._passages = PassageStore(folder, described.n_passages) if described.has_text else None
        self._lexical = self._open_lexical() if described.has_text else None
        self._pooled_bytes = self._map_pooled() if described.pooled_dim else None

    @property
    def n_passages(self) -> int:
        """Rows of the shard, deleted ones included."""
        return self.description.n_passages

    @property
    def passages(self) -> PassageStore:
        """The passages themselves; UserError in an index of vectors alone."""
        if self._passages is None:
            raise UserError(f"{self.folder}: holds vectors without their passages")
        return self._passages

    @property
    def lexical(self) -> Lexical:
        """The words of the passages; UserError in an index of vectors alone."""
        if self._lexical is None:
            raise UserError(f"{self.folder}: holds vectors without their passages")
        self._files.check(FILES)
        return self._lexical

    def _open_lexical(self) -> Lexical:
        lexical = Lexical(self.folder)
        if lexical.n_passages != self.n_passages:
            raise damaged(self.folder, "its words disagree with its vectors")
        return lexical

    def _map_pooled(self) -> npt.NDArray[np.uint8]:
        path = self.folder / POOLED
        try:
            return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
        except (OSError, ValueError) as error:
            raise damaged(path, first_line(error)) from None

    def _check_shapes(self) -> None:
        described, tokens, lists = self.description, self.tokens, self.lists
        n, n_tokens, dim = described.n_passages, described.n_tokens, self.codec.code_dim
        n_blocks, n_centroids = -(-n // BLOCK_ROWS), len(lists.centroids)
        expected: list[tuple[npt.NDArray[Any], type[np.generic], tuple[int, ...]]] = [
            (tokens.codes, np.uint8, (n_tokens, self.codec.width)),
            (tokens.scales, np.uint8, (n_tokens,)),
            (tokens.means, np.uint8, (n, dim)),
            (tokens.mean_scales, np.float32, (n,)),
            (self._checks, np.uint32, (n,)),
            (lists.centroids, np.uint8, (n_centroids, dim)),
            (lists.centroid_scales, np.float32, (n_centroids,)),
            (lists.starts, np.uint64, (n_blocks, n_centroids + 1)),
            (lists.postings, np.uint16, (len(lists.postings),)),
        ]
        sound = all(array.dtype == dtype and array.shape == shape for array, dtype, shape in expected)
        if not (
            sound
            and n > 0
            and len(tokens.offsets) == n + 1
            and tokens.offsets[-1] == n_tokens
            and n_centroids > 0
            and n_centroids % kernels.CENTROID_BLOCK == 0
            and np.all(lists.starts[:, 1:] >= lists.starts[:, :-1])
            and lists.starts[-1, -1] == len(lists.postings)
        ):
            raise damaged(self.folder, "its arrays disagree")

    def allowed(self, mask: Mask | None) -> Mask | None:
        """`mask` without the deleted passages; None when all passages may be found."""
        if self.deleted is None:
            return mask
        return ~self.deleted if mask is None else mask & ~self.deleted

    def candidates(self, query: QueryCodes, allowed: Mask | None, effort: Effort) -> tuple[Rows, FloatArray]:
        """The passages with the highest estimates of MaxSim: `effort.n`, or all that are allowed if those are fewer.

        See `kernels.candidates`.
        """
        return self.candidates_of_each([query], allowed, effort)[0]

    def candidates_of_each(
        self, queries: Sequence[QueryCodes], allowed: Mask | None, effort: Effort
    ) -> list[tuple[Rows, FloatArray]]:
        """`candidates` of each query."""
        n_allowed = self.n_passages if allowed is None else int(np.count_nonzero(allowed))
        if n_allowed <= effort.n_first:
            return self._estimate(queries, allowed, effort, unlisted=True)
        found = self._estimate(queries, allowed, effort, unlisted=False)
        few = [number for number, (rows, _) in enumerate(found) if len(rows) < effort.n]
        if few:
            again = self._estimate([queries[number] for number in few], allowed, effort, unlisted=True)
            for number, complete in zip(few, again, strict=True):
                found[number] = complete
        return found

    def _estimate(
        self, queries: Sequence[QueryCodes], allowed: Mask | None, effort: Effort, unlisted: bool
    ) -> list[tuple[Rows, FloatArray]]:
        if self.on_device:
            return self.on_device.candidates(queries, allowed, effort, unlisted)
        return [kernels.candidates(self.tokens, self.lists, query, allowed, effort, unlisted) for query in queries]

    def maxsim(self, queries: Sequence[QueryCodes], rows: Rows | range) -> FloatArray:
        """MaxSim of each query with the passages at `rows`, (n_queries, n_rows); UserError if one is damaged."""
        if self.on_device:
            return self.on_device.maxsim(queries, rows)
        self.check(rows)
        return kernels.maxsim(self.tokens, queries, rows)

    def maxsim_of_each(self, queries: Sequence[QueryCodes], rows: Sequence[Rows]) -> list[FloatArray]:
        """MaxSim of each query with the passages of its own list; UserError if one is damaged."""
        if self.on_device:
            return self.on_device.maxsim_of_each(queries, rows)
        return [self.maxsim([query], listed)[0] for query, listed in zip(queries, rows, strict=True)]

    def best(self, queries: Sequence[QueryCodes], k: int, allowed: Mask | None) -> list[tuple[Rows, FloatArray]]:
        """For each query the k of all allowed passages with the highest MaxSim, best first; for shards on a GPU."""
        assert self.on_device
        return self.on_device.best(queries, k, allowed)

    def check(self, rows: Rows | range) -> None:
        """Compare the vectors of passages not read before with their checksums; UserError if one is damaged."""
        chosen = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        unchecked = np.flatnonzero(~self._checked[chosen])
        if not len(unchecked):
            return
        fresh = unchecked + rows.start if isinstance(rows, range) else rows[unchecked]
        wrong = kernels.passage_checksums(self.tokens, fresh) != self._checks[fresh]
        if wrong.any():
            raise damaged(self.folder, f"the vectors of passage {fresh[np.argmax(wrong)]} have a wrong checksum")
        self._checked[fresh] = True

    @cached_property
    def _pooled(self) -> Any:
        import faiss

        path = self.folder / POOLED
        if self._pooled_bytes is None:
            raise UserError(f"{self.folder}: holds no pooled vectors")
        self._files.check([POOLED])
        library: Any = faiss  # its stubs do not know this reader
        reader = library.ZeroCopyIOReader(library.swig_ptr(self._pooled_bytes), len(self._pooled_bytes))
        try:
            index = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise damaged(path, first_line(error)) from None
        if (index.ntotal, index.d) != (self.n_passages, self.description.pooled_dim):
            raise damaged(path, "it disagrees with the shard")
        return index

    def search_pooled(self, pooled: FloatArray, k: int, allowed: Mask | None) -> tuple[FloatArray, Rows]:
        """The k nearest passages of a query by pooled cosine: scores and rows; fewer where fewer are allowed.

        pooled: (pooled_dim,).
        """
        if self.on_device and self.on_device.pooled_fits(self.description.pooled_dim):
            return self.on_device.search_pooled(self.pooled_vectors, pooled, k, allowed)
        import faiss

        with _FAISS_LOCK:
            index = self._pooled
        parameters = None
        if allowed is not None:
            selector = faiss.IDSelectorBatch(np.flatnonzero(allowed))
            parameters = faiss.SearchParameters()
            parameters.sel = selector
        scores, rows = index.search(np.ascontiguousarray(pooled[None]), min(k, self.n_passages), params=parameters)
        found = rows[0] >= 0
        return scores[0][found], rows[0][found]

    def pooled_vectors(self) -> FloatArray:
        """(n_passages, pooled_dim), as stored."""
        vectors: FloatArray = self._pooled.reconstruct_n(0, self.n_passages)
        return vectors


_FAISS_LOCK = threading.Lock()


def _allow_many_files() -> None:
    """Raise the process's limit of open files as far as it may: Python keeps a descriptor for each mapped file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # some systems refuse what they call unlimited
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_shards(folders: Sequence[Path], deleted: Sequence[Mask | None] | None = None) -> list[Shard]:
    """Shards of one kind with their deleted passages; UserError when their vectors cannot be compared."""
    shards = [Shard(folder, mask) for folder, mask in zip(folders, deleted or [None] * len(folders), strict=True)]
    if len({shard.codec.dim for shard in shards}) > 1:
        raise UserError(f"{folders[0].parent}: shards of different encoders; index again")
    return shards
