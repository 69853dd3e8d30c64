"""A formula's characters and fraction bars, by where they stand, as LaTeX.

The layout is read as it was set (Knuth, The TeXbook, appendix G): a bar between two stacked expressions is a
fraction, a bar that starts at a root sign its vinculum, smaller characters off the line are scripts of what they
follow, and what stands over and under a large operator are its limits.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Sequence

from hiperrag.parsing import symbols
from hiperrag.records import BBox

AXIS = 0.25
"""Height of a fraction bar over the line, in font sizes."""
SCRIPT = 0.13
"""A character off the line by more than this, in font sizes, is raised or lowered."""


@dataclasses.dataclass(slots=True)
class Item:
    """A character or what has been made of several. Coordinates in points, y downwards."""

    text: str
    """The character, or LaTeX if `made`."""
    x0: float
    top: float
    x1: float
    bottom: float
    baseline: float
    size: float
    font: str = ""
    italic: bool = False
    bold: bool = False
    made: bool = False

    @property
    def middle(self) -> float:
        return (self.x0 + self.x1) / 2


def write(items: Sequence[Item], bars: Sequence[BBox]) -> str:
    """LaTeX of a formula in one or more lines. `bars` are horizontal rules: fraction bars, overlines, vincula."""
    rest = list(items)
    ordered = sorted(bars, key=lambda b: b[2] - b[0])
    for index, bar in enumerate(ordered):
        near = _within(rest, bar, ordered[index + 1 :])
        taken = {id(item) for item in near}
        rest = [*(item for item in rest if id(item) not in taken), *_with_bar(near, bar)]
    return _rows(rest)


def _within(items: Sequence[Item], bar: BBox, longer: Sequence[BBox]) -> list[Item]:
    """The items between the longer bars over and under a bar: what lies beyond is no part of its fraction."""
    x0, y0, x1, y1 = bar
    across = [b for b in longer if b[0] - 1 <= (x0 + x1) / 2 <= b[2] + 1]
    top = max((b[3] for b in across if b[3] < y0 - 1), default=float("-inf"))
    bottom = min((b[1] for b in across if b[1] > y1 + 1), default=float("inf"))
    return [
        item
        for item in items
        if top < ((item.top + item.bottom) / 2 if item.made else item.baseline - AXIS * item.size) < bottom
    ]


def _over(item: Item, x0: float, x1: float) -> bool:
    return x0 - 1 <= item.middle <= x1 + 1


def _with_bar(items: list[Item], bar: BBox) -> list[Item]:
    """Items with those that belong to a bar made into one."""
    x0, y0, x1, y1 = bar
    y = (y0 + y1) / 2
    inside = [item for item in items if _over(item, x0, x1) and not (item.x0 < x0 - 2 and item.x1 > x1 + 2)]
    root = next(
        (
            i
            for i in items
            if i.text == "√" and not i.made and abs(i.x1 - x0) < 0.35 * i.size and abs(i.top - y) < 2 * i.size
        ),
        None,
    )
    if root is not None:
        under = _stack([item for item in inside if item is not root and item.bottom > y], y, 1)
        if under:
            return _replaced(items, [root, *under], f"\\sqrt{{{_rows(under)}}}", _line_of(under), under)
    above, below = _stack(inside, y, -1), _stack(inside, y, 1)
    if above and below:
        size = max(item.size for item in (*above, *below))
        made = f"\\frac{{{_rows(above)}}}{{{_rows(below)}}}"
        return _replaced(items, [*above, *below], made, y + AXIS * size, [*above, *below])
    if below and not above and len(below) < 12:
        top = min(item.top for item in below)
        if y - top < 3 and max(item.x1 for item in below) - min(item.x0 for item in below) > 0.6 * (x1 - x0):
            return _replaced(items, below, f"\\overline{{{_rows(below)}}}", _line_of(below), below)
    return items


def _line_of(items: Sequence[Item]) -> float:
    size = max(item.size for item in items)
    return statistics.median_low(sorted(item.baseline for item in items if item.size > 0.85 * size))


def _stack(items: Sequence[Item], y: float, direction: int) -> list[Item]:
    """The items that stand on a bar (direction -1) or hang under it (1), as far as they follow closely."""
    centre = {id(item): item.baseline - AXIS * item.size for item in items}
    side = [item for item in items if (centre[id(item)] - y) * direction > 0]
    side.sort(key=lambda item: (centre[id(item)] - y) * direction)
    found: list[Item] = []
    edge = y
    for item in side:
        near, far = (item.baseline, item.top) if direction < 0 else (item.baseline - 0.7 * item.size, item.baseline)
        if item.made:
            near, far = (item.bottom, item.top) if direction < 0 else (item.top, item.bottom)
        if (near - edge) * direction > 0.75 * item.size:
            break
        found.append(item)
        edge = max(edge, far) if direction > 0 else min(edge, far)
    return found


def _replaced(
    items: Sequence[Item], parts: Sequence[Item], text: str, baseline: float, sized: Sequence[Item]
) -> list[Item]:
    gone = {id(item) for item in parts}
    whole = Item(
        text,
        min(item.x0 for item in parts),
        min(item.top for item in parts),
        max(item.x1 for item in parts),
        max(item.bottom for item in parts),
        baseline,
        max(item.size for item in sized),
        made=True,
    )
    return [*(item for item in items if id(item) not in gone), whole]


def _rows(items: Sequence[Item]) -> str:
    """Items as rows of a formula, one below the other."""
    if not items:
        return ""
    return _cases(items) or " \\\\ ".join(_row(row) for row in _split(items))


def _cases(items: Sequence[Item]) -> str:
    """Items whose last part is a column of cases behind a tall brace; "" for others."""
    brace = next(
        (i for i in items if i.text == "{" and (i.bottom - i.top > 1.6 * i.size or symbols.is_extension(i.font))), None
    )
    if brace is None:
        return ""
    right = [item for item in items if item.x0 > brace.x0]
    rows = _split(right) if right else []
    if len(rows) < 2:
        return ""
    head = _row([item for item in items if item is not brace and item.x0 <= brace.x0])
    cases = " \\\\ ".join(_row(row) for row in rows)
    return f"{head} \\begin{{cases}} {cases} \\end{{cases}}".strip()


def _split(items: Sequence[Item]) -> list[list[Item]]:
    """Rows of items by their baselines."""
    size = max(item.size for item in [item for item in items if not _is_large(item)] or items)
    lines: list[list[Item]] = []
    full = sorted(
        (item for item in items if item.size > 0.85 * size and not _is_large(item)), key=lambda item: item.baseline
    )
    for item in full:
        if lines and item.baseline - lines[-1][-1].baseline < 0.45 * size:
            lines[-1].append(item)
        else:
            lines.append([item])
    if len(lines) < 2:
        return [list(items)]
    baselines = [statistics.median(item.baseline for item in line) for line in lines]
    rows: list[list[Item]] = [[] for _ in lines]
    for item in items:
        centre = item.baseline - AXIS * item.size if not _is_large(item) else (item.top + item.bottom) / 2
        nearest = min(range(len(lines)), key=lambda n: abs(baselines[n] - AXIS * size - centre))
        rows[nearest].append(item)
    return rows


def _is_large(item: Item) -> bool:
    """Large operators and delimiters, whose baseline says little."""
    return not item.made and (item.text in symbols.OPERATORS | symbols.INTEGRALS or symbols.is_extension(item.font))


def _row(items: list[Item]) -> str:
    """Items of one line, with their scripts."""
    if not items:
        return ""
    items = _accented(sorted(items, key=lambda item: (item.x0, item.x1)))
    plain = [item for item in items if not _is_large(item)] or items
    size = max(item.size for item in plain)
    line = _line_of([item for item in plain if item.size > 0.85 * size])
    items = _with_limits(items, size, line)
    atoms: list[tuple[Item | None, list[Item]]] = [(None, [])]
    for item in items:
        off = not _is_large(item) and (
            item.size < 0.85 * size or (abs(item.baseline - line) > SCRIPT * item.size and not item.made)
        )
        upright = item.made and (item.size > 0.85 * size or _is_on_axis(item, line - AXIS * size))
        if off and abs(item.baseline - line) > 0.05 * size and not upright:
            atoms[-1][1].append(item)
        else:
            atoms.append((item, []))
    return _joined(atoms, line)


def _is_on_axis(item: Item, axis: float) -> bool:
    """Whether the bar of a fraction in small type lies on the axis of its line: it is no script."""
    return item.text.startswith("\\frac") and abs(item.baseline - AXIS * item.size - axis) < 0.16 * item.size


def _accented(items: list[Item]) -> list[Item]:
    """Items with accents put on the letters they stand over."""
    found = list(items)
    for accent in [item for item in items if item.text in symbols.ACCENTS and not item.made]:
        base = next(
            (
                item
                for item in found
                if item is not accent
                and not item.made
                and item.text.isalpha()
                and item.x0 - 0.25 * item.size <= accent.middle <= item.x1 + 0.25 * item.size
                and (
                    accent.baseline < item.baseline - 0.55 * item.size
                    if accent.text in ".→"
                    else accent.baseline < item.baseline + 0.1 * item.size
                    and accent.middle <= item.x1 + 0.1 * item.size
                )
            ),
            None,
        )
        if base is not None and abs(accent.size - base.size) < 0.5 * base.size:
            body = _styled([base])
            found[found.index(base)] = dataclasses.replace(
                base, text=f"{symbols.ACCENTS[accent.text]}{{{body}}}", made=True
            )
            found.remove(accent)
    return found


def _with_limits(items: list[Item], size: float, line: float) -> list[Item]:
    """Items with the limits of large operators, and of words such as "max", put to them."""
    on_line = [i for i in items if i.size > 0.85 * size and abs(i.baseline - line) < SCRIPT * size]
    named = _words(on_line)
    gone = {id(i) for i in on_line}
    items = sorted((*named, *(i for i in items if id(i) not in gone)), key=lambda i: (i.x0, i.x1))
    operators = [i for i in items if i.text in symbols.OPERATORS or (i.made and i.text[1:] in symbols.LIMITS)]
    for operator in operators:
        small = [item for item in items if item is not operator and item.size < 0.85 * size]
        height = operator.size if operator.made else max(operator.bottom - operator.top, size)
        centre = (operator.top + operator.bottom) / 2
        reach = max(operator.x1 - operator.x0, operator.size)
        near = [
            i
            for i in small
            if min(operators, key=lambda other: abs(other.middle - i.middle)) is operator
            and operator.middle - 1.6 * reach < i.middle < operator.middle + 1.6 * reach
            and abs(i.baseline - AXIS * i.size - centre) > 0.42 * height
            and abs(i.baseline - AXIS * i.size - centre) < 1.6 * height
        ]
        under = _centred([i for i in near if i.baseline > centre], operator)
        over = _centred([i for i in near if i.baseline <= centre], operator)
        if not under and not over:
            continue
        text = operator.text if operator.made else symbols.latex(operator.text)
        text += f"_{{{_row(under)}}}" if under else ""
        text += f"^{{{_row(over)}}}" if over else ""
        gone = {id(i) for i in (*under, *over)}
        items = [
            dataclasses.replace(operator, text=text, size=size, baseline=line, made=True) if i is operator else i
            for i in items
            if id(i) not in gone
        ]
    return items


def _centred(items: list[Item], operator: Item) -> list[Item]:
    """Items under or over an operator if they are centred on it; those behind it are common scripts."""
    if not items:
        return []
    middle = (min(i.x0 for i in items) + max(i.x1 for i in items)) / 2
    width = operator.x1 - operator.x0
    behind = min(i.x0 for i in items) > operator.x1 - 0.15 * width
    return [] if behind or abs(middle - operator.middle) > 0.6 * max(width, operator.size) else items


def _words(items: list[Item]) -> list[Item]:
    """Items with upright letters that spell a function's name made into one."""
    found: list[Item] = []
    index = 0
    while index < len(items):
        run = [items[index]]
        while index + len(run) < len(items) and _spells(run[-1], items[index + len(run)]):
            run.append(items[index + len(run)])
        word = "".join(item.text for item in run)
        if len(run) > 1 and word in symbols.FUNCTIONS:
            found.append(dataclasses.replace(run[0], text=f"\\{word}", x1=run[-1].x1, made=True))
            index += len(run)
        else:
            found.append(items[index])
            index += 1
    return found


