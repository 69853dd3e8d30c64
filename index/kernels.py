"""The inner loops of search: compiled (`_kernels.c`, through ctypes) or, failing that, in NumPy.

Both give the same results to the bit. `HIPERRAG_KERNELS` picks one: vnni, avx2, portable or numpy; the default is the
best that the processor has.
"""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.machinery
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hiperrag.errors import UserError
from hiperrag.index import fallback
from hiperrag.index.codec import FloatArray, QueryCodes
from hiperrag.index.vectors import CandidateArrays, TokenArrays

Rows = npt.NDArray[np.int64]
NAMES = ("portable", "avx2", "vnni")
VARIABLE = "HIPERRAG_KERNELS"
CENTROID_BLOCK = 8
"""Centroids come in multiples of this."""
_OUT_OF_MEMORY, _OUT_OF_RANGE = -1, -2


@dataclasses.dataclass(frozen=True, slots=True)
class Effort:
    """How hard to look for candidates.

    `n` passages are kept by their estimate of MaxSim, out of the `n_first` best by centroids alone; each query token
    probes `n_probe` centroids; `mean_weight` is the weight of the passage's mean in the estimate.
    """

    n: int
    n_first: int
    n_probe: int
    mean_weight: float


@cache
def _library() -> Any | None:
    """The compiled kernels, or None where they could not be built."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernels{suffix}")
        if path.is_file():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:  # built for another machine
                continue
            library.hr_candidates.restype = ctypes.c_int64
            library.hr_checksum.restype = ctypes.c_uint64
            return library
    return None


@cache
def kernel() -> str:
    """Name of the kernels in use."""
    library, wanted = _library(), os.environ.get(VARIABLE, "")
    best = NAMES[library.hr_best_path()] if library else "numpy"
    if not wanted:
        return best
    possible = ("numpy", *NAMES[: NAMES.index(best) + 1]) if library else ("numpy",)
    if wanted not in possible:
        raise UserError(f"{VARIABLE}={wanted}: not possible here; choose one of {', '.join(possible)}")
    return wanted


def maxsim(tokens: TokenArrays, queries: Sequence[QueryCodes], rows: Rows | range) -> FloatArray:
    """MaxSim of each query with the passages at `rows`, from their codes: (n_queries, n_rows).

    -inf for a passage without tokens. Each passage is decoded once for all queries.
    """
    if not queries:
        return np.empty((0, len(rows)), dtype=np.float32)
    if kernel() == "numpy":
        return fallback.maxsim(tokens, queries, np.asarray(rows, dtype=np.int64))
    out = np.empty((len(queries), len(rows)), dtype=np.float32)
    values = np.ascontiguousarray(np.concatenate([query.values for query in queries]))
    scales = np.ascontiguousarray(np.concatenate([query.scales for query in queries]))
    bounds = np.cumsum([0, *(len(query.values) for query in queries)], dtype=np.int64)
    codec = tokens.codec
    status = _call(
        "hr_maxsim",
        ctypes.c_int(NAMES.index(kernel())),
        ctypes.c_int(codec.code_dim),
        ctypes.c_int(codec.bits),
        codec.levels,
        tokens.codes,
        tokens.scales,
        codec.scale_table,
        tokens.offsets,
        tokens.means,
        tokens.mean_scales,
        values,
        scales,
        bounds,
        ctypes.c_int64(len(queries)),
        *_rows(rows),
        out,
    )
    if status == _OUT_OF_MEMORY:
        raise MemoryError
    return out


def candidates(
    tokens: TokenArrays,
    lists: CandidateArrays,
    query: QueryCodes,
    allowed: npt.NDArray[np.bool_] | None,
    effort: Effort,
    unlisted: bool = False,
) -> tuple[Rows, FloatArray]:
    """The passages of a shard with the highest estimate of MaxSim, best first, and the estimates.

    The estimate of a passage that lies near any of the centroids nearest to a query token: for each query token the
    cosine with the best such centroid, or with the first centroid left out (missing similarity imputation, WARP,
    Scheerer et al. 2025, section 3.2). The best of these get the weighted inner product of the query's sum with the
    passage's mean added. allowed: (n_passages,), False leaves a passage out. With `unlisted`, passages near none of
    the centroids compete too. Passages without tokens are left out.
    """
    n_passages = len(tokens.mean_scales)
    n, n_first = min(effort.n, n_passages), min(max(effort.n, effort.n_first), n_passages)
    n_probe = min(effort.n_probe, len(lists.centroids))
    query_sum, sum_scale = sum_query(query, effort.mean_weight)
    if kernel() == "numpy":
        return fallback.candidates(tokens, lists, query, allowed, unlisted, query_sum, sum_scale, n_probe, n_first, n)
    rows, estimates = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.float32)
    found = _call(
        "hr_candidates",
        ctypes.c_int(NAMES.index(kernel())),
        ctypes.c_int(tokens.codec.code_dim),
        lists.centroids,
        lists.centroid_scales,
        ctypes.c_int(len(lists.centroids)),
        lists.starts,
        lists.postings,
        ctypes.c_int64(n_passages),
        tokens.means,
        tokens.mean_scales,
        tokens.offsets,
        None if allowed is None else np.ascontiguousarray(allowed).view(np.uint8),
        ctypes.c_int(unlisted),
        np.ascontiguousarray(query.values),
        query.scales,
        ctypes.c_int(len(query.values)),
        query_sum,
        ctypes.c_float(float(sum_scale)),
        ctypes.c_int(n_probe),
        ctypes.c_int64(n_first),
        ctypes.c_int64(n),
        rows,
        estimates,
    )
    if found == _OUT_OF_MEMORY:
        raise MemoryError
    if found == _OUT_OF_RANGE:
        raise UserError("damaged shard (a posting names no passage); run `hiperrag doctor COLLECTION`")
    return rows[:found], estimates[:found]


def checksum(data: npt.NDArray[Any]) -> int:
    """64-bit checksum of an array's bytes; any one changed bit changes it."""
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    if kernel() == "numpy":
        return fallback.checksum(flat)
    return _call("hr_checksum", flat, ctypes.c_int64(len(flat)))


