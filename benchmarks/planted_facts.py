"""Questions about invented facts, with the passage that has the fact among others that are much like it.

Names are made of syllables and values are drawn by chance, so that no model can know them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from hiperrag.answering.hits import Hit
from hiperrag.records import Passage

_ONSETS = "b br d dr f fl g gr h j k kl l m n p pr qu r s sk st t tr v vl w z".split()  # noqa: SIM905
_VOWELS = "a e i o u ae ia ou".split()  # noqa: SIM905
_CODAS = "l m n r s th x nd rk lt".split()  # noqa: SIM905


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A kind of invented thing; its sentences have {name} and {value}."""

    ending: str
    facts: tuple[tuple[str, str, str, str, str], ...]
    """(question, fact, the fact in other words, answer in words of its own, form of the value)."""
    remarks: tuple[str, ...]
    """Sentences about the thing without a figure."""


KINDS = (
    Kind(
        "ite",
        (
            (
                "At what temperature does {name} melt?",
                "In sealed pans {name} melted at {value}.",
                "A melting point of {value} was found for {name} in sealed pans.",
                "{name} melts at {value}.",
                "{:.1f} K",
            ),
            (
                "What is the density of {name}?",
                "The density of {name} by helium pycnometry was {value}.",
                "Helium pycnometry gave {name} a density of {value}.",
                "{name} has a density of {value}.",
                "{:.0f} mg per ml",
            ),
        ),
        (
            "Crystals of {name} are pale and grow as thin plates.",
            "{name} was made by slow cooling from a flux of borates.",
            "Powder of {name} takes up water from moist air.",
        ),
    ),
    Kind(
        "ase",
        (
            (
                "At which pH is the enzyme {name} most active?",
                "The enzyme {name} was most active at {value}.",
                "The activity of {name} had its maximum at {value}.",
                "{name} works best at {value}.",
                "pH {:.2f}",
            ),
            (
                "How long is the half-life of {name} at 60 degrees?",
                "At 60 degrees {name} had a half-life of {value}.",
                "Half of {name} was inactive after {value} at 60 degrees.",
                "The half-life of {name} at that temperature is {value}.",
                "{:.1f} minutes",
            ),
        ),
        (
            "{name} was cloned from a bacterium of a warm spring.",
            "The fold of {name} is that of the hydrolases.",
            "Calcium does not change the activity of {name}.",
        ),
    ),
    Kind(
        " Glacier",
        (
            (
                "How far did {name} retreat?",
                "The front of {name} retreated by {value} between the two surveys.",
                "Between the surveys {name} lost {value} of its length.",
                "{name} became shorter by {value}.",
                "{:.0f} m",
            ),
            (
                "How fast does the ice of {name} flow?",
                "Stakes on {name} moved by {value}.",
                "The ice of {name} flows at {value}, as stakes show.",
                "{name} flows at {value}.",
                "{:.1f} cm a day",
            ),
        ),
        (
            "{name} ends in a lake that is dammed by a moraine.",
            "The upper part of {name} was mapped from the air.",
            "Debris covers the tongue of {name}.",
        ),
    ),
    Kind(
        "-b",
        (
            (
                "What is the orbital period of the planet {name}?",
                "The transits of {name} recur every {value}.",
                "An orbit of {name} takes {value}, by its transits.",
                "{name} goes round its star in {value}.",
                "{:.3f} days",
            ),
            (
                "How large is the radius of the planet {name}?",
                "The depth of its transits gives {name} a radius of {value}.",
                "{name} measures {value} in radius, from the depth of its transits.",
                "The planet {name} has a radius of {value}.",
                "{:.2f} Earth radii",
            ),
        ),
        (
            "{name} was found with a small telescope on the ground.",
            "The star of {name} is a quiet dwarf.",
            "A second planet might disturb {name}.",
        ),
    ),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Planted:
    """A question whose answer is in passage `n` alone, and with `twin` in passage `twin_n` as well."""

    question: str
    answer: str
    verbatim: bool
    """Whether the answer is the passage's own sentence, or words of its own."""
    n: int
    hits: list[Hit]
    twin_n: int
    twin_hits: list[Hit]
    """The same passages, and one that has the fact in other words."""


def planted_questions(n: int, seed: int) -> Iterator[Planted]:
    """`n` questions, half of them with a verbatim answer. Each has five passages in an order drawn by chance:

    the fact; the same property of another thing; the other property of the same thing; and two of other kinds.
    """
    rng = np.random.default_rng(seed)
    for number in range(n):
        yield _planted(rng, verbatim=number % 2 == 0)


def _planted(rng: np.random.Generator, verbatim: bool) -> Planted:
    kind, *others = [KINDS[i] for i in rng.permutation(len(KINDS))[:3]]
    asked = int(rng.integers(2))
    question, fact, reworded, own_words, form = kind.facts[asked]
    name, value = _name(rng, kind), _value(rng, form)

    def text(kind: Kind, name: str, sentence: str) -> str:
        before, after = (kind.remarks[i].format(name=name) for i in rng.permutation(3)[:2])
        return f"{before} {sentence} {after}"

    def distractor(kind: Kind, which: int, name: str) -> str:
        _, stated, _, _, form = kind.facts[which]
        return text(kind, name, stated.format(name=name, value=_value(rng, form)))

    planted = text(kind, name, fact.format(name=name, value=value))
    twin = text(kind, name, reworded.format(name=name, value=value))
    texts = [
        planted,
        distractor(kind, asked, _name(rng, kind)),
        distractor(kind, 1 - asked, name),
        *(distractor(other, int(rng.integers(2)), _name(rng, other)) for other in others),
    ]
    order = rng.permutation(len(texts))
    shuffled = [texts[i] for i in order]
    twin_at = int(rng.integers(len(texts) + 1))
    with_twin = [*shuffled[:twin_at], twin, *shuffled[twin_at:]]
    return Planted(
        question=question.format(name=name),
        answer=(fact if verbatim else own_words).format(name=name, value=value),
        verbatim=verbatim,
        n=shuffled.index(planted) + 1,
        hits=as_hits(shuffled),
        twin_n=twin_at + 1,
        twin_hits=as_hits(with_twin),
    )


def as_hits(texts: list[str]) -> list[Hit]:
    """Passages without titles, which would name what they are about."""
    return [
        Hit(n, 0.0, Passage(f"p{n}", f"d{n}", f"{n}.pdf", "", 0, "paragraph", "", text, 1, 1, [], 60))
        for n, text in enumerate(texts, start=1)
    ]


def _name(rng: np.random.Generator, kind: Kind) -> str:
    syllables = [str(rng.choice(_ONSETS)) + str(rng.choice(_VOWELS)) for _ in range(2)]
    return ("".join(syllables) + str(rng.choice(_CODAS))).capitalize() + kind.ending


def _value(rng: np.random.Generator, form: str) -> str:
    return form.format(rng.uniform(2, 13) if "pH" in form or "radii" in form else rng.uniform(100, 900))
