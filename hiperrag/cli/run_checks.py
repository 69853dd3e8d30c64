"""The part of `hiperrag doctor` that looks at a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hiperrag.cli.findings import Finding

if TYPE_CHECKING:
    from hiperrag.workflows.diagnosis import Symptom


def is_run(path: Path) -> bool:
    """Whether a path is the folder of a run, rather than a collection."""
    return (path / "events.jsonl").is_file()


def check_run(folder: Path) -> Iterator[Finding]:
    """What the log of a run says."""
    ended, symptoms = _diagnose(folder)
    yield ended
    for symptom in symptoms:
        yield Finding({"fault": False, "note": None, "fact": True}[symptom.level], symptom.what, symptom.advice)


def check_latest_run(collection: Path) -> Iterator[Finding]:
    """What a collection's last run is known for; its faults are none of the collection, which was looked at itself."""
    from hiperrag.workflows.observe import run_folders

    for folder in run_folders(collection)[-1:]:
        ended, symptoms = _diagnose(folder)
        yield ended
        for symptom in symptoms:
            if symptom.level != "note" and symptom.kind != "failed_parts":
                yield Finding(True if symptom.level == "fact" else None, symptom.what, symptom.advice)


def _diagnose(folder: Path) -> tuple[Finding, list[Symptom]]:
    from hiperrag.workflows.diagnosis import diagnose
    from hiperrag.workflows.observe import status_of
    from hiperrag.workflows.tasklog import read_tasks

    status = status_of(folder)
    ended = Finding(True if status.state == "finished" else None, f"run {status.run} {status.state}")
    return ended, diagnose(status, read_tasks(folder))
