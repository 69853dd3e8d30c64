"""Shards spread over the processes of an MPI job, one of whose rank 0 serves."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from hiperrag.answering.retrieval import SearchesShards
from hiperrag.index.codec import FloatArray
from hiperrag.index.distributed import DistributedSearcher
from hiperrag.index.portion import Source
from hiperrag.index.ranks import Ranks
from hiperrag.index.search import Masks, Match, Quality


class RankShards:
    """See `ServedShards`. A rank that is lost ends the whole job, so none is ever missing."""

    def __init__(self, searcher: DistributedSearcher, caller: ThreadPoolExecutor) -> None:
        self.shards = searcher.shards
        self._searcher, self._caller = searcher, caller

    def asking(self, missing: set[str]) -> SearchesShards:  # noqa: ARG002
        """See `ServedShards`: all answer."""
        return self

    def missing(self) -> list[str]:
        """See `ServedShards`: none."""
        return []

    def search(
        self,
        queries: Sequence[FloatArray],
        k: int,
        quality: Quality = "balanced",
        masks: Masks | None = None,
        texts: Sequence[str] | None = None,
    ) -> list[list[Match]]:
        """See `Searcher.search`."""
        return self._caller.submit(self._searcher.search, queries, k, quality, masks, texts).result()

    def search_pooled(self, pooled: FloatArray, k: int, masks: Masks | None = None) -> list[Match]:
        """See `Searcher.search_pooled`."""
        return self._caller.submit(self._searcher.search_pooled, pooled, k, masks).result()

    def close(self) -> None:
        """See `ServedShards`."""
        self._caller.submit(self._searcher.close).result()


class RankHost:
    """Opens shards on all ranks. All calls into MPI come from one thread: not every MPI library bears more."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._caller = ThreadPoolExecutor(1, thread_name_prefix="mpi")

    def open(self, sources: Sequence[Source]) -> RankShards:
        """See `ShardHost`."""
        searcher = self._caller.submit(DistributedSearcher, self._ranks, sources).result()
        return RankShards(searcher, self._caller)

    def close(self) -> None:
        """See `ShardHost`."""
        self._caller.shutdown()
