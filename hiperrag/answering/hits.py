"""What a search returns."""

from __future__ import annotations

import dataclasses
from typing import Any

from hiperrag.records import Passage


@dataclasses.dataclass(slots=True)
class Hit:
    """A retrieved passage; `score` is its MaxSim: the sum over query tokens of the best cosine, 0..n_query_tokens.

    With `hybrid` search BM25 is added in the same units.
    """

    rank: int
    score: float
    passage: Passage

    def to_json(self) -> dict[str, Any]:
        """The hit as `search --json` prints it."""
        return {
            "rank": self.rank,
            "score": self.score,
            "passage_id": self.passage.passage_id,
            "document": self.passage.document,
            "title": self.passage.title,
            "pages": self.passage.pages,
            "kind": self.passage.kind,
            "metadata": self.passage.metadata,
            "text": self.passage.text,
        }
