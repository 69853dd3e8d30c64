"""Who asks: a key in the Authorization header, the web page's session, or anybody where there are no keys."""

from __future__ import annotations

import dataclasses
import secrets
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.requests import HTTPConnection

from hiperrag.service.errors import ApiError
from hiperrag.service.keys import Key, digest

if TYPE_CHECKING:
    from hiperrag.service.serving import ServedCollection
    from hiperrag.service.settings import ServiceSettings
    from hiperrag.service.state import Service

COOKIE = "hiperrag_session"
SESSION_S = 12 * 3600.0
_MOST_SESSIONS = 10_000
_LONGEST_KEY = 512
_READING = ("GET", "HEAD", "OPTIONS")


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request; `address` is where from."""

    name: str
    address: str = ""
    collections: frozenset[str] | None = None
    """Those it may ask; None for all."""

    def may(self, collection: str) -> bool:
        """Whether it may ask this collection."""
        return self.collections is None or collection in self.collections


def service(request: Request) -> Service:
    """The service that a request was sent to; a FastAPI dependency, as `caller` is."""
    found: Service = request.app.state.service
    return found


def caller(request: Request) -> Caller:
    """Who sent the request; the guard found out before any route was run."""
    found: Caller = request.state.caller
    return found


def collection_of(request: Request, name: str, param: str) -> ServedCollection:
    """The collection of this name, or 403 and 404; who may not ask it is not told whether it is there."""
    if not caller(request).may(name):
        raise ApiError(403, "this key does not open that collection", param=param, code="collection_forbidden")
    found = service(request).collections.get(name)
    if found is None:
        raise ApiError(404, "no collection of that name is served here", param=param, code="collection_not_found")
    return found


class Sessions:
    """Sessions of the web page. They live in memory, at most SESSION_S, and no longer than the key they stand for."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, key: Key) -> str:
        """The token of a new session, for its cookie."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._held[digest(token)] = (key.sha256, time.monotonic() + SESSION_S)
            while len(self._held) > _MOST_SESSIONS:
                self._held.popitem(last=False)
        return token

    def key_digest(self, token: str) -> str | None:
        """The digest of the session's key; None where the session is over."""
        with self._lock:
            hashed, ends = self._held.get(digest(token), ("", 0.0))
        return hashed if ends > time.monotonic() else None

    def close(self, token: str) -> None:
        """End a session."""
        with self._lock:
            self._held.pop(digest(token), None)


def identify(connection: HTTPConnection, here: Service) -> Caller:
    """Who sent a request; 401 where a key is needed and there is none that counts, 403 for another site's request."""
    address = connection.client.host if connection.client else ""
    if here.ring is None:
        check_origin(connection, here.settings)
        return Caller("anonymous", address)
    bearer = _bearer(connection)
    if bearer is not None:
        key = here.ring.find(digest(bearer)) if len(bearer) <= _LONGEST_KEY else None
        if key is None:
            raise ApiError(401, "this key is not valid here")
        return caller_of(key, address)
    token = connection.cookies.get(COOKIE)
    hashed = here.sessions.key_digest(token) if token else None
    key = here.ring.find(hashed) if hashed else None
    if key is None:
        raise ApiError(401, "a key is needed: send the header `Authorization: Bearer KEY`", code="missing_api_key")
    check_origin(connection, here.settings, required=True)
    return caller_of(key, address)


def caller_of(key: Key, address: str) -> Caller:
    """The holder of a key."""
    return Caller(key.name, address, None if key.collections is None else frozenset(key.collections))


def check_origin(connection: HTTPConnection, settings: ServiceSettings, *, required: bool = False) -> None:
    """403 for a request that changes or computes something and that a page of another site had a browser send.

    Browsers name the page's origin; other programs send none. With `required`, one that names none is refused too.
    """
    if connection.scope["method"] in _READING:
        return
    origin = connection.headers.get("origin")
    if origin is None:
        if required and connection.headers.get("sec-fetch-site") != "same-origin":
            raise ApiError(403, "this request does not say which page sent it", code="cross_origin")
    elif origin.partition("://")[2] not in (connection.headers.get("host"), settings.public_host or None):
        raise ApiError(403, "requests from pages of other sites are not answered", code="cross_origin")


def _bearer(connection: HTTPConnection) -> str | None:
    kind, _, key = connection.headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else None
