"""What is asked of a parser for one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

ParserName = Literal["auto", "fast", "oreo"]
EngineName = Literal["auto", "tesseract", "rapidocr", "none"]

OnPage = Callable[[int, int], bool | None]
"""Called before work on a page begins (0: on no page), with how many pages from it on are to be recognised together.
False says that no more may be recognised."""


@dataclasses.dataclass(frozen=True, slots=True)
class ParseOptions:
    """How to parse a file.

    `fast` reads the text layer and nothing else; `oreo` also shows every page to the layout model, `auto` those where
    that helps; both recognise the characters of pages without a good text layer.
    """

    parser: ParserName = "auto"
    engine: EngineName = "auto"
    """What recognises characters; `auto` is the best that is installed."""
    language: str = "eng"
    """Of pages without a text layer, as Tesseract names it; several joined by +."""
    recognise: tuple[int, ...] | None = None
    """The pages whose characters may be recognised, from 1, in this order; None for all that need it."""
    pending: bool = False
    """Pages that need recognition are left for later; a document without text is no error yet."""
    page_seconds: float = 60.0
    """Wall-clock time that recognising a page may take."""
    batch: int = 16
    """Pages recognised together at most, where that is faster."""
    skip: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Pages not to be touched, and why: they cost an earlier attempt its life."""

    def to_row(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dataclasses.asdict(self) | {"skip": {str(page): why for page, why in self.skip.items()}}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> ParseOptions:
        """The inverse of `to_row`."""
        recognise = row["recognise"]
        skip = {int(page): why for page, why in row["skip"].items()}
        return cls(**row | {"recognise": None if recognise is None else tuple(recognise), "skip": skip})
