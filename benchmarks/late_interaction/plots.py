"""The results as pictures: quality against time, bytes, build cost, growth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hiperrag.benchmarks import pictures
from hiperrag.benchmarks.late_interaction.bars import OURS, Point, points
from hiperrag.benchmarks.late_interaction.report import build_figures

_FAMILIES = (OURS, "fast-plaid", "PyLate PLAID", "WARP", "FAISS IVF-PQ", "NumPy fp32")
# Okabe and Ito's palette: distinguishable with every common form of colour blindness.
_COLOURS = dict(zip(_FAMILIES, ("#D55E00", "#0072B2", "#56B4E9", "#CC79A7", "#009E73", "#555555"), strict=True))
_MARKERS = ("o", "s", "^", "D")
_RECALL_BAR = 0.95


def write_plots(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write the PNG files that the report has figures for; returns their paths."""
    return pictures.write(lambda: _figures(report), folder)


def _figures(report: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    corpora = [corpus for corpus in report["corpora"] if points(corpus)]
    if corpora:
        yield "recall_cpu", _recall_against_time(corpora)
        yield "bytes", _bytes(corpora)
        yield "build", _build_cost(corpora)
    if any(points(corpus) for corpus in report["growth"]):
        yield "growth", _growth(report["growth"])


def _recall_against_time(corpora: Sequence[dict[str, Any]]) -> Figure:
    figure, axes = plt.subplots(1, len(corpora), figsize=(5.2 * len(corpora), 4.4), sharey=True, squeeze=False)
    seen: dict[str, Any] = {}
    for ax, corpus in zip(axes[0], corpora, strict=True):
        for engine, found in _by_engine(points(corpus)).items():
            found.sort(key=lambda point: (point["cpu_ms_p50"], point["recall"]))
            times, recalls = [p["cpu_ms_p50"] for p in found], [p["recall"] for p in found]
            seen[engine] = ax.plot(times, recalls, **_look(found[0], corpora), markersize=5, linewidth=1.2)[0]
        ax.set_xscale("log")
        _plain_ticks(ax.xaxis)
        ax.axhline(_RECALL_BAR, color="#888888", linewidth=0.8, linestyle=":")
        ax.set_xlabel("CPU milliseconds per query, median, one thread")
        ax.set_title(f"{corpus['passages']:,} real passages")
    axes[0][0].set_ylabel("recall@10 against exact MaxSim")
    axes[0][0].set_ylim(top=1.01)
    figure.tight_layout()
    figure.legend(seen.values(), seen.keys(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=4)
    return figure


def _bytes(corpora: Sequence[dict[str, Any]]) -> Figure:
    corpus = corpora[-1]
    sizes = {engine: found[0] for engine, found in _by_engine(points(corpus)).items()}
    for smaller in corpora[:-1]:  # an engine that could not build the largest corpus shows what it needed before
        for engine, found in _by_engine(points(smaller)).items():
            sizes.setdefault(engine, {**found[0], "at": smaller["passages"]})
    ordered = sorted(sizes.items(), key=lambda item: -item[1]["bytes_token"])
    figure, ax = plt.subplots(figsize=(6.4, 0.36 * len(ordered) + 1.1))
    names = [engine + (f" ({point['at']:,})" if "at" in point else "") for engine, point in ordered]
    values = [point["bytes_token"] for _, point in ordered]
    drawn = ax.barh(names, values, color=[_COLOURS[point["family"]] for _, point in ordered], height=0.65)
    ax.bar_label(drawn, labels=[f"{value:.0f}" for value in values], padding=3)
    ax.set_xlim(right=max(values) * 1.1)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"bytes per token, everything the index keeps ({corpus['passages']:,} passages unless said)")
    return figure


def _build_cost(corpora: Sequence[dict[str, Any]]) -> Figure:
    figure, axes = plt.subplots(len(corpora), 2, figsize=(9.6, 0.5 + 2.7 * len(corpora)), squeeze=False, sharey="row")
    for row, corpus in zip(axes, corpora, strict=True):
        engines = [
            e for e in reversed(corpus["engines"]) if ("build" in e and e["build"]["cpu_s"] > 0.05) or "failed" in e
        ]
        names = [engine["name"] for engine in engines]
        for ax, column, unit in ((row[0], 0, "build, CPU-seconds"), (row[1], 2, "peak memory of the build, GB")):
            values = [build_figures(e["build"], corpus)[column] if "build" in e else 0.0 for e in engines]
            drawn = ax.barh(names, values, color=[_COLOURS[engine["family"]] for engine in engines], height=0.65)
            labels = [
                f"{value:.3g}" if "build" in e else _short(e["failed"])
                for e, value in zip(engines, values, strict=True)
            ]
            ax.bar_label(drawn, labels=labels, padding=3)
            ax.set_xlim(right=max([*values, 1e-3]) * 1.2)
            ax.grid(axis="y", visible=False)
            ax.set_xlabel(unit)
        row[0].set_title(f"{corpus['passages']:,} real passages", loc="left")
    figure.tight_layout()
    return figure


def _growth(growth: Sequence[dict[str, Any]]) -> Figure:
    figure, ((time, quality), (cpu, memory)) = plt.subplots(2, 2, figsize=(9.6, 7.2), sharex=True)
    curves: dict[str, list[tuple[int, Point]]] = {}
    builds: dict[str, list[tuple[int, float, float]]] = {}
    for corpus in growth:
        size = corpus["passages"]
        for point in points(corpus):
            curves.setdefault(f"{point['engine']}, {point['label']}", []).append((size, point))
        for engine in corpus["engines"]:
            if "build" in engine:
                cpu_s, _, peak, *_ = build_figures(engine["build"], corpus)
                builds.setdefault(engine["name"], []).append((size, cpu_s, peak))
    shades = plt.get_cmap("viridis")
    for number, (label, curve) in enumerate(curves.items()):
        look = {"color": shades(0.9 * number / max(1, len(curves) - 1)), **_marker(number)}
        time.plot([size for size, _ in curve], [p["cpu_ms_p50"] for _, p in curve], label=label, **look)
        quality.plot([size for size, _ in curve], [p["recall"] for _, p in curve], **look)
    for number, (name, built) in enumerate(builds.items()):
        look = {"color": _COLOURS[OURS], "label": name, **_marker(number)}
        cpu.plot([size for size, _, _ in built], [seconds for _, seconds, _ in built], **look)
        memory.plot([size for size, _, _ in built], [peak for _, _, peak in built], **look)
    quality.axhline(_RECALL_BAR, color="#888888", linewidth=0.8, linestyle=":")
    for ax, title in (
        (time, "CPU milliseconds per query, median, one thread"),
        (quality, "recall@10 against exact MaxSim"),
        (cpu, "build, CPU-seconds"),
        (memory, "peak memory of the build, GB"),
    ):
        ax.set_title(title, loc="left")
    time.set_xscale("log")
    time.set_xticks([corpus["passages"] for corpus in growth], [f"{corpus['passages']:,}" for corpus in growth])
    time.xaxis.set_minor_formatter(NullFormatter())
    for ax in (time, cpu):
        ax.set_yscale("log")
        _plain_ticks(ax.yaxis)
    memory.set_ylim(bottom=0)
    real = max(corpus["real_passages"] for corpus in growth)
    for ax in (cpu, memory):
        ax.set_xlabel(f"passages (the first {real:,} real, the others synthetic)")
        ax.legend()
    figure.tight_layout()
    figure.legend(*time.get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=4)
    return figure


def _marker(number: int) -> dict[str, Any]:
    return {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 5, "linewidth": 1.2}


def _by_engine(found: Sequence[Point]) -> dict[str, list[Point]]:
    grouped: dict[str, list[Point]] = {}
    for point in found:
        grouped.setdefault(point["engine"], []).append(point)
    return grouped


def _look(point: Point, corpora: Sequence[dict[str, Any]]) -> dict[str, Any]:
    family = point["family"]
    engines = list(dict.fromkeys(e["name"] for corpus in corpora for e in corpus["engines"] if e["family"] == family))
    return {"color": _COLOURS[family], "marker": _MARKERS[engines.index(point["engine"]) % len(_MARKERS)]}


def _short(failure: str) -> str:
    return failure if len(failure) < 40 else f"{failure[:37]}…"


def _plain_ticks(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, as numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
