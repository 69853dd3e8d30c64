"""Requests to an OpenAI-compatible server as a good citizen: tokens, limits, waits, and what went wrong in one line."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import ssl
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, NamedTuple

import aiohttp
import httpx
import yarl

from hiperrag.answering.generators import background
from hiperrag.answering.generators.base import (
    BusyError,
    GenerationCutError,
    Piece,
    UnavailableError,
    WarmingUpError,
)
from hiperrag.answering.generators.events import Events, said
from hiperrag.answering.generators.options import Endpoint, EndpointOptions
from hiperrag.answering.generators.rate import Pace, Reservation, seconds
from hiperrag.answering.generators.tokens import Tokens
from hiperrag.errors import UserError

CHAT = "chat/completions"
CONNECT_S = 10.0
QUICK_ATTEMPTS = 4
"""Refusals with next to no wait after which a busy server is given up."""
QUICK_S = 0.5
LONGEST_BACKOFF_S = 30.0
_NOTICE_S = 30.0
_WARMING = re.compile(r"\b(?:load|warm|start|initiali[sz]|cold|boot|spin|provision)", re.IGNORECASE)


class Reply(NamedTuple):
    """A response that was read to its end."""

    status: int
    headers: Mapping[str, str]
    path: str
    """Of the URL that was asked."""
    content: bytes

    def json(self) -> Any:
        """The JSON it holds; None where it holds none."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


