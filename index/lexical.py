"""BM25 over the words of passages: postings in each shard, statistics over all shards that are searched.

A shard stores counts only. Document frequencies and the average length are summed when shards are opened together, so
that a passage's score is the same, bit for bit, however the collection is cut into shards, and deleted passages count
for nothing. Libraries that store finished scores (bm25s) or keep statistics per index (tantivy) cannot do that.

Files in a shard's folder, memory-mapped:
  lexical_terms.npy    (n_terms,) uint64, ascending: hashes of the shard's terms
  lexical_starts.npy   (n_terms + 1,) int64; starts[i]:starts[i + 1] of the next two belong to term i
  lexical_rows.npy     (n_postings,) uint32: passages that hold the term, ascending
  lexical_counts.npy   (n_postings,) uint8: how often they hold it, at most 255
  lexical_lengths.npy  (n_passages,) uint32: terms in each passage
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hiperrag.errors import UserError

FILES = tuple(f"lexical_{name}.npy" for name in ("terms", "starts", "rows", "counts", "lengths"))
K1, B = 1.2, 0.75
"""Saturation of a term's count, and how much length counts: Lucene's defaults."""
MOST_COUNTED = 255
WORDS_KEPT = 2**18
"""Words whose hash an analyzer remembers."""
SMALLEST = np.finfo(np.float32).tiny

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_WORD = re.compile(r"\w+")
_STOP_WORDS = frozenset(
    re.findall(
        _WORD,
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with",
    )
)


class Analyzer:
    """Text to term hashes: words in lower case, without English stop words, by their Snowball (Porter 2) stem."""

    def __init__(self) -> None:
        import Stemmer

        self._stem = Stemmer.Stemmer("english").stemWord
        self._hash = lru_cache(maxsize=WORDS_KEPT)(self._hash_stem)

    def __call__(self, text: str) -> list[int]:
        """The 64-bit hashes of the text's terms, in order, repeated where the text repeats them."""
        words = _WORD.findall(unicodedata.normalize("NFKC", text).lower())
        return [self._hash(word) for word in words if word not in _STOP_WORDS]

    def _hash_stem(self, word: str) -> int:
        stem = self._stem(word).encode("utf-8", "replace")
        return int.from_bytes(hashlib.blake2b(stem, digest_size=8).digest(), "little")


def write_lexical(folder: Path, texts: Iterable[str]) -> None:
    """Write the postings of a shard's passages, in the order of its rows, into its folder.

    Memory grows with the number of postings (one for each different term of a passage), about 40 bytes each.
    """
    analyze = Analyzer()
    numbers: dict[int, int] = {}
    terms, rows, counts, lengths = array("I"), array("I"), array("B"), array("I")
    for row, text in enumerate(texts):
        found = Counter(analyze(text))
        lengths.append(found.total())
        for term, count in found.items():
            terms.append(numbers.setdefault(term, len(numbers)))
            rows.append(row)
            counts.append(min(count, MOST_COUNTED))
    hashes = np.fromiter(numbers, dtype=np.uint64, count=len(numbers))
    by_hash = np.argsort(hashes)
    rank = np.empty(len(hashes), dtype=np.uint32)
    rank[by_hash] = np.arange(len(hashes), dtype=np.uint32)
    ranks = rank[np.frombuffer(terms, dtype=np.uint32)]
    order = np.argsort(ranks, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(ranks, minlength=len(hashes)))]).astype(np.int64)
    arrays: list[npt.NDArray[Any]] = [
        hashes[by_hash],
        starts,
        np.frombuffer(rows, dtype=np.uint32)[order],
        np.frombuffer(counts, dtype=np.uint8)[order],
        np.frombuffer(lengths, dtype=np.uint32),
    ]
    for name, stored in zip(FILES, arrays, strict=True):
        np.save(folder / name, stored)


