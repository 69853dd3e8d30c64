"""How a run is going, seen from outside: from its log alone, without a lock, from any machine that sees the folder."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from hiperrag.errors import UserError
from hiperrag.events import HEARTBEAT_SECONDS, StageTally, Tally

TAIL_BYTES = 1 << 20
SILENT_SECONDS = 6 * HEARTBEAT_SECONDS
"""Without a heartbeat for so long a run counts as dead. Network file systems may show a line a minute late."""
RECENT_SECONDS = 600.0

State = Literal["running", "finished", "stopped", "killed"]


@dataclasses.dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage of a run; rates in units of the stage per second."""

    name: str
    tally: StageTally
    rate: float
    """Since the stage's first task."""
    recent_rate: float
    """Over the last ten minutes at most."""

    @property
    def seconds_left(self) -> float | None:
        """At the recent rate; None where there is none."""
        left = self.tally.total - self.tally.done
        if left <= 0:
            return 0.0
        rate = self.recent_rate or self.rate
        return left / rate if rate else None


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """One run as its log shows it; times are Unix seconds of the machine that wrote the log."""

    run: str
    folder: Path
    state: State
    why: str
    """How the state was told."""
    site: str
    host: str
    workers: int
    started: float
    last_event: float
    """What happened last, heartbeats not counted."""
    last_sign: float
    """The last line, heartbeats included."""
    tally: Tally
    stages: list[StageStatus]

    def seconds_left(self) -> float | None:
        """That of the stage which takes longest; None if one cannot be told."""
        left = [stage.seconds_left for stage in self.stages]
        return None if not left or None in left else max(seconds for seconds in left if seconds is not None)

    def to_json(self, now: float) -> dict[str, Any]:
        """What `status --json` prints of a run."""
        stages = {
            stage.name: {
                **dataclasses.asdict(stage.tally),
                "per_second": stage.rate,
                "recent_per_second": stage.recent_rate,
                "seconds_left": stage.seconds_left,
            }
            for stage in self.stages
        }
        running = self.state == "running"
        return {
            "run": self.run,
            "folder": str(self.folder),
            "state": self.state,
            "why": self.why,
            "site": self.site,
            "host": self.host,
            "workers": self.workers,
            "seconds": (now if running else self.last_sign) - self.started,
            "seconds_since_event": now - self.last_event,
            "seconds_since_heartbeat": now - self.last_sign,
            "seconds_left": self.seconds_left() if running else None,
            "tasks_in_flight": self.tally.in_flight if running else 0,
            "parts_failed": self.tally.failed,
            "workers_lost": self.tally.lost,
            "stages": stages,
        }


def run_folders(collection: Path) -> list[Path]:
    """The folders of a collection's runs that have a log, oldest first; UserError when it is no collection."""
    if not collection.is_dir():
        raise UserError(f"{collection}: no such collection; make one with `hiperrag index SOURCE --to {collection}`")
    return sorted(log.parent for log in collection.glob("runs/*/events.jsonl") if log.stat().st_size)


def find_run(path: Path) -> Path:
    """The folder of a run: the path itself, or the collection's latest; UserError when there is none."""
    if (path / "events.jsonl").is_file():
        return path
    folders = run_folders(path)
    if not folders:
        raise UserError(f"{path}: holds no run; make one with `hiperrag index SOURCE --to {path}`")
    return folders[-1]


def current_runs(collection: Path, now: float) -> list[Status]:
    """The runs that work on a collection, several where several allocations do; else the last one there was."""
    folders = run_folders(collection)
    recent = [folder for folder in folders if now - (folder / "events.jsonl").stat().st_mtime < 2 * SILENT_SECONDS]
    found = [status for status in (status_of(folder, now) for folder in recent) if status.state == "running"]
    return found or [status_of(folder, now) for folder in folders[-1:]]


