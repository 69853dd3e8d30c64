"""Formulas: Matplotlib's mathtext does the layout, the glyphs are drawn as text (so the PDF has them as text)."""

from __future__ import annotations

import functools
from pathlib import Path

from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from reportlab.pdfgen.canvas import Canvas

from examples.typeset.boxes import Box
from examples.typeset.fonts import face, face_of_file
from examples.typeset.lines import Piece, text_piece

_FINE = 100
"""Mathtext rounds to its pixels: lay out at 7200 dpi so that the rounding is 1/100 point."""


@functools.cache
def formula(tex: str, size: float) -> tuple[Piece, float, float]:
    """A formula as a piece on the baseline, with its height above and depth below (points)."""
    parser = MathTextParser("path")
    properties = FontProperties(size=size, math_fontfamily="stix")
    parsed = parser.parse(f"${tex}$", dpi=72 * _FINE, prop=properties)
    glyphs = [
        (face_of_file(Path(str(font.fname))).name, points, chr(code), left / _FINE, up / _FINE)
        for font, points, code, _index, left, up in parsed.glyphs
    ]
    rules = [tuple(float(value) / _FINE for value in rule) for rule in parsed.rects]

    def draw(canvas: Canvas, x: float, y: float) -> None:
        canvas.setFillGray(0)
        for name, points, character, left, up in glyphs:
            canvas.setFont(name, points)
            canvas.drawString(x + left, y + up, character)
        for left, up, width, height in rules:
            canvas.rect(x + left, y + up, width, height, stroke=0, fill=1)

    depth = parsed.depth / _FINE
    return Piece(parsed.width / _FINE, draw), parsed.height / _FINE - depth, depth


def displayed(tex: str, label: str, size: float, width: float, family: str) -> Box:
    """A displayed equation, centred, its number flush right."""
    piece, height, depth = formula(tex.replace(r"\frac", r"\dfrac"), size)
    number = text_piece(label, face(family), size)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        baseline = y - height
        room = width - (number.width + 8 if label else 0)
        piece.draw(canvas, x + max(0.0, min((width - piece.width) / 2, room - piece.width)), baseline)
        number.draw(canvas, x + width - number.width, baseline)

    return Box(height + depth, draw)
