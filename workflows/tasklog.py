"""A run's tasks as columns, read from its log: what diagnosis, report and forecast look at."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hiperrag.workflows.observe import read_events

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NUMBERS = ("shard", "part", "n_inputs", "n_done", "n_quarantined", "n_pages", "n_tokens", "bytes_read", "bytes_written")
TIMES = ("started", "finished", "cpu_seconds")


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A part that a stage failed on, or a worker lost under one; `host` is empty when it is not known."""

    time: float
    kind: str
    stage: str
    shard: int
    part: int
    host: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class TaskLog:
    """The finished tasks of a run, one row each in the order in which they ended, and what else its log says.

    `stage`, `host` and `worker` are numbers into `stages`, `hosts` and `workers`.
    """

    first: dict[str, Any]
    """The event run_started."""
    last: dict[str, Any]
    stages: list[str]
    hosts: list[str]
    workers: list[str]
    stage: Numbers
    host: Numbers
    worker: Numbers
    columns: dict[str, npt.NDArray[Any]]
    joules: list[tuple[str, int, float, float, float, float]]
    """(host, pid, started, finished, reading before, reading after) of tasks on hosts with energy meters."""
    failures: list[Failure]
    waiting: dict[tuple[str, int, int], float]
    """Tasks (stage, shard, part) that were submitted and never ended, with the time of submission."""

    def __len__(self) -> int:
        return len(self.stage)

    @property
    def started(self) -> Floats:
        """(n,) Unix seconds."""
        return self.columns["started"]

    @property
    def finished(self) -> Floats:
        """(n,) Unix seconds."""
        return self.columns["finished"]

    @property
    def seconds(self) -> Floats:
        """(n,) how long each task took on its worker."""
        return self.finished - self.started

    def of_stage(self, name: str) -> Mask:
        """(n,) the tasks of a stage."""
        found: Mask = self.stage == (self.stages.index(name) if name in self.stages else -1)
        return found

    def cost(self, name: str) -> Floats:
        """(n,) how much work a task of a stage holds: pages, where it reads PDFs; token vectors; else what it made."""
        columns = {"parse": ("n_pages", "n_inputs"), "recognise": ("n_pages", "n_inputs"), "encode": ("n_tokens",)}
        chosen = [self.columns[column] for column in (*columns.get(name, ()), "n_done")]
        rows = self.of_stage(name)
        return next((column for column in chosen if column[rows].any()), chosen[-1]).astype(float)


class _Names:
    """Strings as numbers, in order of appearance."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.numbers = {name: number for number, name in enumerate(known)}

    def __getitem__(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers))


def read_tasks(folder: Path) -> TaskLog:
    """The tasks of the run in a folder, in about 150 bytes of memory each."""
    stages, hosts, workers = _Names(), _Names(), _Names()
    placed: Sequence[array[int]] = (array("q"), array("q"), array("q"))
    numbers = {name: array("q") for name in NUMBERS}
    times = {name: array("d") for name in TIMES}
    joules, failures, waiting = [], [], {}
    first: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for record in read_events(folder / "events.jsonl"):
        first, last = first or record, record
        event = record["event"]
        if event == "planned":
            stages = _Names(record["stages"])
        if event not in ("task_submitted", "part_done", "shard_built", "part_failed", "worker_lost", "part_split"):
            continue
        stage, shard, part = record.get("stage", "build"), record["shard"], record.get("part", 0)
        if event == "task_submitted":
            waiting[stage, shard, part] = record["time"]
            continue
        waiting.pop((stage, shard, part), None)
        if event in ("part_failed", "worker_lost", "part_split"):
            where = (stage, shard, part, record.get("host", ""))
            failures.append(Failure(record["time"], event, *where, record.get("message", "")))
        elif "started" in record:
            names = (stages[stage], hosts[record["host"]], workers[record["worker"]])
            for column, number in zip(placed, names, strict=True):
                column.append(number)
            for name, column in numbers.items():
                column.append(record.get(name, 0))
            for name, values in times.items():
                values.append(record[name])
            if record["joules"]:
                joules.append((record["host"], record["pid"], record["started"], record["finished"], *record["joules"]))
    stage_numbers, host_numbers, worker_numbers = (np.array(column, dtype=np.int64) for column in placed)
    return TaskLog(
        first=first,
        last=last,
        stages=list(stages.numbers),
        hosts=list(hosts.numbers),
        workers=list(workers.numbers),
        stage=stage_numbers,
        host=host_numbers,
        worker=worker_numbers,
        columns={name: np.array(column) for name, column in {**numbers, **times}.items()},
        joules=joules,
        failures=failures,
        waiting=waiting,
    )
