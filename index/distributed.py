"""Search with shards spread over the ranks of an MPI job: the results of `search.Searcher`, to the bit.

Rank 0 runs the command, the others serve it (`ranks.Ranks.run`). A query goes to all ranks as codes; each finds
candidates in its shards; the estimates go to all, so that every rank knows which candidates are among the best of all
shards; it scores its own by MaxSim, and rank 0 merges the best. What is computed of a passage depends on its shard
alone, and the cuts are made over all shards, so neither the number of ranks nor the dealing changes a result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt

from hiperrag.errors import UserError
from hiperrag.index.codec import Codec, FloatArray, QueryCodes
from hiperrag.index.fusion import LEXICAL_CANDIDATES
from hiperrag.index.kernels import Effort
from hiperrag.index.lexical import Lexical, LexicalQuery, LexicalSearcher
from hiperrag.index.passages import PassageStore
from hiperrag.index.ranks import Ranks, as_bytes
from hiperrag.index.search import Found, Masks, Match, Quality, Searcher, effort_of, join
from hiperrag.index.shard import Mask, Shard

MESSAGE_BYTES = 1 << 26
"""Candidates that a rank receives at once are kept below this; more queries go in several rounds."""
_FOUND = np.dtype([("value", "<f4"), ("shard", "<i4"), ("row", "<i4")])
"""A passage in a message."""
_FAILED = -1
_Query = tuple[QueryCodes, LexicalQuery | None]
"""A query's codes, and its words where they count too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A shard to open: its folder, its tokens (for dealing), and its deleted passages (n_passages,) or None."""

    folder: Path
    n_tokens: int
    deleted: Mask | None = None


def deal(weights: Sequence[int], n_ranks: int) -> list[list[int]]:
    """Which shards each rank gets, rising: the heaviest goes first, to the rank that has least (Graham 1969, LPT)."""
    hands: list[list[int]] = [[] for _ in range(n_ranks)]
    loads = [0] * n_ranks
    for number in sorted(range(len(weights)), key=lambda number: (-weights[number], number)):
        rank = loads.index(min(loads))
        hands[rank].append(number)
        loads[rank] += weights[number]
    return [sorted(hand) for hand in hands]


