"""A shard on a device: what `Shard` asks of the kernels, and the same for many queries at once."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hiperrag.errors import UserError
from hiperrag.index.codec import FloatArray, QueryCodes
from hiperrag.index.gpu import candidates, maxsim
from hiperrag.index.gpu.maxsim import PackedQueries
from hiperrag.index.gpu.tensors import DeviceLists, DeviceTokens, best, full_precision, upload
from hiperrag.index.kernels import Effort
from hiperrag.index.vectors import CandidateArrays, TokenArrays

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

WORKSPACE_BYTES = 1 << 30
"""What a search may take beside the shards; batches of queries are cut to it."""
_BYTES_PER_CANDIDATE = 64
_BYTES_PER_SCORE = 40
_LARGEST_FAISS_K = 1_024
_FAISS_BYTES = 1 << 26
_Query = TypeVar("_Query")


def bytes_needed(tokens: TokenArrays, lists: CandidateArrays) -> int:
    """Device memory that a shard takes."""
    arrays = (
        *(tokens.codes, tokens.scales, tokens.offsets, tokens.means, tokens.mean_scales),
        *(lists.centroid_scales, lists.starts, lists.postings),
    )
    return sum(array.nbytes for array in arrays) + 8 * lists.centroids.size


def room(device: torch.device) -> int:
    """Device memory left for shards, in bytes."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) - WORKSPACE_BYTES


