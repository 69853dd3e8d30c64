"""`hiperrag status`: how a run is going, from another terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiperrag.counted import counted

if TYPE_CHECKING:
    from hiperrag.workflows.observe import Status

WATCH_SECONDS = 2.0


def status(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION|RUN", help="A collection, or one of its runs/ID.")],
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again until the run ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write the run's report.html and print its path.")] = False,
) -> None:
    """Say how a run is going, or how the last one ended; may be asked at any time, from any machine that sees it."""
    if report:
        from hiperrag.workflows.observe import find_run
        from hiperrag.workflows.report import write_report

        typer.echo(write_report(find_run(collection)))
        return
    if as_json:
        now = time.time()
        runs = [one.to_json(now) for one in _runs(collection, now)]
        typer.echo(json.dumps({"collection": str(collection), "runs": runs}, ensure_ascii=False))
        return
    if watch:
        _watch(collection)
        return
    now = time.time()
    for one in _runs(collection, now):
        typer.echo("\n".join(describe(one, now)))


def _runs(path: Path, now: float) -> list[Status]:
    from hiperrag.errors import UserError
    from hiperrag.workflows.observe import current_runs, status_of

    if (path / "events.jsonl").is_file():
        return [status_of(path, now)]
    runs = current_runs(path, now)
    if not runs:
        raise UserError(f"{path}: holds no run; make one with `hiperrag index SOURCE --to {path}`")
    return runs


def _watch(path: Path) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            now = time.time()
            runs = _runs(path, now)
            text = "\n".join(line for one in runs for line in describe(one, now))
            live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
            if not any(one.state == "running" for one in runs):
                return
            time.sleep(WATCH_SECONDS)


def describe(run: Status, now: float) -> Iterator[str]:
    """The lines that tell how a run stands."""
    from hiperrag.workflows.progress import duration

    facts = run.to_json(now)
    yield f"{run.run}  {run.state} ({run.why}), {duration(facts['seconds'])} since it began"
    where = f"on {run.host}, " if run.host else ""
    yield f"  site {run.site}: {where}{counted(run.workers, 'worker')}, {facts['tasks_in_flight']} tasks in flight"
    for stage in run.stages:
        tally, left = stage.tally, stage.seconds_left
        parts = [f"  {stage.name:<10} {tally.done:>9} of {tally.total} {tally.unit}"]
        if tally.cached:
            parts.append(f"{tally.cached} by earlier runs")
        if stage.rate and tally.done < tally.total:
            parts.append(_rate(stage.recent_rate, tally.unit))
            if run.state == "running" and left is not None:
                parts.append(f"{duration(left)} left")
        elif stage.rate:
            parts.append(_rate(stage.rate, tally.unit))
        if tally.quarantined:
            parts.append(f"{tally.quarantined} quarantined")
        yield ", ".join(parts)
    yield f"  failures   {counted(run.tally.failed, 'part')} failed, {counted(run.tally.lost, 'worker')} lost"
    if run.state == "running":
        left = run.seconds_left()
        yield f"  last event {duration(now - run.last_event)} ago" + (f"; about {duration(left)} left" if left else "")
    elif run.state != "finished":
        yield f"  ended {duration(now - run.last_sign)} ago; run the same command again to resume"


def _rate(per_second: float, unit: str) -> str:
    """In seconds, minutes or hours, so that the number is no fraction."""
    scales = (("s", 1), ("min", 60), ("h", 3600))
    name, seconds = next((scale for scale in scales if per_second * scale[1] >= 1), scales[-1])
    return f"{per_second * seconds:.1f} {unit}/{name}"