def _spells(a: Item, b: Item) -> bool:
    return (
        a.text.isascii() and a.text.isalpha() and b.text.isascii() and b.text.isalpha()
        and not (a.made or b.made or a.italic or b.italic)
        and a.font == b.font and abs(a.size - b.size) < 0.1 and abs(a.baseline - b.baseline) < 0.5
        and b.x0 - a.x1 < 0.15 * a.size
    )  # fmt: skip


def _joined(atoms: Sequence[tuple[Item | None, list[Item]]], line: float) -> str:
    parts: list[str] = []
    run: list[Item] = []
    for base, scripts in atoms:
        if base is not None:
            if run and (base.made or not _same_style(run[-1], base)):
                parts.append(_styled(run))
                run = []
            run.append(base)
        if scripts:
            if len(run) > 1 and not _is_word(run):
                parts.append(_styled(run[:-1]))
                run = run[-1:]
            parts.append((_styled(run) if run else "{}") + _scripts(scripts, line))
            run = []
        elif base is not None and not _is_letter(base):
            parts.append(_styled(run))
            run = []
    if run:
        parts.append(_styled(run))
    text = " ".join(part for part in parts if part)
    return re.sub(r"(?<=\d) \. (?=\d)", ".", text)


def _scripts(items: Sequence[Item], line: float) -> str:
    raised = [item for item in items if item.baseline < line]
    lowered = [item for item in items if item.baseline >= line]
    if raised and all(item.text in "'′″’" for item in raised):
        prime = "".join(symbols.latex(item.text) for item in raised)
        return prime + (f"_{{{_rows(lowered)}}}" if lowered else "")
    return (f"_{{{_rows(lowered)}}}" if lowered else "") + (f"^{{{_rows(raised)}}}" if raised else "")


