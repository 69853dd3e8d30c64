"""A generator behind an OpenAI-compatible HTTP server (`POST BASE_URL/chat/completions`, server-sent events)."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from queue import SimpleQueue
from typing import Any

from hiperrag.answering.generators import background
from hiperrag.answering.generators.base import Cancellation, Message, Piece, TokenStream
from hiperrag.answering.generators.gateway import Gateway
from hiperrag.answering.generators.options import parse_endpoint
from hiperrag.answering.generators.remote_scoring import score_remotely
from hiperrag.answering.generators.scoring import TokenScore

_CHECKED_S = 10.0
"""Seconds for which an answer of `reachable` holds."""
_CHARACTERS_PER_TOKEN = 3.5
"""Of English science, on the careful side."""
_TOKENS_PER_MESSAGE = 8


class OpenAIGenerator:
    """`openai:BASE_URL#MODEL`, with options as in EndpointOptions. Thread-safe; any number of streams at a time.

    The bearer token comes from OPENAI_API_KEY or a command, and appears in no message and no spec.
    """

    capable = True

    def __init__(self, spec: str, *, patient: bool = True) -> None:
        endpoint = parse_endpoint(spec)
        self.spec = endpoint.spec
        self.model = endpoint.model
        self.gateway = Gateway(endpoint, patient=patient)
        self._checking = threading.Lock()
        self._checked: tuple[float, str | None] = (float("-inf"), None)

    def stream(self, messages: list[Message], max_tokens: int) -> TokenStream:
        """Pieces of the answer; the request begins with the first one read. Errors as of Gateway.complete."""
        cancellation = Cancellation()
        return TokenStream(self._pieces(messages, max_tokens, cancellation), self.spec, cancellation)

    def _pieces(self, messages: list[Message], max_tokens: int, cancellation: Cancellation) -> Iterator[Piece]:
        pieces: SimpleQueue[Piece | None] = SimpleQueue()

        async def read() -> None:
            async with contextlib.aclosing(
                self.gateway.complete(chat_body(self.model, messages, max_tokens), estimate(messages, max_tokens))
            ) as answer:
                async for piece in answer:
                    pieces.put(piece)

        reading = background.submit(read())
        reading.add_done_callback(lambda _: pieces.put(None))
        cancellation.on_cancel(reading.cancel)
        try:
            while (piece := pieces.get()) is not None:
                yield piece
            with contextlib.suppress(CancelledError):  # the TokenStream says so in its own words
                reading.result()
        finally:  # the reader may leave early
            reading.cancel()

    def reachable(self) -> str | None:
        """Why the server cannot be used; None where it can. Asks it at most every few seconds."""
        with self._checking:
            when, trouble = self._checked
            if time.monotonic() - when > _CHECKED_S:
                trouble = background.submit(self.gateway.trouble()).result()
                self._checked = time.monotonic(), trouble
            return trouble

    def score_answers(
        self, conversations: Sequence[list[Message]], answer: str
    ) -> Iterator[tuple[int, list[TokenScore]]]:
        """As ScoringGenerator.score_answers, where the server gives log-probabilities of a prompt."""
        return score_remotely(self.request_json, self.model, conversations, answer)

    def request_json(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST to another path under the base URL, with the same tokens, limits and errors."""
        tokens = len(json.dumps(body)) / _CHARACTERS_PER_TOKEN
        return background.submit(self.gateway.call_json("POST", path, tokens, json=body)).result()


def chat_body(model: str, messages: list[Message], max_tokens: int) -> dict[str, Any]:
    """What is asked: the likeliest answer, as a stream."""
    return {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True}


def estimate(messages: list[Message], max_tokens: int) -> float:
    """Tokens that a request may take, prompt and answer together, for limits per minute."""
    prompt = sum(len(message["content"]) / _CHARACTERS_PER_TOKEN + _TOKENS_PER_MESSAGE for message in messages)
    return prompt + max_tokens
