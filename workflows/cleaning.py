"""What a collection's folder holds that nothing needs: left by commands that were killed, or ran out of disk."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import ValidationError

from hiperrag import encoders
from hiperrag.collection import FOLDERS, Collection, Manifest
from hiperrag.workflows.observe import run_folders, status_of
from hiperrag.workflows.plan import Plan, load_plan
from hiperrag.workflows.run import encoder_spec
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.stages import Namer, stages_of


@dataclasses.dataclass(frozen=True, slots=True)
class Leftovers:
    """What the manifest does not name. `unfinished`: finished parts of a run that can be resumed and would use them."""

    orphans: list[Path]
    unfinished: list[Path]


def find_leftovers(collection: Collection) -> Leftovers:
    """Everything in a collection's folder that belongs to no commit; logs of runs belong to it."""
    manifest = collection.manifest() if collection.exists() else None
    loose = [*_unnamed(collection, manifest), *collection.surveys.glob("*")]
    wanted = _resumable(collection, manifest) if loose else set()
    temporary = set(collection.temporary_files())
    orphans = {path for path in loose if path not in wanted} | temporary
    orphans |= {*_silent_runs(collection), *_links_into(collection)}
    return Leftovers(sorted(orphans), sorted(path for path in loose if path in wanted - temporary))


def clean(collection: Collection, unfinished: bool = False) -> list[tuple[Path, int]]:
    """Remove the orphans, with `unfinished` the finished parts of interrupted runs as well.

    Returns the paths and the bytes of each. UserError while another command writes the collection.
    """
    if not collection.exists() and not collection.inputs_path.is_file():
        collection.manifest()  # says what is wrong with the folder
    with collection.sole_writer("doctor --clean"):
        found = find_leftovers(collection)
        paths = [*found.orphans, *(found.unfinished if unfinished else ())]
        sizes = [(path, size_of(path)) for path in paths]
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if collection.surveys.is_dir() and not any(collection.surveys.iterdir()):
            collection.surveys.rmdir()
        return sizes


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_symlink():
        return 0
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def _unnamed(collection: Collection, manifest: Manifest | None) -> list[Path]:
    if manifest:
        return collection.unnamed_files(manifest)
    return [path for folder in FOLDERS for path in (collection.root / folder).glob("*")]


def _silent_runs(collection: Collection) -> Iterator[Path]:
    """Folders of runs that were killed before their first word."""
    for folder in collection.runs.glob("*"):
        log = folder / "events.jsonl"
        if not log.is_file() or not log.stat().st_size:
            yield folder


def _links_into(collection: Collection) -> Iterator[Path]:
    """Links that stood for folders of runs while these worked; Parsl wants paths without spaces."""
    runs = collection.runs.absolute()
    for link in (Path.home() / ".cache" / "hiperrag" / "runs").glob("*"):
        if link.is_symlink() and runs in link.readlink().parents:
            yield link


def _resumable(collection: Collection, manifest: Manifest | None) -> set[Path]:
    """Outputs that a rerun of the command that was interrupted would take up."""
    interrupted = list(_settings_of_interrupted(collection))
    if not interrupted or not collection.inputs_path.is_file():
        return set()
    plan = load_plan(collection)
    return {path for settings in interrupted for path in _outputs(collection, manifest, plan, settings)}


def _settings_of_interrupted(collection: Collection) -> Iterator[IndexSettings]:
    """The settings of the last run, which may have ended before all was done, and of those that stopped before it."""
    seen = set()
    for number, folder in enumerate(reversed(run_folders(collection.root))):
        if number and status_of(folder).state == "finished":
            return
        try:
            settings = IndexSettings.model_validate(yaml.safe_load((folder / "settings.yaml").read_text("utf-8")))
        except (OSError, ValidationError, yaml.YAMLError):  # killed before it wrote them, or of another version
            continue
        if settings.identity() not in seen:
            seen.add(settings.identity())
            yield settings


def _outputs(collection: Collection, manifest: Manifest | None, plan: Plan, settings: IndexSettings) -> Iterator[Path]:
    """What the stages leave of the parts that are not in a committed shard."""
    namer = Namer(settings, encoders.describe(encoder_spec(manifest, settings)))
    committed = {part.vectors for part in manifest.parts} if manifest else set()
    for part in (part for shard in plan.shards for part in shard):
        names = namer(part)
        if names.vectors not in committed:
            yield from (names.output(collection, stage) for stage in stages_of(settings)[:-1])
            yield collection.quarantine_path(names.documents)
            if names.surveyed:
                yield collection.surveys / "choice.json"
                yield collection.spent
