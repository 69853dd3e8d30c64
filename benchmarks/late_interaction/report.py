"""The results as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = Sequence[object]


def markdown(report: dict[str, Any]) -> str:
    """The whole report: bars, then for each corpus what searching and building cost, then growth."""
    lines = ["# Late interaction: engines on the same token vectors", "", _conditions(report), ""]
    if report["bars"]:
        rows = [(b["bar"], b["wanted"], b["measured"], "yes" if b["met"] else "no") for b in report["bars"]]
        lines += ["## Bars", "", *table(("what", "wanted", "measured", "met"), rows), ""]
    for corpus in report["corpora"]:
        lines += [
            f"## {corpus['passages']:,} real passages, {corpus['tokens']:,} tokens",
            "",
            *_search_table(corpus),
            "",
        ]
        lines += [*_build_table(corpus), ""]
    if report["growth"]:
        lines += ["## Growth, synthetic passages", "", *_growth_table(report["growth"]), "", _growth_note(report), ""]
    return "\n".join(lines)


def _conditions(report: dict[str, Any]) -> str:
    machine, about = report["machine"], report["vectors"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB. Vectors: {about['data']}, "
        f"encoder {about['encoder']}, {about['encoder_dim']} dimensions rotated to {about['dim']}. {report['queries']} "
        f"queries of {about['query_tokens_mean']} tokens on average. Recall is against exact float32 MaxSim, k = 10. "
        f"CPU time covers all threads. Single queries run on one thread, batches and builds on {report['threads']}; "
        f"engines take turns in {report['rounds']} rounds. Unread: the median over queries whose passages the process "
        "had not read before."
    )


def table(head: Row, rows: Iterable[Row]) -> list[str]:
    """Lines of a Markdown table; columns after the first that hold only numbers are set flush right."""
    body = [[_cell(value) for value in row] for row in rows]
    right = [index > 0 and all(_numeric(row[index]) for row in body) for index in range(len(head))]
    rule = ["---:" if flush else "---" for flush in right]
    return [f"| {' | '.join(cells)} |" for cells in ([str(title) for title in head], rule, *body)]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{round(value, 3):.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _numeric(text: str) -> bool:
    return text in ("", "–") or text.replace(",", "").replace(".", "", 1).isdigit()


def _search_table(corpus: dict[str, Any]) -> list[str]:
    head = (
        "engine",
        "setting",
        "recall@10",
        "CPU ms p50",
        "unread",
        "p90",
        "wall ms p50",
        "batch CPU ms",
        "batch queries/s",
    )
    rows: list[Row] = []
    for engine in corpus["engines"]:
        if "failed" in engine:
            rows.append((engine["name"], engine["failed"], *["–"] * 7))
        for s in engine["settings"]:
            batch = (s.get("batch_cpu_ms", "–"), s.get("batch_queries_s", "–"))
            single = _times(s)
            rows.append((engine["name"], s["label"], f"{s['recall']:.3f}", *single, *batch))
    return table(head, rows)


def _times(s: dict[str, Any]) -> tuple[object, ...]:
    return s["cpu_ms_p50"], s.get("cpu_ms_p50_unread", "–"), s["cpu_ms_p90"], s["wall_ms_p50"]


def _build_table(corpus: dict[str, Any]) -> list[str]:
    head = ("engine", "version", "build CPU-s", "build wall s", "peak memory GB", "bytes a token", "bytes a passage")
    rows: list[Row] = []
    for engine in corpus["engines"]:
        if "build" in engine:
            rows.append((engine["name"], engine["version"], *build_figures(engine["build"], corpus)))
        else:
            rows.append((engine["name"], engine["failed"], *["–"] * 5))
    return table(head, rows)


def build_figures(build: dict[str, Any], corpus: dict[str, Any]) -> tuple[float, float, float, float, float]:
    """CPU-seconds, wall seconds, peak gigabytes, bytes a token, bytes a passage."""
    size = build["index_bytes"]
    peak = build["peak_rss_bytes"] / 1e9
    return build["cpu_s"], build["wall_s"], peak, size / corpus["tokens"], size / corpus["passages"]


def _growth_table(growth: Sequence[dict[str, Any]]) -> list[str]:
    head = (
        "engine",
        "passages",
        "of them real",
        "of the true top 10",
        "setting",
        "recall@10",
        "CPU ms p50",
        "unread",
        "p90",
        "wall ms p50",
        "build CPU-s",
        "peak memory GB",
        "bytes a token",
    )
    rows: list[Row] = []
    for corpus in growth:
        for engine in corpus["engines"]:
            real = f"{1 - corpus['synthetic_in_truth']:.2f}"
            size = (corpus["passages"], corpus["real_passages"], real)
            if "failed" in engine:
                rows.append((engine["name"], *size, engine["failed"], *["–"] * 8))
            for s in engine["settings"]:
                cpu, _, peak, token_bytes, _ = build_figures(engine["build"], corpus)
                measured = (s["label"], f"{s['recall']:.3f}", *_times(s), cpu, peak, token_bytes)
                rows.append((engine["name"], *size, *measured))
    return table(head, rows)


def _growth_note(report: dict[str, Any]) -> str:
    return (
        "The real passages come first; each further passage mixes the token vectors of two real ones, with noise of "
        f"norm {report['growth_noise']} and seed {report['seed']}. {report['growth_queries']} queries. Building reads "
        "vectors as they are made by another process, whose time and memory are not counted."
    )
