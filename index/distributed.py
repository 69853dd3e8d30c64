"""Search with shards spread over the ranks of an MPI job: the results of `search.Searcher`, to the bit.

Rank 0 runs the command, the others serve it (`ranks.Ranks.run`). A query goes to all ranks as codes; each finds
candidates in its shards; the estimates go to all, so that every rank knows which candidates are among the best of all
shards; it scores its own by MaxSim, and rank 0 merges the best. What is computed of a passage depends on its shard
alone, and the cuts are made over all shards, so neither the number of ranks nor the dealing changes a result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from hiperrag.errors import UserError
from hiperrag.index.codec import Codec, FloatArray, QueryCodes
from hiperrag.index.fusion import LEXICAL_CANDIDATES
from hiperrag.index.kernels import Effort
from hiperrag.index.portion import Portion, Query, RemoteShard, Source, deal, pack_masks
from hiperrag.index.ranks import Ranks, as_bytes
from hiperrag.index.search import Found, Masks, Match, Quality, effort_of, join
from hiperrag.index.shard import Shard

MESSAGE_BYTES = 1 << 26
"""Candidates that a rank receives at once are kept below this; more queries go in several rounds."""
_FOUND = np.dtype([("value", "<f4"), ("shard", "<i4"), ("row", "<i4")])
"""A passage in a message."""
_FAILED = -1


class RankSearcher(Portion):
    """One rank's part of a search. What is called `find` is called on all ranks together; rank 0 has the results."""

    def __init__(
        self,
        ranks: Ranks,
        shards: Sequence[Shard],
        numbers: Sequence[int],
        sources: Sequence[Source],
        sizes: Sequence[int],
    ) -> None:
        super().__init__(shards, numbers, sources, sizes, ranks.threads())
        self._ranks = ranks

    def find(
        self, codes: Sequence[QueryCodes], k: int, effort: Effort | None, masks: Masks, texts: Sequence[str] | None
    ) -> list[list[Match]]:
        """See `DistributedSearcher.search`; masks: of this rank's shards."""
        allowed = self.allowed(masks)
        most = max(k, effort.n if effort else 0, LEXICAL_CANDIDATES if texts else 0)
        step = max(1, MESSAGE_BYTES // (self._ranks.size * most * _FOUND.itemsize))
        queries: list[Query] = []
        if texts:
            self._ranks.agree(lambda: queries.extend(self.with_words(codes, texts)))
        else:
            queries = self.with_words(codes, None)
        matches = []
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            found = self._find_exact(some, k, allowed) if effort is None else self._find(some, k, effort, allowed)
            matches += [one.matches(k) for one in found]
        return matches

    def find_pooled(self, pooled: FloatArray, k: int, masks: Masks) -> list[list[Match]]:
        """See `Searcher.search_pooled`; masks: of this rank's shards."""
        allowed = self.allowed(masks)
        found = self._exchange(lambda: [self.find_by_pooled(pooled, k, allowed)], 1, to_all=False)
        return [one.matches(k) for one in found]

    def _find(self, queries: Sequence[Query], k: int, effort: Effort, allowed: Masks) -> list[Found]:
        n = len(queries)
        proposed = self._exchange(lambda: self.propose(queries, effort, allowed), n, to_all=True)
        found = [one.best(effort.n) for one in proposed]
        if queries[0][1] is not None:
            by_words = self._exchange(lambda: self.propose_by_words(queries, allowed), n, to_all=True)
            added = [one.best(LEXICAL_CANDIDATES) for one in by_words]
            found = [one.united(more.shards, more.rows) for one, more in zip(found, added, strict=True)]
        return self._exchange(lambda: self.score_proposed(queries, found, k), n, to_all=False)

    def _find_exact(self, queries: Sequence[Query], k: int, allowed: Masks) -> list[Found]:
        return self._exchange(lambda: self.find_exact(queries, k, allowed), len(queries), to_all=False)

    def _exchange(self, compute: Callable[[], Sequence[Found]], n: int, to_all: bool) -> list[Found]:
        """Join what `compute` finds on each rank for each of n > 0 queries, on all ranks or on rank 0 (elsewhere: []).

        Where it raises UserError on any rank, that is raised on all.
        """
        communicator = self._ranks.communicator
        found: Sequence[Found] = []
        message: str | None = None
        try:
            found = compute()
            lengths = np.array([len(one.rows) for one in found], dtype=np.int64)
        except UserError as error:
            message = str(error)
            lengths = np.full(n, _FAILED, dtype=np.int64)
        counts = np.empty((self._ranks.size, n), dtype=np.int64)
        communicator.Allgather(lengths, counts)
        if (counts == _FAILED).any():
            raise UserError(next(text for text in communicator.allgather(message) if text is not None))
        mine, received = _pack(found), np.empty(counts.sum(), dtype=_FOUND)
        sizes = counts.sum(axis=1) * _FOUND.itemsize
        if to_all:
            communicator.Allgatherv(as_bytes(mine), [as_bytes(received), sizes])
        elif communicator.rank:
            communicator.Gatherv(as_bytes(mine), None)
            return []
        else:
            communicator.Gatherv(as_bytes(mine), [as_bytes(received), sizes])
        return _unpack(received, counts)


def _pack(found: Sequence[Found]) -> npt.NDArray[np.void]:
    joined = join(found)
    packed = np.empty(len(joined.rows), dtype=_FOUND)
    packed["value"], packed["shard"], packed["row"] = joined.values, joined.shards, joined.rows
    return packed


def _unpack(packed: npt.NDArray[np.void], counts: npt.NDArray[np.int64]) -> list[Found]:
    """Join what came from each rank for each query; counts: (n_ranks, n_queries)."""
    pieces = np.split(packed, np.cumsum(counts)[:-1])
    n_queries = counts.shape[1]
    joined = [np.concatenate(pieces[query::n_queries]) for query in range(n_queries)]
    return [Found(one["shard"].astype(np.int64), one["row"].astype(np.int64), one["value"]) for one in joined]


class DistributedSearcher:
    """Searches shards that are spread over ranks; for rank 0, in place of a `Searcher` over the same list of shards."""

    def __init__(self, ranks: Ranks, sources: Sequence[Source]) -> None:
        self._ranks = ranks
        opened = ranks.call(_Open(sources))
        self._place, self._codec = opened.place, opened.codec
        self.shards = [
            RemoteShard(source, n_passages, opened.has_text)
            for source, n_passages in zip(sources, opened.sizes, strict=True)
        ]

    def search(
        self,
        queries: Sequence[FloatArray],
        k: int,
        quality: Quality = "balanced",
        masks: Masks | None = None,
        texts: Sequence[str] | None = None,
    ) -> list[list[Match]]:
        """See `Searcher.search`."""
        if not len(queries):
            return []
        codes = [self._codec.encode_query(query) for query in queries]
        flags, bits = pack_masks(masks, [shard.n_passages for shard in self.shards])
        values = np.concatenate([query.values for query in codes])
        scales = np.concatenate([query.scales for query in codes])
        job = _Search(self._place, [len(query.values) for query in codes], k, effort_of(quality, k), flags, texts)
        return self._ranks.call(job, values, scales, bits)

    def search_pooled(self, pooled: FloatArray, k: int, masks: Masks | None = None) -> list[Match]:
        """See `Searcher.search_pooled`."""
        flags, bits = pack_masks(masks, [shard.n_passages for shard in self.shards])
        return self._ranks.call(_SearchPooled(self._place, k, flags), np.asarray(pooled, dtype=np.float32), bits)

    def close(self) -> None:
        """Let all ranks go of what they opened; no search follows."""
        self._ranks.call(_Close(self._place))


class _Opened(NamedTuple):
    """place: of the searcher in `Ranks.kept`; sizes: passages of each shard."""

    place: int
    sizes: list[int]
    codec: Codec
    has_text: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Open:
    """Each rank opens its shards."""

    sources: Sequence[Source]

    def __call__(self, ranks: Ranks) -> _Opened:
        numbers = deal([source.n_tokens for source in self.sources], ranks.size)[ranks.communicator.rank]
        shards: list[Shard] = []

        def open_them() -> list[tuple[int, int, Codec, bool]]:
            shards.extend(Shard(self.sources[number].folder, self.sources[number].deleted) for number in numbers)
            return [
                (number, shard.n_passages, shard.codec, shard.description.has_text)
                for number, shard in zip(numbers, shards, strict=True)
            ]

        opened = sorted((one for some in ranks.agree(open_them) for one in some), key=lambda one: one[0])
        _, sizes, codecs, has_text = (list(column) for column in zip(*opened, strict=True))
        if len({codec.dim for codec in codecs}) > 1:
            raise UserError(f"{self.sources[0].folder.parent}: shards of different encoders; index again")
        ranks.kept.append(RankSearcher(ranks, shards, numbers, self.sources, sizes))
        return _Opened(len(ranks.kept) - 1, sizes, codecs[0], all(has_text))


@dataclasses.dataclass(frozen=True, slots=True)
class _Search:
    """See `DistributedSearcher.search`; lengths: tokens of each query; masked: which shards have a mask."""

    place: int
    lengths: list[int]
    k: int
    effort: Effort | None
    masked: list[bool]
    texts: Sequence[str] | None

    def __call__(
        self, ranks: Ranks, values: npt.NDArray[np.int8], scales: FloatArray, bits: npt.NDArray[np.uint8]
    ) -> list[list[Match]]:
        searcher = cast(RankSearcher, ranks.kept[self.place])
        ends = np.cumsum(self.lengths)[:-1]
        codes = [QueryCodes(*pair) for pair in zip(np.split(values, ends), np.split(scales, ends), strict=True)]
        masks = searcher.own_masks(self.masked, bits)
        return searcher.find(codes, self.k, self.effort, masks, self.texts)


@dataclasses.dataclass(frozen=True, slots=True)
class _SearchPooled:
    """See `Searcher.search_pooled`; masked: which shards have a mask."""

    place: int
    k: int
    masked: list[bool]

    def __call__(self, ranks: Ranks, pooled: FloatArray, bits: npt.NDArray[np.uint8]) -> list[Match]:
        searcher = cast(RankSearcher, ranks.kept[self.place])
        found = searcher.find_pooled(pooled, self.k, searcher.own_masks(self.masked, bits))
        return found[0] if found else []


@dataclasses.dataclass(frozen=True, slots=True)
class _Close:
    """See `DistributedSearcher.close`."""

    place: int

    def __call__(self, ranks: Ranks) -> None:
        ranks.kept[self.place] = None
