"""The right answers: top passages by MaxSim in float32 over the float16 token vectors, computed once and kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hiperrag.benchmarks.late_interaction.vectors import Float16, Float32, Int64, TokenVectors
from hiperrag.files import fingerprint, write_text_atomic

DEPTH = 10
_BLOCK_PASSAGES = 512
_TOGETHER = 64
"""Passages in one matrix product: bounds its result to some tens of megabytes for a few hundred queries."""


class Block(NamedTuple):
    """Consecutive passages: tokens (sum(lengths), dim) and lengths (n,), each at least 1."""

    tokens: Float16 | Float32
    lengths: Int64


def exact_top(
    blocks: Iterable[Block], queries: Sequence[Float32], sizes: Sequence[int], k: int = DEPTH
) -> dict[int, npt.NDArray[np.int64]]:
    """The k best passages of each query in the first `size` passages, for every size, in one pass.

    sizes: ascending, each at the end of a block. Ties go to the earlier passage. Returns size -> (n_queries, k).
    """
    joined = np.ascontiguousarray(np.concatenate(queries).T)
    starts = np.cumsum([0, *(len(query) for query in queries[:-1])])
    scores = np.zeros((len(queries), 0), dtype=np.float32)
    ids = np.zeros((len(queries), 0), dtype=np.int64)
    found: dict[int, npt.NDArray[np.int64]] = {}
    seen = 0
    for block in blocks:
        fresh = maxsim_scores(block, joined, starts)
        new_ids = np.broadcast_to(np.arange(seen, seen + fresh.shape[1]), fresh.shape)
        scores, ids = np.concatenate([scores, fresh], axis=1), np.concatenate([ids, new_ids], axis=1)
        # Ids rise along each row, so a stable sort keeps the earlier passage of a tie.
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        order.sort(axis=1)
        scores, ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)
        seen += len(block.lengths)
        if seen in sizes:
            ranked = np.argsort(-scores, axis=1, kind="stable")
            found[seen] = np.take_along_axis(ids, ranked, axis=1)
    return found


def maxsim_scores(block: Block, joined: Float32, starts: Int64) -> Float32:
    """MaxSim of every query with every passage of a block, (n_queries, n), a few passages at a time."""
    ends = np.cumsum(block.lengths)
    scores = np.empty((len(starts), len(ends)), dtype=np.float32)
    for first in range(0, len(ends), _TOGETHER):
        last = min(first + _TOGETHER, len(ends))
        begin = ends[first] - block.lengths[first]
        products = block.tokens[begin : ends[last - 1]].astype(np.float32) @ joined
        # Passage by passage: for hundreds of query tokens many times faster than np.maximum.reduceat.
        for passage, stop in enumerate(ends[first:last] - begin, start=first):
            best = products[stop - block.lengths[passage] : stop].max(axis=0)
            scores[:, passage] = np.add.reduceat(best, starts)
    return scores


def real_blocks(vectors: TokenVectors, n: int) -> Iterator[Block]:
    """The first n passages of a vectors folder."""
    for start in range(0, n, _BLOCK_PASSAGES):
        offsets = vectors.offsets[start : min(start + _BLOCK_PASSAGES, n) + 1]
        yield Block(vectors.tokens[offsets[0] : offsets[-1]], np.diff(offsets))


def cached_top(
    cache: Path, blocks: Iterable[Block], vectors: TokenVectors, numbers: Sequence[int], sizes: Sequence[int], what: str
) -> dict[int, list[list[int]]]:
    """`exact_top` of these queries, read from `cache` where it is there; `what` names the corpus in the file's name."""
    path = cache / f"truth-{fingerprint(vectors.identity, tuple(numbers), tuple(sizes), what, DEPTH)}.json"
    if not path.is_file():
        top = exact_top(blocks, [vectors.query(number) for number in numbers], sizes)
        write_text_atomic(path, json.dumps({str(size): ids.tolist() for size, ids in top.items()}))
    return {int(size): ids for size, ids in json.loads(path.read_text(encoding="utf-8")).items()}


def recall(found: Sequence[int], truth: Sequence[int]) -> float:
    """Share of the true top that was found."""
    return len(set(found[: len(truth)]) & set(truth)) / len(truth)
