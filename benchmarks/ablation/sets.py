"""What encoders are evaluated on: queries, rows of text to find, and which of them are right."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiperrag.benchmarks.retrieval import find_file, read_qrels, read_rows
from hiperrag.cli.search import read_queries
from hiperrag.encoders.training.pairs import Pair, document_of, read_pairs, text_hash
from hiperrag.errors import UserError
from hiperrag.files import fingerprint

HELD_OUT = "held-out"


@dataclasses.dataclass(frozen=True, slots=True)
class EvaluationSet:
    """queries: their texts by id. rows: {"_id", "title", "text"} of each document. judged: the right ones, by query.

    beside: documents that a query's ranking leaves out, as they are neither right nor wrong.
    """

    name: str
    queries: dict[str, str]
    rows: list[dict[str, Any]]
    judged: dict[str, dict[str, int]]
    beside: dict[str, set[str]]

    @property
    def identity(self) -> str:
        """Hash of all that it holds."""
        beside = {query: sorted(ids) for query, ids in self.beside.items()}
        return fingerprint(self.queries, self.rows, self.judged, beside)


def read_set(path: Path, split: str) -> EvaluationSet:
    """A BEIR folder's split, or a pairs file (see `hiperrag train`) as `set_of_pairs` takes it."""
    if path.is_file():
        return set_of_pairs(path.name.split(".")[0], read_pairs([path], held_out=0.0).training)
    judged = read_qrels(path / "qrels" / f"{split}.tsv")
    queries = {name: text for name, text in read_queries(find_file(path, "queries")) if name in judged}
    rows = [
        {name: row.get(name) or "" for name in ("_id", "title", "text")} for row in read_rows(find_file(path, "corpus"))
    ]
    return EvaluationSet(path.name, queries, rows, {name: judged[name] for name in queries}, {})


def set_of_pairs(name: str, pairs: Sequence[Pair]) -> EvaluationSet:
    """Each query against the positives of all pairs; the others of its own documents do not count as wrong."""
    queries: dict[str, str] = {}
    passages: dict[str, str] = {}
    judged: dict[str, dict[str, int]] = {}
    within: dict[str, set[str]] = {}
    sources: dict[str, set[str]] = {}
    for pair in pairs:
        query, passage, document = (
            f"{text_hash(text):016x}" for text in (pair.query, pair.positive, document_of(pair))
        )
        queries.setdefault(query, pair.query)
        passages.setdefault(passage, pair.positive)
        judged.setdefault(query, {})[passage] = 1
        within.setdefault(document, set()).add(passage)
        sources.setdefault(query, set()).add(document)
    if len(passages) < 2:
        raise UserError(f"evaluation set {name}: {len(passages)} passages; there must be others to tell the right from")
    beside = {query: set().union(*(within[one] for one in sources[query])) - set(judged[query]) for query in queries}
    rows = [{"_id": passage, "title": "", "text": text} for passage, text in passages.items()]
    return EvaluationSet(name, queries, rows, judged, {query: ids for query, ids in beside.items() if ids})


def sampled(data: EvaluationSet, max_queries: int | None, max_rows: int | None, seed: int) -> EvaluationSet:
    """A random part of the queries; all rows that are right for them, and random others up to `max_rows` in all."""
    draw = random.Random(seed)
    chosen = set(_some(draw, sorted(data.queries), max_queries))
    queries = {query: text for query, text in data.queries.items() if query in chosen}
    right = {row for query in queries for row, gain in data.judged[query].items() if gain > 0}
    others = sorted({row["_id"] for row in data.rows} - right)
    kept = right | set(_some(draw, others, None if max_rows is None else max(0, max_rows - len(right))))
    rows = [row for row in data.rows if row["_id"] in kept]
    return EvaluationSet(
        data.name,
        queries,
        rows,
        {query: data.judged[query] for query in queries},
        {query: ids & kept for query, ids in data.beside.items() if query in queries},
    )


def n_seen(data: EvaluationSet, training: Sequence[Pair]) -> dict[str, int]:
    """How many of the queries, and of the rows that are right for them, occur in the training pairs word for word."""
    queries = {text_hash(pair.query) for pair in training}
    passages = {text_hash(pair.positive) for pair in training}
    right = {row for judged in data.judged.values() for row in judged}
    texts = [f"{row['title']} {row['text']}" for row in data.rows if row["_id"] in right]
    return {
        "queries": sum(text_hash(text) in queries for text in data.queries.values()),
        "passages": sum(text_hash(text) in passages for text in texts),
    }


def _some(draw: random.Random, items: list[str], most: int | None) -> list[str]:
    return items if most is None or len(items) <= most else draw.sample(items, most)
