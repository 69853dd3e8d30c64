"""Boxes on a coarse grid over a page: what is covered, by how much, and what hangs together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CELL = 4.0
"""Width and height of a cell in points."""

Boxes = npt.NDArray[np.float64]
"""One row (x0, y0, x1, y1) a box, in points."""


class Cells:
    """The cells of a page, some of them filled. Costs are linear in the number of boxes."""

    def __init__(self, width: float, height: float) -> None:
        self.shape = (int(height / CELL) + 1, int(width / CELL) + 1)
        self.filled = np.zeros(self.shape, bool)

    def rows(self, y: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        """Row of each coordinate; those outside the page count as at its edge."""
        return np.clip(y / CELL, 0, self.shape[0] - 1).astype(np.intp)

    def columns(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
        """Column of each coordinate; those outside the page count as at its edge."""
        return np.clip(x / CELL, 0, self.shape[1] - 1).astype(np.intp)

    def add(self, boxes: Boxes) -> None:
        """Fill every cell that a box touches."""
        boxes = boxes.reshape(-1, 4)
        width = self.shape[1] + 1
        top, bottom = self.rows(boxes[:, 1]), self.rows(boxes[:, 3]) + 1
        left, right = self.columns(boxes[:, 0]), self.columns(boxes[:, 2]) + 1
        size = (self.shape[0] + 1) * width
        corners = np.concatenate([top * width + left, bottom * width + right])
        others = np.concatenate([top * width + right, bottom * width + left])
        change = np.bincount(corners, minlength=size) - np.bincount(others, minlength=size)
        depth = change.reshape(-1, width).cumsum(0).cumsum(1)
        self.filled |= depth[:-1, :-1] > 0

    def share(self, boxes: Boxes) -> npt.NDArray[np.float64]:
        """Share of the cells under each box that are filled."""
        total = np.zeros((self.shape[0] + 1, self.shape[1] + 1), np.int64)
        total[1:, 1:] = self.filled.cumsum(0).cumsum(1)
        top, bottom = self.rows(boxes[:, 1]), self.rows(boxes[:, 3]) + 1
        left, right = self.columns(boxes[:, 0]), self.columns(boxes[:, 2]) + 1
        inside = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
        share: npt.NDArray[np.float64] = inside / ((bottom - top) * (right - left))
        return share


def components(filled: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Number (from 1) of the connected component of each filled cell, 0 elsewhere; cells touch by their sides."""
    parents: list[int] = [0]

    def root(name: int) -> int:
        while parents[name] != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    names = np.zeros(filled.shape, np.int64)
    above: list[tuple[int, int, int]] = []
    for row in np.flatnonzero(filled.any(1)).tolist():
        edges = np.flatnonzero(np.diff(np.concatenate([[False], filled[row], [False]]))).tolist()
        runs = []
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            name = len(parents)
            parents.append(name)
            names[row, start:stop] = name
            runs.append((start, stop, name))
        previous = above if above and names[row - 1].any() else []
        for start, stop, name in runs:
            for other_start, other_stop, other in previous:
                if other_start < stop and start < other_stop:
                    parents[root(name)] = root(other)
        above = runs
    lookup = np.array([root(name) for name in range(len(parents))], np.int64)
    return lookup[names]
