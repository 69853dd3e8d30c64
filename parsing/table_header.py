"""The header of a table: which lines it has, and its cells over one or several columns and levels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hiperrag.parsing import mend
from hiperrag.parsing.pieces import Piece, Row, bands_between, by_columns, text_of
from hiperrag.parsing.rules import Rule
from hiperrag.parsing.tabular import Cell


def count_lines(lines: Sequence[Row], bars: Sequence[float]) -> int:
    """Lines above the rule under the header; 0 if no rule tells."""
    tops = [min(piece.baseline for piece in line) for line in lines]
    for bar in bars:
        above = sum(1 for top in tops if top < bar + 1)
        if above == 0:
            continue
        if above >= len(lines) or above > max(4, 0.5 * len(lines)):
            return 0
        bold = all(piece.bold for line in lines[:above] for piece in line)
        while bold and above < min(6, len(lines) - 1) and all(piece.bold for piece in lines[above]):
            if len(lines[above]) < 2:
                break
            above += 1
        return above
    return 0


def header_cells(lines: Sequence[Row], horizontal: Sequence[Rule], full: float, edges: Sequence[float]) -> list[Cell]:
    """Cells of the header: levels are cut by rules under some of its columns, and under pieces that span columns."""
    n_columns = len(edges) - 1
    top = min(piece.baseline - 0.5 * piece.size for piece in lines[0])  # not the rule above the table
    bottom = max(piece.baseline for piece in lines[-1])
    within = [rule for rule in horizontal if top < rule.at < bottom]
    inner = [rule for rule in within if rule.length <= full]
    _span_by_rules(lines, inner, edges)
    _span_by_centre(lines, edges)
    cuts = _level_cuts(lines, within)
    cells: list[Cell] = []
    open_cells: dict[tuple[int, int], Cell] = {}
    for level, band in enumerate(bands_between(lines, cuts)):
        for first, last, pieces in by_columns([piece for line in band for piece in line]):
            text = text_of(pieces)
            cell = open_cells.get((first, last))
            if cell and not _is_ruled(within, edges[first], edges[last + 1]):
                cell.text = mend.join_all([cell.text, text], {})
                cell.rowspan = level - cell.row + 1
                continue
            cell = Cell(level, first, text, 1, last - first + 1, True)
            cells.append(cell)
            open_cells = {k: v for k, v in open_cells.items() if k[1] < first or k[0] > last}
            open_cells[(first, last)] = cell
    n_levels = max((cell.row + cell.rowspan for cell in cells), default=0)
    for column in range(n_columns):
        own = [cell for cell in cells if cell.column <= column < cell.column + cell.colspan]
        if len(own) == 1 and own[0].colspan == 1:
            own[0].row, own[0].rowspan = 0, n_levels
    return cells


def _is_ruled(rules: Sequence[Rule], x0: float, x1: float) -> bool:
    return any(min(rule.stop, x1) - max(rule.start, x0) > 0.5 * (x1 - x0) for rule in rules)


def _span_by_rules(lines: Sequence[Row], rules: Sequence[Rule], edges: Sequence[float]) -> None:
    """Pieces right above a rule span the columns that it spans."""
    for rule in rules:
        middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
        covered = [i for i, middle in enumerate(middles) if rule.start - 2 < middle < rule.stop + 2]
        over = [
            piece
            for line in lines
            for piece in line
            if piece.baseline < rule.at + 1 and rule.start - 3 < piece.centre < rule.stop + 3
        ]
        if not covered or not over:
            continue
        lowest = max(piece.baseline for piece in over)
        nearest = [piece for piece in over if lowest - piece.baseline < 0.4 * piece.size]
        if len(nearest) == 1 and rule.at - lowest < 1.5 * nearest[0].size:
            nearest[0].first, nearest[0].last = covered[0], covered[-1]


def _span_by_centre(lines: Sequence[Row], edges: Sequence[float]) -> None:
    """Pieces that stand over the middle of several columns, each headed below and free beside them, span these."""
    for index, line in enumerate(lines[:-1]):
        below = {c for other in lines[index + 1 :] for p in other if p.first == p.last for c in (p.first,)}
        for piece in line:
            if piece.first == 0 and piece.last == 0:
                continue
            others = {c for p in line if p is not piece for c in range(p.first, p.last + 1)}
            best = (piece.first, piece.last)
            free_left, free_right = piece.first, piece.last
            while free_left - 1 >= 1 and free_left - 1 not in others and free_left - 1 in below:
                free_left -= 1
            while free_right + 1 < len(edges) - 1 and free_right + 1 not in others and free_right + 1 in below:
                free_right += 1
            if (free_left, free_right) == best or not set(range(piece.first, piece.last + 1)) <= below:
                continue
            distance = _off_centre(piece, edges, *best) - 0.15 * (edges[best[1] + 1] - edges[best[0]])
            for first in range(free_left, piece.first + 1):
                for last in range(piece.last, free_right + 1):
                    off = _off_centre(piece, edges, first, last)
                    if (first, last) != best and off < distance:
                        best, distance = (first, last), off
            piece.first, piece.last = best


def _off_centre(piece: Piece, edges: Sequence[float], first: int, last: int) -> float:
    return abs(piece.centre - (edges[first] + edges[last + 1]) / 2)


def _level_cuts(lines: Sequence[Row], rules: Sequence[Rule]) -> list[float]:
    """Heights at which the header's levels end."""
    cuts = [rule.at for rule in rules]
    for index, line in enumerate(lines[:-1]):
        below = [p for other in lines[index + 1 :] for p in other]
        for piece in line:
            under = [p for p in below if p.first >= piece.first and p.last <= piece.last]
            if piece.last > piece.first and any(p.last - p.first < piece.last - piece.first for p in under):
                next_line = min(p.baseline - 0.9 * p.size for p in under)
                cuts.append((piece.baseline + max(next_line, piece.baseline)) / 2)
                break
    found: list[float] = []
    for cut in sorted(cuts):
        if not found or cut - found[-1] > 4:
            found.append(cut)
    return found
