"""Where negatives come from: a collection of the user's, or one made of the pairs' own positives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hiperrag.answering.hits import Hit
from hiperrag.answering.retrieval import Retriever
from hiperrag.encoders.training.pairs import Pair, document_of, text_hash
from hiperrag.files import atomic_file
from hiperrag.training_data.false_negatives import Candidate
from hiperrag.workflows.run import index_sources
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.sites import load_site


class Pool(Protocol):
    """Passages to find negatives among."""

    retriever: Retriever

    def find(self, queries: Sequence[str], depth: int) -> list[list[Candidate]]:
        """The `depth` best of each query by two-stage search, best first."""
        ...


class CollectionPool:
    """The passages of a collection, as the encoder sees them: title, then text."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever

    def find(self, queries: Sequence[str], depth: int) -> list[list[Candidate]]:
        return [[_candidate(hit) for hit in hits] for hits in self.retriever.search(queries, depth)]


def _candidate(hit: Hit) -> Candidate:
    text = hit.passage.encoder_text()
    keys = frozenset([text_hash(text), text_hash(hit.passage.text)])
    return Candidate(text, keys, frozenset([hit.passage.document]), hit.score)


class PositivesPool:
    """The pairs' positives, each found by its best passage and taken whole.

    They are indexed into `folder` first, by `encoder` (None: the default), or found there from an interrupted run.
    """

    def __init__(self, pairs: Sequence[Pair], folder: Path, encoder: str | None, quiet: bool) -> None:
        self._positives = {str(text_hash(pair.positive)): pair.positive for pair in pairs}
        documents: dict[str, set[str]] = {}
        for pair in pairs:
            documents.setdefault(str(text_hash(pair.positive)), set()).add(document_of(pair))
        self._documents = {key: frozenset(names) for key, names in documents.items()}
        source = source_of(folder)
        with atomic_file(source) as temporary, temporary.open("w", encoding="utf-8") as lines:
            for key, text in self._positives.items():
                lines.write(json.dumps({"_id": key, "title": "", "text": " ".join(text.split())}) + "\n")

        def override(settings: IndexSettings) -> IndexSettings:
            chosen = settings.encode.model_copy(update={"encoder": encoder} if encoder else {})
            return settings.model_copy(update={"encode": chosen})

        index_sources([str(source)], folder, load_site("local"), override, quiet)
        self.retriever = Retriever(folder)

    def find(self, queries: Sequence[str], depth: int) -> list[list[Candidate]]:
        found = self.retriever.search(queries, depth, per_document=True)
        return [[self._candidate(hit) for hit in hits] for hits in found]

    def _candidate(self, hit: Hit) -> Candidate:
        key = hit.passage.document
        return Candidate(self._positives[key], frozenset([int(key)]), self._documents[key], hit.score)


def source_of(folder: Path) -> Path:
    """The file that a collection of positives is made of."""
    return folder.with_name(f"{folder.name}.jsonl")


def own_scores(retriever: Retriever, queries: Sequence[str], passages: Sequence[str]) -> npt.NDArray[np.float64]:
    """MaxSim of each query with the passage beside it, from uncompressed vectors: (n,)."""
    if not queries:
        return np.empty(0)
    asked = retriever.encoder.encode_queries(queries).token_arrays()
    given = retriever.encoder.encode_passages(passages).token_arrays()
    return np.array([float((a @ b.T).max(1).sum()) if len(b) else 0.0 for a, b in zip(asked, given, strict=True)])
