"""`hiperrag index`: PDFs and ready text become a collection."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiperrag.cli.parsing import (
    BudgetOption,
    EngineOption,
    FileMemoryOption,
    FileTimeoutOption,
    LanguageOption,
    PageTimeoutOption,
    ParserOption,
    need_model,
    parse_settings,
)
from hiperrag.cli.stopping import exit_status, heed_sigterm
from hiperrag.counted import counted
from hiperrag.errors import UserError
from hiperrag.models import DEFAULT_ENCODER

if TYPE_CHECKING:
    from hiperrag.workflows.run import Summary
    from hiperrag.workflows.settings import IndexSettings

SECONDS_BEFORE_THE_END = 60.0
"""By which a run inside a batch job ends before that."""


def index(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="PDFs, folders, zip or tar archives, and .jsonl, .jsonl.gz or .parquet of ready text "
            "(columns _id, title, text).",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="COLLECTION", help="Folder of the collection; made if new.")],
    site: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="Where to run; see `hiperrag sites`.")] = "local",
    parser: ParserOption = None,
    ocr_engine: EngineOption = None,
    ocr_language: LanguageOption = None,
    ocr_budget: BudgetOption = None,
    encoder: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help=f"Encoder; default: the collection's, {DEFAULT_ENCODER} for a new one."),
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(
            metavar="2|4|8",
            help="Bits a dimension of a token vector; default: the collection's, 4 for a new one.",
        ),
    ] = None,
    token_pooling: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=16, help="Keep one of N token vectors, each the mean of similar ones."),
    ] = None,
    file_timeout: FileTimeoutOption = None,
    page_timeout: PageTimeoutOption = None,
    file_memory: FileMemoryOption = None,
    walltime: Annotated[
        str | None,
        typer.Option(
            metavar="30m|6h|HH:MM:SS",
            help="Begin nothing that would not end by then, commit, and exit with 0 and the command that resumes. "
            "Default: inside a Slurm or PBS job what is left of it, less a minute; else none.",
        ),
    ] = None,
    parsl_monitoring: Annotated[
        bool,
        typer.Option("--parsl-monitoring", help="Write Parsl's own monitoring.db too; needs hiperrag[monitoring]."),
    ] = False,
    strict: Annotated[bool, typer.Option(help="Exit with 3 if anything is in quarantine.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress display.")] = False,
) -> None:
    """Index sources into a collection, or add to one.

    Rerunning resumes an interrupted run; files added later are indexed alone; what cannot be processed goes to
    quarantine with its reason. Options not given are the collection's own. Several jobs may work on one collection at
    the same time, from different machines: they share out what there is to do, and each ends when all is done.
    """
    if bits not in (None, "2", "4", "8"):
        raise UserError(f"--bits {bits}: token vectors are stored with 2, 4 or 8 bits a dimension")
    from hiperrag.workflows.run import index_sources
    from hiperrag.workflows.sites import load_site

    parsing = parse_settings(parser, ocr_engine, ocr_language, ocr_budget, file_timeout, page_timeout, file_memory)
    need_model(parser)

    def override(settings: IndexSettings) -> IndexSettings:
        given: dict[str, dict[str, Any]] = {
            "parse": parsing,
            "encode": {"encoder": encoder},
            "storage": {"bits": int(bits) if bits else None, "token_pooling": token_pooling},
        }
        changes = {
            room: getattr(settings, room).model_copy(update={k: v for k, v in values.items() if v is not None})
            for room, values in given.items()
        }
        return settings.model_copy(update=changes)

    seconds = _seconds(walltime)
    place = load_site(site)
    if parsl_monitoring:
        place = place.model_copy(update={"monitoring": True})
    place.check_monitoring()
    heed_sigterm()
    try:
        summary = index_sources(sources, to, place, override, quiet, seconds)
    except KeyboardInterrupt as stop:
        print(f"hiperrag: interrupted; what was finished is kept, resume with `{_command()}`", file=sys.stderr)
        raise typer.Exit(exit_status(stop)) from None
    _report(summary, to)
    if summary.stopped:
        stopper = "--walltime" if walltime else "the end of the batch job"
        done = f"{summary.n_there} of {counted(summary.n_planned, 'shard')}"
        print(f"stopped for {stopper} with {done}; resume with `{_command()}`", file=sys.stderr)
        return
    if not summary.counts.documents and summary.quarantined.get("stage_failed"):
        raise UserError(f"{to}: a stage failed on all inputs; see `hiperrag info {to}`, mend it and run again")
    if strict and summary.counts.quarantined:
        raise typer.Exit(3)


def _seconds(walltime: str | None) -> float | None:
    """What the run may take; by default what is left of the batch job around it."""
    from hiperrag.cli.plan import parse_duration
    from hiperrag.workflows.allocation import current_allocation, seconds_left

    if walltime:
        return parse_duration(walltime)
    job = current_allocation()
    left = seconds_left(job) if job else None
    return None if left is None else left - SECONDS_BEFORE_THE_END


def _command() -> str:
    return shlex.join(["hiperrag", *sys.argv[1:]])


def _report(summary: Summary, to: Path) -> None:
    from hiperrag.workflows.progress import duration

    counts = summary.counts
    lines = [
        f"{to}: {counted(counts.documents, 'document')} ({summary.new_documents:+d}), {counted(counts.pages, 'page')}, "
        f"{counted(counts.passages, 'passage')}, {counted(counts.tokens, 'token vector')} "
        f"in {counted(counts.shards, 'shard')}",
    ]
    if counts.quarantined:
        reasons = ", ".join(f"{number} {reason}" for reason, number in summary.quarantined.items())
        share = f"{counts.quarantined} of {counted(counts.inputs, 'input')}"
        lines.append(f"quarantined: {share} ({reasons}); see `hiperrag info {to}`")
    if summary.duplicates:
        lines.append(f"left out: {counted(summary.duplicates, 'file')} whose bytes equal another's")
    if summary.ignored:
        lines.append(f"ignored: {counted(summary.ignored, 'file')} of other kinds than PDF, archive and ready text")
    if counts.truncated:
        lines.append(f"truncated: {counted(counts.truncated, 'passage')} longer than the encoder's limit")
    spent = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in summary.stage_seconds.items())
    lines.append(f"took {duration(summary.seconds)}" + (f" (worker time: {spent})" if spent else ""))
    print("\n".join(lines), file=sys.stderr)
