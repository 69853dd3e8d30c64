"""Lines of all pages into the blocks of a document: furniture, tables, reading order, regions, kinds.

Where the lines come from (a text layer, recognised characters) makes no difference here.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hiperrag.parsing import (
    asides,
    captions,
    columns,
    displays,
    figures,
    furniture,
    mend,
    regions,
    structure,
    tables,
    typography,
)
from hiperrag.parsing.lines import Line, Page
from hiperrag.parsing.regions import Region
from hiperrag.parsing.vision import Detection
from hiperrag.records import Block, BlockKind

TABLE_SCORE = 0.6
"""Of a table that only the layout model sees."""


@dataclasses.dataclass(slots=True)
class Assembly:
    """A document's blocks in reading order, its title and authors, and how sure the kinds of each page's blocks are."""

    blocks: list[Block]
    title: str
    authors: list[str]
    confidence: dict[int, float]
    """By page number, 0..1: mean probability of the kinds, by characters. Pages without text have none."""


@dataclasses.dataclass(slots=True)
class Layout:
    """The text of all pages as regions in reading order, before their kinds are known."""

    regions: list[Region]
    furniture: dict[int, BlockKind]
    """Kind of the lines that are running heads, feet and page numbers, by id(line)."""
    style: typography.Style
    words: Counter[str]
    """Words of the document and how often they occur."""
    sideways: dict[int, list[Line]]
    """Lines in another direction than their page's text that are no table's, by page number."""


def assemble(
    pages: Sequence[Page],
    information: Mapping[str, Any],
    detections: Mapping[int, Sequence[Detection]] | None = None,
) -> Assembly:
    """The pages as a document. `information` is the file's own: "title" and "author", or empty.

    `detections` are what the layout model sees on some pages, by number; there it settles kinds that the text
    layer leaves in doubt, and adds tables.
    """
    detections = detections or {}
    layout = find_layout(pages, detections)
    kinds = layout.furniture
    metadata_title = _plausible(str(information.get("title") or ""))
    body, front = structure.classify(layout.regions, pages, layout.style, layout.words, metadata_title, detections)
    title = front.title or metadata_title
    authors = front.authors or [
        name for part in re.split(r"[;,]| and ", str(information.get("author") or "")) if (name := part.strip())
    ]
    by_page: dict[int, list[Region]] = defaultdict(list)
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
        for line in layout.sideways[page.number]:  # stamps in the margin, labels of axes
            in_margin = line.x1 < 0.08 * page.width or line.x0 > 0.92 * page.width
            blocks.append(_line_block(page, line, "footer" if in_margin else "figure"))
    return Assembly(captions.tie(blocks, pages), title, authors, _confidence(by_page))


def find_layout(pages: Sequence[Page], detections: Mapping[int, Sequence[Detection]] | None = None) -> Layout:
    """Regions of all pages in reading order, with their text; furniture is kept apart."""
    detections = detections or {}
    kinds = furniture.find(pages)
    style = typography.body_style(pages)
    words = mend.vocabulary(line.text for page in pages for line in page.lines)
    remaining = [[line for line in page.lines if id(line) not in kinds] for page in pages]
    leading = regions.leading_ratio(remaining, style.size)
    turned = {page.number: asides.turned_tables(page, style, leading) for page in pages}
    upright = [dataclasses.replace(page, sideways=turned[page.number][1]) for page in pages]
    remaining = figures.gather(upright, remaining, style, leading)
    remaining = [[*lines, *turned[page.number][0]] for page, lines in zip(pages, remaining, strict=True)]
    found = [
        region
        for page, lines in zip(pages, remaining, strict=True)
        for segment in _segments(page, _with_tables(page, lines, style, leading, detections.get(page.number, ())))
        for region in regions.split(segment, leading)
    ]
    for region in found:
        structure.set_text(region, words, style)
    sideways = {number: lines for number, (_, lines) in turned.items()}
    return Layout(found, kinds, typography.refine(style, found), words, sideways)


def _confidence(by_page: Mapping[int, Sequence[Region]]) -> dict[int, float]:
    """Mean confidence of each page's regions, by their length; a region counts for at least a line."""
    return {
        number: sum(r.confidence * max(60, len(r.text)) for r in found) / sum(max(60, len(r.text)) for r in found)
        for number, found in by_page.items()
        if found
    }


def _with_tables(
    page: Page, lines: Sequence[Line], style: typography.Style, leading: float, detections: Sequence[Detection]
) -> list[Line]:
    boxes = [seen.bbox for seen in detections if seen.kind == "table" and seen.score > TABLE_SCORE]
    seen_tables = figures.upright(page, np.array(boxes, float).reshape(-1, 4)).tolist()
    pictured = [line for line in lines if line.kind == "figure"]
    plain = tables.gather(page, [line for line in lines if line.kind != "figure"], style, leading, seen_tables)
    rules = figures.upright(page, np.array(page.graphics.rules, float).reshape(-1, 4)).tolist()
    return [*displays.gather(plain, rules, style), *pictured]


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


def _block(page: Page, region: Region) -> Block:
    box = page.page_bbox(region.x0, region.y0, region.x1, region.y1)
    return Block(page.number, region.kind, box, region.text, region.level, region.continues, region.html)
