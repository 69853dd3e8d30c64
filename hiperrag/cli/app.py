"""The commands, and what they have in common."""

from __future__ import annotations

from typing import Annotated

import typer

import hiperrag
from hiperrag.cli import ask, doctor, index, info, maintenance, models, parse, search, sites

app = typer.Typer(
    name="hiperrag",
    help="Turn scientific PDFs into a collection that answers questions with citations down to the page.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hiperrag {hiperrag.__version__}")
        raise typer.Exit


@app.callback()
def _hiperrag(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    del version


for command in (
    index.index,
    search.search,
    ask.ask,
    info.info,
    maintenance.delete,
    maintenance.compact,
    maintenance.merge,
    parse.parse,
    models.models,
    sites.sites,
    doctor.doctor,
):
    app.command()(command)
