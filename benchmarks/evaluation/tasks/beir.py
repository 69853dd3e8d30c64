"""Retrieval in BEIR's form (Thakur et al. 2021): queries.jsonl[.gz] and qrels/SPLIT.tsv beside the corpus.

The corpus is indexed beforehand: `hiperrag index DATA/corpus.jsonl --to COLLECTION`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hiperrag.benchmarks.evaluation.items import find_file, read_rows
from hiperrag.errors import UserError

NAME = "beir"
SPLIT = "test"
FILES = "a data set in BEIR's form there: queries.jsonl and qrels/SPLIT.tsv (.gz too)"


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """One query with its judged documents (higher is more relevant)."""

    query_id: str
    text: str
    judged: dict[str, int]


def load(data: Path | None, split: str) -> list[Query]:
    """The judged queries of a split, in the file's order."""
    if data is None or not data.is_dir():
        where = "no --data given" if data is None else f"--data {data}: no such folder"
        raise UserError(f"{where}; give a folder that holds {FILES.replace(' there', '')}")
    qrels_file = find_file(data / "qrels", (split,), (".tsv", ".tsv.gz"), FILES)
    judged: dict[str, dict[str, int]] = {}
    for row in read_rows(qrels_file):
        try:
            judged.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
        except (KeyError, ValueError):
            raise UserError(f"{qrels_file}: needs columns query-id, corpus-id and score (an integer)") from None
    queries_file = find_file(data, ("queries",), (".jsonl", ".jsonl.gz"), FILES)
    rows = [(str(row.get("_id")), str(row.get("text") or "")) for row in read_rows(queries_file)]
    return [Query(name, text, judged[name]) for name, text in rows if name in judged and text.strip()]
