"""Pictures of pages: grey, upright, straight, at the resolution that recognition needs and no more."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hiperrag.parsing.recognition.engines import Picture, Pixels
from hiperrag.records import BBox

MAX_PIXELS = 30_000_000
"""A picture has no more, whatever the size of the page."""
MIN_DPI = 72.0
SCAN_SHARE = 0.5
"""A page is a scan if one image covers this share of it."""
MAX_SKEW = 4.0
"""Degrees a page is straightened by at most."""
LEAST_SKEW = 0.12
"""A smaller angle does no harm."""

LETTER_GAP = 2.2
"""Points between letters of a word, at most."""
LONG_RUN = 40.0
"""Points of a long word."""
_CLEAR = 1.35
_LYING = 1.2
"""Most pages stand upright: signs of the contrary have to be so much stronger."""
_STRIPS = 24
_TILE = 160
"""At least so many pixels of 1/100 inch to a side."""
Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(slots=True)
class PageImage:
    """A picture of a page and how it lies on it.

    `turn`: quarter turns clockwise that made it upright. `skew`: degrees it was turned by, clockwise, after that.
    `width` and `height`: of the upright page in points.
    """

    picture: Picture
    turn: int
    skew: float
    width: float
    height: float

    def to_points(self, box: BBox) -> BBox:
        """A box in pixels as one in points of the upright page."""
        scale = 72 / self.picture.dpi
        x0, y0, x1, y1 = (value * scale for value in box)
        if not self.skew:
            return (x0, y0, x1, y1)
        # The picture was turned about the page's centre: its boxes are turned back about it, centre by centre.
        angle = math.radians(-self.skew)
        cx, cy = (x0 + x1) / 2 - self.width / 2, (y0 + y1) / 2 - self.height / 2
        dx = cx * math.cos(angle) - cy * math.sin(angle) - cx
        dy = cx * math.sin(angle) + cy * math.cos(angle) - cy
        return (x0 + dx, y0 + dy, x1 + dx, y1 + dy)


def scan_dpi(page: Any) -> float:
    """Resolution of the image that covers most of a PyMuPDF page; 0 where the page is no scan."""
    area = abs(page.rect.width * page.rect.height) or 1.0
    best = 0.0
    for image in page.get_image_info():
        x0, y0, x1, y1 = image["bbox"]
        a, b, c, d = image["transform"][:4]
        across, down = math.hypot(a, b), math.hypot(c, d)
        if (x1 - x0) * (y1 - y0) > SCAN_SHARE * area and across > 0 and down > 0:
            best = max(best, 72 * min(image["width"] / across, image["height"] / down))
    return best


def render(page: Any, dpi: float, clip: BBox | None = None) -> Picture:
    """A PyMuPDF page, or the part of it in `clip` (points as displayed), at `dpi` or less: a scan is not enlarged."""
    import pymupdf

    own = scan_dpi(page)
    if own:
        dpi = min(dpi, max(own, MIN_DPI))
    rect = pymupdf.Rect(*clip) if clip is not None else page.rect
    dpi = min(dpi, 72 * math.sqrt(MAX_PIXELS / max(1.0, rect.width * rect.height)))
    matrix = pymupdf.Matrix(dpi / 72, dpi / 72)
    pixmap = page.get_pixmap(matrix=matrix, colorspace=pymupdf.csGRAY, alpha=False, clip=clip)
    return Picture(_pixels(pixmap), dpi)


def _pixels(pixmap: Any) -> Pixels:
    rows = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.stride)
    return rows[:, : pixmap.width].copy()


def turned(picture: Picture, turn: int) -> Picture:
    """The picture after quarter turns clockwise."""
    return Picture(np.ascontiguousarray(np.rot90(picture.pixels, -turn)), picture.dpi) if turn % 4 else picture


def straightened(picture: Picture, turn: int, size: tuple[float, float]) -> PageImage:
    """The picture, turned by `turn` before, without its skew. `size`: the page's, as displayed, in points."""
    width, height = size if turn % 2 == 0 else size[::-1]
    angle = skew(picture)
    if abs(angle) < LEAST_SKEW:
        return PageImage(picture, turn, 0.0, width, height)
    return PageImage(Picture(rotated(picture.pixels, angle), picture.dpi), turn, angle, width, height)


