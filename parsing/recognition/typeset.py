"""Recognised words as the lines of pages that the rest of the parser takes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hiperrag.parsing import mend
from hiperrag.parsing.graphics import Graphics
from hiperrag.parsing.lines import Line, Page
from hiperrag.parsing.recognition import drawn, images, print_size
from hiperrag.parsing.recognition.engines import Recognised, TextLine, Word
from hiperrag.parsing.recognition.images import PageImage
from hiperrag.parsing.recognition.print_size import Print
from hiperrag.records import BBox

REGULAR, BOLD = "Recognised", "Recognised-Bold"
"""Fonts of recognised lines."""
BOLD_STROKES = 1.25
"""Strokes of bold type over those of regular type, both relative to their sizes."""
CELL_GAP = 1.3
"""A gap of more than this many font sizes divides a line, as in the rows of a table."""
MARK_GAP = 3.0
"""The same after a list mark or a section number."""
MIN_CONFIDENCE = 0.35
"""Lines read with less confidence are noise."""
SURE = 0.7
"""Words read with this confidence are no part of a picture."""
CHUNK = 24
"""Letters measured together: enough to tell the size, few enough for a slanting line."""

_MARK = re.compile(r"[•◦▪■●○‣·►▶–—*-]|\(?(?:\d{1,2}|[a-zA-Z]|[ivx]{1,4})[.)]|\[\d{1,3}\]|\d{1,2}(?:\.\d{1,2}){0,3}\.?")
_CITED = re.compile(r"([^\W\d_]{4,}[.,;:)”’]?)(\d{1,3}(?:[,–-]\d{1,3})*)(?=\s|[.,;:]?$)")
_NOISE = re.compile(r"[\W_]{1,3}")


@dataclasses.dataclass(slots=True)
class RecognisedPage(Page):
    """A page read by an engine, and its mean confidence (0..1)."""

    confidence: float = 0.0


@dataclasses.dataclass(slots=True)
class _Piece:
    """A line, or the part of one between wide gaps, in points of the upright page."""

    words: list[Word]
    box: BBox
    size: float
    """As measured; 0 where the letters do not tell."""
    baseline: float
    strokes: list[tuple[float, int]]
    """Width of the strokes over the size, and the number of letters, of each word or few."""
    sizes: list[tuple[float, float]]


@dataclasses.dataclass(slots=True)
class Draft:
    """A page whose lines await the sizes of the document."""

    number: int
    image: PageImage
    pieces: list[_Piece]
    sideways: list[_Piece]
    graphics: Graphics
    confidence: float


def draft(number: int, image: PageImage, read: Recognised) -> Draft:
    """Measure what was read from the picture of a page."""
    black = images.ink(image.picture.pixels)
    pieces: list[_Piece] = []
    sideways: list[_Piece] = []
    for line in read.lines:
        words = _clean(line)
        if words and _confidence(words) >= MIN_CONFIDENCE:
            into = sideways if line.vertical else pieces
            into.extend(_piece(part, image, black) for part in _parts(words))
    sure = [word.box for line in read.lines for word in line.words if word.confidence >= SURE]
    rules = drawn.rules(black, image.picture.dpi)
    pictures = drawn.pictures(black, image.picture.dpi, sure, rules)
    graphics = Graphics(
        images=[image.to_points(box) for box in pictures], rules=[image.to_points(box) for box in rules]
    )
    pieces = [piece for piece in pieces if not _is_noise(piece, graphics.images)]
    return Draft(number, image, pieces, sideways, graphics, read.confidence)


def _clean(line: TextLine) -> list[Word]:
    words = [dataclasses.replace(word, text=mend.characters(word.text).strip()) for word in line.words]
    while words and _is_speck(words[0]):
        words.pop(0)
    while words and _is_speck(words[-1]):
        words.pop()
    return [word for word in words if word.text]


def _is_speck(word: Word) -> bool:
    """A mark at the end of a line that was read from dirt or a ruling line."""
    return not word.text or (word.confidence < 0.5 and _NOISE.fullmatch(word.text) is not None) or word.text in "|_~"


def _confidence(words: Sequence[Word]) -> float:
    return sum(len(w.text) * w.confidence for w in words) / sum(len(w.text) for w in words)


def _parts(words: Sequence[Word]) -> list[list[Word]]:
    """The words of a line between wide gaps."""
    tall = sorted(word.box[3] - word.box[1] for word in words)
    size = 1.1 * tall[(3 * len(tall)) // 4]
    parts = [[words[0]]]
    for word in words[1:]:
        gap = word.box[0] - parts[-1][-1].box[2]
        mark = len(parts[-1]) == 1 and len(parts) == 1 and _MARK.fullmatch(parts[-1][0].text)
        if gap > (MARK_GAP if mark else CELL_GAP) * size:
            parts.append([])
        parts[-1].append(word)
    return parts


def _piece(words: list[Word], image: PageImage, black: npt.NDArray[np.float32]) -> _Piece:
    box = _around(words)
    scale = 72 / image.picture.dpi
    measured: list[tuple[Print, int]] = []
    for chunk in _chunks(words):
        found = print_size.measure(" ".join(word.text for word in chunk), _around(chunk), black)
        measured.append((found, len(chunk)))
    x0, y0, x1, y1 = image.to_points(box)
    bases = [(found.baseline, float(found.letters)) for found, _ in measured if found.letters]
    base = print_size.weighted_median(bases) if bases else box[3]
    known = [(found.size * scale, float(found.letters)) for found, _ in measured if found.size > 0]
    return _Piece(
        words,
        (x0, y0, x1, y1),
        print_size.weighted_median(known),
        image.to_points((box[0], base, box[2], base))[1],
        [(found.stroke, found.letters) for found, _ in measured],
        known,
    )


def _around(words: Sequence[Word]) -> BBox:
    return (
        min(word.box[0] for word in words),
        min(word.box[1] for word in words),
        max(word.box[2] for word in words),
        max(word.box[3] for word in words),
    )


def _chunks(words: Sequence[Word]) -> list[list[Word]]:
    """Words in groups of some letters; the first word is a group of its own."""
    chunks = [[words[0]]]
    for word in words[1:]:
        if len(chunks) == 1 or sum(len(w.text) for w in chunks[-1]) >= CHUNK:
            chunks.append([])
        chunks[-1].append(word)
    return chunks


def _is_noise(piece: _Piece, pictures: Sequence[BBox]) -> bool:
    """Whether what was read is part of a picture: strokes and dots taken for letters."""
    confidence = _confidence(piece.words)
    if confidence >= SURE:
        return False
    x, y = (piece.box[0] + piece.box[2]) / 2, (piece.box[1] + piece.box[3]) / 2
    inside = any(x0 < x < x1 and y0 < y < y1 for x0, y0, x1, y1 in pictures)
    return inside or not any(len(word.text) > 2 and word.text.isalnum() for word in piece.words)


def finish(drafts: Sequence[Draft]) -> list[RecognisedPage]:
    """Pages of one document: their lines with sizes and weights that are alike where the type is."""
    sizes = [item for page in drafts for piece in page.pieces for item in piece.sizes]
    classes = print_size.size_classes(sizes)
    body = print_size.weighted_median(sizes)
    regular = _regular_strokes(drafts, classes, body)
    return [_page(page, classes, regular) for page in drafts]


def _regular_strokes(drafts: Sequence[Draft], classes: Sequence[float], body: float) -> dict[float, float]:
    """Width of the strokes of regular type by size; that of the body's size, which serves for all others, under 0.0."""
    strokes: dict[float, list[tuple[float, float]]] = {}
    for page in drafts:
        for piece in page.pieces:
            size = print_size.nearest_class(piece.size, classes)
            strokes.setdefault(size, []).extend((width, letters) for width, letters in piece.strokes if width > 0)
    total = sum(letters for found in strokes.values() for _, letters in found)
    main = print_size.nearest_class(body, classes)
    common = {0.0: print_size.weighted_median(strokes.get(main, []))}
    for size, found in strokes.items():
        # Notes and captions may be set in a face of their own; headings are measured by the text's.
        if size < 1.05 * main and sum(letters for _, letters in found) > 0.04 * total:
            common[size] = print_size.weighted_median(found)
    return common


