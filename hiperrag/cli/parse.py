"""`hiperrag parse`: PDFs become text, Markdown, JSON and pictures for people, without indexing them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from hiperrag.records import Document

WORKERS_PER_CORE = 8
"""More processes than that hold only memory, a few hundred MB each."""


def parse(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="PDFs, folders, zip or tar archives.")],
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="Folder for the results; made if new.")] = None,
    parser: ParserOption = None,
    ocr_engine: EngineOption = None,
    ocr_language: LanguageOption = None,
    ocr_budget: BudgetOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the route of every page, and why.")] = False,
    render: Annotated[
        Path | None,
        typer.Option("--render", metavar="DIR", help="Draw every page with its boxes, kinds and reading order."),
    ] = None,
    figures: Annotated[bool, typer.Option(help="Write pictures of the figures.")] = True,
    strict: Annotated[bool, typer.Option(help="Exit with 3 if anything is in quarantine.")] = False,
    file_timeout: FileTimeoutOption = None,
    page_timeout: PageTimeoutOption = None,
    file_memory: FileMemoryOption = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes that parse; default: one per core.")
    ] = None,
) -> None:
    """Parse sources without indexing them.

    DIR/NAME.txt holds a document's body text, NAME.md all of it, NAME.json every block with page, box and kind,
    NAME/ its figures; DIR/documents.parquet all documents. A rerun goes on where an interrupted one stopped.
    Without --to, --explain and --render the Markdown goes to standard output.
    """
    from hiperrag.workflows.parse import parse_sources
    from hiperrag.workflows.settings import ParseSettings

    given = parse_settings(parser, ocr_engine, ocr_language, ocr_budget, file_timeout, page_timeout, file_memory)
    need_model(parser)
    n_cores = len(os.sched_getaffinity(0))
    if workers and workers > WORKERS_PER_CORE * n_cores:
        most = f"more than {WORKERS_PER_CORE * n_cores} would only wait for one another"
        raise UserError(f"--workers {workers}: this machine has {counted(n_cores, 'core')}, and {most}")

    def show(document: Document) -> None:
        if explain:
            _explain(document)
        elif not to and not render:
            from hiperrag.parsing.markdown import to_markdown

            typer.echo(to_markdown(document))

    settings, n_workers = ParseSettings(**given), workers or n_cores
    heed_sigterm()
    try:
        summary = parse_sources(sources, settings, n_workers, to, figures, render, show)
    except KeyboardInterrupt as stop:
        kept = f"; what was finished is kept in {to}, run the same command to go on" if to else ""
        print(f"hiperrag: interrupted{kept}", file=sys.stderr)
        raise typer.Exit(exit_status(stop)) from None
    for entry in summary.quarantined:
        print(f"{entry.source}: {entry.message}", file=sys.stderr)
    routes = ", ".join(f"{counted(number, 'page')} by {route}" for route, number in summary.routes.most_common())
    documents = counted(summary.n_documents, "document")
    print(f"{documents} ({routes or 'no pages'}), {len(summary.quarantined)} quarantined", file=sys.stderr)
    if summary.quarantined and (strict or not summary.n_documents):
        raise typer.Exit(3 if summary.n_documents else 2)


def _explain(document: Document) -> None:
    typer.echo(f"{document.source}: {counted(document.n_pages, 'page')}, {document.title or 'no title'}")
    typer.echo(f"{'page':>6}  {'route':<6} {'quality':>7}  reason")
    for page in document.pages:
        typer.echo(f"{page.page:>6}  {page.route:<6} {page.quality:>7.2f}  {page.reason}")
