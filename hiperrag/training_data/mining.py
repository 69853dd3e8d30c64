"""Hard negatives for pairs: what our own two-stage search ranks just below the passage that answers a query."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from hiperrag.answering.retrieval import Retriever
from hiperrag.encoders.training.pairs import Pair, document_of, read_pairs, text_hash
from hiperrag.errors import UserError
from hiperrag.files import fingerprint
from hiperrag.training_data.cards import describe_collection, finished, write_with_card
from hiperrag.training_data.false_negatives import REASONS, Candidate, Known, negatives_among
from hiperrag.training_data.journal import Entry, Journal, batches
from hiperrag.training_data.pools import CollectionPool, Pool, PositivesPool, own_scores, source_of

VERSION = "1"
"""Changes with whatever would mine other negatives from the same pairs."""
BATCH = 64
"""Queries searched at a time; a kill loses one batch."""
Unfound = Literal["keep", "drop"]


@dataclasses.dataclass(frozen=True, slots=True)
class MineSettings:
    """How negatives are chosen.

    negatives: of each pair, at most. depth: passages looked at, best first. margin: the share of the positive's score
    that a negative may have. unfound: what becomes of pairs whose positive is not among the `depth` best.
    """

    negatives: int = 4
    depth: int = 50
    margin: float = 0.95
    unfound: Unfound = "keep"

    def __post_init__(self) -> None:
        if self.negatives < 1 or self.depth < self.negatives:
            raise UserError("--negatives has to be at least 1, and --depth at least --negatives")
        if not 0 < self.margin <= 1:
            raise UserError(f"--margin {self.margin:g}: give a share of the positive's score, above 0 and at most 1")


def mine(
    files: Sequence[Path],
    collection: Path | None,
    out: Path,
    settings: MineSettings,
    *,
    encoder: str | None = None,
    seed: int = 0,
    quiet: bool = False,
    say: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Write the pairs of `files` with hard negatives to `out` (JSON lines) and a data card beside it; the card.

    `files` is what `hiperrag train --pairs` takes. Without a collection the negatives of a pair are other pairs'
    positives, searched by `encoder`. A pair that has negatives keeps them. `say` gets pairs done, and of how many. The
    same call goes on after a kill, to the same pairs. UserError for unusable files, collections and settings, and
    where `out` holds something else.
    """
    if collection is not None and encoder is not None:
        raise UserError("--encoder is for mining without a collection; a collection is searched with its own")
    data = read_pairs(files, held_out=0.0, seed=seed)
    inputs = fingerprint([one["sha256"] for one in data.card["files"]], seed, encoder)
    retriever = Retriever(collection) if collection else None
    version = describe_collection(retriever)["version"] if retriever else ""
    identity = fingerprint(VERSION, inputs, version, settings)
    progress = out.with_name(f"{out.name}.progress")
    scratch = out.with_name(f"{out.name}.positives-{inputs[:8]}")
    if done := finished(out, identity):
        _remove(progress, scratch)
        return done
    cpu = time.process_time()
    with Journal(progress, identity) as journal:
        pool: Pool = CollectionPool(retriever) if retriever else PositivesPool(data.training, scratch, encoder, quiet)
        _Miner(pool, data.training, settings).run(journal, say)
        pairs = list(_with_negatives(data.training, journal.entries, settings.unfound))
        if not pairs:
            raise UserError(f"no pair has its positive among the {settings.depth} best: nothing is left to write")
        about = {
            "files": data.card["files"],
            "sources": data.card["sources"],
            "negatives_from": describe_collection(pool.retriever) | ({} if collection else {"name": "the positives"}),
            "settings": dataclasses.asdict(settings) | {"seed": seed},
            "pairs": _pairs_counted(data.training, journal.entries, pairs),
            "candidates": _candidates_counted(journal.entries),
            "cpu_seconds_of_last_start": round(time.process_time() - cpu, 1),
        }
        card = write_with_card(out, pairs, identity, about)
        _remove(progress, scratch)
    return card


def _remove(progress: Path, scratch: Path) -> None:
    """Delete what the work needed that has been written."""
    progress.unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)
    source_of(scratch).unlink(missing_ok=True)