def _page(page: Draft, classes: Sequence[float], regular: dict[float, float]) -> RecognisedPage:
    image = page.image
    result = RecognisedPage(
        number=page.number,
        width=image.width,
        height=image.height,
        turn=image.turn,
        lines=[_line(page.number, piece, classes, regular) for piece in page.pieces],
        sideways=[_line(page.number, piece, classes, regular) for piece in page.sideways],
        confidence=page.confidence,
    )
    result.graphics = Graphics(
        images=[result.page_bbox(*box) for box in page.graphics.images],
        rules=[result.page_bbox(*box) for box in page.graphics.rules],
    )
    return result


def _line(number: int, piece: _Piece, classes: Sequence[float], regular: dict[float, float]) -> Line:
    size = print_size.nearest_class(piece.size, classes) if piece.size else _guessed_size(piece, classes)
    usual = regular.get(size) or regular[0.0]
    heavy = [(width > BOLD_STROKES * usual, letters) for width, letters in piece.strokes if width > 0 and usual]
    letters = sum(count for _, count in heavy)
    bold = sum(count for is_bold, count in heavy if is_bold) > 0.6 * letters
    first = piece.strokes[0][0] > BOLD_STROKES * usual if piece.strokes[0][0] > 0 and usual else bold
    x0, _, x1, _ = piece.box
    text = _CITED.sub(r"\1 \2", mend.accents(" ".join(word.text for word in piece.words)))
    return Line(
        page=number,
        x0=x0,
        y0=piece.baseline - 0.8 * size,
        x1=x1,
        y1=piece.baseline + 0.22 * size,
        baseline=piece.baseline,
        size=size,
        font=BOLD if bold else REGULAR,
        bold=bold,
        italic=False,
        bold_start=first,
        text=text,
    )


def _guessed_size(piece: _Piece, classes: Sequence[float]) -> float:
    """Size of a piece whose letters do not tell it, from its height."""
    text = "".join(word.text for word in piece.words)
    height = piece.box[3] - piece.box[1]
    deep = any(c in "gjpqy()[]{},;Q|/" for c in text)
    return print_size.nearest_class(max(1.0, height / (0.9 if deep else 0.7)), classes, tolerance=0.2)
