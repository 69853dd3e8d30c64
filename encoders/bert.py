"""Forward pass of a BERT encoder over a packed batch: texts laid end to end, no padding anywhere.

The model is Devlin et al. 2018 (BERT), as `transformers.BertModel` computes it: linear layers and layer norms
run over all tokens of the batch at once, attention over each group of equally long texts.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from hiperrag.encoders.adapting import base_folder, merge_adapter
from hiperrag.encoders.config import read_config
from hiperrag.encoders.linear import FloatLinear, Linear
from hiperrag.errors import UserError

_ROW_MULTIPLE = 16
"""A batch gets up to 15 spare rows: oneDNN compiles a kernel for each shape it meets, so shapes must be few."""


@dataclasses.dataclass(frozen=True, slots=True)
class BertShape:
    """The part of a BERT configuration that the forward pass needs."""

    heads: int
    layers: int
    hidden: int
    epsilon: float
    positions: int


@dataclasses.dataclass(slots=True)
class BertLayer:
    """One transformer layer; query, key and value are one matrix."""

    qkv: Linear
    attention_out: Linear
    attention_norm: tuple[Tensor, Tensor]
    up: Linear
    down: Linear
    output_norm: tuple[Tensor, Tensor]


class PackedBert:
    """BERT for inference on CPU, in float32 or bfloat16. Linear layers can be replaced."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.shape = read_shape(folder)
        weights = read_weights(folder, self.shape.layers)
        # Every text is of segment 0, so its embedding can be added to the positions once.
        segment = weights["embeddings.token_type_embeddings.weight"][0]
        self._positions = (weights["embeddings.position_embeddings.weight"] + segment).to(dtype)
        self._words = weights["embeddings.word_embeddings.weight"].to(dtype)
        weights = {name: weight.to(dtype) for name, weight in weights.items()}
        self._embedding_norm = _pair(weights, "embeddings.LayerNorm")
        self.layers = [_layer(weights, f"encoder.layer.{n}.") for n in range(self.shape.layers)]

    @torch.inference_mode()
    def __call__(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """Last hidden states (total tokens, hidden) of texts laid end to end in `ids` (total tokens,)."""
        total = ids.shape[0]
        spare = -total % _ROW_MULTIPLE
        positions = torch.cat([self._positions[:length] for length in [*lengths, spare]])
        x = functional.embedding(functional.pad(ids, (0, spare)), self._words).add_(positions)
        x = self._norm(x, self._embedding_norm)
        for layer in self.layers:
            context = self._attention(layer.qkv(x), lengths)
            x = self._norm(layer.attention_out(context).add_(x), layer.attention_norm)
            x = self._norm(layer.down(torch.ops.aten.gelu_(layer.up(x))).add_(x), layer.output_norm)
        return x[:total]

    def _norm(self, x: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        return functional.layer_norm(x, (self.shape.hidden,), *weights, eps=self.shape.epsilon)

    def _attention(self, qkv: Tensor, lengths: Sequence[int]) -> Tensor:
        heads, width = self.shape.heads, self.shape.hidden // self.shape.heads
        context = qkv.new_empty(qkv.shape[0], self.shape.hidden)
        start = 0
        for length, group in itertools.groupby(lengths):
            count = len(list(group))
            stop = start + count * length
            # (texts, tokens, 3, heads, width) -> three of (texts, heads, tokens, width)
            q, k, v = qkv[start:stop].view(count, length, 3, heads, width).permute(2, 0, 3, 1, 4)
            out = functional.scaled_dot_product_attention(q, k, v)
            context[start:stop].view(count, length, heads, width).copy_(out.transpose(1, 2))
            start = stop
        context[start:] = 0
        return context


def read_shape(folder: Path) -> BertShape:
    """Shape from the folder's config.json; UserError if the model is not a plain BERT."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not a model folder: {error}") from error
    kind = config.get("model_type")
    plain = config.get("position_embedding_type", "absolute") == "absolute"
    if kind != "bert" or config.get("hidden_act") != "gelu" or not plain:
        raise UserError(f"{folder} holds a {kind} model; encoders are BERT (gelu), ModernBERT, Llama, Mistral, Qwen")
    return BertShape(
        heads=config["num_attention_heads"],
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        epsilon=config["layer_norm_eps"],
        positions=config["max_position_embeddings"],
    )


def read_weights(folder: Path, layers: int) -> dict[str, Tensor]:
    """The encoder's weights in float32, whatever head the model was saved under, with the folder's adapter merged."""
    config = read_config(folder)
    base = base_folder(folder, config)
    path = base / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{base} has no model.safetensors: save the model with `save_pretrained`")
    weights = {_plain_name(name): weight for name, weight in load_file(path).items()}
    if f"encoder.layer.{layers - 1}.output.dense.weight" not in weights:
        raise UserError(f"{path} does not hold the {layers} BERT layers that config.json announces")
    if base != folder:
        weights = merge_adapter(weights, folder)
    return {name: weight.float() for name, weight in weights.items() if name.startswith(("embeddings.", "encoder."))}


def _plain_name(name: str) -> str:
    """A weight's name in `BertModel`; some releases of transformers save layer norms under TensorFlow's names."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _pair(weights: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _layer(weights: dict[str, Tensor], prefix: str) -> BertLayer:
    parts = [_pair(weights, f"{prefix}attention.self.{part}") for part in ("query", "key", "value")]
    return BertLayer(
        qkv=FloatLinear(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])),
        attention_out=FloatLinear(*_pair(weights, f"{prefix}attention.output.dense")),
        attention_norm=_pair(weights, f"{prefix}attention.output.LayerNorm"),
        up=FloatLinear(*_pair(weights, f"{prefix}intermediate.dense")),
        down=FloatLinear(*_pair(weights, f"{prefix}output.dense")),
        output_norm=_pair(weights, f"{prefix}output.LayerNorm"),
    )
