"""What a scanned page draws beside its text: ruling lines and pictures, found in its image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hiperrag.parsing.graphics import MAX_RULE
from hiperrag.records import BBox

MIN_RULE = 36.0
"""Shortest ruling line in points: longer than the strokes of letters."""
MIN_PICTURE = 40.0
"""Least width and height of a picture in points."""
CELL = 3.0
"""Pictures are looked for in a grid of cells of this many points."""

Floats = npt.NDArray[np.float32]


def rules(black: Floats, dpi: float) -> list[BBox]:
    """Boxes, in pixels, of the straight lines along the picture's edges. `black`: ink, 0..1."""
    dark = black > 0.4
    found = [_box(line) for line in _level_lines(dark, dpi)]
    upright = [_box(line) for line in _level_lines(dark.T, dpi)]
    return found + [(y0, x0, y1, x1) for x0, y0, x1, y1 in upright]


def _box(line: tuple[int, int, int, int]) -> BBox:
    x0, y0, x1, y1 = line
    return (float(x0), float(y0), float(x1), float(y1))


def _level_lines(dark: npt.NDArray[np.bool_], dpi: float) -> list[tuple[int, int, int, int]]:
    """Long thin runs along the rows as (x0, y0, x1, y1), the pieces of a slightly slanting one joined."""
    least, thick = int(MIN_RULE * dpi / 72), max(2, round((MAX_RULE + 0.5) * dpi / 72))
    lines: list[tuple[int, int, int, int]] = []
    # A run of that length covers a whole block of half of it.
    block = max(1, least // 2)
    blocks = dark[:, : dark.shape[1] // block * block].reshape(dark.shape[0], -1, block)
    covered: npt.NDArray[np.bool_] = np.all(blocks, axis=2)
    for row in np.flatnonzero(np.any(covered, axis=1)):
        for start, end in _runs(dark[row], least):
            joined = False
            for index in range(len(lines) - 1, max(-1, len(lines) - 60), -1):
                x0, y0, x1, y1 = lines[index]
                if row - y1 <= 1 and start <= x1 + 3 and end >= x0 - 3:
                    lines[index] = (min(x0, start), y0, max(x1, end), int(row) + 1)
                    joined = True
                    break
            if not joined:
                lines.append((start, int(row), end, int(row) + 1))
    return [line for line in lines if line[3] - line[1] <= thick]


def _runs(row: npt.NDArray[np.bool_], least: int) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= least]


def pictures(black: Floats, dpi: float, words: Sequence[BBox], lines: Sequence[BBox]) -> list[BBox]:
    """Boxes, in pixels, of what is neither text nor a ruling line: plots, photographs, drawings.

    `words` are the boxes of the words that were read with confidence, `lines` the ruling lines. Ink outside of both
    that hangs together, over gaps of a few points, is a picture where it is large enough.
    """
    from scipy import ndimage

    rest = black.copy()
    for x0, y0, x1, y1 in (*words, *lines):
        rest[max(0, int(y0) - 2) : int(y1) + 3, max(0, int(x0) - 2) : int(x1) + 3] = 0
    cell = max(1, round(CELL * dpi / 72))
    height, width = rest.shape[0] // cell, rest.shape[1] // cell
    if not height or not width:
        return []
    ink = rest[: height * cell, : width * cell].reshape(height, cell, width, cell).mean(axis=(1, 3)) > 0.06
    near = ndimage.binary_dilation(ink, np.ones((3, 3), bool), iterations=2)
    labels, _ = ndimage.label(near, np.ones((3, 3), int))
    found: list[BBox] = []
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        inked = ink[rows, columns] & (labels[rows, columns] == index)
        y0, y1 = rows.start + 2, rows.stop - 2
        x0, x1 = columns.start + 2, columns.stop - 2
        large = min(y1 - y0, x1 - x0) * CELL >= MIN_PICTURE
        if large and inked.sum() > 0.02 * max(1, (y1 - y0) * (x1 - x0)):
            found.append((float(x0 * cell), float(y0 * cell), float(x1 * cell), float(y1 * cell)))
    return joined(found)


def joined(boxes: list[BBox]) -> list[BBox]:
    """Boxes with those that overlap made one."""
    result: list[BBox] = []
    for box in boxes:
        while (other := next((one for one in result if overlap(one, box)), None)) is not None:
            result.remove(other)
            box = (min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3]))
        result.append(box)
    return result


def overlap(a: BBox, b: BBox) -> bool:
    """Whether two boxes share some area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
