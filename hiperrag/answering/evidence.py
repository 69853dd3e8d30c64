"""The retrieved passages as sentences, and how far they support a statement."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hiperrag.answering.hits import Hit
from hiperrag.encoders.base import Encoded, Encoder
from hiperrag.sentences import split_sentences

Scores = npt.NDArray[np.float32]

_NUMBER = re.compile(r"(?<![A-Za-z\d.])\d+(?:[,\u2009\u202f]\d{3}(?!\d))*(?:\.\d+)?")
_NUMBER_WORDS = {
    word: str(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
    )
}
_STOP_WORDS = frozenset(
    """a about above after all also although am an and any are as at be because been before being below between
    both but by can could did do does doing down during each either few for from further had has have having he
    her here hers him his how however i if in into is it its itself just may me might more most must my neither
    no nor not of off on once one only or other our out over own rather same shall she should since so some such
    than that the their them then there therefore these they this those through thus to too under until up upon
    us very was we were what when where whether which while who whom whose why will with within without would
    yet you your""".split()  # noqa: SIM905
)
_SUFFIXES = ("ations", "ation", "ings", "ing", "ies", "ied", "ely", "es", "ed", "ly", "s", "e", "y")


@dataclasses.dataclass(frozen=True, slots=True)
class PassageSentence:
    """A sentence of passage [n], with the one before it where there is one."""

    n: int
    text: str
    before: str


@dataclasses.dataclass(frozen=True, slots=True)
class Wording:
    """How far passage [n] has the words and numbers of a statement; see `Support`."""

    n: int
    coverage: float
    numbers: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Support:
    """How far passage [n] supports a statement."""

    n: int
    similarity: float
    """Mean over the statement's tokens of the best cosine, against the closest sentence; at most 1."""
    coverage: float
    """Share of the statement's content words that the passage has, 0..1."""
    numbers: bool
    """Whether the passage has every number of the statement."""
    sentence: str
    """The closest sentence, verbatim."""


class Evidence:
    """Hits cut into sentences, for one question; hit i is passage [i + 1]. Passages are encoded as they are needed."""

    def __init__(self, hits: Sequence[Hit], encoder: Encoder) -> None:
        self.hits = list(hits)
        self.sentences: list[PassageSentence] = []
        self._encoder = encoder
        for n, hit in enumerate(self.hits, start=1):
            before = ""
            for text in split_sentences(hit.passage.text):
                if stripped := text.strip():
                    self.sentences.append(PassageSentence(n, stripped, before))
                    before = stripped
        self._passage_words = [set(stems(f"{hit.passage.title} {hit.passage.text}")) for hit in self.hits]
        self._passage_numbers = [numbers(f"{hit.passage.title} {hit.passage.text}") for hit in self.hits]
        self._texts = [[one.text for one in self.sentences if one.n == n] for n in range(1, len(self.hits) + 1)]
        self._encoded: dict[int, Encoded] = {}
        self._statement: tuple[str, Scores] | None = None

    @functools.cached_property
    def in_context(self) -> Encoded:
        """Vectors of all sentences, each behind its document's title."""
        titles = [hit.passage.title for hit in self.hits]
        return self._encoder.encode_passages(
            [f"{titles[sentence.n - 1]} {sentence.text}".strip() for sentence in self.sentences]
        )

    def wording(self, statement: str) -> list[Wording]:
        """What each passage that has a sentence shares with a statement, in the order of the passages."""
        words, needed = stems(statement), numbers(statement, words=False)
        return [
            Wording(
                n=n,
                coverage=sum(word in self._passage_words[n - 1] for word in words) / len(words) if words else 0.0,
                numbers=needed <= self._passage_numbers[n - 1],
            )
            for n, texts in enumerate(self._texts, start=1)
            if texts
        ]

    def support(self, statement: str, by: Sequence[Wording]) -> list[Support]:
        """Support by these passages, best first; their sentences are encoded, once."""
        fresh = [one.n for one in by if one.n not in self._encoded]
        if fresh:
            self._encode(fresh)
        found = []
        for one in by:
            similarity = mean_maxsim(self._vectors(statement), self._encoded[one.n])
            best = int(similarity.argmax())
            found.append(
                Support(one.n, float(similarity[best]), one.coverage, one.numbers, self._texts[one.n - 1][best])
            )
        return sorted(found, key=lambda support: -support.similarity - support.coverage)

    def _encode(self, passages: Sequence[int]) -> None:
        texts = [text for n in passages for text in self._texts[n - 1]]
        encoded = self._encoder.encode_passages(texts)
        start = 0
        for n in passages:
            stop = start + len(self._texts[n - 1])
            first, last = encoded.offsets[start], encoded.offsets[stop]
            self._encoded[n] = Encoded(
                encoded.tokens[first:last],
                encoded.offsets[start : stop + 1] - first,
                encoded.pooled[start:stop],
                encoded.truncated[start:stop],
            )
            start = stop

    def _vectors(self, statement: str) -> Scores:
        """Token vectors of the statement judged, which is asked for twice at most."""
        if self._statement is None or self._statement[0] != statement:
            self._statement = statement, self._encoder.encode_passages([statement]).tokens
        return self._statement[1]

    def has_numbers(self, statement: str, cited: Sequence[int]) -> bool:
        """Whether the cited passages together have every number of the statement."""
        had = set().union(*(self._passage_numbers[n - 1] for n in cited)) if cited else set()
        return numbers(statement, words=False) <= had


def mean_maxsim(query: Scores, encoded: Encoded) -> Scores:
    """MaxSim of one query (n_tokens, dim) against each encoded text, divided by n_tokens; (n_texts,).

    A text without tokens scores -1.
    """
    offsets = encoded.offsets
    scores = np.full(len(offsets) - 1, -1.0, dtype=np.float32)
    filled = np.flatnonzero(np.diff(offsets))
    if len(query) and filled.size:
        cosines = query @ encoded.tokens.T
        scores[filled] = np.maximum.reduceat(cosines, offsets[filled], axis=1).mean(0)
    return scores


def stems(text: str) -> list[str]:
    """Content words in lower case without stop words, numbers and common endings, each once."""
    found = re.findall(r"[^\W\d_]+(?:\d[^\W_]*)?", text.lower())
    return list(dict.fromkeys(_stem(word) for word in found if len(word) > 1 and word not in _STOP_WORDS))


def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


def numbers(text: str, *, words: bool = True) -> set[str]:
    """The numbers of a text in one form ("1,000" and "1000.0" are "1000"); with `words`, "three" counts as 3."""
    found = {_plain(match) for match in _NUMBER.findall(text)}
    if words:
        found.update(_NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _NUMBER_WORDS)
    return found


def _plain(number: str) -> str:
    digits = re.sub(r"[,\u2009\u202f]", "", number)
    whole, _, fraction = digits.partition(".")
    fraction = fraction.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{fraction}" if fraction else "")
