"""Displayed formulas, found before the reading order so that their pieces stay together.

A text layer gives a formula as many short lines: numerators, limits, rows, its number. They are gathered around the
lines that hold a relation and no running text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hiperrag.parsing.columns import in_rows
from hiperrag.parsing.lines import Line
from hiperrag.parsing.regions import LIST_MARK
from hiperrag.parsing.symbols import FUNCTIONS
from hiperrag.parsing.typography import CAPTION, MONOSPACED, Style
from hiperrag.records import BBox

MAX_BAR = (300.0, 2.0)
"""Width and height of fraction bars in points, at most."""
NEAR = 0.45
"""Pieces of a formula are closer than this, in font sizes, above one another."""
BESIDE = 4.0
"""The same for pieces side by side."""
MAX_WORDS = 0.25
"""Share of a formula's characters that may be in phrases."""
MAX_PITCH = 2.2
"""Font sizes between the lines of a paragraph, at most."""

_RELATION = re.compile(r"[=<>≤≥≈≡∈⊂⊆∀∃→⇒⇔↔↦∑∏∫√∂≠∝≅∼⟶⇌]")
_NUMBER = re.compile(r"\(?(?:[A-Z]\.?)?\d{1,3}(?:[.-]\d{1,3}){0,2}[a-z]?\)")
_RUN = re.compile(r"(?<![^\s(])[^\W\d_]{2,}(?:[ -][^\W\d_]{2,})+(?=[\s,.;:!?)]|$)")
_FIRST_WORD = re.compile(r"[a-z]{2,}(?=[\s,])")
_WORD = re.compile(r"[^\W\d_]{4,}[,.:]?")


def gather(lines: Sequence[Line], rules: Sequence[BBox], style: Style) -> list[Line]:
    """The lines of a page with those of each displayed formula replaced by one line of kind "equation".

    `rules` are thin drawn boxes in the coordinates of the lines: fraction bars among them.
    """
    bars = [rule for rule in rules if rule[3] - rule[1] < MAX_BAR[1] and 3 < rule[2] - rule[0] < MAX_BAR[0]]
    plain = [line for line in lines if line.kind is None]
    prose = [line for line in plain if _is_prose(line, style)]
    kept_apart = {id(line) for line in prose}
    free = [line for line in plain if id(line) not in kept_apart]
    groups: list[list[Line]] = []
    taken: set[int] = set()
    for seed in sorted(free, key=lambda line: line.y0):
        if id(seed) in taken or not _is_seed(seed, prose, free, style):
            continue
        group = _grown(seed, [line for line in free if id(line) not in taken], prose, bars, style)
        taken.update(id(line) for line in group)
        groups.append(group)
    return [*(line for line in lines if id(line) not in taken), *(_formula(group, style) for group in groups)]


def _in_words(text: str) -> float:
    """Share of a line's characters in two words and more that follow one another."""
    return sum(len(match.group()) for match in _RUN.finditer(text)) / len(text)


def _is_prose(line: Line, style: Style) -> bool:
    if _WORD.fullmatch(line.text) and line.size > style.size - 1:
        return True
    if len(line.text) < 12:
        return False
    share = _in_words(line.text)
    return share > MAX_WORDS or (line.width > 0.75 * style.width and not _RELATION.search(line.text))


def _is_seed(line: Line, prose: Sequence[Line], free: Sequence[Line], style: Style) -> bool:
    """Whether a line with a relation stands alone, not at the end of a paragraph nor in a table."""
    if not _RELATION.search(line.text) or line.size > style.size + 6:
        return False
    # Of a line of many scripts the size is theirs; a number beside it tells it from a note in small print.
    if line.size < style.size - 1.7 and not any(
        _NUMBER.fullmatch(other.text) and other.y0 < line.y1 and other.y1 > line.y0 and other.x0 > line.x1
        for other in free
    ):
        return False
    if _in_words(line.text) > MAX_WORDS or LIST_MARK.match(line.text):
        return False
    if CAPTION.match(line.text) or MONOSPACED.search(line.font):
        return False
    for other in prose:
        overlap = min(line.y1, other.y1) - max(line.y0, other.y0)
        apart = max(line.x0 - other.x1, other.x0 - line.x1)
        if overlap > 0.3 * line.height and apart < 2 * line.size:
            return False
    word = _FIRST_WORD.match(line.text)
    worded = word is not None and word.group() not in FUNCTIONS
    for other in (*prose, *free):  # the last line of a paragraph
        pitch = line.baseline - other.baseline
        flush = abs(line.x0 - other.x0) < 2 and other.width > 10 * line.size
        if flush and worded and 0 < pitch < MAX_PITCH * line.size and _in_words(other.text) > 0.1:
            return False
        if flush and 0 < pitch < 1.45 * line.size and (_in_words(other.text) > 0.1 or not _RELATION.search(other.text)):
            return False
    return sum(1 for other in free if abs(other.baseline - line.baseline) < 2) <= 8


