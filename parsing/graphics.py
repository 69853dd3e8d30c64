"""What a page draws beside its text: pictures, ruling lines, and shapes, as boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from hiperrag.records import BBox

MAX_RULE = 2.0
"""A drawn path thinner than this, in points, is a ruling line."""

MAX_DRAWN = 12.0
"""Thickness in points up to which the box of a stroked path may be that of a ruling line, made too large."""
MAX_PIECES = 200
"""A path of more pieces is one shape."""

_IMAGE, _VECTOR = 1, 3


@dataclasses.dataclass(slots=True)
class Graphics:
    """Boxes of what is drawn, in points of the page as it is displayed, cut at its edges, in drawing order."""

    images: list[BBox] = dataclasses.field(default_factory=list)
    rules: list[BBox] = dataclasses.field(default_factory=list)
    """Thin paths: ruling lines of tables, underlines, axes."""
    shapes: list[BBox] = dataclasses.field(default_factory=list)
    """All other paths, but for white fills."""
    curves: list[BBox] = dataclasses.field(default_factory=list)
    """Those of the shapes that are no rectangles along the page's edges: curves, slanted lines, outlines."""


def page_graphics(page: Any) -> Graphics:
    """Graphics of a PyMuPDF page, in a few milliseconds."""
    import pymupdf

    flags = pymupdf.TEXT_PRESERVE_IMAGES | pymupdf.TEXT_COLLECT_VECTORS
    blocks = page.get_textpage(clip=pymupdf.INFINITE_RECT(), flags=flags).extractBLOCKS()
    vectors = [_described(block) for block in blocks if block[6] == _VECTOR]
    if any(
        stroked and (not rectangle or MAX_RULE < _thickness(box) < MAX_DRAWN) for box, stroked, rectangle, _ in vectors
    ):
        # MuPDF's box of a stroked path may be too large by ten or twenty times the width of the line.
        vectors = _drawn(page.get_cdrawings(extended=True))
    turn = page.rotation_matrix if page.rotation else None  # MuPDF reads a page as if it were not rotated
    width, height = float(page.rect.width), float(page.rect.height)

    def placed(box: Iterable[float]) -> BBox | None:
        x0, y0, x1, y1 = pymupdf.Rect(*box) * turn if turn is not None else box
        x0, y0, x1, y1 = max(0.0, x0), max(0.0, y0), min(width, x1), min(height, y1)
        return (x0, y0, x1, y1) if x0 <= x1 and y0 <= y1 else None

    found = Graphics()
    found.images = [box for block in blocks if block[6] == _IMAGE and (box := placed(block[:4]))]
    for raw, _, rectangle, white in vectors:
        box = placed(raw)
        if box is None:
            continue
        if min(raw[2] - raw[0], raw[3] - raw[1]) <= MAX_RULE:
            found.rules.append(box)
        elif not white:
            found.shapes.append(box)
            if not rectangle:
                found.curves.append(box)
    return found


def _thickness(box: BBox) -> float:
    return min(box[2] - box[0], box[3] - box[1])


def _described(block: tuple[Any, ...]) -> tuple[BBox, bool, bool, bool]:
    """Box of a vector block; whether it is stroked, a rectangle, filled with white."""
    text = block[4]
    return block[:4], "<vector stroked" in text, "is-rect: true" in text, "filled, color: #ffffff" in text


def _drawn(paths: Iterable[dict[str, Any]]) -> list[tuple[BBox, bool, bool, bool]]:
    """The same for PyMuPDF's extended drawings, cut at the clipping paths they are drawn under."""
    clips: dict[int, BBox] = {}
    found: list[tuple[BBox, bool, bool, bool]] = []
    for path in paths:
        level = path.get("level", 0)
        within = clips.get(level - 1)
        if path["type"] == "clip":
            clips[level] = _cut(path["scissor"], within)
        elif path["type"] != "group":
            for box, stroked, rectangle, white in _pieces(path):
                x0, y0, x1, y1 = _cut(box, within)
                if x0 <= x1 and y0 <= y1:
                    found.append(((x0, y0, x1, y1), stroked, rectangle, white))
    return found


def _cut(box: BBox, within: BBox | None) -> BBox:
    if within is None:
        return box
    return max(box[0], within[0]), max(box[1], within[1]), min(box[2], within[2]), min(box[3], within[3])


def _pieces(path: dict[str, Any]) -> list[tuple[BBox, bool, bool, bool]]:
    """A path as one vector; if it is made of lines along the page's edges (a grid), each of them as one."""
    stroked = "s" in path["type"]
    fill = path.get("fill")
    white = not stroked and fill is not None and min(fill) > 0.99
    pieces = [_piece(item) for item in path["items"][: MAX_PIECES + 1]]
    if len(pieces) <= MAX_PIECES and (stroked or len(pieces) == 1) and None not in pieces:
        return [(piece, stroked, True, white) for piece in pieces if piece is not None]
    return [(path["rect"], stroked, False, white)]


def _piece(item: tuple[Any, ...]) -> BBox | None:
    """The box of a rectangle, or of a line along the page's edges."""
    if item[0] == "re":
        return item[1][:4]  # type: ignore[no-any-return]
    if item[0] == "l":
        (x0, y0), (x1, y1) = item[1], item[2]
        if abs(x0 - x1) < 0.1 or abs(y0 - y1) < 0.1:
            return (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    return None