class _Miner:
    """Searches the queries of pairs, a batch at a time, so that results depend on no interruption."""

    def __init__(self, pool: Pool, pairs: Sequence[Pair], settings: MineSettings) -> None:
        self._pool, self._pairs, self._settings = pool, pairs, settings
        self._keys: dict[int, set[int]] = {}
        self._documents: dict[int, set[str]] = {}
        for pair in pairs:
            query = text_hash(pair.query)
            self._keys.setdefault(query, set()).add(text_hash(pair.positive))
            self._documents.setdefault(query, set()).add(document_of(pair))

    def run(self, journal: Journal, say: Callable[[int, int], None]) -> None:
        """Add an entry for each batch that has none: `rows`, what was found for each pair."""
        for batch in list(batches(len(self._pairs), BATCH))[len(journal.entries) :]:
            say(batch.start, len(self._pairs))
            journal.add({"rows": self._rows([self._pairs[number] for number in batch])})
        say(len(self._pairs), len(self._pairs))

    def _rows(self, pairs: Sequence[Pair]) -> list[Entry | None]:
        """None for pairs that have negatives."""
        asked = [pair for pair in pairs if not pair.negatives]
        found = self._pool.find([pair.query for pair in asked], self._settings.depth) if asked else []
        scores = self._positive_scores(asked, found)
        rows = iter([self._row(*one) for one in zip(asked, found, scores, strict=True)])
        return [None if pair.negatives else next(rows) for pair in pairs]

    def _positive_scores(self, pairs: Sequence[Pair], found: Sequence[Sequence[Candidate]]) -> list[float]:
        """As they were found, or by encoding the positive where it was not."""
        scores = [
            next((one.score for one in candidates if text_hash(pair.positive) in one.keys), None)
            for pair, candidates in zip(pairs, found, strict=True)
        ]
        missing = [pair for pair, score in zip(pairs, scores, strict=True) if score is None]
        own = iter(
            own_scores(self._pool.retriever, [pair.query for pair in missing], [pair.positive for pair in missing])
        )
        return [float(next(own)) if score is None else score for score in scores]

    def _row(self, pair: Pair, candidates: Sequence[Candidate], score: float) -> Entry:
        """`found` says whether the positive is, or by its score would be, among the candidates."""
        query = text_hash(pair.query)
        keys = self._keys[query]
        own = (one.documents for one in candidates if not one.keys.isdisjoint(keys))
        documents = self._documents[query].union(*own)
        known = Known(pair.query, pair.positive, score, keys, documents)
        taken, left_out = negatives_among(candidates, known, self._settings.negatives, self._settings.margin)
        return {
            "found": len(candidates) < self._settings.depth or score >= candidates[-1].score,
            "negatives": [one.text for one in taken],
            "left_out": dict(left_out),
        }


def _rows_of(entries: Sequence[Entry]) -> Iterator[Entry | None]:
    return (row for entry in entries for row in entry["rows"])


def _with_negatives(pairs: Sequence[Pair], entries: Sequence[Entry], unfound: Unfound) -> Iterator[Pair]:
    for pair, row in zip(pairs, _rows_of(entries), strict=True):
        if row is None:
            yield pair
        elif row["found"] or unfound == "keep":
            yield pair.model_copy(update={"negatives": tuple(row["negatives"]), "teacher_scores": None})


def _pairs_counted(pairs: Sequence[Pair], entries: Sequence[Entry], written: Sequence[Pair]) -> dict[str, int]:
    rows = list(_rows_of(entries))
    return {
        "read": len(pairs),
        "had_negatives": rows.count(None),
        "positive_not_found": sum(row is not None and not row["found"] for row in rows),
        "written": len(written),
        "without_negatives": sum(not pair.negatives for pair in written),
    }


def _candidates_counted(entries: Sequence[Entry]) -> dict[str, int]:
    """Passages that were looked at, for all pairs together, by what became of them."""
    rows = [row for row in _rows_of(entries) if row is not None]
    left_out = Counter[str]()
    for row in rows:
        left_out.update(row["left_out"])
    return {"taken": sum(len(row["negatives"]) for row in rows)} | {reason: left_out[reason] for reason in REASONS}
