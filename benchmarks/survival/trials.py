"""One trial: a run is struck at an instant, and it, or a rerun, goes on to the end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from hiperrag.benchmarks.survival.state import State, state_of
from hiperrag.benchmarks.survival.strikes import Disk, kill, processes_of
from hiperrag.collection import Collection
from hiperrag.workflows.cleaning import clean, find_leftovers
from hiperrag.workflows.observe import read_events
from hiperrag.workflows.stages import STAGES

PATIENCE = 300.0
"""Seconds that a run may take, and that processes of a killed one may live on, before the trial has failed."""
NOT_STRUCK = "before the strike"
SETTLED = ("part_done", "shard_built")


@dataclasses.dataclass(frozen=True, slots=True)
class Instant:
    """So many seconds after a run's log has so many lines, heartbeats not counted; lines 0: after its process began."""

    lines: int
    seconds: float


@dataclasses.dataclass(slots=True)
class Trial:
    """What was done and what came of it; `problems` is empty if all is as it should be."""

    kind: str
    instant: Instant
    at: float = 0.0
    """Seconds from the start of the run to the strike."""
    stages: str = ""
    """Whose tasks were in flight at the strike."""
    done_before: int = 0
    """Tasks finished before the strike."""
    cleaned: int | None = None
    """Leftovers that `doctor --clean` removed between the strike and the rerun, where that was tried."""
    again: int = 0
    """Tasks finished before the strike that were done again."""
    removed: int = 0
    """Leftovers that `doctor --clean` removed at the end."""
    load: float = 0.0
    """Of the machine, over a minute before the end: runnable processes."""
    seconds: float = 0.0
    """From the start to the end of the last run."""
    ended: str = ""
    """How the run that was struck ended."""
    problems: list[str] = dataclasses.field(default_factory=list)


