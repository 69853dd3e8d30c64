"""How often one caller may ask, and how much is worked on at a time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque

_WINDOW_S = 60.0
_MOST_CALLERS = 10_000
"""Callers remembered; those heard of longest ago are forgotten first."""


class RateLimit:
    """At most `per_minute` requests of a caller in any 60 seconds; 0 for any number."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._asked: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, caller: str) -> float:
        """Seconds until the caller may ask; 0 where it may at once, and then this request is counted."""
        if not self._per_minute:
            return 0.0
        now = time.monotonic()
        with self._lock:
            times = self._asked.setdefault(caller, deque())
            self._asked.move_to_end(caller)
            while len(self._asked) > _MOST_CALLERS:
                self._asked.popitem(last=False)
            while times and times[0] <= now - _WINDOW_S:
                times.popleft()
            if len(times) >= self._per_minute:
                return times[0] + _WINDOW_S - now
            times.append(now)
        return 0.0


class Slots:
    """How many requests are worked on, out of how many may be."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """One more, if there is room."""
        with self._lock:
            if self.taken >= self.total:
                return False
            self.taken += 1
        return True

    def give_back(self) -> None:
        """One is done."""
        with self._lock:
            self.taken -= 1
