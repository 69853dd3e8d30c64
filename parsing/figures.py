"""Figures of pages with a text layer: where they are, and which lines of text belong to them.

What is drawn is put on a coarse grid and grouped by nearness; running text and captions keep groups apart. A group
is (part of) a figure if it can be seen from a figure's caption, or if it is large enough without one; groups of one
caption are the panels of one figure. Labels in and at a figure belong to it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hiperrag.parsing import captions, grid
from hiperrag.parsing.captions import Label
from hiperrag.parsing.columns import in_rows
from hiperrag.parsing.lines import Line, Page
from hiperrag.parsing.typography import Style
from hiperrag.records import BBox, Block

GAP = 10.0
"""Drawings closer than this, in points, are one group."""
MARGIN = 0.12
"""Share of the page's height or width in which drawings that recur on other pages are decoration."""
MAX_PANEL_GAP = 100.0
"""Points between panels side by side."""
CROP_MARGIN = 3.0
"""Points around a figure that its picture shows."""

MIN_FRAMED = 2
"""Lines of running text that a frame holds."""

_Boxes = npt.NDArray[np.float64]


@dataclasses.dataclass(slots=True)
class _Group:
    """Drawings near each other."""

    box: BBox
    n_images: int
    image_area: float
    n_curves: int
    n_paths: int


@dataclasses.dataclass(slots=True)
class _Drawn:
    """Boxes of a page in the direction of its text; one row each."""

    boxes: _Boxes
    kinds: npt.NDArray[np.int8]
    """0 rule, 1 rectangle, 2 curve, 3 image."""


def gather(pages: Sequence[Page], lines: Sequence[Sequence[Line]], style: Style, leading: float) -> list[list[Line]]:
    """The lines of every page with those in each figure replaced by one line of kind "figure" with its whole box.

    `lines` holds the lines of each page that are no furniture; `leading` is the distance of baselines over font size.
    """
    drawn = [_drawn(page) for page in pages]
    recurring = _recurring(pages, drawn)
    return [
        _with_figures(page, list(page_lines), _without(page, boxes, recurring), style, leading)
        for page, page_lines, boxes in zip(pages, lines, drawn, strict=True)
    ]


def crop(pdf: Any, block: Block, dpi: int = 150) -> bytes:
    """The part of a page that a block covers, as PNG. `pdf` is an open PyMuPDF document."""
    page = pdf[block.page - 1]
    x0, y0, x1, y1 = block.bbox
    box = (x0 - CROP_MARGIN, y0 - CROP_MARGIN, x1 + CROP_MARGIN, y1 + CROP_MARGIN)
    picture = page.get_pixmap(clip=box, dpi=dpi, alpha=False, annots=False)
    found: bytes = picture.tobytes("png")
    return found


def _drawn(page: Page) -> _Drawn:
    graphics = page.graphics
    curves = set(graphics.curves)
    kinds = [0] * len(graphics.rules) + [2 if box in curves else 1 for box in graphics.shapes]
    boxes = [*graphics.rules, *graphics.shapes, *graphics.images]
    return _Drawn(
        upright(page, np.array(boxes, float).reshape(-1, 4)), np.array(kinds + [3] * len(graphics.images), np.int8)
    )


def upright(page: Page, boxes: _Boxes) -> _Boxes:
    """Boxes of the page as displayed in the coordinates of its lines: the inverse of `Page.page_bbox`."""
    x0, y0, x1, y1 = boxes.T
    if page.turn == 1:
        return np.stack([page.width - y1, x0, page.width - y0, x1], 1)
    if page.turn == 2:
        return np.stack([page.width - x1, page.height - y1, page.width - x0, page.height - y0], 1)
    if page.turn == 3:
        return np.stack([y0, page.height - x1, y1, page.height - x0], 1)
    return boxes


def _keys(page: Page, drawn: _Drawn) -> list[tuple[int, ...]]:
    """Boxes in the page's margins, rounded so that they can be compared between pages; others are ()."""
    boxes = drawn.boxes
    outside = (
        (boxes[:, 3] < MARGIN * page.height)
        | (boxes[:, 1] > (1 - MARGIN) * page.height)
        | (boxes[:, 2] < MARGIN * page.width)
        | (boxes[:, 0] > (1 - MARGIN) * page.width)
        | ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) > 0.8 * page.width * page.height)
    )
    rounded = np.round(boxes / 4).astype(int)
    return [tuple(row) if is_out else () for row, is_out in zip(rounded.tolist(), outside.tolist(), strict=True)]


