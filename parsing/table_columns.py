"""The columns of a table: strips that no text crosses, and vertical rules (see `cells`)."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Sequence

from hiperrag.parsing.pieces import WORD_GAP, Piece, Row, is_value
from hiperrag.parsing.rules import Rule, Rules

River = tuple[float, float]
"""Left and right edge of the strip between two columns."""


def lattice(lines: Sequence[Row], rules: Rules) -> list[River]:
    """Rivers of a table whose columns are all ruled; none for other tables."""
    top, bottom = lines[0][0].y0, lines[-1][0].y1
    tall: dict[float, float] = defaultdict(float)
    for rule in rules.vertical:
        place = next((at for at in tall if abs(at - rule.at) < 3), rule.at)
        tall[place] += min(rule.stop, bottom) - max(rule.start, top)
    places = sorted(at for at, length in tall.items() if length > 0.55 * (bottom - top))
    every = [piece for line in lines for piece in line]
    inner = [at for at in places if any(p.centre < at for p in every) and any(p.centre > at for p in every)]
    outer = len(places) - len(inner)
    if len(inner) < 2 and not (inner and outer == 2):
        return []
    # Cells that go unruled beside each other would be lost.
    edges = [-1e9, *inner, 1e9]
    n_several = 0
    for line in lines:
        for a, b in itertools.pairwise(edges):
            inside = [piece for piece in line if a < piece.centre < b]
            gaps = [q.x0 - p.x1 for p, q in itertools.pairwise(inside)]
            n_several += any(gap > WORD_GAP * inside[0].size for gap in gaps)
    return [] if n_several >= max(2, 0.4 * len(lines)) else [(at - 0.5, at + 0.5) for at in inner]


def rivers_of(lines: Sequence[Row], n_head: int, vertical: Sequence[Rule], size: float) -> list[River]:
    """Strips between columns, from the left: those that no text of the body crosses, but for a few long pieces."""
    body = lines[n_head:] if len(lines) - n_head >= 2 else lines
    split = [line for line in body if len(line) > 1]
    if len(split) < 2:
        split = [line for line in lines if len(line) > 1]
    if not split:
        return []
    pieces = [piece for line in split for piece in line]
    found = _gaps(pieces, split, size)
    # A few long pieces may stand across columns.
    for width in sorted({piece.width for piece in pieces}, reverse=True)[: max(1, len(pieces) // 8)]:
        more = _gaps([piece for piece in pieces if piece.width < width], split, size)
        if len(more) > len(found) and (_are_filled(more, pieces, len(split)) or _are_attested(more, lines)):
            found = more
    # Columns of cells that stand alone on their lines, beside several rows.
    alone = [piece for line in body if len(line) == 1 for piece in line if not _crosses(piece, found)]
    more = _gaps([*(piece for piece in pieces if not _crosses(piece, found)), *alone], split, size)
    if len(more) > len(found):
        found = more
    # Columns that only a header or single cells fill.
    for others in ([line for line in lines if len(line) > 1], lines):
        more = _gaps([piece for line in others for piece in line], others, size)
        if len(more) > len(found):
            found = more
    height = lines[-1][0].y1 - lines[0][0].y0
    for rule in vertical:
        known = any(a - 3 < rule.at < b + 3 for a, b in found)
        crossing = any(piece.x0 < rule.at - 1 and piece.x1 > rule.at + 1 for piece in pieces)
        sides = any(piece.x1 <= rule.at + 1 for piece in pieces) and any(piece.x0 >= rule.at - 1 for piece in pieces)
        if rule.length > 0.55 * height and not known and not crossing and sides:
            found.append((rule.at - 0.5, rule.at + 0.5))
    return sorted(found)


def _are_filled(rivers: Sequence[River], pieces: Sequence[Piece], n_lines: int) -> bool:
    """Whether every column between the rivers has a good share of the pieces."""
    edges = [-1e9, *((a + b) / 2 for a, b in rivers), 1e9]
    counts = [sum(1 for piece in pieces if a < piece.centre < b) for a, b in itertools.pairwise(edges)]
    return min(counts) >= max(2, 0.25 * n_lines)


def _are_attested(rivers: Sequence[River], lines: Sequence[Row]) -> bool:
    """Whether several lines have one piece in each column between the rivers, and nothing across."""
    n_whole = 0
    for line in lines:
        if len(line) == len(rivers) + 1:
            n_whole += all(
                a.x1 <= r[1] and b.x0 >= r[0] for (a, b), r in zip(itertools.pairwise(line), rivers, strict=True)
            )
    return n_whole > 1


def _crosses(piece: Piece, rivers: Sequence[River]) -> bool:
    return any(piece.x0 < right and piece.x1 > left for left, right in rivers)


def _gaps(pieces: Sequence[Piece], lines: Sequence[Row], size: float) -> list[River]:
    """Strips without ink. One whose gaps are all as narrow as a space between words is none."""
    found: list[River] = []
    end = None
    for piece in sorted(pieces, key=lambda piece: piece.x0):
        if end is not None and piece.x0 - end > 0.25 * size:
            found.append((end, piece.x0))
        end = piece.x1 if end is None else max(end, piece.x1)
    return [river for river in found if _parts(river, lines, size)]


def _parts(river: River, lines: Sequence[Row], size: float) -> bool:
    widest = 0.0
    n_beside = n_values = 0
    for line in lines:
        before = [piece for piece in line if piece.x1 <= river[0] + 0.1]
        after = [piece for piece in line if piece.x0 >= river[1] - 0.1]
        if before and after:
            left, right = max(before, key=lambda piece: piece.x1), min(after, key=lambda piece: piece.x0)
            n_beside += 1
            n_values += all(is_value(piece.text) or len(piece.text) < 3 for piece in (left, right))
            widest = max(widest, right.x0 - left.x1)
    needed = 0.7 if n_beside > 3 else 0.9
    if n_values > 0.8 * n_beside:  # words of text stand no closer than values that are meant to be apart
        needed = 0.4 if n_beside > 4 else 0.6
    return widest > needed * size or (widest == 0.0 and river[1] - river[0] > size)


def place(line: Row, rivers: Sequence[River], size: float) -> None:
    """Set the columns of the pieces of one line."""
    if len(line) == len(rivers) + 1:
        inked = all(line[i].x1 <= line[i + 1].x0 + 1 for i in range(len(rivers)))
        middles = [(a + b) / 2 for a, b in rivers]
        if inked and all(line[i].centre < m < line[i + 1].centre for i, m in enumerate(middles)):
            for index, piece in enumerate(line):
                piece.first = piece.last = index
            return
    slack = 0.35 * size
    for piece in line:
        first = sum(1 for start, _ in rivers if piece.x0 >= start - slack)
        last = len(rivers) - sum(1 for _, stop in rivers if piece.x1 <= stop + slack)
        if first > last:
            first = last = sum(1 for a, b in rivers if piece.centre > (a + b) / 2)
        piece.first, piece.last = first, last


def with_words_joined(line: Row) -> Row:
    """The pieces of a line with those of one cell, no farther apart than words, joined."""
    found: Row = []
    for piece in line:
        last = found[-1] if found else None
        near = last is not None and -1 < piece.x0 - last.x1 < WORD_GAP * piece.size
        if last and near and (last.first, last.last) == (piece.first, piece.last):
            found[-1] = dataclasses.replace(last, x1=piece.x1, text=f"{last.text} {piece.text}")
        else:
            found.append(piece)
    return found
