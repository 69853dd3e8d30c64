"""Reading order: a page's lines as a sequence of column segments.

A gutter is a vertical strip with text lines on both sides, side by side. Lines that cross it (titles, wide
figures) cut the page into bands; within a band the left column is read before the right one. Applied
recursively, which covers three columns and narrow margin columns beside the text.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from hiperrag.parsing.lines import Line

MIN_GUTTER = 4.0
"""Width of the narrowest gutter in points."""
MIN_COLUMN = 0.11
"""Width of the narrowest text line that speaks for a gutter, as a share of the page's width."""
MAX_LINES = 1500
"""A region of more lines is a plot or a map: no columns are looked for."""
MAX_DEPTH = 4
MIN_PAIRS = 4
"""Lines side by side that make a gutter."""
MIN_WIDE_PAIRS = 2
"""The same where both lines are as wide as a column of two."""
TALL = 4.0
"""Font sizes from which a table or figure is higher than a few lines."""
WIDE = 0.3
"""Width of such a line as a share of the page's width."""


@dataclasses.dataclass(slots=True)
class Segment:
    """Lines of one column between two cuts, top to bottom."""

    lines: list[Line]
    x0: float
    x1: float


def _right_neighbours(lines: Sequence[Line]) -> list[tuple[Line, Line]]:
    """Pairs (left, right) of horizontally adjacent lines."""
    x0, y0, x1, y1 = np.array([(line.x0, line.y0, line.x1, line.y1) for line in lines]).T
    height = y1 - y0
    overlap = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    beside = (overlap >= 0.3 * np.minimum(height[:, None], height)) & (x0 >= x1[:, None] - 1)
    distance = np.where(beside, x0, np.inf)
    nearest = distance.argmin(axis=1)
    found = [(line, lines[right]) for index, line in enumerate(lines) if beside[index, right := int(nearest[index])]]
    # A table or figure stands beside many lines, each of which speaks for the strip between them.
    for index in [index for index, line in enumerate(lines) if line.kind and height[index] > TALL * line.size]:
        last = np.where(beside, x1[:, None], -np.inf).argmax(axis=0)
        found += [
            (lines[index], lines[right])
            for right in np.flatnonzero(beside[index] & (last == index)).tolist()
            if right != nearest[index]
        ]
    return found


def _gutter(lines: Sequence[Line], page_width: float) -> tuple[float, float] | None:
    """The strip (x0, x1) with most text side by side, or None."""
    least = MIN_COLUMN * page_width
    starts = Counter(round(line.x0) for line in lines)
    pairs = [
        (left, right)
        for left, right in _right_neighbours(lines)
        if right.x0 - left.x1 >= MIN_GUTTER
        and (min(left.width, right.width) >= least or _is_beside_box(left, right, starts, page_width))
    ]
    if not _are_enough(pairs, page_width):
        return None
    votes = [0.0] * (int(page_width) + 2)
    for left, right in pairs:
        for x in range(max(0, round(left.x1)), min(len(votes), round(right.x0) + 1)):
            votes[x] += min(left.width, right.width)
    # Lines that run on past a strip speak against it, less so the less of them lies beyond.
    best = max(range(len(votes)), key=lambda x: votes[x])
    pairs = [(left, right) for left, right in pairs if left.x1 <= best + 1 and right.x0 >= best - 1]
    if not _are_enough(pairs, page_width):
        return None
    near = [(left.x1, right.x0) for left, right in pairs]
    lefts, rights = sorted(x for x, _ in near), sorted(x for _, x in near)
    # Ragged lines must not widen nor overfull ones narrow the strip: the outer tenth does not count.
    start, stop = lefts[int(0.9 * (len(lefts) - 1))], rights[int(0.1 * (len(rights) - 1))]
    return (start, stop) if stop > start else (best - 1.0, best + 1.0)


def _are_enough(pairs: Sequence[tuple[Line, Line]], page_width: float) -> bool:
    wide = sum(1 for left, right in pairs if min(left.width, right.width) > WIDE * page_width)
    return len(pairs) >= MIN_PAIRS or wide >= MIN_WIDE_PAIRS


def _is_beside_box(left: Line, right: Line, starts: Counter[int], page_width: float) -> bool:
    """Whether two lines are a first page's box of notes (history, keywords) and the abstract at its right."""
    return (
        left.page == 1
        and left.width >= 0.05 * page_width
        and right.width >= 0.4 * page_width
        and starts[round(right.x0)] >= 2 * MIN_PAIRS
        and starts[round(left.x0)] >= MIN_PAIRS
    )