def _recurring(pages: Sequence[Page], drawn: Sequence[_Drawn]) -> set[tuple[int, ...]]:
    """Drawings that stand in the margin of two or more pages: logos, banners, rules."""
    counts = Counter(key for page, boxes in zip(pages, drawn, strict=True) for key in set(_keys(page, boxes)))
    return {key for key, count in counts.items() if count > 1}


def _without(page: Page, drawn: _Drawn, recurring: set[tuple[int, ...]]) -> _Drawn:
    keep = np.array([not key or key not in recurring for key in _keys(page, drawn)], bool)
    return _Drawn(drawn.boxes[keep], drawn.kinds[keep])


def _with_figures(page: Page, lines: list[Line], drawn: _Drawn, style: Style, leading: float) -> list[Line]:
    if not len(drawn.boxes) or any(line.kind == "figure" for line in lines):
        return lines
    labels = captions.labels(lines, style, leading)
    running = _running(lines, labels, style, leading)
    groups = _groups(page, _without_frames(drawn, running, labels), running)
    boxes = _figures(page, groups, labels, running)
    taken: set[int] = set()
    found: list[Line] = []
    fixed = {id(line) for line in running}
    for box in boxes:
        inside, box = _labels(box, lines, page.sideways, fixed | taken, style)
        taken.update(id(line) for line in inside)
        found.append(_figure_line(page, box, inside, style))
    return [*(line for line in lines if id(line) not in taken), *found]


def _figure_line(page: Page, box: BBox, inside: Sequence[Line], style: Style) -> Line:
    x0, y0, x1, y1 = box
    return Line(
        page=page.number,
        x0=x0,
        y0=y0,
        x1=x1,
        y1=y1,
        baseline=y1,
        size=style.size,
        font="",
        bold=False,
        italic=False,
        bold_start=False,
        text="\n".join(line.text for line in in_rows(inside)),
        kind="figure",
    )


def _running(lines: Sequence[Line], labels: Sequence[Label], style: Style, leading: float) -> list[Line]:
    """Lines that are surely no part of a figure: of captions and of running text."""
    found = {id(line): line for label in labels for line in label.lines}
    for line in lines:
        if _is_prose(line, style):
            found[id(line)] = line
    ordered = sorted(lines, key=lambda line: line.baseline)
    for index, line in enumerate(ordered):  # what stands on or under a line of running text goes on with it
        if id(line) not in found:
            continue
        for other in ordered[index + 1 :]:
            if other.baseline > line.baseline + 1.35 * leading * line.size:
                break
            alike = abs(other.size - line.size) < 0.2 and other.font == line.font
            if alike and other.baseline > line.baseline + 1 and other.x0 < line.x1 and abs(other.x0 - line.x0) < 30:
                found[id(other)] = other
    return list(found.values())


def _is_prose(line: Line, style: Style) -> bool:
    if len(line.text) < 25 or sum(map(str.isalpha, line.text)) < 0.6 * len(line.text):
        return False
    if line.width > 0.8 * style.width and len(line.text) > 40:
        return True
    return style.is_body_size(line.size) and line.font in style.fonts and line.width > 0.5 * style.width


def _without_frames(drawn: _Drawn, running: Sequence[Line], labels: Sequence[Label]) -> _Drawn:
    """What is drawn without frames and shadows of cards: what holds lines of running text about as wide as it is."""
    in_label = {id(line) for label in labels for line in label.lines}
    prose = [line for line in running if id(line) not in in_label]
    if not prose:
        return drawn
    x0, y0, x1, y1 = np.array([(line.x0, line.y0, line.x1, line.y1) for line in prose]).T
    boxes = drawn.boxes[:, :, None]
    inside = (boxes[:, 0] < x0) & (boxes[:, 1] < y0) & (boxes[:, 2] > x1) & (boxes[:, 3] > y1)
    wide = inside & (x1 - x0 > 0.5 * (boxes[:, 2] - boxes[:, 0]))
    keep = (inside.sum(axis=1) < MIN_FRAMED) | ~wide.any(axis=1)
    return _Drawn(drawn.boxes[keep], drawn.kinds[keep])


