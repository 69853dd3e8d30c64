"""Runs parsers over the pairs, taking turns, and gathers figures by stratum."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hiperrag.benchmarks.late_interaction.process import EngineError, EngineProcess
from hiperrag.benchmarks.parse_quality import load_metrics, normalise
from hiperrag.benchmarks.parsing import printed
from hiperrag.benchmarks.parsing.outputs import OutputScore, score_output
from hiperrag.benchmarks.parsing.parsers import LEFT_OUT, PEERS, is_ours, start
from hiperrag.benchmarks.parsing.rasters import raster_copy
from hiperrag.benchmarks.parsing.texts import mean
from hiperrag.benchmarks.parsing.truth import load, rows_of
from hiperrag.machine import describe_machine

BORN_DIGITAL = "born-digital"
FIGURES = tuple(field.name for field in dataclasses.fields(OutputScore))


@dataclasses.dataclass(slots=True)
class Plan:
    """What is compared: `rasterise` are dots per inch of copies without a text layer."""

    pairs: Path
    parsers: Sequence[str]
    half: str
    limit: int | None
    max_pages: int | None
    rasterise: Sequence[int]
    turn: bool
    work: Path
    peers: Path
    timeout_s: float


def compare(plan: Plan, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The report: machine, versions, one row for each document, copy and parser, and the summary by stratum.

    `save` gets the report so far after each document, for a run that is stopped early.
    """
    crew = _Crew(plan)
    results: list[dict[str, Any]] = []
    try:
        for turn, (row, copy, path) in enumerate(_copies(plan)):
            order = [plan.parsers[(turn + i) % len(plan.parsers)] for i in range(len(plan.parsers))]
            results += _documents_results(plan, crew, row, copy, path, order)
            print(f"{row['id']} {copy}", file=sys.stderr)
            save(_report(plan, crew, results))
    finally:
        crew.close()
    return _report(plan, crew, results)


def _report(plan: Plan, crew: _Crew, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "machine": describe_machine(),
        "versions": crew.versions,
        "missing": crew.missing,
        "left_out": LEFT_OUT,
        "half": plan.half,
        "turned": plan.turn,
        "documents": len({result["id"] for result in results}),
        "pages": sum({result["id"]: result["pages"] for result in results}.values()),
        "results": list(results),
        "summary": summarise(results),
    }


def _copies(plan: Plan) -> Iterator[tuple[dict[str, Any], str, Path]]:
    """Row of the manifest, name of the copy, and its file."""
    rows = [row for row in rows_of(plan.pairs, plan.half) if not plan.max_pages or row["pages"] <= plan.max_pages]
    for row in rows[: plan.limit]:
        source = (plan.pairs / "pdf" / f"{row['id']}.pdf").absolute()
        yield row, BORN_DIGITAL, source
        for dpi in plan.rasterise:
            yield row, f"{dpi} dpi", raster_copy(source, plan.work.absolute(), dpi, plan.turn)


def _documents_results(
    plan: Plan, crew: _Crew, row: dict[str, Any], copy: str, path: Path, order: Sequence[str]
) -> list[dict[str, Any]]:
    truth = load(plan.pairs, row)
    pages = printed.read((plan.pairs / "pdf" / f"{row['id']}.pdf").read_bytes())
    text_score = load_metrics()
    results = []
    for name in order:
        answer = crew.ask(name, path)
        if answer is None:
            continue
        markdown = is_ours(name) or PEERS[name].markdown
        score = score_output(answer["text"], answer["body"], truth, pages, text_score, markdown)
        found = {"id": row["id"], "columns": row.get("columns"), "copy": copy, "parser": name}
        found |= {"pages": len(pages.sizes), "cpu_s": answer["cpu_s"], "failed": answer.get("failed", "")}
        found |= dataclasses.asdict(score)
        if answer["body"] is not None:
            found["whole_similarity"] = text_score(normalise(answer["text"]), normalise(truth.text))[0]
        results.append(found)
    return results


class _Crew:
    """Worker processes, started when first asked and once more after each loss."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._running: dict[str, EngineProcess] = {}
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        """Parsers that do not start, and why."""

    def ask(self, name: str, path: Path) -> dict[str, Any] | None:
        """The answer of a parser for one file; an empty one with the reason where it failed; None for a missing one."""
        if name in self.missing:
            return None
        try:
            if name not in self._running:
                self._running[name] = start(name, self._plan.peers, self._plan.work / "logs")
                self.versions[name] = self._running[name].version
        except EngineError as error:
            self.missing[name] = str(error)
            print(f"{name} does not start: {error}", file=sys.stderr)
            return None
        try:
            return self._running[name].ask({"pdf": str(path)}, self._plan.timeout_s)
        except EngineError as error:
            del self._running[name]
            return {"text": "", "body": None, "cpu_s": None, "failed": str(error)}

    def close(self) -> None:
        for worker in self._running.values():
            worker.close()


def summarise(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures by parser, copy and number of columns: medians and deciles of texts, means of the others."""
    rows = []
    digital = {(r["id"], r["parser"]): r["similarity"] for r in results if r["copy"] == BORN_DIGITAL}
    copies = sorted({r["copy"] for r in results}, key=lambda copy: (copy != BORN_DIGITAL, copy))
    for copy in copies:
        for stratum, columns in (("all", None), ("1 column", 1), ("2 columns", 2)):
            for parser in sorted({r["parser"] for r in results}):
                chosen = [
                    r for r in results if (r["copy"], r["parser"]) == (copy, parser) and columns in (None, r["columns"])
                ]
                if chosen:
                    losses = _losses(chosen, digital)
                    rows.append({"copy": copy, "stratum": stratum, "parser": parser, **_figures(chosen), **losses})
    return rows


def _losses(results: Sequence[dict[str, Any]], digital: dict[tuple[str, str], float]) -> dict[str, float | None]:
    """By how much a copy's similarity is below that of the same document with its text layer: median, ninth decile."""
    losses = sorted(digital[key] - r["similarity"] for r in results if (key := (r["id"], r["parser"])) in digital)
    if not losses or results[0]["copy"] == BORN_DIGITAL:
        return {"loss": None, "loss_p90": None}
    return {"loss": statistics.median(losses), "loss_p90": losses[min(len(losses) - 1, 9 * len(losses) // 10)]}


def _figures(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def known(name: str) -> list[float]:
        return [r[name] for r in results if r.get(name) is not None]

    similarities = sorted(known("similarity"))
    timed = [r for r in results if r["cpu_s"] is not None]
    seconds = sum(r["cpu_s"] for r in timed)
    return {
        "documents": len(results),
        "failed": sum(bool(r["failed"]) for r in results),
        "similarity": statistics.median(similarities),
        "similarity_p10": similarities[len(similarities) // 10],
        "bleu": statistics.median(known("bleu")),
        "whole_similarity": statistics.median(known("whole_similarity")) if known("whole_similarity") else None,
        **{name: mean(known(name)) for name in FIGURES[2:]},
        "pages_per_cpu_s": sum(r["pages"] for r in timed) / seconds if seconds else None,
        "cpu_ms_per_page": 1000 * seconds / sum(r["pages"] for r in timed) if timed else None,
    }
