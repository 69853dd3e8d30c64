"""Some of the shards of a collection, searched as their part of the whole: what ranks and shard processes do alike.

What is computed of a passage depends on its shard alone (and on the words of all shards, which every portion reads);
whoever joins the portions cuts over all of them. So neither their number nor the dealing changes a result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hiperrag.errors import UserError
from hiperrag.index.codec import FloatArray, QueryCodes
from hiperrag.index.fusion import LEXICAL_CANDIDATES
from hiperrag.index.kernels import Effort
from hiperrag.index.lexical import Lexical, LexicalQuery, LexicalSearcher
from hiperrag.index.passages import PassageStore
from hiperrag.index.search import Found, Masks, Searcher, join
from hiperrag.index.shard import Mask, Shard

Query = tuple[QueryCodes, LexicalQuery | None]
"""A query's codes, and its words where they count too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A shard to open: its folder, its tokens (for dealing), and its deleted passages (n_passages,) or None."""

    folder: Path
    n_tokens: int
    deleted: Mask | None = None


def deal(weights: Sequence[int], n_hands: int) -> list[list[int]]:
    """Which shards each gets, rising: the heaviest goes first, to the one that has least (Graham 1969, LPT)."""
    hands: list[list[int]] = [[] for _ in range(n_hands)]
    loads = [0] * n_hands
    for number in sorted(range(len(weights)), key=lambda number: (-weights[number], number)):
        lightest = loads.index(min(loads))
        hands[lightest].append(number)
        loads[lightest] += weights[number]
    return [sorted(hand) for hand in hands]


def pack_masks(masks: Masks | None, sizes: Sequence[int]) -> tuple[list[bool], npt.NDArray[np.uint8]]:
    """Which shards have a mask, and the bits of those masks, each from a new byte on; sizes: passages of each shard."""
    chosen = list(masks or [None] * len(sizes))
    for mask, size in zip(chosen, sizes, strict=True):
        if mask is not None and len(mask) != size:
            raise ValueError("a mask has one value for each passage of its shard")
    bits = [np.packbits(mask) for mask in chosen if mask is not None]
    return [mask is not None for mask in chosen], np.concatenate([np.empty(0, np.uint8), *bits])


class RemoteShard:
    """What the front needs of a shard that is searched elsewhere; open from the start, as a `Shard` is."""

    def __init__(self, source: Source, n_passages: int, has_text: bool) -> None:
        self.folder, self.deleted, self.n_passages = source.folder, source.deleted, n_passages
        self._passages = PassageStore(source.folder, n_passages) if has_text else None

    @property
    def passages(self) -> PassageStore:
        """The passages themselves; UserError in an index of vectors alone."""
        if self._passages is None:
            raise UserError(f"{self.folder}: holds vectors without their passages")
        return self._passages


class Portion(Searcher):
    """Shards which are `numbers` (rising) in the whole list, `sources`, of `sizes` passages each.

    What its methods find names shards as in the whole list; masks are of its own shards.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        numbers: Sequence[int],
        sources: Sequence[Source],
        sizes: Sequence[int],
        threads: int | None = None,
    ) -> None:
        super().__init__(shards, threads)
        self._sources = sources
        self._sizes = sizes
        self._numbers = np.array(numbers, dtype=np.int64)
        self._here = np.full(len(sources), -1, dtype=np.int64)
        self._here[self._numbers] = np.arange(len(numbers))

    def own_masks(self, masked: Sequence[bool], bits: npt.NDArray[np.uint8]) -> list[Mask | None]:
        """The masks of these shards out of those of all; see `pack_masks`."""
        n_bytes = [-(-size // 8) if flag else 0 for size, flag in zip(self._sizes, masked, strict=True)]
        ends = np.cumsum(n_bytes)
        return [
            np.unpackbits(bits[ends[n] - n_bytes[n] : ends[n]], count=self._sizes[n]).view(np.bool_)
            if masked[n]
            else None
            for n in self._numbers.tolist()
        ]

    @cached_property
    def lexical(self) -> LexicalSearcher:
        """BM25 over all shards, not only these: a word's weight depends on all."""
        living = [None if source.deleted is None else ~source.deleted for source in self._sources]
        return LexicalSearcher([Lexical(source.folder) for source in self._sources], living)

    def with_words(self, codes: Sequence[QueryCodes], texts: Sequence[str] | None) -> list[Query]:
        """Queries, with their words where there are texts."""
        if not texts:
            return [(one, None) for one in codes]
        return [(one, self.lexical.query(text)) for one, text in zip(codes, texts, strict=True)]

    def propose(self, queries: Sequence[Query], effort: Effort, allowed: Masks) -> list[Found]:
        """For each query the best candidates by their estimates."""
        alone = len(queries) == 1

        def look(query: Query) -> Found:
            return self._listed(self.candidates(query[0], effort, allowed, parallel=alone)).best(effort.n)

        return self._map(look, queries)

    def propose_by_words(self, queries: Sequence[Query], allowed: Masks) -> list[Found]:
        """For each query, which has words, the best few by BM25."""
        masks: list[Mask | None] = [None] * len(self._sources)
        for number, mask in zip(self._numbers, allowed, strict=True):
            masks[number] = mask
        within = self._numbers.tolist()
        return [Found(*words.search(LEXICAL_CANDIDATES, masks, within=within)) for _, words in queries if words]

    def score_proposed(self, queries: Sequence[Query], proposed: Sequence[Found], k: int) -> list[Found]:
        """The k best, by their scores, of those proposed for each query that are here."""

        def score(pair: tuple[Query, Found]) -> Found:
            (codes, words), found = pair
            return self._fuse(self._listed(self.score(codes, self._own(found))), codes, words).best(k)

        return self._map(score, list(zip(queries, proposed, strict=True)))

    def find_exact(self, queries: Sequence[Query], k: int, allowed: Masks) -> list[Found]:
        """The k best of all passages for each query."""
        scored = self.score_all([codes for codes, _ in queries], allowed)
        return [self._fuse(self._listed(found), *query).best(k) for query, found in zip(queries, scored, strict=True)]

    def find_by_pooled(self, pooled: FloatArray, k: int, allowed: Masks) -> Found:
        """The k best by pooled cosine; see `Searcher.search_pooled`."""
        found = []
        for number, mask in enumerate(allowed):
            scores, rows = self.shards[number].search_pooled(pooled, k, mask)
            found.append(Found(np.full(len(rows), number), rows, scores))
        return self._listed(join(found)).best(k)

    def _listed(self, found: Found) -> Found:
        """Shards as in the whole list."""
        return Found(self._numbers[found.shards], found.rows, found.values)

    def _own(self, found: Found) -> Found:
        """Those of these shards, numbered as here."""
        shards = self._here[found.shards]
        own = shards >= 0
        return Found(shards[own], found.rows[own], found.values[own])
