"""A streamed chat completion, read from server-sent events; a text that broke off is told from a finished one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from hiperrag.answering.generators.base import FinishReason, GenerationCutError, Piece, UnavailableError

LONGEST_LINE = 1 << 20
LONGEST_ANSWER = 1 << 24
"""Bytes; more than a model writes, so that a server gone wrong does not fill the memory."""
_BROKEN_OFF = frozenset({"abort", "aborted", "cancelled", "content_filter", "error", "timeout"})
"""Reasons for the end that are not the model's own or its limit."""
GATHER_S = 0.0025
"""For each open stream, how long text may gather before it is read: many streams are read in larger pieces.

One token at a time costs the same in every layer up to the reader's screen, so hundreds of streams would be slow for
all of them. At 200 streams a piece comes every half second.
"""
LEAST_GATHER_S, LONGEST_GATHER_S = 0.02, 0.5


class Events:
    """The pieces of one answer, and what the server counted."""

    _open = 0
    """Streams that are being read, of all endpoints; they share one event loop."""

    def __init__(
        self, response: aiohttp.ClientResponse, where: str, conceal: Callable[[str], str], idle_s: float, first_s: float
    ) -> None:
        """`idle_s`: longest silence between two events, `first_s`: before the first one; keep-alives are silence."""
        self._response = response
        self._where = where
        self._conceal = conceal
        self._idle_s, self._first_s = idle_s, first_s
        self._finished = False
        self.total_tokens: int | None = None

    async def __aiter__(self) -> AsyncIterator[Piece]:
        kind = self._response.headers.get("content-type", "")
        if "html" in kind:
            raise UnavailableError(f"openai: {self._where} sent a web page, no answer; is the base URL right?")
        source = self._whole() if "application/json" in kind else self._gathered()
        async for several in source:
            pieces: list[Piece] = []
            trouble: GenerationCutError | None = None
            try:
                for data in several:
                    pieces += self._pieces(self._parsed(data))
            except GenerationCutError as error:
                trouble = error
            if pieces:
                finish = next((piece.finish for piece in pieces if piece.finish), None)
                yield Piece("".join(piece.text for piece in pieces), finish, sum(piece.tokens for piece in pieces))
            if trouble:
                raise trouble
        if not self._finished:
            raise GenerationCutError(f"openai: {self._where} ended the stream in the middle of the answer")

    def _pieces(self, event: dict[str, Any]) -> list[Piece]:
        if isinstance(event.get("usage"), dict):
            self.total_tokens = event["usage"].get("total_tokens")
        return [self._piece(choice) for choice in event.get("choices") or []]

    def _piece(self, choice: dict[str, Any]) -> Piece:
        text = (choice.get("delta") or choice.get("message") or {}).get("content") or ""
        reason = choice.get("finish_reason")
        if reason in _BROKEN_OFF:
            raise GenerationCutError(f"openai: {self._where} broke the answer off ({reason})")
        self._finished = self._finished or reason is not None
        finish: FinishReason | None = None if reason is None else "length" if reason == "length" else "stop"
        return Piece(text, finish, tokens=bool(text))

    async def _whole(self) -> AsyncIterator[list[bytes]]:
        """The answer of a server that does not stream."""
        yield [await self._response.read()]

    async def _gathered(self) -> AsyncIterator[list[bytes]]:
        """The data of events, those that one read brings together."""
        now = asyncio.get_running_loop().time
        silence = self._first_s
        Events._open += 1
        try:
            async with asyncio.timeout(silence) as idle:
                async for lines in self._lines():
                    # comments and keep-alives, and other fields of an event, are no data
                    found = [line[5:].strip() for line in lines if line.startswith(b"data:")]
                    if b"[DONE]" in found:
                        yield found[: found.index(b"[DONE]")]
                        return
                    if found:
                        silence = self._idle_s
                        idle.reschedule(now() + silence)
                        yield found
                        if (gather := min(GATHER_S * Events._open, LONGEST_GATHER_S)) >= LEAST_GATHER_S:
                            await asyncio.sleep(gather)
        except TimeoutError as error:
            if isinstance(error, aiohttp.ServerTimeoutError):
                raise
            raise GenerationCutError(f"openai: {self._where} sent no text for {silence:g} seconds") from error
        finally:
            Events._open -= 1

    async def _lines(self) -> AsyncIterator[list[bytes]]:
        """Lines by line feeds alone: JSON may hold every other character at which Python would split."""
        rest, total = b"", 0
        while chunk := await self._response.content.readany():
            total += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE or total > LONGEST_ANSWER:
                raise GenerationCutError(f"openai: {self._where} sends without end")
            yield lines
        yield [rest]

    def _parsed(self, data: bytes) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except ValueError as error:
            raise GenerationCutError(f"openai: {self._where} sent an event that is not JSON") from error
        if not isinstance(event, dict):
            raise GenerationCutError(f"openai: {self._where} sent an event that is no object")
        if event.get("error"):
            raise GenerationCutError(f"openai: {self._where} failed while answering: {self._conceal(said(event))}")
        return event


def said(payload: Any) -> str:
    """The server's own message on one line; errors come as {"error": {"message": ...}}, {"error": "..."} or detail."""
    if not isinstance(payload, dict):
        return ""
    error = payload.get("error") or payload.get("detail") or payload.get("message")
    message = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(message).split())[:200] if message else ""
