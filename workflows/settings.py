"""Settings of an indexing run; the resolved form is written beside its outputs as settings.yaml."""

from __future__ import annotations

from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from hiperrag.files import fingerprint
from hiperrag.parsing.chunking import ChunkSettings


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ParseSettings(_Settings):
    """How files become documents."""

    parser: Literal["auto", "fast"] = "auto"
    """`fast` reads the text layer; `auto` takes the best installed route, which is `fast`."""
    seconds_per_file: float = Field(default=120.0, gt=0)
    megabytes_per_file: int = Field(default=4096, ge=256)
    """Memory a parser process may use, in MiB."""


class EncodeSettings(_Settings):
    """How passages become vectors."""

    encoder: str = "minilm"
    """Name of a packaged model or path of a model folder."""


class StorageSettings(_Settings):
    """How vectors are stored."""

    bits: Literal[2, 4, 8] = 4
    """Bits a dimension of a token vector."""
    token_pooling: int = Field(default=1, ge=1, le=16)
    """Keep one of so many token vectors of a passage, each the mean of similar ones."""


class PartSettings(_Settings):
    """How much work a part and a shard hold."""

    files_per_part: int = Field(default=8, gt=0)
    rows_per_part: int = Field(default=256, gt=0)
    parts_per_shard: int = Field(default=16, gt=0)


class IndexSettings(_Settings):
    """Everything that shapes a collection."""

    parse: ParseSettings = ParseSettings()
    chunk: ChunkSettings = ChunkSettings()
    encode: EncodeSettings = EncodeSettings()
    storage: StorageSettings = StorageSettings()
    parts: PartSettings = PartSettings()

    def identity(self) -> str:
        """Hash of all settings."""
        return fingerprint(self.model_dump_json())

    def to_yaml(self) -> str:
        """The resolved settings as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
