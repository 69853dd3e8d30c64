"""Rows and cells of a table from the places of its text and its ruling lines.

Columns are parted by the strips that no text crosses (T. G. Kieninger and A. Dengel, "The T-Recs table recognition
and analysis system", DAS 1998, do the same with words) and by vertical rules. Rows are parted by horizontal rules
where each row has one, else by the distance of lines where those of one cell stand closer than rows do, else by
what each line fills: a line that goes on in columns whose text had no room left continues the row above. Lines of
recognised characters, without rules, are read in the same way.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from hiperrag.parsing import table_columns, table_header, table_rows
from hiperrag.parsing.pieces import Piece, Row, by_columns, in_lines, text_of
from hiperrag.parsing.rules import Rules
from hiperrag.parsing.tabular import Cell, Grid

FULL = 0.85
"""A rule over this share of a table's width crosses it."""
MAX_COLUMNS = 60


def build(pieces: Iterable[Piece], rules: Rules) -> Grid | None:
    """The table that the pieces make; None if they make no two columns and rows.

    `rules` are those inside the table and at its edges.
    """
    lines = in_lines(pieces)
    if len(lines) < 2:
        return None
    every = [piece for line in lines for piece in line]
    size = statistics.median(piece.size for piece in every)
    left = min([piece.x0 for piece in every] + [rule.start for rule in rules.horizontal])
    right = max([piece.x1 for piece in every] + [rule.stop for rule in rules.horizontal])
    bars = sorted(rule.at for rule in rules.horizontal if rule.length > FULL * (right - left))
    n_head = table_header.count_lines(lines, bars)
    lattice = table_columns.lattice(lines, rules)
    rivers = lattice or table_columns.rivers_of(lines, n_head, rules.vertical, size)
    if not rivers or len(rivers) >= MAX_COLUMNS:
        return None
    for line in lines:
        table_columns.place(line, rivers, size)
    lines = [table_columns.with_words_joined(line) for line in lines]
    body = table_rows.body_rows(lines[n_head:], bars, rules if lattice else Rules(), len(rivers) + 1, size)
    if n_head == 0 and body:
        header, body = [list(body[0])], body[1:]
        cells = _cells_of_rows(header, 0, header=True)
    else:
        edges = [left, *((a + b) / 2 for a, b in rivers), right]
        cells = table_header.header_cells(lines[:n_head], rules.horizontal, FULL * (right - left), edges)
    start = max((cell.row + cell.rowspan for cell in cells), default=0)
    cells += _cells_of_rows(body, start, header=False)
    grid = Grid(cells, start + len(body), len(rivers) + 1)
    return grid.trimmed()


def _cells_of_rows(rows: Sequence[Row], start: int, *, header: bool) -> list[Cell]:
    found: list[Cell] = []
    for number, row in enumerate(rows, start):
        for first, last, pieces in by_columns(row):
            n_rows = max(piece.n_rows for piece in pieces)
            found.append(Cell(number, first, text_of(pieces), n_rows, last - first + 1, header))
    return found
