"""Run a Python script that ends when the main process does: `python -m hiperrag.workflows.tethered PID SCRIPT [ARGS]`.

A main process killed with SIGKILL cannot stop Parsl's interchange and workers; left alone, they would go on working, or
wait for it forever. Ctrl-C is ignored here, because it is meant for the main process, which then stops them in order.
"""

from __future__ import annotations

import importlib
import logging
import os
import runpy
import select
import signal
import sys
import threading
from typing import Any

from hiperrag.workflows.node_watch import start_watching


def end_with(pid: int) -> None:
    """Kill this process when process `pid` has ended, and with it its process group unless that is also `pid`'s."""
    try:
        watched = os.pidfd_open(pid)
        shares_group = os.getpgid(pid) == os.getpgrp()
    except ProcessLookupError:
        sys.exit("the main process is gone")

    def watch() -> None:
        select.select([watched], [], [])
        if shares_group:
            os._exit(1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _begin(pid: int) -> None:
    logging.raiseExceptions = False  # a full disk is told by the main process, and not by each log on it
    end_with(pid)


def call_tethered(pid: int, module: str, name: str, *args: Any, **kwargs: Any) -> None:
    """Call a function of a module in this process, which ends with process `pid`."""
    _begin(pid)
    getattr(importlib.import_module(module), name)(*args, **kwargs)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _begin(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    if sys.argv[0].endswith("process_worker_pool.py"):
        start_watching()
    runpy.run_path(sys.argv[0], run_name="__main__")
