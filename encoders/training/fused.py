"""LoRA layers of one input as one operation, with a backward pass of its own.

peft runs each adapted layer as three products, a multiplication and an addition over all tokens, and autograd adds up
the input's gradient from each. Query, key and value read the same input, so here their weights are one matrix, and so
are their A; what LoRA adds is worked into the products (`addmm`) instead of passing over all tokens again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True, slots=True)
class _Frozen:
    """Of n layers with one input, one below the other: weights (sum of out, in) and biases, LoRA's scales, widths."""

    weight: Tensor
    bias: Tensor | None
    scales: tuple[float, ...]
    widths: tuple[int, ...]


class FusedLora:
    """y = x W^T + b + scale (x A^T) B^T for layers that read the same input, side by side (tokens, sum of out)."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        parts: list[Any] = list(layers)
        self._adapters = [_only(layer.lora_A) for layer in parts], [_only(layer.lora_B) for layer in parts]
        biases = [layer.base_layer.bias for layer in parts]
        self._frozen = _Frozen(
            torch.cat([layer.base_layer.weight for layer in parts]).detach(),
            None if biases[0] is None else torch.cat(biases).detach(),
            tuple(_only(layer.scaling) for layer in parts),
            tuple(layer.base_layer.out_features for layer in parts),
        )

    def __call__(self, x: Tensor) -> Tensor:
        down, up = self._adapters
        weights = [layer.weight for layer in (*down, *up)]
        result: Tensor = _Lora.apply(x, self._frozen, *weights)  # type: ignore[no-untyped-call]
        return result


def can_be_fused(layer: Any) -> bool:
    """Whether a layer is a plain linear one under one LoRA adapter without dropout, its base frozen and in float32."""
    adapters = getattr(layer, "lora_A", None)
    if adapters is None or len(adapters) != 1 or getattr(layer, "merged", False):
        return False
    base = layer.base_layer
    plain = type(base) is nn.Linear and not base.weight.requires_grad and base.weight.dtype == torch.float32
    dropout = _only(layer.lora_dropout)
    plain = plain and isinstance(dropout, nn.Identity) and not getattr(layer, "use_dora", {}).get("default")
    return plain and _only(layer.lora_A).bias is None and _only(layer.lora_B).bias is None


class _Lora(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: _Frozen, *adapters: Tensor) -> Tensor:
        count = len(frozen.widths)
        down, up = adapters[:count], adapters[count:]
        narrow = x @ torch.cat(down).T
        y = functional.linear(x, frozen.weight, frozen.bias)
        parts = torch.split(y, list(frozen.widths), 1), torch.split(narrow, [len(a) for a in down], 1)
        for wide, low, matrix, scale in zip(*parts, up, frozen.scales, strict=True):
            wide.addmm_(low, matrix.T, alpha=scale)
        ctx.frozen = frozen
        ctx.save_for_backward(x, narrow, *adapters)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, narrow, *adapters = ctx.saved_tensors
        frozen: _Frozen = ctx.frozen
        count = len(frozen.widths)
        down, up = adapters[:count], adapters[count:]
        ranks = [len(a) for a in down]
        narrow_gradient = torch.empty_like(narrow)
        wide = torch.split(gradient, list(frozen.widths), 1)
        low, low_gradient = torch.split(narrow, ranks, 1), torch.split(narrow_gradient, ranks, 1)
        of_up = [scale * (part.T @ inner) for part, inner, scale in zip(wide, low, frozen.scales, strict=True)]
        for part, matrix, scale, target in zip(wide, up, frozen.scales, low_gradient, strict=True):
            target.copy_(part @ (scale * matrix))
        of_down = torch.split(narrow_gradient.T @ x, ranks)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient @ frozen.weight).addmm_(narrow_gradient, torch.cat(down))
        return of_x, None, *of_down, *of_up


def _only(named: Any) -> Any:
    """The one value of a mapping."""
    (value,) = named.values()
    return value
