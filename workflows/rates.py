"""What work costs: seconds and bytes per unit, measured in runs, or assumed and then said to be so.

`rates.yaml` holds what comes with the program; a user's own runs replace it.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hiperrag.collection import Collection
from hiperrag.errors import UserError, first_mistake
from hiperrag.workflows.diagnosis import first_of_worker
from hiperrag.workflows.observe import run_folders
from hiperrag.workflows.tasklog import Floats, TaskLog, read_tasks

UNITS = {"parse": "page", "recognise": "page", "chunk": "passage", "encode": "token", "build": "token"}
"""What the cost of a stage is proportional to."""
Clock = Literal["wall", "cpu"]
_COLUMNS = {"page": "n_pages", "passage": "n_done", "token": "n_tokens"}
LEAST_ERROR = 0.1
"""Relative error of any measured rate, were there ever so many tasks: other documents, another day."""
UNSURE_SPREAD = 0.5
"""Relative spread between tasks where there are too few to tell."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(_Record):
    """Seconds of one worker for one unit."""

    seconds: float = Field(gt=0)
    error: float = Field(ge=0)
    """Standard error of its logarithm: 0.1 means that two thirds of guesses are within 10 %."""
    spread: float = Field(default=0.3, ge=0)
    """Relative spread between parts."""
    first: float = Field(default=0.0, ge=0)
    """Seconds that a worker's first task takes besides, to load models."""
    units: float = 0.0
    """How many were measured."""
    basis: Literal["measured", "assumed"]
    source: str


class Quantity(_Record):
    """A number that describes documents."""

    value: float = Field(gt=0)
    error: float = Field(ge=0)
    """Standard error of its logarithm."""


class Corpus(_Record):
    """What documents are like."""

    pages_per_document: Quantity
    passages_per_page: Quantity
    tokens_per_passage: Quantity
    source: str


class Storage(_Record):
    """Bytes on disk per unit, and numbers of files."""

    documents_per_page: float
    passages_per_passage: float
    vectors_per_token: float
    text_per_passage: float
    plan_per_document: float
    manifest_per_part: float
    log_per_task: float
    files_per_part: float
    files_per_shard: float
    source: str


class Rates(_Record):
    """All that a forecast rests on."""

    stages: dict[str, Rate]
    """By stage, on a processor core."""
    accelerators: dict[str, dict[str, Rate]] = {}
    """By kind of accelerator and stage."""
    accelerator_of: dict[str, str] = {}
    """The kind of accelerator of packaged sites."""
    start_seconds: Quantity
    """From the start of a run, or of a job, to its first task."""
    corpus: Corpus
    storage: Storage

    def of(self, stage: str, accelerator: str = "") -> Rate:
        """The rate of a stage on a core, or on an accelerator where there is one for it."""
        found = self.accelerators.get(accelerator, {}).get(stage) or self.stages.get(stage)
        if found is None:
            raise UserError(f"no rate is known for the stage {stage}; measure one with `hiperrag plan --from-run`")
        return found


def packaged_rates() -> Rates:
    """The rates that come with the program."""
    text = (resources.files("hiperrag.workflows") / "rates.yaml").read_text(encoding="utf-8")
    return Rates.model_validate(yaml.safe_load(text))


def load_rates(path: Path) -> Rates:
    """Rates from a file that `hiperrag plan --save` wrote; UserError when it cannot be used."""
    try:
        return Rates.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read ({reason})") from None
    except ValidationError as error:
        raise UserError(f"{path}: no file of rates ({first_mistake(error)}); make one with `plan --save`") from None


def save_rates(rates: Rates, path: Path) -> None:
    """Write rates as YAML."""
    values = rates.model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False, width=120), encoding="utf-8")


def learn(collections: list[Path], base: Rates, clock: Clock = "wall") -> Rates:
    """`base` with everything replaced that the runs of these collections tell; UserError when they tell nothing.

    Wall time has all in it that slows the workers down; CPU time is what a machine without other work would need. A
    run on a site with accelerators tells about them for the stages that they are for, else about cores.
    """
    logs = [log for root in collections for log in _logs(root)]
    named = ", ".join(path.name for path in collections)
    if not logs:
        raise UserError(f"{named}: no run there finished a task; index something first")
    stages, accelerators = dict(base.stages), {kind: dict(rates) for kind, rates in base.accelerators.items()}
    for kind in ("", *accelerators):
        for name in UNITS:
            ran = [log for log in logs if _ran_on(log, name, base) == kind]
            known = accelerators[kind] if kind else stages
            rate = _rate(name, ran, clock, named, known[name].first if name in known else 0.0) if ran else None
            if rate:
                known[name] = rate
    changes = {
        "stages": stages,
        "accelerators": accelerators,
        "start_seconds": _start(logs) if clock == "wall" else base.start_seconds,
        "corpus": _corpus(collections) or base.corpus,
        "storage": _storage(collections) or base.storage,
    }
    return base.model_copy(update=changes)


def _logs(root: Path) -> list[TaskLog]:
    return [log for log in map(read_tasks, run_folders(root)) if len(log)]


def _ran_on(log: TaskLog, stage: str, base: Rates) -> str:
    """The kind of accelerator that ran a stage; empty for cores."""
    kind = base.accelerator_of.get(log.first.get("site", ""), "")
    return kind if stage in base.accelerators.get(kind, {}) else ""


