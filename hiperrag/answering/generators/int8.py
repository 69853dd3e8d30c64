"""Int8 arithmetic for the linear layers of a causal model on the CPU, activations included.

Weights are rounded with one scale per output, activations with one scale per token, so that a token's result does not
depend on its batch. A few input columns, those with the largest activations on a text sample, stay in float32 (the
mixed decomposition of Dettmers et al. 2022, LLM.int8(), section 3.2, with columns that are fixed beforehand). What
enters the layers that lead out of a gated activation has a few large values elsewhere in every token: there, weights
and inputs are rotated by a Hadamard matrix, which spreads them (Ashkboos et al. 2024, QuaRot, section 4), block by
block.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hiperrag.encoders.linear import Int8Linear, Int8Weights, int8_is_exact
from hiperrag.encoders.precision import sample_text
from hiperrag.files import fingerprint, write_text_atomic
from hiperrag.models import cache_root, weights_hash

FLOAT_COLUMNS = 32
"""Input columns of each layer that stay in float32, by measurement (docs/evaluation.md)."""
ROTATED = 128
"""Columns of a Hadamard block at most; a power of two."""
RECIPE = "largest columns of the sample (1)"
"""Changes whenever other columns would be chosen for the same model."""
_PARAGRAPHS = 6
_PARAGRAPH_TOKENS = 128

_log = logging.getLogger(__name__)


def use_int8(model: Any, tokenizer: Any) -> bool:
    """Replace every linear layer of a float32 model on the CPU; whether that was done.

    Not where the machine's int8 products cannot be trusted (see int8_is_exact). Reads a text sample (some seconds)
    the first time a folder's model is used so; the choice of columns is kept in the cache.
    """
    if not int8_is_exact():
        _log.warning("this machine has no exact int8 arithmetic; the generator runs in float32")
        return False
    columns = _float_columns(model, tokenizer)
    for name, linear in list(_linears(model)):
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, Int8Projection(linear, columns[name]))
    return True


class Int8Projection(nn.Module):
    """y = x W^T + b for x of shape (..., in), in int8 but for the inputs `columns` (indices).

    Layers with more inputs than outputs are rotated.
    """

    def __init__(self, linear: nn.Linear, columns: Tensor) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._columns = columns
        self._in_float = weight[:, columns].T.contiguous()
        in_int8 = torch.ones(self.in_features)
        in_int8[columns] = 0
        weight = weight * in_int8
        self._in_int8, self._rotation = in_int8, None
        if self.in_features > self.out_features:
            self._rotation = _hadamard(_block(self.in_features))
            weight, in_int8 = _rotated(weight, self._rotation), torch.ones_like(in_int8)
        scales = weight.abs().amax(1).clamp_(min=1e-12).div_(127)
        levels = weight.div_(scales[:, None]).round_().to(torch.int8)
        bias = torch.zeros(self.out_features) if linear.bias is None else linear.bias.detach().float()
        self._int8 = Int8Linear(Int8Weights(levels, scales, in_int8, bias))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        rounded = rows if self._rotation is None else _rotated(rows * self._in_int8, self._rotation)
        y = self._int8(rounded).addmm_(rows[:, self._columns], self._in_float)
        return y.view(*x.shape[:-1], self.out_features)


def _block(columns: int) -> int:
    """The largest power of two that divides `columns`, up to ROTATED."""
    return min(columns & -columns, ROTATED)


def _hadamard(size: int) -> Tensor:
    """The orthogonal Hadamard matrix of a power of two (Sylvester's construction)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix.div(size**0.5)


def _rotated(rows: Tensor, rotation: Tensor) -> Tensor:
    """Each block of columns by the rotation, which is symmetric and its own inverse."""
    return (rows.reshape(-1, len(rotation)) @ rotation).view(rows.shape)


def _float_columns(model: Any, tokenizer: Any) -> dict[str, Tensor]:
    """Each linear layer's float columns, by its name: from the cache, or from the sample."""
    folder = Path(model.config._name_or_path)
    if not folder.is_dir():
        return _largest_columns(model, tokenizer)
    key = fingerprint(weights_hash(folder), RECIPE, FLOAT_COLUMNS, sample_text())
    record = cache_root() / "int8" / f"{key}.json"
    try:
        return {name: torch.tensor(columns) for name, columns in json.loads(record.read_text("utf-8")).items()}
    except (OSError, ValueError):
        pass
    found = _largest_columns(model, tokenizer)
    try:
        write_text_atomic(record, json.dumps({name: columns.tolist() for name, columns in found.items()}))
    except OSError as error:
        _log.warning("the int8 columns could not be kept: %s", error)
    return found


@torch.inference_mode()
def _largest_columns(model: Any, tokenizer: Any) -> dict[str, Tensor]:
    """By the largest absolute input of the sample, FLOAT_COLUMNS of each layer but at most a quarter."""
    ranges: dict[str, Tensor] = {}

    def record(name: str, x: Tensor) -> None:
        largest = x.abs().flatten(0, -2).amax(0)
        ranges[name] = torch.maximum(largest, ranges.get(name, largest))

    hooks = [
        linear.register_forward_pre_hook(lambda _, inputs, name=name: record(name, inputs[0]))
        for name, linear in _linears(model)
    ]
    try:
        for paragraph in sample_text().strip().splitlines()[:_PARAGRAPHS]:
            model(torch.tensor([tokenizer(paragraph)["input_ids"][:_PARAGRAPH_TOKENS]]))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: found.topk(min(FLOAT_COLUMNS, len(found) // 4)).indices for name, found in ranges.items()}


def _linears(model: Any) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module
