"""The front of an article: title, authors and affiliations, abstract, and the notes around them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from hiperrag.parsing import abstract, typography
from hiperrag.parsing.lines import Page
from hiperrag.parsing.regions import SECTION_NUMBER, Region
from hiperrag.parsing.typography import Style

_TYPE_OF_ARTICLE = re.compile(
    r"(?:original|research|review|mini[- ]?review|short|brief|full|systematic|case|technical|data|clinical|invited|"
    r"regular|study|open access|meta-analysis)[\s-]*(?:research|article|paper|report|communication|protocol|review|"
    r"note|descriptor|letter|study|access)?s?(?: article| paper)?|(?:\w+ )?articles?|communication|letter|perspective|"
    r"editorial|commentary|essay|research|viewpoint",
    re.I,
)
_JOURNAL = re.compile(
    r"(?:the )?(?:\w+ ){0,3}(?:journal|annals|archives|proceedings|transactions|bulletin|acta|revista)\b.{0,60}$", re.I
)
MAX_BEFORE_TITLE = 700
"""Characters on the first page before a title, beside which it is none."""
_NAME = re.compile(r"(?:[^\W\d_][\w.’'‐-]*\s+){1,4}[^\W\d_][\w.’'‐-]+")
_DEGREES = re.compile(
    r",?\s*\b(?:ph\.?\s?d|m\.?d|m\.?sc|b\.?sc|mph|mbbs|frcs|dr\.?|prof\.?|professor|d\.?d\.?s|pharm\.?d)\b\.?", re.I
)
_CONTACT = re.compile(r"\S@\S+\.\w|correspond|^received\b|^©|contributed equally", re.I)
_AFFILIATION = re.compile(
    r"\W{0,2}(?:\d{1,2}|[a-z]|[*†‡§¶#]+)\s?[A-Z][^.]*(?:universit|institut|department|hospital|division)", re.I
)
_SECTION = re.compile(r"\d{1,2}\.\s+[A-Z]")
_INSTITUTION = re.compile(
    r"universit|institut|department|college|hospital|laborator|school|facult|cent(?:er|re)\b|academy|division|polytechnic|observatory|survey|agency|\bgroup\b|section|systems|"
    r"ministry|company|inc\.|ltd|gmbh|foundation|\d{4,}",
    re.I,
)


@dataclasses.dataclass(slots=True)
class FrontMatter:
    """Title and authors as the first page has them, and the index of the first region of the main text."""

    title: str
    authors: list[str]
    end: int


def find(found: Sequence[Region], first_page: Page, style: Style, metadata_title: str) -> FrontMatter:
    """Set the kinds of title, authors, abstract and notes before the main text."""
    if not found:
        return FrontMatter("", [], 0)
    on_first = [region for region in found if region.page == first_page.number and not region.known]
    title = _title(on_first, first_page, style, metadata_title)
    has_abstract = any(
        typography.ABSTRACT.fullmatch(region.text) or typography.RUN_IN_ABSTRACT.match(region.text)
        for region in on_first
    )
    if _starts_within(found, title, style) or not (title or has_abstract):
        for region in title:
            region.kind = "paragraph"
        return FrontMatter("", [], 0)
    for region in on_first:
        if region not in title and _is_side_matter(region, title, style):
            region.kind = "footnote"
    start = _text_start(found, title, style)
    authors: list[str] = []
    last_title = max((found.index(region) for region in title), default=-1)
    for index, region in enumerate(found[:start]):
        if region in title or region.known or region.kind == "footnote":
            continue
        names = _names(region.text)
        if typography.BOILERPLATE.search(region.text) or typography.KEYWORDS.match(region.text):
            region.kind = "footnote"
        elif index < last_title:
            region.kind = "header"
        elif (
            abstract.looks_like_names(region.text)
            or _INSTITUTION.search(region.text)
            or (names and (not authors or _is_next_line(region, found[index - 1])))
        ):
            region.kind = "authors"
            authors.extend(name for name in names if name not in authors)
        elif (
            region.size < style.size - 0.45 or region.right - region.left < 0.55 * style.width or len(region.text) < 60
        ):
            region.kind = "footnote"
    likely = any(region.kind == "authors" for region in found[:start])
    end = abstract.mark(found, start, style, likely=likely)
    return FrontMatter(" ".join(region.text for region in title), authors, end if authors or end > start else 0)


def _starts_within(found: Sequence[Region], title: Sequence[Region], style: Style) -> bool:
    """Whether the first page is one out of a longer text: much text, a table or a caption stands over its largest
    heading."""
    if not title:
        return False
    before = found[: found.index(title[0])]
    return sum(len(region.text) for region in before) > MAX_BEFORE_TITLE or any(
        region.kind == "table" or typography.is_caption(region, style) for region in before
    )


def _title(on_first: Sequence[Region], page: Page, style: Style, metadata_title: str) -> list[Region]:
    """Regions of the title: the largest text in the upper part of the page, with what is set alike beside it."""
    upper = [
        region
        for region in on_first
        if region.y0 < 0.55 * page.height
        and len(region.text) > 12
        and sum(c.isalpha() for c in region.text) > 0.5 * len(region.text)
        and not _TYPE_OF_ARTICLE.fullmatch(region.text)
        and not typography.KNOWN_HEADINGS.fullmatch(region.text)
        and not SECTION_NUMBER.match(region.text)
        and not typography.is_caption(region, style)
        and (region.size > style.size + 0.7 or region.bold)
    ]
    if not upper:
        return []

    def score(region: Region) -> tuple[float, int]:
        value = min(region.size, 3 * style.size)
        if len(region.text) < 40 or _JOURNAL.match(region.text):  # a journal's name may be larger than the title
            value *= 0.7
        if len(region.text) > 20 and region.text.casefold() in metadata_title.casefold():
            value *= 1.5
        return value, len(region.text)

    best = max(upper, key=score)
    title = [best]
    top, bottom = best.y0, best.y1
    for region in sorted(on_first, key=lambda region: abs(region.y0 - best.y0)):
        # A line in another weight (a species in italics) belongs to the title if it is set tight on it.
        reach = (3 if region.bold == best.bold else 0.8) * best.size
        near = region.y0 < bottom + reach and region.y1 > top - reach
        words = len(region.text) > 2 and not _TYPE_OF_ARTICLE.fullmatch(region.text)
        if region is not best and near and abs(region.size - best.size) < 0.6 and words:
            title.append(region)
            top, bottom = min(top, region.y0), max(bottom, region.y1)
    for region in title:
        region.kind = "title"
    return sorted(title, key=lambda region: region.y0)


def _is_next_line(region: Region, above: Region) -> bool:
    """Whether a region goes on with the names above it."""
    return (
        above.kind == "authors" and abs(above.size - region.size) < 0.2 and 0 <= region.y0 - above.y0 < 4 * region.size
    )


def _is_side_matter(region: Region, title: Sequence[Region], style: Style) -> bool:
    """Notes of the first page: a narrow column beside the text, or small print with a publisher's phrases."""
    smaller = region.size < style.size - 0.45
    narrow = style.width > 0 and region.right - region.left < 0.55 * style.width
    beside = bool(title) and (region.right < title[0].left + 10 or region.left > title[0].right - 10)
    if narrow and beside and (smaller or region.right - region.left < 0.4 * style.width):
        return True
    if smaller and region.y0 > (title[0].y1 if title else 0) and _AFFILIATION.match(region.text):
        return True
    if smaller:
        return bool(typography.BOILERPLATE.search(region.text))
    return len(region.text) < 300 and bool(_CONTACT.search(region.text))


