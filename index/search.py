"""Search over shards: candidates by centroids and means, MaxSim over compressed token vectors, one ranking.

Candidates compete over all shards by their estimates, and the best get their MaxSim; so results do not depend on how
the work is spread over threads or machines, only on the shards.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np

from hiperrag.errors import UserError
from hiperrag.index import gpu
from hiperrag.index.codec import FloatArray, QueryCodes
from hiperrag.index.fusion import LEXICAL_CANDIDATES, fuse
from hiperrag.index.kernels import Effort
from hiperrag.index.lexical import LexicalQuery, LexicalSearcher
from hiperrag.index.shard import Mask, Rows, Shard

Masks = Sequence[Mask | None]
"""For each shard the passages that may be found, (n_passages,); None for all."""
Quality = Literal["fast", "balanced", "exact"] | int
"""How many passages get their MaxSim: all (exact), or a number of candidates."""

EFFORTS = {
    "fast": Effort(n=128, n_first=2_048, n_probe=2, mean_weight=0.75),
    "balanced": Effort(n=512, n_first=4_096, n_probe=4, mean_weight=0.75),
}
FIRST_PER_CANDIDATE = 8
_EXACT_ROWS = 2_048
"""Passages scored by one task of an exact search."""
_EXACT_SCORES = 1 << 25
"""Scores of an exact search held at a time."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """A passage found: its shard (position in the list searched), its row there, its score."""

    shard: int
    row: int
    score: float


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """Passages of one query in no order: shards, rows, values (MaxSim or its estimate), all (n,)."""

    shards: Rows
    rows: Rows
    values: FloatArray

    def best(self, k: int) -> Found:
        """The k with the highest values, best first; equal values in shard and row order."""
        found = self
        if len(self.values) > k > 0:  # sort only what can be among the best
            kept = self.values >= np.partition(self.values, len(self.values) - k)[len(self.values) - k]
            found = Found(self.shards[kept], self.rows[kept], self.values[kept])
        order = np.lexsort((found.rows, found.shards, -found.values))[:k]
        return Found(found.shards[order], found.rows[order], found.values[order])

    def united(self, shards: Rows, rows: Rows) -> Found:
        """These and other passages, each once; without values."""
        both = np.stack([np.concatenate([self.shards, shards]), np.concatenate([self.rows, rows])])
        unique = np.unique(both, axis=1)
        return Found(unique[0], unique[1], np.zeros(unique.shape[1], dtype=np.float32))

    def matches(self, k: int) -> list[Match]:
        """The k best that have a value."""
        best = self.best(k)
        listed = zip(best.shards.tolist(), best.rows.tolist(), best.values.tolist(), strict=True)
        return [Match(shard, row, value) for shard, row, value in listed if value > -np.inf]


def join(found: Sequence[Found]) -> Found:
    """All that any of them holds."""
    if not found:
        return Found(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return Found(
        np.concatenate([part.shards for part in found]),
        np.concatenate([part.rows for part in found]),
        np.concatenate([part.values for part in found]),
    )


def parse_quality(text: str) -> Quality:
    """What `--quality` says; UserError for anything but fast, balanced, exact or a positive number."""
    if text in ("fast", "balanced", "exact"):
        return text  # type: ignore[return-value]
    if text.isdecimal() and len(text) < 10 and int(text) > 0:
        return int(text)
    raise UserError(f"quality {text!r}: give fast, balanced, exact, or how many candidates to score, for example 2000")


def effort_of(quality: Quality, k: int) -> Effort | None:
    """The effort for k results; None for an exact search."""
    if quality == "exact":
        return None
    effort = EFFORTS[quality] if isinstance(quality, str) else dataclasses.replace(EFFORTS["balanced"], n=quality)
    n = max(effort.n, 2 * k)
    return dataclasses.replace(effort, n=n, n_first=max(effort.n_first, FIRST_PER_CANDIDATE * n))


class Searcher:
    """Searches shards with one pool of threads: over queries, or over pieces of the work of a single one."""

    def __init__(self, shards: Sequence[Shard], threads: int | None = None) -> None:
        self.shards = shards
        self.threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None
        self._asked = 0
        self._gpu_tried = False

    def search(
        self,
        queries: Sequence[FloatArray],
        k: int,
        quality: Quality = "balanced",
        masks: Masks | None = None,
        texts: Sequence[str] | None = None,
    ) -> list[list[Match]]:
        """The k passages with the highest MaxSim for each query, best first; equal scores in shard and row order.

        queries: token vectors (n_tokens, dim) of each query. k results come whenever k passages with tokens may be
        found, whatever the masks leave. texts: the queries in words, to fuse MaxSim with BM25 (`fusion.fuse`).
        """
        coded = self.encode(queries)
        effort = effort_of(quality, k)
        allowed = self.allowed(masks)
        words = [self.lexical.query(text) for text in texts] if texts else [None] * len(coded)
        if self._on_device(len(coded)) and (effort or not texts):
            return self._search_together(coded, words, k, effort, allowed)
        if effort is None:
            step = max(1, _EXACT_SCORES // max(1, sum(shard.n_passages for shard in self.shards)))
            matches = []
            for start in range(0, len(coded), step):
                some = slice(start, start + step)
                found = self.score_all(coded[some], allowed)
                matches += [self._fuse(*one).matches(k) for one in zip(found, coded[some], words[some], strict=True)]
            return matches
        parallel = len(coded) == 1

        def search_one(one: tuple[QueryCodes, LexicalQuery | None]) -> list[Match]:
            return self._search_one(*one, k, effort, allowed, parallel)

        return self._map(search_one, list(zip(coded, words, strict=True)))

    def _on_device(self, n_queries: int) -> bool:
        """Whether all shards are on GPUs; they are put there when enough was asked to make up for the loading."""
        self._asked += n_queries
        if not self._gpu_tried and gpu.pays(self._asked):
            self._gpu_tried = True
            gpu.accelerate(self.shards)
        return all(shard.on_device for shard in self.shards)

    def _search_together(
        self,
        queries: Sequence[QueryCodes],
        words: Sequence[LexicalQuery | None],
        k: int,
        effort: Effort | None,
        allowed: Masks,
    ) -> list[list[Match]]:
        """As `search`, all queries at once, for shards on GPUs."""
        matches = []
        step = max(1, _EXACT_SCORES // (len(self.shards) * (effort.n if effort else k)))
        for start in range(0, len(queries), step):
            some, asked = queries[start : start + step], words[start : start + step]
            found = self._score_together(some, asked, effort, allowed) if effort else self._best(some, k, allowed)
            matches += [self._fuse(*one).matches(k) for one in zip(found, some, asked, strict=True)]
        return matches

    def _best(self, queries: Sequence[QueryCodes], k: int, allowed: Masks) -> list[Found]:
        return self._of_each(lambda number: self.shards[number].best(queries, k, allowed[number]))

    def _score_together(
        self, queries: Sequence[QueryCodes], words: Sequence[LexicalQuery | None], effort: Effort, allowed: Masks
    ) -> list[Found]:
        shards = self.shards
        estimated = self._of_each(lambda n: shards[n].candidates_of_each(queries, allowed[n], effort))
        found = [one.best(effort.n) for one in estimated]
        for number, asked in enumerate(words):
            if asked:
                found[number] = found[number].united(*asked.search(LEXICAL_CANDIDATES, allowed)[:2])

        def score(number: int) -> list[tuple[Rows, FloatArray]]:
            rows = [np.sort(one.rows[one.shards == number]) for one in found]
            return list(zip(rows, shards[number].maxsim_of_each(queries, rows), strict=True))

        return self._of_each(score)

    def _of_each(self, find: Callable[[int], Sequence[tuple[Rows, FloatArray]]]) -> list[Found]:
        """What `find` gives for each query in each shard, by query."""
        by_shard = self._map(find, range(len(self.shards)))
        return [
            join([Found(np.full(len(rows), shard), rows, values) for shard, (rows, values) in enumerate(of_query)])
            for of_query in zip(*by_shard, strict=True)
        ]

    def _search_one(
        self, query: QueryCodes, words: LexicalQuery | None, k: int, effort: Effort, allowed: Masks, parallel: bool
    ) -> list[Match]:
        found = self.candidates(query, effort, allowed, parallel).best(effort.n)
        if words:
            found = found.united(*words.search(LEXICAL_CANDIDATES, allowed)[:2])
        return self._fuse(self.score(query, found), query, words).matches(k)

    def _fuse(self, found: Found, query: QueryCodes, words: LexicalQuery | None) -> Found:
        if words is None:
            return found
        bm25 = np.zeros(len(found.rows), dtype=np.float32)
        for number in np.unique(found.shards):
            here = found.shards == number
            bm25[here] = words.score(int(number), found.rows[here])
        return Found(found.shards, found.rows, fuse(found.values, len(query.values), bm25, words.limit))

    @cached_property
    def lexical(self) -> LexicalSearcher:
        """BM25 over the same shards."""
        living = [None if shard.deleted is None else ~shard.deleted for shard in self.shards]
        return LexicalSearcher([shard.lexical for shard in self.shards], living)

    def encode(self, queries: Sequence[FloatArray]) -> list[QueryCodes]:
        """Queries in the codes of the shards."""
        return [self.shards[0].codec.encode_query(query) for query in queries]

    def allowed(self, masks: Masks | None) -> list[Mask | None]:
        """For each shard the passages that may be found: those of the mask that are not deleted."""
        return [shard.allowed(masks[n] if masks else None) for n, shard in enumerate(self.shards)]

    def candidates(self, query: QueryCodes, effort: Effort, allowed: Masks, parallel: bool = False) -> Found:
        """Up to `effort.n` candidates of each shard, with their estimates."""

        def of_shard(number: int) -> Found:
            rows, estimates = self.shards[number].candidates(query, allowed[number], effort)
            return Found(np.full(len(rows), number), rows, estimates)

        numbers = range(len(self.shards))
        return join(self._map(of_shard, numbers) if parallel else [of_shard(number) for number in numbers])

    def score(self, query: QueryCodes, found: Found) -> Found:
        """The same passages with their MaxSim."""
        scored = []
        for number in np.unique(found.shards):
            rows = np.sort(found.rows[found.shards == number])
            values = self.shards[number].maxsim([query], rows)[0]
            scored.append(Found(np.full(len(rows), number), rows, values))
        return join(scored)

    def score_all(self, queries: Sequence[QueryCodes], allowed: Masks) -> list[Found]:
        """MaxSim of every passage that is allowed, for each query."""
        tasks = []
        for number, mask in enumerate(allowed):
            n = self.shards[number].n_passages
            rows: range | Rows = range(n) if mask is None else np.flatnonzero(mask)
            tasks += [(number, rows[start : start + _EXACT_ROWS]) for start in range(0, len(rows), _EXACT_ROWS)]
        scores = self._map(lambda task: self.shards[task[0]].maxsim(queries, task[1]), tasks)
        shards = np.concatenate([np.full(len(rows), number) for number, rows in tasks] or [np.empty(0, np.int64)])
        listed = np.concatenate([np.asarray(rows) for _, rows in tasks] or [np.empty(0, np.int64)])
        return [Found(shards, listed, _joined([part[query] for part in scores])) for query in range(len(queries))]

    def search_pooled(self, pooled: FloatArray, k: int, masks: Masks | None = None) -> list[Match]:
        """The k passages with the highest pooled cosine; pooled: (pooled_dim,) of one query."""
        found = []
        for number, mask in enumerate(self.allowed(masks)):
            scores, rows = self.shards[number].search_pooled(pooled, k, mask)
            found.append(Found(np.full(len(rows), number), rows, scores))
        return join(found).matches(k)

    def _map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        if self._pool is None or len(items) < 2:
            return [function(item) for item in items]
        return list(self._pool.map(function, items))


def _joined(parts: Sequence[FloatArray]) -> FloatArray:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
