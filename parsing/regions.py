"""Lines of a column grouped into regions: paragraphs, headings, captions, table rows."""

from __future__ import annotations

import dataclasses
import itertools
import re
import statistics
from collections import Counter
from collections.abc import Sequence

from hiperrag.parsing.columns import Segment
from hiperrag.parsing.lines import Line
from hiperrag.records import BlockKind

LIST_MARK = re.compile(r"(?:[•◦▪■●○‣∙·►▶*–—]|\(?(?:\d{1,2}|[a-z]|[ivx]{1,4})[.)])\s+\S")
_BULLET = re.compile(r"[•◦▪■●○‣∙·►▶]\s+\S")
REFERENCE_MARK = re.compile(r"(?:\[\d{1,3}\]|\d{1,3}[.)]|\(\d{1,3}\)|\d{1,3}\s)\s*\S")
STANDS_ALONE = re.compile(
    r"(?:references|bibliography|literature cited|abstract|introduction|(?:materials? and )?methods|results|discussion|"
    r"conclusions?|acknowledge?ments?|abbreviations|funding|declarations|authors?[’'] contributions?|"
    r"competing interests|author details|publisher[’']s note)\s*:?",
    re.I,
)
"""Headings that are often set tight on the text that follows."""
SECTION_NUMBER = re.compile(r"\d{1,2}(?:\.\d{1,2}){1,4}\.?\s+[^\W\d_]")
SENTENCE_END = re.compile(r"[.!?:;]['\"”’)\]]*(?:\s?\d{1,3}(?:[,–-]\s?\d{1,3})*)?$")


@dataclasses.dataclass(slots=True)
class Region:
    """Consecutive lines of one column that belong together."""

    page: int
    lines: list[Line]
    left: float
    """Left and right edge of the column's text."""
    right: float
    kind: BlockKind = "paragraph"
    level: int = 0
    continues: bool = False
    text: str = ""
    known: bool = False
    """The kind is settled (by what it was made from)."""
    html: str = ""
    """Of a table: its rows and cells."""
    confidence: float = 1.0
    """Probability of the kind, 0..1."""
    run_in: bool = False
    """Of a heading: set on the first line of its text."""

    @property
    def x0(self) -> float:
        return min(line.x0 for line in self.lines)

    @property
    def y0(self) -> float:
        return min(line.y0 for line in self.lines)

    @property
    def x1(self) -> float:
        return max(line.x1 for line in self.lines)

    @property
    def y1(self) -> float:
        return max(line.y1 for line in self.lines)

    @property
    def size(self) -> float:
        return weighted_size(self.lines)

    @property
    def bold(self) -> bool:
        return sum(len(line.text) for line in self.lines if line.bold) > 0.7 * self.n_characters

    @property
    def italic(self) -> bool:
        return sum(len(line.text) for line in self.lines if line.italic) > 0.7 * self.n_characters

    @property
    def n_characters(self) -> int:
        return sum(len(line.text) for line in self.lines)

    @property
    def first_text(self) -> str:
        return self.lines[0].text

    @property
    def n_rows_split(self) -> int:
        """Lines that stand to the right of another one in the same row."""
        return sum(1 for a, b in zip(self.lines, self.lines[1:], strict=False) if same_row(a, b))


def weighted_size(lines: Sequence[Line]) -> float:
    sizes: Counter[float] = Counter()
    for line in lines:
        sizes[line.size] += len(line.text)
    return sizes.most_common(1)[0][0]


def same_row(a: Line, b: Line) -> bool:
    overlap = min(a.y1, b.y1) - max(a.y0, b.y0)
    return overlap > 0.5 * min(a.height, b.height) and (b.x0 >= a.x1 - 1 or a.x0 >= b.x1 - 1)


