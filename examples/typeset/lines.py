"""Horizontal material and its breaking into lines (total-fit, after Knuth and Plass 1981)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

from reportlab.pdfgen.canvas import Canvas

from examples.typeset.boxes import Box
from examples.typeset.fonts import Face

Align = Literal["justify", "left", "center", "right"]


@dataclasses.dataclass
class Piece:
    """Unbreakable ink of a given width; `draw` gets the left end of the baseline."""

    width: float
    draw: Callable[[Canvas, float, float], None]
    notes: list[Box] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Space:
    """A space between words, where a line may end."""

    width: float


@dataclasses.dataclass
class Joint:
    """A place inside a word where a line may end, with a hyphen (`hyphen` set) or without one."""

    hyphen: Piece | None = None


Atom = Piece | Space | Joint


@dataclasses.dataclass
class Text(Piece):
    """A piece of text in one face, kept as text so that neighbours can be joined again after line breaking."""

    text: str = ""
    face: Face | None = None
    size: float = 0.0
    rise: float = 0.0
    ligatures: bool = False

    def joined(self, other: Piece) -> Text | None:
        """One piece of both, if they are set alike."""
        if not isinstance(other, Text) or self.notes or other.notes:
            return None
        if (self.face, self.size, self.rise) != (other.face, other.size, other.rise) or not self.face:
            return None
        return text_piece(self.text + other.text, self.face, self.size, self.rise, ligatures=self.ligatures)


_LIGATURES = {"ffi": "\ufb03", "ffl": "\ufb04", "ff": "\ufb00", "fi": "\ufb01", "fl": "\ufb02"}


def text_piece(text: str, face: Face, size: float, rise: float = 0.0, *, ligatures: bool = False) -> Text:
    """Text in one face; `rise` lifts it (superscripts), `ligatures` takes the face's ligature glyphs."""
    shown = text
    if ligatures:
        for letters, glyph in _LIGATURES.items():
            if face.has(glyph):
                shown = shown.replace(letters, glyph)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        canvas.setFillGray(0)
        canvas.setFont(face.name, size)
        canvas.drawString(x, y + rise, shown)

    return Text(face.width(shown, size), draw, [], text, face, size, rise, ligatures)


def _joined(atoms: Sequence[Atom]) -> list[Atom]:
    """The atoms of a line without its unused joints, their text pieces joined again."""
    result: list[Atom] = []
    for atom in atoms:
        if isinstance(atom, Joint):
            continue
        previous = result[-1] if result else None
        both = previous.joined(atom) if isinstance(previous, Text) and isinstance(atom, Piece) else None
        if both:
            result[-1] = both
        else:
            result.append(atom)
    return result


@dataclasses.dataclass(frozen=True)
class Measure:
    """The shape of a paragraph, in points."""

    width: float
    leading: float
    ascent: float
    align: Align = "justify"
    first: float = 0.0
    """Extra indent of the first line (negative for a hanging label)."""
    left: float = 0.0


def _demerits(natural: float, spaces: float, width: float, *, last: bool, align: Align) -> float:
    """Cost of a line; infinite where it cannot be set."""
    room = width - natural
    if room < 0:
        shrink = 0.0 if align != "justify" else 0.34 * spaces
        ratio = -room / shrink if shrink else math.inf
        return math.inf if ratio > 1 else (10 + 100 * ratio**3) ** 2
    if last:
        return 100.0
    stretch = 0.5 * spaces if align == "justify" else 0.18 * width
    ratio = room / stretch if stretch else 40.0
    return (10 + 100 * min(ratio, 40.0) ** 3) ** 2


def _breaks(atoms: Sequence[Atom], measure: Measure) -> list[int]:
    """Indices where the lines end (an atom's index, or len(atoms))."""
    count = len(atoms)
    widths = [0.0] * (count + 1)
    spaces = [0.0] * (count + 1)
    for i, atom in enumerate(atoms):
        widths[i + 1] = widths[i] + (atom.width if isinstance(atom, Piece | Space) else 0.0)
        spaces[i + 1] = spaces[i] + (atom.width if isinstance(atom, Space) else 0.0)
    ends = [i for i, atom in enumerate(atoms) if not isinstance(atom, Piece)] + [count]
    best: dict[int, tuple[float, int]] = {-1: (0.0, -1)}
    starts = [-1]
    for end in ends:
        joint = atoms[end] if end < count else None
        hyphen = joint.hyphen if isinstance(joint, Joint) else None
        found = (math.inf, -1)
        for start in reversed(starts):
            first = start + 1
            width = measure.width - measure.left - (measure.first if start == -1 else 0.0)
            natural = widths[end] - widths[first] + (hyphen.width if hyphen else 0.0)
            if natural > 1.3 * width and found[0] < math.inf:
                break
            cost = _demerits(natural, spaces[end] - spaces[first], width, last=end == count, align=measure.align)
            if math.isinf(cost) and start == starts[-1]:
                cost = 1e12 + natural  # a word wider than the line, or none better: overfull
            if hyphen:
                cost += 4000.0 if start < 0 or not isinstance(atoms[start], Joint) else 30000.0
            elif isinstance(joint, Joint):
                cost += 2000.0
            if best[start][0] + cost < found[0]:
                found = (best[start][0] + cost, start)
        best[end] = found
        starts.append(end)
    chain = [count]
    while best[chain[-1]][1] != -1:
        chain.append(best[chain[-1]][1])
    return chain[::-1]


def _line(atoms: Sequence[Atom], measure: Measure, *, indent: float, last: bool) -> Box:
    pieces = _joined(atoms)
    natural = sum(atom.width for atom in pieces if isinstance(atom, Piece | Space))
    gaps = sum(isinstance(atom, Space) for atom in pieces)
    room = measure.width - measure.left - indent - natural
    x_offset, gap = measure.left + indent, 0.0
    if measure.align == "center":
        x_offset += room / 2
    elif measure.align == "right":
        x_offset += room
    elif measure.align == "justify" and gaps and (not last or room < 0):
        gap = room / gaps

    def draw(canvas: Canvas, x: float, y: float) -> None:
        x, y = x + x_offset, y - measure.ascent
        for atom in pieces:
            if isinstance(atom, Piece):
                atom.draw(canvas, x, y)
                x += atom.width
            elif isinstance(atom, Space):
                x += atom.width + gap

    notes = [note for atom in pieces if isinstance(atom, Piece) for note in atom.notes]
    return Box(measure.leading, draw, notes=notes)


def set_lines(atoms: Sequence[Atom], measure: Measure) -> list[Box]:
    """Break a paragraph into line boxes; no break is allowed after the first or before the last line."""
    if not atoms:
        return []
    lines: list[Box] = []
    start = 0
    ends = _breaks(atoms, measure)
    for number, end in enumerate(ends):
        content = list(atoms[start:end])
        joint = atoms[end] if end < len(atoms) else None
        if isinstance(joint, Joint) and joint.hyphen:
            content.append(joint.hyphen)
        indent = measure.first if number == 0 else 0.0
        lines.append(_line(content, measure, indent=indent, last=end == len(atoms)))
        start = end + 1
    if len(lines) > 1:
        lines[0].break_after = False
        lines[-2].break_after = False
    return lines
