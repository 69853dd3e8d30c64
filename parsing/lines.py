"""Text lines of a page, from PyMuPDF's text layer."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from hiperrag.parsing import mend, symbols
from hiperrag.parsing.graphics import Graphics
from hiperrag.records import BBox, BlockKind

SUPERSCRIPT_RAISE = 0.18
"""A span is raised (lowered) when its baseline is this share of the line's font size above (below) the line's."""
MERGE_GAP = 1.2
"""Fragments of one baseline belong together when the gap between them is below this many font sizes."""

MARK_GAP = 4.0
"""The same for the gap after a list mark or a section number."""

PART_GAP = 0.3
"""A gap of more font sizes may separate the cells of a table."""

BLANK_GAP = 0.42
"""The same for a blank that is drawn: that of many a typeface is a third of the font size wide."""

MIN_LINE_NUMBERS = 5

_LIST_MARK = re.compile(
    r"[•◦▪■●○‣∙·►▶–—*✓-]|\(?(?:\d{1,2}|[a-zA-Z]|[ivx]{1,4})[.)]|\[\d{1,3}\]|\d{1,2}(?:\.\d{1,2}){0,3}\.?"
)
_CITATION = re.compile(r"[\[(]?\d{1,3}(?:\s*[,;–—‐-]\s*\d{1,3})*[\])]?,?")
_LETTER_MARK = re.compile(r"[a-z](?:\s*,\s*[a-z*†‡])*[,*†‡]*")
_UNIT = re.compile(r"(?:^|[^A-Za-z])(?:[kcmdnµμp]?m|mol|cells?|[kM]?Pa|sec|min|inch|Kcal|kcal|kg|Watts?)$")


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

    def page_bbox(self, x0: float, y0: float, x1: float, y1: float) -> BBox:
        """A box in the page's own coordinates."""
        if self.turn == 1:  # text ran upwards
            return (y0, self.width - x1, y1, self.width - x0)
        if self.turn == 3:  # text ran downwards
            return (self.height - y1, x0, self.height - y0, x1)
        if self.turn == 2:
            return (self.width - x1, self.height - y1, self.width - x0, self.height - y0)
        return (x0, y0, x1, y1)


@dataclasses.dataclass(slots=True)
class _Span:
    x0: float
    y0: float
    x1: float
    y1: float
    baseline: float
    size: float
    font: str
    bold: bool
    italic: bool
    color: int
    text: str
    blanks: list[tuple[int, float, float]] = dataclasses.field(default_factory=list)
    """Blanks as wide as a gap between cells: place in the text, left and right edge."""


def _quarter_turns(direction: tuple[float, float]) -> int:
    """0 for text running right, 1 up, 2 left, 3 down."""
    return round(math.atan2(-direction[1], direction[0]) / (math.pi / 2)) % 4


def turned(box: Iterable[float], turn: int, width: float, height: float) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    if turn == 1:
        return height - y1, x0, height - y0, x1
    if turn == 3:
        return y0, width - x1, y1, width - x0
    if turn == 2:
        return width - x1, height - y1, width - x0, height - y0
    return x0, y0, x1, y1


_BOLD_NAME = re.compile(
    r"bold|black|heavy|[-_]?(?:semi|demi)b|-bd\b|-b(?:i|it)?$|\.b$|cmbx|-md\b|medi(?:um)?\b|(?-i:[a-z]BD?I?$|Adv.*BD?I?$)",
    re.I,
)
_ITALIC_NAME = re.compile(r"ital|obli|-it\b|cmti|-bi$|[-.]i$|(?-i:[a-z]B?D?I$|Adv.*[A-Z]I$)", re.I)


@functools.lru_cache(maxsize=4096)
def weight_and_slant(font: str, flags: int = 0) -> tuple[bool, bool]:
    """Whether a font is bold and italic, by PyMuPDF's flags or its name."""
    return bool(flags & 16) or bool(_BOLD_NAME.search(font)), bool(flags & 2) or bool(_ITALIC_NAME.search(font))


def _spans(raw_spans: Sequence[dict[str, Any]], turn: int, width: float, height: float) -> list[_Span]:
    """Spans of one line; neighbours of one style (MuPDF ends a span at every space it inserts) are joined."""
    spans: list[_Span] = []
    for raw in raw_spans:
        text = mend.characters(symbols.decoded(raw["text"], raw["font"]))
        if not text:
            continue
        x0, y0, x1, y1 = raw["bbox"]
        ox, oy = raw["origin"]
        if turn:
            x0, y0, x1, y1 = turned((x0, y0, x1, y1), turn, width, height)
            oy = turned((ox, oy, ox, oy), turn, width, height)[1]
        size, font = raw["size"], raw["font"]
        last = spans[-1] if spans else None
        if (
            last is not None
            and last.font == font
            and last.size == size
            and abs(last.baseline - oy) < 0.05
            and x0 - last.x1 < 0.2 * size
        ):
            if x1 - x0 > BLANK_GAP * size and text.isspace():
                last.blanks.append((len(last.text), x0, x1))
            last.text += text
            last.x1 = max(last.x1, x1)
            continue
        bold, italic = weight_and_slant(font, raw["flags"] | 16 * bool(raw.get("char_flags", 0) & 8))
        spans.append(_Span(x0, y0, x1, y1, oy, size, font, bold, italic, raw.get("color", 0), text))
    return spans


