"""A paper's body as vertical material: headings, paragraphs, lists, equations, figures, tables, references."""

from __future__ import annotations

import re

from reportlab.pdfgen.canvas import Canvas

from examples.typeset.artwork import FIGURES
from examples.typeset.boxes import Box, Float, Glue, Item, indented, stack
from examples.typeset.inline import Type, inline
from examples.typeset.lines import Measure, set_lines
from examples.typeset.mathematics import displayed
from examples.typeset.source import Block, Design, Paper
from examples.typeset.tables import table


class Body:
    """Sets the blocks of a paper; numbers sections, figures, tables, equations and footnotes as it goes."""

    def __init__(self, paper: Paper, column: float, full: float) -> None:
        """`column` and `full` are the widths of a column and of the text area, in points."""
        self.design: Design = paper.design
        self.column, self.full = column, full
        self.sections: list[int] = [0, 0]
        self.figures = self.tables = self.equations = self.footnotes = 0
        self.after_heading = True
        self.items: list[Item] = []
        for block in paper.blocks:
            getattr(self, f"_{block.kind}")(block)

    def type(self, *, scale: float = 1.0, style: str = "regular", family: str = "") -> Type:
        """The paper's text face at a scale."""
        design = self.design
        family = family or design.family
        return Type(family, design.size * scale, style, design.language, design.ligatures)

    def measure(self, width: float, *, scale: float = 1.0, first: float = 0.0, left: float = 0.0) -> Measure:
        """A justified paragraph's shape at a scale of the paper's size."""
        design = self.design
        return Measure(width, design.leading * scale, design.size * scale * 0.86, "justify", first, left)

    def note(self, text: str) -> tuple[str, Box]:
        """Set a footnote; its mark and its box."""
        self.footnotes += 1
        atoms = inline(f"^{self.footnotes}^ {text}", self.type(scale=0.82))
        return str(self.footnotes), stack(set_lines(atoms, self.measure(self.column, scale=0.82)))

    def _lines(self, text: str, measure: Measure) -> None:
        self.items += set_lines(inline(text, self.type(), self.note), measure)

    def _heading(self, block: Block) -> None:
        design = self.design
        level = block.level
        label = ""
        if level == 1:
            self.sections = [self.sections[0] + 1, 0]
            label = f"{self.sections[0]}\u2002"
        else:
            self.sections[1] += 1
            label = f"{self.sections[0]}.{self.sections[1]}\u2002"
        unnumbered = not design.numbered or block.text in ("References", "Acknowledgements", "About this sample")
        text = block.text if unnumbered else label.replace("\u2002", "\u00a0\u00a0") + block.text
        style = "bold" if level == 1 else ("bolditalic" if design.heads == design.family else "italic")
        scale = 1.16 if level == 1 else 1.02
        kind = Type(design.heads, design.size * scale, style)
        lines = set_lines(
            inline(text, kind),
            Measure(self.column, design.leading * scale, design.size * scale * 0.86, "left"),
        )
        for line in lines:
            line.break_after = False
        above = design.leading * (1.0 if level == 1 else 0.65)
        self.items += [Glue(above, 4.0), *lines, Glue(design.leading * (0.3 if level == 1 else 0.18))]
        self.after_heading = True

    def _paragraph(self, block: Block) -> None:
        first = 0.0 if self.after_heading else 1.2 * self.design.size
        self._lines(block.text, self.measure(self.column, first=first))
        self.items.append(Glue(0.0, 1.0))
        self.after_heading = False

    def _list(self, block: Block) -> None:
        hang = (1.5 if block.text.startswith("-") else 1.9) * self.design.size
        self.items.append(Glue(3, 1))
        for entry in re.split(r"\n(?=- |\d+\. )", block.text):
            label, text = entry.split(" ", 1)
            mark = "•" if label == "-" else label
            content = set_lines(
                inline(" ".join(text.split("\n")), self.type(), self.note), self.measure(self.column, left=hang)
            )
            sign = set_lines(inline(mark, self.type()), self.measure(self.column, left=0.5 * self.design.size))[0]
            self.items += [_beside(sign, content[0]), *content[1:], Glue(1.5, 0.5)]
        self.items.append(Glue(2, 1))

    def _equation(self, block: Block) -> None:
        tex = block.text
        label = ""
        if tex.startswith("*"):
            tex = tex[1:]
        else:
            self.equations += 1
            label = f"({self.equations})"
        if self.items and isinstance(self.items[-2], Box):
            self.items[-2].break_after = False
        box = displayed(tex, label, self.design.size, self.column, self.design.family)
        self.items += [Glue(5, 1.5), box, Glue(6, 1.5)]
        self.after_heading = True  # the text after a display goes on without an indent

    def _caption(self, label: str, text: str, width: float) -> Box:
        atoms = inline(f"**{label}** {text}", self.type(scale=0.87))
        return stack(set_lines(atoms, self.measure(width, scale=0.87)))

    def _figure(self, block: Block) -> None:
        self.figures += 1
        wide = bool(block.data.get("wide"))
        width = self.full if wide else self.column
        drawing = FIGURES[block.data["draw"]](width * float(block.data.get("share", 1.0)))
        art = indented(drawing, (width - width * float(block.data.get("share", 1.0))) / 2)
        caption = self._caption(f"Figure {self.figures}.", block.data["caption"], width)
        self.items.append(Float(stack([art, Glue(4), caption]), "figure", wide))

    def _table(self, block: Block) -> None:
        self.tables += 1
        wide = bool(block.data.get("wide"))
        width = self.full if wide else self.column
        caption = self._caption(f"Table {self.tables}.", block.data["caption"], width)
        kind = Type(self.design.family, self.design.size * 0.87, ligatures=self.design.ligatures)
        self.items.append(Float(stack([caption, Glue(4), table(block.data, kind, width)]), "table", wide))

    def _code(self, block: Block) -> None:
        kind = Type("mono", self.design.size * 0.76)
        measure = Measure(self.column, self.design.size * 0.98, self.design.size * 0.75, "left", left=8)
        self.items.append(Glue(4, 1))
        for line in block.text.split("\n"):
            depth = len(line) - len(line.lstrip())
            text = "\u00a0" * depth + line.strip().replace(" ", "\u00a0")
            self.items += set_lines(inline(text, kind), measure)
        self.items.append(Glue(6, 1))
        self.after_heading = True

    def _references(self, block: Block) -> None:
        hang = 1.9 * self.design.size
        kind = self.type(scale=0.87)
        for number, line in enumerate(block.text.split("\n"), start=1):
            content = set_lines(inline(line, kind), self.measure(self.column, scale=0.87, left=hang))
            label = set_lines(inline(f"[{number}]", kind), self.measure(self.column, scale=0.87))[0]
            self.items += [_beside(label, content[0]), *content[1:], Glue(1.2, 0.6)]


def _beside(label: Box, line: Box) -> Box:
    """A label set on a line's left."""

    def draw(canvas: Canvas, x: float, y: float) -> None:
        label.draw(canvas, x, y)
        line.draw(canvas, x, y)

    return Box(line.height, draw, line.break_after, line.notes)
