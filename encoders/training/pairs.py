"""Pairs of a query and the passage that answers it: read from files, deduplicated, split by document, accounted for.

A pairs file is JSON lines (plain or .gz) or Parquet with the columns of `Pair`; `query` and `positive` are needed.
"""

from __future__ import annotations

import collections
import dataclasses
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hiperrag.encoders.training.corpus import is_corpus_row, pairs_of_row
from hiperrag.errors import UserError, first_mistake
from hiperrag.files import atomic_file, sha256_file

UNKNOWN = "unknown"
_SPACE = re.compile(r"\s+")


class Pair(BaseModel):
    """One training example.

    negatives: passages that do not answer the query. teacher_scores: another model's scores of the positive and then of
    each negative. document: what the pair is from; pairs of a document are never split between training and held-out
    ones, and are no negatives of each other. By default the positive's text stands for it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    query: str = Field(min_length=1)
    positive: str = Field(min_length=1)
    negatives: tuple[str, ...] = ()
    teacher_scores: tuple[float, ...] | None = None
    source: str = UNKNOWN
    licence: str = UNKNOWN
    document: str = ""


@dataclasses.dataclass(slots=True)
class PairData:
    """Pairs to train with, pairs held out, and the card that says where both come from."""

    training: list[Pair]
    held_out: list[Pair]
    card: dict[str, Any]


def read_pairs(files: Sequence[Path], held_out: float = 0.05, seed: int = 0) -> PairData:
    """Read pairs files and corpora; leave duplicates out; split by document.

    The split depends on `seed` and a document's name alone. UserError where a file cannot be read, a row is no pair, or
    too little is left to train with.
    """
    seen: set[bytes] = set()
    training: list[Pair] = []
    kept_out: list[Pair] = []
    counts: dict[str, collections.Counter[str]] = {}
    licences: dict[str, collections.Counter[str]] = {}
    documents: dict[str, set[bytes]] = {}
    for file in files:
        for pair in _pairs_of(file, seed):
            count = counts.setdefault(pair.source, collections.Counter())
            count["read"] += 1
            key = _key(pair.query, pair.positive)
            if key in seen:
                count["duplicates"] += 1
                continue
            seen.add(key)
            if _key(pair.query) == _key(pair.positive):
                count["query_is_positive"] += 1
                continue
            name = _key(document_of(pair))
            documents.setdefault(pair.source, set()).add(name)
            licences.setdefault(pair.source, collections.Counter())[pair.licence] += 1
            out = _fraction(name, seed) < held_out
            count["held_out" if out else "training"] += 1
            (kept_out if out else training).append(pair)
    if len(training) < 2:
        raise UserError(f"{', '.join(map(str, files))}: {len(training)} pairs to train with; give at least 2")
    sources = {
        source: dict(count) | {"documents": len(documents.get(source, ())), "licences": dict(licences.get(source, {}))}
        for source, count in sorted(counts.items())
    }
    return PairData(training, kept_out, _card(files, sources, training, held_out, seed))


def write_pairs(file: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSON lines."""
    with atomic_file(file) as temporary, temporary.open("w", encoding="utf-8") as lines:
        lines.writelines(pair.model_dump_json(exclude_defaults=True) + "\n" for pair in pairs)


def document_of(pair: Pair) -> str:
    """What a pair is from."""
    return pair.document or pair.positive


def text_hash(text: str) -> int:
    """63-bit hash of a text, the same whatever its case and white space; never 0."""
    return int.from_bytes(_key(text)[:8], "big") >> 1 or 1


def _pairs_of(file: Path, seed: int) -> Iterator[Pair]:
    for number, row in enumerate(_rows(file), start=1):
        if is_corpus_row(row):
            yield from (Pair(**made) for made in pairs_of_row(row, file.name.split(".")[0], seed))
            continue
        values = {name: value for name, value in row.items() if value is not None}
        values.setdefault("source", file.name.split(".")[0])
        try:
            pair = Pair.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{file}, row {number}: {first_mistake(error)}") from error
        if pair.teacher_scores is not None and len(pair.teacher_scores) != 1 + len(pair.negatives):
            scores, wanted = len(pair.teacher_scores), 1 + len(pair.negatives)
            raise UserError(
                f"{file}, row {number}: {scores} teacher_scores for one positive and {wanted - 1} negatives"
            )
        yield pair


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    if not file.is_file():
        raise UserError(f"no such file of pairs: {file}")
    if file.suffix == ".parquet":
        try:
            with pq.ParquetFile(file) as table:
                for batch in table.iter_batches(8192):
                    yield from batch.to_pylist()
        except pa.ArrowException as error:
            raise UserError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
        return
    opener: Any = gzip.open if file.suffix == ".gz" else open
    number = 0
    try:
        with opener(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise UserError(f"{file}, line {number}: not a JSON object")
                    yield row
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{file}, line {number}: {error}") from error


def _card(
    files: Sequence[Path], sources: dict[str, Any], training: list[Pair], held_out: float, seed: int
) -> dict[str, Any]:
    sample = training[:: max(1, len(training) // 2000)]
    return {
        "files": [{"name": file.name, "sha256": sha256_file(file), "bytes": file.stat().st_size} for file in files],
        "sources": sources,
        "split": {"by": "document", "held_out": held_out, "seed": seed},
        "mean_words": {
            "query": round(sum(len(pair.query.split()) for pair in sample) / len(sample), 1),
            "positive": round(sum(len(pair.positive.split()) for pair in sample) / len(sample), 1),
        },
        "with_negatives": sum(bool(pair.negatives) for pair in training),
        "with_teacher_scores": sum(pair.teacher_scores is not None for pair in training),
    }


def _key(*texts: str) -> bytes:
    """Hash of texts, the same whatever their case and white space."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(_SPACE.sub(" ", text.strip().lower()).encode() + b"\0")
    return digest.digest()


def _fraction(name: bytes, seed: int) -> float:
    digest = hashlib.blake2b(name, digest_size=8, salt=seed.to_bytes(16, "big")).digest()
    return float(int.from_bytes(digest, "big") / 2**64)
