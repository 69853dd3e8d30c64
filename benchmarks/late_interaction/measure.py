"""Build every engine's index of one corpus, then let the engines take turns answering the same queries."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiperrag.benchmarks.late_interaction.engines import Engine
from hiperrag.benchmarks.late_interaction.process import CpuLimitError, EngineError, EngineProcess, peer_python
from hiperrag.benchmarks.late_interaction.truth import DEPTH, cached_top, real_blocks, recall
from hiperrag.benchmarks.late_interaction.vectors import TokenVectors
from hiperrag.files import write_text_atomic

_WARM_UP = 2
"""Queries answered before a turn is measured: other engines had the caches in between."""
_WALL_PER_CPU = 5
"""A build may take this many times its CPU limit in wall time (a busy machine, disks) before it is ended."""
_SEARCH_S = 900


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and where.

    work: truth and built indexes are kept there and used again, save indexes of engines whose names begin with one of
    `rebuild`.
    """

    vectors: TokenVectors
    work: Path
    peers: Path
    queries: Sequence[int]
    rounds: int
    threads: int
    build_limit_s: int
    rebuild: tuple[str, ...] = ()

    def folder(self, corpus: str, engine: Engine) -> Path:
        """Where an engine's index of a corpus lives."""
        return self.work / self.vectors.identity / corpus / engine.name

    def python(self, engine: Engine) -> Path:
        """The interpreter of an engine's environment."""
        return peer_python(self.peers, engine.environment)

    def request(self, corpus: str, passages: int, engine: Engine) -> dict[str, Any]:
        """What build and open requests have in common."""
        return {
            "vectors": str(self.vectors.folder.absolute()),
            "passages": passages,
            "index": str((self.folder(corpus, engine) / "index").absolute()),
            "options": engine.options,
        }


def measure_corpus(plan: Plan, passages: int, engines: Sequence[Engine]) -> dict[str, Any]:
    """Build and search the first `passages` passages with every engine.

    Returns {"passages", "tokens", "engines": [{"name", "family", "version", "build" or "failed", "settings"}]}.
    """
    corpus = f"first-{passages}"
    blocks = real_blocks(plan.vectors, passages)
    truth = cached_top(plan.work / plan.vectors.identity, blocks, plan.vectors, plan.queries, [passages], corpus)[
        passages
    ]
    rows = [build(plan, corpus, passages, engine) for engine in engines]
    search_all(plan, corpus, passages, list(zip(engines, rows, strict=True)), truth)
    return {"passages": passages, "tokens": int(plan.vectors.offsets[passages]), "engines": rows}


def build(plan: Plan, corpus: str, passages: int, engine: Engine, growth: str | None = None) -> dict[str, Any]:
    """Build an engine's index, or take what an earlier run built.

    growth: the named pipe that a grown corpus comes through. Returns {"name", "family", "options", "settings": []} and
    either "version" and "build" or "failed".
    """
    row: dict[str, Any] = {"name": engine.name, "family": engine.family, "options": engine.options, "settings": []}
    row.update(_built_before(plan, corpus, engine) or _build(plan, corpus, passages, engine, growth))
    say(
        f"  {engine.name}: {row.get('failed') or 'built in {cpu_s:.1f} CPU-s'.format(**row.get('build', {'cpu_s': 0}))}"
    )
    return row


def _built_before(plan: Plan, corpus: str, engine: Engine) -> dict[str, Any] | None:
    record_file = plan.folder(corpus, engine) / "build.json"
    if not record_file.is_file() or engine.name.startswith(plan.rebuild):
        return None
    record: dict[str, Any] = json.loads(record_file.read_text(encoding="utf-8"))
    known = record["options"] == engine.options and ("build" in record or record["limit_s"] >= plan.build_limit_s)
    return record if known else None


def _build(plan: Plan, corpus: str, passages: int, engine: Engine, growth: str | None) -> dict[str, Any]:
    python = plan.python(engine)
    if not python.is_file():
        return {"failed": f"not installed (no environment {engine.environment})"}
    folder, limit = plan.folder(corpus, engine), plan.build_limit_s
    shutil.rmtree(folder, ignore_errors=True)
    request = {**plan.request(corpus, passages, engine), "do": "build", "cpu_limit_s": limit, "growth": growth}
    record: dict[str, Any] = {"options": engine.options, "limit_s": limit}
    try:
        with EngineProcess(python, engine.worker, plan.threads, folder / "build.log") as process:
            record |= {"version": process.version, "build": process.ask(request, limit * _WALL_PER_CPU)}
    except CpuLimitError:
        record["failed"] = f"build: not done after {limit} CPU-s"
    except EngineError as error:  # not kept: another run may fare better
        return {"failed": f"build: {error}"}
    write_text_atomic(folder / "build.json", json.dumps(record, indent=1) + "\n")
    return record


