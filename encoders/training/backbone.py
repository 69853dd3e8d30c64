"""The model that is trained: a transformer with an adapter, over texts laid end to end."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from hiperrag.encoders.padded import padded_forward
from hiperrag.encoders.training.fused import FusedLora, can_be_fused
from hiperrag.encoders.training.settings import TrainSettings
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from peft import PeftConfig


class Backbone(Protocol):
    """Last hidden states (total tokens, hidden) of texts laid end to end in `ids` (total tokens,)."""

    def __call__(self, ids: Tensor, lengths: Sequence[int]) -> Tensor: ...


def load_model(folder: Path, settings: TrainSettings, device: torch.device) -> nn.Module:
    """The folder's transformer, wrapped by peft as `settings.method` says; only what is trained requires gradients."""
    from transformers import AutoModel

    options: dict[str, Any] = {"dtype": torch.float32}
    if settings.method == "qlora":
        options = {"quantization_config": _four_bits(device), "device_map": {"": device}}
    model = AutoModel.from_pretrained(folder, **options)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = settings.dropout
    if settings.method == "full":
        # A pooler that nothing reads would be trained on nothing and saved.
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        _freeze_embeddings(model, settings.freeze_layers)
    else:
        model = _adapted(model, settings)
    _freeze_layers(model, settings.freeze_layers)
    placed: nn.Module = model if settings.method == "qlora" else model.to(device)
    return placed


def backbone(model: nn.Module) -> Backbone:
    """How to run the model: without padding where it is a BERT, else through its own forward pass."""
    inner: Any = inner_model(model)
    if inner.config.model_type == "bert" and inner.config.hidden_act == "gelu":
        return PackedTraining(inner)
    return PaddedTraining(inner)


def inner_model(model: nn.Module) -> nn.Module:
    """The transformer within peft's wrapper."""
    get: Any = getattr(model, "get_base_model", None)
    inner: nn.Module = get() if get else model
    return inner


def lowest_trained(model: nn.Module) -> int:
    """The lowest transformer layer with anything to train; their number where there is none."""
    layers = transformer_layers(model)
    trained = [number for number, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters())]
    return min(trained, default=len(layers))


