"""The abstract: with or without a heading, in one piece or in named parts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hiperrag.parsing import typography
from hiperrag.parsing.regions import Region
from hiperrag.parsing.typography import Style

MAX_LENGTH = 5000
"""Characters after which text under the heading "Abstract" is the article's."""
MAX_NOTE = 150
"""Characters of a note beside an abstract."""


def mark(found: Sequence[Region], start: int, style: Style, likely: bool) -> int:
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
    length = 0
    for index in range(start, last if last is not None else len(found)):
        region = found[index]
        if text is not None and region.page == text.page and _is_aside(region, text):
            region.kind, end = "footnote", index + 1
            continue
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
            text is not None and _is_in_line(region, text) and typography.is_heading(region, style)
        ):
            region.kind = "heading"
        elif text is None and region.right - region.left < 0.55 * style.width:
            region.kind = "footnote"  # the rest of a box beside the abstract
        elif heading is not None and region.page == heading.page and region.y1 < heading.y0:
            region.kind = "footnote"  # read after the heading, but above it in another column
        elif alike and length < MAX_LENGTH:
            region.kind = "abstract"
            text = text or region
            length += len(region.text)
        elif region.size < style.size + 0.3 and (last is not None or region.size < style.size - 0.45):
            region.kind = "footnote"
        else:
            break
        end = index + 1
        if text and heading is None and not run_in and last is None:
            break
    return end


def _is_aside(region: Region, text: Region) -> bool:
    """Whether a region is a note set beside the abstract, read with it as one column."""
    same_column = abs(region.left - text.left) < 2 and abs(region.right - text.right) < 2
    return same_column and len(region.text) < MAX_NOTE and not _is_in_line(region, text)


def _is_in_line(region: Region, text: Region) -> bool:
    """Whether a region begins at the edge of the abstract's text, or is centred on it."""
    off_centre = abs((region.x0 + region.x1) - (text.left + text.right)) / 2
    return abs(region.x0 - text.x0) < 3 * text.size or off_centre < 2 * text.size


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
    if not is_text(found[start], style):
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


def is_text(region: Region, style: Style) -> bool:
    """Whether a region is running text: prose, and neither names nor a publisher's notes."""
    if len(region.lines) < 3 or len(region.text) < 180 or not typography.is_prose(region):
        return False
    if looks_like_names(region.text) or typography.BOILERPLATE.search(region.text[:200]):
        return False
    lower = re.findall(r"\b[a-z]{2,}\b", region.text)
    words = re.findall(r"[^\W\d_]{2,}", region.text)
    return len(lower) > 0.6 * len(words) and region.size > style.size - 2.1


def looks_like_names(text: str) -> bool:
    """Whether most words are capitalised, as in a line of authors."""
    words = re.findall(r"[^\W\d_]{2,}", text)
    capitals = [word for word in words if word[0].isupper()]
    return (
        len(words) > 1
        and len(capitals) > 0.65 * len(words)
        and re.search(r"[,;•·&]| and | \.(?: |$)", text) is not None
    )
