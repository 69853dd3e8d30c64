"""The vertical material of a column: boxes that cannot be cut, glue between them, and floats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from reportlab.pdfgen.canvas import Canvas

Draw = Callable[[Canvas, float, float], None]
"""Draws with its left edge at x and its top edge at y (points, y upwards)."""

STRETCH_LIMIT = 26.0
"""A column this much short (points) is stretched to the bottom; a shorter one stays ragged."""
NOTE_SKIP = 9.0
"""Space above the first footnote of a column, rule included."""


@dataclasses.dataclass
class Box:
    """Something of a fixed height. `notes` are the footnotes its text refers to."""

    height: float
    draw: Draw
    break_after: bool = True
    notes: list[Box] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Glue:
    """Vertical space; dropped at the top of a column."""

    height: float
    stretch: float = 0.0


@dataclasses.dataclass
class Float:
    """A figure or table: set here if it fits, else at the top of the next column (page, if `wide`)."""

    box: Box
    kind: str
    """figure or table: floats of a kind keep their order."""
    wide: bool = False


Item = Box | Glue | Float
FLOAT_SKIP = 11.0


def stack(items: Sequence[Box | Glue]) -> Box:
    """One box of several, one above the other."""

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for item in items:
            if isinstance(item, Box):
                item.draw(canvas, x, y)
            y -= item.height

    return Box(sum(item.height for item in items), draw)


def indented(box: Box, left: float) -> Box:
    """The box moved to the right."""
    return dataclasses.replace(box, draw=lambda canvas, x, y: box.draw(canvas, x + left, y))


@dataclasses.dataclass
class Column:
    """What one column holds, and what it leaves for the next."""

    placed: list[Box | Glue]
    notes: list[Box]
    deferred: list[Float]
    rest: list[Item]
    used: float


def _notes_height(notes: Sequence[Box]) -> float:
    return NOTE_SKIP + sum(note.height for note in notes) if notes else 0.0


def _space(column: Column, glue: Glue) -> None:
    """Add glue; where glue meets glue the larger one counts, and none stands at the top."""
    if not column.placed:
        return
    last = column.placed[-1]
    if isinstance(last, Glue):
        column.placed[-1] = Glue(max(last.height, glue.height), max(last.stretch, glue.stretch))
        column.used += max(0.0, glue.height - last.height)
    else:
        column.placed.append(glue)
        column.used += glue.height


def fill(items: Sequence[Item], height: float, *, single: bool, waiting: Sequence[Float] = ()) -> Column:
    """Fill a column of the given height from `items`; with `single`, wide floats are set like others.

    `waiting` are earlier floats not set yet, which later ones of their kind must not overtake.
    """
    column = Column([], [], [], [], 0.0)
    safe: tuple[int, int, int, int, float] | None = None  # index, len(placed, notes, deferred), used

    for index, item in enumerate(items):
        if isinstance(item, Glue):
            _space(column, item)
            continue
        if isinstance(item, Float):
            fits = column.used + FLOAT_SKIP + item.box.height + _notes_height(column.notes) <= height
            overtakes = any(other.kind == item.kind for other in [*waiting, *column.deferred])
            if (item.wide and not single) or not fits or overtakes:
                column.deferred.append(item)
            else:
                _space(column, Glue(FLOAT_SKIP, 2.0))
                column.placed.append(item.box)
                column.used += item.box.height
                _space(column, Glue(FLOAT_SKIP, 4.0))
            safe = (index + 1, len(column.placed), len(column.notes), len(column.deferred), column.used)
            continue
        notes = column.notes + item.notes
        if column.used + item.height + _notes_height(notes) > height + 0.01 and column.placed:
            if safe is None:
                column.rest = list(items[index:])
                return column
            cut, n_placed, n_notes, n_deferred, used = safe
            return Column(
                column.placed[:n_placed],
                column.notes[:n_notes],
                column.deferred[:n_deferred],
                list(items[cut:]),
                used,
            )
        column.placed.append(item)
        column.notes = notes
        column.used += item.height
        if item.break_after:
            safe = (
                index + 1,
                len(column.placed),
                len(column.notes),
                len(column.deferred),
                column.used,
            )
    return column


def draw_column(canvas: Canvas, column: Column, x: float, top: float, height: float, *, stretched: bool) -> None:
    """Draw a filled column and its footnotes; `stretched` spreads a small shortfall over the glue."""
    placed = column.placed
    while placed and isinstance(placed[-1], Glue):
        column.used -= placed.pop().height
    room = height - column.used - _notes_height(column.notes)
    stretch = sum(item.stretch for item in placed if isinstance(item, Glue))
    share = room / stretch if stretched and stretch and 0 < room <= STRETCH_LIMIT else 0.0
    y = top
    for item in placed:
        if isinstance(item, Box):
            item.draw(canvas, x, y)
            y -= item.height
        else:
            y -= item.height + share * item.stretch
    if column.notes:
        y = top - height + _notes_height(column.notes) - NOTE_SKIP
        canvas.setLineWidth(0.4)
        canvas.line(x, y + 4, x + 60, y + 4)
        for note in column.notes:
            note.draw(canvas, x, y)
            y -= note.height
