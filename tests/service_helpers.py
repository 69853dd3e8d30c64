"""Services for tests: a server on a free port, a generator that does as it is told, a collection without an index."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import httpx
import uvicorn
from answering_helpers import WordEncoder, make_hits

from hiperrag.answering.generators.base import Cancellation, GenerationCancelledError, Message, Piece, TokenStream
from hiperrag.collection import Counts, EncoderEntry, Manifest
from hiperrag.service.serving import SearchResult, ShardHealth

SECONDS = 20.0
"""After which a test gives up waiting; nothing takes as long."""

REWRITTEN = "When do male humpback whales sing?"
HTTP = httpx.Client(verify=False, timeout=60)
"""For all plain requests: each client of its own would read all certificates of the machine."""


@contextlib.contextmanager
def serving(app, config: uvicorn.Config | None = None) -> Iterator[str]:
    """The base URL of a server that runs `app` in a thread, as `config` says."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = config or uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    eventually(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(SECONDS)


def eventually(true: Callable[[], object]) -> None:
    """Return once it is; fail where it does not come."""
    ends = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < ends, "this did not come about"
        time.sleep(0.005)


def routes_of(app) -> list[tuple[str, str]]:
    """(method, path) of every route, with `x` for each of its parameters."""

    def walk(routes) -> Iterator[tuple[str, str]]:
        for route in routes:
            if hasattr(route, "original_router"):
                yield from walk(route.original_router.routes)
            else:
                for method in sorted(route.methods or {"GET"}):
                    yield method, re.sub(r"\{[^}]*\}", "x", route.path)

    return list(walk(app.routes))


class QuotingGenerator:
    """Writes the text of passage 1, cites it, and then says something that no passage bears out.

    Asked without passages, which is how a follow-up question is rewritten, it writes REWRITTEN.

    `held` stops it after the first word until it is set; `error` is raised instead of the first word, `cut` after it.
    """

    capable = True

    def __init__(self, spec: str = "stub", error: Exception | None = None, cut: Exception | None = None) -> None:
        self.spec = spec
        self.error, self.cut = error, cut
        self.held = threading.Event()
        self.held.set()
        self.writing = threading.Semaphore(0)
        self.closed = threading.Semaphore(0)

    def stream(self, messages: list[Message], max_tokens: int) -> TokenStream:
        cancellation = Cancellation()
        cancellation.on_cancel(self.held.set)
        return TokenStream(self._pieces(messages, cancellation), self.spec, cancellation)

    def _pieces(self, messages: list[Message], cancellation: Cancellation) -> Iterator[Piece]:
        if self.error:
            raise self.error
        prompt = messages[-1]["content"]
        passages = re.findall(r'<passage number="1">\n\[1\][^\n]*\n(.*?)\n</passage>', prompt, re.DOTALL)
        if not passages:
            yield Piece(REWRITTEN, "stop")
            return
        text = passages[-1]
        words = f"{text.rstrip('.')} [1]. Teapots orbit the sun beyond Neptune.".split(" ")
        for number, word in enumerate(words):
            if number == 1:
                self.writing.release()
                if self.cut:
                    raise self.cut
                assert self.held.wait(SECONDS)
                try:
                    cancellation.check()
                except GenerationCancelledError:
                    self.closed.release()
                    raise
            yield Piece(word if number == 0 else f" {word}")
        yield Piece("", "stop", 0)


class ListedCollection:
    """A ServedCollection of a few texts; a search finds all, in their order."""

    def __init__(self, name: str, texts: Sequence[str], error: Exception | None = None) -> None:
        self.name = name
        self.encoder = WordEncoder()
        self.error = error
        self.held = threading.Event()
        self.held.set()
        self.searching = threading.Semaphore(0)
        self.manifest = Manifest(
            format=2,
            hiperrag="0",
            encoder=EncoderEntry(spec="s", identity="i", tokenizer="t", dim=64, pooled_dim=64, max_tokens=256),
            settings={},
            settings_hash="",
            run="",
            shards=[],
            counts=Counts(),
        )
        self._hits = make_hits(texts)

    def search(self, queries, k, *, quality="balanced", where=None, hybrid=False, per_document=False):
        self.searching.release()
        assert self.held.wait(SECONDS)
        if self.error:
            raise self.error
        return SearchResult([self._hits[:k] for _ in queries], {"total": 1.0}, [], self.encoder, self.manifest)

    @contextlib.contextmanager
    def pinned(self):
        yield self

    def shard_health(self) -> ShardHealth:
        return ShardHealth(1, [])

    def close(self) -> None:
        self.held.set()


def chat_body(question: str, model: str = "hiperrag/c", **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": question}], **more}


def lines_of(response: httpx.Response) -> Iterator[str]:
    """The lines of an event stream that are not empty, as they come."""
    return (line for line in response.iter_lines() if line)
