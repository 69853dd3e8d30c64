"""What an answer is, and what is said while it comes about."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from hiperrag.answering.generators.base import FinishReason
from hiperrag.answering.hits import Hit

Mode = Literal["quoted", "written"]
"""Sentences of the passages themselves, or the generator's own prose with every sentence checked."""


@dataclasses.dataclass(frozen=True, slots=True)
class Citation:
    """[n]: a sentence of passage n that supports the answer. `n` is the passage's number, its place in the hits."""

    n: int
    passage_id: str
    document: str
    title: str
    pages: list[int]
    text: str
    """The supporting sentence, verbatim, not the whole passage."""

    @classmethod
    def of(cls, n: int, hit: Hit, sentence: str) -> Citation:
        """The citation of a sentence of hit n (from 1)."""
        passage = hit.passage
        return cls(n, passage.passage_id, passage.document, passage.title, passage.pages, sentence)


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    """Raw text of the sentence in progress; a Sentence, or nothing, takes its place once it is checked."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Sentence:
    """A finished, checked sentence of the answer, with its [n] in the text."""

    text: str
    citations: list[Citation]


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer. `citations` has one entry for each supporting sentence, so an [n] may have several."""

    text: str
    citations: list[Citation]
    supported: bool
    mode: Mode
    generator: str
    timings_ms: dict[str, float]
    """select, first_token, total: milliseconds from the start; tokens: pieces of text generated."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What was left out or went wrong, for the reader."""
    finish: FinishReason = "stop"
    """"length" where the generator was stopped by the limit of tokens."""

    def to_json(self, question: str, hits: Sequence[Hit]) -> dict[str, Any]:
        """The object that `ask --json` prints."""
        return {
            "question": question,
            "answer": self.text,
            "supported": self.supported,
            "mode": self.mode,
            "citations": [dataclasses.asdict(citation) for citation in self.citations],
            "hits": [hit.to_json() for hit in hits],
            "generator": self.generator,
            "timings_ms": {name: round(value, 1) for name, value in self.timings_ms.items()},
            "notes": self.notes,
        }


AnswerEvent = Draft | Sentence | Answer
