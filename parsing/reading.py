"""PDF files opened, and the text layer and graphics of their pages read."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import statistics
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.graphics import Graphics, page_graphics
from hiperrag.parsing.lines import Page, page_lines
from hiperrag.parsing.options import OnPage
from hiperrag.records import PageRecord

GLUED = re.compile(r"[^\W\d_]{22}|[^\W\d_]{5}[^\W_]*\d+[^\W\d_]{3}|^(?:Table|Figure|Fig\.)\d")
"""A word longer than words are, or with a number inside or behind a label."""
MIN_SPACE = 0.09
"""Gap between characters, in font sizes, that is a space where there are none."""
MAX_PAGES = 20_000
"""Pages beyond this are not read: a page tree may claim any number."""


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


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Any]:
    """A PyMuPDF document of a PDF's bytes. Raises ParseError "empty", "damaged" or "encrypted"."""
    if not data.strip():
        raise ParseError("empty", "the file is empty")
    try:
        pdf = load_pymupdf().open(stream=data, filetype="pdf")
    except Exception as error:
        raise ParseError("damaged", f"not a readable PDF: {reason(error)}") from None
    with pdf:
        if pdf.needs_pass:
            raise ParseError("encrypted", "the file needs a password")
        yield pdf


def page_count(pdf: Any) -> int:
    """How many pages the file says it has. Raises ParseError "damaged" or "no_pages"."""
    try:
        count = int(pdf.page_count)
    except Exception as error:
        raise ParseError("damaged", f"its page tree cannot be read: {reason(error)}") from None
    if count < 1:
        raise ParseError("no_pages", "the file has no pages")
    return count


@dataclasses.dataclass(slots=True)
class Reading:
    """The pages of a file as far as they could be read, and a record of each that was tried."""

    pages: dict[int, Page]
    records: list[PageRecord]


def read_pages(pdf: Any, skip: Mapping[int, str], on_page: OnPage) -> Reading:
    """The text layer of all pages but those to skip. Raises ParseError "damaged" if none can be read."""
    flags = load_pymupdf().TEXT_PRESERVE_WHITESPACE | load_pymupdf().TEXT_MEDIABOX_CLIP
    reading = Reading({}, [])
    for number in range(1, min(page_count(pdf), MAX_PAGES) + 1):
        on_page(number, 0)
        failure = skip.get(number, "")
        width = height = 0.0
        if not failure:
            try:
                page = pdf[number - 1]
                width, height = float(page.rect.width), float(page.rect.height)
                lines = page_lines(_text(page, flags), number)
                lines.turn = (lines.turn - page.rotation // 90) % 4  # MuPDF reads a page as if it were not rotated
            except Exception as error:  # MuPDF raises many types; one bad page must not lose the document
                failure = reason(error)
        if failure:
            reading.records.append(PageRecord(number, width, height, "failed", failure, 0.0))
            continue
        with contextlib.suppress(Exception):
            lines.graphics = page_graphics(page)
        reading.pages[number] = lines
        reading.records.append(PageRecord(number, width, height, "text", "", 1.0))
    on_page(0, 0)
    if not reading.pages:
        raise ParseError("damaged", f"no page can be read: {reading.records[-1].reason}")
    return reading


def _text(page: Any, flags: int) -> dict[str, Any]:
    """A page's text by spans. Where words run into one another, the gaps between their characters say where they
    end: some fonts have no space, and MuPDF takes only wider gaps for one."""
    layer = page.get_textpage(flags=flags)
    raw: dict[str, Any] = page.get_text("dict", textpage=layer)
    glued = [
        (block, line, span)
        for block, part in enumerate(raw["blocks"])
        for line, row in enumerate(part.get("lines", ()))
        for span, run in enumerate(row["spans"])
        if GLUED.search(run["text"])
    ]
    if glued:
        characters = page.get_text("rawdict", textpage=layer)["blocks"]
        for block, line, span in glued:
            run = raw["blocks"][block]["lines"][line]["spans"][span]
            run["text"] = spaced(run["text"], characters[block]["lines"][line]["spans"][span])
    return raw


def spaced(text: str, run: Mapping[str, Any]) -> str:
    """A span's text with a space in every gap between its characters; `run` is the span with "chars" and "size"."""
    characters = run["chars"]
    if "".join(one["c"] for one in characters) != text:
        return text
    gaps = [(b["bbox"][0] - a["bbox"][2]) / run["size"] for a, b in itertools.pairwise(characters)]
    close = statistics.median(gaps) if gaps else 0.0
    if abs(close) > 0.5 * MIN_SPACE:  # set wide
        return text
    blank = [gap > MIN_SPACE and not (text[i] + text[i + 1]).isspace() for i, gap in enumerate(gaps)]
    return "".join(c + " " * apart for c, apart in zip(text, [*blank, False], strict=True))


def is_blank(page: Page) -> bool:
    """Whether a page shows nothing at all."""
    return not page.lines and not page.sideways and page.graphics == Graphics()


def reason(error: Exception) -> str:
    """An error in one line."""
    return re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
