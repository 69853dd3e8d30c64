"""`hiperrag keys`: who may use a service."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Annotated

import typer

from hiperrag.errors import UserError

keys = typer.Typer(help="Make, list and remove the API keys of a service.", no_args_is_help=True)
KeysArgument = Annotated[Path, typer.Argument(metavar="FILE")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME")]


@keys.command()
def add(
    file: KeysArgument,
    name: NameArgument,
    collection: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A collection the key opens, repeatable; without it the key opens all."),
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until the key expires; without it never.")] = None,
) -> None:
    """Make a key for NAME and print it, this once: FILE keeps its hash only."""
    from hiperrag.service.keys import add as add_key

    expires = None
    if days is not None:
        try:
            expires = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=days)
        except OverflowError:
            raise UserError(f"--days {days}: that is beyond the calendar") from None
    typer.echo(add_key(file, name, collection, expires))
    print("note: this key is shown once; keep it as you keep a password", file=sys.stderr)


@keys.command("list")
def list_(file: KeysArgument) -> None:
    """Name the keys of FILE: what they open, and until when."""
    from hiperrag.service.keys import read

    for key in read(file):
        opens = "all collections" if key.collections is None else ", ".join(key.collections)
        until = "no expiry" if key.expires is None else f"expires {key.expires:%Y-%m-%d %H:%M} UTC"
        expired = " (expired)" if key.is_expired() else ""
        typer.echo(f"{key.name:<24} {opens}; made {key.created:%Y-%m-%d}; {until}{expired}")


@keys.command()
def remove(file: KeysArgument, name: NameArgument) -> None:
    """Take the key of NAME out of FILE; a running service refuses it within a second."""
    from hiperrag.service.keys import remove as remove_key

    remove_key(file, name)
