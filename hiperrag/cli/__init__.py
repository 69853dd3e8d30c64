"""The command line. Modules with heavy imports are loaded by the command that needs them."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

_FULL = {errno.ENOSPC: "no space left on device", errno.EDQUOT: "the quota of the disk is used up"}


def main() -> None:
    """Entry point of the `hiperrag` command."""
    # Idle OpenMP threads that spin take the cores from those at work, tenfold so on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from hiperrag.cli.app import app

    run(lambda: app(standalone_mode=False))


def run(command: Callable[[], int | None]) -> NoReturn:
    """Exit with the status that a command returns, or after one line on what is in its way."""
    from typer.exceptions import Abort, TyperException

    from hiperrag.errors import UserError

    logging.raiseExceptions = False  # a full disk is told once, and not by each log on it
    try:
        sys.exit(command())
    except (UserError, TyperException) as error:
        from hiperrag.index import launch

        message = error.format_message() if isinstance(error, TyperException) else str(error)
        if launch.speaks():
            print(f"hiperrag: {message.replace('Value error, ', '')}", file=sys.stderr)  # Typer leaves Pydantic's words
        sys.exit(2)
    except (KeyboardInterrupt, Abort):
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"hiperrag: {where}{_FULL[error.errno]}; make room and run the same command again", file=sys.stderr)
        sys.exit(2)
