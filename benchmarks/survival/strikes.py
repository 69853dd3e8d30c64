"""What is done to a run: its processes are killed with SIGKILL, or the disk under its collection is filled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

KINDS = ("main", "worker", "node", "disk", "interchange")
"""`node`: the manager of a pool of workers and all its processes at once, as when a machine loses its power."""
STRUCK = KINDS[:4]
"""Those that the bar names."""


def processes_of(main: int) -> list[psutil.Process]:
    """Processes that work for a run: descendants of its main process, and those of its batch jobs on this machine."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        if str(main) in (process.info["cmdline"] or []) or process.pid == main:
            for one in (process, *_children(process)):
                found[one.pid] = one
    return [process for pid, process in found.items() if pid != main]


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def managers_of(main: int) -> list[psutil.Process]:
    """The processes that start and watch workers, one a node and pool."""
    return [one for one in processes_of(main) if "process_worker_pool.py" in " ".join(_command(one))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def kill(kind: str, main: int, rng: random.Random) -> bool:
    """Kill what `kind` says; False if there is no such process yet."""
    if kind == "main":
        os.kill(main, signal.SIGKILL)
        return True
    if kind == "interchange":
        targets = [one for one in processes_of(main) if "interchange" in " ".join(_command(one))]
    elif kind == "worker":
        targets = [one for manager in managers_of(main) for one in _children(manager) if _is_worker(one, manager)]
    else:
        targets = managers_of(main)
    if not targets:
        return False
    target = rng.choice(targets)
    if kind == "node":
        os.killpg(os.getpgid(target.pid), signal.SIGKILL)
    else:
        target.kill()
    return True


def _is_worker(process: psutil.Process, manager: psutil.Process) -> bool:
    try:
        return process.ppid() == manager.pid and "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:
        return False


class Disk:
    """A small file system in memory, which can be filled to the last byte; needs the right to mount."""

    def __init__(self, folder: Path, megabytes: int = 256) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        self._megabytes = megabytes

    def __enter__(self) -> Disk:
        self.folder.mkdir(parents=True)
        options = f"size={self._megabytes}m"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True, capture_output=True)
        self.folder.rmdir()

    def fill(self) -> None:
        """Take all that is free, also what became free since."""
        with self._filler.open("ab", buffering=0) as stream:
            for block in _blocks():
                try:
                    while stream.write(block) == len(block):
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink(missing_ok=True)

    @staticmethod
    def is_permitted(folder: Path) -> bool:
        """Whether this process may mount."""
        try:
            with Disk(folder, megabytes=1):
                return True
        except (OSError, subprocess.CalledProcessError):
            folder.rmdir()
            return False


def _blocks() -> Iterator[bytes]:
    for size in (1 << 20, 4096, 1):
        yield b"\0" * size