def leading_ratio(pages: Sequence[Sequence[Line]], size: float) -> float:
    """Median distance of baselines over font size, between lines of the given size that stand under one another."""
    ratios = []
    for lines in pages:
        for a, b in itertools.pairwise(lines):
            ratio = (b.baseline - a.baseline) / size
            alike = abs(a.size - size) < 0.5 and abs(b.size - size) < 0.5
            if alike and 0.8 < ratio < 3 and abs(a.x0 - b.x0) < 3 * size:
                ratios.append(ratio)
    return statistics.median(ratios) if ratios else 1.2


def _edges(lines: Sequence[Line]) -> tuple[float, float]:
    """Left and right edge of a column's text; outliers (overfull lines, margin marks) do not count."""
    widest = max(line.width for line in lines)
    long = [line for line in lines if line.width > 0.5 * widest]
    lefts = Counter(round(line.x0) for line in long)
    frequent = [x for x, n in lefts.items() if n >= 0.15 * len(long)] or list(lefts)
    left = min(frequent)
    rights = sorted(line.x1 for line in long)
    return float(left), rights[min(len(rights) - 1, int(0.9 * len(rights)))]


def split(segment: Segment, leading: float) -> list[Region]:
    """Regions of a segment, top to bottom. `leading` is the document's distance of baselines over font size."""
    left, right = _edges(segment.lines)
    lines = _join_stretched(segment.lines, left, right)
    regions: list[Region] = []
    current: list[Line] = []
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else None
        if current and _breaks(current, line, following, left, right, leading):
            regions.append(_region(current, left, right))
            current = []
        current.append(line)
    if current:
        regions.append(_region(current, left, right))
    return regions


def _region(lines: list[Line], left: float, right: float) -> Region:
    region = Region(lines[0].page, lines, left, right)
    if lines[0].kind:
        region.kind, region.known, region.html = lines[0].kind, True, lines[0].html
    return region


def _join_stretched(lines: Sequence[Line], left: float, right: float) -> list[Line]:
    """Lines with the words of over-stretched justified rows joined again: three or more pieces, evenly spaced,
    from edge to edge of the column."""
    joined: list[Line] = []
    index = 0
    while index < len(lines):
        row = [lines[index]]
        while index + len(row) < len(lines) and same_row(row[-1], lines[index + len(row)]):
            row.append(lines[index + len(row)])
        index += len(row)
        gaps = [b.x0 - a.x1 for a, b in itertools.pairwise(row)]
        size = row[0].size
        fills = abs(row[0].x0 - left) < 2 * size and abs(row[-1].x1 - right) < size
        if len(gaps) >= 2 and fills and max(gaps) < 1.2 * min(gaps) and max(gaps) < 4 * size:
            whole = dataclasses.replace(row[0], x1=row[-1].x1, text=" ".join(line.text for line in row))
            joined.append(whole)
        else:
            joined.extend(row)
    return joined


def _is_capitals(text: str) -> bool:
    """Whether a line is set in capitals like a heading: several words, no lower case."""
    return text.isupper() and len(re.findall(r"[^\W\d_]{3,}", text)) >= 2


def _heads(current: Sequence[Line], line: Line, left: float, right: float) -> bool:
    """Whether the lines so far are set in one style as a heading and `line` in another one, or as the next heading."""
    previous = current[-1]
    first = line.text[:1]
    if len(current) > 3 or previous.x1 > right - 0.08 * (right - left) or first.islower() or first in "([":
        return False
    if len(previous.text) < 4 or previous.text[-1] in ",;-" or current[0].text[:1].islower():
        return False
    if any(other.font != previous.font or other.lead for other in current):
        return False
    if SECTION_NUMBER.match(line.text) and len(current) == 1 and SECTION_NUMBER.match(previous.text):
        return True
    if len(current) == 1 and previous.bold and line.bold and previous.text.isupper() and not line.text.isupper():
        return len(previous.text) > 5
    apart = previous.font != (line.lead_font or line.font) or previous.color != line.color
    return apart and len(line.text) > 3 and any(map(str.isalpha, previous.text))


