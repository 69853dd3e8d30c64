"""Stand-ins for what `hiperrag chat` talks with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

from answering_helpers import WordEncoder, make_hits

from hiperrag.answering.generators.base import Message

TEXTS = ["Quokkas on the island feed on leaves.", "Male humpback whales sing for hours.", "Honeybees dance."]


class Retriever:
    """Finds the same passages for every question."""

    def __init__(self, root: object, ranks: None = None) -> None:
        self.collection = root
        self.manifest = SimpleNamespace(counts=SimpleNamespace(passages=len(TEXTS)))
        self.encoder = WordEncoder()
        self.asked: list[str] = []

    def search(self, queries: list[str], k: int, **how: object) -> list[list[object]]:
        self.asked += queries
        return [make_hits(TEXTS)[:k]]


class Storyteller:
    """Writes the passage that shares a word with the question; on "forever" it never ends."""

    spec = "storyteller"
    capable = True

    def stream(self, messages: list[Message], max_tokens: int) -> Iterator[str]:
        text = messages[-1]["content"]
        if "Rewrite that question" in text:
            question = text.rpartition("Next question: ")[2].splitlines()[0]
            yield question if "whales" in question else f"{question.rstrip('?')} of the whales?"
            return
        question = text.rpartition("Question: ")[2].lower()
        if "forever" in question:
            while True:
                time.sleep(0.01)
                yield "on and on "
        n = 2 if "whales" in question else 1
        yield f"{TEXTS[n - 1].rstrip('.')} [{n}]."
