"""The linear map of token vectors to fewer dimensions: a file in the model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from hiperrag.encoders.config import EncoderConfig
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = ("weight", "linear.weight")
"""Ours, and that of sentence-transformers' and PyLate's `Dense`."""


def load_projection(folder: Path, config: EncoderConfig) -> Tensor | None:
    """The matrix (token dim, hidden dim) in float32; None where token vectors stay as they are."""
    if config.projection is None:
        return None
    with _opened(folder / config.projection, "torch") as tensors:
        weight: Tensor = tensors.get_tensor(_name(tensors, folder / config.projection))
    return weight.float()


def projected_dim(folder: Path, config: EncoderConfig) -> int | None:
    """Dimensions that the map gives, from the file's header (no torch)."""
    if config.projection is None:
        return None
    with _opened(folder / config.projection, "numpy") as tensors:
        return int(tensors.get_slice(_name(tensors, folder / config.projection)).get_shape()[0])


def _opened(path: Path, framework: str) -> safe_open:
    if not path.is_file():
        raise UserError(f"{path} is named in the encoder's configuration and is not there")
    try:
        return safe_open(path, framework=framework)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _name(tensors: safe_open, path: Path) -> str:
    there = set(tensors.keys())  # type: ignore[no-untyped-call]
    found = [name for name in _NAMES if name in there]
    if not found:
        raise UserError(f"{path} holds no matrix called {' or '.join(_NAMES)}")
    return found[0]
