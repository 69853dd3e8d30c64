"""Displayed formulas of pages with a text layer: their LaTeX, from their characters and fraction bars."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from hiperrag.parsing import latex, symbols
from hiperrag.parsing.latex import Item
from hiperrag.parsing.lines import Page
from hiperrag.parsing.spans import weight_and_slant
from hiperrag.records import BBox, Block

MAX_ITEMS = 600
"""A formula of more characters is none."""
MARGIN = 2.0
"""Points beside a block in which its characters are looked for."""

ROOM = 7.0
"""Points over and under a block in which they are looked for, if nothing else is there."""

_NUMBER = re.compile(r"\(([A-Z]?\.?\d{1,3}(?:[.-]\d{1,3})*[a-z]?|[ivx]{1,5})\)")
_GROUP = re.compile(r"[_^]\{([^{}]*)\}")
_LONE_BRACKETS = re.compile(r"\\\\\s*[()\[\]\s]+(?:$|\\\\)|^[()\[\]\s]+\\\\")
"""A row of brackets and nothing else: they belong round something in another."""
_RELATION = re.compile(
    r"[=<>~:]|\\(?:leq|geq|neq|approx|sim|simeq|cong|equiv|propto|in|to|subset|ll|gg|Right|left|map)"
)


def set_latex(pdf: Any, blocks: Sequence[Block], pages: Sequence[Page]) -> None:
    """Set `latex` of the equation blocks that can be read. `pdf` is the open PyMuPDF document of `pages`.

    What cannot be read beyond doubt (unknown glyphs, unbalanced brackets, turned text) keeps its text only.
    """
    on_page: dict[int, list[Block]] = defaultdict(list)
    for block in blocks:
        on_page[block.page].append(block)
    by_number = {page.number: page for page in pages}
    for number, around in on_page.items():
        found = [block for block in around if block.kind == "equation"]
        page = by_number.get(number)
        if not found or page is None or page.turn:
            continue
        boxes = [_with_room(block, around) for block in found]
        characters = _characters(pdf[number - 1], boxes)
        for block, box in zip(found, boxes, strict=True):
            items = _inside(characters, box)
            block.latex = read(items, page.graphics.rules, box)
            if block.latex:
                x0, y0, x1, y1 = block.bbox
                top = min(item.baseline - 0.7 * item.size for item in items)
                bottom = max(item.baseline + 0.2 * item.size for item in items)
                block.bbox = (x0, min(y0, top), x1, max(y1, bottom))


def _with_room(block: Block, around: Iterable[Block]) -> BBox:
    """A block's box with the space over and under it, where raised characters and limits may stand."""
    x0, y0, x1, y1 = block.bbox
    others = [b.bbox for b in around if b is not block and b.bbox[0] < x1 and b.bbox[2] > x0]
    above = max((b[3] for b in others if b[3] <= y0 + 1), default=0.0)
    below = min((b[1] for b in others if b[1] >= y1 - 1), default=y1 + ROOM)
    return x0, max(y0 - ROOM, min(y0, above)), x1, min(y1 + ROOM, max(y1, below))


def _characters(page: Any, boxes: Iterable[BBox]) -> list[Item]:
    """The characters of a page about the given boxes."""
    import pymupdf

    x0, y0, x1, y1 = zip(*boxes, strict=True)
    clip = pymupdf.Rect(min(x0) - 9, min(y0) - 9, max(x1) + 9, max(y1) + 9)
    flags = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP | pymupdf.TEXT_CID_FOR_UNKNOWN_UNICODE
    found = []
    for block in page.get_text("rawdict", clip=clip, flags=flags)["blocks"]:
        for line in block.get("lines", ()):
            for span in line["spans"]:
                found.extend(_items(span))
    return found