class DeviceShard:
    """A shard's vectors and lists on a device; results are those of `kernels`, to rounding.

    One search at a time has the device, so that the memory it takes is bounded.
    """

    def __init__(self, tokens: TokenArrays, lists: CandidateArrays, device: torch.device) -> None:
        self.tokens = DeviceTokens.upload(tokens, device)
        self.lists = DeviceLists.upload(lists, len(tokens.mean_scales), device)
        self.device = device
        self._lock = _LOCKS[device]
        self._mask: tuple[Mask | None, Tensor | None] = (None, None)
        self._pooled: Tensor | None = None

    def maxsim(self, queries: Sequence[QueryCodes], rows: Rows | range) -> FloatArray:
        """See `kernels.maxsim`."""
        out = np.empty((len(queries), len(rows)), dtype=np.float32)
        with self._alone():
            chosen = self._rows(rows)
            for part in self._packed(queries, _BYTES_PER_SCORE * len(rows)):
                out[part.numbers] = maxsim.to_numpy(maxsim.maxsim(self.tokens, part, chosen))
        return out

    def maxsim_of_each(self, queries: Sequence[QueryCodes], rows: Sequence[Rows]) -> list[FloatArray]:
        """MaxSim of each query with the passages of its own list."""
        lengths = np.array([len(listed) for listed in rows])
        padded = np.zeros((len(rows), lengths.max(initial=0)), dtype=np.int64)
        for number, listed in enumerate(rows):
            padded[number, : len(listed)] = listed
        out = np.empty(padded.shape, dtype=np.float32)
        with self._alone():
            for part in self._packed(queries, _BYTES_PER_SCORE * padded.shape[1]):
                chosen = torch.from_numpy(padded[part.numbers]).to(self.device)
                out[part.numbers] = maxsim.to_numpy(maxsim.maxsim(self.tokens, part, chosen))
        return [out[number, :length] for number, length in enumerate(lengths)]

    def best(self, queries: Sequence[QueryCodes], k: int, allowed: Mask | None) -> list[tuple[Rows, FloatArray]]:
        """For each query the k passages of all with the highest MaxSim, best first, and their scores.

        Equal scores come in row order; passages without tokens are left out.
        """
        found: list[tuple[Rows, FloatArray]] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        with self._alone():
            eligible = self.tokens.offsets[1:] > self.tokens.offsets[:-1]
            if allowed is not None:
                eligible &= self._on_device(allowed)
            for part in self._packed(queries, _BYTES_PER_SCORE * self.tokens.n_passages):
                scores = maxsim.maxsim(self.tokens, part, None)
                columns, counts = best(scores, k, eligible=eligible)
                values = maxsim.to_numpy(scores.gather(1, columns))
                for number, rows, line, n in zip(
                    part.numbers, columns.cpu().numpy(), values, counts.tolist(), strict=True
                ):
                    found[number] = rows[:n], line[:n]
        return found

    def candidates(
        self, queries: Sequence[QueryCodes], allowed: Mask | None, effort: Effort, unlisted: bool = False
    ) -> list[tuple[Rows, FloatArray]]:
        """For each query what `kernels.candidates` gives."""
        found = []
        with self._alone():
            mask = None if allowed is None else self._on_device(allowed)
            for some in _batches(queries, _BYTES_PER_CANDIDATE * self.tokens.n_passages):
                found += candidates.candidates(self.tokens, self.lists, some, mask, effort, unlisted)
        return found

    def pooled_fits(self, pooled_dim: int) -> bool:
        """Whether pooled vectors are on the device or have room there."""
        return self._pooled is not None or room(self.device) >= 4 * self.tokens.n_passages * pooled_dim

    def search_pooled(
        self, vectors: Callable[[], FloatArray], pooled: FloatArray, k: int, allowed: Mask | None
    ) -> tuple[FloatArray, Rows]:
        """The k passages nearest to a query (pooled_dim,) by pooled cosine: scores and rows, best first.

        vectors: gives the shard's pooled vectors (n_passages, pooled_dim), which are loaded when first needed.
        """
        with self._alone():
            if self._pooled is None:
                self._pooled = upload(vectors(), self.device)
            query = torch.from_numpy(np.ascontiguousarray(pooled[None], dtype=np.float32)).to(self.device)
            if allowed is None and k <= _LARGEST_FAISS_K and _faiss_on(self.device):
                scores, rows = _search_by_faiss(query, self._pooled, min(k, len(self._pooled)))
                order = np.lexsort((rows, -scores))
                return scores[order], rows[order]
            with full_precision():
                cosines = query @ self._pooled.T
            columns, counts = best(cosines, k, eligible=None if allowed is None else self._on_device(allowed))
            n = int(counts[0])
            return cosines.gather(1, columns)[0, :n].cpu().numpy(), columns[0, :n].cpu().numpy()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except torch.OutOfMemoryError:
                raise UserError(f"{self.device}: its memory is full; make room or set HIPERRAG_DEVICE=cpu") from None

    def _rows(self, rows: Rows | range) -> Tensor | None:
        if isinstance(rows, range):
            if rows == range(self.tokens.n_passages):
                return None
            return torch.arange(rows.start, rows.stop, device=self.device)
        return torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)).to(self.device)

    def _packed(self, queries: Sequence[QueryCodes], bytes_per_query: int) -> Iterator[PackedQueries]:
        for part in maxsim.pack(queries, self.device):
            for numbers in _batches(range(len(part.numbers)), bytes_per_query):
                some = slice(numbers[0], numbers[-1] + 1)
                yield PackedQueries(part.numbers[some], part.values[some], part.scales[some])

    def _on_device(self, mask: Mask) -> Tensor:
        """The mask on the device; the last one is kept, for queries of one search share it."""
        kept, tensor = self._mask
        if kept is not mask or tensor is None:
            tensor = torch.from_numpy(np.array(mask)).to(self.device)
            self._mask = mask, tensor
        return tensor


def _batches(items: Sequence[_Query], bytes_per_item: int) -> Iterator[Sequence[_Query]]:
    step = max(1, WORKSPACE_BYTES // max(1, bytes_per_item))
    for start in range(0, len(items), step):
        yield items[start : start + step]


_LOCKS: defaultdict[torch.device, threading.Lock] = defaultdict(threading.Lock)
_FAISS_RESOURCES: dict[torch.device, Any] = {}


@cache
def _faiss_on(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    import faiss

    return bool(getattr(faiss, "get_num_gpus", int)())


def _search_by_faiss(query: Tensor, vectors: Tensor, k: int) -> tuple[FloatArray, Rows]:
    """Brute force by faiss-gpu on tensors where they lie."""
    import faiss
    import faiss.contrib.torch_utils  # teaches faiss.knn_gpu tensors

    resources = _FAISS_RESOURCES.get(query.device)
    if resources is None:
        resources = _FAISS_RESOURCES[query.device] = faiss.StandardGpuResources()
        resources.setTempMemory(_FAISS_BYTES)  # the default is a gigabyte and a half
    scores, rows = faiss.knn_gpu(
        resources, query, vectors, k, metric=faiss.METRIC_INNER_PRODUCT, device=query.device.index
    )
    return scores[0].cpu().numpy(), rows[0].cpu().numpy()
