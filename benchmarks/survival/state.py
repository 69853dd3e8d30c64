"""Everything about a collection that has to be the same whatever happened on the way."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from hiperrag.answering.retrieval import Retriever
from hiperrag.collection import Collection
from hiperrag.index.search import Quality
from hiperrag.records import read_passages

QUESTIONS = ("Which alloy was tested?", "How many birds were tagged?", "grams of ore", "growth of lichen on rock")
WAYS: tuple[tuple[Quality, bool], ...] = (("exact", False), ("balanced", False), ("fast", True))
"""Qualities of search, and whether BM25 is added."""


@dataclasses.dataclass(frozen=True)
class State:
    """What is compared of two collections of the same inputs."""

    passages: list[dict[str, Any]]
    """All fields of all passages, in the order of the shards."""
    found: list[list[tuple[str, float]]]
    """(passage, score) of the ten best, for each way and question."""
    shards: list[tuple[str, dict[str, str]]]
    """Identity and checksums of the files of each; its folder's name also says how often it was built at once."""
    files: dict[str, int]
    """Path and bytes of every file, but for the logs of runs and the marks of commands at work."""

    def differences(self, other: State) -> list[str]:
        """The fields in which two differ; for files, which."""
        fields = ("passages", "found", "shards")
        names = [name for name in fields if getattr(self, name) != getattr(other, name)]
        apart = {name for name, _ in self.files.items() ^ other.files.items()} - {"manifest.json"}
        return [*names, *(f"file {name}" for name in sorted(apart)[:3])]

    def twice(self) -> list[str]:
        """Passages that are there more than once."""
        counts = Counter(passage["passage_id"] for passage in self.passages)
        return [name for name, number in counts.items() if number > 1]


def state_of(root: Path) -> State:
    """Read a collection, and search it."""
    collection = Collection(root)
    manifest = collection.manifest()
    retriever = Retriever(root, threads=1)
    answers = (retriever.search(QUESTIONS, 10, quality=quality, hybrid=hybrid) for quality, hybrid in WAYS)
    return State(
        passages=[
            dataclasses.asdict(passage)
            for part in manifest.parts
            if part.passages
            for passage in read_passages(collection.passages_path(part.passages))
        ],
        found=[[(hit.passage.passage_id, hit.score) for hit in hits] for lists in answers for hits in lists],
        shards=[(entry.identity, entry.sha256) for entry in manifest.shards],
        files=files_of(root, {entry.name: entry.identity for entry in manifest.shards}),
    )


def files_of(root: Path, shards: dict[str, str]) -> dict[str, int]:
    """Path and bytes of every file of a collection, but for the logs of runs and the marks of commands at work.

    Folders in `shards` appear by what they are mapped to.
    """
    found = {}
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.is_file() and parts[0] not in ("runs", "claims"):
            found["/".join(shards.get(part, part) for part in parts)] = path.stat().st_size
    return found
