"""The comparison as Markdown tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hiperrag.benchmarks import pictures
from hiperrag.benchmarks.parsing.compare import BORN_DIGITAL
from hiperrag.benchmarks.parsing.parsers import PEERS, is_ours

_COLUMNS = (
    ("similarity", "similarity", 3),
    ("similarity_p10", "worst decile", 3),
    ("whole_similarity", "whole", 3),
    ("loss", "lost", 3),
    ("loss_p90", "lost, worst decile", 3),
    ("bleu", "BLEU-4", 1),
    ("order", "order", 3),
    ("headings", "headings", 2),
    ("paths", "with path", 2),
    ("cells", "table cells", 2),
    ("captions", "captions", 2),
    ("pages_per_cpu_s", "pages/CPU-s", 2),
)
# Okabe and Ito's palette: distinguishable with every common form of colour blindness.
_OURS, _THEIRS = "#D55E00", "#0072B2"
_STRATA = {"1 column": "#56B4E9", "2 columns": "#009E73"}
_METHOD = """\
Parsers take turns document by document in processes of their own. CPU time covers child processes and not the start
of a parser.

- similarity (1 - normalised Levenshtein distance; median and worst decile) and BLEU-4 (median) are against the body's
  text: ours gives the body alone, the others everything they find; "whole" is the same for our whole Markdown
- lost: by how much a copy's similarity is below that of the same document with its text layer (median)
- order: Kendall's tau of the truth's paragraphs
- headings: share that are Markdown headings, and that have the right ancestors
- table cells: F1 of the multisets of cells, over tables with ground truth
- captions: share whose beginning is in the output

The last five are means over documents."""
_TURNED = "A quarter of the pages of the copies without a text layer is turned by 90° one way or the other."


def markdown(report: dict[str, Any]) -> str:
    """The whole report as tables, one for each copy and stratum."""
    lines = [
        "# Parsers on PDFs with ground truth",
        "",
        f"{report['documents']} documents, {report['pages']} pages ({report['half']}); "
        f"{report['machine']['processor']}, one thread each. {_METHOD}",
        "",
        report["left_out"],
        *(f"{name} did not start: {why}" for name, why in report["missing"].items()),
        "",
        "Versions: " + ", ".join(f"{name}: {version}" for name, version in sorted(report["versions"].items())) + ".",
    ]
    if report["turned"]:
        lines += [
            "",
            "A quarter of the pages of the copies without a text layer is turned by 90° one way or the other.",
        ]
    for copy, stratum in dict.fromkeys((row["copy"], row["stratum"]) for row in report["summary"]):
        rows = [row for row in report["summary"] if (row["copy"], row["stratum"]) == (copy, stratum)]
        rows.sort(key=lambda row: (not is_ours(row["parser"]), -row["similarity"]))
        lines += ["", f"## {copy[0].upper() + copy[1:]}, {stratum} (n = {max(r['documents'] for r in rows)})", ""]
        lines += _table(rows)
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    columns = [column for column in _COLUMNS if any(row[column[0]] is not None for row in rows)]
    yield "| parser | " + " | ".join(title for _, title, _ in columns) + " | failed |"
    yield "|---|" + "---:|" * (len(columns) + 1)
    for row in rows:
        cells = [_number(row[name], digits) for name, _, digits in columns]
        yield f"| {_about(row['parser'])} | " + " | ".join(cells) + f" | {row['failed'] or ''} |"


def _about(parser: str) -> str:
    return f"**hiperrag {parser}**" if is_ours(parser) else PEERS[parser].about


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write_plots(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write the pictures as PNG files; returns their paths."""
    return pictures.write(lambda: _figures(report), folder)


