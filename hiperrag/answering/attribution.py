"""Which passage caused this sentence: what the generator finds less likely once a passage is taken away.

For a sentence s of an answer and a set S of the passages P shown with question q, the effect is

    effect(S) = log p(s | P, q, answer so far) - log p(s | P without S, q, answer so far)      [nats]

with p the generator's own probabilities in its own prompt (`prompts.answer_messages`; the passages that stay keep
their numbers). S is a single passage; a group of passages that say the same, since the others would make up for
one that is left out alone; and all of them (the no-context baseline, `log_p_no_context`). Citations [n] are taken out
of what is scored: they point at a passage whatever it says. Removing a source and looking at the likelihood of a
given answer is the leave-one-out score of ContextCite (Cohen-Wang et al. 2024, arXiv:2409.00729).

Tokens come with the entropy of the distribution that they were taken from, after "Probabilistic Attribution For Large
Language Models" (Shilpika, Graziani, Lusch, Vishwanath & Papka 2026, arXiv:2605.21726). That paper's score, the log of
p(response | prompt) over p(response | prompt with a token marginalised away), is in `marginalisation`.

`Attribution.to_json()` is

    {"question", "generator", "n_contexts": 8, "timings_ms": {"total"},
     "sentences": [{
        "text": "Quokkas eat leaves [2].", "log_p": -9.1, "log_p_no_context": -31.0, "entropy": 0.42,
        "passages": [{"n": 1, "passage_id": "...", "effect": 0.02}, ...],     every passage, by n
        "groups":   [{"ns": [2, 4], "effect": 19.8}, ...],                    passages that say the same, if any
        "causes":   [{"ns": [2, 4], "effect": 19.8}, {"ns": [1], "effect": 0.02}, ...],   best first, no n twice
        "tokens":   [{"text": " leaves", "log_p": -0.1, "entropy": 0.4}, ...]}, ...]}

in nats; "entropy" is null, and that of a sentence the mean over its tokens, where the generator gives no whole
distributions.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from hiperrag.answering.citations import without_markers
from hiperrag.answering.evidence import numbers, stems
from hiperrag.answering.generators.base import Generator
from hiperrag.answering.generators.scoring import CannotScoreError, TokenScore, scorer
from hiperrag.answering.hits import Hit
from hiperrag.answering.prompts import answer_messages
from hiperrag.sentences import split_sentences

Progress = Callable[[int, int], None]
"""Told (contexts done, contexts in all) after each one; what it raises ends the attribution."""

SAME = 0.7
"""Share of the shorter passage's content words in the longer one above which they say the same."""
STATED = 0.5
"""Share of a statement's content words that a passage's sentence has where it states the same, if reworded.

For both, the numbers must agree as well.
"""
REDUNDANT = 1.5
"""A group is one cause where its effect is this many times the sum of its members' own."""

_NOTHING: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class Effect:
    """How much less likely, in nats, the sentence is without the passages `ns` (numbers from 1)."""

    ns: tuple[int, ...]
    effect: float


@dataclasses.dataclass(frozen=True, slots=True)
class SentenceAttribution:
    """What a sentence of the answer owes to the passages; probabilities are natural logarithms."""

    text: str
    log_p: float
    log_p_no_context: float
    passages: list[Effect]
    """Each passage alone, in the order of the passages."""
    groups: list[Effect]
    """Passages that say the same, left out together."""
    tokens: list[TokenScore]

    @property
    def causes(self) -> list[Effect]:
        """Passages and groups by their effect, the largest first, no passage twice.

        A group stands for its members where leaving out one of them hides what they do together (REDUNDANT).
        """
        alone = {one.ns[0]: one.effect for one in self.passages}
        found: list[Effect] = []
        for group in sorted(self.groups, key=lambda group: -group.effect):
            members = [alone.get(n) for n in group.ns]
            known = [effect for effect in members if effect is not None]
            if len(known) == len(members) and group.effect > REDUNDANT * sum(max(0.0, effect) for effect in known):
                found.append(group)
                alone = {n: effect for n, effect in alone.items() if n not in group.ns}
        found += [Effect((n,), effect) for n, effect in alone.items()]
        return sorted(found, key=lambda one: -one.effect)

    @property
    def entropy(self) -> float | None:
        """Mean entropy of the tokens' distributions, in nats a token."""
        known = [token.entropy for token in self.tokens if token.entropy is not None]
        return sum(known) / len(known) if known else None


@dataclasses.dataclass(frozen=True, slots=True)
class Attribution:
    """An answer's sentences with what caused them."""

    question: str
    generator: str
    sentences: list[SentenceAttribution]
    passage_ids: list[str]
    n_contexts: int
    """How many sets of passages the answer was scored with."""
    total_ms: float

    def to_json(self) -> dict[str, Any]:
        """The object that this module's docstring shows."""
        return {
            "question": self.question,
            "generator": self.generator,
            "n_contexts": self.n_contexts,
            "timings_ms": {"total": round(self.total_ms, 1)},
            "sentences": [self._sentence(one) for one in self.sentences],
        }

    def _sentence(self, one: SentenceAttribution) -> dict[str, Any]:
        return {
            "text": one.text,
            "log_p": one.log_p,
            "log_p_no_context": one.log_p_no_context,
            "entropy": one.entropy,
            "passages": [
                {"n": n, "passage_id": self.passage_ids[n - 1], "effect": single.effect}
                for single in one.passages
                for n in single.ns
            ],
            "groups": [{"ns": list(group.ns), "effect": group.effect} for group in one.groups],
            "causes": [{"ns": list(cause.ns), "effect": cause.effect} for cause in one.causes],
            "tokens": [{"text": token.text, "log_p": token.log_p, "entropy": token.entropy} for token in one.tokens],
        }


