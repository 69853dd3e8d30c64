"""One event loop in a thread of its own, on which all requests to gateways run.

Reads that are awaited can be cancelled at any moment from any thread, which a blocked socket call cannot; and
hundreds of streams need one thread.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

_starting = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_endings: list[Callable[[], Coroutine[Any, Any, None]]] = []
_END_S = 2.0


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Start `work`; cancelling the future cancels it."""
    return asyncio.run_coroutine_threadsafe(work, _running())


def at_exit(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Await `close()` on the loop before the process ends."""
    _endings.append(close)


@atexit.register
def _end() -> None:
    if _endings:
        with contextlib.suppress(Exception):  # the process ends either way
            submit(_close_all()).result(_END_S)


async def _close_all() -> None:
    await asyncio.gather(*(close() for close in _endings), return_exceptions=True)


def _running() -> asyncio.AbstractEventLoop:
    global _loop
    with _starting:
        if _loop is None:
            _loop = uvloop.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="hiperrag-gateways", daemon=True).start()
        return _loop
