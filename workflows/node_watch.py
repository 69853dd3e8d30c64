"""Starts the workers of a node anew after a death that Parsl's manager would not notice, or not get over.

`python -m hiperrag.workflows.node_watch SCRIPT [ARGS]` runs Parsl's script with such a watch.

The manager replaces a worker that dies at work, and says which task was lost. But a worker that waits for a task holds
the lock of the queue, which nobody gets any more if it is killed then; and the process in which the manager keeps what
each worker is at (`multiprocessing.Manager`) is not watched at all. In both cases the node would go on giving signs of
life and do nothing forever. So everything is started again in place, inside the same job; tasks that were in flight on
the node count as lost with it, and are tried again.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import threading
import time
from collections.abc import Iterable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from hiperrag.workflows.leftovers import leave_nothing

PARSL_WATCHDOG = "worker-watchdog"
"""Name of the thread of Parsl's manager that replaces workers."""
SECONDS_BETWEEN_LOOKS = 1.0


def start_watching() -> None:
    """Watch the processes that this one will start as Parsl's manager, and leave none of them behind."""
    leave_nothing()
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    while (watchdog := _thread(PARSL_WATCHDOG)) is None:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    manager, workers = watchdog._target.__self__, watchdog._args[0]
    mourned: set[BaseProcess] = set()  # Parsl knows of them, though it may take a while to replace them
    while not manager._stop_event.is_set():
        watched = {*workers.values(), manager._mp_manager._process} - mourned
        wait([process.sentinel for process in watched], SECONDS_BETWEEN_LOOKS)
        dead = {number: one for number, one in workers.items() if one in watched and not one.is_alive()}
        if not manager._stop_event.is_set() and _is_stuck(manager, dead):
            _start_again()
        mourned = {*dead.values(), *mourned}.intersection(workers.values())


def _thread(name: str) -> Any:
    return next((thread for thread in threading.enumerate() if thread.name == name), None)


def _is_stuck(manager: Any, dead: Iterable[int]) -> bool:
    """Whether somebody died that Parsl does not replace as it should; workers that have just died at work, it does."""
    if not manager._mp_manager._process.is_alive():
        return True
    try:
        return any(number not in manager._tasks_in_progress for number in dead)
    except (EOFError, OSError):  # the process that knows has just died
        return True


def _start_again() -> None:
    for process in multiprocessing.active_children():
        process.kill()
    os.execv(sys.executable, sys.orig_argv)


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    start_watching()
    runpy.run_path(sys.argv[0], run_name="__main__")