def _groups(page: Page, drawn: _Drawn, running: Sequence[Line]) -> list[_Group]:
    boxes, kinds = drawn.boxes, drawn.kinds
    blocked = grid.Cells(page.width, page.height)
    blocked.add(np.array([(ln.x0, ln.y0 + 0.2 * ln.height, ln.x1, ln.y1 - 0.2 * ln.height) for ln in running]))
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    # Backgrounds and frames of text, scans under recognised text, underlines.
    keep = (blocked.share(boxes) < 0.2) & (width * height < 0.8 * page.width * page.height)
    boxes, kinds = boxes[keep], kinds[keep]
    ink = grid.Cells(page.width, page.height)
    ink.add(boxes + GAP / 2 * np.array([-1.0, -1.0, 1.0, 1.0]))
    of = grid.components(ink.filled & ~blocked.filled)
    names = of[ink.rows((boxes[:, 1] + boxes[:, 3]) / 2), ink.columns((boxes[:, 0] + boxes[:, 2]) / 2)]
    groups = []
    for name in np.unique(names[names > 0]):
        mine = names == name
        its, of_kind = boxes[mine], kinds[mine]
        if blocked.share(np.array([[*its[:, :2].min(0), *its[:, 2:].max(0)]]))[0] > 0.2:  # a frame around text
            its, of_kind = its[of_kind > 1], of_kind[of_kind > 1]
        if not len(its):
            continue
        images = its[of_kind == 3]
        box = (*its[:, :2].min(0).tolist(), *its[:, 2:].max(0).tolist())
        area = float(((images[:, 2] - images[:, 0]) * (images[:, 3] - images[:, 1])).sum())
        groups.append(_Group(box, len(images), area, int((of_kind == 2).sum()), int((of_kind < 3).sum())))
    return [group for group in groups if group.n_images or min(_size(group.box)) > 3]


def _size(box: BBox) -> tuple[float, float]:
    return box[2] - box[0], box[3] - box[1]


def _area(box: BBox) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _union(boxes: Iterable[BBox]) -> BBox:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def _figures(page: Page, groups: Sequence[_Group], labels: Sequence[Label], running: Sequence[Line]) -> list[BBox]:
    """Boxes of the page's figures."""
    panels: dict[int, dict[str, list[_Group]]] = defaultdict(lambda: defaultdict(list))
    alone: list[_Group] = []
    for group in groups:
        picture = group.image_area > 0.5 * _area(group.box)
        seen = [
            (cost, index)
            for index, label in enumerate(labels)
            if (cost := _distance(group.box, label, running)) is not None
        ]
        if not seen:
            alone.append(group)
            continue
        _, best = min(seen)
        if labels[best].kind == "figure":
            panels[best][_side(group.box, labels[best].box)].append(group)
        elif picture:
            alone.append(group)
    for group in list(alone):
        beside = next(
            (side for sides in panels.values() for side in sides.values() if _in_row(group, side, running)), None
        )
        if beside is not None:
            beside.append(group)
            alone.remove(group)
    found = [
        box
        for sides in panels.values()
        if (of_one := max(sides.values(), key=_total_area))
        and min(_size(box := _beside_text(_union(group.box for group in of_one), labels))) > 20
        and (any(group.n_images for group in of_one) or sum(group.n_paths for group in of_one) > 2)
    ]
    found.extend(_beside_text(group.box, labels) for group in alone if _stands_alone(page, group))
    return _merged(found)


def _in_row(group: _Group, panels: Sequence[_Group], running: Sequence[Line]) -> bool:
    """Whether drawings stand beside the panels of a figure with no text between them."""
    x0, y0, x1, y1 = group.box
    for panel in panels:
        left, right = min(x1, panel.box[2]), max(x0, panel.box[0])
        top, bottom = max(y0, panel.box[1]), min(y1, panel.box[3])
        if bottom - top > 0.6 * min(y1 - y0, panel.box[3] - panel.box[1]) and right - left < MAX_PANEL_GAP:
            return not any(ln.x0 < right and ln.x1 > left and ln.y0 < bottom and ln.y1 > top for ln in running)
    return False


def _total_area(groups: Sequence[_Group]) -> float:
    return sum(_area(group.box) for group in groups)


def _side(box: BBox, label: BBox) -> str:
    """Where drawings stand, seen from a caption."""
    if min(box[2], label[2]) > max(box[0], label[0]):
        return "above" if label[1] + label[3] > box[1] + box[3] else "below"
    return "left" if box[0] < label[0] else "right"


