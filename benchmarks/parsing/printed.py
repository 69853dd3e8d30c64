"""What is printed on the pages of a PDF: its lines, labelled by the ground truth and by repetition, not by a parser."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from hiperrag.benchmarks.parsing.texts import heading_key, key, label_of, without_label, words
from hiperrag.benchmarks.parsing.truth import Truth
from hiperrag.parsing import reading
from hiperrag.records import BBox

Label = Literal["", "furniture", "page_number", "caption", "reference", "body"]

MARGIN = 0.12
"""Share of a page's height at its top and foot where running heads and feet are."""
MIN_CAPTION_KEY = 8
"""Letters a caption must have to be looked for."""
MIN_BODY_KEY = 25
"""Letters a line must have to be recognised as one of the body by them."""
MAX_SKIPPED = 12
"""Letters of a caption that may be missing between two of its lines: symbols that the two sides write differently."""
_STOP_WORDS = frozenset(
    ["the", "of", "and", "in", "a", "for", "on", "with", "to", "by", "from", "an", "at", "is", "as", "et", "al"]
)
_WINDOW = 7
_DENSE = 0.55


@dataclasses.dataclass(slots=True)
class PrintedLine:
    """A line of the text layer as MuPDF gives it. Page from 1, box in points; `upright` is the box turned so that the
    text runs to the right, for comparing lines with one another."""

    page: int
    bbox: BBox
    text: str
    upright: BBox
    label: Label = ""

    @property
    def centre(self) -> tuple[float, float]:
        return _centre(self.bbox)


@dataclasses.dataclass(slots=True)
class Printed:
    """Lines in the file's own order, sizes of the pages, and the drawn boxes (pictures, paths) of each page."""

    lines: list[PrintedLine]
    sizes: dict[int, tuple[float, float]]
    drawn: dict[int, list[BBox]]

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


