"""Checkpoints that are whole or absent: one folder a step, renamed into place, the newest sound one found again."""

from __future__ import annotations

import dataclasses
import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from hiperrag.files import atomic_directory, sha256_file, write_text_atomic

FOLDER = "checkpoints"
_STATE = "state.pt"
_SUM = "state.sha256"
_KEEP = 2

_log = logging.getLogger(__name__)


@dataclasses.dataclass(slots=True)
class Checkpoint:
    """What the next step depends on.

    identity: of settings and pairs. step: steps done. Random numbers need no state:
    order and dropout are functions of the seed and the step.
    """

    identity: str
    step: int
    parameters: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    losses: list[float]


def save(out: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` below `out` and remove all but the two newest."""
    folder = out / FOLDER / f"step-{checkpoint.step:08d}"
    with atomic_directory(folder) as temporary:
        state = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
        with (temporary / _STATE).open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        write_text_atomic(temporary / _SUM, sha256_file(temporary / _STATE) + "\n")
    for old in _folders(out)[_KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def newest(out: Path, identity: str) -> Checkpoint | None:
    """The newest sound checkpoint of this training; damaged ones, and those of other settings, are passed over."""
    for folder in _folders(out):
        try:
            if (folder / _SUM).read_text(encoding="utf-8").strip() != sha256_file(folder / _STATE):
                raise ValueError("its checksum is not right")
            found = Checkpoint(**torch.load(folder / _STATE, map_location="cpu", weights_only=True))
            if found.identity == identity:
                return found
            _log.warning("%s is of other settings or pairs and is not used", folder)
        except (OSError, ValueError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
            _log.warning("%s is damaged and is not used: %s", folder, str(error).splitlines()[0])
    return None


def _folders(out: Path) -> list[Path]:
    """Newest first."""
    return sorted((out / FOLDER).glob("step-*"), reverse=True)
