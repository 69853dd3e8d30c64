"""The report of an evaluation: one HTML file with its pictures inside."""

from __future__ import annotations

import base64
import html
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hiperrag.benchmarks.evaluation.folders import REPORT
from hiperrag.benchmarks.evaluation.leakage import KINDS
from hiperrag.files import write_text_atomic

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#222;max-width:960px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.15em;margin:1.8em 0 .4em}
table{border-collapse:collapse;font-size:14px}td,th{padding:.25em .9em .25em 0;text-align:left;vertical-align:top}
th{font-weight:600;border-bottom:1px solid #bbb}img{max-width:100%}
pre{white-space:pre-wrap;background:#f6f6f6;padding:.6em}
.note{color:#666}
"""
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#999999"  # Okabe and Ito: told apart with any colour blindness
_EXAMPLES = 3


def write_report(folder: Path, results: dict[str, Any], records: Sequence[dict[str, Any]]) -> Path:
    """Write report.html into a run's folder; its path. Without matplotlib it has tables only."""
    sections = [_head(results), *_tables(results), *_pictures(results), _examples(records), _details(results)]
    title = _text(f"{results['task']} ({results['split']})")
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{''.join(sections)}</body></html>\n"
    )
    write_text_atomic(folder / REPORT, page)
    return folder / REPORT


def interval(value: dict[str, Any], digits: int = 3) -> str:
    """ ".912 [.894, .929]"; a dash where there is nothing to average."""
    if value["mean"] is None:
        return "–"
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def _head(results: dict[str, Any]) -> str:
    settings = results["settings"]
    parts = [f"{results['n_items']} questions of split {results['split']}"]
    if "protocol" in results:
        parts += [f"protocol {results['protocol']}", f"answers by {results['answering']}"]
        parts.append(f"generator {settings['generator']['spec']}")
    if settings["collection"]:
        parts.append(f"collection {settings['collection']['name']}: {settings['collection']['passages']} passages")
    return f"<h1>{_text(results['task'])}</h1><p>{_text('; '.join(parts))}. Intervals are 95% bootstrap.</p>"


def _tables(results: dict[str, Any]) -> Iterator[str]:
    if "figures" in results:
        rows = [(name, interval(value)) for name, value in results["figures"].items()]
        yield _section("Figures", _table(("figure", "mean"), rows))
        return
    yield _section("Arms", _table(*arm_table(results)))
    if results["majority"]:
        label, share = results["majority"]["label"], results["majority"]["accuracy"]
        yield f"<p>Always answering “{_text(label)}” scores {share:.3f}.</p>"
    tests = [
        (
            f"{c['b']} − {c['a']}",
            c["n"],
            interval(c["difference"]),
            _p(c["difference"]["p"]),
            f"{c['mcnemar']['only_a']} / {c['mcnemar']['only_b']}",
            _p(c["mcnemar"]["p"]),
        )
        for c in results["comparisons"]
    ]
    header = ("arms", "n", "difference", "p, bootstrap", "right in one only", "p, McNemar")
    yield _section("Arms against each other", _table(header, tests)) if tests else ""
    if results["calibrated"]:
        fitted = [
            (
                name,
                arm["n"],
                interval(arm["uncalibrated"]["accuracy"]),
                interval(arm["accuracy"]),
                interval(arm["macro_f1"]),
            )
            for name, arm in results["calibrated"]["arms"].items()
        ]
        text = "<p>Each half of the questions answered by a head fitted on the other half's scores.</p>"
        columns = ("arm", "n", "accuracy, plain", "accuracy, calibrated", "macro-F1, calibrated")
        yield _section("Calibrated", text + _table(columns, fitted))
    if results["retrieval"]:
        found = results["retrieval"]
        rows = [(name, interval(value)) for name, value in found.items() if isinstance(value, dict)]
        text = f"<p>The collection {_text(found['corpus'])}; figures are over these.</p>"
        yield _section("Was the source retrieved", text + _table(("figure", "mean"), rows))
    if results["leakage"]:
        found = results["leakage"]
        counts = [(kind, found[kind]["checked"], found[kind]["contained"]) for kind in KINDS]
        share, n_words = f"{found['threshold']:.0%}", found["n_words"]
        text = f"<p>Texts of which one passage holds {share} of the {n_words}-word sequences.</p>"
        yield _section("Leakage", text + _table(("text", "checked", "in the collection"), counts))


def arm_table(results: dict[str, Any]) -> tuple[Sequence[str], list[Sequence[Any]]]:
    """Header and a row for each arm."""
    arms = results["arms"]
    columns = ["accuracy"] + [c for c in ("acc_norm", "macro_f1") if any(c in arm for arm in arms.values())]
    header = ("arm", "n", *columns, "unparsable", "tokens", "CPU-s", "GPU-s", "J")
    rows: list[Sequence[Any]] = []
    for name, arm in arms.items():
        cost = arm["cost_per_question"]
        costs = ["null" if cost[c] is None else f"{cost[c]:.4g}" for c in ("n_tokens", "cpu_s", "gpu_s", "joules")]
        rows.append(
            (name, arm["n"], *(interval(arm[c]) if c in arm else "" for c in columns), arm["unparsable"], *costs)
        )
    return header, rows


def _pictures(results: dict[str, Any]) -> Iterator[str]:
    if "arms" not in results:
        return
    try:
        from hiperrag.benchmarks import pictures
    except ImportError:
        yield "<p class=\"note\">Pictures need matplotlib: pip install 'hiperrag[eval]'.</p>"
        return
    with tempfile.TemporaryDirectory() as folder:
        for path in pictures.write(lambda: _figures(results), Path(folder)):
            data = base64.b64encode(path.read_bytes()).decode()
            yield _section(
                path.stem.replace("_", " "), f'<img alt="{_text(path.stem)}" src="data:image/png;base64,{data}">'
            )


def _figures(results: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    arms = results["arms"]
    yield "Accuracy_by_arm", _bars(list(arms), [arm["accuracy"] for arm in arms.values()], results["majority"])
    rag = {int(name.partition("@")[2]): arm["accuracy"] for name, arm in arms.items() if "@" in name}
    if len(rag) > 1:
        yield "Accuracy_by_number_of_passages", _line(rag, arms)
    for name, found in results["hit_and_answer"].items():
        if all(value["n"] for value in found.values()):
            labels = [f"{key.replace('_', ' ')} (n={value['n']})" for key, value in found.items()]
            yield f"Retrieval_and_answer,_{name}", _bars(labels, list(found.values()), None)


def _bars(names: Sequence[str], values: Sequence[dict[str, Any]], majority: dict[str, Any] | None) -> Any:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(1.2 + 1.3 * len(names), 3))
    axes.bar(
        range(len(names)), [value["mean"] for value in values], color=_BLUE, width=0.6, yerr=_errors(values), capsize=4
    )
    if majority:
        axes.axhline(majority["accuracy"], color=_GREY, linestyle="--", label=f"always “{majority['label']}”")
        axes.legend()
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1)
    return figure


def _line(rag: dict[int, dict[str, Any]], arms: dict[str, Any]) -> Any:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3))
    numbers = sorted(rag)
    values = [rag[n] for n in numbers]
    axes.errorbar(
        numbers, [v["mean"] for v in values], yerr=_errors(values), color=_ORANGE, marker="o", capsize=4, label="RAG"
    )
    for name, style in (("closed-book", ":"), ("oracle", "--")):
        if name in arms:
            axes.axhline(arms[name]["accuracy"]["mean"], color=_GREY, linestyle=style, label=name)
    axes.set_xticks(numbers)
    axes.set_xlabel("passages")
    axes.set_ylabel("accuracy")
    axes.legend()
    return figure