class RankSearcher(Searcher):
    """One rank's part of a search. What is called `find` is called on all ranks together, and rank 0 has the results.

    shards: those of this rank, which are `numbers` (rising) in the whole list, `sources`, of `sizes` passages each.
    """

    def __init__(
        self,
        ranks: Ranks,
        shards: Sequence[Shard],
        numbers: Sequence[int],
        sources: Sequence[Source],
        sizes: Sequence[int],
    ) -> None:
        super().__init__(shards, ranks.threads())
        self._ranks = ranks
        self._sources = sources
        self._sizes = sizes
        self._numbers = np.array(numbers, dtype=np.int64)
        self._here = np.full(len(sources), -1, dtype=np.int64)
        self._here[self._numbers] = np.arange(len(numbers))

    def own_masks(self, masked: Sequence[bool], bits: npt.NDArray[np.uint8]) -> list[Mask | None]:
        """The masks of this rank's shards out of those of all; see `DistributedSearcher._pack_masks`."""
        n_bytes = [-(-size // 8) if flag else 0 for size, flag in zip(self._sizes, masked, strict=True)]
        ends = np.cumsum(n_bytes)
        return [
            np.unpackbits(bits[ends[n] - n_bytes[n] : ends[n]], count=self._sizes[n]).view(np.bool_)
            if masked[n]
            else None
            for n in self._numbers.tolist()
        ]

    def find(
        self, codes: Sequence[QueryCodes], k: int, effort: Effort | None, masks: Masks, texts: Sequence[str] | None
    ) -> list[list[Match]]:
        """See `DistributedSearcher.search`; masks: of this rank's shards."""
        allowed = self.allowed(masks)
        most = max(k, effort.n if effort else 0, LEXICAL_CANDIDATES if texts else 0)
        step = max(1, MESSAGE_BYTES // (self._ranks.size * most * _FOUND.itemsize))
        queries = self._with_words(codes, texts)
        matches = []
        for start in range(0, len(queries), step):
            some = queries[start : start + step]
            found = self._find_exact(some, k, allowed) if effort is None else self._find(some, k, effort, allowed)
            matches += [one.matches(k) for one in found]
        return matches

    def find_pooled(self, pooled: FloatArray, k: int, masks: Masks) -> list[list[Match]]:
        """See `Searcher.search_pooled`; masks: of this rank's shards."""
        allowed = self.allowed(masks)

        def compute() -> list[Found]:
            found = []
            for number, mask in enumerate(allowed):
                scores, rows = self.shards[number].search_pooled(pooled, k, mask)
                found.append(Found(np.full(len(rows), number), rows, scores))
            return [self._listed(join(found)).best(k)]

        return [one.matches(k) for one in self._exchange(compute, 1, to_all=False)]

    def _find(self, queries: Sequence[_Query], k: int, effort: Effort, allowed: Masks) -> list[Found]:
        n, alone = len(queries), len(queries) == 1

        def look(query: _Query) -> Found:
            return self._listed(self.candidates(query[0], effort, allowed, parallel=alone)).best(effort.n)

        gathered = self._exchange(lambda: self._map(look, queries), n, to_all=True)
        found = [one.best(effort.n) for one in gathered]
        if queries[0][1] is not None:
            by_words = self._exchange(lambda: [self._by_words(query, allowed) for query in queries], n, to_all=True)
            added = [one.best(LEXICAL_CANDIDATES) for one in by_words]
            found = [one.united(more.shards, more.rows) for one, more in zip(found, added, strict=True)]

        def score(pair: tuple[_Query, Found]) -> Found:
            (codes, words), found = pair
            return self._fuse(self._listed(self.score(codes, self._own(found))), codes, words).best(k)

        return self._exchange(lambda: self._map(score, list(zip(queries, found, strict=True))), n, to_all=False)

    def _find_exact(self, queries: Sequence[_Query], k: int, allowed: Masks) -> list[Found]:
        def compute() -> list[Found]:
            scored = self.score_all([codes for codes, _ in queries], allowed)
            return [
                self._fuse(self._listed(found), *query).best(k) for query, found in zip(queries, scored, strict=True)
            ]

        return self._exchange(compute, len(queries), to_all=False)

    @cached_property
    def lexical(self) -> LexicalSearcher:
        """BM25 over all shards, not only this rank's: a word's weight depends on all."""
        living = [None if source.deleted is None else ~source.deleted for source in self._sources]
        return LexicalSearcher([Lexical(source.folder) for source in self._sources], living)

    def _with_words(self, codes: Sequence[QueryCodes], texts: Sequence[str] | None) -> list[_Query]:
        if not texts:
            return [(one, None) for one in codes]
        queries: list[_Query] = []

        def prepare() -> None:
            queries.extend((one, self.lexical.query(text)) for one, text in zip(codes, texts, strict=True))

        self._ranks.agree(prepare)
        return queries

    def _by_words(self, query: _Query, allowed: Masks) -> Found:
        """The best few of this rank's passages by BM25."""
        words = query[1]
        assert words is not None
        masks: list[Mask | None] = [None] * len(self._sources)
        for number, mask in zip(self._numbers, allowed, strict=True):
            masks[number] = mask
        return Found(*words.search(LEXICAL_CANDIDATES, masks, within=self._numbers.tolist()))

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

    def _listed(self, found: Found) -> Found:
        """Shards as in the whole list."""
        return Found(self._numbers[found.shards], found.rows, found.values)

    def _own(self, found: Found) -> Found:
        """This rank's passages, with shards as on this rank."""
        shards = self._here[found.shards]
        own = shards >= 0
        return Found(shards[own], found.rows[own], found.values[own])


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


class RemoteShard:
    """What rank 0 needs of a shard that some rank searches; open from the start, as a `Shard` is."""

    def __init__(self, source: Source, n_passages: int, has_text: bool) -> None:
        self.folder, self.deleted, self.n_passages = source.folder, source.deleted, n_passages
        self._passages = PassageStore(source.folder, n_passages) if has_text else None

    @property
    def passages(self) -> PassageStore:
        """The passages themselves; UserError in an index of vectors alone."""
        if self._passages is None:
            raise UserError(f"{self.folder}: holds vectors without their passages")
        return self._passages


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
        flags, bits = self._pack_masks(masks)
        values = np.concatenate([query.values for query in codes])
        scales = np.concatenate([query.scales for query in codes])
        job = _Search(self._place, [len(query.values) for query in codes], k, effort_of(quality, k), flags, texts)
        return self._ranks.call(job, values, scales, bits)

    def search_pooled(self, pooled: FloatArray, k: int, masks: Masks | None = None) -> list[Match]:
        """See `Searcher.search_pooled`."""
        flags, bits = self._pack_masks(masks)
        return self._ranks.call(_SearchPooled(self._place, k, flags), np.asarray(pooled, dtype=np.float32), bits)

    def _pack_masks(self, masks: Masks | None) -> tuple[list[bool], npt.NDArray[np.uint8]]:
        """Which shards have a mask, and the bits of those masks, each from a new byte on."""
        chosen = list(masks or [None] * len(self.shards))
        for mask, shard in zip(chosen, self.shards, strict=True):
            if mask is not None and len(mask) != shard.n_passages:
                raise ValueError("a mask has one value for each passage of its shard")
        bits = [np.packbits(mask) for mask in chosen if mask is not None]
        return [mask is not None for mask in chosen], np.concatenate([np.empty(0, np.uint8), *bits])


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