class Lexical:
    """A shard's postings, opened for reading; they stay on disk and are paged in as they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            terms, starts, rows, counts, lengths = (_open(folder / name) for name in FILES)
        except Exception as error:  # NumPy parses headers as Python, which raises anything.
            raise self.damaged(" ".join(str(error).split())[:200] or type(error).__name__) from None
        self.terms: npt.NDArray[np.uint64] = terms
        self.starts: IntArray = starts
        self.rows: npt.NDArray[np.uint32] = rows
        self.counts: npt.NDArray[np.uint8] = counts
        self.lengths: npt.NDArray[np.uint32] = lengths
        self.n_passages = len(lengths) if lengths.ndim else 0
        if not self._agree():
            raise self.damaged("its files disagree")

    def _agree(self) -> bool:
        stored: list[npt.NDArray[Any]] = [self.terms, self.starts, self.rows, self.counts, self.lengths]
        kinds = (np.uint64, np.int64, np.uint32, np.uint8, np.uint32)
        return (
            all(one.dtype == kind and one.ndim == 1 for one, kind in zip(stored, kinds, strict=True))
            and len(self.starts) == len(self.terms) + 1
            and int(self.starts[0]) == 0
            and int(self.starts[-1]) == len(self.rows) == len(self.counts)
            and bool(np.all(self.starts[1:] > self.starts[:-1]))
            and bool(np.all(self.terms[1:] > self.terms[:-1]))
        )

    def damaged(self, reason: str) -> UserError:
        """The error that says so in one line."""
        return UserError(f"{self.folder}: damaged word index ({reason}); run `hiperrag doctor COLLECTION`")

    def spans(self, terms: npt.NDArray[np.uint64]) -> IntArray:
        """Where each term's postings start and end: (n, 2); an empty span for a term that the shard has not."""
        at = np.searchsorted(self.terms, terms)
        found = at < len(self.terms)
        found[found] = self.terms[at[found]] == terms[found]
        spans = np.zeros((len(terms), 2), dtype=np.int64)
        spans[found, 0], spans[found, 1] = self.starts[at[found]], self.starts[at[found] + 1]
        return spans

    def holding(self, start: int, end: int) -> IntArray:
        """The rows of the postings start..end, in NumPy's index type, by which it indexes twice as fast."""
        rows = self.rows[start:end].astype(np.int64)
        if rows.max(initial=-1) >= self.n_passages:
            raise self.damaged("a row that does not exist")
        return rows


def _open(path: Path) -> npt.NDArray[Any]:
    """A memory-mapped array, as a plain view: slices of np.memmap are slow to make."""
    return np.lib.format.open_memmap(path, mode="r").view(np.ndarray)


class Found(NamedTuple):
    """Passages, best first: position of their shard (k,) int64, row there (k,) int64, BM25 score (k,) float32."""

    shards: IntArray
    rows: IntArray
    scores: FloatArray


class LexicalSearcher:
    """BM25 over the shards of a collection.

    living: for each shard a mask (n_passages,) of the passages that are not deleted, or None where all live; the
    others are never found and are in no statistic.
    """

    def __init__(self, shards: Sequence[Lexical], living: Sequence[Mask | None] | None = None) -> None:
        self.shards = list(shards)
        self.living = [None] * len(self.shards) if living is None else list(living)
        self.n_passages, n_terms = 0, 0
        for shard, alive in zip(self.shards, self.living, strict=True):
            counted = slice(None) if alive is None else alive
            self.n_passages += len(shard.lengths[counted])
            n_terms += int(shard.lengths[counted].sum(dtype=np.int64))
        mean_length = max(n_terms / max(self.n_passages, 1), 1.0)
        floor, per_term = np.float32(K1 * (1 - B)), np.float32(K1 * B / mean_length)
        self.norms = [floor + per_term * shard.lengths.astype(np.float32) for shard in self.shards]
        self._analyze = Analyzer()

    def query(self, text: str) -> LexicalQuery:
        """Weigh a query's terms; the result searches and scores."""
        return LexicalQuery(self, Counter(self._analyze(text)))


