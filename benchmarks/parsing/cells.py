"""Tables as grids, and how alike two of them are."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from typing import Any

from hiperrag.benchmarks.parsing.texts import cell_key, f1

MAX_SPAN = 100


@dataclasses.dataclass(slots=True)
class Cell:
    """A cell as it is written down: once, with its spans."""

    text: str
    rows: int = 1
    columns: int = 1


Rows = list[list[Cell]]


@dataclasses.dataclass(slots=True)
class TableScore:
    """Of one table. `cells` is F1 of the multisets of non-empty cell texts; `adjacency` F1 of adjacency relations."""

    cells: float
    adjacency: float
    matched: int
    found: int
    wanted: int


def grid_of(rows: Rows) -> list[list[int]]:
    """Index of the cell (counted in writing order) at each place of the grid; -1 where there is none."""
    taken: dict[tuple[int, int], int] = {}
    index = 0
    for r, row in enumerate(rows):
        c = 0
        for cell in row:
            while (r, c) in taken:
                c += 1
            for dr in range(min(cell.rows, len(rows) - r)):
                for dc in range(cell.columns):
                    taken.setdefault((r + dr, c + dc), index)
            c += cell.columns
            index += 1
    width = max((c for _, c in taken), default=-1) + 1
    return [[taken.get((r, c), -1) for c in range(width)] for r in range(len(rows))]


def relations(rows: Rows) -> Counter[tuple[str, str, str]]:
    """Adjacency relations: each non-empty cell with its next non-empty neighbour to the right and below.

    As in the ICDAR 2013 table competition (Göbel et al., ICDAR 2013, section III): a pair of cells counts once a
    direction, blank cells are jumped over.
    """
    texts = [cell_key(cell.text) for row in rows for cell in row]
    grid = grid_of(rows)
    pairs: set[tuple[int, int, str]] = set()
    for direction, lines in (("right", grid), ("down", [list(column) for column in zip(*grid, strict=True)])):
        for line in lines:
            filled = [i for i in line if i >= 0 and texts[i]]
            pairs.update((a, b, direction) for a, b in itertools.pairwise(filled) if a != b)
    return Counter((texts[a], texts[b], direction) for a, b, direction in pairs)


def contents(rows: Rows) -> Counter[str]:
    """Texts of the cells that have any."""
    return Counter(text for row in rows for cell in row if (text := cell_key(cell.text)))


def compare(found: Rows, wanted: Rows) -> TableScore:
    """Score the rows of a parser against those of the truth."""
    ours, truth = contents(found), contents(wanted)
    matched = (ours & truth).total()
    our_pairs, true_pairs = relations(found), relations(wanted)
    return TableScore(
        cells=f1(matched, ours.total(), truth.total()),
        adjacency=f1((our_pairs & true_pairs).total(), our_pairs.total(), true_pairs.total()),
        matched=matched,
        found=ours.total(),
        wanted=truth.total(),
    )


def overlap(found: Counter[str], wanted: Counter[str]) -> float:
    """Share of the smaller table's cells that are in the other."""
    smaller = min(found.total(), wanted.total())
    return (found & wanted).total() / smaller if smaller else 0.0


class _Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[Rows] = []
        self._cell: Cell | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables:
            if not self.tables[-1]:
                self.tables[-1].append([])
            given = dict(attrs)
            self._cell = Cell("", span(given.get("rowspan")), span(given.get("colspan")))
            self.tables[-1][-1].append(self._cell)
        elif tag == "br" and self._cell:
            self._cell.text += " "

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr", "table"):
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell:
            self._cell.text += data


def span(value: Any) -> int:
    """A rowspan or colspan attribute as a sane number."""
    return min(max(int(value), 1), MAX_SPAN) if str(value or "").strip().isdigit() else 1


def html_tables(html: str) -> list[Rows]:
    """The tables of an HTML fragment, in order."""
    reader = _Tables()
    reader.feed(html)
    reader.close()
    return [[row for row in rows if row] for rows in reader.tables]


def text_rows(text: str) -> Rows:
    """Rows of a table as lines whose cells are separated by tabs."""
    return [[Cell(cell) for cell in line.split("\t")] for line in text.splitlines() if line.strip()]


def markdown_tables(markdown: str) -> list[Rows]:
    """Pipe tables and HTML tables of a Markdown text, in order of their beginning."""
    found = [
        (m.start(), rows)
        for m in re.finditer(r"<table.*?</table>", markdown, re.S | re.I)
        for rows in html_tables(m[0])
    ]
    position, start = 0, 0
    lines: list[str] = []
    for line in [*markdown.splitlines(keepends=True), ""]:
        if line.lstrip().startswith("|") or (lines and "|" in line):
            start = start if lines else position
            lines.append(line)
        elif lines:
            if len(rows := _pipe_rows(lines)) > 0 and len(lines) > 1:
                found.append((start, rows))
            lines = []
        position += len(line)
    return [rows for _, rows in sorted(found, key=lambda item: item[0])]


def _pipe_rows(lines: Iterable[str]) -> Rows:
    rows: Rows = []
    for line in lines:
        parts = re.split(r"(?<!\\)\|", line.strip().strip("|"))
        if all(re.fullmatch(r"\s*:?-+:?\s*", part) for part in parts):
            continue
        texts = [re.sub(r"<br\s*/?>|\*\*|(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)|</?su[pb]>", " ", part) for part in parts]
        rows.append([Cell(text.replace("\\|", "|")) for text in texts])
    return rows


def merge(tables: Sequence[Rows]) -> Rows:
    """Parts of one table, one below the other."""
    return [row for rows in tables for row in rows]
