"""`hiperrag sites`: where indexing can run."""

from __future__ import annotations

from typing import Annotated

import typer

from hiperrag.errors import UserError


def sites(
    action: Annotated[str | None, typer.Argument(metavar="show")] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME|FILE.yaml")] = None,
) -> None:
    """List the sites, or print one as it is resolved on this machine with `sites show NAME`."""
    import yaml

    from hiperrag.workflows.sites import load_site, packaged_sites

    if action is None:
        for site in packaged_sites():
            typer.echo(f"{site.name:<14} {site.description} ({site.n_workers} workers here)")
    elif action == "show" and name:
        site = load_site(name)
        resolved = site.model_dump(mode="json") | {"workers": site.n_workers}
        typer.echo(yaml.safe_dump(resolved, sort_keys=False).rstrip())
    else:
        raise UserError("say `hiperrag sites` for the list or `hiperrag sites show NAME`")
