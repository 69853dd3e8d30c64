"""Linear layers for inference on CPU: in float32 or bfloat16, and in int8 with a scale per token."""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

GELU_MINIMUM = 0.17
"""Minus the least value of GELU (-0.16997), rounded up."""


class Linear(Protocol):
    """y = x W^T + b for x of shape (tokens, in)."""

    def __call__(self, x: Tensor) -> Tensor: ...


class FloatLinear:
    """A linear layer in the weights' own type."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


@dataclasses.dataclass(slots=True)
class Int8Weights:
    """W = levels * scales[:, None] / shrink, as `hiperrag.encoders.quantizing` finds them."""

    levels: Tensor
    """(out, in) int8."""
    scales: Tensor
    """(out,) float32."""
    shrink: Tensor
    """(in,) float32: what inputs are multiplied by before they are rounded."""
    bias: Tensor
    """(out,) float32."""


class Int8Linear:
    """Inputs in uint8 with one scale per token, so that a token's result does not depend on its batch."""

    def __init__(self, weights: Int8Weights) -> None:
        self._matmul = _IntegerProduct(weights, zero_point=128)
        self._shrink = weights.shrink
        self._bias = weights.bias

    def __call__(self, x: Tensor) -> Tensor:
        x = x * self._shrink
        largest = torch.maximum(x.amax(1, keepdim=True), x.amin(1, keepdim=True).neg_())
        step = largest.clamp_(min=1e-10).div_(127)
        levels = x.mul_(step.reciprocal()).round_().to(torch.int8)
        y = self._matmul(levels)
        return torch.addcmul(self._bias, y, step, out=y)


class Int8AfterGelu:
    """As Int8Linear for inputs that come out of GELU: they have a least value, so all levels lie above it.

    Overwrites its input.
    """

    def __init__(self, weights: Int8Weights) -> None:
        self._matmul = _IntegerProduct(weights, zero_point=0)
        total = (weights.levels.float() * weights.scales[:, None]).sum(1)
        self._bias = weights.bias - GELU_MINIMUM * total

    def __call__(self, x: Tensor) -> Tensor:
        step = x.amax(1, keepdim=True).add_(GELU_MINIMUM).div_(255)
        inverse = step.reciprocal()
        # (x + minimum) / step - 128, in as few passes over the widest matrix as can be
        lowest = (inverse * GELU_MINIMUM).sub_(128)
        levels = torch.addcmul(lowest, x, inverse, out=x).round_().to(torch.int8)
        y = self._matmul(levels)
        return torch.addcmul(self._bias, y, step, out=y)


class _IntegerProduct:
    """levels x weights in integer arithmetic (oneDNN: VNNI or AMX where the processor has it)."""

    def __init__(self, weights: Int8Weights, zero_point: int) -> None:
        self._packed = torch.ops.onednn.qlinear_prepack(weights.levels, None)
        self._scales = weights.scales
        self._zero_points = torch.zeros(weights.levels.shape[0], dtype=torch.int64)
        self._zero_point = zero_point

    def __call__(self, levels: Tensor) -> Tensor:
        """(tokens, out) float32 for int8 `levels` (tokens, in), which are shifted to uint8 in place.

        The shift is by 128 (flipping the top bit): oneDNN's fast path takes unsigned inputs only, and torch
        converts floats to int8 much faster than to uint8.
        """
        unsigned = levels.view(torch.uint8).bitwise_xor_(128)
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            unsigned, 1.0, self._zero_point, self._packed, self._scales, self._zero_points,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return result


@functools.cache
def int8_is_exact() -> bool:
    """Whether this machine's integer products are right at the extremes.

    Without VNNI or its like, oneDNN adds pairs of products in 16 bits, which overflow silently.
    """
    inputs, outputs = 64, 32
    weights = Int8Weights(
        levels=torch.full((outputs, inputs), 127, dtype=torch.int8),
        scales=torch.ones(outputs),
        shrink=torch.ones(inputs),
        bias=torch.zeros(outputs),
    )
    try:
        product = _IntegerProduct(weights, zero_point=0)(torch.full((16, inputs), 127, dtype=torch.int8))
    except (AttributeError, NotImplementedError, RuntimeError):  # no such operator in this build of torch
        return False
    return bool((product == 255 * 127 * inputs).all())
