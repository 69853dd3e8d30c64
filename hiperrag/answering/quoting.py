"""The quoted answer: the passages' own best sentences, verbatim and cited, chosen by encoder and language model."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Sequence

import numpy as np

from hiperrag.answering.evidence import Evidence, Scores, mean_maxsim, stems
from hiperrag.answering.generators.base import Generator
from hiperrag.answering.hits import Hit
from hiperrag.answering.prompts import REFUSAL
from hiperrag.answering.result import Answer, AnswerEvent, Citation, Sentence
from hiperrag.encoders.base import Encoder

MAX_PASSAGES = 16
MAX_CANDIDATES = 8
MAX_QUOTES = 3
ANSWERABLE = 0.55
"""Least score of the best sentence for an answer at all."""
MARGIN = 0.05
"""How far below the best a further sentence may score."""
SAME = 0.7
"""Share of content words in common above which two sentences say the same."""

_REFERENCE_MARK = re.compile(r"\s*\[[1-9]\d*(?:\s*[,;–-]\s*[1-9]\d*)*\]")


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence of passage [n] and how well it answers the question."""

    n: int
    text: str
    score: float


def quote(question: str, hits: Sequence[Hit], generator: Generator, encoder: Encoder) -> Iterator[AnswerEvent]:
    """One to three quoted Sentences, then the Answer."""
    started = time.perf_counter()
    evidence = Evidence(hits[:MAX_PASSAGES], encoder)
    ranked = rank(question, evidence, encoder)
    timings = {"select": _since(started)}
    picked = pick(ranked)
    sentences = []
    for place, candidate in enumerate(picked):
        timings.setdefault("first_token", _since(started))
        citation = Citation.of(candidate.n, evidence.hits[candidate.n - 1], candidate.text)
        opener = "In addition, " if place else ""
        sentence = Sentence(f"{opener}“{quotable(candidate.text)}” [{candidate.n}]", [citation])
        sentences.append(sentence)
        yield sentence
    timings.setdefault("first_token", _since(started))
    timings["total"] = _since(started)
    timings["tokens"] = 0.0
    yield Answer(
        text=" ".join(sentence.text for sentence in sentences) or REFUSAL,
        citations=[citation for sentence in sentences for citation in sentence.citations],
        supported=bool(sentences),
        mode="quoted",
        generator=generator.spec,
        timings_ms=timings,
    )


def quotable(sentence: str) -> str:
    """The sentence without its paper's own reference marks: "[12]" would read as a citation of passage 12."""
    return _REFERENCE_MARK.sub("", " ".join(sentence.split()))


def rank(question: str, evidence: Evidence, encoder: Encoder) -> list[Candidate]:
    """Every sentence of the passages by how well it answers, best first."""
    if not evidence.sentences:
        return []
    query = encoder.encode_queries([question]).tokens
    scores: Scores = mean_maxsim(query, evidence.in_context)
    order = np.argsort(-scores, kind="stable")
    return [Candidate(evidence.sentences[i].n, evidence.sentences[i].text, float(scores[i])) for i in order.tolist()]


def pick(ranked: Sequence[Candidate]) -> list[Candidate]:
    """The sentences to quote: none if the best is not good enough, and no two that say the same."""
    if not ranked or ranked[0].score < ANSWERABLE:
        return []
    picked: list[Candidate] = []
    for candidate in ranked:
        if len(picked) == MAX_QUOTES or candidate.score < ranked[0].score - MARGIN:
            break
        if not any(says_the_same(candidate.text, other.text) for other in picked):
            picked.append(candidate)
    return picked


def says_the_same(one: str, other: str) -> bool:
    """Whether the shorter sentence's content words are nearly all in the longer one."""
    first, second = set(stems(one)), set(stems(other))
    smaller = min(len(first), len(second))
    return len(first & second) >= SAME * smaller if smaller else one == other


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
