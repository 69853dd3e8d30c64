"""Which passages of a collection questions are asked about: body text, spread evenly over its documents."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from hiperrag.answering.retrieval import Retriever
from hiperrag.encoders.training.corpus import NOT_BODY
from hiperrag.records import Passage

BODY_KINDS = frozenset({"abstract", "list", "paragraph"})
FEWEST_TOKENS = 40
"""Of a passage with its title; a shorter one answers little."""
_COLUMNS = ("document", "kind", "title", "section", "n_tokens")
Place = tuple[int, int]
"""Shard and row."""


def sample(retriever: Retriever, limit: int | None, seed: int) -> list[Passage]:
    """At most `limit` passages of body text: one of each document, then a second one of each, and so on.

    The order of documents, and that of passages within them, depend on `seed` and on names alone; so a smaller
    sample is the beginning of a larger one.
    """
    documents: dict[str, list[Place]] = {}
    for place, document in _body(retriever):
        documents.setdefault(document, []).append(place)
    names = sorted(documents)
    _draw(seed).shuffle(names)
    for name in names:
        _draw(seed, name).shuffle(documents[name])
    deepest = max(map(len, documents.values()), default=0)
    places = (documents[name][turn] for turn in range(deepest) for name in names if turn < len(documents[name]))
    chosen = [place for place, _ in zip(places, range(limit), strict=False)] if limit is not None else list(places)
    return [retriever.searcher.shards[shard].passages[row] for shard, row in chosen]


def _body(retriever: Retriever) -> Iterator[tuple[Place, str]]:
    """Passages of body text that are not deleted, and their documents."""
    for number, shard in enumerate(retriever.searcher.shards):
        columns = [shard.passages.columns(_COLUMNS)[name].to_pylist() for name in _COLUMNS]
        for row, (document, kind, title, section, n_tokens) in enumerate(zip(*columns, strict=True)):
            if shard.deleted is not None and shard.deleted[row]:
                continue
            path = section or " > ".join(title.split(" > ")[1:])  # ready text may have its headings in the title
            if kind in BODY_KINDS and n_tokens >= FEWEST_TOKENS and not NOT_BODY.search(path):
                yield (number, row), document


def _draw(seed: int, name: str = "") -> random.Random:
    return random.Random(hashlib.blake2b(f"{seed} {name}".encode()).digest())
