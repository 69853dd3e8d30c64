"""Logs of runs that never were, with troubles planted in them, for the tests of what reads logs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

BEGIN = 1_700_000_000.0
STAGES = ("parse", "chunk", "encode", "build")


class PlantedRun:
    """Events of a run at times of one's own; `write` puts them into runs/R1 of a collection."""

    def __init__(self, workers: int, parts: int, site: str = "cluster", host: str = "login") -> None:
        self.events: list[dict[str, Any]] = []
        self.add(0, "run_started", run="R1", version="0", site=site, host=host, pid=1, workers=workers)
        totals = {name: {"unit": "documents", "total": 8 * parts, "cached": 0} for name in STAGES[:-1]}
        self.add(0, "planned", stages=totals | {"build": {"unit": "shards", "total": 1, "cached": 0}})

    def add(self, at: float, event: str, **fields: Any) -> None:
        self.events.append({"time": round(BEGIN + at, 3), "event": event, **fields})

    def submit(self, at: float, stage: str, part: int) -> None:
        self.add(at, "task_submitted", stage=stage, shard=0, part=part)

    def task(self, stage: str, part: int, worker: str, begin: float, seconds: float, **fields: Any) -> float:
        """A task that went well; returns when it ended."""
        end = begin + seconds
        cost = {"cpu_seconds": seconds, "bytes_read": 1000, "bytes_written": 100, "joules": None} | fields
        where = {"host": worker.split(":")[0], "worker": worker, "pid": 7}
        times = {"started": BEGIN + begin, "finished": BEGIN + end}
        self.submit(begin, stage, part)
        if stage == "build":
            self.add(end, "shard_built", shard=0, **where, **times, **({"n_done": 50, "n_tokens": 5000} | cost))
        else:
            done = {"n_inputs": 8, "n_done": 8, "n_quarantined": 0, **cost}
            self.add(end, "part_done", stage=stage, shard=0, part=part, **where, **times, **done)
        return end

    def trouble(self, at: float, kind: str, stage: str, part: int, host: str, message: str = "gone") -> None:
        self.submit(at - 1, stage, part)
        fields = {"n_inputs": 8} if kind == "part_failed" else {}
        self.add(at, kind, stage=stage, shard=0, part=part, host=host, message=message, **fields)

    def write(self, collection: Path) -> Path:
        folder = collection / "runs" / "R1"
        folder.mkdir(parents=True)
        lines = sorted(self.events, key=lambda event: event["time"])
        (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder


def ordinary_run(parts: int = 40, hosts: int = 4, slow: str = "", straggler: int = -1) -> PlantedRun:
    """Each host has a worker for parsing and chunking and one for encoding, which takes most of the time.

    A page takes 0.1 s to parse and 0.3 s to encode; `slow` is a host on which all takes twice as long, `straggler` a
    part whose parsing takes ten times as long.
    """
    rng = random.Random(5)
    planted = PlantedRun(2 * hosts, parts)
    free = {f"n{number}:{block}.0": 5.0 for number in range(hosts) for block in (0, 1)}
    for part in range(parts):
        pages = rng.randrange(50, 150)
        ready, worker = 0.0, ""
        for stage, per_page, block in (("parse", 0.1, 0), ("chunk", 0.01, 0), ("encode", 0.3, 1)):
            if stage != "chunk":  # which the worker that parsed does at once
                worker = min((name for name in free if f":{block}." in name), key=lambda name: free[name])
            seconds = per_page * pages * rng.uniform(0.95, 1.05) * (2 if worker.startswith(f"{slow}:") else 1)
            if stage == "parse" and part == straggler:
                seconds *= 10
            counts = {"parse": {"n_pages": pages}, "chunk": {"n_done": 5 * pages}, "encode": {"n_tokens": 600 * pages}}
            ready = planted.task(stage, part, worker, max(free[worker], ready), seconds, **counts[stage])
            free[worker] = ready
    end = max(free.values())
    planted.add(planted.task("build", 0, "n0:0.0", end, 3.0) + 1, "run_finished", run="R1")
    return planted
