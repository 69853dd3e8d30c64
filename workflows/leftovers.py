"""Ends what a Parsl pool leaves behind when it is killed: `python -m hiperrag.workflows.leftovers PID` waits for that.

Parsl's workers notice the end of their manager only between two tasks, and the process in which the manager keeps what
each worker is at (`multiprocessing.Manager`) never does. All that a pool starts can be told by its environment.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys

import psutil

POOL_VARIABLE = "HIPERRAG_POOL"
"""Environment variable with the pool's process number, for all processes that descend from it."""


def leave_nothing() -> None:
    """Have whatever this process starts from now on killed after it, however it ends."""
    os.environ[POOL_VARIABLE] = str(os.getpid())
    quiet = subprocess.DEVNULL
    subprocess.Popen([sys.executable, "-m", __name__, str(os.getpid())], stdin=quiet, stdout=quiet, stderr=quiet)


def left_by(pool: int) -> list[psutil.Process]:
    """The processes that descend from a pool, this one not among them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(POOL_VARIABLE) == str(pool) and process.pid not in (pool, os.getpid()):
                found.append(process)
        except (psutil.Error, OSError):  # gone, or not ours
            continue
    return found


def main() -> None:
    """What the module does when it is run."""
    pool = int(sys.argv[1])
    with contextlib.suppress(ProcessLookupError):
        select.select([os.pidfd_open(pool)], [], [])
    for process in left_by(pool):
        try:
            process.kill()
        except psutil.Error:
            continue


if __name__ == "__main__":
    main()