def _beside_text(box: BBox, labels: Sequence[Label]) -> BBox:
    """A box cut so that it covers no caption at its top or bottom: frames and stray curves may reach over it."""
    x0, y0, x1, y1 = box
    for label in labels:
        left, top, right, bottom = label.box
        if min(x1, right) - max(x0, left) < 0.5 * (right - left) or bottom < y0 or top > y1:
            continue
        if top - y0 > y1 - bottom:
            y1 = min(y1, top - 1)
        else:
            y0 = max(y0, bottom + 1)
    return x0, y0, x1, y1


def _stands_alone(page: Page, group: _Group) -> bool:
    """Whether drawings without a caption are a figure: large, and no banner on top of the first page."""
    width, height = _size(group.box)
    _, y0, _, y1 = group.box
    in_margin = (
        y1 < MARGIN * page.height or y0 > (1 - MARGIN) * page.height or (page.number == 1 and y0 < 0.15 * page.height)
    )
    if in_margin or min(width, height) < 60 or _area(group.box) < 0.03 * page.width * page.height:
        return False
    return group.image_area > 0.5 * _area(group.box) or group.n_curves >= 20


def _distance(box: BBox, label: Label, running: Sequence[Line]) -> float | None:
    """How far drawings are from a caption in points, more on the side where they seldom stand; None if text stands
    between them."""
    x0, y0, x1, y1 = label.box
    left, right = max(x0, box[0]), min(x1, box[2])
    own = {id(line) for line in label.lines}
    others = [line for line in running if id(line) not in own]
    if right - left > 0:
        above = (y0 + y1) > (box[1] + box[3])  # the drawing is above the caption
        top, bottom = (box[3], y0) if above else (y1, box[1])
        usual = above if label.kind == "figure" else not above
        between = any(
            min(line.y1, bottom) - max(line.y0, top) > 0.3 * line.height and line.x0 < box[2] and line.x1 > box[0]
            for line in others
        )
        return None if between else max(0.0, bottom - top) + (0 if usual else 40)
    if min(y1, box[3]) - max(y0, box[1]) > 0:
        top, bottom = max(y0, box[1]), min(y1, box[3])
        between = any(
            line.x0 < max(x0, box[0]) and line.x1 > min(x1, box[2]) and line.y0 < bottom and line.y1 > top
            for line in others
        )
        gap = max(x0, box[0]) - min(x1, box[2])
        return None if between or gap > 60 else gap + 20
    return None


def _merged(boxes: list[BBox]) -> list[BBox]:
    """Boxes with those that overlap by a quarter of the smaller joined."""
    found: list[BBox] = []
    for box in sorted(boxes, key=_area, reverse=True):
        for index, other in enumerate(found):
            common = (max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3]))
            if common[0] < common[2] and common[1] < common[3] and _area(common) > 0.25 * _area(box):
                found[index] = _union([box, other])
                break
        else:
            found.append(box)
    return found


def _labels(
    box: BBox, lines: Sequence[Line], sideways: Sequence[Line], fixed: set[int], style: Style
) -> tuple[list[Line], BBox]:
    """Lines that label a figure (in it, or short and close), and the figure's box with them."""
    free = [line for line in lines if id(line) not in fixed]
    inside: dict[int, Line] = {}
    turned: set[int] = set()
    changed = True
    while changed:
        changed = False
        for line in free:
            if id(line) not in inside and _labels_box(line, box, style):
                inside[id(line)], changed = line, True
                box = _union([box, (line.x0, line.y0, line.x1, line.y1)])
        for line in sideways:
            gap = max(box[0] - line.x1, line.x0 - box[2])
            if id(line) not in turned and gap < 2 * line.size and line.y0 < box[3] and line.y1 > box[1]:
                turned.add(id(line))
                changed = True
                box = _union([box, (line.x0, line.y0, line.x1, line.y1)])
    return list(inside.values()), box


def _labels_box(line: Line, box: BBox, style: Style) -> bool:
    middle = (line.y0 + line.y1) / 2
    if box[0] <= line.centre <= box[2] and box[1] <= middle <= box[3]:
        return True
    if line.width > max(0.6 * style.width, 0.9 * (box[2] - box[0])) or line.size > style.size + 0.6:
        return False
    if len(line.text) > 12 and style.is_body_size(line.size) and line.font in style.fonts and line.y1 < box[1]:
        return False
    across = max(box[0] - line.x1, line.x0 - box[2])
    down = max(box[1] - line.y1, line.y0 - box[3])
    if across < 0:
        return down < 0.8 * line.size
    return down < 0 and across < 1.2 * line.size
