"""The pieces of text that a table is made of: of one line in one cell each, in lines, in bands between rules."""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from hiperrag.parsing import mend
from hiperrag.parsing.lines import Line

WORD_GAP = 0.9
"""Words of justified text stand no more font sizes apart."""


@dataclasses.dataclass(slots=True)
class Piece:
    """Text of one line in one cell. Coordinates as in Line."""

    x0: float
    y0: float
    x1: float
    y1: float
    baseline: float
    size: float
    text: str
    bold: bool
    first: int = 0
    """First and last column it stands in."""
    last: int = 0
    n_rows: int = 1
    """Rows of the body it stands beside."""

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def centre(self) -> float:
        return (self.x0 + self.x1) / 2


Row = list[Piece]
"""Pieces of one baseline from the left, or of all lines of a table's row."""


def n_cells(line: Line) -> int:
    """Pieces of a line too far apart for words of running text."""
    gaps = (b[0] - a[1] for a, b in itertools.pairwise(line.parts))
    return 1 + sum(1 for gap in gaps if gap > WORD_GAP * line.size)


def pieces_of(line: Line) -> list[Piece]:
    """The pieces of a line that may be cells of their own."""
    parts = line.parts or ((line.x0, line.x1, line.text),)
    return [
        Piece(x0, line.y0, x1, line.y1, line.baseline, line.size, text, line.bold) for x0, x1, text in parts if text
    ]


def in_lines(pieces: Iterable[Piece]) -> list[Row]:
    """Pieces by baseline from the top, those of one baseline from the left; raised and lowered ones with the piece
    they stand at."""
    found: list[Row] = []
    for piece in sorted(_with_marks(list(pieces)), key=lambda piece: piece.baseline):
        if found and piece.baseline - found[-1][0].baseline < 0.4 * min(piece.size, found[-1][0].size):
            found[-1].append(piece)
        else:
            found.append([piece])
    for row in found:
        row.sort(key=lambda piece: piece.x0)
    return found


def _with_marks(pieces: list[Piece]) -> list[Piece]:
    """Small raised or lowered pieces made part of the larger one they touch."""
    if not pieces:
        return []
    usual = statistics.median(piece.size for piece in pieces)
    marks = [piece for piece in pieces if piece.size < 0.8 * usual and len(piece.text) < 8]
    large = [piece for piece in pieces if piece.size >= 0.8 * usual]
    for mark in marks:
        beside = [
            piece
            for piece in large
            if -0.2 * usual < mark.x0 - piece.x1 < 0.35 * usual
            and min(mark.y1, piece.y1) - max(mark.y0, piece.y0) > 0.2 * (mark.y1 - mark.y0)
        ]
        if beside:
            piece = max(beside, key=lambda piece: piece.x1)
            piece.text, piece.x1 = piece.text + mark.text, mark.x1
        else:
            large.append(mark)
    return large


def by_columns(row: Iterable[Piece]) -> list[tuple[int, int, list[Piece]]]:
    """Pieces by the columns they stand in; ranges that overlap are one cell."""
    found: list[tuple[int, int, list[Piece]]] = []
    for piece in sorted(row, key=lambda piece: (piece.first, piece.last)):
        if found and piece.first <= found[-1][1]:
            first, last, pieces = found[-1]
            found[-1] = (first, max(last, piece.last), [*pieces, piece])
        else:
            found.append((piece.first, piece.last, [piece]))
    return found


def columns_of(line: Row) -> set[int]:
    return {column for piece in line for column in range(piece.first, piece.last + 1)}


def bands_between(lines: Sequence[Row], cuts: Sequence[float]) -> list[list[Row]]:
    """Lines between rules."""
    found: dict[int, list[Row]] = defaultdict(list)
    for line in lines:
        middle = statistics.median(piece.baseline - 0.3 * piece.size for piece in line)
        found[sum(1 for cut in cuts if cut < middle)].append(line)
    return [found[key] for key in sorted(found)]


def text_of(pieces: Iterable[Piece]) -> str:
    """Text of a cell."""
    lines = in_lines(dataclasses.replace(piece) for piece in pieces)
    return mend.join_all([" ".join(piece.text for piece in line) for line in lines], {}).strip()


def is_value(text: str) -> bool:
    return sum(map(str.isalpha, text)) < 0.4 * len(text)


def is_open(text: str) -> bool:
    """Whether a text calls for more."""
    return bool(re.search(r"[-–,/(&]$|\b(?:of|and|or|the|to|in|with|for|by|per|at|on|from)$", text)) or text.count(
        "("
    ) > text.count(")")
