"""`hiperrag doctor`: can this machine run a site, is a collection sound, how did a run go."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiperrag.cli.findings import Finding
from hiperrag.counted import counted, sized
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.collection import Collection, Manifest

LIBRARIES = ("torch", "transformers", "parsl", "pymupdf", "pyarrow", "numpy")
FREE_GB_WANTED = 5
MEMORY_GB_PER_WORKER = 2
SHOWN = 20
"""Removed files named one by one."""


def doctor(
    collection: Annotated[Path | None, typer.Argument(metavar="COLLECTION|RUN")] = None,
    site: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="Site to check for.")] = "local",
    clean: Annotated[
        bool,
        typer.Option(
            "--clean",
            help="Instead of checking, remove what belongs to nothing: files that were half-written or replaced, and "
            "what dead runs left. Finished parts of an interrupted run stay, for the rerun that resumes it.",
        ),
    ] = False,
    clean_all: Annotated[
        bool, typer.Option("--clean-all", help="As --clean, and give up the finished parts of interrupted runs too.")
    ] = False,
) -> None:
    """Check whether this machine can run a site, verify every file of a collection, or say what slowed a run down.

    RUN is a folder COLLECTION/runs/ID. Exit 1 if something is wrong.
    """
    if clean or clean_all:
        _clean(collection, clean_all)
        return
    findings = list(_examine(collection) if collection else _machine(site))
    for finding in findings:
        mark = {True: "ok  ", False: "BAD ", None: "note"}[finding.ok]
        typer.echo(f"{mark}  {finding.what}" + (f": {finding.advice}" if finding.advice else ""))
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def _clean(root: Path | None, unfinished: bool) -> None:
    from hiperrag.collection import Collection
    from hiperrag.workflows.cleaning import clean, find_leftovers

    if root is None:
        raise UserError("say which COLLECTION to clean")
    collection = Collection(root)
    removed = clean(collection, unfinished)
    for path, n_bytes in removed[:SHOWN]:
        typer.echo(f"removed  {path} ({sized(n_bytes)})")
    if len(removed) > SHOWN:
        typer.echo(f"and {len(removed) - SHOWN} more")
    total = sum(n_bytes for _, n_bytes in removed)
    typer.echo(f"{counted(len(removed), 'leftover')} removed, {sized(total)}" if removed else "nothing to remove")
    kept = find_leftovers(collection).unfinished
    if kept:
        typer.echo(f"kept: {_unfinished(kept)}; the same `hiperrag index` command resumes, --clean-all removes them")


def _unfinished(paths: list[Path]) -> str:
    from hiperrag.workflows.cleaning import size_of

    return f"{counted(len(paths), 'output')} of an interrupted run, {sized(sum(map(size_of, paths)))}"


def _examine(path: Path) -> Iterator[Finding]:
    from hiperrag.cli.run_checks import check_latest_run, check_run, is_run

    if is_run(path):
        yield from check_run(path)
        return
    yield from _collection(path)
    yield from check_latest_run(path)


def _machine(name: str) -> Iterator[Finding]:
    from hiperrag.cli.site_checks import check_site
    from hiperrag.workflows.sites import load_site

    site = load_site(name)
    python = platform.python_version()
    yield Finding(
        sys.version_info >= (3, 11),
        f"Python {python}",
        "" if sys.version_info >= (3, 11) else "3.11 or newer is needed",
    )
    yield from _libraries()
    yield from check_site(site)
    for script in ("interchange.py", "process_worker_pool.py"):
        found = (Path(sys.executable).parent / script).is_file()
        yield Finding(found, f"Parsl's {script}", "" if found else "install parsl in this environment again")
    if site.scheduler == "local":
        gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        enough = gigabytes >= MEMORY_GB_PER_WORKER * site.n_workers
        advice = "" if enough else "may be little; set fewer workers in a site file"
        yield Finding(enough or None, f"{gigabytes:.0f} GB of memory", advice)
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < FREE_GB_WANTED:
        yield Finding(None, f"{free:.0f} GB free in this folder", "may be little")
    yield from _models()


def _libraries() -> Iterator[Finding]:
    from importlib import metadata

    for library in LIBRARIES:
        try:
            yield Finding(True, f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            yield Finding(False, library, f"missing; `pip install {library}`")
    faiss = {name: _version(name) for name in ("faiss-cpu", "faiss-gpu")}
    here = [f"{name} {version}" for name, version in faiss.items() if version]
    advice = {
        0: "missing; install the extra hiperrag[cpu] or hiperrag[gpu]",
        1: "",
        2: "both own the folder faiss/; uninstall both, then install one",
    }[len(here)]
    yield Finding(len(here) == 1, " and ".join(here) or "faiss", advice)
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    yield Finding(None, f"GPUs: {', '.join(gpus) or 'none'}")


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _models() -> Iterator[Finding]:
    from hiperrag.models import model_path, packaged

    for model in packaged():
        if not model.default:
            continue
        try:
            yield Finding(True, f"model {model.name} in {model_path(model.name)}")
        except UserError:
            yield Finding(None, f"model {model.name} is not here", f"fetch it with `hiperrag models get {model.name}`")


def _collection(root: Path) -> Iterator[Finding]:
    from hiperrag.collection import Collection, count, count_deleted_documents

    collection = Collection(root)
    manifest = collection.manifest()
    sound = manifest.counts == count(manifest.shards, manifest.n_unreadable)
    sound = sound and manifest.n_deleted_documents == count_deleted_documents(manifest.shards)
    yield Finding(sound, "the manifest's counts add up", "" if sound else "restore the manifest")
    yield from _plan(collection)
    yield from _parts(collection, manifest)
    yield from _failed(manifest)
    yield from _shards(collection, manifest)
    yield from _deletions(collection, manifest)
    yield from _leftovers(collection)
    yield Finding(
        True, f"looked at {counted(len(manifest.parts), 'part')} and {counted(len(manifest.shards), 'shard')} of {root}"
    )


def _leftovers(collection: Collection) -> Iterator[Finding]:
    from hiperrag.workflows.cleaning import find_leftovers, size_of
    from hiperrag.workflows.observe import current_runs

    if any(run.state == "running" for run in current_runs(collection.root, time.time())):
        return  # what is not committed yet is its work
    found = find_leftovers(collection)
    if found.unfinished:
        yield Finding(None, _unfinished(found.unfinished), "run the same command again to resume")
    if found.orphans:
        named = f"{counted(len(found.orphans), 'file')} that belong{'s' * (len(found.orphans) == 1)} to nothing"
        size = sized(sum(map(size_of, found.orphans)))
        advice = f"`hiperrag doctor {collection.root} --clean` removes them"
        yield Finding(None, f"{named} ({size}), such as {found.orphans[0]}", advice)


def _plan(collection: Collection) -> Iterator[Finding]:
    from hiperrag.workflows.plan import load_plan

    try:
        load_plan(collection)
    except UserError as error:
        yield Finding(False, str(error))


def _parts(collection: Collection, manifest: Manifest) -> Iterator[Finding]:
    import pyarrow.parquet as pq

    for part in manifest.parts:
        if part.n_inputs != part.n_documents + part.n_quarantined:
            yield Finding(False, f"part {part.documents}", "inputs are not documents plus quarantined")
        for path, expected in (
            (collection.documents_path(part.documents), part.n_documents),
            (collection.passages_path(part.passages), part.n_passages),
        ):
            if part.failed_stage:
                continue
            try:
                rows = pq.ParquetFile(path, page_checksum_verification=True).read().num_rows
            except Exception as error:
                yield Finding(False, f"{path}", f"unreadable ({str(error).splitlines()[0]}); restore it")
                continue
            if rows != expected:
                yield Finding(False, f"{path}", f"holds {rows} rows, not {expected}; restore it")


def _failed(manifest: Manifest) -> Iterator[Finding]:
    for stage in dict.fromkeys(part.failed_stage for part in manifest.parts if part.failed_stage):
        failed = [part.n_inputs for part in manifest.parts if part.failed_stage == stage]
        what = f"{counted(len(failed), 'part')} failed in {stage}, with {counted(sum(failed), 'input')}"
        yield Finding(False, what, "run `hiperrag index` again, which tries them anew")


def _shards(collection: Collection, manifest: Manifest) -> Iterator[Finding]:
    from hiperrag.files import sha256_file

    for shard in manifest.shards:
        for name, expected in shard.sha256.items():
            path = collection.shard_path(shard.name) / name
            if not path.is_file():
                yield Finding(False, f"{path}", "missing; run `hiperrag index` again, which makes the shard anew")
            elif sha256_file(path) != expected:
                yield Finding(False, f"{path}", "damaged; remove it and run `hiperrag index` again")


def _deletions(collection: Collection, manifest: Manifest) -> Iterator[Finding]:
    from hiperrag.workflows.deletions import deleted_documents, deleted_mask

    try:
        deleted_documents(collection, manifest.deleted)
    except UserError as error:
        yield Finding(False, str(error))
    for shard in manifest.shards:
        try:
            deleted_mask(collection, shard)
        except UserError as error:
            yield Finding(False, str(error))
