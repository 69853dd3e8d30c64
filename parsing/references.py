"""The list of references: its gaps closed, and split into its entries."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from hiperrag.parsing import mend
from hiperrag.parsing.lines import Line
from hiperrag.parsing.regions import REFERENCE_MARK, Region

MAX_GAP = 3
"""Regions between two of the list that may have been taken for something else."""
MIN_LIST = 5
"""Regions from which the list's size of type is known."""
LARGER = 1.0
"""Points by which the text after a list is larger than it."""

_NUMBER = re.compile(r"[\[(]?(\d{1,3})[\]).:]?\s*(?=\D)")


def close_gaps(found: Sequence[Region]) -> None:
    """Make a few regions between references, set like them, references too."""
    places = [index for index, region in enumerate(found) if region.kind == "reference"]
    for before, after in itertools.pairwise(places):
        between = found[before + 1 : after]
        if len(between) <= MAX_GAP and all(_is_alike(region, found[before], found[after]) for region in between):
            for region in between:
                region.kind = "reference"


def _is_alike(region: Region, before: Region, after: Region) -> bool:
    return (
        region.kind in ("footnote", "figure", "paragraph", "list", "equation")
        and not region.known
        and any(abs(region.size - other.size) < 0.3 for other in (before, after))
        and any(region.page == other.page and abs(region.left - other.left) < 2 for other in (before, after))
    )


def is_left(region: Region, listed: Counter[float]) -> bool:
    """Whether a region is set too large for the list, whose sizes of type `listed` counts."""
    if listed.total() < MIN_LIST or REFERENCE_MARK.match(region.text):
        return False
    return region.size > listed.most_common(1)[0][0] + LARGER


def split_entries(found: Sequence[Region], words: Mapping[str, int]) -> list[Region]:
    """The regions, those of kind "reference" regrouped so that each holds one entry (or a part of one at a
    column's end, `continues` set on what follows)."""
    lines = [line for region in found if region.kind == "reference" for line in region.lines]
    if not lines:
        return list(found)
    numbered = _numbered_starts(lines)
    result: list[Region] = []
    for _, members in itertools.groupby(found, _column):
        column = list(members)
        if column[0].kind != "reference":
            result.extend(column)
            continue
        starts = numbered if numbered is not None else _unnumbered_starts(column)
        whole = Region(column[0].page, [line for region in column for line in region.lines], *_edges(column))
        result.extend(_split(whole, starts, numbered=numbered is not None, words=words))
    return result


def _column(region: Region) -> tuple[object, ...]:
    """The same for the references of one column, another one for everything else."""
    return (region.page, region.left, region.right) if region.kind == "reference" else (id(region),)


def _edges(column: Sequence[Region]) -> tuple[float, float]:
    return column[0].left, column[0].right


def _numbered_starts(lines: Sequence[Line]) -> set[int] | None:
    """Ids of the lines that start an entry with the next number; None if the list is not numbered."""
    starts: set[int] = set()
    expected: int | None = None
    for line in lines:
        match = _NUMBER.match(line.text)
        if not match:
            continue
        value = int(match.group(1))
        if value == expected or (expected is None and value <= 2):
            starts.add(id(line))
            expected = value + 1
    return starts if len(starts) >= max(3, 0.08 * len(lines)) else None


def _unnumbered_starts(column: Sequence[Region]) -> set[int]:
    """Ids of the lines of a column that start an entry: those that hang out, those below a gap, or those of the
    regions."""
    lines = [line for region in column for line in region.lines]
    left = column[0].left
    hanging = [line for line in lines if line.x0 > left + 0.6 * line.size]
    if len(hanging) >= 0.25 * len(lines):
        return {id(line) for line in lines if line.x0 <= left + 0.3 * line.size}
    pitches = [below.baseline - above.baseline for above, below in itertools.pairwise(lines)]
    usual = sorted(pitches)[len(pitches) // 4] if pitches else 0.0
    apart = {id(line) for line, pitch in zip(lines[1:], pitches, strict=True) if pitch > 1.2 * usual}
    if 0.1 * len(pitches) <= len(apart) <= 0.6 * len(pitches):
        return apart
    return {id(region.lines[0]) for region in column}


def _split(region: Region, starts: set[int], numbered: bool, words: Mapping[str, int]) -> list[Region]:
    groups: list[list[Line]] = []
    for line in region.lines:
        if groups and id(line) not in starts:
            groups[-1].append(line)
        else:
            groups.append([line])
    entries = []
    for group in groups:
        text = mend.join_all([line.text for line in group], words)
        entry = Region(region.page, group, region.left, region.right, "reference", text=text)
        entry.continues = numbered and id(group[0]) not in starts
        entries.append(entry)
    return entries
