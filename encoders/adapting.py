"""Adapters: small trained changes to a base model, merged into its weights when an encoder is loaded.

An adapter's folder holds peft's files (`adapter_model.safetensors`, `adapter_config.json`) beside the encoder's
settings, the token projection, and copies of the base model's small files. It does not hold the base model's weights,
but names the model and pins their hash, so the folder's own hash tells any two encoders apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiperrag.encoders.config import EncoderConfig
from hiperrag.errors import UserError
from hiperrag.models import model_path, packaged, weights_hash

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "adapter_model.safetensors"
SETTINGS_FILE = "adapter_config.json"
_PREFIX = "base_model.model."


def base_folder(folder: Path, config: EncoderConfig) -> Path:
    """The folder that holds the weights: `folder` itself, or that of the adapter's base model.

    A base that is a path is looked for from the adapter's folder. UserError where it is not there or is not the model
    that the adapter was trained on.
    """
    if config.base is None:
        return folder
    if config.base in {model.name for model in packaged()}:
        base = model_path(config.base)
    else:
        base = (folder / Path(config.base).expanduser()).resolve()
        if not (base / "config.json").is_file():
            raise UserError(f"{folder} adapts the model in {base}, which is not there")
    if config.base_hash is not None and weights_hash(base) != config.base_hash:
        raise UserError(f"{folder} was trained on another version of {config.base} than the one in {base}")
    return base


def merge_adapter(weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """`weights` (names as in the base model's state) with the folder's LoRA or IA3 adapter worked in, in float32.

    LoRA (Hu et al. 2022): W + scale B A. IA3 (Liu et al. 2022): W's rows scaled by the learned vector, or its columns
    in feed-forward layers. UserError where the adapter does not fit the weights.
    """
    from safetensors.torch import load_file

    settings = _settings(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise UserError(f"{path} is not there: an adapter's weights belong beside its settings")
    tensors = {name.removeprefix(_PREFIX): tensor.float() for name, tensor in load_file(path).items()}
    merged = dict(weights)
    for name, tensor in tensors.items():
        module, kind, _ = name.rpartition(".ia3_l") if name.endswith(".ia3_l") else name.partition(".lora_")
        if not kind:
            raise UserError(f"{path} holds {name}, which is neither LoRA's nor IA3's")
        if f"{module}.weight" not in merged:
            raise UserError(f"{path} adapts {module}, which the base model does not have")
        weight = merged[f"{module}.weight"].float()
        if kind == ".ia3_l":
            merged[f"{module}.weight"] = weight * tensor
            if tensor.shape[1] == 1 and f"{module}.bias" in merged:
                merged[f"{module}.bias"] = merged[f"{module}.bias"].float() * tensor[:, 0]
        elif name.endswith(".lora_A.weight"):
            rank = len(tensor)
            scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
            merged[f"{module}.weight"] = weight + scale * (tensors[f"{module}.lora_B.weight"] @ tensor)
    return merged


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / SETTINGS_FILE} cannot be read: {error}") from error
    kind = settings.get("peft_type")
    if kind not in ("LORA", "IA3") or settings.get("use_dora"):
        raise UserError(f"{folder} holds an adapter of kind {kind}; LoRA and IA3 can be merged")
    return settings