def _is_citation_mark(word: str, mark: str) -> bool:
    """Whether raised characters after a word cite a reference or a note, rather than being an exponent or part of a
    formula."""
    before = word.rstrip()
    if _LETTER_MARK.fullmatch(mark.strip()):
        return bool(re.search(r"[^\W\d_]{3}$", before))
    if not _CITATION.fullmatch(mark.strip()):
        return False
    if not before:
        return False
    if before[-1] in ".,;:?!)]”’\"'":
        return True
    tail = re.search(r"[^\W\d_]+$", before)
    return bool(tail and len(tail.group()) >= 4 and tail.group()[1:].islower() and not _UNIT.search(before))


def _line(page: int, spans: list[_Span]) -> Line | None:
    letters: Counter[tuple[float, str, bool, bool]] = Counter()
    largest = max(span.size for span in spans)
    for span in spans:
        # Raised digits after a short last word must not pass for the line's main text, nor raised letters after digits.
        weight = len(span.text.strip()) + 2 * sum(map(str.isalpha, span.text))
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
    parts: list[str] = []
    previous: _Span | None = None
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
        if apart or (raised and before and not before.endswith(" ") and _is_citation_mark("".join(parts[-3:]), text)):
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
    spans: Sequence[_Span], starts: Sequence[int], parts: Sequence[str], size: float
) -> tuple[tuple[float, float, str], ...]:
    """The line cut at wide gaps; `starts` has the place of each span's text in `parts`."""
    if len(spans) == 1 and "  " not in spans[0].text and not spans[0].blanks:
        return ()
    found: list[tuple[float, float, list[str]]] = []
    ends = [*starts[1:], len(parts)]
    for span, start, end in zip(spans, starts, ends, strict=True):
        runs = _inked_runs(span)
        between = "".join(parts[start + 1 : end])
        for index, (x0, x1, text) in enumerate(runs):
            if found and x0 - found[-1][1] <= PART_GAP * size:
                found[-1] = (found[-1][0], max(found[-1][1], x1), [*found[-1][2], text])
            else:
                found.append((x0, x1, [text]))
            blank = index < len(runs) - 1 or span.text[-1:].isspace()
            found[-1][2].append(" " if blank else between)
    return tuple((x0, x1, _clean("".join(texts))) for x0, x1, texts in found) if len(found) > 1 else ()


def _inked_runs(span: _Span) -> list[tuple[float, float, str]]:
    """A span without the blanks around it, cut where it has several in a row, with the places of each run (by the
    mean width of its characters)."""
    if span.blanks:
        return [run for part in _between_blanks(span) for run in _inked_runs(part)]
    text = span.text
    pitch = (span.x1 - span.x0) / len(text)
    matches = list(re.finditer(r"\S+(?:\s\S+)*", text))
    if len(matches) == 1:
        blank = min(pitch, 0.3 * span.size)
        start, end = matches[0].span()
        return [(span.x0 + blank * start, span.x1 - blank * (len(text) - end), text[start:end])]
    return [(span.x0 + pitch * match.start(), span.x0 + pitch * match.end(), match.group()) for match in matches]


def _between_blanks(span: _Span) -> list[_Span]:
    """The parts of a span that its wide blanks leave, with their places."""
    starts = [(0, span.x0), *((place + 1, right) for place, _, right in span.blanks)]
    stops = [*((place, left) for place, left, _ in span.blanks), (len(span.text), span.x1)]
    return [
        dataclasses.replace(span, text=span.text[a:b], x0=x0, x1=x1, blanks=[])
        for (a, x0), (b, x1) in zip(starts, stops, strict=True)
        if span.text[a:b].strip()
    ]


def _clean(text: str) -> str:
    return mend.accents(re.sub(r"\s+", " ", text).strip())


def _n_leading(spans: Sequence[_Span]) -> int:
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
    spans: list[_Span]
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


def _row(block: int, spans: list[_Span]) -> _Row:
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
            turn = _quarter_turns(line["dir"])
            pieces.append((number_of_block, turn, line["spans"]))
            turns[turn] += sum(len(span["text"]) for span in line["spans"])
    main = turns.most_common(1)[0][0] if turns else 0
    upright: list[_Row] = []
    sideways: list[Line] = []
    for number_of_block, turn, raw_spans in pieces:
        spans = _spans(raw_spans, turn if turn == main else 0, width, height)
        if not any(s.text.strip() for s in spans):
            continue
        if turn == main:
            upright.append(_row(number_of_block, spans))
        else:
            line_ = _line(number, spans)
            if line_:
                if main:
                    line_.x0, line_.y0, line_.x1, line_.y1 = turned(
                        (line_.x0, line_.y0, line_.x1, line_.y1), main, width, height
                    )
                sideways.append(line_)
    if main % 2:
        width, height = height, width
    numbering = _line_numbers(upright)
    numbered = {id(row) for row in numbering}
    rows = _merge_fragments([row for row in upright if id(row) not in numbered])
    lines = [line for row in rows if (line := _line(number, row.spans))]
    for row in numbering:
        if margin_number := _line(number, row.spans):
            margin_number.kind = "page_number"
            lines.append(margin_number)
    return Page(number, width, height, main, lines, sideways)