def _errors(values: Sequence[dict[str, Any]]) -> list[list[float]]:
    return [[v["mean"] - v["low"] for v in values], [v["high"] - v["mean"] for v in values]]


def _examples(records: Sequence[dict[str, Any]]) -> str:
    """The first questions as they were asked."""
    parts = []
    for record in records[:_EXAMPLES]:
        for name, arm in record.get("arms", {}).items():
            prompt = arm["prompt"]
            text = prompt if isinstance(prompt, str) else "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in prompt)
            said = arm.get("reply", arm.get("scores"))
            right = record["options"][record["gold"]]
            parts.append(
                f"<details><summary>{_text(record['item_id'])}, {_text(name)}: "
                f"{'right' if arm['correct'] else 'wrong'}</summary><pre>{_text(text)}</pre>"
                f"<p>Options {_text(record['options'])}; right: {_text(right)}; got {_text(said)}</p></details>"
            )
    return _section("Examples", "".join(parts)) if parts else ""


def _details(results: dict[str, Any]) -> str:
    shown = json.dumps({key: results[key] for key in ("settings", "machine")}, indent=1, ensure_ascii=False)
    return _section("Settings and machine", f"<details><summary>all</summary><pre>{_text(shown)}</pre></details>")


def _section(title: str, body: str) -> str:
    return f"<h2>{_text(title)}</h2>{body}\n"


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _text(value: object) -> str:
    return html.escape(str(value))
