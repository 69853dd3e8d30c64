"""Text lines of a page, from PyMuPDF's text layer."""

from __future__ import annotations

import dataclasses
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hiperrag.parsing import mend
from hiperrag.parsing.graphics import Graphics
from hiperrag.parsing.spans import (
    SUPERSCRIPT_RAISE,
    Span,
    inked_runs,
    is_citation_mark,
    quarter_turns,
    spans_of,
    turned,
    with_exponents,
)
from hiperrag.records import BBox, BlockKind

MERGE_GAP = 1.2
"""Fragments of one baseline belong together when the gap between them is below this many font sizes."""

MARK_GAP = 4.0
"""The same for the gap after a list mark or a section number."""

PART_GAP = 0.3
"""A gap of more font sizes may separate the cells of a table."""


MIN_LINE_NUMBERS = 5
MIN_ASIDE = 10
"""Pieces of text in another direction that may be more than labels."""

_LIST_MARK = re.compile(
    r"[•◦▪■●○‣∙·►▶–—*✓-]|\(?(?:\d{1,2}|[a-zA-Z]|[ivx]{1,4})[.)]|\[\d{1,3}\]|\d{1,2}(?:\.\d{1,2}){0,3}\.?"
)
_UNMAPPED = re.compile("[\ufffd\ue000-\uf8ff]")


@dataclasses.dataclass(slots=True)
class Line:
    """One line of text in one column. Coordinates in points, in the direction of reading (see Page)."""

    page: int
    x0: float
    y0: float
    x1: float
    y1: float
    baseline: float
    size: float
    """Font size of most characters."""
    font: str
    bold: bool
    """Most letters are bold; `bold_start` tells of the first word."""
    italic: bool
    bold_start: bool
    text: str
    kind: BlockKind | None = None
    """Set where a line stands for a whole region of a known kind."""
    html: str = ""
    """Of a line that stands for a table: its rows and cells."""
    color: int = 0
    """Of its first character, 0xRRGGBB."""
    lead: int = 0
    """Characters at the start of `text` in a style of their own, if another one follows: a run-in heading or a
    label. 0 where the line is of one style."""
    lead_font: str = ""
    lead_x1: float = 0.0
    """Right edge of these characters."""
    parts: tuple[tuple[float, float, str], ...] = ()
    """Left edge, right edge and text of the pieces that gaps wider than `PART_GAP` cut the line into; none where there
    is no such gap."""

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def centre(self) -> float:
        return (self.x0 + self.x1) / 2


@dataclasses.dataclass(slots=True)
class Page:
    """Lines of one page. If most of its text is rotated, `turn` quarter turns clockwise make it upright and
    width, height and lines are those of the upright page; `sideways` are the lines in another direction."""

    number: int
    width: float
    height: float
    turn: int
    lines: list[Line]
    sideways: list[Line]
    graphics: Graphics = dataclasses.field(default_factory=Graphics)
    """In the page's own coordinates, like the results of `page_bbox`."""
    unmapped: list[tuple[BBox, int]] = dataclasses.field(default_factory=list)
    """Boxes of the text whose font gives it no meaning, in the page's own coordinates, and its characters."""
    asides: list[Page] = dataclasses.field(default_factory=list)
    """The text of each other direction that is more than a few labels, upright; `turn` is relative to the page's."""

    def page_bbox(self, x0: float, y0: float, x1: float, y1: float) -> BBox:
        """A box in the page's own coordinates."""
        if self.turn == 1:  # text ran upwards
            return (y0, self.width - x1, y1, self.width - x0)
        if self.turn == 3:  # text ran downwards
            return (self.height - y1, x0, self.height - y0, x1)
        if self.turn == 2:
            return (self.width - x1, self.height - y1, self.width - x0, self.height - y0)
        return (x0, y0, x1, y1)