def transformer_layers(model: nn.Module) -> nn.ModuleList:
    """The stack of layers: the longest module list in the model."""
    lists = [module for module in inner_model(model).modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise UserError(f"a {type(model).__name__} has no stack of layers that could be trained")
    return max(lists, key=len)


class PackedTraining:
    """A transformers BERT without padding: linear layers and norms run over all tokens at once.

    On CPU, attention runs over each group of equally long texts; elsewhere over the batch padded for it alone.
    The model's own modules are called, so whatever peft put in their place is, too.
    """

    def __init__(self, bert: Any) -> None:
        self._bert = bert
        self._heads = bert.config.num_attention_heads
        self._frozen = lowest_trained(bert)
        embeddings = bert.embeddings
        self._fused: dict[tuple[Any, ...], FusedLora | None] = {}
        self._embeddings_frozen = not any(p.requires_grad for p in embeddings.parameters())

    def __call__(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        embeddings = self._bert.embeddings
        positions = torch.cat([torch.arange(length) for length in lengths]).to(ids.device)
        attention = _GroupedAttention(lengths) if ids.device.type == "cpu" else _PaddedAttention(lengths, ids.device)
        n_frozen = self._frozen if self._embeddings_frozen else 0
        with torch.no_grad() if self._embeddings_frozen else contextlib.nullcontext():
            x: Tensor = embeddings.word_embeddings(ids) + embeddings.token_type_embeddings.weight[0]
            x = embeddings.dropout(embeddings.LayerNorm(x + embeddings.position_embeddings(positions)))
        for number, layer in enumerate(self._bert.encoder.layer):
            with torch.no_grad() if number < n_frozen else contextlib.nullcontext():
                x = self._layer(layer, x, attention)
        return x

    def _layer(self, layer: Any, x: Tensor, attention: _GroupedAttention | _PaddedAttention) -> Tensor:
        own = layer.attention.self
        heads = (-1, self._heads, x.shape[-1] // self._heads)
        q, k, v = (part.reshape(heads) for part in self._linear(x, own.query, own.key, own.value))
        context = attention(q, k, v, own.dropout.p if own.training else 0.0).flatten(1)
        out = layer.attention.output
        x = out.LayerNorm(out.dropout(self._linear(context, out.dense)[0]) + x)
        up = functional.gelu(self._linear(x, layer.intermediate.dense)[0])
        down = layer.output
        result: Tensor = down.LayerNorm(down.dropout(self._linear(up, down.dense)[0]) + x)
        return result

    def _linear(self, x: Tensor, *layers: Any) -> Sequence[Tensor]:
        """What linear layers give for one input, with what LoRA adds to them in the same operation if it can be."""
        if torch.is_autocast_enabled(x.device.type):
            return [layer(x) for layer in layers]
        if layers not in self._fused:
            fusible = all(can_be_fused(layer) for layer in layers)
            self._fused[layers] = FusedLora(layers) if fusible else None
        fused = self._fused[layers]
        if fused is None:
            return [layer(x) for layer in layers]
        y = fused(x)
        return [y] if len(layers) == 1 else y.chunk(len(layers), 1)


class PaddedTraining:
    """Any transformers model: texts are padded on the right for it, and its states laid end to end again."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        return padded_forward(self._model, ids, lengths)


class _GroupedAttention:
    """Attention of queries, keys and values (tokens, heads, width) within each text; equal lengths lie side by side."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._groups = [(length, len(list(group))) for length, group in itertools.groupby(lengths)]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        sizes = [length * count for length, count in self._groups]
        pieces = []
        parts = [torch.split(part, sizes) for part in (q, k, v)]
        for (length, count), *group in zip(self._groups, *parts, strict=True):
            one, two, three = (part.view(count, length, *part.shape[1:]).transpose(1, 2) for part in group)
            out = functional.scaled_dot_product_attention(one, two, three, dropout_p=dropout)
            pieces.append(out.transpose(1, 2).flatten(0, 1))
        return torch.cat(pieces)


class _PaddedAttention:
    """The same with one call: texts are padded for the attention alone."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
        self._mask = mask.to(device)
        self._rows = self._mask.flatten().nonzero()[:, 0]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        q, k, v = self._pad(q), self._pad(k), self._pad(v)
        mask = self._mask[:, None, None, :]
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return out.transpose(1, 2).flatten(0, 1)[self._rows]

    def _pad(self, rows: Tensor) -> Tensor:
        padded = rows.new_zeros(self._mask.numel(), *rows.shape[1:]).index_copy(0, self._rows, rows)
        return padded.view(*self._mask.shape, *rows.shape[1:]).transpose(1, 2)


def _adapted(model: Any, settings: TrainSettings) -> nn.Module:
    from peft import get_peft_model, prepare_model_for_kbit_training

    if settings.method == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    torch.manual_seed(settings.seed)  # LoRA's first matrices are random
    try:
        with warnings.catch_warnings():  # peft asks transformers in a way that is to go away
            warnings.simplefilter("ignore", FutureWarning)
            wrapped: nn.Module = get_peft_model(model, _peft_config(model, settings))
    except ValueError as error:
        raise UserError(f"--method {settings.method}: {str(error).splitlines()[0]}") from error
    return wrapped


def _peft_config(model: Any, settings: TrainSettings) -> PeftConfig:
    from peft import IA3Config, LoraConfig

    linear = _linear_names(model)
    if settings.method == "ia3":
        keys = {"key", "value", "k_proj", "v_proj", "Wqkv"}
        down = {name for name in linear if name in {"output.dense", "down_proj", "mlp.Wo"}}
        targets = list(settings.targets) or sorted({n for n in linear if n in keys} | down)
        forward = [name for name in targets if name in down]
        return IA3Config(target_modules=targets, feedforward_modules=forward)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets) or sorted(linear),
    )


def _linear_names(model: nn.Module) -> set[str]:
    """Suffixes of the linear layers' names within a transformer layer that tell them apart."""
    names: set[str] = set()
    for name, module in transformer_layers(model)[0].named_modules():
        if isinstance(module, nn.Linear):
            last = name.rpartition(".")[2]
            names.add(".".join(name.split(".")[-2:]) if last in {"dense", "Wo", "Wi"} else last)
    return names


def _freeze_layers(model: nn.Module, count: int) -> None:
    layers = transformer_layers(model)
    if count > len(layers):
        raise UserError(f"--freeze-layers {count}: the model has {len(layers)} layers")
    for layer in layers[:count]:
        layer.requires_grad_(False)


def _freeze_embeddings(model: Any, frozen_layers: int) -> None:
    if frozen_layers:
        model.get_input_embeddings().requires_grad_(False)
        if hasattr(model, "embeddings"):
            model.embeddings.requires_grad_(False)


def _four_bits(device: torch.device) -> Any:
    if device.type != "cuda":
        raise UserError("--method qlora keeps weights in 4 bits, which needs a CUDA GPU: use --method lora on CPU")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError("--method qlora needs bitsandbytes: run `pip install bitsandbytes`") from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
