"""A streamed chat completion, read from server-sent events; a text that broke off is told from a finished one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from hiperrag.answering.generators.base import FinishReason, GenerationCutError, Piece, UnavailableError

LONGEST_LINE = 1 << 20
LONGEST_ANSWER = 1 << 24
"""Bytes; more than a model writes, so that a server gone wrong does not fill the memory."""
_BROKEN_OFF = frozenset({"abort", "aborted", "cancelled", "content_filter", "error", "timeout"})
"""Reasons for the end that are not the model's own or its limit."""


class Events:
    """The pieces of one answer, and what the server counted."""

    def __init__(
        self, response: httpx.Response, where: str, conceal: Callable[[str], str], idle_s: float, first_s: float
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
        source = self._whole() if "application/json" in kind else self._events()
        async for event in source:
            if isinstance(event.get("usage"), dict):
                self.total_tokens = event["usage"].get("total_tokens")
            for choice in event.get("choices") or []:
                yield self._piece(choice)
        if not self._finished:
            raise GenerationCutError(f"openai: {self._where} ended the stream in the middle of the answer")

    def _piece(self, choice: dict[str, Any]) -> Piece:
        text = (choice.get("delta") or choice.get("message") or {}).get("content") or ""
        reason = choice.get("finish_reason")
        if reason in _BROKEN_OFF:
            raise GenerationCutError(f"openai: {self._where} broke the answer off ({reason})")
        self._finished = self._finished or reason is not None
        finish: FinishReason | None = None if reason is None else "length" if reason == "length" else "stop"
        return Piece(text, finish, tokens=bool(text))

    async def _whole(self) -> AsyncIterator[dict[str, Any]]:
        """The answer of a server that does not stream."""
        yield self._parsed(await self._response.aread())

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        now = asyncio.get_running_loop().time
        silence = self._first_s
        try:
            async with asyncio.timeout(silence) as idle:
                async for line in self._lines():
                    if not line.startswith(b"data:"):
                        continue  # comments and keep-alives, and other fields of an event
                    data = line.removeprefix(b"data:").strip()
                    if data == b"[DONE]":
                        return
                    silence = self._idle_s
                    idle.reschedule(now() + silence)
                    yield self._parsed(data)
        except TimeoutError as error:
            raise GenerationCutError(f"openai: {self._where} sent no text for {silence:g} seconds") from error

    async def _lines(self) -> AsyncIterator[bytes]:
        """Lines by line feeds alone: JSON may hold every other character at which Python would split."""
        rest, total = b"", 0
        async for chunk in self._response.aiter_bytes():
            total += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE or total > LONGEST_ANSWER:
                raise GenerationCutError(f"openai: {self._where} sends without end")
            for line in lines:
                yield line.rstrip(b"\r")
        yield rest

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
