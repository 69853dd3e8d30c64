"""Pictures of parsed pages: the page's image with its blocks drawn, for people who check a parser's work.

Each block is a box in its kind's colour with a tag at its left: its place in the reading order, its kind, the depth
of a heading, and "+" where it goes on from the paragraph before. Arrows lead from captions to what they are about.
A strip below the page names the colours, and says how the page was read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiperrag.files import atomic_file
from hiperrag.parsing import reading
from hiperrag.records import Block, BlockKind, Document, PageRecord

Colour = tuple[float, float, float]
Point = tuple[float, float]

DPI = 120
MAX_PIXELS = 4000
"""Of a picture's longer side, however large the page is."""

STYLES: dict[BlockKind, tuple[str, Colour]] = {
    "title": ("title", (0.80, 0.00, 0.10)),
    "authors": ("auth", (0.95, 0.45, 0.70)),
    "abstract": ("abst", (0.45, 0.25, 0.75)),
    "heading": ("head", (0.95, 0.35, 0.00)),
    "paragraph": ("para", (0.10, 0.45, 0.85)),
    "list": ("list", (0.00, 0.65, 0.80)),
    "table": ("table", (0.00, 0.55, 0.20)),
    "figure": ("fig", (0.60, 0.75, 0.00)),
    "caption": ("cap", (0.75, 0.00, 0.75)),
    "equation": ("eq", (0.75, 0.60, 0.00)),
    "code": ("code", (0.25, 0.30, 0.35)),
    "footnote": ("note", (0.55, 0.35, 0.15)),
    "reference": ("ref", (0.35, 0.55, 0.55)),
    "header": ("hdr", (0.55, 0.55, 0.55)),
    "footer": ("ftr", (0.68, 0.68, 0.60)),
    "page_number": ("page", (0.80, 0.62, 0.55)),
}
"""Tag and colour of each kind."""

_FONT = "helv"
_TAG = 5.5
"""Font size of tags in points, on a page of usual size."""
_STRIP_TEXT = 6.5
_USUAL_WIDTH = 600.0


def render(pdf: Any, document: Document, page: int, dpi: int = DPI) -> bytes:
    """One page (from 1) of an open PyMuPDF document with the blocks of `document`, as PNG.

    Raises ValueError if the PDF has no such page.
    """
    if not 1 <= page <= len(pdf):
        raise ValueError(f"no page {page}: the document has {len(pdf)}")
    pymupdf = reading.load_pymupdf()
    shown = pdf[page - 1]
    width, height = max(shown.rect.width, 1.0), max(shown.rect.height, 1.0)
    scale = min(dpi / 72, MAX_PIXELS / max(width, height))
    unit = min(max(width / _USUAL_WIDTH, 0.4), 8.0)
    legend = _Legend(pymupdf, document, page, width, unit)
    with pymupdf.open() as drawing:
        canvas = drawing.new_page(width=width, height=height + legend.height)
        matrix = pymupdf.Matrix(scale, scale)
        canvas.insert_image(pymupdf.Rect(0, 0, width, height), pixmap=shown.get_pixmap(matrix=matrix, alpha=False))
        _draw_blocks(pymupdf, canvas, document, page, unit)
        legend.draw(canvas, height)
        png: bytes = canvas.get_pixmap(matrix=matrix, alpha=False).tobytes("png")
    return png


def write(data: bytes, document: Document, folder: Path, dpi: int = DPI) -> list[Path]:
    """Render every page of a PDF's bytes to `folder`/NAME/page-0001.png, ...; NAME is the source's without suffix.

    A page that cannot be drawn is left out. Two sources of one name get folders apart by the document's id.
    """
    target = folder / folder_name(document)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    with reading.load_pymupdf().open(stream=data, filetype="pdf") as pdf:
        for page in range(1, min(len(pdf), reading.MAX_PAGES) + 1):
            try:
                png = render(pdf, document, page, dpi)
            except Exception:  # MuPDF raises many types; the other pages are still worth seeing
                continue
            with atomic_file(target / f"page-{page:04d}.png") as temporary:
                temporary.write_bytes(png)
            written.append(target / f"page-{page:04d}.png")
    return written


def folder_name(document: Document) -> str:
    """A file name for the document: its source's last part without suffix, and the start of its id."""
    stem = re.sub(r"[^\w.-]+", "_", Path(document.source).stem).strip("._")
    return f"{stem[:80] or 'document'}-{document.doc_id[:8]}"


def _draw_blocks(pymupdf: Any, canvas: Any, document: Document, page: int, unit: float) -> None:
    blocks = [block for block in document.blocks if block.page == page]
    shape = canvas.new_shape()
    for block in blocks:
        shape.draw_rect(_rect(pymupdf, block))
        shape.finish(
            color=STYLES[block.kind][1], fill=STYLES[block.kind][1], fill_opacity=0.10, width=unit, closePath=True
        )
    for block in blocks:
        _draw_arrow(pymupdf, shape, block, document.blocks, unit)
    for order, block in enumerate(blocks, 1):
        _draw_tag(pymupdf, shape, block, _tag(block, order, document.blocks), unit)
    shape.commit()


def _rect(pymupdf: Any, block: Block) -> Any:
    x0, y0, x1, y1 = block.bbox
    return pymupdf.Rect(min(x0, x1), min(y0, y1), max(x0, x1) + 0.1, max(y0, y1) + 0.1)


