"""Inline markup to horizontal material.

`*italic*`, `**bold**`, `` `code` ``, `^superscript^`, `~subscript~`, `$formula$`, `^[footnote]`; a no-break space
is a space where no line ends.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable

import pyphen

from examples.typeset.boxes import Box
from examples.typeset.fonts import FALLBACK, Face, face
from examples.typeset.lines import Atom, Joint, Piece, Space, text_piece
from examples.typeset.mathematics import formula

_TOKENS = re.compile(
    r"\^\[(?P<note>(?:[^\[\]]|\[[^\]]*\])*)\]|\$(?P<math>[^$]+)\$|`(?P<code>[^`]+)`"
    r"|\^(?P<sup>[^\^\s]+)\^|~(?P<sub>[^~\s]+)~|(?P<bold>\*\*)|(?P<italic>\*)|(?P<space>[ \n]+)"
    r"|(?P<text>[^*`^~$ \n]+)"
)
_WORDS = re.compile(r"[^\W\d_]+|[^\w]|[\d_]+")
_TIES = re.compile(
    r"(?<=[±=×]) (?=[\d−])"
    r"|(?<=\d) (?=(?:[kcmnµ]?m|[km]?g|[mµ]?s|ha|h|ml|[kM]?Pa|[mkM]?Hz|[kM]B|[mk]?V|m?M|mC|m?Ah|K|Å|°C|dB|[MG]?J|Ω)"
    r"(?!\w))"
    r"|(?<=\bFigure) (?=\d)|(?<=\bTable) (?=\d)|(?<=\bequation) (?=\()|(?<=\bSection) (?=\d)"
)
"""Spaces where no line should end: before units and after Figure, Table, ..."""
_SHORTEST = 6
"""Letters of the shortest word that is hyphenated."""


@dataclasses.dataclass(frozen=True)
class Type:
    """How running text is set."""

    family: str
    size: float
    style: str = "regular"
    hyphens: str = ""
    """Language of the hyphenation patterns, e.g. en_GB; empty for none."""
    ligatures: bool = False


@functools.cache
def _patterns(language: str) -> pyphen.Pyphen:
    return pyphen.Pyphen(lang=language, left=2, right=3)


def _styled(style: str, *, bold: bool, italic: bool) -> str:
    bold, italic = bold or "bold" in style, italic != ("italic" in style)
    return ("bold" if bold else "") + ("italic" if italic else "") or "regular"


def _faced(text: str, main: Face, fallback: Face) -> list[tuple[str, Face]]:
    """Runs of text with the face that has their characters."""
    runs: list[tuple[str, Face]] = []
    for character in text:
        chosen = main if main.has(character) else fallback
        if runs and runs[-1][1] == chosen:
            runs[-1] = (runs[-1][0] + character, chosen)
        else:
            runs.append((character, chosen))
    return runs


def _word_atoms(text: str, kind: Type, style: str) -> list[Atom]:
    main, fallback = face(kind.family, style), face(FALLBACK, style)
    atoms: list[Atom] = []

    def put(part: str) -> None:
        for run, chosen in _faced(part, main, fallback):
            atoms.append(text_piece(run, chosen, kind.size, ligatures=kind.ligatures))

    for number, word in enumerate(text.split("\u00a0")):
        if number:
            atoms.append(Piece(main.width(" ", kind.size), lambda *_: None))
        parts = _WORDS.findall(word)
        for place, part in enumerate(parts):
            if kind.hyphens and len(part) >= _SHORTEST and part.isalpha() and part[1:].lower() == part[1:]:
                syllables = _patterns(kind.hyphens).inserted(part, "\u00ad").split("\u00ad")
            else:
                syllables = [part]
            for syllable in syllables[:-1]:
                put(syllable)
                atoms.append(Joint(text_piece("-", main, kind.size)))
            put(syllables[-1])
            inside = 0 < place < len(parts) - 1
            if part in "-–/—" and inside and parts[place - 1].isalpha() and parts[place + 1].isalpha():
                atoms.append(Joint())
    return atoms


def inline(markup: str, kind: Type, note: Callable[[str], tuple[str, Box]] | None = None) -> list[Atom]:
    """Horizontal material of a marked-up text; `note` sets a footnote and gives its mark."""
    atoms: list[Atom] = []
    bold = italic = False
    markup = _TIES.sub("\u00a0", markup)
    for token in _TOKENS.finditer(markup):
        style = _styled(kind.style, bold=bold, italic=italic)
        current = face(kind.family, style)
        group, value = str(token.lastgroup), token.group(str(token.lastgroup))
        if group == "bold":
            bold = not bold
        elif group == "italic":
            italic = not italic
        elif group == "space":
            atoms.append(Space(current.width(" ", kind.size)))
        elif group == "math":
            atoms.append(formula(value.replace("\u00a0", " "), kind.size)[0])
        elif group == "code":
            atoms += _word_atoms(value, Type("mono", kind.size * 0.84), "regular")
        elif group == "text":
            atoms += _word_atoms(value, kind, style)
        elif group == "note":
            if note is None:
                raise ValueError(f"a footnote cannot stand here: {value}")
            mark, box = note(value)
            piece = text_piece(mark, face(kind.family), kind.size * 0.68, kind.size * 0.34)
            piece.notes = [box]
            atoms.append(piece)
        else:
            rise = kind.size * (0.34 if group == "sup" else -0.18)
            for run, chosen in _faced(value, current, face(FALLBACK, style)):
                atoms.append(text_piece(run, chosen, kind.size * 0.68, rise))
    while atoms and isinstance(atoms[-1], Space):
        atoms.pop()
    return atoms
