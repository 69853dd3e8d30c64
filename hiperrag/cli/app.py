"""The commands, and what they have in common."""

from __future__ import annotations

from typing import Annotated

import typer

import hiperrag
from hiperrag.cli import (
    ask,
    batch,
    chat,
    doctor,
    eval,
    index,
    info,
    keys,
    maintenance,
    models,
    parse,
    plan,
    search,
    serve,
    sites,
    status,
    train,
)

app = typer.Typer(
    name="hiperrag",
    help="Turn scientific PDFs into a collection that answers questions with citations down to the page.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hiperrag {hiperrag.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _hiperrag(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


for command in (
    index.index,
    search.search,
    ask.ask,
    chat.chat,
    info.info,
    maintenance.delete,
    maintenance.compact,
    maintenance.merge,
    parse.parse,
    models.models,
    sites.sites,
    doctor.doctor,
    status.status,
    plan.plan,
    eval.eval,
    serve.serve,
    batch.batch,
):
    app.command()(command)
app.add_typer(keys.keys, name="keys")
app.add_typer(train.train)
