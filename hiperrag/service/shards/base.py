"""What a served collection asks of its shards, and shards that are searched in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hiperrag.answering.retrieval import SearchesShards
from hiperrag.index.portion import Source
from hiperrag.index.search import Searcher
from hiperrag.index.shard import open_shards


class ServedShards(SearchesShards, Protocol):
    """The shards of one version of a collection; thread-safe."""

    def asking(self, missing: set[str]) -> SearchesShards:
        """The shards for the searches of one request, which adds to `missing` the names of those that do not answer."""
        ...

    def missing(self) -> list[str]:
        """Names of the shards that do not answer at the moment."""
        ...

    def close(self) -> None:
        """Let go of what is open; no search follows."""
        ...


class ShardHost(Protocol):
    """Opens the shards of the versions of a collection."""

    def open(self, sources: Sequence[Source]) -> ServedShards:
        """UserError where a shard cannot be used."""
        ...

    def close(self) -> None:
        """After the last search."""
        ...


class LocalShards(Searcher):
    """Shards searched by threads of this process."""

    def asking(self, missing: set[str]) -> SearchesShards:  # noqa: ARG002
        """See `ServedShards`: all answer."""
        return self

    def missing(self) -> list[str]:
        """See `ServedShards`: none."""
        return []

    def close(self) -> None:
        """See `ServedShards`."""
        if self._pool:
            self._pool.shutdown(wait=False)


class LocalHost:
    """Opens shards in this process, for searches with `threads` threads; by default one a core."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def open(self, sources: Sequence[Source]) -> LocalShards:
        """See `ShardHost`."""
        shards = open_shards([source.folder for source in sources], [source.deleted for source in sources])
        return LocalShards(shards, self._threads)

    def close(self) -> None:
        """See `ShardHost`."""
