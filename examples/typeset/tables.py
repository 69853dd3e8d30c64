"""Tables: natural column widths, the widest text column wraps where the table would be too wide."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from reportlab.pdfgen.canvas import Canvas

from examples.typeset.boxes import Box, stack
from examples.typeset.inline import Type, inline
from examples.typeset.lines import Align, Measure, Piece, Space, set_lines

_ALIGNMENTS: dict[str, Align] = {"l": "left", "r": "right", "c": "center"}
_NARROWEST = 40.0


def _natural(cell: str, kind: Type) -> float:
    return sum(atom.width for atom in inline(cell, kind) if isinstance(atom, Piece | Space))


def _column_widths(rows: Sequence[Sequence[str]], kinds: Sequence[Type], width: float, gap: float) -> list[float]:
    count = len(rows[0])
    widths = [max(_natural(row[i], kind) for row, kind in zip(rows, kinds, strict=True)) + 0.5 for i in range(count)]
    excess = sum(widths) + gap * (count - 1) - width
    while excess > 0.01:
        widest = widths.index(max(widths))
        cut = min(excess, max(4.0, widths[widest] - sorted(widths)[-2]))
        if widths[widest] - cut < _NARROWEST:
            raise ValueError(f"a table is too wide by {excess:.0f} points: {rows[0]}")
        widths[widest] -= cut
        excess -= cut
    return widths


def table(data: dict[str, Any], kind: Type, width: float) -> Box:
    """The table of a source's fence.

    `head` and `rows` are cells separated by ` | `; `align` has one letter a column (l, r, c); `rules` is book
    (three rules), grid, or none; `full` spreads the columns over the width; `notes` stands below.
    """
    rows = [[cell.strip() for cell in row.split("|")] for row in [data["head"], *data["rows"]]]
    head_kind = dataclasses.replace(kind, style="bold")
    kinds = [head_kind] + [kind] * (len(rows) - 1)
    rules = data.get("rules", "book")
    gap = 10.0 if rules == "grid" else float(data.get("gap", 12.0))
    widths = _column_widths(rows, kinds, width - (gap if rules == "grid" else 0.0), gap)
    if data.get("full"):
        spare = width - (gap if rules == "grid" else 0.0) - sum(widths) - gap * (len(widths) - 1)
        gap += spare / (len(widths) - (0 if rules == "grid" else 1))
    edge = gap / 2 if rules == "grid" else 0.0
    total = sum(widths) + gap * (len(widths) - 1) + 2 * edge
    lefts = [edge + sum(widths[:i]) + gap * i for i in range(len(widths))]
    leading = kind.size * 1.2
    padding = 2.4 if rules == "grid" else 1.4

    cells: list[list[Box]] = []
    for row, row_kind in zip(rows, kinds, strict=True):
        line = []
        for cell, column, align in zip(row, widths, data["align"], strict=True):
            measure = Measure(column, leading, kind.size * 0.86, _ALIGNMENTS[align])
            line.append(stack(set_lines(inline(cell, row_kind), measure)))
        cells.append(line)
    heights = [max(cell.height for cell in line) + 2 * padding for line in cells]
    notes = set_lines(inline(data.get("notes", ""), kind), Measure(width, leading, kind.size * 0.86))
    offset = (width - total) / 2

    def draw(canvas: Canvas, x: float, y: float) -> None:
        left, right, bottom = x + offset, x + offset + total, y - sum(heights)
        canvas.setStrokeGray(0)
        if rules in ("book", "grid"):
            for level, thickness in ((y, 0.9), (y - heights[0], 0.5), (bottom, 0.9)):
                canvas.setLineWidth(thickness)
                canvas.line(left, level, right, level)
        if rules == "grid":
            canvas.setLineWidth(0.4)
            for start in [a - gap / 2 for a in lefts] + [total]:
                canvas.line(left + start, y, left + start, bottom)
        for number, (line, height) in enumerate(zip(cells, heights, strict=True)):
            for cell, start in zip(line, lefts, strict=True):
                cell.draw(canvas, left + start, y - padding)
            y -= height
            if rules == "grid" and number:
                canvas.setLineWidth(0.4)
                canvas.line(left, y, right, y)

    body = Box(sum(heights), draw)
    return stack([body, *([Box(3, lambda *_: None), *notes] if notes else [])])
