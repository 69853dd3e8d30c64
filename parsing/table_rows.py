"""The rows under a table's header: by rules, by distances, or by what each line fills (see `cells`)."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

from hiperrag.parsing.pieces import Piece, Row, bands_between, columns_of, is_open, is_value
from hiperrag.parsing.rules import Rules

OVERLAP = 0.8
"""Lines whose baselines stand fewer font sizes apart lie side by side."""


def body_rows(lines: Sequence[Row], bars: Sequence[float], rules: Rules, n_columns: int, size: float) -> list[Row]:
    """Pieces of each row under the header."""
    cuts = sorted({*bars, *(rule.at for rule in rules.horizontal)})
    bands = bands_between(lines, cuts)
    if (len(bands) >= 2 and _are_rows(bands, n_columns, size)) or (bands and _are_text(bands, n_columns)):
        return [[piece for line in band for piece in line] for band in bands]
    bands = bands_between(lines, bars)
    return [row for rows in _rows_in(bands, n_columns, size) for row in rows]


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
            len(columns_of(line)) >= needed
            and len(columns_of(line) & {c for other in band[:index] for c in columns_of(other)}) >= needed
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
    if sum(is_value(piece.text) for piece in pieces) > 0.2 * len(pieces):
        return False
    for group in long:
        filled = [columns_of(line) for line in group]
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
    columns = {column for line in group for column in columns_of(line)}
    full = [index for index, line in enumerate(group) if len(columns_of(line)) >= max(3, 0.5 * len(columns))]
    whole = [piece for line in group for piece in line]
    if len(full) < 2:
        return [whole]
    for above, below in itertools.pairwise(full):
        going = sum(_goes_on(group[above : above + 1], piece, widths, size) for piece in group[below])
        again = len(columns_of(group[above]) & columns_of(group[below]))
        if going > 0.3 * len(group[below]) or again < 0.6 * len(columns_of(group[below])):
            return [whole]
    rows = [list(group[index]) for index in full]
    for index, line in enumerate(group):
        if index in full:
            continue
        above = max(0, sum(1 for other in full if other < index) - 1)
        between = full[0] < index < full[-1]
        for piece in line:
            piece.n_rows = 2 if between and piece.first not in columns_of(group[full[above + 1]]) else 1
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
        near = any(baseline - last[column] < 1.09 * pitch for column in columns_of(line) if column in last) or (
            groups and baseline - bottom < 0.8 * pitch
        )
        if groups and near:
            groups[-1].append(line)
        else:
            groups.append([line])
            last = {}
        bottom = baseline
        for column in columns_of(line):
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
    above = {column for other in row for column in columns_of(other)}
    filled = columns_of(line)
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
    return over.width + needed > 0.95 * limit or is_open(over.text)


def _goes_on(row: Sequence[Row], piece: Piece, widths: Sequence[float], size: float) -> bool:
    """Whether a piece is surely the rest of the text above it."""
    over = _over(row, piece)
    if over is None or not _had_no_room(row, piece, widths, size):
        return False
    if is_open(over.text) or piece.text[:1] == "(" or piece.text[:1].islower():
        return True
    return " " in over.text and not (is_value(piece.text) and is_value(over.text))


def _begins_label(previous: Row, line: Row, above: set[int], filled: set[int]) -> bool:
    """Whether the line above holds but the start of a label that goes on in this one."""
    first = line[0]
    return (
        above == {0}
        and 0 in filled
        and len(filled) > 1
        and first.first == first.last == 0
        and (first.text[:1].islower() or first.text[:1] in "([" or is_open(previous[-1].text))
        and not previous[-1].text.endswith(":")
    )
