"""`hiperrag sites`: where indexing can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiperrag.counted import counted
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.workflows.sites import Site


def sites(
    action: Annotated[str | None, typer.Argument(metavar="show")] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME|FILE.yaml")] = None,
) -> None:
    """List the sites; or, with `show NAME`, print one resolved, its Parsl configuration, and the batch script.

    Nothing is submitted.
    """
    from hiperrag.workflows.sites import load_site, packaged_sites

    if action is None:
        for site in packaged_sites():
            typer.echo(f"{site.name:<12} {_state(site):<22} {site.description}")
    elif action == "show" and name:
        _show(load_site(name))
    else:
        raise UserError("say `hiperrag sites` for the list or `hiperrag sites show NAME`")


def _state(site: Site) -> str:
    """Whether a site has been run, and whether the user has to add something."""
    tested = "tested" if site.facts.tested else "not tested"
    return f"{tested}, to fill in" if site.unfilled() else tested


def _show(site: Site) -> None:
    import yaml

    from hiperrag.workflows.parsl_config import batch_scripts, parsl_config

    folder = Path("RUN")
    resolved = site.model_dump(mode="json", exclude_defaults=True)
    _part(f"site {site.name}", yaml.safe_dump(resolved, sort_keys=False, width=120))
    _part("stages", "\n".join(_placement(site)))
    _part("Parsl configuration", str(parsl_config(site, folder, site.n_workers, elsewhere=True)))
    for job, (command, script) in batch_scripts(site, folder).items():
        title = f"job {job}, submitted with `{command}`" if job else f"script that starts the workers, with `{command}`"
        _part(title, script)
    for field in site.unfilled():
        typer.echo(f"to fill in: {field}, in a file of your own that says `extends: {site.name}`", err=True)


def _part(title: str, text: str) -> None:
    typer.echo(f"# {title}\n{text.strip()}\n")


def _placement(site: Site) -> list[str]:
    from hiperrag.workflows.stages import STAGES

    lines = []
    for stage in STAGES:
        name = site.pool_of(stage)
        pool, nodes = site.active_pools[name], site.nodes(name)
        kind = "pinned to an accelerator, " if pool.accelerator_names else ""
        threads = f"{counted(pool.threads, 'thread')} each"
        lines.append(
            f"{stage:<10} pool {name}: {counted(site.workers_per_node(name), 'worker')} a node ({kind}{threads}) on "
            f"{counted(nodes, 'node')}"
        )
    return lines
