"""Warm start: what a worker process loads once and keeps for its next tasks (paper, section "Workflow").

One slot per process, keyed by factory and arguments: asking for something else drops the old object before the
new one is made, so that two models never share the memory of one accelerator.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_slot: tuple[tuple[Any, ...], Any] | None = None


def warm(factory: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return `factory(*args, **kwargs)`, made on the first call in this process and reused until the key changes."""
    global _slot
    key = (factory, args, tuple(sorted(kwargs.items())))
    if _slot is None or _slot[0] != key:
        _slot = None
        gc.collect()
        _slot = (key, factory(*args, **kwargs))
    value: T = _slot[1]
    return value
