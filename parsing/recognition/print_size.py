"""How recognised words are printed: size, baseline and weight, measured in the page's picture.

Sizes are x-heights (or heights of capitals) as a font size of usual proportions; over a document they are drawn to
the few sizes it is set in, so that body text, headings and notes keep apart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from hiperrag.records import BBox

X_HEIGHT = 0.45
"""x-height of text faces over font size (Times .448, Computer Modern .431, Helvetica .523)."""
CAPITALS = 0.67
"""The same of capitals and digits."""

_ROUND = frozenset("bdhk")
"""Tall letters with strokes that end at the x-height."""


@dataclasses.dataclass(slots=True)
class Print:
    """Measures of some words of a line in pixels. `size`: a font size; `stroke`: width of its strokes over its size.

    0 where the letters do not tell.
    """

    size: float
    baseline: float
    stroke: float
    letters: int


def measure(text: str, box: BBox, black: npt.NDArray[np.float32]) -> Print:
    """Size, baseline and weight of a word or a few, from the ink of their picture."""
    x0, y0, x1, y1 = (round(value) for value in box)
    margin = max(2, (y1 - y0) // 6)
    top = max(0, y0 - margin)
    crop = black[top : y1 + margin, max(0, x0) : x1]
    letters = [c for c in text if c.isalnum()]
    if min(crop.shape, default=0) < 4 or not letters:
        return Print(0.0, float(y1), 0.0, 0)
    tall = sum(c in "bdfhklt" or not c.islower() for c in letters)
    small = len(letters) - tall + 0.5 * sum(c in _ROUND for c in letters)
    profile = crop.sum(axis=1)
    rises = np.diff(profile)
    base = _edge(-rises, len(rises) // 3, len(rises))
    middle = int(base) - 1
    if small >= tall:
        upper, share = _edge(rises, 0, max(2, middle)), X_HEIGHT
    elif small <= 0.6 * tall:
        upper, share = _first_edge(rises, max(2, middle)), CAPITALS
    else:
        return Print(0.0, top + base + 1, 0.0, 0)
    height = base - upper
    if height < 3:
        return Print(0.0, top + base + 1, 0.0, 0)
    band = crop[int(upper) + 1 : int(base) + 1]
    runs = int(((band[:, 1:] > 0.5) & (band[:, :-1] <= 0.5)).sum()) + int((band[:, 0] > 0.5).sum())
    stroke = float(band.sum()) / runs if runs else 0.0
    size = height / share
    return Print(size, top + base + 1, stroke / size, len(letters))


def _edge(change: npt.NDArray[np.float32], start: int, stop: int) -> float:
    """Where a profile changes most between two rows, to a part of a row."""
    peak = start + int(np.argmax(change[start:stop]))
    return _centre(change, peak)


def _first_edge(change: npt.NDArray[np.float32], stop: int) -> float:
    """The first place where a profile rises about as much as anywhere."""
    part = change[:stop]
    return _centre(change, int(np.argmax(part > 0.6 * part.max())))


def _centre(change: npt.NDArray[np.float32], peak: int) -> float:
    low, high = max(0, peak - 1), min(len(change), peak + 2)
    weights = np.maximum(change[low:high], 0)
    total = float(weights.sum())
    return float((weights * np.arange(low, high)).sum()) / total if total else float(peak)


def weighted_median(pairs: Iterable[tuple[float, float]]) -> float:
    """Median of values with weights; 0 where there are none."""
    ordered = sorted(pairs)
    half = sum(weight for _, weight in ordered) / 2
    for value, weight in ordered:
        half -= weight
        if half <= 0:
            return value
    return 0.0


def size_classes(sizes: Sequence[tuple[float, float]]) -> list[float]:
    """The sizes a document is set in, from measured sizes and their weights (numbers of letters).

    Peaks of the smoothed distribution over the logarithm of the size: measures scatter by some percent.
    """
    found = [(math.log(size), weight) for size, weight in sizes if size > 0 and weight > 0]
    if not found:
        return []
    spread, step = 0.022, 0.005
    low = min(value for value, _ in found) - 3 * spread
    bins = np.zeros(int((max(value for value, _ in found) - low + 3 * spread) / step) + 2)
    for value, weight in found:
        bins[int((value - low) / step)] += weight
    reach = int(3 * spread / step)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / spread) ** 2)
    density = np.convolve(bins, kernel, mode="same")
    least = 0.002 * density.max()
    peaks = [
        index
        for index in range(1, len(density) - 1)
        if density[index] > least and density[index - 1] < density[index] >= density[index + 1]
    ]
    return [math.exp(low + (index + 0.5) * step) for index in peaks]


def nearest_class(size: float, classes: Sequence[float], tolerance: float = 0.05) -> float:
    """The class a measured size belongs to, else the size itself, to a quarter of a point."""
    near = min(classes, key=lambda other: abs(math.log(other / size)), default=0.0) if size > 0 else 0.0
    if near and abs(math.log(near / size)) < tolerance:
        return near
    return round(size * 4) / 4
