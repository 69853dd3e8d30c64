"""The processes of these benchmarks: the service, its stub generator, its clients; and what they cost."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from hiperrag.answering.retrieval import Retriever
from hiperrag.benchmarks.service.clients import Asked, Plan

START_S = 180.0
_COMMAND = "from hiperrag.cli import main; main()"


def questions(collection: Path, n: int, seed: int = 0) -> list[str]:
    """Questions about documents drawn from a collection, by their titles."""
    retriever = Retriever(collection, threads=1)
    titles = {
        shard.passages[row].title
        for shard in retriever.searcher.shards
        for row in random.Random(seed).sample(range(shard.n_passages), min(n, shard.n_passages))
    }
    return [f"What is known about {title.rstrip('.')}?" for title in sorted(titles) if title][:n]


class Stub:
    """The stub generator in a process of its own; `restart` keeps its port."""

    def __init__(self, speed: float, tokens: int) -> None:
        self._speed, self._tokens = speed, tokens
        self.port = 0
        self._start()

    def _start(self) -> None:
        module = "hiperrag.benchmarks.service.stub"
        options = {"--port": self.port, "--speed": self._speed, "--tokens": self._tokens}
        arguments = [str(one) for pair in options.items() for one in pair]
        self.process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())

    @property
    def spec(self) -> str:
        """For `--generator`."""
        return f"openai:http://127.0.0.1:{self.port}/v1#stub"

    def get(self, path: str) -> Any:
        """What it says of itself."""
        return get_json(f"http://127.0.0.1:{self.port}{path}")

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """As a machine that fails."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """After `kill`."""
        self._start()


class Service:
    """`hiperrag serve` of one collection under the name "c"; `log` is what it wrote to standard error."""

    def __init__(self, collection: Path, generator: str, *options: str) -> None:
        command = [sys.executable, "-c", _COMMAND, "serve", f"c={collection}", "--port", "0"]
        command += ["--generator", generator, "--requests-per-minute", "0", *options]
        self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(command, stderr=self._file)
        self.address = self._wait()

    def _wait(self) -> str:
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            found = re.search(r"serving .* at (http\S+)", self.log)
            if found:
                return found[1]
            time.sleep(0.2)
        self.process.kill()
        raise RuntimeError(f"the service did not start: {self.log}")

    @property
    def log(self) -> str:
        """So far."""
        return os.pread(self._file.fileno(), 1 << 24, 0).decode("utf-8", "replace")

    def shard_processes(self) -> list[psutil.Process]:
        """Its children that search shards."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "hiperrag.service.shards.child" in " ".join(child.cmdline())]

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> int:
        """Stop it as an operator does; its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


@dataclasses.dataclass(slots=True)
class Sample:
    """Of the service's processes together: at `at` (CLOCK_MONOTONIC), memory in MB, CPU seconds since their start."""

    at: float
    resident_mb: float
    own_mb: float
    """Without mapped files."""
    cpu_s: float
    threads: int
    sockets: int


class Watch:
    """Samples the processes of a service once a second."""

    def __init__(self, pid: int) -> None:
        self._main = psutil.Process(pid)
        self.samples: list[Sample] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.wait(1.0):
            with contextlib.suppress(psutil.Error):
                self.samples.append(self.sample())

    def sample(self) -> Sample:
        """Now."""
        resident = own = cpu = 0.0
        for process in [self._main, *self._main.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                memory, times = process.memory_info(), process.cpu_times()
                resident += memory.rss / 1e6
                own += (memory.rss - memory.shared) / 1e6
                cpu += times.user + times.system
        sockets = len(self._main.net_connections("tcp"))
        return Sample(time.monotonic(), resident, own, cpu, self._main.num_threads(), sockets)

    def end(self) -> list[Sample]:
        """All samples."""
        self._ending.set()
        self._thread.join()
        return self.samples


@contextlib.contextmanager
def clients(plan: Plan) -> Iterator[Clients]:
    """Clients at work, in a process of their own."""
    one = Clients(plan)
    try:
        yield one
    finally:
        one.process.kill()


class Clients:
    """See `clients`."""

    def __init__(self, plan: Plan) -> None:
        command = [sys.executable, "-m", "hiperrag.benchmarks.service.clients"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin
        self.process.stdin.write(json.dumps(dataclasses.asdict(plan)))
        self.process.stdin.close()

    def wait(self) -> list[Asked]:
        """What became of all requests."""
        assert self.process.stdout
        output = self.process.stdout.read()
        self.process.wait()
        return [Asked(**json.loads(line)) for line in output.splitlines()]


def get_json(url: str) -> Any:
    """A small document."""
    with urllib.request.urlopen(url, timeout=30) as response:
        return json.load(response)