def search_all(
    plan: Plan,
    corpus: str,
    passages: int,
    rows: Sequence[tuple[Engine, dict[str, Any]]],
    truth: Sequence[Sequence[int]],
    batches: bool = True,
) -> None:
    """Fill in row["settings"]: latency of single queries on one thread, then throughput of batches on plan.threads."""
    singly = _take_turns(plan, corpus, passages, rows, threads=1, together=False)
    together = _take_turns(plan, corpus, passages, rows, threads=plan.threads, together=True) if batches else {}
    for engine, row in rows:
        if "failed" in row:
            continue
        for label, setting in engine.settings.items():
            key = (engine.name, label)
            figures = summarise(singly[key], together.get(key, []), truth)
            row["settings"].append({"label": label, "setting": setting, **figures})


def _take_turns(
    plan: Plan, corpus: str, passages: int, rows: Sequence[tuple[Engine, dict[str, Any]]], threads: int, together: bool
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Answers by engine and setting, one for each round; an engine that fails gets row["failed"] and leaves."""
    answers: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        processes = {}
        for engine, row in rows:
            if "failed" not in row:
                with _noting(row, "open"):
                    processes[engine.name] = stack.enter_context(_open(plan, corpus, passages, engine, threads))
        for turn, numbers in enumerate(np.array_split(np.asarray(plan.queries), plan.rounds)):
            for engine, row in rows:
                if "failed" not in row:
                    with _noting(row, "search"):
                        for place, label in enumerate(_rotated(list(engine.settings), turn)):
                            setting = engine.settings[label]
                            answer = _ask(processes[engine.name], numbers.tolist(), setting, together)
                            answers.setdefault((engine.name, label), []).append({**answer, "first": place == 0})
    say(f"  searched with {threads} thread(s)")
    return answers


def _rotated(labels: list[str], turn: int) -> list[str]:
    """Another setting goes first in every round: it is the one that meets passages which were not read before."""
    start = turn % len(labels)
    return labels[start:] + labels[:start]


@contextlib.contextmanager
def _noting(row: dict[str, Any], what: str) -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        row["failed"] = f"{what}: {error}"[:120]


def _open(plan: Plan, corpus: str, passages: int, engine: Engine, threads: int) -> EngineProcess:
    log = plan.folder(corpus, engine) / "search.log"
    process = EngineProcess(plan.python(engine), engine.worker, threads, log)
    process.ask({**plan.request(corpus, passages, engine), "do": "open"}, _SEARCH_S)
    return process


def _ask(process: EngineProcess, numbers: list[int], setting: dict[str, Any], together: bool) -> dict[str, Any]:
    request = {"do": "search", "k": DEPTH, "setting": setting}
    process.ask({**request, "queries": numbers[:_WARM_UP], "together": False}, _SEARCH_S)
    return process.ask({**request, "queries": numbers, "together": together}, _SEARCH_S)


def summarise(
    answers: Sequence[dict[str, Any]], batches: Sequence[dict[str, Any]], truth: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Recall and medians over single queries; queries per second and CPU time per query over batches.

    cpu_ms_p50_unread is over the queries that this setting answered before any other did: passages are read, and
    where an engine does so checked, for the first time.
    """
    found = [passages for answer in answers for passages in answer["found"]]
    cpu_ms, wall_ms = (
        np.array([value for answer in answers for value in answer[key]]) * 1e3 for key in ("cpu_s", "wall_s")
    )
    figures: dict[str, Any] = {
        "n": len(found),
        "recall": round(float(np.mean([recall(f, t) for f, t in zip(found, truth, strict=True)])), 4),
        "cpu_ms_p50": _round(np.median(cpu_ms)),
        "cpu_ms_p90": _round(np.percentile(cpu_ms, 90)),
        "wall_ms_p50": _round(np.median(wall_ms)),
    }
    unread = [value for answer in answers if answer["first"] for value in answer["cpu_s"]]
    if unread:
        figures["cpu_ms_p50_unread"] = _round(np.median(unread) * 1e3)
    if batches:
        n = sum(len(batch["found"]) for batch in batches)
        per_query = [1e3 * batch["cpu_s"][0] / len(batch["found"]) for batch in batches]
        rates = [len(batch["found"]) / batch["wall_s"][0] for batch in batches]
        figures |= {
            "batch_n": n,
            "batch_cpu_ms": _round(np.median(per_query)),
            "batch_queries_s": _round(np.median(rates)),
        }
    return figures


def _round(value: Any) -> float:
    return float(f"{float(value):.4g}")


def say(message: str) -> None:
    """Progress, on standard error."""
    print(message, file=sys.stderr, flush=True)
