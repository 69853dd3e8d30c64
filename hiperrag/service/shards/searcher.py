"""Search over shards in processes: the results of `index.search.Searcher`, to the bit, while all processes are there.

Each process proposes candidates of its shards; the front end cuts over all; each scores its own that are left, and the
front end merges the best, as `index.distributed` does over MPI ranks. When a process is lost meanwhile, the search is
done anew with those that remain.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import TimeoutError as LateError
from typing import Any, TypeVar

import numpy as np

from hiperrag.answering.retrieval import SearchesShards
from hiperrag.errors import UserError
from hiperrag.index.codec import BITS, Codec, FloatArray, QueryCodes
from hiperrag.index.fusion import LEXICAL_CANDIDATES
from hiperrag.index.kernels import Effort
from hiperrag.index.portion import RemoteShard, Source, deal, pack_masks
from hiperrag.index.search import Found, Masks, Match, Quality, effort_of, join
from hiperrag.index.storage import read_description
from hiperrag.service.shards.messages import Asked, Opening, Proposal
from hiperrag.service.shards.processes import ProcessLostError, ShardProcess

REPLY_S = 60.0
"""The longest a process may take for its part of a search; one that takes longer is killed."""
_Result = TypeVar("_Result")
_numbers = itertools.count(1)


class ShardsUnavailableError(UserError):
    """No shard of a collection answers."""

    retry_after_s = 2.0


class ProcessHost:
    """Opens shards in `n` processes, each with `threads` threads; see `ShardHost`. `name` is the collection's."""

    def __init__(self, name: str, n: int, threads: int | None = None) -> None:
        of_each = threads or max(1, len(os.sched_getaffinity(0)) // n)
        self.processes: list[ShardProcess] = []
        try:
            for number in range(1, n + 1):
                self.processes.append(ShardProcess(f"{name}: shard process {number}", of_each))
        except OSError as error:
            self.close()
            raise UserError(f"shard processes cannot be started: {error}; give fewer --processes") from None

    def open(self, sources: Sequence[Source]) -> ProcessShards:
        """See `ShardHost`."""
        return ProcessShards(sources, self.processes)

    def close(self) -> None:
        """See `ShardHost`."""
        for process in self.processes:
            process.end()


class ProcessShards:
    """See `ServedShards`."""

    def __init__(self, sources: Sequence[Source], processes: Sequence[ShardProcess]) -> None:
        described = [read_description(source.folder) for source in sources]
        if len({one.dim for one in described}) > 1:
            raise UserError(f"{sources[0].folder.parent}: shards of different encoders; index again")
        self.shards = [
            RemoteShard(source, one.n_passages, one.has_text) for source, one in zip(sources, described, strict=True)
        ]
        self.sizes = [one.n_passages for one in described]
        self.codec = Codec(described[0].dim, next(bits for bits in BITS if bits == described[0].bits))
        self.version = next(_numbers)
        hands = deal([source.n_tokens for source in sources], len(processes))
        self._hands = {process: hand for process, hand in zip(processes, hands, strict=True) if hand}
        try:
            self._open(sources)
        except BaseException:
            self.close()
            raise

    def _open(self, sources: Sequence[Source]) -> None:
        """On all processes; UserError where one cannot read its shards, or none is there."""
        openings = [
            process.open(Opening(self.version, hand, sources, self.sizes)) for process, hand in self._hands.items()
        ]
        for opened in openings:
            with contextlib.suppress(ProcessLostError):  # it opens its shards when it is back
                opened.result()
        if len(self.missing()) == len(self.shards):
            raise ShardsUnavailableError("the processes that search shards cannot be started; the log says why")

    def asking(self, missing: set[str]) -> SearchesShards:
        """See `ServedShards`."""
        return _Asking(self, missing)

    def missing(self) -> list[str]:
        """See `ServedShards`."""
        return self._names(process for process in self._hands if not process.has(self.version))

    def search(
        self,
        queries: Sequence[FloatArray],
        k: int,
        quality: Quality = "balanced",
        masks: Masks | None = None,
        texts: Sequence[str] | None = None,
    ) -> list[list[Match]]:
        """See `Searcher.search`."""
        return self.asking(set()).search(queries, k, quality, masks, texts)

    def search_pooled(self, pooled: FloatArray, k: int, masks: Masks | None = None) -> list[Match]:
        """See `Searcher.search_pooled`."""
        return self.asking(set()).search_pooled(pooled, k, masks)

    def close(self) -> None:
        """See `ServedShards`."""
        for process in self._hands:
            process.close(self.version)

    def from_those_there(self, find: Callable[[Sequence[ShardProcess]], _Result], missing: set[str]) -> _Result:
        """What `find` finds in the processes that answer; the shards of the others are added to `missing`."""
        there = [process for process in self._hands if process.has(self.version)]
        while there:
            try:
                result = find(there)
            except _LostError as error:
                there = [process for process in there if process not in error.processes]
                continue
            missing.update(self._names(process for process in self._hands if process not in there))
            return result
        raise ShardsUnavailableError("no shard of the collection answers at the moment; try again")

    def _names(self, processes: Iterable[ShardProcess]) -> list[str]:
        return [self.shards[number].folder.name for process in processes for number in self._hands[process]]


class _Asking:
    """The shards as one request asks them."""

    def __init__(self, shards: ProcessShards, missing: set[str]) -> None:
        self.shards = shards.shards
        self._all, self._missing = shards, missing

    def search(
        self,
        queries: Sequence[FloatArray],
        k: int,
        quality: Quality = "balanced",
        masks: Masks | None = None,
        texts: Sequence[str] | None = None,
    ) -> list[list[Match]]:
        """See `Searcher.search`."""
        if not len(queries):
            return []
        codes = [self._all.codec.encode_query(query) for query in queries]
        asked = self._asked(codes, k, effort_of(quality, k), masks, texts)

        def find(processes: Sequence[ShardProcess]) -> list[Found]:
            if asked.effort is None:
                return _by_query(_gathered(processes, "exact", asked))
            proposed = _cut(_gathered(processes, "propose", asked), asked.effort)
            return _by_query(_gathered(processes, "score", asked, proposed))

        return [found.matches(k) for found in self._all.from_those_there(find, self._missing)]

    def search_pooled(self, pooled: FloatArray, k: int, masks: Masks | None = None) -> list[Match]:
        """See `Searcher.search_pooled`."""
        asked = self._asked([], k, None, masks, None)
        vector = np.asarray(pooled, dtype=np.float32)

        def find(processes: Sequence[ShardProcess]) -> list[Found]:
            return _by_query(_gathered(processes, "pooled", asked, vector))

        return self._all.from_those_there(find, self._missing)[0].matches(k)

    def _asked(
        self,
        codes: Sequence[QueryCodes],
        k: int,
        effort: Effort | None,
        masks: Masks | None,
        texts: Sequence[str] | None,
    ) -> Asked:
        masked, bits = pack_masks(masks, self._all.sizes)
        return Asked(self._all.version, codes, k, effort, masked, bits, texts)


class _LostError(Exception):
    """These processes were lost while they were asked."""

    def __init__(self, processes: Sequence[ShardProcess]) -> None:
        super().__init__(*(process.name for process in processes))
        self.processes = processes


def _gathered(processes: Sequence[ShardProcess], operation: str, *arguments: Any) -> list[Any]:
    """What each process answers, a list with one entry for each query; _LostError with those that do not."""
    asked = [process.ask(operation, *arguments) for process in processes]
    until = time.monotonic() + REPLY_S
    answers, lost = [], []
    for process, answer in zip(processes, asked, strict=True):
        try:
            answers.append(answer.result(max(0.0, until - time.monotonic())))
        except ProcessLostError:
            lost.append(process)
        except LateError:
            process.kill()
            lost.append(process)
    if lost:
        raise _LostError(lost)
    return answers


def _by_query(answers: Sequence[Sequence[Found]]) -> list[Found]:
    return [join(of_query) for of_query in zip(*answers, strict=True)]


def _cut(answers: Sequence[Sequence[Proposal]], effort: Effort) -> list[Found]:
    """The candidates of each query that are left of those of all processes."""
    left = []
    for proposals in zip(*answers, strict=True):
        found = join([proposal.candidates for proposal in proposals]).best(effort.n)
        by_words = [proposal.by_words for proposal in proposals if proposal.by_words is not None]
        if by_words:
            added = join(by_words).best(LEXICAL_CANDIDATES)
            found = found.united(added.shards, added.rows)
        left.append(found)
    return left
