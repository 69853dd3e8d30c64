"""Ruling lines of a page in the direction of its text, with pieces on one line joined."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from hiperrag.parsing.lines import Page
from hiperrag.parsing.spans import turned
from hiperrag.records import BBox

SAME_LINE = 1.2
"""Pieces whose places differ by less, in points, lie on one line."""
MAX_BREAK = 3.0
"""They are one rule if the gap between them is smaller than this."""
MIN_LENGTH = 8.0
MAX_THICKNESS = 3.0
"""A filled rectangle thinner than this, in points, is a rule."""
MIN_FIELD = 6.0
"""Height and width from which a filled rectangle is the ground of cells, whose edges part them as rules do."""
MAX_RULES = 3000
"""A page that draws more is a plot or a map."""


@dataclasses.dataclass(slots=True)
class Rule:
    """A straight line: at `at` across, from `start` to `stop` along, in points."""

    at: float
    start: float
    stop: float

    @property
    def length(self) -> float:
        return self.stop - self.start


@dataclasses.dataclass(slots=True)
class Rules:
    """Ruling lines of a page or of a part of it, sorted by place."""

    horizontal: list[Rule] = dataclasses.field(default_factory=list)
    vertical: list[Rule] = dataclasses.field(default_factory=list)

    def within(self, box: BBox, slack: float = 3.0) -> Rules:
        """Those inside a box, cut at its edges."""
        x0, y0, x1, y1 = box
        return Rules(
            _cut(self.horizontal, (y0 - slack, y1 + slack), (x0 - slack, x1 + slack)),
            _cut(self.vertical, (x0 - slack, x1 + slack), (y0 - slack, y1 + slack)),
        )


def _cut(rules: Iterable[Rule], across: tuple[float, float], along: tuple[float, float]) -> list[Rule]:
    return [
        Rule(rule.at, max(rule.start, along[0]), min(rule.stop, along[1]))
        for rule in rules
        if across[0] <= rule.at <= across[1] and min(rule.stop, along[1]) - max(rule.start, along[0]) >= MIN_LENGTH
    ]


def page_rules(page: Page) -> Rules:
    """Horizontal and vertical rules: thin paths, and the edges of filled rectangles."""
    width, height = (page.height, page.width) if page.turn % 2 else (page.width, page.height)
    curves = set(page.graphics.curves)
    fields = [box for box in page.graphics.shapes if box not in curves]
    if len(page.graphics.rules) + len(fields) > MAX_RULES:
        return Rules()
    horizontal: list[Rule] = []
    vertical: list[Rule] = []
    for box in [*page.graphics.rules, *fields]:
        x0, y0, x1, y1 = turned(box, page.turn, width, height)
        across, down = x1 - x0, y1 - y0
        if down <= MAX_THICKNESS:
            horizontal.append(Rule((y0 + y1) / 2, x0, x1))
        elif across <= MAX_THICKNESS:
            vertical.append(Rule((x0 + x1) / 2, y0, y1))
        elif down >= MIN_FIELD and across >= MIN_FIELD and down < 0.9 * page.height:
            horizontal += [Rule(y0, x0, x1), Rule(y1, x0, x1)]
            vertical += [Rule(x0, y0, y1), Rule(x1, y0, y1)]
    return Rules(_joined(horizontal), _joined(vertical))


def _joined(pieces: Sequence[Rule]) -> list[Rule]:
    """Rules from pieces: those on one line that touch or nearly so are one; short ones are dropped."""
    ordered = sorted(pieces, key=lambda rule: rule.at)
    found: list[Rule] = []
    index = 0
    while index < len(ordered):
        level = [ordered[index]]
        while index + len(level) < len(ordered) and ordered[index + len(level)].at - level[0].at < SAME_LINE:
            level.append(ordered[index + len(level)])
        index += len(level)
        level.sort(key=lambda rule: rule.start)
        current = dataclasses.replace(level[0])
        for rule in level[1:]:
            if rule.start - current.stop <= MAX_BREAK:
                current.stop = max(current.stop, rule.stop)
            else:
                found.append(current)
                current = dataclasses.replace(rule)
        found.append(current)
    return [rule for rule in found if rule.length >= MIN_LENGTH]