def _centre(box: BBox) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def read(data: bytes) -> Printed:
    """Lines of a PDF's text layer, and what is drawn."""
    printed = Printed([], {}, {})
    with reading.load_pymupdf().open(stream=data, filetype="pdf") as pdf:
        for number, page in enumerate(pdf, start=1):
            printed.sizes[number] = (float(page.rect.width), float(page.rect.height))
            printed.drawn[number] = [
                (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
                for kind, box in page.get_bboxlog()
                if not kind.endswith("text")
            ]
            for block in page.get_text("dict")["blocks"]:
                for line in block.get("lines", ()):
                    text = "".join(span["text"] for span in line["spans"]).strip()
                    if text:
                        box = tuple(line["bbox"])
                        printed.lines.append(PrintedLine(number, box, text, _upright(box, line["dir"])))
    return printed


def _upright(box: BBox, direction: tuple[float, float]) -> BBox:
    x0, y0, x1, y1 = box
    across, down = direction
    if abs(across) >= abs(down):
        return box if across > 0 else (-x1, -y1, -x0, -y0)
    return (y0, -x1, y1, -x0) if down > 0 else (-y1, x0, -y0, x1)


def label(printed: Printed, truth: Truth) -> None:
    """Label the lines: running heads and feet, page numbers, captions, references, and those surely of the body."""
    _furniture(printed)
    for caption in truth.floats:
        if caption.label or len(words(caption.caption)) > 3:
            _caption(printed, caption.text, caption.caption)
    if truth.references:
        _references(printed, truth.references)
    body = key(truth.text)
    for line in printed.lines:
        if not line.label and len(part := key(line.text)) >= MIN_BODY_KEY and part in body:
            line.label = "body"


def _furniture(printed: Printed) -> None:
    """Lines in the margins that come back at the same height on three pages, or on both of two."""
    groups: dict[tuple[str, int], list[PrintedLine]] = defaultdict(list)
    numbers: Counter[tuple[int, int]] = Counter()
    margin = [line for line in printed.lines if _in_margin(printed, line)]
    for line in margin:
        if (number := _number(line.text)) is not None:
            numbers[(number - line.page, round(line.bbox[1] / 6))] += 1
        pattern = re.sub(r"\d+", "#", " ".join(line.text.split()).lower())
        if sum(c.isalpha() for c in pattern) >= 3:
            groups[(pattern, round(line.bbox[1] / 6))].append(line)
    wanted = min(3, max(2, len(printed.sizes)))
    for line in margin:
        number = _number(line.text)
        if number is not None and numbers[(number - line.page, round(line.bbox[1] / 6))] >= 2:
            line.label = "page_number"
    for (pattern, height), lines in groups.items():
        near = [other for step in (-1, 0, 1) for other in groups.get((pattern, height + step), ())]
        if len({line.page for line in near}) >= wanted:
            for line in lines:
                line.label = "furniture"


def _in_margin(printed: Printed, line: PrintedLine) -> bool:
    height = printed.sizes[line.page][1]
    return line.bbox[3] < MARGIN * height or line.bbox[1] > (1 - MARGIN) * height


def _number(text: str) -> int | None:
    match = re.fullmatch(r"\W*(?:page\s*)?(\d{1,5})(?:\s*(?:/|of)\s*\d{1,4})?\W*", text, re.I)
    return int(match[1]) if match else None


def _caption(printed: Printed, whole: str, bare_text: str) -> None:
    """The lines of one caption: the one with its label and beginning, and those below that go on with its text."""
    bare, label = key(bare_text), label_of(whole)
    if len(bare) < MIN_CAPTION_KEY:
        return
    best: list[PrintedLine] = []
    for index, line in enumerate(printed.lines):
        if not line.label and _begins(line, printed.lines[index + 1 : index + 2], bare, label):
            found = _goes_on(line, printed.lines, bare)
            best = max(best, found, key=lambda lines: sum(len(key(line.text)) for line in lines))
    for line in best:
        line.label = "caption"


def _goes_on(begin: PrintedLine, lines: Sequence[PrintedLine], bare: str) -> list[PrintedLine]:
    """The beginning and the lines beside and below it whose letters come next in the caption."""
    chosen = [begin]
    position = len(key(without_label(begin.text)))
    height = begin.upright[3] - begin.upright[1]
    below = [
        other
        for other in lines
        if other is not begin and other.page == begin.page and not other.label and key(other.text)
        if begin.upright[1] - 0.5 * height <= other.upright[1]
    ]
    for other in sorted(below, key=lambda line: (round(line.upright[3] / (0.5 * height)), line.upright[0])):
        part = key(other.text)
        gap = other.upright[1] - max(line.upright[3] for line in chosen)
        if gap > height or other.upright[0] > max(line.upright[2] for line in chosen) + 2 * height:
            continue
        at = bare.find(part, max(0, position - 3), position + len(part) + MAX_SKIPPED)
        if at >= 0:
            chosen.append(other)
            position = at + len(part)
    return chosen


def _begins(line: PrintedLine, following: Sequence[PrintedLine], bare: str, label: tuple[str, str]) -> bool:
    """Whether a caption begins with this line: its label and first words, or the label with the words on the next line.

    Sources without labels have the words alone.
    """
    printed_label = label_of(line.text)
    if label[1] and printed_label != label:
        return False
    rest = key(without_label(line.text))
    if not label[1] or rest:
        return len(rest) >= (4 if label[1] else 12) and _alike(rest, bare)
    return any(_alike(key(other.text), bare) for other in following)


def _alike(line: str, bare: str) -> bool:
    """Whether a line is the caption's beginning, or the whole caption the line's."""
    return bool(line) and (bare.startswith(line) or line.startswith(bare))


def _references(printed: Printed, references: Iterable[str]) -> None:
    """Lines made of the words of one reference, in stretches where most lines are such."""
    bags = [frozenset(words(reference)) for reference in references]
    by_word: dict[str, list[int]] = defaultdict(list)
    for index, bag in enumerate(bags):
        for word in bag:
            by_word[word].append(index)
    lines = [line for line in printed.lines if not line.label]
    start = _references_start(lines)
    lines = lines[start:]
    scores = [_in_one_reference(line, bags, by_word) for line in lines]
    dense = [False] * len(lines)
    for i in range(len(lines)):
        near = scores[max(0, i - _WINDOW // 2) : i + _WINDOW // 2 + 1]
        known = [s for s in near if s is not None]
        dense[i] = len(known) >= 2 and sum(s >= 0.75 for s in known) >= _DENSE * len(known)
    for line, score, is_dense in zip(lines, scores, dense, strict=True):
        if is_dense and (score is None or score >= 0.6):
            line.label = "reference"


def _references_start(lines: Sequence[PrintedLine]) -> int:
    """Index of the line behind the last heading of the references; the second half where there is none."""
    titles = (
        "references",
        "referencesandnotes",
        "bibliography",
        "literaturecited",
        "notesandreferences",
        "literature",
        "reference",
    )
    found = [i for i, line in enumerate(lines) if heading_key(line.text) in titles]
    return found[-1] + 1 if found else len(lines) // 2


def _in_one_reference(line: PrintedLine, bags: Sequence[frozenset[str]], by_word: dict[str, list[int]]) -> float | None:
    """Share of a line's words, weighed by length, in the reference that has most; None for lines with too few words."""
    given = [word for word in words(line.text) if word not in _STOP_WORDS]
    if sum(map(len, given)) < 8 or len(given) < 2:
        return None
    shares: Counter[int] = Counter()
    for word in set(given):
        for index in by_word.get(word, ()):
            shares[index] += len(word) * given.count(word)
    best = [index for index, _ in shares.most_common(2)]
    # A line may hold the end of one reference and the beginning of the next only where they run on.
    both = (
        frozenset().union(*(bags[i] for i in best)) if len(best) == 2 and abs(best[0] - best[1]) == 1 else frozenset()
    )
    one = max(shares.values(), default=0)
    two = sum(len(word) for word in given if word in both)
    return max(one, two) / sum(map(len, given))
