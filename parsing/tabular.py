"""A table as rows and cells, and its two written forms: lines of text and HTML."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence

CELL_GAP = "\t"
"""Between the cells of a row in a table's text."""


@dataclasses.dataclass(slots=True)
class Cell:
    """A cell by its first row and column, counted from 0."""

    row: int
    column: int
    text: str
    rowspan: int = 1
    colspan: int = 1
    header: bool = False


@dataclasses.dataclass(slots=True)
class Grid:
    """The cells of a table that hold text; the rest of its rows and columns is empty."""

    cells: list[Cell]
    n_rows: int
    n_columns: int

    @property
    def n_header_rows(self) -> int:
        return max((cell.row + cell.rowspan for cell in self.cells if cell.header), default=0)

    def trimmed(self) -> Grid | None:
        """Without empty rows and columns; None if fewer than two of either remain."""
        rows = sorted({cell.row for cell in self.cells if cell.text})
        columns = sorted({cell.column for cell in self.cells if cell.text})
        if len(rows) < 2 or len(columns) < 2:
            return None
        cells = [
            dataclasses.replace(
                cell,
                row=rows.index(cell.row),
                column=columns.index(cell.column),
                rowspan=_kept(rows, cell.row, cell.rowspan),
                colspan=_kept(columns, cell.column, cell.colspan),
            )
            for cell in self.cells
            if cell.text
        ]
        return Grid(cells, len(rows), len(columns))

    def rows(self) -> list[list[str]]:
        """Text of each cell by row and column, a spanning one in its first place, empty ones as ""."""
        table = [[""] * self.n_columns for _ in range(self.n_rows)]
        for cell in self.cells:
            table[cell.row][cell.column] = cell.text
        return table

    def text(self) -> str:
        """One row a line, cells separated by tabs."""
        return "\n".join(CELL_GAP.join(row).rstrip(CELL_GAP) for row in self.rows())

    def html(self) -> str:
        """An HTML table; cells of the header are `th`, spans have `colspan` and `rowspan`."""
        places = {(cell.row, cell.column): cell for cell in self.cells}
        covered: set[tuple[int, int]] = set()
        lines: list[str] = []
        n_header = self.n_header_rows
        for row in range(self.n_rows):
            tags: list[str] = []
            for column in range(self.n_columns):
                if (row, column) in covered:
                    continue
                cell = places.get((row, column)) or Cell(row, column, "", header=row < n_header)
                covered.update(_places(cell))
                tags.append(_tag(cell))
            lines.append(f"<tr>{''.join(tags)}</tr>")
        return f"<table>{''.join(lines)}</table>"


def _kept(places: Sequence[int], start: int, span: int) -> int:
    return sum(1 for place in places if start <= place < start + span)


def _places(cell: Cell) -> list[tuple[int, int]]:
    return [
        (row, column)
        for row in range(cell.row, cell.row + cell.rowspan)
        for column in range(cell.column, cell.column + cell.colspan)
    ]


def _tag(cell: Cell) -> str:
    name = "th" if cell.header else "td"
    spans = (f' colspan="{cell.colspan}"' if cell.colspan > 1 else "") + (
        f' rowspan="{cell.rowspan}"' if cell.rowspan > 1 else ""
    )
    return f"<{name}{spans}>{html.escape(cell.text, quote=False)}</{name}>"
