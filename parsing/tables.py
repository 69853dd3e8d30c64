"""Tables, found before the reading order so that their cells stay together.

A table is looked for below its caption, then above it: between the ruling lines of one width that start there, or,
without any, over the rows that look tabular (several cells, small print, or less than the column's width). What is
ruled like a table but has no caption is one too. `cells.build` then finds rows and cells.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from hiperrag.parsing import captions, cells
from hiperrag.parsing.captions import Label
from hiperrag.parsing.lines import Line, Page
from hiperrag.parsing.pieces import n_cells, pieces_of
from hiperrag.parsing.rules import Rule, Rules, page_rules
from hiperrag.parsing.tabular import Grid
from hiperrag.parsing.typography import Style

SAME_EDGE = 6.0
"""Rules of one table end at the same place, to within so many points."""
MAX_HEADER = 4
"""Lines above the last rule of a table whose rows go on under it."""
MIN_RULE = 0.12
"""Length of the shortest rule that may bound a table, as a share of the page's width."""


@dataclasses.dataclass(slots=True)
class _Area:
    """Lines that may make a table, and the rules among them."""

    lines: list[Line]
    rules: Rules


def gather(
    page: Page, lines: Sequence[Line], style: Style, leading: float, seen: Sequence[Sequence[float]] = ()
) -> list[Line]:
    """The lines with those of each table replaced by one line of kind "table" that covers them.

    Its text has one row a line, cells separated by a tab; its html the rows and cells with their spans. `seen` are
    boxes, in the coordinates of the lines, where the layout model sees tables: it finds those without rules.
    """
    found = _Finder(page, lines, style, leading)
    for label in found.labels:
        if label.kind == "table":
            found.take(found.ruled(label, below=True)) or found.take(found.unruled(label)) or found.take(
                found.ruled(label, below=False)
            )
    for area in found.uncaptioned():
        found.take(area)
    for x0, y0, x1, y1 in seen:
        found.take(found.seen(x0, y0, x1, y1))
    return [*found.tables, *(line for line in lines if id(line) not in found.taken)]


