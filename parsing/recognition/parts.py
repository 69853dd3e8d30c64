"""Parts of a page whose characters are wrong or missing while the rest is fine, and their lines from the page's image.

A broken encoding belongs to a font, so text is judged font by font. Pictures are no such parts, whatever they show.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from hiperrag.parsing.lines import Line, Page
from hiperrag.parsing.recognition import drawn, quality
from hiperrag.records import BBox

MIN_UNMAPPED = 20
"""Characters without a meaning that make a part: fewer are signs among formulas."""
MOST_COMMON = 0.02
"""Share of common words in text of a wrong encoding, at most."""
LEAST_COMMON = 0.08
"""The same in text that was wrong and has been read, at least: lists of names or codes stay as they are."""
LINE_GAP = 0.5
"""Lines less than twice this many line heights apart belong to one part."""


@dataclasses.dataclass(slots=True)
class Part:
    """A region without usable characters: its box in points of the page as displayed, and the lines to replace."""

    box: BBox
    lines: list[Line]


@dataclasses.dataclass(slots=True)
class Spoilt:
    """The unusable parts of a page, their share of its characters (0..1), and what is wrong with them."""

    parts: list[Part]
    share: float
    reason: str


def find(page: Page, least: float) -> Spoilt | None:
    """What is unusable on a page that is good as a whole; None where nothing is, or its text is not upright.

    `least`: the quality (0..1) that the text of a font must have.
    """
    if page.turn:
        return None
    lines, reason = _wrong(page.lines, least)
    lost = page.unmapped if sum(n for _, n in page.unmapped) >= MIN_UNMAPPED else []
    if not lines and not lost:
        return None
    boxes = [(line.x0, line.y0, line.x1, line.y1) for line in lines] + [box for box, _ in lost]
    parts = [Part(box, [line for line in lines if _is_inside(line, box)]) for box in _regions(boxes)]
    n_lost = sum(n for _, n in lost)
    n_wrong = sum(len(line.text) for line in lines) + n_lost
    share = n_wrong / max(1, n_lost + sum(len(line.text) for line in page.lines))
    return Spoilt(parts, share, reason or quality.UNMAPPED)


def _wrong(lines: Sequence[Line], least: float) -> tuple[list[Line], str]:
    """Lines in fonts whose letters come as in no language, and what is wrong with them."""
    fonts: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        fonts[line.font].append(line)
    large = [found for found in fonts.values() if sum(len(line.text) for line in found) >= quality.MIN_LETTERS]
    if len(large) < 2:  # the page's own quality tells
        return [], ""
    wrong: list[Line] = []
    reason = ""
    for found in large:
        text = _text(found)
        score, why = quality.judge_letters(text)
        if score < least and quality.common_share(text) < MOST_COMMON:  # formulas stand among words
            wrong, reason = wrong + found, why
    return wrong, reason


def _text(lines: Sequence[Line]) -> str:
    return "\n".join(line.text for line in lines)


def _regions(boxes: Sequence[BBox]) -> list[BBox]:
    """Boxes around the lines that stand together."""
    grown = [(x0, y0 - LINE_GAP * (y1 - y0), x1, y1 + LINE_GAP * (y1 - y0)) for x0, y0, x1, y1 in boxes]
    return [
        _around([box for box, tall in zip(boxes, grown, strict=True) if drawn.overlap(tall, region)])
        for region in drawn.joined(grown)
    ]


def _around(boxes: Sequence[BBox]) -> BBox:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return (min(x0), min(y0), max(x1), max(y1))


def _is_inside(line: Line, box: BBox) -> bool:
    x0, y0, x1, y1 = box
    return x0 <= line.centre <= x1 and y0 <= (line.y0 + line.y1) / 2 <= y1


def mend(page: Page, part: Part, read: Sequence[Line]) -> bool:
    """Put the lines that were read in a part's image in the place of its own; False where they make no more sense.

    They take the style and, line by line, the place of what they replace, which are exact.
    """
    if not read or (part.lines and quality.common_share(_text(read)) < LEAST_COMMON):
        return False
    replaced = {id(line) for line in part.lines}
    kept = [line for line in page.lines if id(line) not in replaced]
    beside = [line for line in kept if _is_inside(line, part.box)]  # the picture shows these too
    fresh = [_in_style(line, part.lines or kept) for line in read if not any(_overlaps(line, one) for one in beside)]
    if not fresh:
        return False
    place = next((index for index, line in enumerate(page.lines) if id(line) in replaced), len(kept))
    page.lines[:] = [*kept[:place], *fresh, *kept[place:]]
    return True


def _in_style(line: Line, like: Sequence[Line]) -> Line:
    """A recognised line in the style of the one of `like` that it covers most, else of one of about its size."""
    under = max(like, key=lambda other: _shared_height(line, other), default=line)
    if _overlaps(line, under):
        line = dataclasses.replace(line, y0=under.y0, y1=under.y1, baseline=under.baseline)
    else:
        alike = [other for other in like if abs(other.size - line.size) < 0.15 * line.size]
        under = max(alike, key=lambda other: len(other.text), default=line)
    return dataclasses.replace(
        line, size=under.size, font=under.font, bold=under.bold, italic=under.italic, color=under.color
    )


def _shared_height(a: Line, b: Line) -> float:
    beside = min(a.x1, b.x1) <= max(a.x0, b.x0)
    return 0.0 if beside else min(a.y1, b.y1) - max(a.y0, b.y0)


def _overlaps(a: Line, b: Line) -> bool:
    return _shared_height(a, b) > 0.5 * min(a.height, b.height)