class Gateway:
    """One endpoint. Its methods run on one event loop; connections are kept and used again.

    `patient`: waits where the server is busy, within its options' bounds; otherwise that is a BusyError at once.
    """

    def __init__(self, endpoint: Endpoint, *, patient: bool = True) -> None:
        self._options, self._model = endpoint.options, endpoint.model
        try:
            self._base = yarl.URL(endpoint.base_url.rstrip("/") + "/")
        except ValueError as error:
            raise UserError(f"openai: {endpoint.base_url} is not a usable URL: {error}") from error
        port = self._base.explicit_port
        self.where = f"{self._base.host}:{port}" if port else str(self._base.host)
        self._patient = patient
        self._tokens = Tokens(self._options)
        self._pace = Pace(self._options.requests_per_minute, self._options.tokens_per_minute)
        self._session: aiohttp.ClientSession | None = None
        self._noticed = -_NOTICE_S

    async def complete(self, body: dict[str, Any], tokens: float) -> AsyncGenerator[Piece, None]:
        """The pieces of a streamed chat completion; `tokens` is what prompt and answer may take.

        UnavailableError, BusyError or WarmingUpError where the server cannot be used, GenerationCutError where it
        breaks off, UserError where the fault is the request's.
        """
        if self._pace.counts_tokens:
            body = {**body, "stream_options": {"include_usage": True}}
        with self._one_line():
            response, reservation = await self._accepted("POST", CHAT, tokens, json=body)
            try:
                options = self._options
                events = Events(response, self.where, self._tokens.conceal, options.idle_s, options.warm_up_s)
                async for piece in events:
                    yield piece
                if events.total_tokens is not None:
                    reservation.settle(events.total_tokens)
            finally:
                response.close()

    async def call(self, method: str, path: str, tokens: float = 0.0, **content: Any) -> Reply:
        """Any other request under the base URL, answered in one piece; the same errors.

        `content`: `json`, or `form` with a text or (file name, bytes, content type) for each name.
        """
        with self._one_line():
            response, _ = await self._accepted(method, path, tokens, **content)
            return await _read(response)

    async def call_json(self, method: str, path: str, tokens: float = 0.0, **content: Any) -> dict[str, Any]:
        """The same, for paths that answer with a JSON object."""
        parsed = (await self.call(method, path, tokens, **content)).json()
        if not isinstance(parsed, dict):
            raise UnavailableError(f"openai: {self.where} sent no JSON object for {path.partition('?')[0]}")
        return parsed

    async def trouble(self, timeout_s: float = 5.0) -> str | None:
        """Why the server cannot be used at this moment; None where it answers and, if it lists models, has ours."""
        try:
            async with asyncio.timeout(timeout_s):
                with self._one_line():
                    reply = await _read(await self._send("GET", "models", await self._tokens.current()))
        except TimeoutError:
            return f"openai: {self.where} did not answer within {timeout_s:g} seconds"
        except UserError as error:
            return str(error)
        if reply.status in (401, 403) or reply.status >= 500:
            return str(self._refusal(reply, 0))
        with contextlib.suppress(KeyError, TypeError):
            names = [model["id"] for model in reply.json()["data"]]
            if names and self._model not in names:
                return f"openai: {self.where} does not serve model {self._model!r}"
        return None

    async def _send(
        self,
        method: str,
        path: str,
        token: str | None,
        *,
        json: Any = None,
        form: Mapping[str, str | tuple[str, bytes, str]] | None = None,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=_certificates()),
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=self._options.idle_s),
                proxy=_proxy(self._base),
            )
            background.at_exit(self._session.close)
        return await self._session.request(
            method,
            self._base.join(yarl.URL(path)),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            json=json,
            data=_form_data(form) if form else None,
            allow_redirects=False,
        )

    async def _accepted(
        self, method: str, path: str, tokens: float, **content: Any
    ) -> tuple[aiohttp.ClientResponse, Reservation]:
        """An open response of status 2xx, after waiting and asking again as long as it makes sense."""
        patience = _Patience(self._options if self._patient else None)
        renewed = reconnected = False
        while True:
            reservation = await self._turn(tokens, patience)
            token = await self._tokens.current()
            try:
                response = await self._send(method, path, token, **content)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                reservation.withdraw()
                if reconnected or isinstance(error, aiohttp.ClientConnectorError):
                    raise
                reconnected = True  # the server had closed a connection that was kept
                continue
            self._pace.learn(response.headers)
            if response.status // 100 == 2:
                return response, reservation
            reply = await _read(response)
            if reply.status == 401 and self._tokens.renewable and not renewed:
                renewed = True
                self._tokens.refused(token)
                continue
            if reply.status in (400, 422) and _without_refused(content.get("json"), reply):
                continue
            refusal = self._refusal(reply, patience.attempts)
            if not isinstance(refusal, BusyError):
                raise refusal
            patience.spend(refusal)
            self._pace.pause(refusal.retry_after_s)
            if isinstance(refusal, WarmingUpError):
                self._notice(refusal)

    async def _turn(self, tokens: float, patience: _Patience) -> Reservation:
        reservation = self._pace.reserve(tokens)
        try:
            while (wait := self._pace.wait_s(reservation)) > 0:
                if not patience.allows(wait):
                    raise BusyError(f"openai: {self.where} takes the next request in {wait:.0f} seconds", wait)
                await asyncio.sleep(wait)
        except BaseException:
            reservation.withdraw()
            raise
        return reservation

    def _notice(self, error: WarmingUpError) -> None:
        now = time.monotonic()
        if now - self._noticed >= _NOTICE_S:
            self._noticed = now
            bound = f"waiting up to {self._options.warm_up_s:g} seconds for it"
            print(f"{error}; {bound}", file=sys.stderr, flush=True)

    def _refusal(self, reply: Reply, attempts: int) -> UserError:
        """What a status other than 2xx means."""
        status, words = reply.status, self._tokens.conceal(said(reply.json()))
        answered = f"openai: {self.where} answered {status}{f' ({words})' if words else ''}"
        match status:
            case 429 | 503:
                return _busy(reply, answered, words, attempts)
            case 401 | 403:
                return UnavailableError(f"{answered}: {self._tokens.advice}")
            case 404 if not reply.path.endswith(f"/{CHAT}"):
                return UserError(f"{answered}: it has no {reply.path}")
            case 404:
                model = f"does it serve model {self._model!r}, and does the base URL end as it should (often /v1)?"
                return UnavailableError(f"{answered}: {model}")
            case _ if 300 <= status < 400:
                there = reply.headers.get("location", "nowhere")
                return UnavailableError(f"{answered}: it redirects to {there}; give that address")
            case 400 | 413 | 422:
                return UserError(f"{answered}: it does not take this request; see the server's own log")
            case _:
                return UnavailableError(f"{answered}: see the server's own log")

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        """aiohttp's errors as ours."""
        try:
            yield
        except aiohttp.InvalidURL as error:
            raise UserError(f"openai: {self._base} is not a usable URL: {error}") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise UnavailableError(f"openai: {self.where} did not answer; is the address reachable?") from error
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error
            raise UnavailableError(f"openai: cannot connect to {self.where} ({reason}); is it running?") from error
        except aiohttp.ClientSSLError as error:
            raise UnavailableError(f"openai: cannot connect to {self.where} ({error}); is it running?") from error
        except aiohttp.ServerTimeoutError as error:
            silence = f"{self._options.idle_s:g} seconds"
            raise GenerationCutError(f"openai: {self.where} sent nothing for {silence}") from error
        except aiohttp.ClientError as error:
            raise GenerationCutError(f"openai: {self.where} broke the connection: {error}") from error