def ink(pixels: Pixels) -> Floats:
    """How black each pixel is, 0..1, relative to the paper and the blackest print; of white print on a dark page,
    how white."""
    sample = pixels[:: max(1, pixels.shape[0] // 400), :: max(1, pixels.shape[1] // 400)]
    dark, paper = (float(value) for value in np.percentile(sample, (0.5, 60)))
    if paper < 128 and float(np.percentile(sample, 99.5)) - paper > paper - dark:
        dark, paper = float(np.percentile(sample, 99.5)), float(np.percentile(sample, 40))
    span = paper - dark
    if abs(span) < 16:
        return np.zeros(pixels.shape, np.float32)
    table = np.clip((paper - np.arange(256, dtype=np.float32)) / span, 0, 1).astype(np.float32)
    black: Floats = table[pixels]
    return black


def _reduced(picture: Picture, dpi: float) -> Floats:
    """Ink at about `dpi` or above, by averaging."""
    black = ink(picture.pixels)
    factor = max(1, int(picture.dpi / dpi))
    if factor == 1:
        return black
    height, width = black.shape[0] // factor * factor, black.shape[1] // factor * factor
    tiles = black[:height, :width].reshape(height // factor, factor, width // factor, factor)
    reduced: Floats = tiles.mean(axis=(1, 3))
    return reduced


def orientations(picture: Picture) -> list[int]:
    """Quarter turns clockwise that may make a picture of text upright, the likeliest first; one where it is clear.

    Letters stand closer together than lines. Ascenders and capitals stand above
    most lines of an alphabetic script, fewer descenders below.
    """
    black = _reduced(picture, 100)
    dark, dpi = black > 0.4, picture.dpi * black.shape[0] / picture.pixels.shape[0]
    across, down = _runs(dark, dpi), _runs(dark.T, dpi)
    if across > _CLEAR * down:
        return _either_way_up(black, 0)
    over = np.rot90(black, -1)
    lying = _either_way_up(over, 1)
    if down > _CLEAR * across:
        return lying
    standing = _either_way_up(black, 0)
    # Lines the wrong way round have nothing that stands above them.
    lies = down * (1 + abs(_ascent(over))) > _LYING * across * (1 + abs(_ascent(black)))
    first = [*lying, *standing] if lies else [*standing, *lying]
    return [*first, *(turn for turn in range(4) if turn not in first)]


def _either_way_up(black: Floats, turn: int) -> list[int]:
    """`turn`, by which lines have been made level, and the opposite one, the likelier first; one where it is clear."""
    ascent = _ascent(black)
    if abs(ascent) > 0.35:
        return [turn if ascent > 0 else (turn + 2) % 4]
    # Most pages stand upright: to be turned over takes signs.
    return [turn, (turn + 2) % 4] if ascent > (-0.12 if turn == 0 else 0) else [(turn + 2) % 4, turn]


def _tiles(black: Floats) -> list[Floats]:
    """Square parts, each wide enough for some words and high enough for some lines."""
    height, width = black.shape
    side = max(1, min(height, width, max(_TILE, min(height, width) // 4)))
    return [
        black[row * side : (row + 1) * side, column * side : (column + 1) * side]
        for row in range(height // side)
        for column in range(width // side)
    ]


def _runs(dark: npt.NDArray[np.bool_], dpi: float) -> float:
    """Mean length in points of the runs of ink along the rows, short gaps closed, each point of ink counted once.

    Along a line of text letters close up to words, across it the space between lines stays. Long runs are ruling
    lines and pictures, and count as runs of the length of a long word.
    """
    gap = max(1, round(LETTER_GAP * dpi / 72))
    flat = np.pad(dark, ((0, 0), (1, gap + 1))).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    starts, ends = edges[::2], edges[1::2]
    if not len(starts):
        return 0.0
    first = np.concatenate([[True], starts[1:] - ends[:-1] > gap])
    last = np.concatenate([first[1:], [True]])
    lengths = np.minimum((ends[last] - starts[first]) * 72 / dpi, LONG_RUN)
    return float(np.square(lengths).sum() / lengths.sum())


def _ascent(black: Floats) -> float:
    """Ink above the x-height of text lines against ink below their baselines, -1 (all below) .. 1."""
    above = below = 0.0
    for tile in _tiles(black):
        profile = tile.mean(axis=1)
        level = 0.55 * float(np.percentile(profile, 90))
        if level < 0.03:
            continue
        inside = np.concatenate([[False], profile > level, [False]])
        starts = np.flatnonzero(inside[1:] & ~inside[:-1]).tolist()
        ends = np.flatnonzero(~inside[1:] & inside[:-1]).tolist()
        for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
            thick = end - start
            top = max(ends[index - 1] if index else 0, start - thick)
            bottom = min(starts[index + 1] if index + 1 < len(starts) else len(profile), end + thick)
            if 3 <= thick <= 40 and start - top > 1 and bottom - end > 1:
                above += float(profile[top:start].sum())
                below += float(profile[end:bottom].sum())
    return (above - below) / (above + below) if above + below else 0.0


def skew(picture: Picture) -> float:
    """Degrees by which the lines of a picture rise to the right (negative: fall), within MAX_SKEW.

    The profile of rows, summed over upright strips that are shifted against one another as the angle demands,
    jumps most at the right angle (Postl's criterion).
    """
    black = _reduced(picture, 100)
    height, width = black.shape
    step = width // _STRIPS
    if step < 4 or height < 40:
        return 0.0
    strips = black[:, : step * _STRIPS].reshape(height, _STRIPS, step).mean(axis=2).T
    centres = (np.arange(_STRIPS) + 0.5) * step
    reach = int(math.tan(math.radians(MAX_SKEW + 1)) * width / 2) + 4
    padded = np.pad(strips, ((0, 0), (reach, reach)))

    def jump(angle: float) -> float:
        total = np.zeros(height + 2, np.float32)
        for strip, centre in zip(padded, centres, strict=True):
            shift = math.tan(math.radians(angle)) * (float(centre) - width / 2)
            whole = math.floor(shift)
            part = np.float32(shift - whole)
            start = reach - whole  # the row of the strip that comes to the top
            total += (1 - part) * strip[start - 1 : start + height + 1] + part * strip[start - 2 : start + height]
        return float(np.square(np.diff(total)).sum())

    if not strips.any():
        return 0.0
    steps = int(MAX_SKEW / 0.5)
    best = max((jump(0.5 * k), 0.5 * k) for k in range(-steps, steps + 1))[1]
    for spacing in (0.125, 0.03):
        around = [best + spacing * k for k in range(-4, 5)]
        best = max((jump(angle), angle) for angle in around)[1]
    return best if jump(best) > 1.02 * jump(0.0) else 0.0


def rotated(pixels: Pixels, degrees: float) -> Pixels:
    """The picture turned clockwise by a small angle about its centre, of the same size, bilinear, on white paper.

    Two shears by whole columns and rows with interpolation along them: exact enough for angles of a few degrees.
    """
    slope = math.tan(math.radians(degrees))
    down = _sheared(pixels, slope)
    across = _sheared(np.ascontiguousarray(down.T), -math.sin(math.radians(degrees)))
    return np.ascontiguousarray(across.T)


def _sheared(pixels: Pixels, slope: float) -> Pixels:
    """Every column moved down by `slope` times its distance from the middle one."""
    height, width = pixels.shape
    paper = int(np.percentile(pixels[::8, ::8], 60))
    result = np.full_like(pixels, paper)
    for start in range(0, width, 4):  # neighbours move by nearly the same
        columns = slice(start, min(width, start + 4))
        shift = slope * (start + 2 - width / 2)
        whole = math.floor(shift)
        part = round(256 * (shift - whole))
        source = pixels[:, columns].astype(np.uint16)
        blended = source.copy()
        blended[1:] = (source[1:] * (256 - part) + source[:-1] * part) >> 8
        if whole >= 0:
            result[whole:, columns] = blended[: height - whole]
        else:
            result[:whole, columns] = blended[-whole:]
    return result
