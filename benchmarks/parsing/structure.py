"""How much of the structure of documents a parser finds, by document and overall.

    python -m hiperrag.benchmarks.parsing.structure PAIRS_DIR [--half dev|held|all] [--parser fast] [--show ID]

`--half dev` is every second pair of the sorted ids from the first, `held` the others. `--show ID` (or `--show all`)
prints what was missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hiperrag.benchmarks.parse_quality import load_metrics, normalise
from hiperrag.benchmarks.parsing import metrics, printed
from hiperrag.benchmarks.parsing.parsers import Parse, ours
from hiperrag.benchmarks.parsing.texts import mean
from hiperrag.benchmarks.parsing.truth import Truth, load, rows_of
from hiperrag.errors import UserError
from hiperrag.files import write_text_atomic
from hiperrag.parsing.body import body_text
from hiperrag.records import Document


@dataclasses.dataclass(slots=True)
class Scores:
    """All figures of one document."""

    id: str
    columns: int | None
    pages: int
    cpu_ms: float
    similarity: float
    bleu: float
    headings: metrics.HeadingScore
    purity: metrics.PurityScore
    captions: metrics.CaptionScore
    tables: list[tuple[str, float, float]]
    """Label, F1 of cells, F1 of adjacency relations of each table with rows."""
    front: metrics.FrontScore


def score_document(
    document: Document, truth: Truth, data: bytes, text_score: Callable[[str, str], tuple[float, float]]
) -> Scores:
    """Score a parsed document; `data` are the bytes of the PDF whose text layer says what is printed."""
    pages = printed.read(data)
    printed.label(pages, truth)
    similar, bleu = text_score(normalise(body_text(document)), normalise(truth.text))
    return Scores(
        id=truth.id,
        columns=truth.columns,
        pages=len(pages.sizes),
        cpu_ms=0.0,
        similarity=similar,
        bleu=bleu,
        headings=metrics.score_headings(metrics.heading_paths(document.blocks), truth, pages),
        purity=metrics.score_purity(document.blocks, pages),
        captions=metrics.score_captions(document, truth, pages),
        tables=[
            (item.label or "(no label)", s.cells, s.adjacency) for item, s in metrics.score_tables(document, truth)
        ],
        front=metrics.score_front(document, truth),
    )


def run(pairs: Path, half: str, parse: Parse, only: str = "") -> list[Scores]:
    """Parse and score the pairs of one half, or one pair. A document that cannot be parsed scores as an empty one."""
    text_score = load_metrics()
    results = []
    for row in rows_of(pairs, "all" if only else half):
        if only and row["id"] != only:
            continue
        data = (pairs / "pdf" / f"{row['id']}.pdf").read_bytes()
        start = time.process_time()
        try:
            document = parse(data, row["id"], row["id"])
        except Exception as error:  # a parser that is being worked on fails in any way; the other documents still count
            print(f"{row['id']}: {type(error).__name__}: {error}", file=sys.stderr)
            document = Document(row["id"], row["id"], "", [], 0, "", "", 0.0, [])
        milliseconds = 1000 * (time.process_time() - start)
        scores = score_document(document, load(pairs, row), data, text_score)
        scores.cpu_ms = milliseconds
        results.append(scores)
    if not results:
        raise UserError(f"{pairs} has no pair {only!r}" if only else f"{pairs} has no pairs")
    return results


def summarise(results: Sequence[Scores]) -> dict[str, Any]:
    """Figures over all documents: shares of all headings, lines and captions, means over tables, medians of texts."""
    headings = [r.headings for r in results if r.headings.wanted]  # the others' sources say nothing of headings
    captions = [r.captions for r in results]
    labels = sum((Counter(r.purity.lines) for r in results), Counter[str]())
    leaked = Counter[str](line.label for r in results for line in r.purity.leaked)
    tables = [table for r in results for table in r.tables]
    front = {
        field.name: mean([float(v) for r in results if (v := getattr(r.front, field.name)) is not None])
        for field in dataclasses.fields(metrics.FrontScore)
    }
    similarities = sorted(r.similarity for r in results)
    return {
        "documents": len(results),
        "similarity_median": statistics.median(similarities),
        "similarity_p10": similarities[len(similarities) // 10],
        "bleu_median": statistics.median(r.bleu for r in results),
        "headings": sum(h.wanted for h in headings),
        "headings_absent": sum(h.absent for h in headings),
        "heading_recall": _share(sum(h.found for h in headings), sum(h.wanted for h in headings)),
        "heading_right_path": _share(sum(h.right_path for h in headings), sum(h.wanted for h in headings)),
        "heading_precision": _share(sum(h.given - h.unknown for h in headings), sum(h.given for h in headings)),
        "purity": {name: 1 - leaked[name] / n for name, n in sorted(labels.items())}
        | {"all": _share(labels.total() - leaked.total(), labels.total())},
        "purity_lines": dict(labels),
        "body_kept": _share(
            sum(r.purity.body - len(r.purity.lost) for r in results), sum(r.purity.body for r in results)
        ),
        "captions": sum(c.wanted for c in captions),
        "captions_absent": sum(c.absent for c in captions),
        "captions_found": _share(sum(c.found for c in captions), sum(c.wanted for c in captions)),
        "captions_tied": _share(sum(c.tied for c in captions), sum(c.wanted for c in captions)),
        "figures_tied": _share(sum(c.figures_tied for c in captions), sum(c.figures for c in captions)),
        "tables_tied": _share(
            sum(c.tied - c.figures_tied for c in captions), sum(c.wanted - c.figures for c in captions)
        ),
        "tables": len(tables),
        "table_cells_f1": mean([cells for _, cells, _ in tables]),
        "table_cells_f1_median": statistics.median(cells for _, cells, _ in tables) if tables else None,
        "table_adjacency_f1": mean([adjacency for _, _, adjacency in tables]),
        **front,
        "cpu_ms_per_page": sum(r.cpu_ms for r in results) / max(1, sum(r.pages for r in results)),
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def document_table(results: Sequence[Scores]) -> str:
    """One line a document."""
    lines = [
        f"{'document':34s}{'col':>4s}{'sim':>6s}{'BLEU':>6s}{'head':>10s}{'path':>5s}{'extra':>6s}{'leak':>10s}"
        f"{'capt':>8s}{'tied':>5s}{'cells':>6s}{'adj':>6s}{'title':>6s}{'auth':>6s}{'abstr':>6s}{'refs':>6s}"
    ]
    for r in results:
        h, c, f = r.headings, r.captions, r.front
        cells, adjacency = mean([t[1] for t in r.tables]), mean([t[2] for t in r.tables])
        found, leaked = f"{h.found}/{h.wanted}", f"{len(r.purity.leaked)}/{sum(r.purity.lines.values())}"
        lines.append(
            f"{r.id[:33]:34s}{r.columns or 0:4d}{r.similarity:6.3f}{r.bleu:6.1f}{found:>10s}{h.right_path:5d}"
            f"{h.unknown:6d}{leaked:>10s}{f'{c.found}/{c.wanted}':>8s}{c.tied:5d}"
            f"{_number(cells)}{_number(adjacency)}{_number(f.title)}{_number(f.authors)}{_number(f.abstract)}"
            f"{_number(f.references_found)}"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return f"{'-':>6s}" if value is None else f"{value:6.2f}"


def summary_text(summary: dict[str, Any]) -> str:
    """The summary, one figure a line."""
    lines = []
    for name, value in summary.items():
        if isinstance(value, dict):
            lines += [f"{name + ' ' + part:34s}{_plain(v)}" for part, v in value.items()]
        else:
            lines.append(f"{name:34s}{_plain(value)}")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def details(scores: Scores) -> str:
    """What was missed in one document."""
    h, c = scores.headings, scores.captions
    lines = [f"== {scores.id}"]
    lines += [f"  heading missed     {text}" for text in h.missed]
    lines += [f"  heading path       {text}" for text in h.wrong_paths]
    lines += [f"  heading extra      {text[:100]}" for text in h.extra]
    lines += [f"  leaked {line.label:11s} p{line.page} {line.text[:90]}" for line in scores.purity.leaked]
    lines += [f"  body line lost     p{line.page} {line.text[:90]}" for line in scores.purity.lost]
    lines += [f"  caption missed     {text}" for text in c.missed]
    lines += [f"  caption untied     {text}" for text in c.untied]
    lines += [
        f"  table {label:12s} cells {cells:.2f} adjacency {adjacency:.2f}" for label, cells, adjacency in scores.tables
    ]
    lines += [f"  {name:18s} {value}" for name, value in dataclasses.asdict(scores.front).items()]
    return "\n".join(lines)


def as_json(scores: Scores) -> dict[str, Any]:
    """A document's figures for a file."""
    return dataclasses.asdict(scores)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hiperrag.benchmarks.parsing.structure", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("pairs", type=Path, metavar="PAIRS_DIR", help="folder with pdf/, gt/ and manifest.jsonl")
    parser.add_argument("--half", choices=("dev", "held", "all"), default="dev")
    parser.add_argument(
        "--parser",
        default="fast",
        help="fast, auto or oreo, with an OCR engine after a colon if wanted (default: fast)",
    )
    parser.add_argument("--show", metavar="ID", default="", help="print what was missed in this document, or in all")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every figure to this file")
    given = parser.parse_args(arguments)
    only = "" if given.show == "all" else given.show
    try:
        results = run(given.pairs, given.half, ours(given.parser), only)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if given.show:
        print("\n".join(map(details, results)))
    print(document_table(results))
    if not only:
        print(summary_text(summarise(results)))
    if given.json:
        report = {"half": given.half, "summary": summarise(results), "documents": list(map(as_json, results))}
        write_text_atomic(given.json, json.dumps(report, indent=1, default=str) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
