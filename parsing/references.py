"""The list of references, split into its entries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hiperrag.parsing import mend
from hiperrag.parsing.lines import Line
from hiperrag.parsing.regions import Region

_NUMBER = re.compile(r"[\[(]?(\d{1,3})[\]).:]?\s*(?=\D)")


def split_entries(found: Sequence[Region], words: Mapping[str, int]) -> list[Region]:
    """The regions, those of kind "reference" regrouped so that each holds one entry (or a part of one at a
    column's end, `continues` set on what follows)."""
    lines = [line for region in found if region.kind == "reference" for line in region.lines]
    if not lines:
        return list(found)
    starts = _numbered_starts(lines)
    result: list[Region] = []
    for region in found:
        if region.kind != "reference":
            result.append(region)
            continue
        marks = starts if starts is not None else _outdented_starts(region)
        result.extend(_split(region, marks, numbered=starts is not None, words=words))
    return result


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


def _outdented_starts(region: Region) -> set[int]:
    """Ids of a column's lines that start an entry set with a hanging indent."""
    hanging = [line for line in region.lines if line.x0 > region.left + 0.6 * line.size]
    if len(hanging) < 0.25 * len(region.lines):
        return set()
    return {id(line) for line in region.lines if line.x0 <= region.left + 0.3 * line.size}


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
