"""Settings of an indexing run; the resolved form is written beside its outputs as settings.yaml."""

from __future__ import annotations

from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from hiperrag.errors import UserError
from hiperrag.files import fingerprint
from hiperrag.models import DEFAULT_ENCODER
from hiperrag.parsing.batch import decides_later
from hiperrag.parsing.chunking import ChunkSettings
from hiperrag.parsing.options import EngineName, ParseOptions, ParserName
from hiperrag.parsing.router import Budget
from hiperrag.parsing.sandbox import Limits

_GRACE = 15.0
"""Seconds by which an engine's own limit on a page comes before the end of its process."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ParseSettings(_Settings):
    """How files become documents."""

    parser: ParserName = "auto"
    """`fast` reads the text layer; `oreo` asks the layout model about every page; `auto` about unsure ones."""
    ocr_engine: EngineName = "auto"
    ocr_language: str = "eng"
    ocr_budget: str = "all"
    """How much recognition a run may do; see `router.Budget.parse`."""
    seconds_per_file: float = Field(default=120.0, gt=0)
    seconds_per_page: float = Field(default=60.0, gt=0)
    """Time a page may take, recognition included, which does not count as the file's."""
    megabytes_per_file: int = Field(default=4096, ge=256)
    """Memory a parser process may use, in MiB."""

    @field_validator("ocr_budget")
    @classmethod
    def _is_a_budget(cls, text: str) -> str:
        try:
            Budget.parse(text)
        except UserError as error:
            raise ValueError(str(error)) from None
        return text

    @property
    def budget(self) -> Budget:
        """How much recognition a run may do."""
        return Budget.parse(self.ocr_budget)

    @property
    def decides_later(self) -> bool:
        """Whether pages are recognised only after all files have been read, because not all may be."""
        return decides_later(self.options(), self.budget)

    def limits(self) -> Limits:
        """What one file may cost."""
        return Limits(self.seconds_per_file, self.seconds_per_page + _GRACE, self.megabytes_per_file)

    def options(self) -> ParseOptions:
        """What the parser is asked to do with every file."""
        return ParseOptions(self.parser, self.ocr_engine, self.ocr_language, page_seconds=self.seconds_per_page)


class EncodeSettings(_Settings):
    """How passages become vectors."""

    encoder: str = DEFAULT_ENCODER
    """Name of a packaged model or path of a model folder."""


class StorageSettings(_Settings):
    """How vectors are stored."""

    bits: Literal[2, 4, 8] = 4
    """Bits a dimension of a token vector."""
    token_pooling: int = Field(default=1, ge=1, le=16)
    """Keep one of so many token vectors of a passage, each the mean of similar ones."""


class PartSettings(_Settings):
    """How much work a part and a shard hold: a part is cut when it reaches one of the limits."""

    target_seconds: float = Field(default=60.0, gt=0)
    """What the longest stage of a part is to take; less where there would not be parts enough for all workers."""
    files_per_part: int = Field(default=64, gt=0)
    rows_per_part: int = Field(default=4096, gt=0)
    parts_per_shard: int = Field(default=16, gt=0)

    @property
    def rows_per_input(self) -> int:
        """Rows of ready text that are never cut apart, unless one of them is poison."""
        return min(256, self.rows_per_part)


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