class _Finder:
    """Tables of one page."""

    def __init__(self, page: Page, lines: Sequence[Line], style: Style, leading: float) -> None:
        self.page, self.style, self.leading = page, style, leading
        self.lines = list(lines)
        self.rules = page_rules(page)
        labels = [self._above_rule(label) for label in captions.labels(lines, style, leading)]
        self.labels = sorted(labels, key=lambda label: label.box[1])
        self.tables: list[Line] = []
        self.taken: set[int] = set()
        self._in_label = {id(line) for label in self.labels for line in label.lines}

    @property
    def pitch(self) -> float:
        """Distance of the text's baselines in points."""
        return self.leading * self.style.size

    def _above_rule(self, label: Label) -> Label:
        """A table's caption without what stands under a rule below its first lines: rows set as closely as it is."""
        if label.kind != "table":
            return label
        for index, (line, following) in enumerate(itertools.pairwise(label.lines), 1):
            x0, x1 = min(line.x0, following.x0), max(line.x1, following.x1)
            if any(
                line.baseline < rule.at < following.baseline - 0.5 * following.size
                and min(rule.stop, x1) - max(rule.start, x0) > 0.8 * (x1 - x0)
                for rule in self.rules.horizontal
            ):
                return dataclasses.replace(label, lines=label.lines[:index])
        return label

    def take(self, area: _Area | None) -> bool:
        """Make a table of an area; whether it is one."""
        if area is None or not area.lines:
            return False
        grid = cells.build([piece for line in area.lines for piece in pieces_of(line)], area.rules)
        if grid is None:
            return False
        self.taken.update(id(line) for line in area.lines)
        self.tables.append(_table(area.lines, grid))
        return True

    def _free(self) -> list[Line]:
        return [line for line in self.lines if id(line) not in self.taken and id(line) not in self._in_label]

    def ruled(self, label: Label, *, below: bool) -> _Area | None:
        """The table between rules that start right below a caption (or end right above it)."""
        left, right = _band(label.lines[0], self.lines, self.page)
        x0, y0, x1, y1 = label.box
        long = [
            rule
            for rule in self.rules.horizontal
            if rule.length > MIN_RULE * self.page.width
            and rule.start > left - SAME_EDGE
            and rule.stop < right + SAME_EDGE
            and rule.start < x1
            and rule.stop > x0
        ]
        reach = 5 * self.pitch
        if below:
            near = [rule for rule in long if y1 - 2 < rule.at < y1 + reach]
        else:
            near = [rule for rule in reversed(long) if y0 - reach < rule.at < y0 + 2]
        for first in near[:3]:
            area = self._between(first, long, down=below, edge=y1 if below else y0)
            if area is not None:
                return area
        return None

    def _between(self, first: Rule, rules: Sequence[Rule], *, down: bool, edge: float) -> _Area | None:
        """What lies between a rule and the last of its width that the table reaches, and between `edge` and it."""
        family = [
            rule for rule in rules if (rule.at > first.at if down else rule.at < first.at) and _same_width(rule, first)
        ]
        if not down:
            family.reverse()
        free = self._free()
        last = first.at
        for rule in family:
            segment = _inside(free, first.start, min(last, rule.at), first.stop, max(last, rule.at))
            stop = any(
                min(last, rule.at) < label.lines[0].baseline < max(last, rule.at)
                and label.box[0] < first.stop
                and label.box[2] > first.start
                for label in self.labels
            )
            if stop or not self._may_be_rows(segment, first, free, (min(last, rule.at), max(last, rule.at))):
                break
            if not _is_note(segment, first.length) or last == first.at:
                last = rule.at
        if last == first.at:
            return None
        top, bottom = (first.at, last) if down else (last, first.at)
        if down and any(
            sum(n_cells(line) for line in row) > 1
            for row in _rows(_inside(free, first.start, edge, first.stop, first.at))
        ):
            top = min(edge, top)  # the first rule is the one under the header
        lines = _inside(free, first.start, top, first.stop, bottom)
        if down:
            lines += self._rows_after(lines, free, first, bottom)
        if not lines:
            return None
        bottom = max(bottom, *(line.y1 for line in lines))
        return _Area(lines, self.rules.within((first.start, top, first.stop, bottom)))

    def _may_be_rows(
        self, segment: Sequence[Line], first: Rule, free: Sequence[Line], heights: tuple[float, float]
    ) -> bool:
        """Whether the lines between two rules can be rows of a table rather than running text."""
        width = first.length
        if heights[1] - heights[0] > 0.3 * self.page.height and len(segment) < 3:
            return False
        out = [
            line
            for line in free
            if heights[0] < line.baseline - 0.3 * line.size < heights[1]
            and line.x0 < first.stop - 0.1 * width
            and line.x1 > first.start + 0.1 * width
            and (line.x0 < first.start - 2 * SAME_EDGE or line.x1 > first.stop + 2 * SAME_EDGE)
        ]
        if out:
            return False
        pieces = [pieces_of(line) for line in segment]
        body = [row for line, row in zip(segment, pieces, strict=True) if abs(line.size - self.style.size) < 0.45]
        whole = sum(1 for row in body if len(row) == 1 and row[0].width > 0.85 * width)
        half = sum(1 for row in body for piece in row if 0.42 * width < piece.width < 0.52 * width)
        notes = sum(1 for row in pieces if len(row) == 1 and row[0].width > 0.85 * width)
        return whole < 3 and notes < max(3, 0.5 * len(segment)) and half < max(6, 0.5 * len(segment))

    def _rows_after(self, lines: Sequence[Line], free: Sequence[Line], first: Rule, bottom: float) -> list[Line]:
        """Rows that go on under the last rule: of several cells, set like those above."""
        if not lines:
            return []
        size = sorted(line.size for line in lines)[len(lines) // 2]
        below = [line for line in free if bottom - 2 < line.y0 and id(line) not in {id(one) for one in lines}]
        below = [line for line in below if line.x0 > first.start - SAME_EDGE and line.x1 < first.stop + SAME_EDGE]
        found: list[list[Line]] = []
        end = bottom
        only_header = len(_rows(lines)) <= MAX_HEADER
        for row in _rows(below):
            pieces = [piece for line in row for piece in pieces_of(line)]
            tabular = len(pieces) > 2 and all(piece.width < 0.4 * first.length for piece in pieces)
            if only_header:
                tabular = self._is_tabular(row, first.start, first.stop)
            if not tabular or row[0].y0 - end > (4 if only_header else 1.2) * size:
                break
            if any(abs(line.size - size) > 1 for line in row):
                break
            found.append(row)
            end = max(line.y1 for line in row)
        return [line for row in self._without_tail(found) for line in row]

    def unruled(self, label: Label) -> _Area | None:
        """The rows below a caption that look tabular."""
        caption = dataclasses.replace(label.lines[-1])
        caption.x0, _, caption.x1, _ = label.box
        left, right = _band(label.lines[0], self.lines, self.page)
        rows = self._rows_below(caption, left, right)
        counts = [sum(n_cells(line) for line in row) for row in rows]
        if sum(count > 1 for count in counts) < 2:
            return None
        lines = [line for row in rows for line in row]
        box = (min(one.x0 for one in lines), caption.y1, max(one.x1 for one in lines), max(one.y1 for one in lines))
        return _Area(lines, self.rules.within(box, 6.0))

    def _rows_below(self, caption: Line, left: float, right: float) -> list[list[Line]]:
        below = [
            line
            for line in self._free()
            if line.baseline > caption.baseline + 0.4 * caption.size
            and line.x0 > left - 2 * caption.size
            and line.x1 < right + 2 * caption.size
        ]
        barrier = min(
            (
                label.lines[0].baseline
                for label in self.labels
                if label.lines[0].baseline > caption.baseline and label.box[0] < right and label.box[2] > left
            ),
            default=float("inf"),
        )
        table: list[list[Line]] = []
        bottom = caption.baseline
        for row in _rows(below):
            gap = row[0].baseline - bottom
            if gap > 4 * self.pitch or row[0].baseline > barrier or not self._is_tabular(row, left, right):
                break
            table.append(row)
            bottom = row[0].baseline
        return self._without_tail(table)

    def _is_tabular(self, row: Sequence[Line], left: float, right: float) -> bool:
        style = self.style
        if all(line.size < style.size - 0.45 for line in row):
            return True
        column = min(style.width or right - left, right - left)
        # Two columns of running text side by side are no row of a table.
        if any(line.width > 0.8 * column and abs(line.size - style.size) < 0.45 and n_cells(line) == 1 for line in row):
            return False
        if sum(n_cells(line) for line in row) > 1:
            return True
        line = row[0]
        heading = line.size > style.size + 0.6 or (line.bold and line.font not in style.fonts)
        return not heading and line.width < 0.6 * column

    def _without_tail(self, table: list[list[Line]]) -> list[list[Line]]:
        """The rows up to the last that is surely the table's: notes under it and what follows a wide gap are not."""
        end = 0
        for index, row in enumerate(table):
            gap = row[0].baseline - table[index - 1][0].baseline if index else 0.0
            pieces = sum(n_cells(line) for line in row)
            if pieces > 1 or (gap < 1.2 * self.pitch and end == index):
                end = index + 1
        widths = [max(line.x1 for line in row) - min(line.x0 for line in row) for row in table]
        while (
            end and len(table[end - 1]) == 1 and n_cells(table[end - 1][0]) == 1 and widths[end - 1] > 0.6 * max(widths)
        ):
            end -= 1
        return table[:end]

    def seen(self, x0: float, y0: float, x1: float, y1: float) -> _Area | None:
        """What lies in a box, if no table has been found there."""
        if any(table.x0 < x1 and table.x1 > x0 and table.y0 < y1 and table.y1 > y0 for table in self.tables):
            return None
        lines = _inside(self._free(), x0, y0, x1, y1)
        return _Area(lines, self.rules.within((x0, y0, x1, y1))) if len(lines) > 3 else None

    def uncaptioned(self) -> list[_Area]:
        """Areas ruled like a table: three rules of one width with cells between, the columns side by side."""
        found: list[_Area] = []
        if self.page.number == 1:
            return found
        used: set[int] = set()
        long = [rule for rule in self.rules.horizontal if rule.length > 2 * MIN_RULE * self.page.width]
        for first in long:
            if id(first) in used:
                continue
            family = [rule for rule in long if rule.at >= first.at and _same_width(rule, first)]
            area = self._between(first, family, down=True, edge=first.at) if len(family) > 1 else None
            if area is None:
                continue
            bottom = max(line.y1 for line in area.lines)
            inside = [rule for rule in family if rule.at < bottom + 6]
            used.update(id(rule) for rule in inside)
            rows = _rows(area.lines)
            several = sum(1 for row in rows if sum(n_cells(line) for line in row) > 1)
            pieces = [piece for line in area.lines for piece in pieces_of(line)]
            wide = sum(1 for piece in pieces if piece.width > 0.33 * first.length)
            if wide > 0.2 * len(pieces):
                continue  # two columns of text between the rules of head and foot
            many = sum(1 for row in rows if sum(n_cells(line) for line in row) > 2)
            if (len(inside) > 2 and several >= max(2, 0.7 * len(rows))) or many >= max(3, 0.25 * len(rows)):
                found.append(area)
        return found


def _is_note(segment: Sequence[Line], width: float) -> bool:
    """Whether lines between two rules are a note: text across the table, no cells."""
    rows = _rows(segment)
    across = any(max(one.x1 for one in row) - min(one.x0 for one in row) > 0.6 * width for row in rows)
    return across and not any(sum(n_cells(line) for line in row) > 1 for row in rows)


def _same_width(a: Rule, b: Rule) -> bool:
    return abs(a.start - b.start) < SAME_EDGE and abs(a.stop - b.stop) < SAME_EDGE


def _inside(lines: Sequence[Line], x0: float, y0: float, x1: float, y1: float) -> list[Line]:
    return [
        line
        for line in lines
        if y0 - 1 < line.baseline - 0.3 * line.size < y1 + 1
        and x0 - 2 * SAME_EDGE < line.x0
        and line.x1 < x1 + 2 * SAME_EDGE
    ]


def _rows(lines: Sequence[Line]) -> list[list[Line]]:
    """Lines by baseline from the top, those of one baseline from the left."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.baseline):
        if rows and line.baseline - rows[-1][0].baseline < 0.4 * min(line.size, rows[-1][0].size):
            rows[-1].append(line)
        else:
            rows.append([line])
    for row in rows:
        row.sort(key=lambda line: line.x0)
    return rows


def _table(lines: Sequence[Line], grid: Grid) -> Line:
    return dataclasses.replace(
        lines[0],
        x0=min(line.x0 for line in lines),
        y0=min(line.y0 for line in lines),
        x1=max(line.x1 for line in lines),
        y1=max(line.y1 for line in lines),
        text=grid.text(),
        kind="table",
        html=grid.html(),
        parts=(),
    )


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