def _column(seed: Line, prose: Sequence[Line], style: Style) -> tuple[float, float]:
    """Left and right edge of the text the formula is set in."""
    beside = [line for line in prose if line.x0 < seed.centre < line.x1 and line.width > 0.6 * style.width]
    if not beside:
        return seed.x0 - style.width, seed.x1 + style.width
    common = [line for line in beside if line.width < 1.15 * style.width] or beside
    return min(line.x0 for line in common) - 2 * seed.size, max(line.x1 for line in common) + seed.size


def _grown(seed: Line, free: Sequence[Line], prose: Sequence[Line], bars: Sequence[BBox], style: Style) -> list[Line]:
    left, right = _column(seed, prose, style)
    inside = [line for line in free if line.x0 > left and line.x1 < right and line.size < style.size + 8]
    numbers = [line for line in inside if _NUMBER.search(line.text[-7:]) and line.text.endswith(")")]
    group = [seed]
    members = {id(seed)}
    changed = True
    while changed:
        changed = False
        for line in inside:
            if id(line) not in members and (_touches(line, group, numbers) or _shares_bar(line, group, bars)):
                members.add(id(line))
                group.append(line)
                changed = True
    return group


def _shares_bar(line: Line, group: Sequence[Line], bars: Sequence[BBox]) -> bool:
    """Whether a line stands on or hangs under a fraction bar that is part of a group of lines."""
    size = max(line.size, *(other.size for other in group))
    for x0, y0, x1, y1 in bars:
        inside = x0 - 2 < line.centre < x1 + 2 or (line.x0 < x0 + 2 and line.x1 > x1 - 2)
        if not inside or max(y0 - line.y1, line.y0 - y1) > 0.7 * size:
            continue
        for other in group:
            at = other.y0 - 0.9 * other.size < y0 < other.y1 + 0.9 * other.size
            if at and max(x0 - other.x1, other.x0 - x1) < BESIDE * other.size:
                return True
    return False


def _number_of(line: Line, numbers: Sequence[Line]) -> Line | None:
    """The formula's number that stands in a line's row."""
    return next((one for one in numbers if abs(one.baseline - line.baseline) < 0.5 * line.size), None)


def _touches(line: Line, group: Sequence[Line], numbers: Sequence[Line]) -> bool:
    """Whether a line is near one of the group; two numbered formulas are two groups."""
    own = _number_of(line, numbers)
    if own is not None and any(other not in (None, own) for other in (_number_of(one, numbers) for one in group)):
        return False
    for other in group:
        size = max(line.size, other.size)
        across = max(line.x0 - other.x1, other.x0 - line.x1)
        down = max(line.y0 - other.y1, other.y0 - line.y1)
        if _NUMBER.fullmatch(line.text) and down < -0.2 * size:
            return True
        if down < 0 and across < BESIDE * size:
            return True
        if across < 0 and down < NEAR * size:
            return True
    return False


def _formula(group: Sequence[Line], style: Style) -> Line:
    ordered = in_rows(group)
    main = max(group, key=lambda line: (line.size, len(line.text)))
    bottom = max(line.y1 for line in group)
    return Line(
        page=main.page,
        x0=min(line.x0 for line in group),
        y0=min(line.y0 for line in group),
        x1=max(line.x1 for line in group),
        y1=bottom,
        baseline=(min(line.y0 for line in group) + bottom) / 2 + 0.25 * style.size,
        size=style.size,
        font=main.font,
        bold=False,
        italic=False,
        bold_start=False,
        text=" ".join(line.text for line in ordered),
        kind="equation",
    )
