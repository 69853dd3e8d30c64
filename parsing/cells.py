"""Rows and cells of a table from the places of its text and its ruling lines.

Columns are parted by the strips that no text crosses (T. G. Kieninger and A. Dengel, "The T-Recs table recognition
and analysis system", DAS 1998, do the same with words) and by vertical rules. Rows are parted by horizontal rules
where each row has one, else by the distance of lines where those of one cell stand closer than rows do, else by
what each line fills: a line that goes on in columns whose text had no room left continues the row above. Lines of
recognised characters, without rules, are read in the same way.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from hiperrag.parsing import mend
from hiperrag.parsing.lines import Line
from hiperrag.parsing.rules import Rule, Rules
from hiperrag.parsing.tabular import Cell, Grid

FULL = 0.85
"""A rule over this share of a table's width crosses it."""
MAX_COLUMNS = 60
OVERLAP = 0.8
"""Lines whose baselines stand fewer font sizes apart lie side by side."""
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
River = tuple[float, float]
"""Left and right edge of the strip between two columns."""


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
    n_head = _n_header_lines(lines, bars)
    lattice = _lattice(lines, rules)
    rivers = lattice or _rivers(lines, n_head, rules.vertical, size)
    if not rivers or len(rivers) >= MAX_COLUMNS:
        return None
    for line in lines:
        _place(line, rivers, size)
    lines = [_whole(line) for line in lines]
    body = _body_rows(lines[n_head:], bars, rules if lattice else Rules(), len(rivers) + 1, size)
    if n_head == 0 and body:
        header, body = [list(body[0])], body[1:]
        cells = _cells_of_rows(header, 0, header=True)
    else:
        edges = [left, *((a + b) / 2 for a, b in rivers), right]
        cells = _header(lines[:n_head], rules.horizontal, FULL * (right - left), edges)
    start = max((cell.row + cell.rowspan for cell in cells), default=0)
    cells += _cells_of_rows(body, start, header=False)
    grid = Grid(cells, start + len(body), len(rivers) + 1)
    return grid.trimmed()


def _n_header_lines(lines: Sequence[Row], bars: Sequence[float]) -> int:
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


def _lattice(lines: Sequence[Row], rules: Rules) -> list[River]:
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


def _rivers(lines: Sequence[Row], n_head: int, vertical: Sequence[Rule], size: float) -> list[River]:
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
            n_values += all(_is_value(piece.text) or len(piece.text) < 3 for piece in (left, right))
            widest = max(widest, right.x0 - left.x1)
    needed = 0.7 if n_beside > 3 else 0.9
    if n_values > 0.8 * n_beside:  # words of text stand no closer than values that are meant to be apart
        needed = 0.4 if n_beside > 4 else 0.6
    return widest > needed * size or (widest == 0.0 and river[1] - river[0] > size)


def _place(line: Row, rivers: Sequence[River], size: float) -> None:
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


def _whole(line: Row) -> Row:
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


def _filled(line: Row) -> set[int]:
    return {column for piece in line for column in range(piece.first, piece.last + 1)}


def _body_rows(lines: Sequence[Row], bars: Sequence[float], rules: Rules, n_columns: int, size: float) -> list[Row]:
    """Pieces of each row under the header."""
    cuts = sorted({*bars, *(rule.at for rule in rules.horizontal)})
    bands = _bands(lines, cuts)
    if (len(bands) >= 2 and _are_rows(bands, n_columns, size)) or (bands and _are_text(bands, n_columns)):
        return [[piece for line in band for piece in line] for band in bands]
    bands = _bands(lines, bars)
    return [row for rows in _rows_in(bands, n_columns, size) for row in rows]


def _bands(lines: Sequence[Row], cuts: Sequence[float]) -> list[list[Row]]:
    """Lines between rules."""
    found: dict[int, list[Row]] = defaultdict(list)
    for line in lines:
        middle = statistics.median(piece.baseline - 0.3 * piece.size for piece in line)
        found[sum(1 for cut in cuts if cut < middle)].append(line)
    return [found[key] for key in sorted(found)]


def _are_rows(bands: Sequence[Sequence[Row]], n_columns: int, size: float) -> bool:
    """Whether the lines of each band may be those of one row.

    They are not where most columns are filled again by what does not go on from above.
    """
    if all(len(band) == 1 for band in bands):
        return len(bands) > 2
    needed = max(2, round(0.5 * n_columns))
    n_wrong = 0
    for band in bands:
        widths = _column_widths(band, n_columns)
        if any(
            len(_filled(line)) >= needed
            and len(_filled(line) & {c for other in band[:index] for c in _filled(other)}) >= needed
            and sum(_goes_on(band[:index], piece, widths, size) for piece in line) < 0.6 * len(line)
            for index, line in enumerate(band)
        ):
            n_wrong += 1
    return n_wrong <= 0.2 * len(bands)


