"""The encoders that are compared, and how each is made: by `hiperrag train`'s own code, each in a folder of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from hiperrag.encoders.config import CONFIG_FILE
from hiperrag.encoders.training.adapter import write_encoder
from hiperrag.encoders.training.pairs import Pair
from hiperrag.encoders.training.ranks import Ranks
from hiperrag.encoders.training.run import CARD, RECORD, SETTINGS, train
from hiperrag.encoders.training.settings import TrainSettings
from hiperrag.encoders.training.trainer import StepReport, Stops, Trainer
from hiperrag.errors import UserError
from hiperrag.files import atomic_directory, fingerprint, sha256_file, write_text_atomic

BASE = "base"
PROJECTED = "base-projected"
COLTRAST = "coltrast"
_START = "start.yaml"


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """One row of the report. settings: of its training, None where nothing is trained."""

    name: str
    label: str
    settings: TrainSettings | None = None


def variants(settings: TrainSettings, with_negatives: bool) -> list[Variant]:
    """Base, base projected, each loss with and without hard negatives, and ColTrast within blocks alone.

    Those that `settings` or the pairs leave no room for are not among them: without hard negatives in the pairs, with
    a batch that is one block, or with token vectors that are not projected.
    """
    losses = (("contrastive", "contrastive only"), ("late", "late only"), (COLTRAST, "ColTrast"))
    listed = [Variant(BASE, "base")]
    if settings.dim is not None:
        listed.append(Variant(PROJECTED, f"base, {settings.dim} dimensions"))
    for loss, label in losses:
        changed = settings.model_copy(update={"loss": loss, "hard_negatives": 0})
        listed.append(Variant(loss, label, changed))
        if with_negatives:
            hard = changed.model_copy(update={"hard_negatives": max(1, settings.hard_negatives)})
            listed.append(Variant(f"{loss}-hard", f"{label}, hard negatives", hard))
    if settings.batch > settings.block_rows:
        within = settings.model_copy(update={"gather": False, "hard_negatives": 0})
        listed.append(Variant(f"{COLTRAST}-no-gather", "ColTrast, no gather", within))
    return listed


def make(
    variant: Variant,
    settings: TrainSettings,
    files: Sequence[Path],
    pairs: list[Pair],
    folder: Path,
    report: Callable[[StepReport], None],
    stops: Stops,
) -> str:
    """The spec of the variant's encoder, made in `folder` unless it is there, or as far as `stops` let it come."""
    if variant.name == BASE:
        return settings.base
    if variant.settings is None:
        _write_start(settings, pairs, folder)
    elif not _is_finished(variant.settings, files, folder):
        train(variant.settings, files, folder, Ranks(), report, stops)
    return str(folder)


def cpu_seconds(folder: Path) -> float | None:
    """CPU time of the variant's training (of its last start, where it was resumed); None where nothing was trained."""
    if not (folder / RECORD).is_file():
        return None
    return float(_read(folder / RECORD)["last_start"]["cpu_seconds"])


def _write_start(settings: TrainSettings, pairs: list[Pair], folder: Path) -> None:
    """The encoder that training starts from: the base model and the first projection."""
    state = fingerprint(settings.model_dump_json(include={"base", "dim", "seed", "passage_tokens"}), len(pairs))
    if (folder / _START).is_file() and _read(folder / _START) == {"state": state}:
        return
    if folder.exists():
        raise UserError(f"{folder} was made with other settings or pairs: give another --out")
    start = settings.model_copy(update={"method": "lora"})
    trainer = Trainer(start, pairs, folder, Ranks())
    with atomic_directory(folder) as out:
        encoder = trainer.encoder
        write_encoder(out, encoder.model, encoder.projection, trainer.config, trainer.folder, settings.base)
        write_text_atomic(out / _START, yaml.safe_dump({"state": state}))


def _is_finished(settings: TrainSettings, files: Sequence[Path], folder: Path) -> bool:
    """Whether the folder holds this training, ended; seen without reading the pairs."""
    if not (folder / RECORD).is_file() or not (folder / CONFIG_FILE).is_file():
        return False
    same_files = [file["sha256"] for file in _read(folder / CARD)["files"]] == [sha256_file(file) for file in files]
    return same_files and _read(folder / SETTINGS) == settings.model_dump(mode="json")


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
