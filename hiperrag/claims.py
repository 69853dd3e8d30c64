"""Who works on a collection: claims as files, which hold on network file systems where locks do not.

Three kinds of file lie in the folder `claims` of a collection, each made exclusively, which every file system does
atomically, and none of them is ever locked:

| file | what |
|---|---|
| job-RUN | a command that works on the collection: host, process, since when; touched every 15 seconds |
| claim-NAME | what one job works on alone, such as a shard; holds for as long as the job lives |
| turn-N, turn-N.free | whose turn it is to change what all share: the manifest, the plan, the other claims |
| left | touched when a job has left or was retired, so that what it had claimed is free |

A job is dead when its process is gone, as far as that can be seen from here, or when its file has not been touched for
two minutes. Both times are those that the file system gives to files, so clocks of hosts are not compared. A dead job
is retired, its claims with it, by whoever has the turn; it finds its file gone if it comes to life again, and stops.

Turns are numbered and no number is used twice: who wants the next makes turn-(N+1) once turn-N is free or its owner
dead, and only one succeeds. That is why nobody can take away a turn that has changed hands meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import json
import math
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from hiperrag.errors import UserError
from hiperrag.files import TEMPORARY_MARK

LEASE_SECONDS = 120.0
"""A job whose file was not touched for so long is dead. Clients of NFS may see time stamps a minute late."""
RENEWAL_SECONDS = 15.0
_FREE = ".free"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
"""Seconds between looks whether the turn is free."""


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """A command that works on a collection, as its file says."""

    run: str
    """Unique."""
    command: str
    host: str
    pid: int
    started: str
    """Tells the process from a later one of the same number."""
    machine: str
    """Processes of the same machine see each other; "" where that cannot be told."""
    folder: int
    """Inode of the claims' folder: the file of a copied collection is nobody's."""
    job: str
    """Batch job, as its scheduler names it; "" outside of one."""
    since: str
    exclusive: bool
    terms: dict[str, Any]
    """What those that share the work have to agree on."""

    def __str__(self) -> str:
        job = f", batch job {self.job}" if self.job else ""
        return f"`hiperrag {self.command}` on {self.host}, process {self.pid}{job}, since {self.since} (run {self.run})"


class Claims:
    """What one command claims of a collection; a context manager, at whose end everything is given back.

    Used from one thread.
    """

    def __init__(self, folder: Path, command: str, run: str = "", job: str = "") -> None:
        self.folder = folder
        self.run = run or uuid.uuid4().hex[:12]
        self._command, self._job_name = command, job
        self._taken: set[str] = set()
        self._turn: Path | None = None
        self._joined = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._me = self._holder(False, {})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self._closing.set()
        self._thread.join()
        self._clock.unlink(missing_ok=True)

    # Jobs

    def join(self, exclusive: bool = False, terms: dict[str, Any] | None = None) -> None:
        """Become one of the jobs of the collection; `exclusive`: the only one.

        `terms` are what those that come later have to agree with. UserError that names the job that is in the way.
        """
        with self.turn():
            other = next((other for other in self.others() if exclusive or other.exclusive), None)
            if other:
                raise UserError(f"{self.folder.parent}: another command is writing it: {other}; wait for it to end")
            self._me = self._holder(exclusive, terms or {})
            self._create(self._job, self._text())
            self._joined = True

    def others(self) -> list[Holder]:
        """The other jobs that live. Those that are dead are retired, so this is for one's turn."""
        assert self._turn, "only in one's turn"
        paths = [path for path in sorted(self.folder.glob("job-*")) if path != self._job]
        dead = [path for path in paths if not self._lives(path)]
        living = list(filter(None, (_read(path) for path in paths if path not in dead)))
        if dead or not self._joined:
            self._sweep({self.run, *(holder.run for holder in living)})
        for path in dead:  # last, so that what is broken off here is begun again
            path.unlink(missing_ok=True)
        return living

    def _sweep(self, living: set[str]) -> None:
        """Remove the claims of all others, and what was never finished."""
        self._left.touch()
        for path in self.folder.glob("claim-*"):
            if _text_of(path) not in living and (_text_of(path) or not self._is_recent(path)):
                path.unlink(missing_ok=True)
        for path in self.folder.glob(f"{TEMPORARY_MARK}*"):
            if not self._is_recent(path):
                path.unlink(missing_ok=True)

    def look_for_dead(self) -> None:
        """Retire jobs that have died, unless someone else has the turn."""
        with self.turn(patience=0) as mine:
            if mine:
                self.others()

    def check(self) -> None:
        """UserError if this job was taken for dead, so that others do its work now."""
        if self._joined and not self._job.exists():
            raise UserError(
                f"{self.folder.parent}: this job gave no sign of life for {LEASE_SECONDS:.0f} s, and others may have "
                "taken over its work; run the same command again to go on"
            )

    def leave(self) -> None:
        """Give back everything; in one's turn at once, so that of several that leave one is the last."""
        if not self._joined:
            return
        with contextlib.suppress(OSError), self.turn():
            if self._job.exists():
                self._left.touch()  # first: who can take what is given back then knows that it may have been done
                self.release(*self._taken)
                self._job.unlink()
        self._job.unlink(missing_ok=True)  # on a full disk there is no turn; then the claims are nobody's
        self._joined = False

    def moved(self, folder: Path) -> None:
        """The folder has been renamed."""
        self.folder = folder
        if self._turn:
            self._turn = folder / self._turn.name

    # Claims

    def take(self, name: str) -> bool:
        """Claim something for this job; False while another job that lives has it."""
        path = self.folder / f"claim-{name}"
        if self._create(path, self.run) or _text_of(path) == self.run:
            self._taken.add(name)
            return True
        if self._owner_lives(path):
            return False
        with self.turn():
            self._sweep({self.run, *(other.run for other in self.others())})
        if self._create(path, self.run):
            self._taken.add(name)
            return True
        return False

    def release(self, *names: str) -> None:
        """Give back what this job took. For one's turn: who was taken for dead may own it no more."""
        assert self._turn, "only in one's turn"
        for name in names:
            self._taken.discard(name)
            if self._job.exists():
                (self.folder / f"claim-{name}").unlink(missing_ok=True)

    def holder(self, name: str) -> Holder | None:
        """The job that has claimed something; None if none that lives."""
        path = self.folder / f"claim-{name}"
        return _read(self.folder / f"job-{_text_of(path)}") if self._owner_lives(path) else None

    def departures(self) -> int:
        """Differs after another job has left: what this one can take then may have been done."""
        try:
            return self._left.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _owner_lives(self, path: Path) -> bool:
        owner = _text_of(path)
        if owner is None:
            return False
        return self._lives(self.folder / f"job-{owner}") if owner else self._is_recent(path)

    # Turns

    @contextlib.contextmanager
    def turn(self, patience: float = math.inf) -> Iterator[bool]:
        """Have what all share to oneself; False if it did not come to that within `patience` seconds."""
        if self._turn:
            yield True
            return
        end, pause = time.monotonic() + patience, _SHORTEST_PAUSE
        while not self._try_turn():
            if time.monotonic() >= end:
                yield False
                return
            time.sleep(pause * random.uniform(0.5, 1.5))  # so that those who wait do not come at the same time
            pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            yield True
        finally:
            path, self._turn = self._turn, None
            with contextlib.suppress(FileNotFoundError):
                if path:
                    path.rename(path.with_name(path.name + _FREE))

    def _try_turn(self) -> bool:
        latest = max(self._turns(), key=_number, default=None)
        if latest and latest.suffix != _FREE and self._lives(latest):
            return False
        path = self.folder / f"turn-{_number(latest) + 1 if latest else 1:010d}"
        if not self._create(path, self._text()):
            return False
        turns = self._turns()
        if max(map(_number, turns), default=0) > _number(path):  # what was seen above is long past
            path.unlink(missing_ok=True)
            return False
        for earlier in turns:
            if _number(earlier) < _number(path):
                earlier.unlink(missing_ok=True)
        self._turn = path
        return True

    def _turns(self) -> list[Path]:
        return list(self.folder.glob("turn-*"))

    # Life and death

    def _renew(self) -> None:
        while not self._closing.wait(RENEWAL_SECONDS):
            for path in (self._job if self._joined else None, self._turn):
                with contextlib.suppress(OSError):
                    if path:
                        os.utime(path)

    def _lives(self, path: Path) -> bool:
        """Whether the job that wrote a file lives."""
        holder = _read(path)
        if holder and holder.machine and holder.machine == self._me.machine:
            return holder.folder == self._me.folder and _process_start(holder.pid) == holder.started
        return self._is_recent(path)

    def _is_recent(self, path: Path) -> bool:
        try:
            touched = _touched(path)
            self._clock.touch()
            return _touched(self._clock) - touched <= LEASE_SECONDS
        except FileNotFoundError:
            return False

    # Files

    @property
    def _job(self) -> Path:
        return self.folder / f"job-{self.run}"

    @property
    def _left(self) -> Path:
        return self.folder / "left"

    @property
    def _clock(self) -> Path:
        return self.folder / f"{TEMPORARY_MARK}clock-{self.run}"

    def _holder(self, exclusive: bool, terms: dict[str, Any]) -> Holder:
        return Holder(
            run=self.run,
            command=self._command,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=_process_start(os.getpid()),
            machine=_machine(),
            folder=self.folder.stat().st_ino,
            job=self._job_name,
            since=f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M}",
            exclusive=exclusive,
            terms=terms,
        )

    def _text(self) -> str:
        return json.dumps(dataclasses.asdict(self._me))

    def _create(self, path: Path, text: str) -> bool:
        """Make a file that must not be there yet; it appears with its content where the file system has links."""
        whole = path.with_name(f"{TEMPORARY_MARK}{uuid.uuid4().hex[:12]}-{path.name}")
        try:
            whole.write_text(text, encoding="utf-8")
            os.link(whole, path)
        except FileExistsError:
            return whole.stat().st_nlink == 2  # NFS: the server did it, and its answer was lost
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_link(path, text)
        finally:
            whole.unlink(missing_ok=True)
        return True


def _create_without_link(path: Path, text: str) -> bool:
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        return False
    return True


def _number(turn: Path) -> int:
    return int(turn.name.removeprefix("turn-").removesuffix(_FREE))


def _read(path: Path) -> Holder | None:
    """None where the file is gone, not written yet, or of another version."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _touched(path: Path) -> float:
    """The file's time stamp, which opening it makes NFS ask the server for."""
    with path.open("rb") as stream:
        return os.fstat(stream.fileno()).st_mtime


def _machine() -> str:
    """The same for processes that see each other's numbers: of one boot and one name space."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When a process started, in ticks since boot; "" if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