def _line(page: int, spans: list[Span]) -> Line | None:
    letters: Counter[tuple[float, str, bool, bool]] = Counter()
    largest = max(span.size for span in spans)
    for span in spans:
        # Raised digits after a short last word must not pass for the line's main text, nor raised letters after digits.
        weight = len(span.text.strip()) + 2 * sum(c.isalpha() or c in "∫∮∑∏" for c in span.text)
        if weight <= 9 and span.size < 0.75 * largest:
            weight = 1
        letters[(round(span.size, 1), span.font, span.bold, span.italic)] += weight
    sizes: Counter[float] = Counter()
    for (size, _, _, _), count in letters.items():
        sizes[size] += count
    size = max(sizes, key=lambda s: (sizes[s], s))
    bold = sum(n for key, n in letters.items() if key[2])
    italic = sum(n for key, n in letters.items() if key[3])
    total = sum(letters.values())
    font = max(letters, key=lambda key: letters[key])[1]
    main = [s for s in spans if abs(s.size - size) < 0.3 and s.text.strip()]
    if not main:
        return None
    baselines = sorted(s.baseline for s in main)
    baseline = baselines[len(baselines) // 2]
    spans = with_exponents(spans, size, baseline)
    parts: list[str] = []
    previous: Span | None = None
    n_lead = _n_leading(spans)
    lead = ""
    parts_before: list[int] = []
    for index, span in enumerate(spans):
        if n_lead and index == n_lead:
            lead = _clean("".join(parts))
        gap = span.x0 - previous.x1 if previous else 0.0
        text = span.text
        before = parts[-1] if parts else ""
        apart = bool(previous) and gap > 0.22 * size and not before.endswith(" ") and not text.startswith(" ")
        raised = span.size < 0.85 * size and baseline - span.baseline > SUPERSCRIPT_RAISE * size
        if apart or (raised and before and not before.endswith(" ") and is_citation_mark("".join(parts[-3:]), text)):
            parts.append(" ")
        parts_before.append(len(parts))
        parts.append(text)
        if text.strip() or previous is None:
            previous = span
    text = _clean("".join(parts))
    if not text:
        return None
    pieces = _pieces(spans, parts_before, parts, size)
    first = next((s for s in spans if s.text.strip()), spans[0])
    inked = [s for s in spans if s.text.strip()]
    y0, y1 = min(s.y0 for s in main), max(s.y1 for s in main)
    if y1 - y0 > 1.7 * size:  # fonts may claim any height
        y0, y1 = baseline - 0.85 * size, baseline + 0.25 * size
    return Line(
        page=page,
        x0=min(s.x0 for s in inked),
        y0=y0,
        x1=max(s.x1 for s in inked),
        y1=y1,
        baseline=baseline,
        size=size,
        font=font,
        bold=bold > 0.6 * total,
        italic=italic > 0.6 * total,
        bold_start=first.bold,
        text=text,
        color=first.color,
        lead=len(lead) if text.startswith(lead) else 0,
        lead_font=first.font if lead else "",
        lead_x1=max((s.x1 for s in spans[:n_lead] if s.text.strip()), default=0.0),
        parts=pieces,
    )


def _pieces(
    spans: Sequence[Span], starts: Sequence[int], parts: Sequence[str], size: float
) -> tuple[tuple[float, float, str], ...]:
    """The line cut at wide gaps; `starts` has the place of each span's text in `parts`."""
    if len(spans) == 1 and "  " not in spans[0].text and not spans[0].blanks:
        return ()
    found: list[tuple[float, float, list[str]]] = []
    ends = [*starts[1:], len(parts)]
    for span, start, end in zip(spans, starts, ends, strict=True):
        runs = inked_runs(span)
        between = "".join(parts[start + 1 : end])
        for index, (x0, x1, text) in enumerate(runs):
            if found and x0 - found[-1][1] <= PART_GAP * size:
                found[-1] = (found[-1][0], max(found[-1][1], x1), [*found[-1][2], text])
            else:
                found.append((x0, x1, [text]))
            blank = index < len(runs) - 1 or span.text[-1:].isspace()
            found[-1][2].append(" " if blank else between)
    return tuple((x0, x1, _clean("".join(texts))) for x0, x1, texts in found) if len(found) > 1 else ()


def _clean(text: str) -> str:
    return mend.accents(re.sub(r"\s+", " ", text).strip())


def _n_leading(spans: Sequence[Span]) -> int:
    """Number of spans at the start that are set unlike the letters after them; 0 if there are none."""
    inked = [index for index, span in enumerate(spans) if span.text.strip()]
    if not inked:
        return 0
    first = spans[inked[0]]
    for index in inked[1:]:
        span = spans[index]
        if span.font != first.font and any(map(str.isalpha, span.text)) and span.size > 0.85 * first.size:
            return index
    return 0


@dataclasses.dataclass(slots=True)
class _Row:
    """Spans of one baseline, and their box. `block` is the number of MuPDF's block."""

    block: int
    spans: list[Span]
    x0: float
    y0: float
    x1: float
    y1: float
    size: float

    def shares_row(self, other: _Row) -> bool:
        overlap = min(self.y1, other.y1) - max(self.y0, other.y0)
        return overlap > 0.45 * min(self.y1 - self.y0, other.y1 - other.y0)

    def absorb(self, other: _Row) -> None:
        self.spans.extend(other.spans)
        self.block = other.block
        self.x0, self.y0 = min(self.x0, other.x0), min(self.y0, other.y0)
        self.x1, self.y1 = max(self.x1, other.x1), max(self.y1, other.y1)
        self.size = max(self.size, other.size)


def _row(block: int, spans: list[Span]) -> _Row:
    return _Row(
        block,
        spans,
        min(s.x0 for s in spans),
        min(s.y0 for s in spans),
        max(s.x1 for s in spans),
        max(s.y1 for s in spans),
        max(s.size for s in spans),
    )


def _is_right_to_left(row: _Row) -> bool:
    letter = next((c for span in row.spans for c in span.text if c.isalpha()), "a")
    return unicodedata.bidirectional(letter) in ("R", "AL")


def _merge_fragments(rows: Sequence[_Row]) -> list[_Row]:
    """Join fragments of one baseline (MuPDF splits lines at gaps and at raised characters): consecutive ones a
    small gap apart, and list marks with the text they belong to."""
    merged: list[_Row] = []
    marks: list[_Row] = []
    for row in rows:
        last = merged[-1] if merged else None
        if last is not None and last.shares_row(row):
            limit = (MERGE_GAP if row.block == last.block else 0.6 * MERGE_GAP) * max(last.size, row.size)
            gap = last.x0 - row.x1 if _is_right_to_left(row) else row.x0 - last.x1
            if -0.5 * max(last.size, row.size) < gap < limit:
                last.absorb(row)
                continue
        if len(row.spans) < 3 and _LIST_MARK.fullmatch("".join(span.text for span in row.spans).strip()):
            marks.append(row)
        else:
            merged.append(row)
    for mark in marks:
        # A number is a mark only of its own block's text: beside another column's it numbers an equation.
        bullet = not any(character.isalnum() for span in mark.spans for character in span.text)
        beside = [
            row
            for row in merged
            if (bullet or row.block == mark.block)
            and -2 < row.x0 - mark.x1 < MARK_GAP * max(mark.size, row.size)
            and row.shares_row(mark)
        ]
        if beside:
            nearest = min(beside, key=lambda row: row.x0)
            space = dataclasses.replace(mark.spans[-1], x0=mark.x1, x1=nearest.x0, text=" ")
            nearest.spans[:0] = [*mark.spans, space]
            nearest.x0 = mark.x0
        else:
            merged.append(mark)
    return merged


def _line_numbers(rows: Sequence[_Row]) -> list[_Row]:
    """Rows that number the lines of a manuscript: bare numbers left of nearly every line, in equal steps."""
    numbers = [row for row in rows if len(row.spans) == 1 and re.fullmatch(r"\s*\d{1,4}\s*", row.spans[0].text)]
    if len(numbers) < MIN_LINE_NUMBERS or len(numbers) == len(rows):
        return []
    bare = {id(row) for row in numbers}
    edge = Counter(round(row.x0) for row in rows if id(row) not in bare).most_common(1)[0][0]
    numbers = sorted((row for row in numbers if row.x1 < edge - 2), key=lambda row: row.y0)
    right = [row for row in rows if row.x0 > edge - 2]
    values = [int(row.spans[0].text) for row in numbers]
    steps = Counter(b - a for a, b in itertools.pairwise(values))
    if len(numbers) < MIN_LINE_NUMBERS or not steps:
        return []
    step, count = steps.most_common(1)[0]
    every = step in (1, 5, 10) and count > 0.8 * (len(values) - 1)
    beside = {round(row.y1 / 3) for row in right}
    return numbers if every and step * len(numbers) > 0.75 * len(beside) else []


def page_lines(raw: dict[str, Any], number: int) -> Page:
    """Lines of a page from `Page.get_text("dict")`; `number` counts from 1."""
    width, height = float(raw["width"]), float(raw["height"])
    turns: Counter[int] = Counter()
    pieces: list[tuple[int, int, list[dict[str, Any]]]] = []
    for number_of_block, block in enumerate(raw["blocks"]):
        for line in block.get("lines", ()):
            turn = quarter_turns(line["dir"])
            pieces.append((number_of_block, turn, line["spans"]))
            turns[turn] += sum(len(span["text"]) for span in line["spans"])
    main = turns.most_common(1)[0][0] if turns else 0
    sideways: list[Line] = []
    for _, turn, raw_spans in pieces:
        if turn == main or not (spans := spans_of(raw_spans, 0, width, height)):
            continue
        if line := _line(number, spans):
            if main:
                line.x0, line.y0, line.x1, line.y1 = turned((line.x0, line.y0, line.x1, line.y1), main, width, height)
            sideways.append(line)
    upright = _rows_in_direction(pieces, main, width, height)
    numbering = _line_numbers(upright)
    numbered = {id(row) for row in numbering}
    lines = _lines_of(number, [row for row in upright if id(row) not in numbered])
    for row in numbering:
        if margin_number := _line(number, row.spans):
            margin_number.kind = "page_number"
            lines.append(margin_number)
    page = Page(number, *_turned_size(width, height, main), main, lines, sideways)
    page.asides = [
        Page(number, *_turned_size(width, height, turn), (turn - main) % 4, _lines_of(number, rows), [])
        for turn in turns
        if turn != main and len(rows := _rows_in_direction(pieces, turn, width, height)) >= MIN_ASIDE
    ]
    if not main:
        page.unmapped = [found for _, turn, raw in pieces if not turn for span in raw if (found := _unmapped(span))]
    return page


def _unmapped(span: dict[str, Any]) -> tuple[BBox, int] | None:
    """Box of a span whose font gives it no meaning, and its characters."""
    text = span["text"]
    if text.isascii() or 2 * (count := len(_UNMAPPED.findall(text))) <= len(text.replace(" ", "")) or count < 3:
        return None
    x0, y0, x1, y1 = span["bbox"]
    return ((x0, y0, x1, y1), count) if x1 - x0 > y1 - y0 else None  # tall: the pieces of a bracket


def _turned_size(width: float, height: float, turn: int) -> tuple[float, float]:
    return (height, width) if turn % 2 else (width, height)


def _rows_in_direction(
    pieces: Sequence[tuple[int, int, list[dict[str, Any]]]], turn: int, width: float, height: float
) -> list[_Row]:
    """Rows of the spans that run in one direction, turned upright."""
    found = ((block, spans_of(raw, turn, width, height)) for block, direction, raw in pieces if direction == turn)
    return [_row(block, spans) for block, spans in found if any(span.text.strip() for span in spans)]


def _lines_of(number: int, rows: Sequence[_Row]) -> list[Line]:
    return [line for row in _merge_fragments(rows) if (line := _line(number, row.spans))]
