"""Oreo: a PDF as a document with kinds and reading order, each page by the cheapest route that is good enough.

The text layer is read for every page. Pages whose text layer is missing or wrong get their characters recognised;
pages whose blocks are hard to tell by geometry and typography are shown to the layout model. All routes end in the
same lines, and those in the same assembly. After Oreo of HiPerRAG (Gokdemir et al. 2025, section 3.1), which
looks at every page, and AdaParse (Siebenschuh et al. 2025), which routes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hiperrag import parsing
from hiperrag.errors import UserError
from hiperrag.parsing import assembly, equations, evidence, metadata, reading, router
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.lines import Page
from hiperrag.parsing.options import OnPage, ParseOptions
from hiperrag.parsing.reading import Reading
from hiperrag.parsing.recognition import parts, quality
from hiperrag.parsing.recognition.parts import Spoilt
from hiperrag.records import Document, PageRecord

if TYPE_CHECKING:
    from hiperrag.parsing.recognition.engines import Engine


def parse_pdf(
    data: bytes,
    source: str,
    doc_id: str,
    options: ParseOptions | None = None,
    on_page: OnPage = lambda *_: None,
) -> Document:
    """Parse the bytes of a PDF; `source` and `doc_id` go into the document unchanged.

    Raises ParseError if the file is empty, encrypted, damaged, without pages, or without any text, unless
    `options.pending` says that recognition is still to come.
    """
    options = options or ParseOptions()
    with reading.opened(data) as pdf:
        read = reading.read_pages(pdf, options.skip, on_page)
        spoilt = _judge(pdf, read)
        if options.parser != "fast":
            _recognise(pdf, read, spoilt, options, on_page)
        _check_text(read, options)
        found = _assemble(pdf, read, options)
        layered = [read.pages[record.page] for record in read.records if record.route in ("text", "vision")]
        equations.set_latex(pdf, found.blocks, layered)
        return Document(
            doc_id=doc_id,
            source=source,
            title=found.title,
            authors=found.authors,
            n_pages=reading.page_count(pdf),
            parser=options.parser,
            parser_version=str(parsing.VERSION),
            quality=sum(record.quality >= router.GOOD_TEXT for record in read.records) / len(read.records),
            blocks=found.blocks,
            pages=read.records,
            metadata=metadata.stated(found.blocks),
        )


def _judge(pdf: Any, read: Reading) -> dict[int, Spoilt]:
    """Note how good the text layer of every page is. The unusable parts of pages that are good as a whole, by page."""
    spoilt: dict[int, Spoilt] = {}
    for index, record in enumerate(read.records):
        if record.route == "text":
            page = read.pages[record.page]
            score, why = quality.assess(page, pdf[record.page - 1])
            if score >= router.GOOD_TEXT and (found := parts.find(page, router.GOOD_TEXT)):
                score, why = 1 - found.share, f"{found.reason} {router.IN_PART}"
                if score >= router.GOOD_TEXT:
                    spoilt[record.page] = found
            read.records[index] = dataclasses.replace(record, quality=score, reason=why or "text layer")
    return spoilt


def _recognise(pdf: Any, read: Reading, spoilt: Mapping[int, Spoilt], options: ParseOptions, on_page: OnPage) -> None:
    """Replace the pages and parts of pages that need it, and may be, by what is recognised on them."""
    places = {record.page: index for index, record in enumerate(read.records) if router.is_needed(record)}
    wanted = list(places)
    if options.recognise is not None:
        wanted = [page for page in options.recognise if page in places]
        for page in places.keys() - set(wanted):
            _annotate(read.records, places[page], router.OVER_BUDGET)
    if not wanted or options.engine == "none":
        return
    from hiperrag.parsing.recognition import engines, pages

    try:
        engine = engines.load(options.engine, options.language)
    except UserError as error:
        for page in wanted:
            _annotate(read.records, places[page], str(error))
        return
    batch = options.batch if engine.on_gpu else 1
    failed: dict[int, str] = {}
    spent = False

    def announce(numbers: Sequence[int]) -> bool:
        nonlocal spent
        spent = spent or on_page(numbers[0], len(numbers)) is False
        return not spent

    whole = [page for page in wanted if page not in spoilt]
    found = pages.read_pages(pdf, whole, engine, options.page_seconds, failed, batch, announce)
    for number in whole:
        index = places[number]
        if number in found:
            read.pages[number] = found[number]
            reason = f"{read.records[index].reason}; {engine.name}"
            read.records[index] = dataclasses.replace(read.records[index], route="ocr", reason=reason)
        else:
            _annotate(read.records, index, failed.get(number, router.OVER_BUDGET if spent else "not read"))
    for number in (page for page in wanted if page in spoilt):
        record = read.records[places[number]]
        if announce([number]):
            mended = _mend(pdf, read.pages[number], spoilt[number], engine, options.page_seconds)
            record.reason = record.reason.replace(router.IN_PART, mended)
        else:
            _annotate(read.records, places[number], router.OVER_BUDGET)
    on_page(0, 0)


def _mend(pdf: Any, page: Page, spoilt: Spoilt, engine: Engine, seconds: float) -> str:
    """Replace the unusable parts of a page by what is recognised there, within `seconds`; what was done in a few
    words."""
    from hiperrag.parsing.recognition import pages

    boxes = [(page.number, part.box) for part in spoilt.parts]
    read = pages.recognise_regions(pdf, boxes, engine, seconds / len(boxes))
    mended = sum(parts.mend(page, part, lines) for part, lines in zip(spoilt.parts, read, strict=True))
    where = "in a region" if len(boxes) == 1 else f"in {len(boxes)} regions"
    if mended < len(boxes):
        where += f", {mended} of them mended" if mended else ", not mended"
    return f"{where}; {engine.name}"


def _annotate(records: list[PageRecord], index: int, why: str) -> None:
    records[index] = dataclasses.replace(records[index], reason=f"{records[index].reason}; {why}")


def _check_text(read: Reading, options: ParseOptions) -> None:
    if options.pending or any(page.lines for page in read.pages.values()):
        return
    if all(reading.is_blank(page) for page in read.pages.values()):
        raise ParseError("no_text", "every page that can be read is blank")
    if options.parser == "fast":
        raise ParseError("no_text", "no page has a text layer; OCR is needed, which --parser auto does")
    first = next(record for record in read.records if record.route != "failed")
    raise ParseError("no_text", f"no text on any page ({first.reason})")


def _is_unsure(found: assembly.Assembly, page: int) -> bool:
    """Whether the layout model should see a page: its kinds are doubtful, or a table or figure seems to be missed."""
    if found.confidence.get(page, 1.0) < router.SURE:
        return True
    return evidence.is_fragmented([block for block in found.blocks if block.page == page])


def _assemble(pdf: Any, read: Reading, options: ParseOptions) -> assembly.Assembly:
    """The document's blocks; assembled once more with the layout model's regions where that is asked."""
    pages: Sequence[Page] = list(read.pages.values())
    information = dict(pdf.metadata or {})
    if not any(page.lines for page in pages):  # recognition is still to come
        return assembly.Assembly([], "", [], {})
    found = assembly.assemble(pages, information)
    if options.parser == "fast":
        return found
    from hiperrag.parsing import vision

    asked = "asked for" if options.parser == "oreo" else "on a GPU" if vision.is_cheap() else ""
    shown = [
        index
        for index, record in enumerate(read.records)
        if record.page in read.pages and (asked or _is_unsure(found, record.page))
    ]
    if not shown:
        return found
    if not vision.is_installed():
        if options.parser == "oreo":
            raise UserError(vision.MISSING)
        return found
    model = vision.load()
    numbers = [read.records[index].page for index in shown]
    seen = model.detect_pages([pdf[number - 1] for number in numbers], [read.pages[number].turn for number in numbers])
    for index in shown:
        record = read.records[index]
        if record.route == "text":
            read.records[index] = dataclasses.replace(record, route="vision")
        why = asked or f"confidence {found.confidence.get(record.page, 1.0):.2f}"
        _annotate(read.records, index, f"layout model ({why})")
    detections = {read.records[index].page: boxes for index, boxes in zip(shown, seen, strict=True)}
    return assembly.assemble(pages, information, detections)
