"""Search in a collection: encoder, shards and passages behind one call; used by every front door."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hiperrag.answering.hits import Hit
from hiperrag.collection import Collection, Manifest, ShardEntry
from hiperrag.encoders import load_encoder
from hiperrag.encoders.base import Encoded, Encoder
from hiperrag.errors import UserError
from hiperrag.filters import Filter
from hiperrag.index.codec import FloatArray
from hiperrag.index.search import Masks, Match, Quality, Searcher
from hiperrag.index.shard import open_shards
from hiperrag.workflows.deletions import deleted_mask

if TYPE_CHECKING:
    from hiperrag.index.portion import Source
    from hiperrag.index.ranks import Ranks

PASSAGES_PER_DOCUMENT = 4
"""Passages fetched for each document wanted, where each document is to appear once; more if that was too few."""
_OPENING_TRIES = 50


class SearchesShards(Protocol):
    """What a Retriever asks of shards, wherever they are searched; see `Searcher`."""

    @property
    def shards(self) -> Sequence[Any]:
        """With `folder`, `n_passages` and `passages` each."""
        ...

    def search(
        self,
        queries: Sequence[FloatArray],
        k: int,
        quality: Quality = "balanced",
        masks: Masks | None = None,
        texts: Sequence[str] | None = None,
    ) -> list[list[Match]]: ...

    def search_pooled(self, pooled: FloatArray, k: int, masks: Masks | None = None) -> list[Match]: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Results:
    """The hits of each query, and where the time went."""

    hits: list[list[Hit]]
    timings_ms: dict[str, float]


class Retriever:
    """A collection opened for questions, as its manifest is at this moment.

    Later changes to the collection do not reach it: everything is mapped when it is opened. With `ranks` the shards are
    spread over the processes of an MPI job, of which this is rank 0; `open_sources` opens them in another way.
    `load` gives the encoder of a spec, where it is not to be loaded afresh.
    """

    def __init__(
        self,
        root: Path | str,
        threads: int | None = None,
        ranks: Ranks | None = None,
        *,
        load: Callable[[str], Encoder] | None = None,
        open_sources: Callable[[Sequence[Source]], SearchesShards] | None = None,
    ) -> None:
        self.collection = Collection(root)
        self._threads, self._ranks, self._open_sources = threads, ranks, open_sources
        self.manifest, self.searcher = self._open()
        spec = self.manifest.encoder.spec
        self.encoder: Encoder = load(spec) if load else load_encoder(spec, threads)
        if self.encoder.identity != self.manifest.encoder.identity:
            raise UserError(
                f"{root}: was encoded with another version of encoder {self.manifest.encoder.spec!r}; "
                "restore that version, or rerun `hiperrag index` to encode again"
            )
        self.timings_ms: dict[str, float] = {}
        """Where the time of the last call went."""

    def _open(self) -> tuple[Manifest, SearchesShards]:
        """The manifest and its shards; the next manifest where this one is replaced while its shards are opened."""
        for _ in range(_OPENING_TRIES):
            state = self.collection.state()
            manifest = self.collection.manifest()
            entries = [entry for entry in manifest.shards if entry.n_passages > entry.n_deleted]
            if not entries:
                if manifest.counts.deleted:
                    raise UserError(
                        f"{self.collection.root}: all its passages are deleted; "
                        "`hiperrag delete --undo` brings them back"
                    )
                raise UserError(
                    f"{self.collection.root}: holds no passages ({manifest.counts.quarantined} inputs in quarantine; "
                    f"see `hiperrag info {self.collection.root}`)"
                )
            try:
                return manifest, self._open_shards(entries)
            except UserError:
                if self.collection.state() == state:
                    raise
        raise UserError(f"{self.collection.root}: changes too fast to be opened; try again")

    def _open_shards(self, entries: Sequence[ShardEntry]) -> SearchesShards:
        folders = [self.collection.shard_path(entry.name) for entry in entries]
        deleted = [deleted_mask(self.collection, entry) for entry in entries]
        searcher: SearchesShards
        if self._ranks or self._open_sources:
            from hiperrag.index.distributed import DistributedSearcher
            from hiperrag.index.portion import Source

            sources = [
                Source(folder, entry.n_tokens, mask)
                for folder, entry, mask in zip(folders, entries, deleted, strict=True)
            ]
            if self._open_sources:
                searcher = self._open_sources(sources)
            elif self._ranks:
                searcher = DistributedSearcher(self._ranks, sources)
        else:
            searcher = Searcher(open_shards(folders, deleted), self._threads)
        for number, entry in enumerate(entries):
            shard = searcher.shards[number]
            if shard.n_passages != entry.n_passages:
                raise UserError(
                    f"{shard.folder}: not the manifest's shard; run `hiperrag doctor {self.collection.root}`"
                )
        return searcher

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        quality: Quality = "balanced",
        where: Filter | None = None,
        hybrid: bool = False,
        per_document: bool = False,
    ) -> list[list[Hit]]:
        """The k best passages for each query, best first.

        `quality` says how many passages get their MaxSim. `where` leaves only passages that meet it. `hybrid` adds
        BM25 to MaxSim. With `per_document` each document appears once, by its best passage, and k counts documents.
        """
        results = self.find(queries, k, quality=quality, where=where, hybrid=hybrid, per_document=per_document)
        self.timings_ms = results.timings_ms
        return results.hits

    def find(
        self,
        queries: Sequence[str],
        k: int,
        *,
        quality: Quality = "balanced",
        where: Filter | None = None,
        hybrid: bool = False,
        per_document: bool = False,
        searcher: SearchesShards | None = None,
    ) -> Results:
        """As `search`, for calls from several threads; `searcher` takes the place of the retriever's own."""
        masks = self._masks(where)
        texts = queries if hybrid else None
        chosen = searcher or self.searcher

        def match(encoded: Encoded, n: int) -> list[list[Match]]:
            return chosen.search(encoded.token_arrays(), n, quality, masks, texts)

        return self._find(queries, k, match, per_document)

    def search_pooled(self, queries: Sequence[str], k: int, where: Filter | None = None) -> list[list[Hit]]:
        """The k best documents for each query by pooled cosine alone, without MaxSim; scores are cosines."""
        masks = self._masks(where)

        def match(encoded: Encoded, n: int) -> list[list[Match]]:
            return [self.searcher.search_pooled(pooled, n, masks) for pooled in encoded.pooled]

        results = self._find(queries, k, match, per_document=True)
        self.timings_ms = results.timings_ms
        return results.hits

    def _masks(self, where: Filter | None) -> Masks | None:
        if where is None:
            return None
        shards = self.searcher.shards
        where.check_fields(set().union(*(shard.passages.metadata_names for shard in shards)))
        return [np.asarray(where.mask(shard.passages.columns(where.columns)), dtype=bool) for shard in shards]

    def _find(
        self, queries: Sequence[str], k: int, match: Callable[[Encoded, int], list[list[Match]]], per_document: bool
    ) -> Results:
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
        timings = {
            "encode": round(1000 * (encoded_at - started), 3),
            "search": round(1000 * (matched_at - encoded_at), 3),
            "fetch": round(1000 * (ended - matched_at), 3),
            "total": round(1000 * (ended - started), 3),
        }
        return Results(hits, timings)

    def _hits(self, matches: Sequence[Match], k: int, per_document: bool) -> list[Hit]:
        hits: list[Hit] = []
        seen: set[str] = set()
        for match in matches:
            passages = self.searcher.shards[match.shard].passages
            if per_document:
                document = passages.documents[match.row]
                if document in seen:
                    continue
                seen.add(document)
            hits.append(Hit(len(hits) + 1, match.score, passages[match.row]))
            if len(hits) == k:
                break
        return hits
