"""What a page draws beside its text: pictures, ruling lines, and shapes, as boxes."""

from __future__ import annotations

import dataclasses
from typing import Any

from hiperrag.records import BBox

MAX_RULE = 2.0
"""A drawn path thinner than this, in points, is a ruling line."""


@dataclasses.dataclass(slots=True)
class Graphics:
    """Boxes of what is drawn, in points of the page as it is displayed, in drawing order."""

    images: list[BBox] = dataclasses.field(default_factory=list)
    rules: list[BBox] = dataclasses.field(default_factory=list)
    """Thin paths: ruling lines of tables, underlines, axes."""
    shapes: list[BBox] = dataclasses.field(default_factory=list)
    """All other paths and shadings."""


def page_graphics(page: Any) -> Graphics:
    """Graphics of a PyMuPDF page, from one run over its display list (a few milliseconds)."""
    found = Graphics()
    for kind, box in page.get_bboxlog():
        x0, y0, x1, y1 = (float(value) for value in box)
        if kind.endswith("text") or x1 < x0 or y1 < y0:
            continue
        if kind.endswith("path") and min(x1 - x0, y1 - y0) <= MAX_RULE:
            found.rules.append((x0, y0, x1, y1))
        elif kind.endswith(("image", "imgmask")):
            found.images.append((x0, y0, x1, y1))
        else:
            found.shapes.append((x0, y0, x1, y1))
    return found
