"""Does memory grow with the number of parts? `python -m hiperrag.benchmarks.scheduling.memory --out DIR`.

The scheduler works off 10^4 to 10^6 parts for 1,000 workers that finish tasks in random order, each size in a process
of its own; every task in flight has a future, as in a run. What does grow with the number of inputs is measured beside
it: the listing and the plan before work begins, and the entries of the manifest.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from hiperrag.collection import Collection, PartEntry, ShardEntry
from hiperrag.machine import describe_machine
from hiperrag.parsing.sources import Input
from hiperrag.workflows.plan import Plan, PlanFile, load_plan, save_plan
from hiperrag.workflows.schedule import Scheduler, Task

WORKERS = 1000
PARTS_PER_SHARD = 16
STAGES = ("parse", "chunk", "encode", "build")
SECONDS = (5.0, 1.0, 60.0, 40.0)


class Parts:
    """Shards as they are opened; a part goes through the stages, its shard is built when all have."""

    def __init__(self, n_parts: int) -> None:
        self._n_shards, self._opened = n_parts // PARTS_PER_SHARD, 0
        self._waiting: dict[int, int] = {}
        self._rng = random.Random(0)
        self.built = 0

    def feed(self) -> list[Task] | None:
        if self._opened == self._n_shards:
            return None
        self._opened += 1
        self._waiting[self._opened] = PARTS_PER_SHARD
        return [self._task(0, self._opened, part) for part in range(PARTS_PER_SHARD)]

    def following(self, task: Task) -> Iterator[Task]:
        if task.stage in ("parse", "chunk"):
            yield self._task(task.rank + 1, task.shard, task.part)
        elif task.stage == "encode":
            self._waiting[task.shard] -= 1
            if not self._waiting[task.shard]:
                del self._waiting[task.shard]
                yield self._task(3, task.shard, 0)
        else:
            self.built += 1

    def _task(self, rank: int, shard: int, part: int) -> Task:
        cost = SECONDS[rank] * self._rng.lognormvariate(0, 0.4)
        return Task(STAGES[rank], shard, part, "cores", rank, shard, cost)


def schedule(n_parts: int) -> dict[str, Any]:
    """Work off so many parts; MiB of the process before and at most, and what was open at a time."""
    parts, rng, process = Parts(n_parts), random.Random(1), psutil.Process()
    scheduler = Scheduler({"cores": WORKERS}, parts.feed)
    flying: list[tuple[Task, Future[None]]] = []
    gc.collect()
    before, started = process.memory_info().rss, time.process_time()
    most_open = most_flying = n_tasks = 0
    while not scheduler.finished:
        flying += ((task, Future()) for task in scheduler.submissions(float(n_tasks)))
        most_open, most_flying = max(most_open, scheduler.unfinished), max(most_flying, len(flying))
        for _ in range(min(len(flying), 20)):
            at = rng.randrange(len(flying))
            flying[at], flying[-1] = flying[-1], flying[at]
            task, future = flying.pop()
            future.set_result(None)
            if scheduler.ended(task, float(n_tasks)):
                scheduler.succeeded(task, task.cost)
                for following in parts.following(task):
                    scheduler.add(following)
            n_tasks += 1
    assert parts.built == n_parts // PARTS_PER_SHARD
    return {
        "parts": n_parts,
        "tasks": n_tasks,
        "cpu_microseconds_per_task": (time.process_time() - started) / n_tasks * 1e6,
        "grew_mib": (_peak() - before) / 2**20,
        "peak_mib": _peak() / 2**20,
        "most_futures": most_flying,
        "most_tasks_open": most_open,
    }


def listing(n: int) -> dict[str, Any]:
    """Bytes an input while it is planned, and while only its shard's turn is waited for."""
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        collection = Collection(folder)
        gc.collect()
        start = process.memory_info().rss
        inputs = [
            Input(f"papers/{n:09d}.pdf", "pdf", f"/data/papers/{n:09d}.pdf", "", 0, 0, 10**6 + n, str(10**18 + n))
            for n in range(n)
        ]
        listed = process.memory_info().rss
        plan = Plan([[inputs[at : at + 8] for at in range(first, first + 128, 8)] for first in range(0, n, 128)])
        save_plan(collection, plan)
        del inputs, plan
        size = collection.inputs_path.stat().st_size
        loaded = load_plan(collection)
        planning = _peak()
        del loaded
        gc.collect()
        reader = PlanFile(collection)
        before = process.memory_info().rss
        assert sum(len(part) for shard in range(len(reader)) for part in reader.shard(shard)) == n
        return {
            "inputs": n,
            "listed_bytes_per_input": (listed - start) / n,
            "planning_peak_bytes_per_input": (planning - start) / n,
            "reading_shard_by_shard_grew_mib": (process.memory_info().rss - before) / 2**20,
            "file_bytes_per_input": size / n,
        }


def manifest(n_parts: int) -> dict[str, Any]:
    """Bytes a part of the manifest's entries, in memory and as JSON."""
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    shards = [_entry(number) for number in range(n_parts // PARTS_PER_SHARD)]
    after = process.memory_info().rss
    size = sum(len(shard.model_dump_json(indent=1)) for shard in shards[:100])
    return {
        "parts": n_parts,
        "bytes_per_part": (after - before) / n_parts,
        "json_bytes_per_part": size / 100 / PARTS_PER_SHARD,
    }


def _entry(number: int) -> ShardEntry:
    def identity(n: int) -> str:
        return f"{number:012x}{n:012x}"

    parts = [
        PartEntry(
            documents=identity(4 * n),
            passages=identity(4 * n + 1),
            vectors=identity(4 * n + 2),
            inputs=identity(4 * n + 3),
            n_rows=1000 + number,
            n_inputs=1000 + number,
            n_documents=1000 + number,
            n_quarantined=0,
            n_pages=1000 + number,
            n_passages=1000 + number,
            n_tokens=1000 + number,
            n_truncated=0,
        )
        for n in range(PARTS_PER_SHARD)
    ]
    files = {f"file-{n}.npy": f"{number:032x}{n:032x}" for n in range(20)}
    return ShardEntry(
        name=f"{number:05d}-{number:08x}",
        identity=identity(0),
        parts=parts,
        n_passages=number,
        n_tokens=number,
        n_bytes=number,
        n_text_bytes=number,
        sha256=files,
    )


def _peak() -> float:
    """Most memory this process has had, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return float(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def _apart(function: Callable[[int], dict[str, Any]], n: int) -> dict[str, Any]:
    """In a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send, args=(theirs, function, n))
    process.start()
    theirs.close()
    found: dict[str, Any] = ours.recv()
    process.join()
    print(json.dumps(found), flush=True)
    return found


def _send(to: Connection, function: Callable[[int], dict[str, Any]], n: int) -> None:
    to.send(function(n))


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = {
        "machine": describe_machine(),
        "workers": WORKERS,
        "scheduler": [_apart(schedule, n) for n in given.parts],
        "listing": _apart(listing, 128_000),
        "manifest": _apart(manifest, 16_000),
    }
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "memory.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