def _goes_on_heading(current: Sequence[Line], line: Line, right: float) -> bool:
    """Whether a run-in heading that fills the lines so far ends on `line`, before its text."""
    previous = current[-1]
    return (
        0 < line.lead < 0.7 * len(line.text)
        and len(current) < 3
        and all(other.lead == 0 and other.font == line.lead_font for other in current)
        and line.font != line.lead_font
        and previous.x1 > right - 6 * previous.size
        and 0 < line.baseline - previous.baseline < 1.8 * previous.size
    )


def _goes_on_run_in(current: Sequence[Line], line: Line, right: float) -> bool:
    """Whether `line` goes on with the text behind a run-in heading, which may be larger and bolder than the text."""
    previous = current[-1]
    return (
        0 < previous.lead < len(previous.text) - 10
        and (len(current) == 1 or all(other.font == previous.lead_font for other in current[:-1]))
        and line.font != previous.lead_font
        and (line.font == previous.font or not (line.bold or previous.font != previous.lead_font))
        and (previous.bold_start or previous.size > line.size + 0.6)
        and previous.x1 > right - 6 * previous.size
        and 0 < line.baseline - previous.baseline < 1.8 * previous.size
    )


def _breaks(
    current: Sequence[Line], line: Line, following: Line | None, left: float, right: float, leading: float
) -> bool:
    """Whether `line` starts a new region after the lines of `current`."""
    previous = current[-1]
    if line.kind or previous.kind:
        return True
    if same_row(previous, line):
        return bool(_BULLET.match(line.text) and _BULLET.match(current[0].text))
    if (
        previous.text.isupper()
        and not line.text.isupper()
        and _is_capitals(previous.text)
        and _is_capitals(current[0].text)
    ):
        return True
    if _heads(current, line, left, right):
        return True
    if _goes_on_heading(current, line, right) or _goes_on_run_in(current, line, right):
        return False
    if len(current) == 1 and STANDS_ALONE.fullmatch(previous.text) and previous.text[:1].isupper():
        return True
    size = max(previous.size, line.size)
    pitch = line.baseline - previous.baseline
    if pitch > (leading + 0.35) * size or pitch < -2 * size:
        return True
    if abs(previous.size - line.size) > 0.6 and min(len(previous.text), len(line.text)) > 3:
        return True
    if previous.bold != line.bold and not (line.bold_start and previous.bold):
        if previous.bold and not SENTENCE_END.search(previous.text) and line.text[:1].islower():
            return False
        in_sentence = not SENTENCE_END.search(previous.text) and line.text[:1] in "([" and not previous.bold
        if len(line.text) > 3 and len(previous.text) > 3 and not in_sentence:
            return True
    if LIST_MARK.match(line.text) and (SENTENCE_END.search(previous.text) or LIST_MARK.match(current[0].text)):
        return True
    starts_new = not line.text[:1].islower()
    ended = bool(SENTENCE_END.search(previous.text))
    indent = 0.7 * line.size
    if len(current) == 1 and previous.italic and not line.italic and previous.x1 < right - 0.1 * (right - left):
        return starts_new
    if line.italic and not previous.italic and ended and line.x1 < right - 0.25 * (right - left):
        return True
    deeper = line.x0 - previous.x0
    if indent < deeper < 5 * line.size and starts_new and ended and abs(previous.x0 - left) < indent:
        marked = REFERENCE_MARK.match(current[0].text) or LIST_MARK.match(current[0].text)
        if not marked and not (following and abs(following.x0 - line.x0) < 2 and len(current) == 1):
            return True
    if deeper < -indent and len(current) > 1 and line.x0 < left + indent and starts_new and ended:
        return True
    word = line.text.split(" ", 1)[0]
    room = right - previous.x1
    needed = (len(word) + 2) * line.width / max(1, len(line.text))
    return ended and starts_new and room > needed and room > 0.08 * (right - left) and line.text[:1] != "("
