"""The fast text path: a PDF's text layer as a document with kinds and reading order, without any model."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from typing import Any

from hiperrag.parsing import assembly, metadata
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.graphics import Graphics, page_graphics
from hiperrag.parsing.lines import Page, page_lines
from hiperrag.records import Document, PageRecord

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
    records: list[PageRecord] = dataclasses.field(default_factory=list)


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
    blocks, title, authors = assembly.assemble(reading.pages, information)
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
        pages=reading.records,
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
        except Exception as error:  # MuPDF raises many types; one bad page must not lose the document
            failure = _reason(error)
            reading.records.append(PageRecord(index + 1, 0.0, 0.0, "failed", failure, 0.0))
            continue
        with contextlib.suppress(Exception):
            lines.graphics = page_graphics(page)
        enough = sum(len(line.text) for line in lines.lines) >= MIN_CHARACTERS
        drawn = not enough and lines.graphics != Graphics()
        reading.pages.append(lines)
        reading.records.append(_record(page, index + 1, drawn))
        reading.usable += not drawn
        reading.blank += not enough and not drawn
    if not reading.pages:
        raise ParseError("damaged", f"no page can be read: {failure}")
    return reading


def _record(page: Any, number: int, unread: bool) -> PageRecord:
    reason = "no text layer" if unread else "text layer"
    return PageRecord(number, float(page.rect.width), float(page.rect.height), "text", reason, float(not unread))
