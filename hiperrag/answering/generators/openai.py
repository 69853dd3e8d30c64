"""A generator behind an OpenAI-compatible HTTP server (`POST BASE_URL/chat/completions`, server-sent events)."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import httpx

from hiperrag.answering.generators.base import FinishReason, GenerationCutError, Message, Piece, TokenStream
from hiperrag.errors import UserError

_TIMEOUT = httpx.Timeout(120.0, connect=10.0)
"""Seconds; the read timeout bounds the wait for the next piece, so it covers a long prompt on a slow server."""
_BUSY = (429, 503)
_ATTEMPTS = 4
_LONGEST_WAIT_S = 60.0


class OpenAIGenerator:
    """`openai:BASE_URL#MODEL`. The key comes from OPENAI_API_KEY, and appears in no message and no spec."""

    capable = True

    def __init__(self, base_url: str, model: str, *, timeout: httpx.Timeout = _TIMEOUT) -> None:
        url = httpx.URL(base_url)
        if url.userinfo:
            raise UserError("openai: put the credential in OPENAI_API_KEY, not in the URL")
        self.spec = f"openai:{base_url}#{model}"
        self._model = model
        self._where = f"{url.host}:{url.port}" if url.port else url.host
        self._url = url.copy_with(path=url.path.rstrip("/") + "/chat/completions")
        self._timeout = timeout

    def stream(self, messages: list[Message], max_tokens: int) -> TokenStream:
        """Pieces of the answer; UserError where the server cannot be used, GenerationCutError where it breaks off."""
        return TokenStream(self._pieces(messages, max_tokens))

    def _pieces(self, messages: list[Message], max_tokens: int) -> Iterator[Piece]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
        }
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            with (
                httpx.Client(timeout=self._timeout, headers=headers) as client,
                self._response(client, body) as response,
            ):
                yield from self._events(response)
        except httpx.InvalidURL as error:
            raise UserError(f"openai: {self._url} is not a usable URL: {error}") from error
        except httpx.ConnectTimeout as error:
            raise UserError(f"openai: {self._where} did not answer; is the address reachable?") from error
        except httpx.ConnectError as error:
            raise UserError(f"openai: cannot connect to {self._where} ({error}); is it running?") from error
        except httpx.ReadTimeout as error:
            seconds = f"{self._timeout.read:g}"
            raise GenerationCutError(f"openai: {self._where} sent nothing for {seconds} seconds") from error
        except httpx.TransportError as error:
            raise GenerationCutError(f"openai: {self._where} broke the connection: {error}") from error

    @contextlib.contextmanager
    def _response(self, client: httpx.Client, body: dict[str, Any]) -> Iterator[httpx.Response]:
        """An accepted, open response; busy answers are asked again after the time the server names."""
        attempt = 1
        while True:
            with client.stream("POST", self._url, json=body) as response:
                if response.status_code == 200:
                    yield response
                    return
                response.read()
                if response.status_code == 400 and _without_refused(body, response):
                    continue
                if response.status_code not in _BUSY or attempt == _ATTEMPTS:
                    raise self._refusal(response)
                wait = _retry_after(response, default=2.0 ** (attempt - 1))
                if wait > _LONGEST_WAIT_S:
                    raise self._refusal(response)
            time.sleep(wait)
            attempt += 1

    def _refusal(self, response: httpx.Response) -> UserError:
        status, said = response.status_code, _error_message(response)
        match status:
            case 401 | 403:
                advice = "set OPENAI_API_KEY to a key this server accepts"
            case 404:
                advice = f"does it serve model {self._model!r}, and does the base URL end as it should (often /v1)?"
            case 429 | 503:
                wait = response.headers.get("retry-after")
                advice = "it is busy; try again" + (f" in {wait} seconds" if wait and wait.isdigit() else " later")
            case _ if 300 <= status < 400:
                advice = f"it redirects to {response.headers.get('location', 'nowhere')}; give that address"
            case _:
                advice = "see the server's own log"
        return UserError(f"openai: {self._where} answered {status}{f' ({said})' if said else ''}: {advice}")

    def _events(self, response: httpx.Response) -> Iterator[Piece]:
        finished = False
        for line in response.iter_lines():
            if not line.startswith("data:"):
                continue  # comments and keep-alives, and other fields of an event
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            try:
                event = json.loads(data)
            except json.JSONDecodeError as error:
                raise GenerationCutError(f"openai: {self._where} sent an event that is not JSON") from error
            if "error" in event:
                said = _said(event)
                raise GenerationCutError(f"openai: {self._where} failed while answering: {said}")
            for choice in event.get("choices") or []:
                text = (choice.get("delta") or {}).get("content") or ""
                reason = choice.get("finish_reason")
                finished = finished or reason is not None
                finish: FinishReason | None = None if reason is None else "length" if reason == "length" else "stop"
                yield Piece(text, finish, tokens=bool(text))
        if not finished:
            raise GenerationCutError(f"openai: {self._where} ended the stream in the middle of the answer")


def _without_refused(body: dict[str, Any], response: httpx.Response) -> bool:
    """Rewrite a body that a newer OpenAI model refuses; False where the refusal is about something else."""
    said = _error_message(response)
    if "max_tokens" in body and "max_completion_tokens" in said:
        body["max_completion_tokens"] = body.pop("max_tokens")
        return True
    if "temperature" in body and "temperature" in said:
        del body["temperature"]
        return True
    return False


def _retry_after(response: httpx.Response, default: float) -> float:
    """Seconds to wait before asking again."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return default


def _error_message(response: httpx.Response) -> str:
    try:
        return _said(response.json())
    except ValueError:
        return ""


def _said(payload: Any) -> str:
    """The server's own message, on one line; errors come as {"error": {"message": ...}} or {"error": "..."}."""
    error = payload.get("error") if isinstance(payload, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    text = " ".join(str(message).split())[:200] if message else ""
    key = os.environ.get("OPENAI_API_KEY")
    return text.replace(key, "***") if key else text
