"""Search in a collection: encoder, shards and passages behind one call; used by every front door."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hiperrag.answering.hits import Hit
from hiperrag.collection import Collection, Manifest
from hiperrag.encoders import load_encoder
from hiperrag.encoders.base import Encoded, Encoder
from hiperrag.errors import UserError
from hiperrag.index.search import DEFAULT_CANDIDATES, Match, search, search_exact, search_pooled
from hiperrag.index.shard import Shard
from hiperrag.records import passage_from_row

PARTS_HELD = 64
"""Passage tables kept in memory between queries."""
PASSAGES_PER_DOCUMENT = 4
"""Passages fetched for each document wanted, where each document is to appear once; more if that was too few."""


class Retriever:
    """A collection opened for questions, as its manifest is at this moment."""

    def __init__(self, root: Path | str, threads: int | None = None) -> None:
        self.collection = Collection(root)
        self.manifest: Manifest = self.collection.manifest()
        self._entries = [entry for entry in self.manifest.shards if entry.n_passages]
        if not self._entries:
            raise UserError(
                f"{root}: holds no passages ({self.manifest.counts.quarantined} inputs in quarantine; "
                f"see `hiperrag info {root}`)"
            )
        self._shards = [Shard(self.collection.shard_path(entry.name)) for entry in self._entries]
        self.encoder: Encoder = load_encoder(self.manifest.encoder.spec, threads)
        if self.encoder.identity != self.manifest.encoder.identity:
            raise UserError(
                f"{root}: was encoded with another version of encoder {self.manifest.encoder.spec!r}; "
                "restore that version, or rerun `hiperrag index` to encode again"
            )
        self._table = lru_cache(maxsize=PARTS_HELD)(self._read_table)
        self._documents = lru_cache(maxsize=PARTS_HELD)(self._read_documents)
        self.timings_ms: dict[str, float] = {}
        """Where the time of the last call went."""

    def search(
        self, queries: Sequence[str], k: int, *, exact: bool = False, per_document: bool = False
    ) -> list[list[Hit]]:
        """The k best passages for each query, best first.

        `exact` scores every passage by MaxSim. With `per_document` each document appears once, by its best
        passage, and k counts documents.
        """

        if exact:
            return self._search(queries, k, self._match_exact, per_document)
        return self._search(queries, k, self._match, per_document)

    def search_pooled(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The k best documents for each query by pooled cosine alone, without MaxSim; scores are cosines."""
        return self._search(queries, k, self._match_pooled, per_document=True)

    def _match(self, queries: Encoded, k: int) -> list[list[Match]]:
        candidates = max(DEFAULT_CANDIDATES, k)
        return [
            search(self._shards, tokens, pooled, k, n_candidates=candidates)
            for tokens, pooled in zip(queries.token_arrays(), queries.pooled, strict=True)
        ]

    def _match_exact(self, queries: Encoded, k: int) -> list[list[Match]]:
        return search_exact(self._shards, queries.token_arrays(), k)

    def _match_pooled(self, queries: Encoded, k: int) -> list[list[Match]]:
        return [search_pooled(self._shards, pooled, k) for pooled in queries.pooled]

    def _search(
        self, queries: Sequence[str], k: int, match: Callable[[Encoded, int], list[list[Match]]], per_document: bool
    ) -> list[list[Hit]]:
        started = time.perf_counter()
        encoded = self.encoder.encode_queries(queries)
        encoded_at = time.perf_counter()
        n_matches = PASSAGES_PER_DOCUMENT * k if per_document else k
        while True:
            matches = match(encoded, n_matches)
            matched_at = time.perf_counter()
            hits = [self._hits(found, k, per_document) for found in matches]
            enough = all(
                len(found) >= k or len(matched) < n_matches for found, matched in zip(hits, matches, strict=True)
            )
            if enough:
                break
            n_matches *= PASSAGES_PER_DOCUMENT
        ended = time.perf_counter()
        self.timings_ms = {
            "encode": round(1000 * (encoded_at - started), 3),
            "search": round(1000 * (matched_at - encoded_at), 3),
            "fetch": round(1000 * (ended - matched_at), 3),
            "total": round(1000 * (ended - started), 3),
        }
        return hits

    def _hits(self, matches: Sequence[Match], k: int, per_document: bool) -> list[Hit]:
        hits: list[Hit] = []
        seen: set[str] = set()
        for match in matches:
            part, row = self._locate(match)
            if per_document:
                document = self._documents(part)[row]
                if document in seen:
                    continue
                seen.add(document)
            passage = passage_from_row(self._table(part).slice(row, 1).to_pylist()[0])
            hits.append(Hit(len(hits) + 1, match.score, passage))
            if len(hits) == k:
                break
        return hits

    def _locate(self, match: Match) -> tuple[str, int]:
        """The part that holds a match's passage, and its row there."""
        row = match.row
        for part in self._entries[match.shard].parts:
            if row < part.n_passages:
                return part.passages, row
            row -= part.n_passages
        raise UserError(f"{self.collection.root}: shard and manifest disagree; run `hiperrag doctor COLLECTION`")

    def _read_documents(self, identity: str) -> list[str]:
        names: list[str] = self._table(identity)["document"].to_pylist()
        return names

    def _read_table(self, identity: str) -> pa.Table:
        path = self.collection.passages_path(identity)
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path}: unreadable passages ({str(error).splitlines()[0]})") from None