def status_of(folder: Path, now: float | None = None) -> Status:
    """How the run in a folder stands; `now` in Unix seconds."""
    now = time.time() if now is None else now
    log = folder / "events.jsonl"
    first = next(read_events(log), None)
    if first is None or first["event"] != "run_started":
        raise UserError(f"{log}: does not begin as a run's log does; it may be damaged")
    tally, beats, last, last_event = Tally(), list[tuple[float, Tally]](), first, first["time"]
    for record in read_tail(log):
        last = record
        if record["event"] == "heartbeat":
            tally = Tally.from_json(record["tally"])
            beats.append((record["time"], Tally.from_json(record["tally"])))
        else:
            tally.add(record)
            last_event = record["time"]
    last_event = max([last_event, *(stage.last for stage in tally.stages.values() if stage.last)])
    state, why = _state(first, last, now)
    at = now if state == "running" else last["time"]
    stages = [
        StageStatus(
            name, stage, *_rates(name, stage, at, [(then, beat) for then, beat in beats if name in beat.stages])
        )
        for name, stage in tally.stages.items()
    ]
    return Status(
        run=first.get("run", folder.name),
        folder=folder,
        state=state,
        why=why,
        site=first.get("site", ""),
        host=first.get("host", ""),
        workers=first.get("workers", 0),
        started=first["time"],
        last_event=last_event,
        last_sign=last["time"],
        tally=tally,
        stages=stages,
    )


def _rates(name: str, stage: StageTally, at: float, beats: list[tuple[float, Tally]]) -> tuple[float, float]:
    """Units per second: since the stage began, and lately."""
    if stage.first is None or stage.done == stage.cached:
        return 0.0, 0.0
    if stage.done >= stage.total and stage.last:
        at = stage.last
    whole = (stage.done - stage.cached) / max(at - stage.first, 1e-3)
    since = max(stage.first, at - RECENT_SECONDS)
    earlier = [(then, beat.stages[name].done) for then, beat in beats if then >= since and name in beat.stages]
    if not earlier or at - earlier[0][0] < HEARTBEAT_SECONDS:
        return whole, whole
    return whole, (stage.done - earlier[0][1]) / (at - earlier[0][0])


def _state(first: dict[str, Any], last: dict[str, Any], now: float) -> tuple[State, str]:
    if last["event"] == "run_finished":
        return "finished", "its log ends in order"
    if last["event"] == "run_stopped":
        return "stopped", last.get("reason", "")
    if first.get("host") == socket.gethostname() and "pid" in first and not _is_alive(first["pid"], first["time"]):
        return "killed", f"its process {first['pid']} is gone and left no last word"
    silent = now - last["time"]
    if silent > SILENT_SECONDS:
        return "killed", f"no heartbeat for {silent:.0f} s; there is one every {HEARTBEAT_SECONDS:.0f} s"
    return "running", f"heartbeat {max(silent, 0):.0f} s ago"


def _is_alive(pid: int, since: float) -> bool:
    """Whether the process exists and is old enough to be the one meant, rather than another by the same number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except (OSError, StopIteration):
        return False
    fields = stat.rpartition(")")[2].split()
    started = int(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return fields[0] != "Z" and started <= since + 2  # both clocks are cut to seconds


def read_events(log: Path) -> Iterator[dict[str, Any]]:
    """All events of a log; a line that a kill or a full disk cut short is left out."""
    try:
        stream = log.open("rb")
    except OSError as error:
        raise UserError(f"{log}: cannot be read ({error.strerror})") from None
    with stream:
        for line in stream:
            record = _parsed(line)
            if record is not None:
                yield record


def read_tail(log: Path) -> list[dict[str, Any]]:
    """The events of a log's last megabyte, but from a heartbeat on if there is one: it carries what was before."""
    size = log.stat().st_size
    if size > TAIL_BYTES:
        with log.open("rb") as stream:
            stream.seek(size - TAIL_BYTES)
            lines = stream.read().splitlines()[1:]
        records = [record for record in map(_parsed, lines) if record is not None]
        beats = [number for number, record in enumerate(records) if record["event"] == "heartbeat"]
        if beats:
            return records[beats[0] :]
    return list(read_events(log))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    is_event = isinstance(record, dict) and isinstance(record.get("time"), float | int) and "event" in record
    return record if is_event else None
