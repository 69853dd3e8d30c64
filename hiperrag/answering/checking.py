"""Checks a generated sentence against the passages: what it may cite, what it must, and what is left out."""

from __future__ import annotations

import dataclasses
import re

from hiperrag.answering.citations import cited_numbers, with_only, without_markers
from hiperrag.answering.evidence import Evidence, Support, stems
from hiperrag.answering.prompts import REFUSAL
from hiperrag.answering.result import Citation, Sentence

KEEP_CITED = 0.40
"""Least support of a citation that the generator gave; below it, passage n does not speak of this at all."""
ATTRIBUTE = 0.55
"""Least support for citing a passage that the generator did not name.

Both were chosen with the packaged encoder on SciFact claims and PubMedQA conclusions, each against its own abstract
and the lexically nearest other ones.
"""
_LEAST_COVERAGE = 2 * ATTRIBUTE - 1 - 1e-3
"""Below it no similarity, which ends at 1 give or take its rounding, lifts a passage to ATTRIBUTE."""

_SOURCES = r"(?:passages?|documents?|collection|sources?|texts?|context|excerpts?|papers?|information)"
_SAYING = (
    r"(?:say|state|mention|answer|contain|provide|specify|give|address|include|discuss|describe|explain|indicate"
    r"|cover|offer|present|allow)"
)
_DENIAL = re.compile(
    rf"\b{_SOURCES}\b.{{0,60}}\b(?:do|does|did)(?: not|n['’]t)\b.{{0,30}}\b{_SAYING}\b"
    rf"|\bnot (?:explicitly |directly )?(?:mentioned|stated|specified|provided|given|answered|addressed|discussed"
    rf"|described|found)\b.{{0,40}}\b{_SOURCES}\b"
    rf"|\b(?:no|not enough|insufficient) (?:relevant )?(?:information|evidence|details?|answer)\b"
    rf".{{0,60}}\b{_SOURCES}\b"
    r"|\b(?:cannot|can['’]t|unable to) (?:be )?(?:answer|determine|say)"
    r"|\bI (?:do not|don['’]t) know\b",
    re.IGNORECASE,
)
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on a sentence: `sentence` is None where it is left out."""

    sentence: Sentence | None
    denial: bool = False
    """It says that the passages do not tell."""
    removed: tuple[int, ...] = ()
    """Citations that were taken away: no such passage, or no support in it."""
    attributed: bool = False
    """The citation is ours, not the generator's."""


def score(support: Support) -> float:
    """One number for how far a passage supports a statement, 0..1: mean of similarity and word coverage."""
    return 0.5 * (support.similarity + support.coverage)


def is_refusal(sentence: str) -> bool:
    """Whether a sentence is the agreed refusal, give or take its punctuation."""
    return _letters(sentence) == _letters(REFUSAL)


def check(raw: str, evidence: Evidence) -> Checked:
    """Judge one generated sentence.

    A citation stays if the passage exists, supports the sentence at least at KEEP_CITED, and the cited passages
    together have its numbers. Without one, the sentence is attributed to the best passage at ATTRIBUTE that has
    all its numbers. Otherwise it is left out.
    """
    statement = without_markers(raw)
    bare = _LIST_ITEM.sub("", statement)
    cited = cited_numbers(raw)
    if is_refusal(bare):
        return Checked(None, denial=True, removed=tuple(cited))
    wording = {one.n: one for one in evidence.wording(bare)} if stems(bare) else {}
    named = [wording[n] for n in cited if n in wording]
    support = {found.n: found for found in evidence.support(bare, named)}
    kept = [n for n in cited if n in support and score(support[n]) >= KEEP_CITED]
    if not evidence.has_numbers(bare, kept):
        kept = []
    removed = tuple(n for n in cited if n not in kept)
    if not kept and _DENIAL.search(bare):
        return Checked(Sentence(with_only(raw, ()), []), denial=True, removed=removed)
    attributed = False
    if not kept:
        possible = [one for one in wording.values() if one.numbers and one.coverage >= _LEAST_COVERAGE]
        able = [found for found in evidence.support(bare, possible) if score(found) >= ATTRIBUTE]
        if not able:
            return Checked(None, removed=removed)
        best = max(able, key=score)
        kept, attributed = [best.n], True
        support[best.n] = best
    citations = [Citation.of(n, evidence.hits[n - 1], support[n].sentence) for n in kept]
    return Checked(Sentence(with_only(raw, kept), citations), removed=removed, attributed=attributed)


def _letters(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()
