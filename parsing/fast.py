"""The fast text path: a PDF's text layer as a document with kinds and reading order, without any model."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from hiperrag.parsing import columns, furniture, mend, metadata, regions, structure, tables, typography
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.lines import Line, Page, page_lines
from hiperrag.records import Block, BlockKind, Document

PARSER = "fast"
VERSION = "1"
MAX_PAGES = 20_000
"""Pages beyond this are not read: a page tree may claim any number."""
MIN_CHARACTERS = 10
"""A page with fewer characters has no usable text layer if it shows anything else."""


@dataclasses.dataclass(slots=True)
class _Reading:
    pages: list[Page]
    """Pages that could be read."""
    tried: int
    usable: int
    """Pages with a text layer, or with nothing to read."""
    blank: int
    """Pages that show nothing at all."""


def parse_pdf(data: bytes, source: str, doc_id: str) -> Document:
    """Parse the bytes of a PDF; `source` and `doc_id` go into the document unchanged.

    Raises ParseError if the file is empty, encrypted, damaged, without pages, or without any text.
    """
    pymupdf = load_pymupdf()
    with _open(pymupdf, data) as pdf:
        n_pages = _page_count(pdf)
        reading = _read_pages(pymupdf, pdf, n_pages)
        information = dict(pdf.metadata or {})
    if not any(page.lines for page in reading.pages):
        if reading.blank == len(reading.pages):
            raise ParseError("no_text", "every page that can be read is blank")
        raise ParseError("no_text", "no page has a text layer; OCR is needed")
    blocks, title, authors = _assemble(reading.pages, information)
    return Document(
        doc_id=doc_id,
        source=source,
        title=title,
        authors=authors,
        n_pages=n_pages,
        parser=PARSER,
        parser_version=VERSION,
        quality=reading.usable / reading.tried,
        blocks=blocks,
        metadata=metadata.stated(blocks),
    )


def load_pymupdf() -> Any:
    """PyMuPDF, silenced and without its layout model.

    `import pymupdf` also loads its layout package where that is installed, with an ONNX model: most of a second
    and about 100 MB in every worker, for something the text layer does not need.
    """
    unwanted = [name for name in ("pymupdf.layout", "pymupdf4llm") if name not in sys.modules]
    if "pymupdf" not in sys.modules:
        sys.modules.update(dict.fromkeys(unwanted))  # type: ignore[arg-type]
        try:
            import pymupdf
        finally:
            for name in unwanted:
                del sys.modules[name]
    import pymupdf

    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    return pymupdf


def _open(pymupdf: Any, data: bytes) -> Any:
    if not data.strip():
        raise ParseError("empty", "the file is empty")
    try:
        pdf = pymupdf.open(stream=data, filetype="pdf")
    except Exception as error:
        raise ParseError("damaged", f"not a readable PDF: {_reason(error)}") from None
    if pdf.needs_pass:
        pdf.close()
        raise ParseError("encrypted", "the file needs a password")
    return pdf


def _reason(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__


def _page_count(pdf: Any) -> int:
    try:
        count = int(pdf.page_count)
    except Exception as error:
        raise ParseError("damaged", f"its page tree cannot be read: {_reason(error)}") from None
    if count < 1:
        raise ParseError("no_pages", "the file has no pages")
    return count


def _read_pages(pymupdf: Any, pdf: Any, n_pages: int) -> _Reading:
    """Lines of all pages. Raises ParseError if no page could be read."""
    flags = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP
    reading = _Reading(pages=[], tried=min(n_pages, MAX_PAGES), usable=0, blank=0)
    failure = ""
    for index in range(reading.tried):
        try:
            page = pdf[index]
            lines = page_lines(page.get_text("dict", flags=flags), index + 1)
            enough = sum(len(line.text) for line in lines.lines) >= MIN_CHARACTERS
            drawn = [] if enough else [kind for kind, _ in page.get_bboxlog()]
        except Exception as error:  # MuPDF raises many types; one bad page must not lose the document
            failure = _reason(error)
            continue
        reading.pages.append(lines)
        reading.usable += all(kind.endswith("text") for kind in drawn)
        reading.blank += not enough and not drawn
    if not reading.pages:
        raise ParseError("damaged", f"no page can be read: {failure}")
    return reading


def _assemble(pages: Sequence[Page], information: dict[str, Any]) -> tuple[list[Block], str, list[str]]:
    kinds = furniture.find(pages)
    style = typography.body_style(pages)
    words = mend.vocabulary(line.text for page in pages for line in page.lines)
    remaining = [[line for line in page.lines if id(line) not in kinds] for page in pages]
    leading = regions.leading_ratio(remaining, style.size)
    body = [
        region
        for page, lines in zip(pages, remaining, strict=True)
        for segment in _segments(page, tables.gather(page, lines, style, leading))
        for region in regions.split(segment, leading)
    ]
    metadata_title = _plausible(str(information.get("title") or ""))
    body, front = structure.classify(body, pages, style, words, metadata_title)
    title = front.title or metadata_title
    authors = front.authors or [
        name for part in re.split(r"[;,]| and ", str(information.get("author") or "")) if (name := part.strip())
    ]
    by_page: dict[int, list[regions.Region]] = defaultdict(list)
    for region in body:
        by_page[region.page].append(region)
    blocks: list[Block] = []
    for page in pages:
        marks = [line for line in page.lines if id(line) in kinds]
        for line in marks:
            if kinds[id(line)] == "header":
                blocks.append(_line_block(page, line, "header"))
        blocks.extend(_block(page, region) for region in by_page[page.number])
        blocks.extend(_line_block(page, line, kinds[id(line)]) for line in marks if kinds[id(line)] != "header")
        for line in page.sideways:  # stamps in the margin, labels of axes
            in_margin = line.x1 < 0.08 * page.width or line.x0 > 0.92 * page.width
            blocks.append(_line_block(page, line, "footer" if in_margin else "figure"))
    return blocks, title, authors


def _segments(page: Page, lines: Sequence[Line]) -> list[columns.Segment]:
    """Column segments of a page in reading order."""
    heading = next((line for line in lines if typography.REFERENCES.fullmatch(line.text)), None)
    if heading is None:
        return columns.reading_order(lines, page.width)
    above, below = columns.split_at_references(lines, heading, page.width)
    return [*columns.reading_order(above, page.width), *columns.reading_order(below, page.width)]


def _plausible(title: str) -> str:
    """A title from the file's metadata, or nothing where it is a file name or a template's."""
    title = mend.characters(title).strip()
    if (
        len(title) < 12
        or " " not in title
        or re.search(r"\.(?:docx?|indd|pdf|tex|dvi)\b|untitled|microsoft", title, re.I)
    ):
        return ""
    return title


def _line_block(page: Page, line: Line, kind: BlockKind) -> Block:
    return Block(page.number, kind, page.page_bbox(line.x0, line.y0, line.x1, line.y1), line.text)


def _block(page: Page, region: regions.Region) -> Block:
    box = page.page_bbox(region.x0, region.y0, region.x1, region.y1)
    return Block(page.number, region.kind, box, region.text, region.level, region.continues)
