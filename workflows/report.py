"""The report of a run: one HTML file, pictures included, that needs no network and no program but a browser."""

from __future__ import annotations

import datetime
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from hiperrag.counted import counted
from hiperrag.files import write_text_atomic
from hiperrag.workflows import drawing
from hiperrag.workflows.diagnosis import diagnose, limiting_stage, usage
from hiperrag.workflows.drawing import Bar
from hiperrag.workflows.observe import Status, status_of
from hiperrag.workflows.progress import duration
from hiperrag.workflows.tasklog import Floats, TaskLog, read_tasks

BINS = 60
GANTT_ROWS = 64
GANTT_BARS = 6000
FAILURES_LISTED = 30
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#222;max-width:960px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.15em;margin:1.8em 0 .4em}
table{border-collapse:collapse;font-size:14px}td,th{padding:.25em .9em .25em 0;text-align:left;vertical-align:top}
th{font-weight:600;border-bottom:1px solid #bbb}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
svg{width:100%;height:auto;display:block}ul{padding-left:1.2em}li.bad{color:#a12622;font-weight:600}
.legend span{margin-right:1.2em}.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.4em}
.note{color:#666}
"""


def write_report(folder: Path) -> Path:
    """Write the report of the run in a folder as its report.html; returns the file's path."""
    path = folder / "report.html"
    write_text_atomic(path, render(status_of(folder), read_tasks(folder)))
    return path


def render(status: Status, log: TaskLog) -> str:
    """The report as HTML."""
    colours = {name: number for number, name in enumerate(log.stages)}
    sections = [_head(status), _findings(status, log), _stages(status, log)]
    if len(log):
        unit, divisor = _time_unit(float(log.finished.max() - log.started.min()))
        legend = drawing.legend(log.stages, colours)
        sections += [
            _section("Throughput", _throughput(log, colours, unit, divisor)),
            _section("Workers", legend + _gantt(log, colours, unit, divisor) + _usage(status, log)),
            _section("Shares of the workers' time", _shares(log, colours)),
            _section("Hosts", _hosts(log)),
        ]
    sections += [_section("Failures", _failures(log)), _section("Energy", _energy(log))]
    title = f"Run {status.run}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{''.join(sections)}</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{_text(title)}</h2>\n{body}\n"


def _head(status: Status) -> str:
    began = datetime.datetime.fromtimestamp(status.started, datetime.UTC)
    facts = (
        f"{status.state} ({status.why}) · began {began:%Y-%m-%d %H:%M:%S} UTC · "
        f"{duration(status.last_sign - status.started)} · site {status.site} · {counted(status.workers, 'worker')}"
    )
    return f'<h1>Run {_text(status.run)}</h1>\n<p class="note">{_text(facts)}</p>\n'


def _findings(status: Status, log: TaskLog) -> str:
    items = (
        f"<li{' class=bad' if symptom.level == 'fault' else ''}>{_text(symptom.what)}"
        f"{f' – {_text(symptom.advice)}' if symptom.advice else ''}</li>"
        for symptom in diagnose(status, log)
    )
    return _section("Findings", f"<ul>{''.join(items)}</ul>")


def _stages(status: Status, log: TaskLog) -> str:
    rows = []
    for stage in status.stages:
        tally = stage.tally
        mine = log.of_stage(stage.name)
        seconds, cpu = float(log.seconds[mine].sum()), float(log.columns["cpu_seconds"][mine].sum())
        moved = sum(float(log.columns[name][mine].sum()) for name in ("bytes_read", "bytes_written")) / 1e6
        rows.append(
            (
                stage.name,
                f"{tally.done} of {tally.total} {tally.unit}",
                str(tally.cached),
                str(tally.quarantined),
                str(int(np.count_nonzero(mine))),
                f"{seconds:,.1f}",
                f"{cpu:,.1f}",
                f"{moved:,.1f}",
                f"{60 * stage.rate:,.1f}",
            )
        )
    head = ("stage", "done", "by earlier runs", "quarantined", "tasks", "worker s", "CPU s", "MB moved", "per minute")
    return _section("Stages", _table(head, rows, words=2))


def _throughput(log: TaskLog, colours: dict[str, int], unit: str, divisor: float) -> str:
    begin, end = float(log.started.min()), float(log.finished.max())
    edges = np.linspace(begin, max(end, begin + 1e-3), BINS + 1)
    series: dict[str, Sequence[float]] = {}
    for name in log.stages:
        mine = log.of_stage(name)
        amount = log.columns["n_inputs"][mine].astype(float)
        if amount.any():
            per_bin = spread(log.started[mine], log.finished[mine], amount, edges)
            series[name] = list(60 * per_bin / (edges[1] - edges[0]))
    if not series:
        return '<p class="note">No documents: only shards were built.</p>'
    middles = [float(at) for at in ((edges[:-1] + edges[1:]) / 2 - begin) / divisor]
    limiting, *_ = limiting_stage(log)
    top = drawing.nice(1.5 * max(series.get(limiting) or next(iter(series.values()))))
    picture = drawing.lines(middles, series, colours, unit, "documents per minute", top)
    cut = any(max(values) > top for values in series.values())
    said = '<p class="note">Bursts of quicker stages are cut off.</p>' if cut else ""
    return drawing.legend(list(series), colours) + picture + said


def spread(started: Floats, finished: Floats, amount: Floats, edges: Floats) -> Floats:
    """(bins,) how much falls into each bin when every task's amount is spread evenly over its time.

    The amount done by time t is piecewise linear and bends where tasks start and end, so it is the integral of the
    summed rates between these times.
    """
    rates = amount / np.maximum(finished - started, 1e-6)
    times = np.concatenate([started, np.maximum(finished, started + 1e-6)])
    order = np.argsort(times, kind="stable")
    times, steps = times[order], np.concatenate([rates, -rates])[order]
    done = np.concatenate([[0.0], np.cumsum(np.cumsum(steps)[:-1] * np.diff(times))])
    per_bin: Floats = np.maximum(np.diff(np.interp(edges, times, done)), 0.0)
    return per_bin


def _gantt(log: TaskLog, colours: dict[str, int], unit: str, divisor: float) -> str:
    """Workers in order of their names; of very many, some of each host, and tasks too short to see are joined."""
    order = sorted(range(len(log.workers)), key=lambda worker: log.workers[worker])
    chosen = [order[number] for number in np.linspace(0, len(order) - 1, min(len(order), GANTT_ROWS)).astype(int)]
    begin, end = float(log.started.min()), float(log.finished.max())
    shortest = (end - begin) * len(chosen) / GANTT_BARS
    bars: list[Bar] = []
    for row, worker in enumerate(chosen):
        rows = np.flatnonzero(log.worker == worker)
        for task in rows[np.argsort(log.started[rows], kind="stable")]:
            stage = log.stages[log.stage[task]]
            since, until = (float(column[task] - begin) / divisor for column in (log.started, log.finished))
            last = bars[-1] if bars and bars[-1].row == row else None
            short = until - since < shortest / divisor
            if last and last.colour == colours[stage] and short and since - last.end < shortest / divisor:
                bars[-1] = Bar(row, last.begin, until, last.colour, f"{stage}: short tasks")
            else:
                where = f"shard {log.columns['shard'][task]} part {log.columns['part'][task]}"
                title = f"{stage}, {where}: {duration(float(log.seconds[task]))}"
                bars.append(Bar(row, since, until, colours[stage], title))
    picture = drawing.gantt([log.workers[worker] for worker in chosen], bars, (end - begin) / divisor, unit)
    said = "" if len(chosen) == len(order) else f'<p class="note">{len(chosen)} of {len(order)} workers are shown.</p>'
    return picture + said


def _usage(status: Status, log: TaskLog) -> str:
    used = usage(log)
    return (
        f'<p class="note">{counted(used.workers, "worker")}: {100 * used.busy:.1f} % busy, {100 * used.starting:.1f} % '
        f"before their first task, {100 * used.gaps:.1f} % between tasks, {100 * used.tail:.1f} % after their last. "
        f"The first task began {duration(float(log.started.min()) - status.started)} after the run.</p>"
    )


def _shares(log: TaskLog, colours: dict[str, int]) -> str:
    spent = {name: float(log.seconds[log.of_stage(name)].sum()) for name in log.stages}
    return drawing.shares({name: seconds for name, seconds in spent.items() if seconds > 0}, colours)


def _hosts(log: TaskLog) -> str:
    failed = dict.fromkeys(log.hosts, 0)
    for failure in log.failures:
        failed[failure.host or "unknown"] = failed.get(failure.host or "unknown", 0) + 1
    rows = []
    for host in sorted(failed):
        mine = log.host == (log.hosts.index(host) if host in log.hosts else -1)
        workers, seconds = len(np.unique(log.worker[mine])), float(log.seconds[mine].sum())
        rows.append((host, str(workers), str(int(np.count_nonzero(mine))), f"{seconds:,.1f}", str(failed[host])))
    return _table(("host", "workers", "tasks", "worker s", "failures"), rows, words=1)


def _failures(log: TaskLog) -> str:
    if not log.failures:
        return "<p>None.</p>"
    rows = [
        (
            {"part_failed": "part failed", "part_split": "part split", "worker_lost": "worker lost"}[failure.kind],
            f"{failure.stage}, shard {failure.shard} part {failure.part}",
            failure.host or "–",
            failure.message,
        )
        for failure in log.failures[:FAILURES_LISTED]
    ]
    more = len(log.failures) - len(rows)
    rest = f'<p class="note">and {more} more: see events.jsonl</p>' if more else ""
    return _table(("what", "where", "host", "message"), rows, words=4) + rest


def _energy(log: TaskLog) -> str:
    joules = energy_by_host(log)
    if not joules:
        return '<p class="note">Not measured: no host let its workers read an energy meter.</p>'
    done = int(log.columns["n_inputs"][log.of_stage("parse")].sum())
    total = sum(joules.values())
    each = f", {total / done:,.1f} J a document" if done else ""
    rows = [(host, f"{used / 3.6e6:.4f}") for host, used in sorted(joules.items())]
    note = "Whole hosts, whoever used them, while any task of this run was at work there."
    return f"<p>{total / 3.6e6:.4f} kWh{each}</p>{_table(('host', 'kWh'), rows, words=1)}<p class='note'>{note}</p>"


def energy_by_host(log: TaskLog) -> dict[str, float]:
    """Joules that each metered host used while any task ran on it; empty where nothing was metered.

    Tasks that run at the same time on a host read the same meters, so each moment is counted by one of them.
    """
    joules: dict[str, float] = {}
    covered: dict[str, float] = {}
    for host, _, started, finished, before, after in sorted(log.joules, key=lambda reading: (reading[0], reading[2])):
        since = max(started, covered.get(host, started))
        joules.setdefault(host, 0.0)
        if finished > since:
            joules[host] += (after - before) * (finished - since) / (finished - started)
            covered[host] = finished
    return joules


def _time_unit(seconds: float) -> tuple[str, float]:
    return next(
        (unit for unit in (("seconds", 1.0), ("minutes", 60.0), ("hours", 3600.0)) if seconds < 300 * unit[1]),
        ("days", 86400.0),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """The first `words` columns hold words, the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        marked = (
            f"<{tag}{' class=n' if number >= words else ''}>{_text(cell)}</{tag}>" for number, cell in enumerate(cells)
        )
        return f"<tr>{''.join(marked)}</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _text(text: str) -> str:
    return html.escape(text)
