"""Running heads, running feet, and page numbers: what repeats from page to page."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from hiperrag.parsing.lines import Line, Page
from hiperrag.records import BlockKind

MARGIN = 0.14
"""Share of the page's height at its top and bottom in which furniture is looked for."""

MAX_LINES = 1500
"""A page of more lines is a plot or a map: nothing but repetition tells its running heads."""

_DIGITS = re.compile(r"\d+")
_NUMBER = re.compile(
    r"(?:page\s*)?[\[(–—-]?\s*(?:[eE]?\d{1,6}|[ivxl]{1,6})\s*[\])–—-]?(?:\s*(?:of|/)\s*\d{1,5})?", re.I
)
_TABLE_LABEL = re.compile(
    r"(?:table|tab\.|fig(?:ure|\.)|tabelle|abbildung)\s*(?:\d{1,2}|[IVX]{1,4})(?!\w)|continued table|\(continued\)$",
    re.I,
)
MIN_RULE = 0.25
"""Share of the page's width from which a rule may be a table's."""
MIN_COUNTED = 3
"""Pages whose numbers make a sequence."""
_BARE_NUMBER = re.compile(r"\d{1,4}")


def _key(text: str) -> str:
    return _DIGITS.sub("#", text.lower()).strip()


def find(pages: Sequence[Page]) -> dict[int, BlockKind]:
    """Kind of every line that is furniture, by id(line)."""
    kinds: dict[int, BlockKind] = {id(line): line.kind for page in pages for line in page.lines if line.kind}
    seen: dict[tuple[str, bool], list[Line]] = defaultdict(list)
    heights: Counter[tuple[bool, int]] = Counter()
    margin: list[tuple[Line, bool, Page]] = []
    for page in pages:
        in_tables = _in_tables(page)
        for line in page.lines:
            if id(line) in kinds or id(line) in in_tables or _TABLE_LABEL.match(line.text):
                continue
            top = line.y1 < MARGIN * page.height
            bottom = line.y0 > (1 - MARGIN) * page.height
            if top or bottom:
                margin.append((line, top, page))
                seen[_key(line.text), top].append(line)
    least = 2 if len(pages) < 8 else 3
    for line, top, _ in margin:
        if _is_repeated(line, seen[_key(line.text), top], least):
            kinds[id(line)] = _kind(line, top)
            heights[top, round(line.baseline)] += 1
    # A line at a running head's height and beyond all other text is one, though its text occurs once; so is a
    # bare number, and what stands in a row with one.
    levels = {key for key, count in heights.items() if count >= 2}
    for line, top, page in margin:
        if id(line) in kinds or len(page.lines) > MAX_LINES:
            continue
        at_level = any((top, round(line.baseline) + d) in levels for d in (-1, 0, 1))
        numbered = _beside_number(line, page)
        if not (at_level or numbered or _BARE_NUMBER.fullmatch(line.text)):
            continue
        if _is_outermost(line, top, page, kinds, least_gap=0.4 if numbered else 0.9):
            kinds[id(line)] = _kind(line, top)
    for page in pages:
        number = _centred_number(page)
        if number is not None and id(number) not in kinds:
            kinds[id(number)] = "page_number"
    _mend_numbers(pages, kinds)
    return kinds


def _mend_numbers(pages: Sequence[Page], kinds: dict[int, BlockKind]) -> None:
    """Undo or rename page numbers that do not count the pages: values of a plot's axis, and a running mark ("123")."""
    found = [
        (line, page, int(digits.group()) - page.number)
        for page in pages
        for line in page.lines
        if kinds.get(id(line)) == "page_number" and line.kind is None and (digits := _DIGITS.search(line.text))
    ]
    steps = Counter({step: len({page.number for _, page, other in found if other == step}) for _, _, step in found})
    counting = {step for step, count in steps.items() if count >= MIN_COUNTED}
    if not counting:
        return
    same = Counter(line.text for line, _, _ in found)
    for line, page, step in found:
        if step in counting:
            continue
        if same[line.text] >= MIN_COUNTED:
            kinds[id(line)] = "header" if line.y1 < MARGIN * page.height else "footer"
        elif any(other is page and one in counting for _, other, one in found):
            del kinds[id(line)]


def _in_tables(page: Page) -> set[int]:
    """Ids of the lines between the rules of a table at the top or bottom of a page: two rules of one width, with
    other text between them and the page's edge."""
    rules = [rule for rule in page.graphics.rules if rule[2] - rule[0] > MIN_RULE * page.width]
    found: set[int] = set()
    if page.turn or len(rules) < 2 or len(page.lines) > MAX_LINES:
        return found
    for line in page.lines:
        if MARGIN * page.height <= line.y1 and line.y0 <= (1 - MARGIN) * page.height:
            continue
        above = [rule for rule in rules if rule[3] <= line.y0 + 2 and rule[0] <= line.x0 + 2 and rule[2] >= line.x1 - 2]
        below = [rule for rule in rules if rule[1] >= line.y1 - 2 and rule[0] <= line.x0 + 2 and rule[2] >= line.x1 - 2]
        if not any(abs(a[0] - b[0]) < 5 and abs(a[2] - b[2]) < 5 for a in above for b in below):
            continue
        top = line.y1 < MARGIN * page.height
        outer = min(rule[1] for rule in above) if top else max(rule[3] for rule in below)
        if any(other.y1 < outer if top else other.y0 > outer for other in page.lines):
            found.add(id(line))
    return found


def _kind(line: Line, top: bool) -> BlockKind:
    return "page_number" if _NUMBER.fullmatch(line.text) else "header" if top else "footer"


def _is_outermost(line: Line, top: bool, page: Page, kinds: dict[int, BlockKind], least_gap: float) -> bool:
    """Whether nothing but furniture lies beyond the line, and a gap of so many font sizes between it and the text."""
    others = [other for other in page.lines if other is not line and id(other) not in kinds]
    if any(other.y1 < line.y0 + 1 if top else other.y0 > line.y1 - 1 for other in others):
        return False
    inward = [
        other.y0 - line.y1 if top else line.y0 - other.y1
        for other in others
        if other.x0 < line.x1 and other.x1 > line.x0
    ]
    return min((gap for gap in inward if gap > -1), default=page.height) > least_gap * line.size


def _beside_number(line: Line, page: Page) -> bool:
    return any(
        abs(other.baseline - line.baseline) < 2 and _BARE_NUMBER.fullmatch(other.text)
        for other in page.lines
        if other is not line
    )


def _centred_number(page: Page) -> Line | None:
    """The number in the middle under all other text of a page, however close to it."""
    last = max(page.lines, key=lambda line: line.baseline, default=None)
    if last is None or not _BARE_NUMBER.fullmatch(last.text):
        return None
    gap = last.y0 - max((line.y1 for line in page.lines if line is not last), default=last.y0)
    if last.y0 < (1 - (2 if gap > 2.5 * last.size else 1) * MARGIN) * page.height:
        return None
    others = [line for line in page.lines if line is not last and len(line.text) > 20]
    left = min((line.x0 for line in others), default=0.0)
    right = max((line.x1 for line in others), default=page.width)
    alone = all(line.baseline < last.baseline - 0.8 * last.size for line in page.lines if line is not last)
    return last if alone and abs(last.centre - (left + right) / 2) < 0.02 * page.width else None


def _is_repeated(line: Line, alike: Sequence[Line], least: int) -> bool:
    """Whether lines of the same text (but for numbers) stand at this height on enough pages."""
    return len({other.page for other in alike if abs(other.baseline - line.baseline) < 4}) >= least
