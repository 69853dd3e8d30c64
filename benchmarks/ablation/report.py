"""The results as a page (report.md) and a picture (ablation.png)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hiperrag.benchmarks import pictures
from hiperrag.benchmarks.ablation.scoring import CANDIDATES, MEASURES, RANKINGS
from hiperrag.benchmarks.ablation.summary import MEAN
from hiperrag.files import write_text_atomic

PICTURE = "ablation"
_MEASURE = "ndcg@10"
_LABELS = {"pooled": "pooled vectors", "maxsim": "exact MaxSim", "two-stage": "two-stage search, compressed"}
_NAMES = {"mrr@10": "MRR@10", "ndcg@10": "nDCG@10", "recall@20": "Recall@20"}
# Okabe and Ito's palette: distinguishable with every common form of colour blindness.
_LOOKS = {"pooled": ("#0072B2", "s"), "maxsim": ("#009E73", "D"), "two-stage": ("#D55E00", "o")}


def write(results: dict[str, Any], folder: Path) -> None:
    """Write report.md and ablation.png."""
    pictures.write(lambda: _pictures(results), folder)
    write_text_atomic(folder / "report.md", "\n".join(_page(results)) + "\n")


def _page(results: dict[str, Any]) -> Iterator[str]:
    summary, training = results["summary"], results["training"]
    yield "# Ablation of training"
    yield ""
    machine, versions = results["machine"], results["machine"]["versions"]
    yield (
        f"Base model {results['base']}, {training['pairs']:,} training pairs ({training['with_negatives']:,} with hard "
        f"negatives), seed {training['seed']}; encoded in {results['precision']}. HiPerRAG {versions['hiperrag']}, "
        f"torch {versions['torch']}, {machine['cores']} cores of {machine['processor']}."
    )
    yield ""
    yield f"![{_NAMES[_MEASURE]} by variant]({PICTURE}.png)"
    yield ""
    yield (
        "Intervals are 95% bootstrap intervals over queries. They leave out what another training seed would change. "
        "Dotted lines: the base. Bold: differences whose interval leaves out 0."
    )
    for name in ([MEAN] if MEAN in summary else []) + [one for one in summary if one != MEAN]:
        yield ""
        yield f"## {name}"
        yield ""
        yield from _about(results, name)
        yield from _table(results, summary[name])
        for other in results["references"]:
            if other in summary[name]:
                yield ""
                yield f"{_NAMES[_MEASURE]}, difference to {results['labels'][other]} on the same queries:"
                yield ""
                yield from _differences(results, summary[name], other)
    yield ""
    yield "## Cost"
    yield ""
    yield from _costs(results)


def _about(results: dict[str, Any], name: str) -> Iterator[str]:
    if name == MEAN:
        return
    facts = results["sets"][name]
    seen = facts["seen_in_training"]
    yield (
        f"{facts['queries']:,} queries over {facts['documents']:,} documents ({facts['passages']:,} passages). "
        f"Word for word in the training pairs: {seen['queries']} queries, {seen['passages']} right documents."
    )
    yield ""


def _table(results: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    columns = [f"{_LABELS[ranking]}: {_NAMES[measure]}" for ranking in RANKINGS for measure in MEASURES]
    yield "| | " + " | ".join([*columns, CANDIDATES]) + " |"
    yield "|---|" + "---|" * (len(columns) + 1)
    for variant, one in found.items():
        figures = one["figures"]
        cells = [_interval(figures[ranking][measure]) for ranking in RANKINGS for measure in MEASURES]
        cells.append(_interval(figures["pooled"][CANDIDATES]))
        yield f"| {results['labels'][variant]} | " + " | ".join(cells) + " |"


def _differences(results: dict[str, Any], found: dict[str, Any], other: str) -> Iterator[str]:
    yield "| | " + " | ".join(_LABELS[ranking] for ranking in RANKINGS) + " |"
    yield "|---|---|---|---|"
    for variant, one in found.items():
        if other in one["against"]:
            cells = [_difference(one["against"][other][ranking][_MEASURE]) for ranking in RANKINGS]
            yield f"| {results['labels'][variant]} | " + " | ".join(cells) + " |"


def _costs(results: dict[str, Any]) -> Iterator[str]:
    yield "| | token dimensions | training, CPU s | evaluation, CPU s |"
    yield "|---|---|---|---|"
    for variant, label in results["labels"].items():
        facts = results["variants"][variant]
        trained = "–" if facts["training_cpu_seconds"] is None else f"{facts['training_cpu_seconds']:,.0f}"
        yield f"| {label} | {facts['dim']} | {trained} | {facts['evaluation_cpu_seconds']:,.0f} |"


def _interval(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _difference(value: dict[str, float]) -> str:
    clear = value["low"] > 0 or value["high"] < 0
    shown = f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"
    return f"**{shown}**" if clear else shown


def _pictures(results: dict[str, Any]) -> Iterator[tuple[str, Figure]]:
    yield PICTURE, _by_variant(results)


def _by_variant(results: dict[str, Any]) -> Figure:
    """Dots with intervals: a panel for each set and their mean, a row for each variant, a colour for each ranking."""
    summary, labels = results["summary"], results["labels"]
    panels = list(summary)
    height = 0.46 * len(labels) + 1.5
    figure, axes = plt.subplots(1, len(panels), figsize=(2.2 + 2.9 * len(panels), height), sharey=True, squeeze=False)
    for ax, name in zip(axes[0], panels, strict=True):
        _panel(ax, summary[name], list(labels))
        ax.set_title(name, fontweight="bold" if name == MEAN else "normal")
        ax.set_xlabel(_NAMES[_MEASURE])
    axes[0][0].set_yticks(range(len(labels)), list(labels.values()))
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncol=len(RANKINGS))
    return figure


def _panel(ax: Any, found: dict[str, Any], variants: Sequence[str]) -> None:
    for number, ranking in enumerate(RANKINGS):
        colour, marker = _LOOKS[ranking]
        values = [found[variant]["figures"][ranking][_MEASURE] for variant in variants]
        rows = [row + 0.22 * (number - 1) for row in range(len(variants))]
        means = [value["mean"] for value in values]
        errors = [
            [value["mean"] - value["low"] for value in values],
            [value["high"] - value["mean"] for value in values],
        ]
        ax.errorbar(
            means, rows, xerr=errors, fmt=marker, color=colour, markersize=4, linewidth=1.1, label=_LABELS[ranking]
        )
        ax.axvline(means[0], color=colour, linewidth=0.7, linestyle=":")
    for row in range(1, len(variants)):
        ax.axhline(row - 0.5, color="#eeeeee", linewidth=0.8)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
