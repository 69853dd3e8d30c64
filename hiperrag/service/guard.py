"""What every request passes before a route sees it: security headers, who asks, how often, how much, for how long."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import Iterator

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hiperrag.service.auth import Caller, check_origin, identify
from hiperrag.service.errors import ApiError, api_error
from hiperrag.service.state import Service

OPEN_PATHS = ("/health", "/login")
"""All that is reached without a key."""
COUNTED_PATHS = "/v1/"
"""Requests below it count against the limit of requests per minute."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            response = _Outgoing(send)
            with self._measured(scope, response):
                await self._answer(scope, receive, response)

    async def _answer(self, scope: Scope, receive: Receive, send: _Outgoing) -> None:
        try:
            self._admit(scope)
            settings = self._service.settings
            limited = _Incoming(receive, settings.max_request_bytes, settings.request_timeout_s)
            limited.check_length(HTTPConnection(scope).headers.get("content-length"))
            await self._app(scope, limited, send)
        except Exception as error:
            refused = api_error(error)
            if send.status:
                return  # the client sees that the response has no end
            if refused.status == 401 and _is_person(scope):
                await RedirectResponse("/login", 303)(scope, receive, send)
            else:
                await refused.response()(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Let a request through, or raise the ApiError that it is answered with."""
        service, connection = self._service, HTTPConnection(scope)
        state = scope.setdefault("state", {})
        path: str = scope["path"]
        self._check_host(connection)
        if path in OPEN_PATHS:
            check_origin(connection, service.settings)
            address = connection.client.host if connection.client else ""
            state["caller"] = Caller("anonymous", address, frozenset())
            if path == "/login" and scope["method"] == "POST":
                _hold(service.logins.wait_s(address))
            return
        who = identify(connection, service)
        state["caller"] = who
        if path.startswith(COUNTED_PATHS):
            _hold(service.limits.wait_s(who.name if service.ring else who.address))
            if service.starting:
                raise ApiError(503, "the service is starting; try again in a moment", code="starting")

    def _check_host(self, connection: HTTPConnection) -> None:
        """403 for a name that is not this machine's, where only this machine is served and no key is asked for.

        A web page could point a name of its own at 127.0.0.1 (DNS rebinding) and have a browser here read the answers.
        """
        settings = self._service.settings
        if self._service.ring or not settings.on_loopback:
            return
        host = connection.headers.get("host", "")
        if not _is_local(host) and (not host or host != settings.public_host):
            raise ApiError(403, "requests by this host name are not answered; see --base-url", code="unknown_host")

    @contextlib.contextmanager
    def _measured(self, scope: Scope, response: _Outgoing) -> Iterator[None]:
        metrics, started = self._service.metrics, time.monotonic()
        metrics.in_progress.inc()
        try:
            yield
        finally:
            metrics.in_progress.dec()
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.requests.labels(route, method, str(response.status or "none")).inc()
            metrics.seconds.labels(route).observe(time.monotonic() - started)


class _Outgoing:
    """`send` that adds the headers every response has; `status` is 0 until the response begins."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


class _Incoming:
    """`receive` that ends with 413 or 408 when a body gets too long or takes too long.

    These are HTTPExceptions, the only kind that FastAPI lets through while it reads a body.
    """

    def __init__(self, receive: Receive, most_bytes: int, timeout_s: float) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._ends = time.monotonic() + timeout_s
        self._n_bytes = 0
        self._whole = False

    def check_length(self, declared: str | None) -> None:
        """413 where the request itself says that it is too long."""
        if declared and declared.isdecimal() and int(declared) > self._most_bytes:
            raise self._too_large()

    async def __call__(self) -> Message:
        if self._whole:  # what is left to come is the client's leaving
            return await self._receive()
        try:
            async with asyncio.timeout(self._ends - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the request's body did not come in time") from None
        if message["type"] == "http.request":
            self._n_bytes += len(message.get("body", b""))
            if self._n_bytes > self._most_bytes:
                raise self._too_large()
            self._whole = not message.get("more_body", False)
        return message

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"a request may have {self._most_bytes} bytes at most")


def _hold(wait_s: float) -> None:
    if wait_s > 0:
        raise ApiError(429, f"too many requests; the next one is answered in {wait_s:.0f} s", retry_after_s=wait_s)


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.strip("[]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_person(scope: Scope) -> bool:
    """Whether a browser asks for a page."""
    headers = HTTPConnection(scope).headers
    return scope["method"] == "GET" and "text/html" in headers.get("accept", "") and "authorization" not in headers