def attribute(
    question: str,
    hits: Sequence[Hit],
    sentences: Sequence[str],
    generator: Generator,
    progress: Progress | None = None,
) -> Attribution:
    """What each sentence of an answer owes to each of the passages that it was made from.

    `hits` are the passages as the answer got them (hit i is passage [i + 1]), `sentences` the answer's, citations
    and all. CannotScoreError where the generator gives no log-probabilities or cannot take so much, and where there
    is nothing to attribute.
    """
    started = time.perf_counter()
    scored = _Scored(sentences)
    if not hits or not scored.text:
        raise CannotScoreError("nothing to attribute: it takes an answer and the passages that it was made from")
    alone = [frozenset([n]) for n in range(1, len(hits) + 1)]
    groups = [_groups(statement, hits) for statement in scored.statements]
    everything = frozenset().union(*alone)
    dropped = list(dict.fromkeys([_NOTHING, *alone, *(group for found in groups for group in found), everything]))
    conversations = [answer_messages(question, hits, without=some) for some in dropped]
    tokens: dict[frozenset[int], list[list[TokenScore]]] = {}
    for i, found in scorer(generator).score_answers(conversations, scored.text):
        tokens[dropped[i]] = scored.by_sentence(found)
        if progress:
            progress(len(tokens), len(dropped))

    def log_p(some: frozenset[int], i: int) -> float:
        return sum(token.log_p for token in tokens[some][i])

    def effect(some: frozenset[int], i: int) -> Effect:
        return Effect(tuple(sorted(some)), log_p(_NOTHING, i) - log_p(some, i))

    found_sentences = [
        SentenceAttribution(
            text=text,
            log_p=log_p(_NOTHING, i),
            log_p_no_context=log_p(everything, i),
            passages=[effect(some, i) for some in alone],
            groups=[effect(some, i) for some in groups[i]],
            tokens=tokens[_NOTHING][i],
        )
        for i, text in enumerate(sentences)
    ]
    passage_ids = [hit.passage.passage_id for hit in hits]
    total_ms = 1000 * (time.perf_counter() - started)
    return Attribution(question, generator.spec, found_sentences, passage_ids, len(dropped), total_ms)


class _Scored:
    """The answer as it is scored: its sentences without citations, a space between."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self.statements = [without_markers(sentence) for sentence in sentences]
        self.text = ""
        self._ends: list[int] = []
        for statement in self.statements:
            self.text += f" {statement}" if self.text and statement else statement
            self._ends.append(len(self.text))

    def by_sentence(self, tokens: Sequence[TokenScore]) -> list[list[TokenScore]]:
        """The tokens of each sentence; one belongs where its last character does."""
        found: list[list[TokenScore]] = [[] for _ in self.statements]
        i = 0
        for token in tokens:
            while token.end > self._ends[i] and i < len(self._ends) - 1:
                i += 1
            found[i].append(token)
        return found


def _groups(statement: str, hits: Sequence[Hit]) -> list[frozenset[int]]:
    """Sets of two or more passages that say the same: near-duplicates, and those that each state the sentence."""
    texts = [hit.passage.text for hit in hits]
    stating = frozenset(n for n, text in enumerate(texts, start=1) if _states(text, statement))
    found = [*_near_duplicates(texts), *([stating] if len(stating) > 1 else [])]
    return list(dict.fromkeys(found))


def _states(passage: str, statement: str) -> bool:
    """Whether a sentence of the passage has the statement's numbers and at least half of its content words."""
    words, needed = set(stems(statement)), numbers(statement, words=False)
    return any(
        len(words & set(stems(sentence))) >= STATED * len(words) and needed <= numbers(sentence)
        for sentence in split_sentences(passage)
        if words
    )


def _near_duplicates(texts: Sequence[str]) -> list[frozenset[int]]:
    """Groups of passages (numbers from 1) of which each is nearly contained in another, or the other in it.

    Containment as of Broder (1997), of content words in place of shingles, so that a rewording counts.
    """
    words = [set(stems(text)) for text in texts]
    figures = [numbers(text, words=False) for text in texts]
    group = list(range(len(texts)))
    for one in range(len(texts)):
        for other in range(one):
            short, long = sorted((one, other), key=lambda i: len(words[i]))
            common = len(words[short] & words[long])
            if words[short] and common >= SAME * len(words[short]) and figures[short] <= figures[long]:
                group = [group[other] if member == group[one] else member for member in group]
    return [
        frozenset(n for n, member in enumerate(group, start=1) if member == name)
        for name in dict.fromkeys(group)
        if group.count(name) > 1
    ]
