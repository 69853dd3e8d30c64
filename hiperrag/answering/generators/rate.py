"""Limits of requests and tokens per minute: the settings', the server's own, and the pauses it asks for."""

from __future__ import annotations

import dataclasses
import email.utils
import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping

MINUTE = 60.0
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_EPOCH = 1_000_000_000
"""Resets beyond this are times since 1970, not waits."""


@dataclasses.dataclass(slots=True, eq=False)
class Reservation:
    """A request's share of the limits: `at` is the time from which it may be sent."""

    at: float
    tokens: float
    requests: float = 1.0

    def settle(self, tokens: float) -> None:
        """Correct the estimate once the server has counted."""
        self.tokens = tokens

    def withdraw(self) -> None:
        """It was not sent."""
        self.tokens = self.requests = 0.0


class Pace:
    """When the next request may go, so that no limit is crossed in any minute. Used by one thread."""

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._fixed = {kind for kind, limit in self._limits.items() if limit is not None}
        self._clock = clock
        self._log: deque[Reservation] = deque()
        """The last minute's requests and those to come, in order of time."""
        self._told: dict[str, tuple[float, float]] = {}
        """What is left of each limit by the server's last word, and until when that holds."""
        self._paused_until = -math.inf

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how many tokens a request takes."""
        return self._limits["tokens"] is not None

    def reserve(self, tokens: float) -> Reservation:
        """A place behind all earlier reservations; `wait_s` says how long it is until then."""
        now = self._clock()
        while self._log and self._log[0].at <= now - MINUTE:
            self._log.popleft()
        reservation = Reservation(max(now, self._log[-1].at if self._log else now), tokens)
        for kind, limit in self._limits.items():
            if limit is not None:
                reservation.at = self._room(kind, limit, reservation)
        for kind, (left, until) in list(self._told.items()):
            need: float = getattr(reservation, kind)
            if now >= until:
                del self._told[kind]
            elif left < need:
                reservation.at = max(reservation.at, until)
            else:
                self._told[kind] = (left - need, until)
        self._log.append(reservation)
        return reservation

    def _room(self, kind: str, limit: float, new: Reservation) -> float:
        """The first moment from `new.at` on whose last minute has room for it (all of it, if it exceeds the limit)."""
        need = min(getattr(new, kind), limit)
        at = new.at
        used = sum(getattr(entry, kind) for entry in self._log if entry.at > at - MINUTE)
        for entry in self._log:
            if used + need <= limit:
                break
            if entry.at > at - MINUTE:
                at = entry.at + MINUTE
                used -= getattr(entry, kind)
        return at

    def wait_s(self, reservation: Reservation) -> float:
        """Seconds until it may be sent; grows where the server asks for a pause meanwhile."""
        return max(0.0, max(reservation.at, self._paused_until) - self._clock())

    def pause(self, seconds: float) -> None:
        """Send nothing for so long: the server asked for it."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def learn(self, headers: Mapping[str, str]) -> None:
        """Heed `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; settings go before the limits in them.

        What remains is taken to hold until the reset, whether the server means a window's end or a full bucket.
        """
        for kind in self._limits:
            limit, left = (_number(headers.get(f"x-ratelimit-{name}-{kind}")) for name in ("limit", "remaining"))
            reset = seconds(headers.get(f"x-ratelimit-reset-{kind}", ""))
            if limit and kind not in self._fixed:
                self._limits[kind] = limit
            if left is not None and reset is not None:
                self._told[kind] = (left, self._clock() + reset)


def seconds(text: str, now: Callable[[], float] = time.time) -> float | None:
    """Seconds from a Retry-After or reset value: `7`, `0.5`, `6m0s`, `20ms`, a time since 1970 or an HTTP date.

    None where it is none of them; never negative. RFC 9110, section 10.2.3.
    """
    text = text.strip()
    number = _number(text)
    if number is not None:
        return max(0.0, number - now() if number > _EPOCH else number)
    if text and _PARTS.sub("", text) == "":
        return sum(float(value) * _UNITS[unit] for value, unit in _PARTS.findall(text))
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now())
    except (ValueError, TypeError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
