"""A change to a collection in a process of its own that is killed on its way; for the tests of maintenance."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "shutil.rmtree"}
"""Audit events that say that the process changes files, besides `open` for writing."""
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["hiperrag.workflows.maintenance", "hiperrag.index.build", "faiss"])


def run_and_kill(root: Path, at: int | None, function: Callable[..., Any], *arguments: Any) -> int:
    """Call a function in another process, killed with SIGKILL just before its change number `at` of files under `root`.

    Returns how many changes it began, if it was let live.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_work, args=(str(root), at, sender, function, arguments))
    process.start()
    sender.close()
    process.join(60)
    if process.exitcode == -signal.SIGKILL:
        return -1
    assert process.exitcode == 0, process.exitcode
    changes: int = receiver.recv()
    return changes


def _work(root: str, at: int | None, sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    changes = 0

    def count(event: str, details: tuple[Any, ...]) -> None:
        nonlocal changes
        written = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in EVENTS or written) and root in str(details[0]):
            if changes == at:
                os.kill(os.getpid(), signal.SIGKILL)
            changes += 1

    sys.addaudithook(count)
    function(*arguments)
    sender.send(changes)
