"""A collection as it is served: opened once, asked from many threads, replaced by its newer versions as they come."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hiperrag.answering.hits import Hit
from hiperrag.answering.retrieval import Retriever
from hiperrag.collection import Collection, Manifest
from hiperrag.encoders.base import Encoder
from hiperrag.errors import UserError
from hiperrag.filters import Filter
from hiperrag.index.search import Quality
from hiperrag.service.encoding import shared_encoder
from hiperrag.service.shards.base import LocalHost, ServedShards, ShardHost

if TYPE_CHECKING:
    from hiperrag.index.portion import Source
    from hiperrag.index.ranks import Ranks

POLL_S = 1.0
"""How often a collection is looked at for a newer version."""
LONGEST_PAUSE_S = 60.0
"""Between tries to open a version that cannot be opened."""
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found, and in what: encoder and manifest are those of the version that was searched.

    missing: names of the shards that could not be asked.
    """

    hits: list[list[Hit]]
    timings_ms: dict[str, float]
    missing: list[str]
    encoder: Encoder
    manifest: Manifest


@dataclasses.dataclass(frozen=True, slots=True)
class ShardHealth:
    """Whether the shards answer. `problem` says in one line, without paths, why no newer version is served."""

    total: int
    missing: list[str]
    problem: str = ""

    @property
    def open(self) -> int:
        """Shards that answer."""
        return self.total - len(self.missing)

    @property
    def ready(self) -> bool:
        """Whether questions can be answered, if only from some of the shards."""
        return self.open > 0


class Version:
    """A collection as one manifest describes it, open for reading."""

    def __init__(self, retriever: Retriever, shards: ServedShards, state: tuple[int, ...]) -> None:
        self.retriever = retriever
        self.shards = shards
        self.collection: Collection = retriever.collection
        self.root: Path = retriever.collection.root
        self.manifest: Manifest = retriever.manifest
        self.encoder: Encoder = retriever.encoder
        self.state = state
        """Of the collection, just before this version was opened."""
        self.users = 1
        """Requests at work on it, and one for the collection while it is the newest; guarded by the collection."""


class ServedCollection:
    """Answers searches in the newest version of a collection that can be opened; thread-safe.

    A search keeps the version that it began with. Raises UserError where no version can be opened to begin with. The
    shards are searched in this process, in `processes` others, or in the processes of an MPI job of which this is rank
    0. `threads` is for this process, or each of those.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        processes: int = 0,
        threads: int | None = None,
        ranks: Ranks | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self.name = name
        self._root, self._threads, self._poll_s = Path(root), threads, poll_s
        self._host = _host(name, processes, threads, ranks)
        self._problem = ""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        try:
            self._newest = self._open()
        except BaseException:
            self._host.close()
            raise
        self._watcher = threading.Thread(target=self._watch, name=f"watch {name}", daemon=True)
        self._watcher.start()

    @property
    def encoder(self) -> Encoder:
        """That of the newest version, shared by all collections that use the same; see `SharedEncoder`."""
        return self._newest.encoder

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        quality: Quality = "balanced",
        where: Filter | None = None,
        hybrid: bool = False,
        per_document: bool = False,
    ) -> SearchResult:
        """See `Retriever.search`."""
        missing: set[str] = set()
        with self.pinned() as version:
            found = version.retriever.find(
                queries,
                k,
                quality=quality,
                where=where,
                hybrid=hybrid,
                per_document=per_document,
                searcher=version.shards.asking(missing),
            )
        return SearchResult(found.hits, found.timings_ms, sorted(missing), version.encoder, version.manifest)

    @contextlib.contextmanager
    def pinned(self) -> Iterator[Version]:
        """The newest version, which stays open within, whatever comes after it."""
        with self._lock:
            version = self._newest
            version.users += 1
        try:
            yield version
        finally:
            self._leave(version)

    def shard_health(self) -> ShardHealth:
        """Of the newest version."""
        with self.pinned() as version:
            return ShardHealth(len(version.shards.shards), version.shards.missing(), self._problem)

    def close(self) -> None:
        """After the last request."""
        self._closing.set()
        self._watcher.join()
        self._leave(self._newest)
        self._host.close()

    def _leave(self, version: Version) -> None:
        with self._lock:
            version.users -= 1
            unused = not version.users
        if unused:
            version.shards.close()

    def _open(self) -> Version:
        state = Collection(self._root).state()
        opened: list[ServedShards] = []

        def open_sources(sources: Sequence[Source]) -> ServedShards:
            opened.append(self._host.open(sources))
            return opened[-1]

        try:
            retriever = Retriever(self._root, load=self._load, open_sources=open_sources)
            return Version(retriever, opened.pop(), state)
        finally:
            for shards in opened:
                shards.close()

    def _load(self, spec: str) -> Encoder:
        return shared_encoder(spec, self._threads)

    def _watch(self) -> None:
        tried, pause = self._newest.state, self._poll_s
        while not self._closing.wait(pause):
            state = Collection(self._root).state()
            if state == self._newest.state:
                self._problem, pause = "", self._poll_s
                continue
            pause = min(2 * pause, LONGEST_PAUSE_S) if state == tried else self._poll_s
            tried = state
            self._replace()

    def _replace(self) -> None:
        """Serve the version that is there now, or go on with the one before it."""
        try:
            version = self._open()
        except Exception as error:
            expected = isinstance(error, UserError)
            _log.warning("%s: a newer version cannot be opened: %s", self.name, error, exc_info=not expected)
            self._problem = "a newer version of the collection cannot be opened; the one before it is served"
            return
        with self._lock:
            before, self._newest = self._newest, version
        self._problem = ""
        _log.info("%s: serves a newer version", self.name)
        self._leave(before)


def _host(name: str, processes: int, threads: int | None, ranks: Ranks | None) -> ShardHost:
    if ranks and processes:
        raise UserError("shards are searched by the ranks of the MPI job or by --processes, not both; give one of them")
    if ranks:
        from hiperrag.service.shards.ranks import RankHost

        return RankHost(ranks)
    if processes:
        from hiperrag.service.shards.searcher import ProcessHost

        return ProcessHost(name, processes, threads)
    return LocalHost(threads)