def _items(span: dict[str, Any]) -> list[Item]:
    font, size = span["font"], span["size"]
    bold, italic = weight_and_slant(font, span["flags"])
    found = []
    for character in span["chars"]:
        text = symbols.symbol(character["c"], font)
        if not text:
            continue
        x0, top, x1, bottom = character["bbox"]
        baseline = character["origin"][1]
        if symbols.is_extension(font) and baseline < top + 0.3 * (bottom - top):  # hangs below its origin
            bottom = max(bottom, top + 1.2 * size)
            baseline = (top + bottom) / 2 + latex.AXIS * size
        name = unicodedata.name(text[0], "")
        slanted = (italic and not text.isdigit()) or "MATHEMATICAL ITALIC" in name or text == "ℎ"
        plain = unicodedata.normalize("NFKC", text) if "MATHEMATICAL ITALIC" in name or text == "ℎ" else text
        found.append(Item(plain, x0, top, x1, bottom, baseline, size, font, slanted, bold))
    return found


def _inside(characters: Sequence[Item], box: BBox) -> list[Item]:
    x0, y0, x1, y1 = box
    return [
        item
        for item in characters
        if x0 - MARGIN <= item.middle <= x1 + MARGIN and y0 <= item.baseline - latex.AXIS * item.size <= y1
    ]


def read(items: Sequence[Item], rules: Sequence[BBox], box: BBox) -> str:
    """LaTeX of the formula in a box with its number as a tag; "" where it would be implausible."""
    items = _negated(list(items))
    if not 2 <= len(items) <= MAX_ITEMS or not all(symbols.known(item.text) for item in items):
        return ""
    items, number = _without_number(items)
    x0, y0, x1, y1 = box
    bars = [
        rule
        for rule in rules
        if rule[3] - rule[1] < 2 < rule[2] - rule[0]
        and rule[0] > x0 - 3
        and rule[2] < x1 + 3
        and y0 - 3 < rule[1]
        and rule[3] < y1 + 3
    ]
    text = latex.write(items, bars)
    if not _is_plausible(text, items):
        return ""
    return f"{text} \\tag{{{number}}}" if number else text


def _negated(items: list[Item]) -> list[Item]:
    """Relations with the slash that is set over them made one character."""
    slashes = [item for item in items if item.text in "\u0338" and not item.made]
    for slash in slashes:
        struck = next(
            (i for i in items if i is not slash and i.x0 - 2 <= slash.x1 <= i.x1 + 2 and i.text in "=∈≡⊂"), None
        )
        items.remove(slash)
        if struck is not None:
            struck.text = {"=": "≠", "∈": "∉"}.get(struck.text, struck.text)
    return items


def _without_number(items: list[Item]) -> tuple[list[Item], str]:
    """The characters without the formula's number, which stands apart at the right or left."""
    ordered = sorted(items, key=lambda item: item.x0)
    for candidates in (ordered[::-1], ordered):
        size = candidates[0].size
        run = [candidates[0]]
        for item in candidates[1:12]:
            last = run[-1]
            gap = max(item.x0 - last.x1, last.x0 - item.x1)
            if gap > 1.0 * size or abs(item.baseline - run[0].baseline) > 0.3 * size:
                break
            run.append(item)
        match = _NUMBER.fullmatch("".join(item.text for item in sorted(run, key=lambda item: item.x0)))
        rest = [item for item in items if all(item is not one for one in run)]
        if match and rest:
            left, right = min(item.x0 for item in rest), max(item.x1 for item in rest)
            if run[0].x0 > right + size or run[0].x1 < left - size:
                return rest, match.group(1)
    return items, ""


def _is_balanced(group: str) -> bool:
    return all(group.count(opening) == group.count(closing) for opening, closing in ("()", "[]"))


def _is_plausible(text: str, items: Sequence[Item]) -> bool:
    """Whether LaTeX may be what the page shows: a relation or a structure, brackets balanced, few words."""
    if not (_RELATION.search(text) or re.search(r"[\^_+-]|\\(?:frac|sum|int|sqrt)", text)):
        return False
    for opening, closing in ("()", "[]"):
        if abs(text.count(opening) - text.count(closing)) > text.count("\\begin{cases}"):
            return False
    bare = text.replace("\\{", "").replace("\\}", "")
    if bare.count("{") != bare.count("}"):
        return False
    if not all(_is_balanced(group) for group in _GROUP.findall(bare)) or _LONE_BRACKETS.search(bare):
        return False
    words = sum(map(len, re.findall(r"\\(?:mathrm|text)\{([^}]{4,})\}", text)))
    return words < 0.6 * len(items)
