"""What a model folder says about how to encode with it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hiperrag.errors import UserError, first_mistake

CONFIG_FILE = "hiperrag_encoder.json"
CONFIG_FILE_OF_PEERS = "config_sentence_transformers.json"

_log = logging.getLogger(__name__)


class EncoderConfig(BaseModel):
    """Settings that change vectors; read from `hiperrag_encoder.json` in the model's folder if it is there.

    Token limits count special tokens and prefix. `projection` names a safetensors file in the folder with one
    matrix `weight` of shape (token dim, hidden dim), applied to token vectors before normalisation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    query_max_tokens: int = Field(default=256, ge=3)
    passage_max_tokens: int = Field(default=256, ge=3)
    query_prefix: str = ""
    passage_prefix: str = ""
    pooling: Literal["mean", "cls", "last"] = "mean"
    projection: str | None = None
    keep_special_tokens: bool = True
    """Whether the rows of [CLS] and [SEP] are token vectors."""
    base: str | None = None
    """Of an adapter: the model it changes, packaged or a folder (relative to the adapter's)."""
    base_hash: str | None = None
    """Hash of that model's weights, which have to be those the adapter was trained on."""


def read_config(folder: Path) -> EncoderConfig:
    """The folder's own encoder settings, else what its sentence-transformers files say, else the defaults."""
    own = folder / CONFIG_FILE
    if own.is_file():
        try:
            return EncoderConfig.model_validate_json(own.read_bytes())
        except ValidationError as error:
            raise UserError(f"{own}: {first_mistake(error)}") from error
    if (folder / CONFIG_FILE_OF_PEERS).is_file() and (late := _late_interaction(folder)):
        return late
    limit = _read_json(folder / "sentence_bert_config.json").get("max_seq_length") or 256
    limit = min(int(limit), int(_read_json(folder / "config.json").get("max_position_embeddings", limit)))
    return EncoderConfig(query_max_tokens=limit, passage_max_tokens=limit, pooling=_pooling(folder))


def _late_interaction(folder: Path) -> EncoderConfig | None:
    """What a folder in PyLate's format says: its projection, markers and lengths; None for other folders."""
    peers = _read_json(folder / CONFIG_FILE_OF_PEERS)
    modules = _read_json(folder / "modules.json")
    dense = [module["path"] for module in modules if str(module.get("type", "")).startswith("pylate.")]
    if not dense or "query_length" not in peers:
        return None
    settings = _read_json(folder / dense[0] / "config.json")
    if len(dense) > 1 or settings.get("bias") or settings.get("use_residual"):
        raise UserError(f"{folder}: of PyLate's models those with one projection without bias or residual can be used")
    if peers.get("do_query_expansion"):
        _log.warning("%s was trained with expanded queries; they are encoded without expansion", folder)
    prompts = peers.get("prompts") or {}
    return EncoderConfig(
        query_max_tokens=peers["query_length"],
        passage_max_tokens=peers["document_length"],
        query_prefix=(peers.get("query_prefix") or "") + prompts.get("query", ""),
        passage_prefix=(peers.get("document_prefix") or "") + prompts.get("document", ""),
        pooling=_pooling(folder),
        projection=f"{dense[0]}/model.safetensors",
    )


def _pooling(folder: Path) -> Literal["mean", "cls", "last"]:
    pooling = _read_json(folder / "1_Pooling" / "config.json")
    for mode, key in (("cls", "pooling_mode_cls_token"), ("last", "pooling_mode_lasttoken")):
        if pooling.get(key) or pooling.get("pooling_mode") in (mode, key.removeprefix("pooling_mode_")):
            return "cls" if mode == "cls" else "last"
    return "mean"


def _read_json(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    return content