class LexicalQuery:
    """One query over the shards of a searcher.

    BM25 as Lucene computes it (Robertson & Zaragoza 2009, section 3; Kamphuis et al. 2020, "Lucene (accurate)"): the
    sum over terms of idf * count / (count + K1 * (1 - B + B * length / mean_length)), where
    idf = log(1 + (n - df + 0.5) / (df + 0.5)); a term weighs as often as the query repeats it.
    """

    def __init__(self, searcher: LexicalSearcher, terms: Counter[int]) -> None:
        self._searcher = searcher
        hashes = np.array(sorted(terms), dtype=np.uint64)
        spans = [shard.spans(hashes) for shard in searcher.shards]
        df = sum((self._frequencies(number, one) for number, one in enumerate(spans)), np.zeros(len(hashes), np.int64))
        repeats = np.array([terms[int(term)] for term in hashes], dtype=np.int64)
        weights = repeats * np.log1p((searcher.n_passages - df + 0.5) / (df + 0.5))
        known = np.flatnonzero(df)
        heaviest_first = known[np.argsort(-weights[known], kind="stable")]
        self._spans = [one[heaviest_first] for one in spans]
        self._weights: FloatArray = weights[heaviest_first].astype(np.float32)
        self.limit = float(self._weights.sum(dtype=np.float64))
        """What no passage's score reaches: the sum of the weights of the terms that the collection holds."""

    def search(
        self, k: int, allowed: Sequence[Mask | None] | None = None, within: Iterable[int] | None = None
    ) -> Found:
        """The k (at least 1) best passages that hold any term of the query; equal scores come in shard and row order.

        allowed: for each shard a mask (n_passages,) of passages that may be found, or None for all. within: positions
        of the shards to look in (all of them, unless given); the statistics stay those of all.
        """
        found = Found(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        for number in range(len(self._spans)) if within is None else within:
            enough = found.scores[-1] if len(found.scores) == k else np.float32(0)
            rows, scores = self._best(number, k, None if allowed is None else allowed[number], enough)
            shards = np.concatenate([found.shards, np.full(len(rows), number)])
            rows, scores = np.concatenate([found.rows, rows]), np.concatenate([found.scores, scores])
            best = np.lexsort((rows, shards, -scores))[:k]
            found = Found(shards[best], rows[best], scores[best])
        return found

    def score(self, number: int, rows: npt.NDArray[Any]) -> FloatArray:
        """BM25 of the passages at `rows` of shard `number`, in that order; 0 for one that holds no term."""
        shard, wanted = self._searcher.shards[number], rows.astype(np.uint32)
        scores = np.zeros(len(rows), dtype=np.float32)
        for term, (start, end) in enumerate(self._spans[number]):
            holding, counts = shard.rows[start:end], shard.counts[start:end]
            at = np.searchsorted(holding, wanted)
            held = at < len(holding)
            held[held] = holding[at[held]] == wanted[held]
            scores[held] += self._gains(number, term, rows[held], counts[at[held]])
        return scores

    def _frequencies(self, number: int, spans: IntArray) -> IntArray:
        """How many living passages of a shard hold each term."""
        alive = self._searcher.living[number]
        if alive is None:
            return spans[:, 1] - spans[:, 0]
        shard = self._searcher.shards[number]
        return np.array([np.count_nonzero(alive[shard.holding(start, end)]) for start, end in spans], dtype=np.int64)

    def _best(self, number: int, k: int, allowed: Mask | None, enough: np.float32) -> tuple[IntArray, FloatArray]:
        """Rows and scores of a shard's k best, and of some that are not, among those that score at least `enough`."""
        masks = [mask for mask in (self._searcher.living[number], allowed) if mask is not None]
        scores = np.zeros(self._searcher.shards[number].n_passages, dtype=np.float32)
        for term in range(len(self._weights)):
            rows, counts = self._postings(number, term)
            scores[rows] += self._gains(number, term, rows, counts)
        enough = max(enough, self._bound(number, k, masks, scores))
        rows = _masked(np.flatnonzero(scores >= max(enough, SMALLEST)), masks)
        return rows, scores[rows]

    def _bound(self, number: int, k: int, masks: Sequence[Mask], scores: FloatArray) -> np.float32:
        """A score that k passages of the shard reach: the k-th best among those with the heaviest term that k hold."""
        for term in range(len(self._weights)):
            holding = scores[_masked(self._postings(number, term)[0], masks)]
            if len(holding) >= k:
                bound: np.float32 = np.partition(holding, len(holding) - k)[len(holding) - k]
                return bound
        return np.float32(0)

    def _postings(self, number: int, term: int) -> tuple[IntArray, npt.NDArray[np.uint8]]:
        """The rows of a shard that hold a term, and how often they do."""
        shard, (start, end) = self._searcher.shards[number], self._spans[number][term]
        return shard.holding(start, end), shard.counts[start:end]

    def _gains(self, number: int, term: int, rows: IntArray, counts: npt.NDArray[np.uint8]) -> FloatArray:
        """What a term adds to the scores of the passages at `rows` that hold it `counts` times."""
        gains, norms = counts.astype(np.float32), self._searcher.norms[number][rows]
        norms += gains
        gains *= self._weights[term]
        gains /= norms
        return gains


def _masked(rows: IntArray, masks: Sequence[Mask]) -> IntArray:
    for mask in masks:
        rows = rows[mask[rows]]
    return rows
