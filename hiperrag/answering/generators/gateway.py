"""Requests to an OpenAI-compatible server as a good citizen: tokens, limits, waits, and what went wrong in one line."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import ssl
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import httpx

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
_KEPT_CONNECTIONS = 64
_WARMING = re.compile(r"\b(?:load|warm|start|initiali[sz]|cold|boot|spin|provision)", re.IGNORECASE)


class Gateway:
    """One endpoint. Its methods run on one event loop; connections are kept and used again.

    `patient`: waits where the server is busy, within its options' bounds; otherwise that is a BusyError at once.
    """

    def __init__(self, endpoint: Endpoint, *, patient: bool = True) -> None:
        self._options, self._model = endpoint.options, endpoint.model
        try:
            self._base = httpx.URL(endpoint.base_url.rstrip("/") + "/")
        except httpx.InvalidURL as error:
            raise UserError(f"openai: {endpoint.base_url} is not a usable URL: {error}") from error
        self.where = f"{self._base.host}:{self._base.port}" if self._base.port else self._base.host
        self._patient = patient
        self._tokens = Tokens(self._options)
        self._pace = Pace(self._options.requests_per_minute, self._options.tokens_per_minute)
        self._client: httpx.AsyncClient | None = None
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
                await response.aclose()

    async def call(self, method: str, path: str, tokens: float = 0.0, **content: Any) -> httpx.Response:
        """Any other request under the base URL, answered in one piece; the same errors."""
        with self._one_line():
            response, _ = await self._accepted(method, path, tokens, **content)
            try:
                await response.aread()
            finally:
                await response.aclose()
            return response

    async def call_json(self, method: str, path: str, tokens: float = 0.0, **content: Any) -> dict[str, Any]:
        """The same, for paths that answer with a JSON object."""
        parsed = _json(await self.call(method, path, tokens, **content))
        if not isinstance(parsed, dict):
            raise UnavailableError(f"openai: {self.where} sent no JSON object for {path.partition('?')[0]}")
        return parsed

    async def trouble(self, timeout_s: float = 5.0) -> str | None:
        """Why the server cannot be used at this moment; None where it answers and, if it lists models, has ours."""
        try:
            async with asyncio.timeout(timeout_s):
                with self._one_line():
                    response = await self._http().send(await self._request("GET", "models"))
        except TimeoutError:
            return f"openai: {self.where} did not answer within {timeout_s:g} seconds"
        except UserError as error:
            return str(error)
        if response.status_code in (401, 403) or response.status_code >= 500:
            return str(self._refusal(response, 0))
        with contextlib.suppress(ValueError, KeyError, TypeError):
            names = [model["id"] for model in response.json()["data"]]
            if names and self._model not in names:
                return f"openai: {self.where} does not serve model {self._model!r}"
        return None

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                verify=_certificates(),
                timeout=httpx.Timeout(self._options.idle_s, connect=CONNECT_S),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT_CONNECTIONS),
            )
        return self._client

    async def _request(self, method: str, path: str, **content: Any) -> httpx.Request:
        token = await self._tokens.current()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = self._http().build_request(method, self._base.join(path), headers=headers, **content)
        request.extensions["token"] = token
        return request

    async def _accepted(
        self, method: str, path: str, tokens: float, **content: Any
    ) -> tuple[httpx.Response, Reservation]:
        """An open response of status 2xx, after waiting and asking again as long as it makes sense."""
        patience = _Patience(self._options if self._patient else None)
        renewed = reconnected = False
        while True:
            reservation = await self._turn(tokens, patience)
            request = await self._request(method, path, **content)
            try:
                response = await self._http().send(request, stream=True)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                reservation.withdraw()
                if reconnected:
                    raise
                reconnected = True  # the server had closed a connection that was kept
                continue
            self._pace.learn(response.headers)
            if response.is_success:
                return response, reservation
            try:
                await response.aread()
            finally:
                await response.aclose()
            if response.status_code == 401 and self._tokens.renewable and not renewed:
                renewed = True
                self._tokens.refused(request.extensions["token"])
                continue
            if response.status_code in (400, 422) and _without_refused(content.get("json"), response):
                continue
            error = self._refusal(response, patience.attempts)
            if not isinstance(error, BusyError):
                raise error
            patience.spend(error)
            self._pace.pause(error.retry_after_s)
            if isinstance(error, WarmingUpError):
                self._notice(error)

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

    def _refusal(self, response: httpx.Response, attempts: int) -> UserError:
        """What a status other than 2xx means."""
        status, words = response.status_code, self._tokens.conceal(said(_json(response)))
        answered = f"openai: {self.where} answered {status}{f' ({words})' if words else ''}"
        match status:
            case 429 | 503:
                return _busy(response, answered, words, attempts)
            case 401 | 403:
                return UnavailableError(f"{answered}: {self._tokens.advice}")
            case 404 if not response.request.url.path.endswith(f"/{CHAT}"):
                return UserError(f"{answered}: it has no {response.request.url.path}")
            case 404:
                model = f"does it serve model {self._model!r}, and does the base URL end as it should (often /v1)?"
                return UnavailableError(f"{answered}: {model}")
            case _ if 300 <= status < 400:
                there = response.headers.get("location", "nowhere")
                return UnavailableError(f"{answered}: it redirects to {there}; give that address")
            case 400 | 413 | 422:
                return UserError(f"{answered}: it does not take this request; see the server's own log")
            case _:
                return UnavailableError(f"{answered}: see the server's own log")

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        """httpx's errors as ours."""
        try:
            yield
        except httpx.InvalidURL as error:
            raise UserError(f"openai: {self._base} is not a usable URL: {error}") from error
        except httpx.ConnectTimeout as error:
            raise UnavailableError(f"openai: {self.where} did not answer; is the address reachable?") from error
        except httpx.ConnectError as error:
            raise UnavailableError(f"openai: cannot connect to {self.where} ({error}); is it running?") from error
        except httpx.TimeoutException as error:
            silence = f"{self._options.idle_s:g} seconds"
            raise GenerationCutError(f"openai: {self.where} sent nothing for {silence}") from error
        except httpx.TransportError as error:
            raise GenerationCutError(f"openai: {self.where} broke the connection: {error}") from error


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


def _busy(response: httpx.Response, answered: str, words: str, attempts: int) -> BusyError:
    named = seconds(response.headers.get("retry-after", ""))
    payload = _json(response)
    estimated = payload.get("estimated_time") if isinstance(payload, dict) else None
    wait = named if named is not None else min(LONGEST_BACKOFF_S, 2.0**attempts)
    if response.status_code == 503 and (isinstance(estimated, int | float) or _WARMING.search(words)):
        if named is None and isinstance(estimated, int | float):
            wait = min(LONGEST_BACKOFF_S, max(1.0, float(estimated)))
        return WarmingUpError(f"{answered}: the model is being loaded", wait)
    when = f"in {wait:.0f} seconds" if named is not None and wait >= 1 else "later"
    return BusyError(f"{answered}: it is busy; try again {when}", wait)


def _without_refused(body: dict[str, Any] | None, response: httpx.Response) -> bool:
    """Rewrite a body that a server refuses for a parameter; False where the refusal is about something else."""
    words = said(_json(response))
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


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
