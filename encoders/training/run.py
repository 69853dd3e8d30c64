"""A training from settings and files to a folder: what `hiperrag train` does."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from hiperrag.encoders.config import CONFIG_FILE
from hiperrag.encoders.training import checkpoints
from hiperrag.encoders.training.adapter import write_encoder
from hiperrag.encoders.training.pairs import read_pairs, write_pairs
from hiperrag.encoders.training.ranks import Ranks
from hiperrag.encoders.training.settings import TrainSettings
from hiperrag.encoders.training.trainer import StepReport, Stops, Trainer
from hiperrag.errors import UserError
from hiperrag.files import write_text_atomic
from hiperrag.machine import describe_machine

SETTINGS = "settings.yaml"
CARD = "data_card.yaml"
RECORD = "training.yaml"
HELD_OUT = "held_out.jsonl"


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """How a training ended: steps done of all, whether that was the end, and its figures on held-out pairs."""

    steps: int
    of: int
    figures: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether the encoder was written."""
        return self.steps == self.of


def train(
    settings: TrainSettings,
    files: Sequence[Path],
    out: Path,
    ranks: Ranks,
    report: Callable[[StepReport], None],
    stops: Stops,
) -> Trained:
    """Train into the folder `out`, or go on with the training that is there.

    Every rank calls this with the same arguments. The folder ends up with an encoder, settings, a data card, held-out
    pairs and a record of the training. UserError where `out` holds another training.
    """
    data = read_pairs(files, settings.held_out, settings.seed)
    trainer = Trainer(settings, data.training, out, ranks)
    done = _finished(out, trainer)
    if done is not None:
        return done
    if ranks.first:
        _write_yaml(out / SETTINGS, settings.model_dump(mode="json"))
        _write_yaml(out / CARD, data.card)
        write_pairs(out / HELD_OUT, data.held_out)
    begins = ranks.first and checkpoints.newest(out, trainer.identity) is None
    before = trainer.figures(data.held_out) if begins else {}
    start, cpu = time.monotonic(), time.process_time()
    whole = trainer.run(report, stops)
    if not whole:
        return Trained(len(trainer.losses), trainer.steps, {})
    figures = trainer.figures(data.held_out) if ranks.first else {}
    if ranks.first:
        encoder = trainer.encoder
        write_encoder(out, encoder.model, encoder.projection, trainer.config, trainer.folder, settings.base)
        record = {
            "identity": trainer.identity,
            "steps": trainer.steps,
            "processes": ranks.size,
            "device": str(ranks.device),
            "last_start": {
                "seconds": round(time.monotonic() - start, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
            },
            "temperatures": [round(float(value), 5) for value in encoder.temperatures],
            "losses": [round(loss, 5) for loss in trainer.losses],
            "held_out": {"before": before, "after": figures},
            "machine": describe_machine(),
        }
        _write_yaml(out / RECORD, record)
        shutil.rmtree(out / checkpoints.FOLDER, ignore_errors=True)
    ranks.wait()
    return Trained(trainer.steps, trainer.steps, figures)


def _finished(out: Path, trainer: Trainer) -> Trained | None:
    """The training that `out` holds, if it is this one and was finished; UserError if it is another one."""
    if (out / SETTINGS).is_file():
        there = yaml.safe_load((out / SETTINGS).read_text(encoding="utf-8"))
        mine = trainer.settings.model_dump(mode="json")
        changed = [name for name in mine if there.get(name) != mine[name]]
        if changed:
            raise UserError(f"{out} holds a training with another {changed[0]}: give another --out")
    elif (out / CONFIG_FILE).is_file():
        raise UserError(f"{out} holds an encoder that was not trained here: give another --out")
    if not (out / RECORD).is_file():
        return None
    record = yaml.safe_load((out / RECORD).read_text(encoding="utf-8"))
    if record["identity"] != trainer.identity:
        raise UserError(f"{out} holds a training on other pairs: give another --out")
    return Trained(record["steps"], record["steps"], record["held_out"]["after"])


def _write_yaml(path: Path, content: Any) -> None:
    write_text_atomic(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