def _rows_in(bands: Sequence[Sequence[Row]], n_columns: int, size: float) -> list[list[Row]]:
    if _are_centred(bands, size):
        return [
            [row for group in _overlapping(band, size) for row in _beside(group, _column_widths(band, n_columns), size)]
            for band in bands
        ]
    spaced = [_by_distance(band, bands, size) for band in bands]
    groups = [group for band in spaced for group in band]
    apart = sum(len(band) for band in spaced) > len(bands)
    if (
        apart
        and any(len(group) > 1 for group in groups)
        and (_are_rows(groups, n_columns, size) or _are_text(groups, n_columns))
    ):
        return [[[piece for line in group for piece in line] for group in band] for band in spaced]
    return [_by_filling(band, n_columns, size) for band in bands]


def _are_text(groups: Sequence[Sequence[Row]], n_columns: int) -> bool:
    """Whether the lines of each group are cells of running text that begin side by side and end where they end."""
    if n_columns < 3 or max(map(len, groups)) < 4:
        return False
    long = [group for group in groups if len(group) > 1]
    pieces = [piece for group in long for line in group for piece in line]
    if sum(_is_value(piece.text) for piece in pieces) > 0.2 * len(pieces):
        return False
    for group in long:
        filled = [_filled(line) for line in group]
        if any(below - above for above, below in itertools.pairwise(filled)) or filled[-1] == filled[0]:
            return False
    return True


def _are_centred(bands: Sequence[Sequence[Row]], size: float) -> bool:
    """Whether cells of several lines are centred in their rows: their lines stand at each other's gaps."""
    pitches = [b[0].baseline - a[0].baseline for band in bands for a, b in itertools.pairwise(band)]
    return len(pitches) > 3 and sum(1 for pitch in pitches if pitch < OVERLAP * size) > 0.3 * len(pitches)


def _overlapping(band: Sequence[Row], size: float) -> list[list[Row]]:
    """Lines of a band grouped where they stand closer than a line is high."""
    groups: list[list[Row]] = []
    for line in band:
        if groups and line[0].baseline - groups[-1][-1][0].baseline < OVERLAP * size:
            groups[-1].append(line)
        else:
            groups.append([line])
    return groups


def _beside(group: Sequence[Row], widths: Sequence[float], size: float) -> list[Row]:
    """Rows of lines that stand at each other's gaps: one, or one a line where lines fill the same columns anew and
    what stands between two of them is a cell beside both."""
    columns = {column for line in group for column in _filled(line)}
    full = [index for index, line in enumerate(group) if len(_filled(line)) >= max(3, 0.5 * len(columns))]
    whole = [piece for line in group for piece in line]
    if len(full) < 2:
        return [whole]
    for above, below in itertools.pairwise(full):
        going = sum(_goes_on(group[above : above + 1], piece, widths, size) for piece in group[below])
        again = len(_filled(group[above]) & _filled(group[below]))
        if going > 0.3 * len(group[below]) or again < 0.6 * len(_filled(group[below])):
            return [whole]
    rows = [list(group[index]) for index in full]
    for index, line in enumerate(group):
        if index in full:
            continue
        above = max(0, sum(1 for other in full if other < index) - 1)
        between = full[0] < index < full[-1]
        for piece in line:
            piece.n_rows = 2 if between and piece.first not in _filled(group[full[above + 1]]) else 1
            rows[above].append(piece)
    return rows


def _by_distance(band: Sequence[Row], bands: Sequence[Sequence[Row]], size: float) -> list[list[Row]]:
    """Lines of a band grouped where they stand no farther apart than the lines within cells do."""
    pitch = _pitch(bands, size)
    groups: list[list[Row]] = []
    last: dict[int, float] = {}
    bottom = 0.0
    for line in band:
        baseline = statistics.median(piece.baseline for piece in line)
        near = any(baseline - last[column] < 1.09 * pitch for column in _filled(line) if column in last) or (
            groups and baseline - bottom < 0.8 * pitch
        )
        if groups and near:
            groups[-1].append(line)
        else:
            groups.append([line])
            last = {}
        bottom = baseline
        for column in _filled(line):
            last[column] = baseline
    return groups


