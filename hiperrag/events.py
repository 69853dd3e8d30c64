"""A run's machine-readable log: one JSON object a line, appended as things happen.

Every event has `time` (Unix seconds of the writing machine) and `event`. A heartbeat says that the writing process is
alive, and carries the totals so far, so that who reads the log needs only its last lines, however long it is.

| event | fields |
|---|---|
| run_started | run, version, site, host, pid, workers |
| planned | stages: for each its unit, total, and how much of it was cached, that is done by an earlier run |
| task_submitted | stage, shard, part |
| part_done, shard_built | stage, shard, part, n_inputs, n_done, n_quarantined, n_pages; what it cost and where it ran |
| part_failed, worker_lost | stage, shard, part, n_inputs, message, host |
| part_split | the same, and what that adds to the inputs done, by stage: halves (`into`) take the part's place |
| task_doubled | stage, shard, part: a task that takes too long was given to another worker as well |
| shard_found | shard, and what that adds to what is done, by stage: another job has built it |
| waiting | others: the jobs that build all shards that are left, and how many each |
| heartbeat | tally, and what the main process noted, such as tasks in flight |
| run_finished | the summary |
| run_stopped | reason: the run was interrupted, or could not go on |
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

HEARTBEAT_SECONDS = 10.0


@dataclasses.dataclass(slots=True)
class StageTally:
    """One stage so far, in units of its work: documents, or shards for the last."""

    unit: str = "documents"
    total: int = 0
    cached: int = 0
    done: int = 0
    """What was cached included."""
    quarantined: int = 0
    tasks: int = 0
    pages: int = 0
    seconds: float = 0.0
    """Of workers."""
    first: float | None = None
    """Time at which the stage's first task was submitted."""
    last: float | None = None
    """Time at which a task of it was last done."""


@dataclasses.dataclass(slots=True)
class Tally:
    """Totals over the events of a run."""

    stages: dict[str, StageTally] = dataclasses.field(default_factory=dict)
    submitted: int = 0
    settled: int = 0
    """Tasks that ended, in whatever way."""
    failed: int = 0
    lost: int = 0
    """Tasks whose worker ended under them."""

    def add(self, record: dict[str, Any]) -> None:
        """Count one event."""
        event = record["event"]
        if event == "planned":
            self.stages = {name: _known(StageTally, fields) for name, fields in record["stages"].items()}
            for stage in self.stages.values():
                stage.done = stage.cached
            return
        if event == "shard_found":
            self._change(record["done"])
            return
        if event not in ("task_submitted", "part_done", "shard_built", "part_failed", "worker_lost", "part_split"):
            return
        name = record.get("stage", "build")
        stage = self.stages.setdefault(name, StageTally())
        if event == "task_submitted":
            self.submitted += 1
            stage.first = stage.first or record["time"]
            return
        self.settled += 1
        if event == "worker_lost":
            self.lost += 1
        elif event == "part_split":
            self._change(record["done"])
        elif event == "part_failed":
            self.failed += 1
            self._skip(name, record.get("n_inputs", 0))
        else:
            stage.last = record["time"]
            stage.tasks += 1
            stage.done += record.get("n_inputs", 1)
            stage.quarantined += record.get("n_quarantined", 0)
            stage.pages += record.get("n_pages", 0)
            stage.seconds += record.get("finished", 0.0) - record.get("started", 0.0)

    def _change(self, done: dict[str, int]) -> None:
        for stage, units in done.items():
            self.stages[stage].done += units

    def _skip(self, name: str, n_inputs: int) -> None:
        """A part that failed goes through no later stage, and none waits for it."""
        failed = self.stages[name]
        failed.done += n_inputs
        failed.quarantined += n_inputs
        names = list(self.stages)
        for later in names[names.index(name) + 1 :]:
            if self.stages[later].unit == failed.unit:
                self.stages[later].total -= n_inputs

    @property
    def in_flight(self) -> int:
        """Tasks that were submitted and have not ended."""
        return max(0, self.submitted - self.settled)

    def to_json(self) -> dict[str, Any]:
        """What a heartbeat carries."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Tally:
        """The tally of a heartbeat; what another version wrote beside it is left out."""
        stages = {name: _known(StageTally, stage) for name, stage in fields["stages"].items()}
        tally: Tally = _known(cls, fields | {"stages": stages})
        return tally


def _known(record: type[Any], fields: dict[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(record)}
    return record(**{name: value for name, value in fields.items() if name in names})


class EventLog:
    """Appends events to `runs/<id>/events.jsonl`, with a heartbeat in between for as long as it is open."""

    def __init__(self, path: Path, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._notes: dict[str, Any] = {}
        self.tally = Tally()
        self._thread = threading.Thread(target=self._beat, args=(heartbeat_seconds,), daemon=True)
        self._thread.start()

    def write(self, event: str, **fields: Any) -> None:
        """Append one event and flush it, so that a killed run keeps its log."""
        with self._lock:
            self._append(event, fields)

    def _append(self, event: str, fields: dict[str, Any]) -> None:
        record = {"time": round(time.time(), 3), "event": event, **fields}
        self.tally.add(record)
        with contextlib.suppress(OSError):  # a full disk stops the work, which says so; the log must not speak first
            self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._stream.flush()

    def note(self, **fields: Any) -> None:
        """Facts for the next heartbeat; each stays until it is noted again."""
        self._notes = self._notes | fields

    def _beat(self, seconds: float) -> None:
        while not self._closing.wait(seconds):
            with self._lock:
                self._append("heartbeat", {"tally": self.tally.to_json(), **self._notes})

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        if kind:
            self.write("run_stopped", reason=" ".join(f"{kind.__name__}: {value}".split())[:300])
        with contextlib.suppress(OSError):
            self._stream.close()
