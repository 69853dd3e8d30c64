"""Spans of a text layer's lines: characters of one style, and what small raised ones mean."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from hiperrag.parsing import mend, symbols

SUPERSCRIPT_RAISE = 0.18
"""A span is raised (lowered) when its baseline is this share of the line's font size above (below) the line's."""
BLANK_GAP = 0.42
"""Width in font sizes from which a drawn blank may separate cells: many a typeface's is a third of its size wide."""
_CITATION = re.compile(r"[\[(]?\d{1,3}(?:\s*[,;–—‐-]\s*\d{1,3})*[\])]?,?")
_LETTER_MARK = re.compile(r"[a-z](?:\s*,\s*[a-z*†‡])*[,*†‡]*")
_POWER = re.compile(r"(?:^|[^\d.,])10$")
_EXPONENT = re.compile(r"[-−–]?\d{1,3}")
_RAISED_DIGITS = str.maketrans("0123456789-−–", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁻⁻")
_UNIT = re.compile(r"(?:^|[^A-Za-z])(?:[kcmdnµμp]?m|mol|cells?|[kM]?Pa|sec|min|inch|Kcal|kcal|kg|Watts?)$")
_BOLD_NAME = re.compile(
    r"bold|black|heavy|[-_]?(?:semi|demi)b|-bd\b|-b(?:i|it)?$|\.b$|cmbx|-md\b|medi(?:um)?\b|(?-i:[a-z]BD?I?$|Adv.*BD?I?$)",
    re.I,
)
_ITALIC_NAME = re.compile(r"ital|obli|-it\b|cmti|-bi$|[-.]i$|(?-i:[a-z]B?D?I$|Adv.*[A-Z]I$)", re.I)


@dataclasses.dataclass(slots=True)
class Span:
    """Characters of one style on one baseline. Coordinates in points, in the direction of reading."""

    x0: float
    y0: float
    x1: float
    y1: float
    baseline: float
    size: float
    font: str
    bold: bool
    italic: bool
    color: int
    text: str
    blanks: list[tuple[int, float, float]] = dataclasses.field(default_factory=list)
    """Blanks as wide as a gap between cells: place in the text, left and right edge."""


def quarter_turns(direction: tuple[float, float]) -> int:
    """0 for text running right, 1 up, 2 left, 3 down."""
    return round(math.atan2(-direction[1], direction[0]) / (math.pi / 2)) % 4


def turned(box: Iterable[float], turn: int, width: float, height: float) -> tuple[float, float, float, float]:
    """A box of a page of this size with its text turned upright by so many quarter turns clockwise."""
    x0, y0, x1, y1 = box
    if turn == 1:
        return height - y1, x0, height - y0, x1
    if turn == 3:
        return y0, width - x1, y1, width - x0
    if turn == 2:
        return width - x1, height - y1, width - x0, height - y0
    return x0, y0, x1, y1


@functools.lru_cache(maxsize=4096)
def weight_and_slant(font: str, flags: int = 0) -> tuple[bool, bool]:
    """Whether a font is bold and italic, by PyMuPDF's flags or its name."""
    return bool(flags & 16) or bool(_BOLD_NAME.search(font)), bool(flags & 2) or bool(_ITALIC_NAME.search(font))


def spans_of(raw_spans: Sequence[dict[str, Any]], turn: int, width: float, height: float) -> list[Span]:
    """Spans of one line; neighbours of one style (MuPDF ends a span at every space it inserts) are joined."""
    spans: list[Span] = []
    for raw in raw_spans:
        text = mend.characters(symbols.decoded(raw["text"], raw["font"]))
        if not text:
            continue
        x0, y0, x1, y1 = raw["bbox"]
        ox, oy = raw["origin"]
        if turn:
            x0, y0, x1, y1 = turned((x0, y0, x1, y1), turn, width, height)
            oy = turned((ox, oy, ox, oy), turn, width, height)[1]
        size, font = raw["size"], raw["font"]
        last = spans[-1] if spans else None
        if (
            last is not None
            and last.font == font
            and last.size == size
            and abs(last.baseline - oy) < 0.05
            and x0 - last.x1 < 0.2 * size
        ):
            if x1 - x0 > BLANK_GAP * size and text.isspace():
                last.blanks.append((len(last.text), x0, x1))
            last.text += text
            last.x1 = max(last.x1, x1)
            continue
        bold, italic = weight_and_slant(font, raw["flags"] | 16 * bool(raw.get("char_flags", 0) & 8))
        spans.append(Span(x0, y0, x1, y1, oy, size, font, bold, italic, raw.get("color", 0), text))
    return spans


def inked_runs(span: Span) -> list[tuple[float, float, str]]:
    """A span without the blanks around it, cut where it has several in a row, with the places of each run (by the
    mean width of its characters)."""
    if span.blanks:
        return [run for part in _between_blanks(span) for run in inked_runs(part)]
    text = span.text
    pitch = (span.x1 - span.x0) / len(text)
    matches = list(re.finditer(r"\S+(?:\s\S+)*", text))
    if len(matches) == 1:
        blank = min(pitch, 0.3 * span.size)
        start, end = matches[0].span()
        return [(span.x0 + blank * start, span.x1 - blank * (len(text) - end), text[start:end])]
    return [(span.x0 + pitch * match.start(), span.x0 + pitch * match.end(), match.group()) for match in matches]


def _between_blanks(span: Span) -> list[Span]:
    """The parts of a span that its wide blanks leave, with their places."""
    starts = [(0, span.x0), *((place + 1, right) for place, _, right in span.blanks)]
    stops = [*((place, left) for place, left, _ in span.blanks), (len(span.text), span.x1)]
    return [
        dataclasses.replace(span, text=span.text[a:b], x0=x0, x1=x1, blanks=[])
        for (a, x0), (b, x1) in zip(starts, stops, strict=True)
        if span.text[a:b].strip()
    ]


def is_citation_mark(word: str, mark: str) -> bool:
    """Whether raised characters after a word cite a reference or a note, rather than being an exponent or part of a
    formula."""
    before = word.rstrip()
    if _LETTER_MARK.fullmatch(mark.strip()):
        return bool(re.search(r"[^\W\d_]{3}$", before))
    if not _CITATION.fullmatch(mark.strip()):
        return False
    if not before:
        return False
    if before[-1] in ".,;:?!)]”’\"'":
        return True
    tail = re.search(r"[^\W\d_]+$", before)
    return bool(tail and len(tail.group()) >= 4 and tail.group()[1:].islower() and not _UNIT.search(before))


def with_exponents(spans: list[Span], size: float, baseline: float) -> list[Span]:
    """Spans with raised digits that would pass for digits of the number before them ("104") as superscripts: those of
    powers of ten, and with a sign. Other digits after a number may cite something."""
    found: list[Span] = []
    for span in spans:
        mark = span.text.strip()
        before = found[-1].text.rstrip() if found else ""
        if (
            _EXPONENT.fullmatch(mark)
            and before[-1:].isdigit()
            and (not mark.isdigit() or _POWER.search(before))
            and span.size < 0.85 * size
            and baseline - span.baseline > SUPERSCRIPT_RAISE * size
            and span.x0 - found[-1].x1 < 0.22 * size
        ):
            span = dataclasses.replace(span, text=span.text.translate(_RAISED_DIGITS))
        found.append(span)
    return found