def _pitch(bands: Sequence[Sequence[Row]], size: float) -> float:
    """The common small distance of lines in one column."""
    distances: list[float] = []
    for band in bands:
        last: dict[int, float] = {}
        for line in band:
            for piece in line:
                if piece.first in last:
                    distances.append(piece.baseline - last[piece.first])
                last[piece.first] = piece.baseline
    distances = sorted(d for d in distances if d > 0.8 * size)
    return distances[len(distances) // 20] if distances else 1.2 * size


def _by_filling(band: Sequence[Row], n_columns: int, size: float) -> list[Row]:
    """Lines of a band grouped by which columns they fill and whether the text above had room."""
    widths = _column_widths(band, n_columns)
    rows: list[list[Row]] = []
    for line in band:
        if rows and _continues(rows[-1], line, widths, size):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [[piece for line in row for piece in line] for row in rows]


def _column_widths(band: Sequence[Row], n_columns: int) -> list[float]:
    widths = [0.0] * n_columns
    for line in band:
        for piece in line:
            if piece.first == piece.last:
                widths[piece.first] = max(widths[piece.first], piece.width)
    return widths


def _continues(row: Sequence[Row], line: Row, widths: Sequence[float], size: float) -> bool:
    """Whether a line goes on in cells of the row above."""
    previous = row[-1]
    pitch = line[0].baseline - previous[0].baseline
    if pitch < OVERLAP * size:
        return True
    if pitch > 1.9 * size:
        return False
    above = {column for other in row for column in _filled(other)}
    filled = _filled(line)
    if _begins_label(previous, line, above, filled):
        return True
    if not filled <= above:
        return False
    strict = len(filled) > max(1, 0.5 * len(above))
    going = [_goes_on(row, piece, widths, size) for piece in line]
    if strict or not any(going):
        return all(going)
    return all(goes or _had_no_room(row, piece, widths, size) for goes, piece in zip(going, line, strict=True))


def _over(row: Sequence[Row], piece: Piece) -> Piece | None:
    """What stands right above a piece in its column."""
    found = next((p for line in reversed(row) for p in line if p.first <= piece.first <= p.last), None)
    return found if found and piece.baseline - found.baseline < 1.9 * piece.size else None


def _had_no_room(row: Sequence[Row], piece: Piece, widths: Sequence[float], size: float) -> bool:
    """Whether the first word of a piece would not have fitted into the line above it."""
    over = _over(row, piece)
    if over is None:
        return False
    word = piece.text.split(" ", 1)[0]
    needed = piece.width * len(word) / max(1, len(piece.text)) + 0.2 * size
    limit = widths[piece.first] if over.first == over.last else over.width
    return over.width + needed > 0.95 * limit or _open(over.text)


def _goes_on(row: Sequence[Row], piece: Piece, widths: Sequence[float], size: float) -> bool:
    """Whether a piece is surely the rest of the text above it."""
    over = _over(row, piece)
    if over is None or not _had_no_room(row, piece, widths, size):
        return False
    if _open(over.text) or piece.text[:1] == "(" or piece.text[:1].islower():
        return True
    return " " in over.text and not (_is_value(piece.text) and _is_value(over.text))


def _is_value(text: str) -> bool:
    return sum(map(str.isalpha, text)) < 0.4 * len(text)


def _begins_label(previous: Row, line: Row, above: set[int], filled: set[int]) -> bool:
    """Whether the line above holds but the start of a label that goes on in this one."""
    first = line[0]
    return (
        above == {0}
        and 0 in filled
        and len(filled) > 1
        and first.first == first.last == 0
        and (first.text[:1].islower() or first.text[:1] in "([" or _open(previous[-1].text))
        and not previous[-1].text.endswith(":")
    )


def _open(text: str) -> bool:
    """Whether a text calls for more."""
    return bool(re.search(r"[-–,/(&]$|\b(?:of|and|or|the|to|in|with|for|by|per|at|on|from)$", text)) or text.count(
        "("
    ) > text.count(")")


def _joined(pieces: Iterable[Piece]) -> str:
    """Text of a cell."""
    lines = in_lines(dataclasses.replace(piece) for piece in pieces)
    return mend.join_all([" ".join(piece.text for piece in line) for line in lines], {}).strip()


def _cells_of_rows(rows: Sequence[Row], start: int, *, header: bool) -> list[Cell]:
    found: list[Cell] = []
    for number, row in enumerate(rows, start):
        for first, last, pieces in _by_range(row):
            n_rows = max(piece.n_rows for piece in pieces)
            found.append(Cell(number, first, _joined(pieces), n_rows, last - first + 1, header))
    return found


def _by_range(row: Iterable[Piece]) -> list[tuple[int, int, list[Piece]]]:
    """Pieces by the columns they stand in; ranges that overlap are one cell."""
    found: list[tuple[int, int, list[Piece]]] = []
    for piece in sorted(row, key=lambda piece: (piece.first, piece.last)):
        if found and piece.first <= found[-1][1]:
            first, last, pieces = found[-1]
            found[-1] = (first, max(last, piece.last), [*pieces, piece])
        else:
            found.append((piece.first, piece.last, [piece]))
    return found


def _header(lines: Sequence[Row], horizontal: Sequence[Rule], full: float, edges: Sequence[float]) -> list[Cell]:
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
    for level, band in enumerate(_bands(lines, cuts)):
        for first, last, pieces in _by_range([piece for line in band for piece in line]):
            text = _joined(pieces)
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