async def _read(response: aiohttp.ClientResponse) -> Reply:
    try:
        content = await response.read()
    finally:
        response.close()
    return Reply(response.status, response.headers, response.url.path, content)


def _form_data(form: Mapping[str, str | tuple[str, bytes, str]]) -> aiohttp.FormData:
    data = aiohttp.FormData()
    for name, value in form.items():
        if isinstance(value, str):
            data.add_field(name, value)
        else:
            filename, content, kind = value
            data.add_field(name, content, filename=filename, content_type=kind)
    return data


def _proxy(url: yarl.URL) -> str | None:
    """The proxy that the environment (HTTPS_PROXY, NO_PROXY and so on) names for a URL."""
    if not url.host or urllib.request.proxy_bypass(url.host):
        return None
    return urllib.request.getproxies().get(url.scheme)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Reading the authorities' certificates takes a tenth of a second: once for all endpoints."""
    return httpx.create_ssl_context()


class _Patience:
    """How long one request goes on waiting."""

    def __init__(self, options: EndpointOptions | None) -> None:
        self._options = options
        self._began = time.monotonic()
        self._bound = options.wait_s if options else QUICK_S
        self._quick = 0
        self.attempts = 0

    def allows(self, wait: float) -> bool:
        return time.monotonic() - self._began + wait <= self._bound

    def spend(self, error: BusyError) -> None:
        """Wait for what the error says, or raise it."""
        self.attempts += 1
        self._quick += error.retry_after_s < QUICK_S
        if self._options is None:
            raise error
        if isinstance(error, WarmingUpError):
            self._bound = max(self._bound, self._options.warm_up_s)
        if self._quick >= QUICK_ATTEMPTS or not self.allows(error.retry_after_s):
            raise error


def _busy(reply: Reply, answered: str, words: str, attempts: int) -> BusyError:
    named = seconds(reply.headers.get("retry-after", ""))
    payload = reply.json()
    estimated = payload.get("estimated_time") if isinstance(payload, dict) else None
    wait = named if named is not None else min(LONGEST_BACKOFF_S, 2.0**attempts)
    if reply.status == 503 and (isinstance(estimated, int | float) or _WARMING.search(words)):
        if named is None and isinstance(estimated, int | float):
            wait = min(LONGEST_BACKOFF_S, max(1.0, float(estimated)))
        return WarmingUpError(f"{answered}: the model is being loaded", wait)
    when = f"in {wait:.0f} seconds" if named is not None and wait >= 1 else "later"
    return BusyError(f"{answered}: it is busy; try again {when}", wait)


def _without_refused(body: dict[str, Any] | None, reply: Reply) -> bool:
    """Rewrite a body that a server refuses for a parameter; False where the refusal is about something else."""
    words = said(reply.json())
    if body is None:
        return False
    if "max_tokens" in body and "max_completion_tokens" in words:
        body["max_completion_tokens"] = body.pop("max_tokens")
        return True
    for name in ("temperature", "stream_options"):
        if name in body and name in words:
            del body[name]
            return True
    return False
