"""The quoted answer: the passages' own best sentences, verbatim and cited, chosen by the encoder.

The language model orders the further quotes and joins them. Its view of which sentence answers (query likelihood)
was measured as well: no better than the encoder on textbook questions, and worse on papers, whose sentences need the
document's title that the encoder sees.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator, Sequence

from hiperrag.answering.evidence import Evidence, mean_maxsim, stems
from hiperrag.answering.generators.base import LikelihoodGenerator
from hiperrag.answering.hits import Hit
from hiperrag.answering.prompts import REFUSAL, template
from hiperrag.answering.result import Answer, AnswerEvent, Citation, Sentence
from hiperrag.encoders.base import Encoder

MAX_PASSAGES = 16
MAX_QUOTES = 3
ANSWERABLE = 1.27
"""Least relevance of the best sentence for an answer at all.

Chosen on SciQ and PubMedQA development questions with the packaged encoder: few answerable ones are refused, and
all that are put to passages of another field; another encoder needs its own value.
"""
MARGIN = 0.10
"""How far below the first quote's score a further one may be."""
SAME = 0.7
"""Share of the shorter sentence's content words in common above which two sentences say the same."""
OPENERS = ("", "In addition, ", "Also, ", "Further, ")
"""What may join two quotes: words that claim no relation between them beyond standing side by side."""

_WORDS_WEIGHT = 0.3
_OPEN_WEIGHT = 0.5
_CAPTION_WEIGHT = 0.2
_QUESTION = re.compile(r"^(?:do|does|did|is|are|was|were|can|could|what|which|how|why)\b|\?[\"'”’)]*$", re.IGNORECASE)
_AIM = re.compile(
    r"^(?:to|in order to)\s+(?!date)\w+[^,]*$"
    r"|\b(?:aim|aims|aimed|objectives?|purpose|goal|hypothesi[sz]ed?|sought|planned to)\b"
    r"|\b(?:whether|unclear|not known|unknown|controversial|debated?|little is known)\b",
    re.IGNORECASE,
)
_ABOUT_FIGURES = re.compile(r"\b(?:figures?|fig|tables?|captions?|plots?|shown)\b", re.IGNORECASE)
_REFERENCE_MARK = re.compile(r"\s*\[[1-9]\d*(?:\s*[,;–-]\s*[1-9]\d*)*\]")


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence of passage [n]."""

    n: int
    text: str
    score: float
    """How well it answers the question; compares sentences of one question only."""
    relevance: float
    """Mean MaxSim of the question with the sentence plus that with its passage, at most 2; compares questions."""


def quote(
    question: str, hits: Sequence[Hit], generator: LikelihoodGenerator, encoder: Encoder
) -> Iterator[AnswerEvent]:
    """One to three quoted Sentences, then the Answer. Looks at the first MAX_PASSAGES hits."""
    started = time.perf_counter()
    evidence = Evidence(hits[:MAX_PASSAGES], encoder)
    picked = pick(rank(question, evidence, encoder))
    timings = {"select": _since(started), "first_token": _since(started)}
    sentences: list[Sentence] = []
    for candidate in in_order(question, picked, generator):
        quoted = f"“{quotable(candidate.text)}”"
        opener = join(sentences[-1].text, quoted, generator) if sentences else ""
        citation = Citation.of(candidate.n, evidence.hits[candidate.n - 1], candidate.text)
        sentences.append(Sentence(f"{opener}{quoted} [{candidate.n}]", [citation]))
        yield sentences[-1]
    yield Answer(
        text=" ".join(sentence.text for sentence in sentences) or REFUSAL,
        citations=[citation for sentence in sentences for citation in sentence.citations],
        supported=bool(sentences),
        mode="quoted",
        generator=generator.spec,
        timings_ms={**timings, "total": _since(started), "tokens": 0.0},
    )


def rank(question: str, evidence: Evidence, encoder: Encoder) -> list[Candidate]:
    """Every sentence of the passages by how well it answers, best first.

    The score is the mean MaxSim of the question with the sentence behind its document's title, plus the share
    of the question's content words in them, less fixed amounts for a sentence that leaves it open and
    for captions and tables, which are worded like questions about what they show.
    """
    if not evidence.sentences:
        return []
    query = encoder.encode_queries([question]).tokens
    similarity = mean_maxsim(query, evidence.in_context)
    asked = set(stems(question))
    about_figures = bool(_ABOUT_FIGURES.search(question))
    candidates = []
    for sentence, near in zip(evidence.sentences, similarity.tolist(), strict=True):
        hit = evidence.hits[sentence.n - 1]
        shared = asked & set(stems(f"{hit.passage.title} {sentence.text}"))
        score = near - _OPEN_WEIGHT * leaves_open(question, sentence.text)
        score += _WORDS_WEIGHT * len(shared) / len(asked) if asked else 0.0
        score -= _CAPTION_WEIGHT * (hit.passage.kind in ("caption", "table") and not about_figures)
        candidates.append(Candidate(sentence.n, sentence.text, score, near + hit.score / max(len(query), 1)))
    return sorted(candidates, key=lambda candidate: -candidate.score)


def leaves_open(question: str, sentence: str) -> bool:
    """Whether a sentence asks rather than tells.

    A paper's aim is worded like the question and does not answer it, unless the question is about the aim.
    """
    return bool(_QUESTION.search(sentence) or (_AIM.search(sentence) and not _AIM.search(question)))


def pick(ranked: Sequence[Candidate]) -> list[Candidate]:
    """The sentences to quote: the best, and those close to it that say something else.

    None where the passages are too far from the question.
    """
    picked: list[Candidate] = []
    if max((candidate.relevance for candidate in ranked), default=0.0) < ANSWERABLE:
        return picked
    for candidate in ranked:
        if len(picked) == MAX_QUOTES or candidate.score < ranked[0].score - MARGIN:
            break
        if not any(says_the_same(candidate.text, other.text) for other in picked):
            picked.append(candidate)
    return picked


def in_order(question: str, picked: Sequence[Candidate], generator: LikelihoodGenerator) -> Iterator[Candidate]:
    """The best quote at once; then the others, the one first under which the question is likeliest.

    Query likelihood: Ponte & Croft 1998; with language models, Sachan et al. 2022.
    """
    yield from picked[:1]
    others = picked[1:]
    if len(others) > 1:
        ask = template("ask_about.txt")
        messages = [[{"role": "user", "content": ask.substitute(text=other.text).strip()}] for other in others]
        likelihoods = generator.log_likelihoods([(generator.prompt(message), question) for message in messages])
        others = [others[i] for i in sorted(range(len(others)), key=lambda i: -likelihoods[i])]
    yield from others


def join(said: str, quoted: str, generator: LikelihoodGenerator) -> str:
    """The opener after which the language model finds the start of the next quote likeliest."""
    before, beginning = " ".join(said.split()[-20:]), " ".join(quoted.split()[:6])
    likelihoods = generator.log_likelihoods([(f"{before} {opener}".rstrip(), f" {beginning}") for opener in OPENERS])
    return OPENERS[max(range(len(OPENERS)), key=likelihoods.__getitem__)]


def quotable(sentence: str) -> str:
    """The sentence without its paper's own reference marks: "[12]" would read as a citation of passage 12."""
    return _REFERENCE_MARK.sub("", " ".join(sentence.split()))


def says_the_same(one: str, other: str) -> bool:
    """Whether the shorter sentence's content words are nearly all in the longer one."""
    first, second = set(stems(one)), set(stems(other))
    smaller = min(len(first), len(second))
    return len(first & second) >= SAME * smaller if smaller else one == other


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
