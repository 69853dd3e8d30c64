"""`hiperrag plan`: what indexing so many documents on a site will take, before it is begun."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiperrag.counted import counted, sized
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.workflows.forecast import Forecast, Range
    from hiperrag.workflows.rates import Clock, Rates

MOST_DOCUMENTS = 1e12


def plan(
    documents: Annotated[
        str | None, typer.Option(metavar="N", help="Documents to index; 3.6e6 is a number too.")
    ] = None,
    site: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="Where to run; see `hiperrag sites`.")] = "local",
    nodes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Nodes in all; default: those of the site's jobs.")
    ] = None,
    pages_per_document: Annotated[
        float | None, typer.Option(metavar="N", min=0.1, help="Default: those of the papers that were measured.")
    ] = None,
    ocr_share: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="Share of pages without usable text, to recognise.")
    ] = 0.0,
    walltime: Annotated[
        str | None, typer.Option(metavar="30m|6h|HH:MM:SS", help="Length of a job; default: as long as it takes.")
    ] = None,
    from_run: Annotated[
        list[Path] | None,
        typer.Option(metavar="COLLECTION", help="Take rates from the runs of a collection; may be repeated."),
    ] = None,
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="From runs take CPU time: what the machine alone would have needed.")
    ] = False,
    rates: Annotated[Path | None, typer.Option(metavar="FILE", help="Rates that --save wrote.")] = None,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rates in use to a file.")] = None,
    check: Annotated[
        Path | None,
        typer.Option(metavar="COLLECTION", help="Forecast the last run of a collection and compare with what it took."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Forecast time, node-hours, storage and files of an indexing campaign, and how to split its nodes.

    Rates come from the program, from FILE, or from your own runs; what was not measured is said to be assumed.
    """
    from hiperrag.workflows.forecast import Campaign, forecast
    from hiperrag.workflows.rates import learn, load_rates, packaged_rates, save_rates
    from hiperrag.workflows.sites import load_site

    known = load_rates(rates) if rates else packaged_rates()
    clock: Clock = "cpu" if cpu_time else "wall"
    if from_run:
        known = learn(from_run, known, clock)
    if save:
        save_rates(known, save)
    if check:
        _check(check, known, clock, as_json)
        return
    if documents is None:
        if save:
            return
        raise UserError("say how many --documents are to be indexed")
    campaign = Campaign(
        documents=parse_count(documents),
        nodes=nodes,
        pages_per_document=pages_per_document,
        ocr_share=ocr_share,
        walltime=parse_duration(walltime) if walltime else None,
    )
    place = load_site(site)
    if place.scheduler == "local" and nodes and nodes > 1:
        raise UserError(f"--nodes {nodes}: site {place.name} is one machine; name another --site")
    result = forecast(campaign, place, known)
    typer.echo(json.dumps(result.to_json()) if as_json else "\n".join(_describe(result)))


def parse_count(text: str) -> int:
    """A whole number from 1 to 1e12, also as 3.6e6 or 3,600,000; UserError for anything else."""
    try:
        number = float(text.replace(",", "").replace("_", ""))
        if not 1 <= number <= MOST_DOCUMENTS or number != int(number):
            raise ValueError
    except ValueError:
        raise UserError(f"--documents {text}: say a whole number up to 1e12, such as 40, 250000 or 3.6e6") from None
    return int(number)


def parse_duration(text: str) -> float:
    """Seconds of 90s, 30m, 6h, 2d or HH:MM:SS; UserError for anything else."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    short = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    clock = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", text)
    seconds = float(short[1]) * units[short[2]] if short else 0.0
    if clock:
        seconds = int(clock[1]) * 3600 + int(clock[2]) * 60 + int(clock[3])
    if not seconds:
        raise UserError(f"--walltime {text}: say a time such as 30m, 6h or 06:00:00")
    return seconds


def _check(collection: Path, rates: Rates, clock: Clock, as_json: bool) -> None:
    from hiperrag.workflows.forecast import check_run

    found = check_run(collection, rates, clock)
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{found['run']}: {_counts(found)}")
    typer.echo(f"  took           {found['seconds']:.0f} s, and {found['work']:.0f} s of workers ({clock} time)")
    for name, title in (("by_documents", "by documents"), ("by_pages", "by pages")):
        one, work = found[name], found[f"work_{name}"]
        told = f"of workers {work:.0f} s, {100 * (work / found['work'] - 1):+.0f} %"
        if clock == "wall":
            error = 100 * (one["estimate"] / found["seconds"] - 1)
            told = f"{one['estimate']:.0f} s ({one['low']:.0f}-{one['high']:.0f}), {error:+.0f} %; {told}"
        typer.echo(f"  {title:<14} {told}")


def _counts(found: dict[str, Any]) -> str:
    return ", ".join(counted(found[f"{noun}s"], noun) for noun in ("document", "page", "worker"))


def _describe(result: Forecast) -> Iterator[str]:
    campaign = result.campaign
    nodes = sum(group.nodes for group in result.groups)
    yield (
        f"{campaign.documents:,} documents, {_amount(result.pages)} pages, {_amount(result.passages)} passages, "
        f"{_amount(result.tokens)} token vectors on {result.site}, {counted(nodes, 'node')}"
    )
    yield "(in brackets: 9 in 10 draws from the errors of the rates)"
    jobs = f", in {result.jobs} jobs one after the other" if result.jobs > 1 else ""
    yield f"  time           {_time(result.seconds)}{jobs}, waiting in queues not counted"
    yield f"  node-hours     {_amount(result.node_hours)}"
    yield f"  limited by     {result.limiting_stage} (pool {result.limiting_pool})"
    for group in result.groups:
        workers = ", ".join(f"{counted(number, 'worker')} in pool {pool}" for pool, number in group.workers.items())
        split = "best split" if len(result.groups) > 1 else "nodes"
        yield f"  {split:<14} {counted(group.nodes, 'node')}{f' for job {group.job}' if group.job else ''}: {workers}"
    for stage in result.stages:
        where = f"on {stage.accelerator}, " if stage.accelerator else ""
        hours = f"{_amount(stage.worker_hours)} worker-hours, {100 * stage.share:.0f} % of {stage.pool}"
        yield f"  {stage.stage:<14} {hours} ({where}{stage.basis})"
    for kind, number in result.bytes.items():
        yield f"  {kind:<23} {_bytes(number)}"
    yield f"  files          {result.files:,}"
    for note in result.notes:
        yield f"  note: {note}"


def _bytes(number: float) -> str:
    return f"{number / 1e12:.2f} TB" if number >= 1e12 else sized(int(number))


def _amount(amount: Range) -> str:
    return f"{_short(amount.estimate)} ({_short(amount.low)}-{_short(amount.high)})"


def _short(number: float) -> str:
    for name, size in (("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _time(seconds: Range) -> str:
    from hiperrag.workflows.progress import duration

    return f"{duration(seconds.estimate)} ({duration(seconds.low)}-{duration(seconds.high)})"
