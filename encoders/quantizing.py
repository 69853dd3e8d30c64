"""Int8 weights for a BERT's linear layers, found once on a text sample and kept in the cache.

Channel ranges are evened out between activations and weights (Xiao et al. 2023, SmoothQuant, eq. 4); rounding
errors of a weight row are passed on to the columns not yet rounded (Frantar et al. 2023, GPTQ, algorithm 1).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hiperrag.encoders.bert import BertLayer, PackedBert
from hiperrag.encoders.linear import FloatLinear, Int8AfterGelu, Int8Linear, Int8Weights
from hiperrag.files import atomic_file

_SMOOTHING = {"qkv": 0.6, "attention_out": 0.5, "up": 0.55}
"""SmoothQuant's alpha for each kind of layer, by measurement; inputs after GELU are left as they are."""
_DAMPING = 0.01
_BLOCK = 128

_log = logging.getLogger(__name__)


def use_int8(bert: PackedBert, weights_file: Path, ids: Tensor, lengths: list[int]) -> None:
    """Turn a float32 model's linear layers into int8 ones; `ids` is the sample (packed) for the first time."""
    if weights_file.is_file():
        tensors = load_file(weights_file)
    else:
        tensors = quantised(bert, ids, lengths)
        try:
            with atomic_file(weights_file) as temporary:
                save_file(tensors, temporary)
        except OSError as error:
            _log.warning("the int8 weights could not be kept: %s", error)
    for key, layer, name in _linears(bert):
        fields = [field.name for field in dataclasses.fields(Int8Weights)]
        weights = Int8Weights(**{field: tensors[f"{key}.{field}"] for field in fields})
        setattr(layer, name, Int8AfterGelu(weights) if name == "down" else Int8Linear(weights))


@torch.inference_mode()
def quantised(bert: PackedBert, ids: Tensor, lengths: list[int]) -> dict[str, Tensor]:
    """Int8Weights of every linear layer, as named tensors. The model is left as it was."""
    recorders = {key: _Recorder(getattr(layer, name)) for key, layer, name in _linears(bert)}
    for key, layer, name in _linears(bert):
        setattr(layer, name, recorders[key])
    bert(ids, lengths)
    tensors: dict[str, Tensor] = {}
    for key, layer, name in _linears(bert):
        recorder = recorders[key]
        setattr(layer, name, recorder.linear)
        weights = _quantised_linear(recorder.linear, recorder.inputs, _SMOOTHING.get(name))
        tensors |= {f"{key}.{field.name}": getattr(weights, field.name) for field in dataclasses.fields(weights)}
    return tensors


class _Recorder:
    """A float layer that keeps its inputs."""

    def __init__(self, linear: FloatLinear) -> None:
        self.linear = linear
        self.inputs = torch.empty(0)

    def __call__(self, x: Tensor) -> Tensor:
        self.inputs = x.clone()
        return self.linear(x)


def _linears(bert: PackedBert) -> Iterator[tuple[str, BertLayer, str]]:
    for number, layer in enumerate(bert.layers):
        for name in ("qkv", "attention_out", "up", "down"):
            yield f"{number}.{name}", layer, name


def _quantised_linear(linear: FloatLinear, inputs: Tensor, smoothing: float | None) -> Int8Weights:
    weight = linear.weight
    shrink = torch.ones(weight.shape[1])
    if smoothing is not None:
        ranges = inputs.abs().amax(0).clamp(min=1e-5)
        shrink = weight.abs().amax(0).clamp(min=1e-5) ** (1 - smoothing) / ranges**smoothing
    weight, inputs = weight / shrink, inputs * shrink
    scales = weight.abs().amax(1).clamp(min=1e-12) / 127
    levels = _gptq(weight / scales[:, None], inputs.T @ inputs)
    return Int8Weights(levels, scales, shrink, linear.bias.clone())


def _gptq(weight: Tensor, hessian: Tensor) -> Tensor:
    """Whole numbers in -127..127 for `weight` (out, in) that keep its products with the sample's inputs."""
    columns = weight.shape[1]
    damped = hessian + torch.eye(columns) * (_DAMPING * hessian.diagonal().mean() + 1e-6)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor = torch.linalg.cholesky(inverse, upper=True)
    weight = weight.clone()
    levels = torch.empty_like(weight)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = torch.empty(weight.shape[0], stop - start)
        for column in range(start, stop):
            levels[:, column] = weight[:, column].round().clamp(-127, 127)
            error = (weight[:, column] - levels[:, column]) / factor[column, column]
            weight[:, column:stop] -= error[:, None] * factor[column, column:stop]
            errors[:, column - start] = error
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return levels.to(torch.int8)