def passage_checksums(tokens: TokenArrays, rows: Rows | range) -> npt.NDArray[np.uint32]:
    """Checksum of each listed passage's codes, scales and mean: (n_rows,)."""
    if kernel() == "numpy":
        sums = fallback.passage_checksums(tokens, np.asarray(rows, dtype=np.int64))
    else:
        sums = np.empty(len(rows), dtype=np.uint64)
        _call(
            "hr_passage_checksums",
            ctypes.c_int(tokens.codec.code_dim),
            ctypes.c_int(tokens.codec.width),
            tokens.codes,
            tokens.scales,
            tokens.offsets,
            tokens.means,
            *_rows(rows),
            sums,
        )
    return (sums ^ (sums >> np.uint64(32))).astype(np.uint32)


def sum_query(query: QueryCodes, weight: float) -> tuple[npt.NDArray[np.int16], np.float32]:
    """Sum of the query's tokens as integers whose products with a mean fit 32 bits, and their unit times `weight`."""
    total = query.scales.astype(np.float64) @ query.values
    limit = min(32_767, (1 << 31) // (128 * query.values.shape[1]) - 1)
    unit = max(float(np.abs(total).max(initial=0.0)), np.finfo(np.float32).tiny) / limit
    return np.rint(total / unit).astype(np.int16), np.float32(unit * weight)


def _rows(rows: Rows | range) -> tuple[Any, ...]:
    """(rows or None, first, n) as the C functions take them."""
    if isinstance(rows, range):
        return None, ctypes.c_int64(rows.start), ctypes.c_int64(len(rows))
    return np.ascontiguousarray(rows, dtype=np.int64), ctypes.c_int64(0), ctypes.c_int64(len(rows))


def _call(name: str, *arguments: Any) -> int:
    converted = [ctypes.c_void_p(value.ctypes.data) if isinstance(value, np.ndarray) else value for value in arguments]
    result: int = getattr(_library(), name)(*converted)
    return result
