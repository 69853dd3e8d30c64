"""The front of an article: title, authors and affiliations, abstract, and the notes around them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from hiperrag.parsing import typography
from hiperrag.parsing.lines import Page
from hiperrag.parsing.regions import Region
from hiperrag.parsing.typography import Style

_TYPE_OF_ARTICLE = re.compile(
    r"(?:original|research|review|mini[- ]?review|short|brief|full|systematic|case|technical|data|clinical|invited|"
    r"regular|study|open access|meta-analysis)[\s-]*(?:research|article|paper|report|communication|protocol|review|note|"
    r"descriptor|letter|study|access)?s?(?: article| paper)?|article|articles|communication|letter|perspective|editorial|"
    r"commentary|essay|research|viewpoint",
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
_AFFILIATION = re.compile(
    r"\W{0,2}(?:\d{1,2}|[a-z]|[*†‡§¶#]+)\s?[A-Z][^.]*(?:universit|institut|department|hospital|division)", re.I
)
_INSTITUTION = re.compile(
    r"universit|institut|department|college|hospital|laborator|school|facult|cent(?:er|re)\b|academy|division|"
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
    on_first = [region for region in found if region.page == first_page.number]
    title = _title(on_first, first_page, style, metadata_title)
    if title and sum(len(region.text) for region in found[: found.index(title[0])]) > MAX_BEFORE_TITLE:
        for region in title:  # the largest heading of a page out of a longer text
            region.kind = "paragraph"
        return FrontMatter("", [], 0)
    for region in on_first:
        if region not in title and _is_side_matter(region, title, style):
            region.kind = "footnote"
    start = _text_start(found, title, style)
    authors: list[str] = []
    last_title = max((found.index(region) for region in title), default=-1)
    for index, region in enumerate(found[:start]):
        if region in title or region.kind == "footnote":
            continue
        if typography.BOILERPLATE.search(region.text) or typography.KEYWORDS.match(region.text):
            region.kind = "footnote"
        elif index < last_title:
            region.kind = "header"
        elif _looks_like_names(region.text) or _INSTITUTION.search(region.text):
            region.kind = "authors"
            authors.extend(name for name in _names(region.text) if name not in authors)
        elif region.size < style.size - 0.45 or region.right - region.left < 0.55 * style.width or len(region.text) < 60:
            region.kind = "footnote"
    end = _abstract(found, start, style, likely=bool(authors))
    return FrontMatter(" ".join(region.text for region in title), authors, end if authors or end > start else 0)


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
    for region in on_first:
        near = region.y0 < best.y1 + 3 * best.size and region.y1 > best.y0 - 3 * best.size
        if region is not best and near and abs(region.size - best.size) < 0.6 and region.bold == best.bold:
            if not _TYPE_OF_ARTICLE.fullmatch(region.text) and len(region.text) > 2:
                title.append(region)
    for region in title:
        region.kind = "title"
    return sorted(title, key=lambda region: region.y0)


def _is_side_matter(region: Region, title: Sequence[Region], style: Style) -> bool:
    """Notes of the first page: a narrow column beside the text, or small print with a publisher's phrases."""
    smaller = region.size < style.size - 0.45
    narrow = style.width > 0 and region.right - region.left < 0.55 * style.width
    beside = bool(title) and (region.right < title[0].left + 10 or region.left > title[0].right - 10)
    if narrow and beside and (smaller or region.right - region.left < 0.4 * style.width):
        return True
    if smaller and region.y0 > (title[0].y1 if title else 0) and _AFFILIATION.match(region.text):
        return True
    return bool(typography.BOILERPLATE.search(region.text)) and (smaller or len(region.text) < 250)


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
        if _is_text(region, style):
            return index
        if typography.is_heading(region, style) and not _looks_like_names(region.text) and region.page > page:
            return index
    return fallback


def _is_text(region: Region, style: Style) -> bool:
    if len(region.lines) < 3 or len(region.text) < 180 or not typography.is_prose(region):
        return False
    if _looks_like_names(region.text) or typography.BOILERPLATE.search(region.text[:200]):
        return False
    lower = re.findall(r"\b[a-z]{2,}\b", region.text)
    words = re.findall(r"[^\W\d_]{2,}", region.text)
    return len(lower) > 0.6 * len(words) and region.size > style.size - 2.1


