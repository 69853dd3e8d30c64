"""Passages per CPU-second of our encoder and of sentence-transformers, same passages and base model, same run.

Both run in processes of their own and take turns, so that whatever else the machine does hits both alike:

    python -m hiperrag.benchmarks.encoder_throughput --corpus FILE.jsonl.gz --peers .peers/bin/python

Each process encodes all passages once per round (after a warm-up) and reports CPU time (all threads) and wall
time. Cosines compare our pooled vectors with the peer's, and our token vectors with its token embeddings.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_TOKEN_PASSAGES = 64
"""Passages whose token vectors are compared."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, print a table, and write the figures to `--out`."""
    from hiperrag.models import DEFAULT_ENCODER

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="JSON lines with title and text, or articles")
    parser.add_argument("--peers", type=Path, help="Python of an environment with sentence-transformers")
    parser.add_argument("--model", default=DEFAULT_ENCODER, help="packaged model or folder (default: %(default)s)")
    parser.add_argument("--precision", help="float32, bfloat16 or int8 (default: as chosen for this machine)")
    parser.add_argument("-n", type=int, default=500, help="passages (default: 500)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("encoder_throughput.json"))
    given = parser.parse_args(arguments)
    if given.peers is None:
        parser.error("--peers is needed: run benchmarks/install_peers.sh, then give --peers .peers/bin/python")

    from hiperrag.encoders import encoder_folder

    passages = sample_passages(given.corpus, given.n, given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        job = {
            "passages": passages,
            "model": str(encoder_folder(given.model)),
            "threads": given.threads,
            "precision": given.precision,
        }
        job_file = Path(scratch) / "job.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        engines = {
            "hiperrag": _Engine(sys.executable, "hiperrag", job_file),
            "sentence-transformers": _Engine(str(given.peers), "sentence-transformers", job_file),
        }
        try:
            rounds = [{name: engine.ask("round") for name, engine in engines.items()} for _ in range(given.rounds)]
            agreement = _agreement(*(Path(engine.ask("vectors")["file"]) for engine in engines.values()))
        finally:
            for engine in engines.values():
                engine.close()
    report = _report(given, rounds, agreement, {name: engine.facts for name, engine in engines.items()})
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _print(report)
    return 0


def sample_passages(corpus: Path, n: int, seed: int) -> list[str]:
    """`n` passages drawn from a JSON-lines file: "title text" of each row, or the paragraphs of articles."""
    opener: Callable[..., Any] = gzip.open if corpus.suffix == ".gz" else open
    with opener(corpus, "rt", encoding="utf-8") as lines:
        passages = [passage for line in lines for passage in _passages(json.loads(line))]
    return random.Random(seed).sample(passages, min(n, len(passages)))


def _passages(row: dict[str, Any]) -> Iterator[str]:
    if "text" in row:
        yield f"{row.get('title', '')} {row['text']}".strip()
    for _section, paragraph in row.get("paragraphs", []):
        yield f"{row.get('title', '')} {paragraph}".strip()


class _Engine:
    """An encoder in a process of its own that answers one JSON line for each line it is sent."""

    def __init__(self, python: str, name: str, job: Path) -> None:
        threads = str(json.loads(job.read_text(encoding="utf-8"))["threads"])
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
        environment["HF_HUB_OFFLINE"] = "1"
        command = [python, str(Path(__file__).resolve()), "--engine", name, str(job)]
        if name == "hiperrag":
            command[1:2] = ["-m", "hiperrag.benchmarks.encoder_throughput"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts = self._answer()

    def ask(self, request: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args!r} ended with no answer; its messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve_engine(name: str, job_file: Path) -> None:
    """The child process: encode on request. Runs under the peer's Python too, so it imports nothing of ours there."""
    job = json.loads(job_file.read_text(encoding="utf-8"))
    encode, vectors, facts = (_ours if name == "hiperrag" else _peer)(job)
    encode(job["passages"][:64])
    print(json.dumps(facts), flush=True)
    for request in sys.stdin:
        if request.strip() == "round":
            cpu, wall = time.process_time(), time.perf_counter()
            encode(job["passages"])
            answer: dict[str, Any] = {
                "cpu_s": time.process_time() - cpu,
                "wall_s": time.perf_counter() - wall,
            }
        else:
            pooled, tokens = vectors(job["passages"])
            answer = {"file": str(job_file.with_name(f"{name}.npz"))}
            np.savez(answer["file"], pooled=pooled, tokens=tokens)
        print(json.dumps(answer), flush=True)


_Vectors = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
_Parts = tuple[Callable[[list[str]], Any], Callable[[list[str]], _Vectors], dict[str, Any]]


def _ours(job: dict[str, Any]) -> _Parts:
    import torch

    from hiperrag import __version__
    from hiperrag.encoders import load_encoder

    precision = f":{job['precision']}" if job["precision"] else ""
    encoder = load_encoder(job["model"] + precision, job["threads"])

    def vectors(texts: list[str]) -> _Vectors:
        # The query form keeps every token, which lines the rows up with the peer's.
        return encoder.encode_passages(texts).pooled, encoder.encode_queries(texts[:_TOKEN_PASSAGES]).tokens

    facts = {"version": __version__, "torch": torch.__version__, "precision": encoder.precision}
    return encoder.encode_passages, vectors, facts


def _peer(job: dict[str, Any]) -> _Parts:
    import sentence_transformers
    import torch

    torch.set_num_threads(job["threads"])
    model = sentence_transformers.SentenceTransformer(job["model"], device="cpu")

    def vectors(texts: list[str]) -> _Vectors:
        tokens = model.encode(texts[:_TOKEN_PASSAGES], output_value="token_embeddings")
        return model.encode(texts), np.concatenate([token.numpy() for token in tokens])

    facts = {"version": sentence_transformers.__version__, "torch": torch.__version__, "precision": "float32"}
    return model.encode, vectors, facts


def _agreement(ours: Path, peers: Path) -> dict[str, float]:
    a, b = np.load(ours), np.load(peers)
    figures: dict[str, float] = {}
    for kind in ("pooled", "tokens"):
        x, y = a[kind], b[kind]
        cosines = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        figures[f"{kind}_cosine_mean"] = round(float(cosines.mean()), 6)
        figures[f"{kind}_cosine_min"] = round(float(cosines.min()), 6)
    return figures


def _report(
    given: argparse.Namespace, rounds: list[Any], agreement: dict[str, float], facts: dict[str, Any]
) -> dict[str, Any]:
    rates = {
        name: {
            "passages_per_cpu_s": round(given.n / statistics.median(r[name]["cpu_s"] for r in rounds), 2),
            "passages_per_s": round(given.n / statistics.median(r[name]["wall_s"] for r in rounds), 2),
            **facts[name],
        }
        for name in facts
    }
    ratios = [r["sentence-transformers"]["cpu_s"] / r["hiperrag"]["cpu_s"] for r in rounds]
    return {
        "benchmark": "encoder_throughput",
        "corpus": given.corpus.name,
        "model": given.model,
        "n": given.n,
        "threads": given.threads,
        "seed": given.seed,
        "engines": rates,
        "cpu_ratio_median": round(statistics.median(ratios), 3),
        "cpu_ratio_per_round": [round(ratio, 3) for ratio in ratios],
        **agreement,
        "rounds": rounds,
        "python": platform.python_version(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _print(report: dict[str, Any]) -> None:
    print(f"{report['corpus']}, n = {report['n']}, {report['threads']} thread(s), {report['processor']}")
    print(f"{'engine':24}{'precision':>12}{'passages/CPU-s':>18}{'passages/s':>14}")
    for name, engine in report["engines"].items():
        print(f"{name:24}{engine['precision']:>12}{engine['passages_per_cpu_s']:>18}{engine['passages_per_s']:>14}")
    ratios = report["cpu_ratio_per_round"]
    print(f"ratio of CPU time, median: {report['cpu_ratio_median']} (rounds {min(ratios)} to {max(ratios)})")
    for kind in ("pooled", "tokens"):
        print(f"{kind} cosine: mean {report[f'{kind}_cosine_mean']}, min {report[f'{kind}_cosine_min']}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--engine"]:
        serve_engine(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main())
