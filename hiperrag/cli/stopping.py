"""How commands that take long end when told to: by Ctrl-C, or by SIGTERM, which schedulers send before they kill."""

from __future__ import annotations

import signal
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def heed_sigterm() -> None:
    """Have SIGTERM end the command in the same order as Ctrl-C."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def exit_status(stop: KeyboardInterrupt) -> int:
    """143 after SIGTERM, 130 after Ctrl-C."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
