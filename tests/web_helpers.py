"""A service in this process for tests of the web page, and a generator that writes at a known speed."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from hiperrag.answering.generators.base import Cancellation, Message, Piece, TokenStream
from hiperrag.answering.generators.scoring import TokenScore
from hiperrag.sentences import split_sentences
from hiperrag.service.app import create_app
from hiperrag.service.serving import ServedCollection
from hiperrag.service.settings import ServiceSettings

_PASSAGE = re.compile(r'<passage number="(\d+)">\n[^\n]*\n(.*?)\n</passage>', re.DOTALL)


class Quoter:
    """Writes the first long sentence of each of the first passages, cited, word by word.

    A sentence's tokens are its words; one is likely where a passage holds it.
    """

    spec = "stub:quoter"
    capable = True

    def __init__(self, n_sentences: int = 3, pause_s: float = 0.0) -> None:
        self.n_sentences = n_sentences
        self.pause_s = pause_s

    def stream(self, messages: list[Message], max_tokens: int) -> TokenStream:
        cancellation = Cancellation()
        return TokenStream(self._pieces(messages, cancellation), self.spec, cancellation)

    def _pieces(self, messages: list[Message], cancellation: Cancellation) -> Iterator[Piece]:
        found = _PASSAGE.findall(messages[-1]["content"])
        for n, text in found[: self.n_sentences]:
            sentences = [one for one in split_sentences(text) if len(one) > 60] or [text[:200]]
            for word in f"{sentences[0].rstrip('. ')} [{n}]. ".split(" "):
                if self.pause_s:
                    cancellation.sleep(self.pause_s)
                yield Piece(f"{word} ")
        yield Piece("", "stop")

    def score_answers(
        self, conversations: Sequence[list[Message]], answer: str
    ) -> Iterator[tuple[int, list[TokenScore]]]:
        for number, messages in enumerate(conversations):
            known = set(re.findall(r"\w+", messages[-1]["content"]))
            tokens = [
                TokenScore(match[0], match.end(), *((-0.1, 0.4) if match[0].strip() in known else (-4.0, 2.8)))
                for match in re.finditer(r"\s*\w+|\W+", answer)
            ]
            yield number, tokens


@contextlib.contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of the application, served by uvicorn in a thread."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server cannot start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def service(collections: Mapping[str, Path], generator: object, **settings: object) -> Iterator[tuple[str, FastAPI]]:
    """(address, application) of collections served with `generator`."""
    served = {name: ServedCollection(name, root, threads=1) for name, root in collections.items()}
    app = create_app(ServiceSettings(collections=dict(collections), **settings), served, generator)
    with running(app) as address:
        yield address, app