def _text_start(found: Sequence[Region], title: Sequence[Region], style: Style) -> int:
    """Index of the first region after title and authors: abstract, its heading, or running text."""
    after = max((found.index(region) for region in title), default=-1) + 1
    page = found[0].page
    fallback = after
    for index in range(after, len(found)):
        region = found[index]
        if region.page > page + 1:
            break
        if typography.ABSTRACT.fullmatch(region.text) or typography.INTRODUCTION.fullmatch(region.text):
            return index
        if region.kind == "footnote":
            continue
        if typography.RUN_IN_ABSTRACT.match(region.text) and len(region.text) > 60:
            return index
        if abstract.is_text(region, style) or _is_numbered_section(region, style):
            return index
        if typography.is_heading(region, style) and not abstract.looks_like_names(region.text) and region.page > page:
            return index
    return fallback


def _is_numbered_section(region: Region, style: Style) -> bool:
    """Whether a region is a section's heading ("1. Methods"), not a numbered affiliation."""
    return (
        _SECTION.match(region.text) is not None
        and region.bold
        and region.size > style.size + 0.7
        and not _INSTITUTION.search(region.text)
    )


def _names(text: str) -> list[str]:
    """Personal names in a line of authors; empty for an affiliation."""
    if _INSTITUTION.search(text) and not re.match(r"[^,]{5,40},", text):
        return []
    text = _DEGREES.sub("", text)
    text = re.sub(r"[\d*†‡§¶#∗⁎✉]+|\[[^\]]*\]|\([^)]*\)", ",", text)
    text = re.sub(r"(?<=\w)\s+[a-z](?:\s*,\s*[a-z])*(?=\s*(?:[,;]|and\b|$))", ",", text)
    text = re.sub(r"[,\s]\s*(?:and|und|&)\s+", ", ", text)
    names: list[str] = []
    for piece in re.split(r"\s*[,;•·|]\s*|^by\s+|\s+\.(?:\s+|$)", text):
        words = re.sub(r"^(?:[a-z]\s+)+", "", piece.strip(" .")).split()
        if _INSTITUTION.search(piece):
            break
        if (
            2 <= len(words) <= 5
            and _NAME.fullmatch(" ".join(words))
            and all(
                word[0].isupper()
                or word in ("de", "van", "der", "von", "den", "da", "dos", "del", "la", "di", "el", "ten")
                for word in words
            )
        ):
            names.append(" ".join(words))
    return names
