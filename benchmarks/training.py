"""Training samples per CPU-second of `hiperrag train` and of PyLate's contrastive training, same model and batch.

    benchmarks/install_peers.sh late-interaction
    python -m hiperrag.benchmarks.training --pairs FILE --peers .peers/pylate/bin/python

Engines run in processes of their own and take turns, round by round, so that whatever else the machine does hits all
alike. A step is reading the texts, forward, backward and AdamW. PyLate trains all parameters on the MaxSim loss and
runs without query expansion; ours does the same (full, late), and its default (lora, coltrast: both losses).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENGINES = ("pylate", "full-late", "lora-late", "lora-coltrast")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, print a table, and write the figures to `--out`."""
    from hiperrag.models import BASE_ENCODER

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=Path, action="append", required=True, help="pairs file or text, as for train")
    parser.add_argument("--peers", type=Path, required=True, help="Python of an environment with PyLate")
    parser.add_argument("--model", default=BASE_ENCODER, help="packaged model or folder (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--query-tokens", type=int, default=32)
    parser.add_argument("--passage-tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="steps of each engine in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("training.json"))
    given = parser.parse_args(arguments)

    from hiperrag.encoders import encoder_folder
    from hiperrag.encoders.training.pairs import read_pairs
    from hiperrag.machine import describe_machine

    pairs = read_pairs(given.pairs, 0.0).training
    wanted = given.batch * given.steps * (given.rounds + 1)
    chosen = random.Random(given.seed).sample(pairs, min(wanted, len(pairs)))
    with tempfile.TemporaryDirectory() as scratch:
        job: dict[str, Any] = {name: value for name, value in vars(given).items() if isinstance(value, int)}
        job |= {"model": str(encoder_folder(given.model)), "pairs": [(p.query, p.positive) for p in chosen]}
        job_file = Path(scratch) / "job.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        engines = {name: _Engine(name, str(given.peers), job_file) for name in ENGINES}
        try:
            rounds = [{name: engine.ask() for name, engine in engines.items()} for _ in range(given.rounds)]
        finally:
            for engine in engines.values():
                engine.close()
    report = _report(given, rounds) | {"machine": describe_machine(), "load": os.getloadavg()}
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _print(report)
    return 0


class _Engine:
    """A trainer in a process of its own that does some steps for each line it is sent."""

    def __init__(self, name: str, peers: str, job: Path) -> None:
        threads = str(json.loads(job.read_text(encoding="utf-8"))["threads"])
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
        environment["HF_HUB_OFFLINE"] = "1"
        command = [peers, str(Path(__file__).resolve()), "--engine", name, str(job)]
        if name != "pylate":
            command[:2] = [sys.executable, "-m", "hiperrag.benchmarks.training"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()

    def ask(self) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write("round\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args!r} ended with no answer; its messages are above")
        answer: dict[str, float] = json.loads(line)
        return answer


def serve_engine(name: str, job_file: Path) -> None:
    """The child process. Runs under the peer's Python too, so it imports nothing of ours there."""
    job = json.loads(job_file.read_text(encoding="utf-8"))
    step = _peer(job) if name == "pylate" else _ours(job, *name.split("-"))
    done = 0
    for _ in range(job["steps"]):
        step(done)
        done += 1
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        cpu, wall, loss = time.process_time(), time.perf_counter(), 0.0
        for _ in range(job["steps"]):
            loss = step(done)
            done += 1
        answer = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall, "loss": loss}
        print(json.dumps(answer), flush=True)


def _ours(job: dict[str, Any], method: str, loss: str) -> Callable[[int], float]:
    import torch

    from hiperrag.encoders.training.pairs import Pair
    from hiperrag.encoders.training.ranks import Ranks
    from hiperrag.encoders.training.settings import TrainSettings
    from hiperrag.encoders.training.trainer import Stops, Trainer

    torch.set_num_threads(job["threads"])
    settings = TrainSettings.model_validate(
        {name: job[name] for name in ("batch", "query_tokens", "passage_tokens", "seed")}
        | {"base": job["model"], "method": method, "loss": loss, "block": job["batch"], "steps": 10_000}
    )
    pairs = [Pair(query=query, positive=positive) for query, positive in job["pairs"]]
    trainer = Trainer(settings, pairs, Path(), Ranks())
    return lambda _number: trainer.step(Stops())[0]


def _peer(job: dict[str, Any]) -> Callable[[int], float]:
    import torch
    from pylate import losses, models  # type: ignore[import-not-found]

    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    lengths = {"query_length": job["query_tokens"], "document_length": job["passage_tokens"]}
    model = models.ColBERT(job["model"], device="cpu", embedding_size=128, do_query_expansion=False, **lengths)
    model.train()
    loss_of = losses.Contrastive(model=model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    pairs, batch = job["pairs"], job["batch"]

    def step(number: int) -> float:
        start = number * batch % (len(pairs) - batch + 1)
        rows = pairs[start : start + batch]
        features = [
            model.tokenize([query for query, _ in rows], is_query=True),
            model.tokenize([positive for _, positive in rows], is_query=False),
        ]
        optimizer.zero_grad()
        loss = loss_of(features)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def _report(given: argparse.Namespace, rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    samples = given.batch * given.steps
    engines = {
        name: {
            "samples_per_cpu_s": round(samples / statistics.median(r[name]["cpu_s"] for r in rounds), 2),
            "samples_per_s": round(samples / statistics.median(r[name]["wall_s"] for r in rounds), 2),
            "cpu_ratio_to_pylate": [round(r["pylate"]["cpu_s"] / r[name]["cpu_s"], 3) for r in rounds],
        }
        for name in ENGINES
    }
    settings = {name: value for name, value in vars(given).items() if isinstance(value, int)}
    return {"benchmark": "training", "model": given.model, **settings, "engines": engines, "measured": rounds}


def _print(report: dict[str, Any]) -> None:
    print(f"{report['model']}, batch {report['batch']}, {report['rounds']} rounds, {report['threads']} thread(s)")
    print(f"{'engine':16}{'samples/CPU-s':>15}{'samples/s':>12}{'of PyLate (rounds)':>24}")
    for name, engine in report["engines"].items():
        ratios = engine["cpu_ratio_to_pylate"]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:16}{engine['samples_per_cpu_s']:>15}{engine['samples_per_s']:>12}{spread:>24}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--engine"]:
        serve_engine(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main())
