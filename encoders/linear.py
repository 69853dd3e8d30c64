"""Linear layers for inference on CPU: in float32 or bfloat16, and in int8 with per-token scales."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

_SMOOTHING = 0.6
"""Share of a channel's range that moves from activations into weights (SmoothQuant's alpha, by measurement)."""


class Linear(Protocol):
    """y = x W^T + b for x of shape (tokens, in)."""

    def __call__(self, x: Tensor) -> Tensor: ...


class FloatLinear:
    """A linear layer in the weights' own type."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class RangeRecorder:
    """A float layer that also keeps the largest magnitude seen in each input channel."""

    def __init__(self, linear: FloatLinear) -> None:
        self.linear = linear
        self.largest = torch.zeros(linear.weight.shape[1])

    def __call__(self, x: Tensor) -> Tensor:
        self.largest = torch.maximum(self.largest, x.abs().amax(0))
        return self.linear(x)


class Int8Linear:
    """Weights in int8 with a scale per output, activations in uint8 with a scale per token.

    A token's own range sets its scale, so its result does not depend on the rest of the batch. The channels'
    ranges are first evened out between activations and weights (Xiao et al. 2023, SmoothQuant, eq. 4).
    """

    def __init__(self, linear: FloatLinear, largest: Tensor) -> None:
        weight = linear.weight
        largest, columns = largest.clamp(min=1e-5), weight.abs().amax(0).clamp(min=1e-5)
        smoothing = (largest**_SMOOTHING / columns ** (1 - _SMOOTHING)).clamp(min=1e-4)
        self._shrink = 1 / smoothing
        self._scales, self._packed = _quantised(weight * smoothing)
        self._zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
        self._bias = linear.bias

    def __call__(self, x: Tensor) -> Tensor:
        x = x * self._shrink
        step = x.abs().amax(1, keepdim=True).div_(127).clamp_(min=1e-12)
        levels = x.mul_(step.reciprocal()).round_().to(torch.int8)
        return _matmul(_shifted(levels), 128, self._packed, self._scales, self._zeros).mul_(step).add_(self._bias)


class Int8AfterGelu:
    """As Int8Linear, for inputs that come out of GELU: nothing lies below its minimum, so no level is wasted there."""

    _MINIMUM = 0.17
    """GELU's smallest value is -0.16997."""

    def __init__(self, linear: FloatLinear) -> None:
        self._scales, self._packed = _quantised(linear.weight)
        self._zeros = torch.zeros(linear.weight.shape[0], dtype=torch.int64)
        self._bias = linear.bias - self._MINIMUM * linear.weight.sum(1)

    def __call__(self, x: Tensor) -> Tensor:
        step = x.amax(1, keepdim=True).add_(self._MINIMUM).div_(255)
        levels = torch.add(x, self._MINIMUM).mul_(step.reciprocal()).sub_(128).round_().to(torch.int8)
        return _matmul(_shifted(levels), 0, self._packed, self._scales, self._zeros).mul_(step).add_(self._bias)


def _quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Scales (out,) and int8 weights in oneDNN's layout."""
    scales = weight.abs().amax(1).clamp(min=1e-12) / 127
    levels = (weight / scales[:, None]).round().to(torch.int8)
    return scales, torch.ops.onednn.qlinear_prepack(levels, None)


def _shifted(levels: Tensor) -> Tensor:
    """int8 -128..127 as uint8 0..255: flipping the top bit adds 128."""
    return levels.view(torch.uint8).bitwise_xor_(128)


def _matmul(levels: Tensor, zero: int, packed: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """(levels - zero) times the scaled weights, in float32; integer dot products inside."""
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        levels, 1.0, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return result
