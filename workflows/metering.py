"""What a task cost, and where it ran: measured on the worker, carried back with the task's result."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import resource
import socket
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap")


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """One task on one worker; times are Unix seconds of the worker's clock."""

    host: str
    worker: str
    pid: int
    started: float
    finished: float
    cpu_seconds: float
    """Of the worker and of the child processes that ended meanwhile."""
    bytes_read: int
    bytes_written: int
    """By system calls, pipes included; what is read through memory maps is not."""
    joules: tuple[float, float] | None
    """What this process's view of the host's energy meters stood at before and after; None where there is none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """A task's result with what it cost."""

    value: Any
    work: Work


class Metered:
    """A function that returns its result as `Measured`; an error it raises has the worker as its `place`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__ = function.__name__

    def __call__(self, *args: Any) -> Measured:
        started, cpu, (read, written), energy = time.time(), _cpu_seconds(), _bytes_moved(), energy_joules()
        try:
            value = self.function(*args)
        except Exception as error:
            error.place = socket.gethostname()  # type: ignore[attr-defined]
            raise
        read_after, written_after = _bytes_moved()
        energy_after = energy_joules()
        work = Work(
            host=socket.gethostname(),
            worker=worker_name(),
            pid=os.getpid(),
            started=round(started, 3),
            finished=round(time.time(), 3),
            cpu_seconds=round(_cpu_seconds() - cpu, 4),
            bytes_read=read_after - read,
            bytes_written=written_after - written,
            joules=None if energy is None or energy_after is None else (round(energy, 3), round(energy_after, 3)),
        )
        return Measured(value, work)


def place_of(error: BaseException) -> str:
    """The host on which a task failed or lost its worker; empty when it is not known."""
    named = re.search(r"\bon host ([\w.-]+)", str(error))
    return getattr(error, "place", "") or (named[1] if named else "")


def worker_name() -> str:
    """Names this worker among those of all nodes: by Parsl's block and rank, which a restarted worker keeps."""
    host = socket.gethostname()
    if "PARSL_WORKER_RANK" not in os.environ:
        return f"{host}:{os.getpid()}"
    return f"{host}:{os.environ.get('PARSL_WORKER_BLOCK_ID', '0')}.{os.environ['PARSL_WORKER_RANK']}"


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _bytes_moved() -> tuple[int, int]:
    """Bytes read and written so far by this process and its ended children."""
    try:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["rchar"]), int(fields["wchar"])
    except (OSError, KeyError, ValueError):
        return 0, 0


def energy_joules() -> float | None:
    """Joules used by this host's processors and GPUs since this process first asked; None where nothing meters them.

    Processors by RAPL (packages and DRAM; Linux lets only root read it unless a site opens it), GPUs by NVML. Others
    that use the host are counted as well.
    """
    try:
        readings = [meter.joules() for meter in _meters()]
    except (OSError, ValueError):
        return None
    return sum(readings) if readings else None


class _Rapl:
    """One domain's counter, which wraps around."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text()) + 1
        self._last, self._total = int(self._counter.read_text()), 0

    def joules(self) -> float:
        reading = int(self._counter.read_text())
        self._total += (reading - self._last) % self._range
        self._last = reading
        return self._total / 1e6


class _Gpu:
    """One GPU's counter, in millijoules since the driver was loaded."""

    def __init__(self, nvml: ctypes.CDLL, number: int) -> None:
        self._nvml, self._device = nvml, ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(self._device)):
            raise OSError("no such GPU")
        self._first = self._read()

    def _read(self) -> int:
        reading = ctypes.c_ulonglong()
        if self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(reading)):
            raise OSError("this GPU does not meter its energy")
        return reading.value

    def joules(self) -> float:
        return (self._read() - self._first) / 1e3


@cache
def _meters(rapl: Path = RAPL, nvml: str = "libnvidia-ml.so.1") -> list[_Rapl | _Gpu]:
    """The meters that this process may read; found once."""
    found: list[_Rapl | _Gpu] = []
    for folder in sorted(rapl.glob("intel-rapl:*")):
        try:
            if (folder / "name").read_text().startswith(("package", "dram")):
                found.append(_Rapl(folder))
        except (OSError, ValueError):
            continue
    try:
        library = ctypes.CDLL(nvml)
        number = ctypes.c_uint()
        if library.nvmlInit_v2() or library.nvmlDeviceGetCount_v2(ctypes.byref(number)):
            return found
    except (OSError, AttributeError):
        return found
    for index in range(number.value):
        try:
            found.append(_Gpu(library, index))
        except (OSError, AttributeError):
            continue
    return found