def _figures(report: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    digital = [row for row in report["summary"] if row["copy"] == BORN_DIGITAL]
    if digital:
        yield "quality_speed", _quality_and_speed([row for row in digital if row["stratum"] == "all"])
        yield "similarity", _similarities(report["results"])
        yield "structure", _structure([row for row in digital if row["stratum"] == "all"])
    if any(row["copy"] != BORN_DIGITAL for row in report["summary"]):
        yield "rasterised", _rasterised(report["summary"])


def _quality_and_speed(rows: Sequence[dict[str, Any]]) -> Figure:
    figure, ax = plt.subplots(figsize=(6.4, 4.2))
    for row in rows:
        colour = _OURS if is_ours(row["parser"]) else _THEIRS
        ax.plot(row["cpu_ms_per_page"], row["similarity"], "o", color=colour, markersize=6)
    ax.set_xscale("log")
    ax.set_xlabel("CPU milliseconds a page (log scale)")
    ax.set_ylabel("character similarity with the body, median")
    ax.set_ylim(0, 1.03)
    ax.margins(x=0.15)
    _name_points(ax, [(row["cpu_ms_per_page"], row["similarity"], _short(row["parser"])) for row in rows])
    return figure


def _name_points(ax: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Names above or below points, further away where they would lie on another point or name."""
    ax.figure.canvas.draw()
    places = ax.transData.transform([(x, y) for x, y, _ in points])
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    pixels = ax.figure.dpi / 72
    for (x, y, name), (across, up) in sorted(zip(points, places, strict=True), key=lambda item: item[0]):
        half, height = 2.4 * len(name) * pixels, 9 * pixels
        for offset in (7, -14, 18, -25, 29, -36):
            low = up + offset * pixels
            box = (across - half, low, across + half, low + height)
            if not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        ax.annotate(name, (x, y), textcoords="offset points", xytext=(0, offset), ha="center", fontsize=8)


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _short(parser: str) -> str:
    return f"hiperrag {parser}" if is_ours(parser) else parser


def _similarities(results: Sequence[dict[str, Any]]) -> Figure:
    """Similarity of every document, by parser and number of columns."""
    chosen = [r for r in results if r["copy"] == BORN_DIGITAL]
    parsers = _by_median(chosen)
    figure, ax = plt.subplots(figsize=(6.8, 0.55 * len(parsers) + 1.2))
    for place, parser in enumerate(parsers):
        for step, (stratum, colour) in enumerate(_STRATA.items()):
            values = [r["similarity"] for r in chosen if r["parser"] == parser and r["columns"] == step + 1]
            y = [place + (step - 0.5) * 0.3] * len(values)
            ax.plot(values, y, "o", color=colour, markersize=4, alpha=0.7, label="" if place else stratum)
    ax.set_yticks(range(len(parsers)), [_short(parser) for parser in parsers])
    ax.set_xlabel("character similarity with the body, one point a document")
    ax.set_xlim(0, 1.02)
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncol=2)
    return figure


def _by_median(results: Sequence[dict[str, Any]]) -> list[str]:
    """Parsers, the best last (uppermost in a picture)."""
    values: dict[str, list[float]] = {}
    for r in results:
        values.setdefault(r["parser"], []).append(r["similarity"])
    return sorted(values, key=lambda parser: sorted(values[parser])[len(values[parser]) // 2])


def _structure(rows: Sequence[dict[str, Any]]) -> Figure:
    rows = sorted(rows, key=lambda row: row["headings"] or -1)
    shown = [row for row in rows if row["headings"] is not None]
    figures = (("headings", "headings found"), ("paths", "with the right path"), ("cells", "table cells, F1"))
    figure, ax = plt.subplots(figsize=(6.8, 0.6 * max(1, len(shown)) + 1.2))
    for step, ((name, label), colour) in enumerate(zip(figures, ("#0072B2", "#56B4E9", "#E69F00"), strict=True)):
        places = [place + (1 - step) * 0.26 for place in range(len(shown))]
        ax.barh(places, [row[name] or 0 for row in shown], height=0.24, color=colour, label=label)
    ax.set_yticks(range(len(shown)), [_short(row["parser"]) for row in shown])
    ax.set_xlim(0, 1)
    ax.set_xlabel("mean over documents")
    ax.grid(axis="y", visible=False)
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=3)
    return figure


def _rasterised(summary: Sequence[dict[str, Any]]) -> Figure:
    rows = [row for row in summary if row["stratum"] == "all"]
    copies = list(dict.fromkeys(row["copy"] for row in rows))
    parsers = list(dict.fromkeys(row["parser"] for row in rows if row["copy"] != BORN_DIGITAL))
    figure, ax = plt.subplots(figsize=(1.6 * len(parsers) + 2.2, 3.6))
    for step, (copy, colour) in enumerate(zip(copies, ("#0072B2", "#56B4E9", "#E69F00", "#009E73"), strict=False)):
        values = {row["parser"]: row["similarity"] for row in rows if row["copy"] == copy}
        places = [place + (step - (len(copies) - 1) / 2) * 0.26 for place in range(len(parsers))]
        bars = ax.bar(places, [values.get(parser, 0) for parser in parsers], width=0.24, color=colour, label=copy)
        ax.bar_label(bars, fmt="%.2f", fontsize=7)
    ax.set_xticks(range(len(parsers)), [_short(parser) for parser in parsers])
    ax.set_ylabel("character similarity with the body, median")
    ax.set_ylim(0, 1.05)
    ax.grid(axis="x", visible=False)
    figure.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncol=len(copies))
    return figure