def _tag(block: Block, order: int, blocks: Sequence[Block]) -> str:
    depth = str(block.level) if block.kind == "heading" else ""
    text = f"{order}{'+' if block.continues else ''} {STYLES[block.kind][0]}{depth}"
    elsewhere = 0 <= block.about < len(blocks) and blocks[block.about].page != block.page
    return f"{text} > p.{blocks[block.about].page}" if elsewhere else text


def _draw_tag(pymupdf: Any, shape: Any, block: Block, text: str, unit: float) -> None:
    """The tag beside the block's first line, in the margin or gutter, where it hides no text."""
    size = _TAG * unit
    width = pymupdf.get_text_length(text, fontname=_FONT, fontsize=size) + 0.3 * size
    box = _rect(pymupdf, block)
    x0 = max(box.x0 - width, 0.0)
    shape.draw_rect(pymupdf.Rect(x0, box.y0, x0 + width, box.y0 + 1.15 * size))
    shape.finish(color=None, fill=STYLES[block.kind][1], fill_opacity=0.85, closePath=True)
    shape.insert_text((x0 + 0.15 * size, box.y0 + 0.92 * size), text, fontname=_FONT, fontsize=size, color=(1, 1, 1))


def _draw_arrow(pymupdf: Any, shape: Any, block: Block, blocks: Sequence[Block], unit: float) -> None:
    """From a caption to what it is about, if that is on the same page."""
    if not 0 <= block.about < len(blocks) or blocks[block.about].page != block.page:
        return
    start, end = _nearest(_rect(pymupdf, block), _rect(pymupdf, blocks[block.about]))
    tail, head = pymupdf.Point(start), pymupdf.Point(end)
    direction = (head - tail).unit if abs(head - tail) > 0 else pymupdf.Point(0, 1)
    across = pymupdf.Point(-direction.y, direction.x)
    shape.draw_line(tail, head)
    for side in (-1.5, 1.5):
        shape.draw_line(head, head - direction * 4 * unit + across * side * unit)
    shape.finish(color=STYLES["caption"][1], width=1.6 * unit)


def _nearest(a: Any, b: Any) -> tuple[Point, Point]:
    """Points near the edges of two boxes that face each other, a little inside so that touching boxes show a line."""

    def span(a0: float, a1: float, b0: float, b1: float) -> tuple[float, float]:
        low, high = max(a0, b0), min(a1, b1)
        if low <= high:
            return (low + high) / 2, (low + high) / 2
        inset = min(10.0, (a1 - a0) / 2, (b1 - b0) / 2)
        return (a1 - inset, b0 + inset) if a1 < b0 else (a0 + inset, b1 - inset)

    ax, bx = span(a.x0, a.x1, b.x0, b.x1)
    ay, by = span(a.y0, a.y1, b.y0, b.y1)
    if (ax, ay) == (bx, by):  # one lies in the other
        return ((a.x0 + a.x1) / 2, (a.y0 + a.y1) / 2), ((b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2)
    if ax == bx:  # one above the other
        inset = min(10.0, (a.y1 - a.y0) / 2, (b.y1 - b.y0) / 2)
        ay, by = (a.y1 - inset, b.y0 + inset) if a.y1 <= b.y0 + 1 else (a.y0 + inset, b.y1 - inset)
    return (ax, ay), (bx, by)


class _Legend:
    """The strip below a page: how it was read, and the colours of the kinds, in as many rows as they need."""

    def __init__(self, pymupdf: Any, document: Document, page: int, width: float, unit: float) -> None:
        self._pymupdf = pymupdf
        self._width = width
        self._size = _STRIP_TEXT * unit
        self._text = _summary(document, page)
        self._places: list[tuple[BlockKind, float, int]] = []
        x, row = 0.5 * self._size, 0
        for kind in STYLES:
            needed = pymupdf.get_text_length(kind, fontname=_FONT, fontsize=self._size) + 2.2 * self._size
            if x + needed > width and x > self._size:
                x, row = 0.5 * self._size, row + 1
            self._places.append((kind, x, row))
            x += needed
        self._step = 1.5 * self._size
        self.height = (row + 2) * self._step + 0.5 * self._size

    def draw(self, canvas: Any, top: float) -> None:
        """Draw it below `top`."""
        pymupdf, size = self._pymupdf, self._size
        shape = canvas.new_shape()
        shape.draw_rect(pymupdf.Rect(0, top, self._width, top + self.height))
        shape.finish(color=None, fill=(0.96, 0.96, 0.96), closePath=True)
        shape.insert_text((0.5 * size, top + 1.2 * size), self._text, fontname=_FONT, fontsize=size, color=(0, 0, 0))
        for kind, x, row in self._places:
            y = top + (row + 1) * self._step + 0.5 * size
            shape.draw_rect(pymupdf.Rect(x, y, x + size, y + size))
            shape.finish(color=None, fill=STYLES[kind][1], closePath=True)
            name = (x + 1.2 * size, y + 0.85 * size)
            shape.insert_text(name, kind, fontname=_FONT, fontsize=size, color=(0, 0, 0))
        shape.commit()


def _summary(document: Document, page: int) -> str:
    parts = [Path(document.source).name, f"page {page} of {document.n_pages}", document.parser]
    record: PageRecord | None = next((record for record in document.pages if record.page == page), None)
    if record:
        parts += [f"{record.route}: {record.reason}", f"quality {record.quality:.2f}"]
    return "   ".join(part for part in parts if part)