class Bench:
    """Where trials take place: sources, site and the undisturbed collection."""

    def __init__(self, work: Path, site: str, sources: Sequence[Path]) -> None:
        self.work, self._site, self._sources = work, site, [str(source) for source in sources]
        self.reference: State | None = None
        self.instants: list[float] = []
        """Seconds from the start of the undisturbed run to each line of its log."""

    def start(self, root: Path) -> subprocess.Popen[str]:
        """A run over the sources in a process of its own."""
        command = [sys.executable, "-m", "hiperrag.benchmarks.survival.indexing", self._site, str(root)]
        return subprocess.Popen([*command, *self._sources], stderr=subprocess.PIPE, text=True)

    def run_undisturbed(self) -> float:
        """Make the collection that all others have to equal; returns the seconds it took."""
        root, began = self.work / "reference", time.time()
        process = self.start(root)
        _, errors = process.communicate(timeout=PATIENCE)
        if process.returncode:
            raise RuntimeError(f"the undisturbed run failed: {errors}")
        self.reference = state_of(root)
        self.instants = [event["time"] - began for event in _lines(root)]
        return time.time() - began

    def draw(self, rng: random.Random) -> Instant:
        """A random instant: of all lines of the log, so that short stages are met too, or of the time itself."""
        if rng.random() < 0.25:
            at = rng.uniform(0.2, 0.9 * self.instants[-1])
            lines = sum(one <= at for one in self.instants)
            return Instant(lines, at - self.instants[lines - 1] if lines else at)
        lines = rng.randrange(2, len(self.instants))
        return Instant(lines, rng.uniform(0.0, min(2.0, self.instants[-1] - self.instants[lines - 1])))

    def try_once(self, kind: str, instant: Instant, clean_first: bool, rng: random.Random) -> Trial:
        """Strike a run, bring it to its end, with `doctor --clean` before a rerun or without, and compare."""
        with tempfile.TemporaryDirectory(dir=self.work) as place:
            root = Path(place) / "disk" / "collection"
            with Disk(root.parent) if kind == "disk" else contextlib.nullcontext() as disk:
                return self._try(root, Trial(kind, instant), clean_first, rng, disk)

    def _try(self, root: Path, trial: Trial, clean_first: bool, rng: random.Random, disk: Disk | None) -> Trial:
        began = time.monotonic()
        process = self.start(root)
        if self._strike(process, root, trial, rng, disk):
            self._see_the_end(process, trial, disk)
            if process.returncode:
                first = _finished(root)
                self._resume(root, trial, clean_first)
                trial.again = sum((first & _finished(root, latest=True)).values())
            self._compare(root, trial)
        trial.seconds, trial.load = time.monotonic() - began, os.getloadavg()[0]
        return trial

    def _strike(
        self, process: subprocess.Popen[str], root: Path, trial: Trial, rng: random.Random, disk: Disk | None
    ) -> bool:
        """Wait for the instant and strike; False if the run ended before."""
        began, instant = time.monotonic(), trial.instant
        while len(_lines(root)) < instant.lines and process.poll() is None:
            time.sleep(0.02)
        time.sleep(instant.seconds)
        while process.poll() is None:
            if disk:
                disk.fill()
            if disk or kill(trial.kind, process.pid, rng):
                trial.at = time.monotonic() - began
                trial.stages, trial.done_before = _in_flight(root), sum(_finished(root).values())
                return True
            time.sleep(0.05)
        process.communicate()
        trial.ended = NOT_STRUCK
        return False

    def _see_the_end(self, process: subprocess.Popen[str], trial: Trial, disk: Disk | None) -> None:
        workers = processes_of(process.pid)
        until = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < until:
            if disk:
                disk.fill()
            time.sleep(0.1)
        if process.poll() is None:
            trial.problems.append(f"did not end within {PATIENCE:.0f} s")
            process.kill()
        _, errors = process.communicate()
        _, alive = psutil.wait_procs(workers, timeout=20)
        if alive:
            trial.problems.append(f"{len(alive)} processes live on: {' '.join(alive[0].cmdline())[:80]}")
        trial.ended = {0: "finished", -9: "killed"}.get(process.returncode, f"exit {process.returncode}")
        lines = errors.strip().splitlines()
        if process.returncode and trial.kind != "main":
            trial.ended += f": {lines[-1] if lines else ''}"
            if trial.kind != "disk":
                trial.problems.append("the run did not survive")
            elif len(lines) != 1 or "no space left" not in errors.lower():
                trial.problems.append(f"{len(lines)} lines for a full disk: {lines[0][:80] if lines else ''}")
        if "Traceback" in errors:
            trial.problems.append(f"traceback: {lines[-1][:120]}")
        if disk:
            disk.free()

    def _resume(self, root: Path, trial: Trial, clean_first: bool) -> None:
        collection = Collection(root)
        if clean_first and (collection.exists() or collection.inputs_path.is_file()):
            trial.cleaned = len(clean(collection))
        process = self.start(root)
        _, errors = process.communicate(timeout=PATIENCE)
        if process.returncode:
            trial.problems.append(f"the rerun failed: {errors.strip()[-200:]}")

    def _compare(self, root: Path, trial: Trial) -> None:
        assert self.reference
        trial.removed = len(clean(Collection(root)))
        left = find_leftovers(Collection(root))
        if left.orphans or left.unfinished:
            trial.problems.append(f"left after --clean: {[*left.orphans, *left.unfinished][0]}")
        found = state_of(root)
        trial.problems += [f"differs: {what}" for what in self.reference.differences(found)]
        if found.twice():
            trial.problems.append(f"indexed twice: {len(found.twice())} passages")


def _lines(root: Path) -> list[dict[str, Any]]:
    """The log of a collection's first run, without heartbeats."""
    logs = sorted(root.glob("runs/*/events.jsonl"))
    return [event for event in read_events(logs[0]) if event["event"] != "heartbeat"] if logs else []


def _finished(root: Path, latest: bool = False) -> Counter[tuple[Any, ...]]:
    """Tasks (stage, shard, part) that the first run finished, or the latest one."""
    logs = sorted(root.glob("runs/*/events.jsonl"))
    events = read_events(logs[-1 if latest else 0]) if logs else ()
    return Counter(
        (event.get("stage", "build"), event["shard"], event.get("part", 0))
        for event in events
        if event["event"] in SETTLED
    )


def _in_flight(root: Path) -> str:
    """The stages that had tasks in flight at the end of the log."""
    waiting = set()
    events = _lines(root)
    for event in events:
        task = (event.get("stage", "build"), event.get("shard"), event.get("part", 0))
        if event["event"] == "task_submitted":
            waiting.add(task)
        else:
            waiting.discard(task)
    stages = {stage for stage, _, _ in waiting}
    names = [name for name in STAGES if name in stages]
    return " ".join(names) or ("end" if any(event["event"] in SETTLED for event in events) else "start")
