"""What a run costs beside its work: `python -m hiperrag.benchmarks.scheduling.overhead --documents 100000 --out DIR`.

Tiny documents in ready text are indexed by `index_sources` on the site `local`, with Parsl and worker processes, and by
the same stage functions over the same parts in a plain loop in one process. Compared is the CPU time of all processes,
which is added up from /proc as they run, each process by its last reading.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from hiperrag import encoders
from hiperrag.collection import Collection
from hiperrag.machine import describe_machine
from hiperrag.workflows.observe import find_run
from hiperrag.workflows.plan import load_plan
from hiperrag.workflows.run import index_sources
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.sites import load_site
from hiperrag.workflows.stages import (
    ShardTask,
    build_shard,
    chunk_part,
    encode_part,
    name_part,
    name_shard,
    parse_part,
)
from hiperrag.workflows.tasklog import read_tasks

SECONDS_BETWEEN_READINGS = 0.2
WORDS = ("copper", "steel", "glacier", "enzyme", "photon", "quartz", "neuron", "lattice", "comet", "polymer", "plasma")


def write_documents(path: Path, n: int) -> None:
    """Rows of one sentence, no two alike."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(n):
            text = f"The {' and the '.join(rng.sample(WORDS, 3))} of sample {number} weigh {rng.randrange(10**6)} g."
            stream.write(json.dumps({"_id": str(number), "text": text}) + "\n")


def plain_loop(planned: Path, to: Path) -> None:
    """The stage functions over the parts that a collection's plan has."""
    settings = IndexSettings()
    encoder = encoders.describe(settings.encode.encoder)
    root = str(to.absolute())
    for number, shard in enumerate(load_plan(Collection(planned)).shards):
        names = [name_part(part, settings, encoder) for part in shard]
        for part, name in zip(shard, names, strict=True):
            parse_part(root, name, part, settings)
            chunk_part(root, name, settings, encoder)
            encode_part(root, name, settings, encoder, 1)
        identity = name_shard(names, "")
        n_inputs = tuple(sum(item.stop - item.start for item in part) for part in shard)
        task = ShardTask(f"{number:05d}", identity, tuple(names), n_inputs, (None,) * len(names), "")
        build_shard(root, task, settings, encoder)


def workflow(source: Path, to: Path) -> None:
    """The whole of `hiperrag index`."""
    index_sources([str(source)], to, load_site("local"), quiet=True)


class Meter(threading.Thread):
    """CPU seconds of a process and all that descend from it, by command."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._readings: dict[tuple[int, float], tuple[str, float]] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(SECONDS_BETWEEN_READINGS):
            processes = list(self._family())
            for process in processes:
                try:
                    times = process.cpu_times()
                    key = (process.pid, process.create_time())
                    name = self._readings[key][0] if key in self._readings else self._kind(process)
                    self._readings[key] = name, times.user + times.system
                except psutil.NoSuchProcess:
                    continue

    def _kind(self, process: psutil.Process) -> str:
        return "main" if process.pid == self._root.pid else _kind(process)

    def _family(self) -> Iterator[psutil.Process]:
        """The process, and what was started for it: workers have no parent, and name it on their command line."""
        family = {self._root.pid}
        for process in sorted(psutil.process_iter(["ppid", "cmdline"]), key=lambda one: one.pid):
            named = str(self._root.pid) in (process.info["cmdline"] or ())
            if process.pid in family or process.info["ppid"] in family or named:
                family.add(process.pid)
                yield process

    def seconds(self) -> dict[str, float]:
        """By kind of process."""
        found: dict[str, float] = {}
        for name, seconds in self._readings.values():
            found[name] = round(found.get(name, 0.0) + seconds, 2)
        return found


def _kind(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    kinds = {"interchange": "interchange", "process_worker_pool": "pool", "spawn_main": "workers"}
    return next((kind for mark, kind in kinds.items() if mark in command), "other")


def measure(function: Callable[..., None], *arguments: Any) -> dict[str, Any]:
    """Run in a process of its own; wall and CPU seconds."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    started = time.monotonic()
    process.start()
    assert process.pid
    meter = Meter(process.pid)
    meter.start()
    process.join()
    meter.stop.set()
    meter.join()
    assert process.exitcode == 0
    by_process = meter.seconds()
    return {"wall": time.monotonic() - started, "cpu": sum(by_process.values()), "by_process": by_process}


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, indexed, plain = (Path(folder) / name for name in ("rows.jsonl", "indexed", "plain"))
        write_documents(source, given.documents)
        run = measure(workflow, source, indexed)
        log = read_tasks(find_run(indexed))
        loop = measure(plain_loop, indexed, plain)
        again = measure(workflow, source, indexed)
        counts = Collection(indexed).manifest().counts
        shutil.rmtree(plain)
    result = {
        "machine": describe_machine(),
        "load": os.getloadavg(),
        "documents": given.documents,
        "parts": counts.parts,
        "shards": counts.shards,
        "tokens": counts.tokens,
        "workflow": run,
        "plain_loop": loop,
        "in_tasks": float(log.columns["cpu_seconds"].sum()),
        "overhead": run["cpu"] / loop["cpu"] - 1,
        "rerun": again,
    }
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "overhead.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