def _margin_notes(lines: Sequence[Line], page_width: float) -> set[int]:
    """Ids of the lines that lie wholly in the margin beside a page of one wide column."""
    wide = [line for line in lines if line.width > 0.38 * page_width]
    if len(wide) < 8 or len(wide) < 0.3 * len(lines):
        return set()
    left = sorted(line.x0 for line in wide)[len(wide) // 10]
    right = sorted(line.x1 for line in wide)[-1 - len(wide) // 10]
    return {
        id(line)
        for line in lines
        if (line.x1 < left - 2 or line.x0 > right + 2) and line.width > 3 * line.size and len(line.text) > 5
    }


def _crosses(line: Line, gutter: tuple[float, float]) -> bool:
    slack = 0.5 * line.size
    return line.x0 < gutter[0] - slack and line.x1 > gutter[1] + slack


def _bounds(lines: Sequence[Line]) -> tuple[float, float]:
    return min(line.x0 for line in lines), max(line.x1 for line in lines)


def reading_order(lines: Sequence[Line], page_width: float, depth: int = 0) -> list[Segment]:
    """Column segments of a region in reading order."""
    if not lines:
        return []
    if depth == 0:
        beside = _margin_notes(lines, page_width)
        if beside:
            rest = [line for line in lines if id(line) not in beside]
            notes = [line for line in lines if id(line) in beside]
            return [*reading_order(rest, page_width, 1), *reading_order(notes, page_width, 1)]
    gutter = _gutter(lines, page_width) if depth < MAX_DEPTH and len(lines) <= MAX_LINES else None
    if gutter is None:
        return [Segment(in_rows(lines), *_bounds(lines))]
    middle = (gutter[0] + gutter[1]) / 2
    crossing = [line for line in lines if _crosses(line, gutter)]
    sides = [line for line in lines if not _crosses(line, gutter)]
    if tails := _last_lines(crossing, sides):
        crossing = [*crossing, *tails]
        tail_ids = {id(line) for line in tails}
        sides = [line for line in sides if id(line) not in tail_ids]
    cuts = _cuts(crossing, sides)
    segments: list[Segment] = []
    remaining = sides
    for band in cuts:
        top = min(line.y0 for line in band)
        above = [line for line in remaining if (line.y0 + line.y1) / 2 < top]
        remaining = [line for line in remaining if (line.y0 + line.y1) / 2 >= top]
        segments.extend(_columns(above, middle, page_width, depth))
        bottom = max(line.y1 for line in band)
        # Short last lines of a wide paragraph lie on one side of the gutter: they belong to the band.
        inside = [line for line in remaining if (line.y0 + line.y1) / 2 < bottom]
        remaining = [line for line in remaining if (line.y0 + line.y1) / 2 >= bottom]
        band = [*band, *inside]
        segments.extend(reading_order(band, page_width, depth + 1))
    segments.extend(_columns(remaining, middle, page_width, depth))
    return segments


def _last_lines(crossing: Sequence[Line], sides: Sequence[Line]) -> list[Line]:
    """Short last lines of wide paragraphs, which cross no gutter: set like the line above, at its left edge and
    pitch, with nothing to the right."""
    found = []
    for above in crossing:
        for line in sides:
            if (
                0 < line.baseline - above.baseline < 1.5 * above.size
                and abs(line.x0 - above.x0) < 2 * above.size
                and abs(line.size - above.size) < 0.2
                and line.font == above.font
                and not any(abs(o.baseline - line.baseline) < 0.4 * line.size and o.x0 > line.x1 for o in sides)
            ):
                found.append(line)
    return found


def _cuts(crossing: Sequence[Line], sides: Sequence[Line]) -> list[list[Line]]:
    """Crossing lines grouped into bands: consecutive ones with no side text between them."""
    bands: list[list[Line]] = []
    tops = sorted((line.y0 + line.y1) / 2 for line in sides)
    for line in sorted(crossing, key=lambda line: line.y0):
        if bands:
            bottom = max(other.y1 for other in bands[-1])
            # Between tight lines there is no room for text of a column, only for notes beside them.
            if line.y0 - bottom < 0.8 * line.size or not any(bottom < y < line.y0 for y in tops):
                bands[-1].append(line)
                continue
        bands.append([line])
    return bands


def split_at_references(lines: Sequence[Line], heading: Line, page_width: float) -> tuple[list[Line], list[Line]]:
    """Lines above and below a references heading in the left column where the list below is set across both
    columns: the right one then has text above and entries below the heading's height. Else (all, none)."""
    entries = [line for line in lines if line.y0 > heading.y1 - 1 and line.x0 < heading.x1]
    beside = [line for line in lines if line.x0 > heading.x0 + 0.35 * page_width]
    above = sorted((line for line in beside if line.y1 < heading.y0 + 2), key=lambda line: line.y1)
    below = [line for line in beside if line.y0 > heading.y0 - 2]
    if heading.centre > page_width / 2 or not entries or not above or not below:
        return list(lines), []
    size = min(entries, key=lambda line: line.y0).size
    entries_below = all(abs(line.size - size) < 0.45 for line in below)
    if len(above) + len(below) < len(beside) or not entries_below or abs(above[-1].size - size) < 0.45:
        return list(lines), []
    return [line for line in lines if line.y1 < heading.y0 + 2], [line for line in lines if line.y1 >= heading.y0 + 2]


def _columns(lines: Sequence[Line], middle: float, page_width: float, depth: int) -> list[Segment]:
    left = [line for line in lines if line.centre < middle]
    right = [line for line in lines if line.centre >= middle]
    return [
        *reading_order(left, page_width, depth + 1),
        *reading_order(right, page_width, depth + 1),
    ]


def in_rows(lines: Sequence[Line]) -> list[Line]:
    """Lines by row from the top, within a row from the left. Rows are told apart by their baselines."""
    ordered = sorted(lines, key=lambda line: line.baseline)
    rows: list[list[Line]] = []
    for line in ordered:
        if rows and line.baseline - rows[-1][0].baseline < 0.4 * min(line.size, rows[-1][0].size):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.x0)]
