"""How commands that take long end when told to: by Ctrl-C, or by SIGTERM, which schedulers send before they kill."""

from __future__ import annotations

import signal
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def heed_sigterm() -> None:
    """Have SIGTERM end the command in the same order as Ctrl-C."""
    signal.signal(signal.SIGTERM, _terminate)


class NotedStop:
    """Within this context SIGTERM and the first Ctrl-C are noted in `stop`, for work that ends at a whole step."""

    def __init__(self) -> None:
        self.stop: KeyboardInterrupt | None = None

    def __enter__(self) -> NotedStop:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.stop is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def exit_status(stop: KeyboardInterrupt) -> int:
    """143 after SIGTERM, 130 after Ctrl-C."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