def _is_letter(item: Item) -> bool:
    return not item.made and item.text.isalnum() and ord(item.text[0]) < 0x250


def _is_word(items: Sequence[Item]) -> bool:
    """Whether letters are a word rather than a product of variables."""
    return len(items) > 1 and all(_is_letter(i) and not i.italic and i.text.isalpha() for i in items)


def _same_style(a: Item, b: Item) -> bool:
    if not (_is_letter(a) and _is_letter(b)) or a.text.isdigit() != b.text.isdigit():
        return False
    return a.text.isdigit() or ((a.italic, a.bold, a.font) == (b.italic, b.bold, b.font) and b.x0 - a.x1 < 1.5 * a.size)


_BLACKBOARD = re.compile(r"MSBM|bbm|AMSb|DoubleStruck|blackboard", re.I)
_CALLIGRAPHIC = re.compile(r"CMSY|CMBSY|eus[bm]|rsfs|Caligraphic|Script|Pxsy|txsy", re.I)
_FRAKTUR = re.compile(r"euf[bm]|Fraktur", re.I)


def _styled(run: Sequence[Item]) -> str:
    """Characters of one style."""
    if not run:
        return ""
    first = run[0]
    if first.made:
        return " ".join(item.text for item in run)
    if first.text.isdigit():
        return "".join(item.text for item in run)
    if not _is_letter(first):
        return " ".join(symbols.latex(item.text) for item in run)
    letters = "".join(item.text for item in run)
    for pattern, command in ((_BLACKBOARD, "mathbb"), (_CALLIGRAPHIC, "mathcal"), (_FRAKTUR, "mathfrak")):
        if pattern.search(first.font):
            return f"\\{command}{{{letters}}}"
    if first.bold:
        return f"\\mathbf{{{letters}}}"
    if first.italic or len(run) == 1:
        return " ".join(letters)
    words = letters
    for left, right in zip(reversed(run[:-1]), reversed(run[1:]), strict=True):
        if right.x0 - left.x1 > 0.18 * left.size:
            at = run.index(right)
            words = words[:at] + " " + words[at:]
    if words in symbols.FUNCTIONS:
        return f"\\{words}"
    return f"\\text{{{words}}}" if " " in words else f"\\mathrm{{{words}}}"