def _looks_like_names(text: str) -> bool:
    words = re.findall(r"[^\W\d_]{2,}", text)
    capitals = [word for word in words if word[0].isupper()]
    return len(words) > 1 and len(capitals) > 0.65 * len(words) and ("," in text or " and " in text or "&" in text)


def _names(text: str) -> list[str]:
    """Personal names in a line of authors; empty for an affiliation."""
    if _INSTITUTION.search(text) and not re.match(r"[^,]{5,40},", text):
        return []
    text = _DEGREES.sub("", text)
    text = re.sub(r"[\d*†‡§¶#∗⁎✉]+|\[[^\]]*\]|\([^)]*\)", ",", text)
    text = re.sub(r"[,\s]\s*(?:and|und|&)\s+", ", ", text)
    names: list[str] = []
    for piece in re.split(r"\s*[,;•·|]\s*|^by\s+", text):
        words = piece.strip(" .").split()
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


def _abstract(found: Sequence[Region], start: int, style: Style, likely: bool) -> int:
    """Set the kinds of the abstract that begins at `start`; index of the first region after it. Without a heading
    text is taken for one only where it is `likely` (there are authors)."""
    if start >= len(found):
        return start
    heading = found[start] if typography.ABSTRACT.fullmatch(found[start].text) else None
    run_in = typography.RUN_IN_ABSTRACT.match(found[start].text) is not None
    if heading is None and not run_in and not (likely and _precedes_introduction(found, start, style)):
        return start
    last = _introduction(found, start)
    page, end = found[start].page, start
    text: Region | None = None
    for index in range(start, last if last is not None else len(found)):
        region = found[index]
        if region.page > page + 1 or (last is None and text and _ends_abstract(region, heading, style)):
            break
        alike = text is None or abs(region.size - text.size) <= 0.45
        if region is heading:
            region.kind = "heading"
        elif region.kind == "footnote":
            continue
        elif typography.KEYWORDS.match(region.text):
            region.kind = "footnote"
        elif (len(region.lines) == 1 and typography.ABSTRACT_PART.fullmatch(region.text)) or (
            text is not None and typography.is_heading(region, style)
        ):
            region.kind = "heading"
        elif alike:
            region.kind = "abstract"
            text = text or region
        elif region.size < style.size + 0.3 and (last is not None or region.size < style.size - 0.45):
            region.kind = "footnote"
        else:
            break
        end = index + 1
        if text and heading is None and not run_in and last is None:
            break
    return end


def _introduction(found: Sequence[Region], start: int) -> int | None:
    """Index of the introduction's heading if it follows on this or the next page."""
    parts = 0
    for index in range(start + 1, len(found)):
        region = found[index]
        if region.page > found[start].page + 1:
            return None
        if typography.INTRODUCTION.fullmatch(region.text):
            # "Background" may be the first part of a structured abstract.
            larger = [
                r for r in found[index + 1 :] if r.page <= region.page + 1 and typography.INTRODUCTION.fullmatch(r.text)
            ]
            if parts == 0 and larger:
                parts += 1
                continue
            return index
        if typography.KNOWN_HEADINGS.fullmatch(region.text) and not typography.ABSTRACT_PART.fullmatch(region.text):
            return None
    return None


def _ends_abstract(region: Region, heading: Region | None, style: Style) -> bool:
    if typography.INTRODUCTION.fullmatch(region.text) and not (
        heading is not None and region.size < heading.size - 0.4
    ):
        return True
    if not typography.is_heading(region, style):
        return False
    return not typography.ABSTRACT_PART.fullmatch(region.text)


def _precedes_introduction(found: Sequence[Region], start: int, style: Style) -> bool:
    """Whether the text at `start` is an abstract without a heading: an introduction's heading follows soon,
    or it is set unlike the main text."""
    if not _is_text(found[start], style):
        return False
    for region in found[start + 1 : start + 25]:
        if region.page > found[start].page + 1:
            break
        if typography.INTRODUCTION.fullmatch(region.text):
            return True
        if typography.KNOWN_HEADINGS.fullmatch(region.text):
            return False
    first = found[start]
    return first.bold or first.italic or abs(first.size - style.size) > 0.9