def _rate(stage: str, logs: list[TaskLog], clock: Clock, named: str, loading: float) -> Rate | None:
    """Seconds = slope x units + first x (a worker's first task of the stage), neither negative, by least squares.

    Where nearly all tasks are their worker's first, `loading` CPU seconds are taken to be known.
    """
    from scipy.optimize import nnls

    column = _COLUMNS[UNITS[stage]]
    units = np.concatenate([log.columns[column][log.of_stage(stage)] for log in logs]).astype(float)
    cpu = np.concatenate([log.columns["cpu_seconds"][log.of_stage(stage)] for log in logs])
    wall = np.concatenate([log.seconds[log.of_stage(stage)] for log in logs])
    seconds = wall if clock == "wall" else cpu
    first = np.concatenate([first_of_worker(log)[log.of_stage(stage)] for log in logs]).astype(float)
    units, seconds, cpu, first = (column[units > 0] for column in (units, seconds, cpu, first))
    if not len(units) or seconds.sum() <= 0:
        return None
    load = loading * seconds.sum() / max(cpu.sum(), 1e-9)
    if np.count_nonzero(first == 0) >= 2:
        load = float(nnls(np.column_stack([units, first]), seconds)[0][1])
    load = min(load, 0.9 * float(seconds[first > 0].min()))
    rest = seconds - load * first
    slope = float(rest.sum() / units.sum())
    spread = _spread(rest / units, units) if len(units) >= 4 else UNSURE_SPREAD
    error = max(float(np.hypot(spread / np.sqrt(len(units)), LEAST_ERROR)), LEAST_ERROR)
    return Rate(
        seconds=_round(slope),
        error=_round(error),
        spread=_round(spread),
        first=_round(load),
        units=float(units.sum()),
        basis="measured",
        source=f"{len(units)} tasks in runs of {named}, {clock} time",
    )


def _start(logs: list[TaskLog]) -> Quantity:
    starts = [float(log.started.min()) - log.first["time"] for log in logs]
    return Quantity(value=_round(max(float(np.median(starts)), 0.1)), error=0.5)


def _spread(values: Floats, weights: Floats) -> float:
    """Weighted standard deviation over the mean."""
    mean = float(np.average(values, weights=weights))
    return float(np.sqrt(np.average((values - mean) ** 2, weights=weights))) / mean


def _corpus(collections: list[Path]) -> Corpus | None:
    parts = [part for root in collections for part in Collection(root).manifest().parts if part.n_pages]
    documents, pages, passages, tokens = (
        np.array([getattr(part, name) for part in parts], dtype=float)
        for name in ("n_documents", "n_pages", "n_passages", "n_tokens")
    )
    if not passages.sum():
        return None
    named = ", ".join(path.name for path in collections)
    return Corpus(
        pages_per_document=_quantity(pages, documents),
        passages_per_page=_quantity(passages, pages),
        tokens_per_passage=_quantity(tokens, passages),
        source=f"{documents.sum():.0f} documents of {named}",
    )


def _quantity(numerator: Floats, denominator: Floats) -> Quantity:
    """A ratio of sums, with the error that its spread between parts says."""
    value, present = float(numerator.sum() / denominator.sum()), denominator > 0
    spread = UNSURE_SPREAD
    if np.count_nonzero(present) >= 4:
        spread = _spread(numerator[present] / denominator[present], denominator[present])
    return Quantity(value=_round(value), error=_round(max(spread / float(np.sqrt(np.count_nonzero(present))), 0.02)))


def _storage(collections: list[Path]) -> Storage | None:
    """Bytes of what the manifests name, divided by what it holds."""
    totals: dict[str, float] = dict.fromkeys(Storage.model_fields, 0.0)
    pages = passages = tokens = documents = parts = shards = tasks = 0.0
    for root in collections:
        collection = Collection(root)
        manifest = collection.manifest()
        counts = manifest.counts
        pages, passages, tokens = pages + counts.pages, passages + counts.passages, tokens + counts.tokens
        documents, parts, shards = documents + counts.documents, parts + counts.parts, shards + counts.shards
        logs = [folder / "events.jsonl" for folder in run_folders(root)]
        tasks += sum(len(log) for log in _logs(root))
        totals["documents_per_page"] += _bytes(collection.documents_path(part.documents) for part in manifest.parts)
        totals["passages_per_passage"] += _bytes(collection.passages_path(part.passages) for part in manifest.parts)
        totals["vectors_per_token"] += counts.bytes
        totals["text_per_passage"] += counts.text_bytes
        totals["plan_per_document"] += _bytes([collection.inputs_path])
        totals["manifest_per_part"] += _bytes([collection.manifest_path])
        totals["log_per_task"] += sum(len(line) for log in logs for line in _lines(log) if b'"heartbeat"' not in line)
        totals["files_per_shard"] += sum(len(shard.sha256) for shard in manifest.shards)
    if not tokens or not pages:
        return None
    per = {"page": pages, "passage": passages, "token": tokens, "document": documents, "part": parts, "task": tasks}
    values = {name: _round(total / max(per.get(name.rpartition("_")[2], shards), 1)) for name, total in totals.items()}
    named = ", ".join(path.name for path in collections)
    source = f"{documents:.0f} documents, {pages:.0f} pages of {named}"
    return Storage.model_validate(values | {"files_per_part": 3.0, "source": source})


def _bytes(paths: Iterable[Path]) -> float:
    return float(sum(path.stat().st_size for path in paths if path.is_file()))


def _lines(path: Path) -> Iterable[bytes]:
    with path.open("rb") as stream:
        yield from stream


def _round(value: float) -> float:
    """To three digits: more would pretend."""
    return float(f"{value:.3g}")
