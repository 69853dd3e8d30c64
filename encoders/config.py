"""What a model folder says about how to encode with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hiperrag.errors import UserError, first_mistake

CONFIG_FILE = "hiperrag_encoder.json"


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
    pooling: Literal["mean", "cls"] = "mean"
    projection: str | None = None
    keep_special_tokens: bool = True
    """Whether the rows of [CLS] and [SEP] are token vectors."""


def read_config(folder: Path) -> EncoderConfig:
    """The folder's own encoder settings, else what its sentence-transformers files say, else the defaults."""
    own = folder / CONFIG_FILE
    if own.is_file():
        try:
            return EncoderConfig.model_validate_json(own.read_bytes())
        except ValidationError as error:
            raise UserError(f"{own}: {first_mistake(error)}") from error
    limit = _read_json(folder / "sentence_bert_config.json").get("max_seq_length") or 256
    limit = min(int(limit), int(_read_json(folder / "config.json").get("max_position_embeddings", limit)))
    pooling = _read_json(folder / "1_Pooling" / "config.json")
    by_cls = bool(pooling.get("pooling_mode_cls_token")) or pooling.get("pooling_mode") == "cls"
    return EncoderConfig(query_max_tokens=limit, passage_max_tokens=limit, pooling="cls" if by_cls else "mean")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}
