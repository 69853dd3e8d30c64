"""Which passages found for a query may answer it after all, and so are no negatives."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache

_WORD = re.compile(r"\w+")
_SHINGLE = 5
"""Words in a row that are compared."""
_NEAR_DUPLICATE = 0.3
"""Share of the shorter text's shingles that the longer one has, from which on one repeats the other."""
_FEWEST_SHINGLES = 4
REASONS = ("positive", "own_document", "near_duplicate", "contains_query", "too_similar")


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that was found. keys: hashes of its text in every form; documents: what it is from."""

    text: str
    keys: frozenset[int]
    documents: frozenset[str]
    score: float


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What is known to answer a query: its positive, its score, and the keys and documents of all its positives."""

    query: str
    positive: str
    score: float
    keys: Collection[int]
    documents: Collection[str]


def negatives_among(
    candidates: Sequence[Candidate], known: Known, wanted: int, margin: float
) -> tuple[list[Candidate], Counter[str]]:
    """The first `wanted` candidates (best first) that do not answer the query, and why others were left out.

    A negative scores at most `margin` times the positive's score (TopK-PercPos of NV-Retriever, arXiv 2407.15831,
    section 3.3). Candidates after the last one taken are not looked at, and not counted.
    """
    taken: list[Candidate] = []
    left_out: Counter[str] = Counter()
    for candidate in candidates:
        reason = _reason(candidate, known, margin)
        if reason:
            left_out[reason] += 1
            continue
        taken.append(candidate)
        if len(taken) == wanted:
            break
    return taken, left_out


def _reason(candidate: Candidate, known: Known, margin: float) -> str:
    if not candidate.keys.isdisjoint(known.keys):
        return "positive"
    if not candidate.documents.isdisjoint(known.documents):
        return "own_document"
    if candidate.score > margin * known.score:
        return "too_similar"
    text, query = _shingles(candidate.text), _shingles(known.query)
    if _repeats(text, _shingles(known.positive)):
        return "near_duplicate"
    return "contains_query" if len(query) >= _FEWEST_SHINGLES and query <= text else ""


def _repeats(a: frozenset[str], b: frozenset[str]) -> bool:
    shorter = min(len(a), len(b))
    return shorter >= _FEWEST_SHINGLES and len(a & b) >= _NEAR_DUPLICATE * shorter


@lru_cache(maxsize=4096)
def _shingles(text: str) -> frozenset[str]:
    words = _WORD.findall(text.lower())
    return frozenset(" ".join(words[i : i + _SHINGLE]) for i in range(len(words) - _SHINGLE + 1))
