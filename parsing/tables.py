"""Tables with a caption above them, found before the reading order so that their cells stay together.

Rows are taken from below the caption for as long as they look tabular: several cells, small print, or less than
the column's width. No ruling lines are looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hiperrag.parsing import typography
from hiperrag.parsing.lines import Line, Page
from hiperrag.parsing.typography import Style

CELL_GAP = "\t"
"""Between the cells of a row in a table's text."""


def gather(page: Page, lines: Sequence[Line], style: Style, leading: float) -> list[Line]:
    """The lines with those of each captioned table replaced by one line of kind "table" that covers them.

    Its text has one row a line, cells separated by a tab.
    """
    captions = [line for line in lines if _is_caption(line, style)]
    taken: set[int] = set()
    result: list[Line] = []
    for caption in sorted(captions, key=lambda line: line.y0):
        if id(caption) in taken:
            continue
        rows = _rows_below(caption, [line for line in lines if id(line) not in taken], page, style, leading)
        if sum(len(row) > 1 for row in rows) < 2:
            continue
        cells = [line for row in rows for line in row]
        taken.update(id(line) for line in cells)
        result.append(_table(cells, rows))
    result.extend(line for line in lines if id(line) not in taken)
    return result


def _is_caption(line: Line, style: Style) -> bool:
    match = typography.CAPTION.match(line.text)
    if not match or not match.group("label").lower().startswith("tab") or line.text[:1].islower():
        return False
    rest = line.text[match.end() :].strip()
    return bool(match.group("after").strip()) or not rest or line.bold_start or line.size < style.size - 0.4


def _table(cells: Sequence[Line], rows: Sequence[Sequence[Line]]) -> Line:
    return dataclasses.replace(
        cells[0],
        x0=min(line.x0 for line in cells),
        y0=min(line.y0 for line in cells),
        x1=max(line.x1 for line in cells),
        y1=max(line.y1 for line in cells),
        text="\n".join(CELL_GAP.join(line.text for line in row) for row in rows),
        kind="table",
    )


def _rows_below(caption: Line, lines: Sequence[Line], page: Page, style: Style, leading: float) -> list[list[Line]]:
    """Rows of the table under a caption, in the band of the page the caption stands in."""
    left, right = _band(caption, lines, page)
    below = sorted(
        (
            line
            for line in lines
            if line.baseline > caption.baseline + 0.4 * caption.size
            and line.x0 > left - 2 * caption.size
            and line.x1 < right + 2 * caption.size
        ),
        key=lambda line: line.baseline,
    )
    rows: list[list[Line]] = []
    for line in below:
        if rows and line.baseline - rows[-1][0].baseline < 0.4 * min(line.size, rows[-1][0].size):
            rows[-1].append(line)
        else:
            rows.append([line])
    table: list[list[Line]] = []
    bottom, in_caption = caption.baseline, True
    pitch = leading * style.size
    for row in rows:
        row.sort(key=lambda line: line.x0)
        gap = row[0].baseline - bottom
        if in_caption and len(row) == 1 and _continues(caption, row[0]) and gap < 1.3 * leading * caption.size:
            bottom = row[0].baseline
            continue
        in_caption = False
        if gap > 4 * pitch or not _is_tabular(row, left, right, style):
            break
        table.append(row)
        bottom = row[0].baseline
    return _without_tail(table, pitch, style)


def _band(caption: Line, lines: Sequence[Line], page: Page) -> tuple[float, float]:
    """Left and right edge of the column, or columns, that a table under the caption may fill."""
    beside = [
        line
        for line in lines
        if line is not caption
        and line.y0 < caption.y1 + 1.5 * caption.size
        and line.y1 > caption.y0 - 0.5 * caption.size
        and (line.x0 > caption.x1 + 4 or line.x1 < caption.x0 - 4)
        and line.width > 0.25 * page.width
    ]
    left = max((line.x1 for line in beside if line.x1 < caption.x0), default=0.0)
    right = min((line.x0 for line in beside if line.x0 > caption.x1), default=page.width)
    return left, right


def _continues(caption: Line, line: Line) -> bool:
    return abs(line.size - caption.size) < 0.3 and line.x0 < caption.x1 and line.x1 > caption.x0


def _is_tabular(row: Sequence[Line], left: float, right: float, style: Style) -> bool:
    if typography.CAPTION.match(row[0].text) and row[0].bold_start:
        return False
    if all(line.size < style.size - 0.45 for line in row):
        return True
    column = min(style.width or right - left, right - left)
    # Two columns of running text side by side are no row of a table.
    if any(line.width > 0.8 * column and abs(line.size - style.size) < 0.45 for line in row):
        return False
    if len(row) > 1:
        return True
    line = row[0]
    heading = line.size > style.size + 0.6 or (line.bold and line.font not in style.fonts)
    return not heading and line.width < 0.6 * column


def _without_tail(table: list[list[Line]], pitch: float, style: Style) -> list[list[Line]]:
    """The rows up to the last that is surely the table's: what follows a wide gap and is not cells is dropped."""
    end = 0
    for index, row in enumerate(table):
        gap = row[0].baseline - table[index - 1][0].baseline if index else 0.0
        tabular = len(row) > 1 or all(line.size < style.size - 0.45 for line in row)
        if tabular or (gap < 1.2 * pitch and end == index):
            end = index + 1
    return table[:end]
