"""Lines of all pages into the blocks of a document: furniture, tables, reading order, regions, kinds.

Where the lines come from (a text layer, recognised characters) makes no difference here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from hiperrag.parsing import columns, furniture, mend, regions, structure, tables, typography
from hiperrag.parsing.lines import Line, Page
from hiperrag.records import Block, BlockKind


def assemble(pages: Sequence[Page], information: dict[str, Any]) -> tuple[list[Block], str, list[str]]:
    """Blocks in reading order, title and authors. `information` is the file's own: "title" and "author", or empty."""
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
    return Block(page.number, region.kind, box, region.text, region.level, region.continues, region.html)
