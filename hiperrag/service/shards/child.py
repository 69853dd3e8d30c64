"""A process that searches some of a collection's shards: `python -m hiperrag.service.shards.child SOCKET PID THREADS`.

SOCKET is the number of a descriptor whose other end the parent alone holds, so messages are pickled without further
ado. PID is the parent's: the process ends when that does. It answers requests as they are done, several at once, and
says twice a second that it is alive.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from hiperrag.errors import UserError
from hiperrag.index.codec import FloatArray
from hiperrag.index.portion import Portion, Query
from hiperrag.index.search import Found, Masks
from hiperrag.index.shard import open_shards
from hiperrag.service.shards.messages import BEAT, BEAT_S, Asked, Failure, Opening, Proposal, Reply, Request
from hiperrag.workflows.tethered import end_with


class ShardServer:
    """Performs requests; what it opened is kept under the number of the version."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._portions: dict[int, Portion] = {}

    def open(self, opening: Opening) -> None:
        """UserError where a shard cannot be used."""
        mine = [opening.sources[number] for number in opening.numbers]
        shards = open_shards([source.folder for source in mine], [source.deleted for source in mine])
        self._portions[opening.version] = Portion(
            shards, opening.numbers, opening.sources, opening.sizes, self._threads
        )

    def close(self, version: int) -> None:
        """Let go of a version's files."""
        self._portions.pop(version, None)

    def propose(self, asked: Asked) -> list[Proposal]:
        """For each query the candidates of these shards."""
        portion, allowed, queries = self._prepared(asked)
        assert asked.effort
        candidates = portion.propose(queries, asked.effort, allowed)
        by_words: Sequence[Found | None] = [None] * len(queries)
        if asked.texts:
            by_words = portion.propose_by_words(queries, allowed)
        return [Proposal(*both) for both in zip(candidates, by_words, strict=True)]

    def score(self, asked: Asked, proposed: Sequence[Found]) -> list[Found]:
        """For each query the best of the passages proposed, all of these shards."""
        portion, _, queries = self._prepared(asked)
        return portion.score_proposed(queries, proposed, asked.k)

    def exact(self, asked: Asked) -> list[Found]:
        """For each query the best of all passages of these shards."""
        portion, allowed, queries = self._prepared(asked)
        return portion.find_exact(queries, asked.k, allowed)

    def pooled(self, asked: Asked, vector: FloatArray) -> list[Found]:
        """The best of these shards by pooled cosine."""
        portion, allowed, _ = self._prepared(asked)
        return [portion.find_by_pooled(vector, asked.k, allowed)]

    def _prepared(self, asked: Asked) -> tuple[Portion, Masks, list[Query]]:
        portion = self._portions[asked.version]
        allowed = portion.allowed(portion.own_masks(asked.masked, asked.bits))
        return portion, allowed, portion.with_words(asked.codes, asked.texts)


class _Line:
    """The connection, for several threads that write."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: Any) -> None:
        with self._lock:
            self._connection.send(message)


def serve(connection: Connection, threads: int) -> None:
    """Answer requests until the other end is closed."""
    line = _Line(connection)
    threading.Thread(target=_beat, args=(line,), daemon=True).start()
    server = ShardServer(threads)
    operations: dict[str, Callable[..., Any]] = {
        name: getattr(server, name) for name in ("open", "close", "propose", "score", "exact", "pooled")
    }

    def perform(request: Request) -> None:
        result: Any = None
        failure: Failure | None = None
        try:
            result = operations[request.operation](*request.arguments)
        except UserError as error:
            failure = Failure(str(error), expected=True)
        except Exception as error:
            traceback.print_exc()
            failure = Failure(repr(error)[:500], expected=False)
        line.send(Reply(request.number, result, failure))

    with ThreadPoolExecutor(threads + 1) as workers:
        while True:
            try:
                request = connection.recv()
            except (EOFError, OSError):
                os._exit(0)  # whoever waited for the requests at work is gone
            workers.submit(perform, request)


def _beat(line: _Line) -> None:
    while True:
        try:
            line.send(BEAT)
        except OSError:
            os._exit(0)
        time.sleep(BEAT_S)


def main() -> None:
    """What the module does when it is run."""
    for ignored in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which answers what it has begun
        signal.signal(ignored, signal.SIG_IGN)
    descriptor, parent, threads = map(int, sys.argv[1:])
    end_with(parent)
    serve(Connection(descriptor), threads)


if __name__ == "__main__":
    main()
