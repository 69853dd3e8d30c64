"""Axes for the samples' figures: ticks, labels, lines, markers, error bars and a key, drawn as vectors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from reportlab.pdfgen.canvas import Canvas

from examples.typeset.fonts import FALLBACK, face

Point = tuple[float, float]
Marker = Literal["circle", "square", "triangle", "dot", ""]
FAMILY = "fira"
SIZE = 6.8


def put(canvas: Canvas, x: float, y: float, text: str, align: str = "l", size: float = SIZE) -> None:
    """Figure lettering; align is l, c or r."""
    main, fallback = face(FAMILY), face(FALLBACK)
    runs = [(character, main if main.has(character) else fallback) for character in text]
    width = sum(font.width(character, size) for character, font in runs)
    x -= {"l": 0.0, "c": width / 2, "r": width}[align]
    canvas.setFillGray(0)
    if all(font == main for _, font in runs):
        canvas.setFont(main.name, size)
        canvas.drawString(x, y, text)
        return
    for character, font in runs:
        canvas.setFont(font.name, size)
        canvas.drawString(x, y, character)
        x += font.width(character, size)


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis: its range, its ticks as (value, label), and what it shows."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    label: str
    log: bool = False

    def at(self, value: float) -> float:
        """Position of a value, 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def ticks(*values: float) -> list[tuple[float, str]]:
    """Ticks labelled with their values."""
    return [(value, f"{value:g}".replace("-", "−")) for value in values]


def marker(canvas: Canvas, x: float, y: float, shape: Marker, *, filled: bool, size: float = 2.1) -> None:
    """One data point."""
    canvas.setLineWidth(0.6)
    canvas.setDash()
    canvas.setStrokeGray(0)
    canvas.setFillGray(0 if filled else 1)
    if shape == "circle":
        canvas.circle(x, y, size, fill=1)
    elif shape == "square":
        canvas.rect(x - size, y - size, 2 * size, 2 * size, fill=1)
    elif shape == "triangle":
        path = canvas.beginPath()
        path.moveTo(x - 1.2 * size, y - size)
        path.lineTo(x + 1.2 * size, y - size)
        path.lineTo(x, y + 1.3 * size)
        path.close()
        canvas.drawPath(path, fill=1)
    elif shape == "dot":
        canvas.setFillGray(0.62)
        canvas.circle(x, y, 0.55, stroke=0, fill=1)


class Plot:
    """Axes in a rectangle of the page; x and y are its lower left corner (the area inside the axes)."""

    def __init__(self, canvas: Canvas, area: tuple[float, float, float, float], x: Axis, y: Axis) -> None:
        self.canvas, self.x, self.y = canvas, x, y
        self.left, self.bottom, self.width, self.height = area
        canvas.setLineWidth(0.6)
        canvas.setDash()
        canvas.setStrokeGray(0)
        canvas.rect(self.left, self.bottom, self.width, self.height, fill=0)
        for value, label in x.ticks:
            at = self.left + self.width * x.at(value)
            canvas.line(at, self.bottom, at, self.bottom + 3)
            put(canvas, at, self.bottom - SIZE - 1.5, label, "c")
        for value, label in y.ticks:
            at = self.bottom + self.height * y.at(value)
            canvas.line(self.left, at, self.left + 3, at)
            put(canvas, self.left - 3, at - 0.35 * SIZE, label, "r")
        put(canvas, self.left + self.width / 2, self.bottom - 2.5 * SIZE - 2.5, x.label, "c", SIZE + 0.4)
        longest = max((face(FAMILY).width(label, SIZE) for _, label in y.ticks), default=0.0)
        canvas.saveState()
        canvas.translate(self.left - longest - 7, self.bottom + self.height / 2)
        canvas.rotate(90)
        put(canvas, 0, 0, y.label, "c", SIZE + 0.4)
        canvas.restoreState()

    def place(self, point: Point) -> Point:
        """Page coordinates of a data point."""
        return (
            round(self.left + self.width * self.x.at(point[0]), 2),
            round(self.bottom + self.height * self.y.at(point[1]), 2),
        )

    def line(self, points: Sequence[Point], dash: Sequence[float] = (), width: float = 0.9) -> None:
        """A polyline."""
        self.canvas.setStrokeGray(0)
        self.canvas.setLineWidth(width)
        self.canvas.setDash(list(dash))
        path = self.canvas.beginPath()
        path.moveTo(*self.place(points[0]))
        for point in points[1:]:
            path.lineTo(*self.place(point))
        self.canvas.drawPath(path)
        self.canvas.setDash()

    def points(
        self, points: Sequence[Point], shape: Marker = "circle", *, filled: bool = True, error: float = 0.0
    ) -> None:
        """Markers, with error bars of the given half length in y."""
        for point in points:
            if error:
                self.line([(point[0], point[1] - error), (point[0], point[1] + error)], width=0.5)
        for point in points:
            marker(self.canvas, *self.place(point), shape, filled=filled)

    def arrow(self, start: Point, end: Point) -> None:
        """An arrow from start to end, in data coordinates."""
        arrow(self.canvas, self.place(start), self.place(end))

    def key(self, entries: Sequence[tuple[str, Marker, bool, Sequence[float]]], x: float, y: float) -> None:
        """A key whose first line is at the fractions x, y of the area: label, marker, filled, dash.

        An entry without a marker shows a line.
        """
        left, top = self.left + x * self.width, self.bottom + y * self.height
        for label, shape, filled, dash in entries:
            if shape:
                marker(self.canvas, left + 7, top + 2.2, shape, filled=filled)
            else:
                self.canvas.setLineWidth(0.9)
                self.canvas.setDash(list(dash))
                self.canvas.line(left, top + 2.2, left + 14, top + 2.2)
                self.canvas.setDash()
            put(self.canvas, left + 18, top, label)
            top -= SIZE * 1.4


def arrow(canvas: Canvas, start: Point, end: Point, width: float = 0.7) -> None:
    """An arrow with a filled head, in page coordinates."""
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    canvas.setLineWidth(width)
    canvas.setDash()
    canvas.setStrokeGray(0)
    canvas.line(*start, end[0] - 3 * math.cos(angle), end[1] - 3 * math.sin(angle))
    path = canvas.beginPath()
    path.moveTo(*end)
    for side in (2.75, -2.75):
        path.lineTo(end[0] + 4.5 * math.cos(angle + side), end[1] + 4.5 * math.sin(angle + side))
    path.close()
    canvas.setFillGray(0)
    canvas.drawPath(path, stroke=0, fill=1)
