"""Makes pages of a paper: columns, floats, running heads, page numbers; then the PDF."""

from __future__ import annotations

from pathlib import Path

from reportlab.lib.pagesizes import A4, letter
from reportlab.pdfgen.canvas import Canvas

from examples.typeset.boxes import FLOAT_SKIP, Box, Column, Float, Glue, Item, draw_column, fill
from examples.typeset.elements import Body
from examples.typeset.fonts import face
from examples.typeset.frontmatter import abstract_items, title_block
from examples.typeset.inline import Type, inline
from examples.typeset.lines import Align, Measure, set_lines
from examples.typeset.source import Paper

SAMPLE_NOTE = (
    "This paper is a fictional sample written for HiPerRAG; its people, places, data and references are invented. "
    "It is dedicated to the public domain (CC0 1.0)."
)
_WIDE_SHARE = 0.62
"""At most this share of a page's height goes to wide floats."""
_FIRST_PAGE_RAISE = 22.0
"""The first page starts higher, where the others have their running heads."""


def _floats_height(floats: list[Float]) -> float:
    return sum(item.box.height + FLOAT_SKIP * 1.3 for item in floats)


class Pages:
    """Lays out and draws one paper."""

    def __init__(self, paper: Paper, canvas: Canvas) -> None:
        design = paper.design
        self.paper, self.design, self.canvas = paper, design, canvas
        self.width, self.height = canvas._pagesize
        top, right, bottom, left = design.margins
        self.full = self.width - left - right
        self.column = (self.full - design.gutter * (design.columns - 1)) / design.columns
        self.left, self.top, self.bottom = left, self.height - top, bottom
        self.body = Body(paper, self.column, self.full)
        self.number = 0
        self.notice = [] if "fictional sample" in str(paper.blocks) else self._notice()

    def _notice(self) -> list[Box]:
        kind = Type(self.design.family, self.design.size * 0.76, "italic")
        measure = Measure(self.full, kind.size * 1.2, kind.size * 0.9, "left")
        return set_lines(inline(SAMPLE_NOTE, kind), measure)

    def draw(self) -> None:
        """Draw all pages."""
        paper, body = self.paper, self.body
        rest: list[Item] = list(body.items)
        heads: list[Box | Glue] = [title_block(paper, body)]
        if self.design.abstract == "column":
            rest = [*abstract_items(paper, body, self.column), *rest]
        else:
            heads += abstract_items(paper, body, self.full)
        deferred: list[Float] = []
        while rest or deferred or heads:
            self.number += 1
            bottom = self.bottom
            if self.number == 1:
                bottom += sum(line.height for line in self.notice) + (6 if self.notice else 0)
            tops, waiting = self._chosen(deferred, room=0.0 if heads else _WIDE_SHARE * (self.top - bottom))
            start = self.top + (_FIRST_PAGE_RAISE if heads else 0.0)
            y = start - sum(item.height for item in heads) - _floats_height(tops)
            columns, later, deferred = self._fill_page(rest, waiting, y - bottom)
            while not heads and (risen := self._chosen(deferred, _WIDE_SHARE * (y - bottom))[0]):
                # a wide float met on this page goes to its top, and the columns are filled again
                tops += risen
                y -= _floats_height(risen)
                rest = [item for item in rest if not any(item is top for top in risen)]
                columns, later, deferred = self._fill_page(rest, waiting, y - bottom)
            last = not later and not deferred
            height = self._balanced(rest, waiting, y - bottom) if last else y - bottom
            if last:
                columns, _, _ = self._fill_page(rest, waiting, height)
            self._draw_top(heads, tops, start)
            for place, column in enumerate(columns):
                x = self.left + place * (self.column + self.design.gutter)
                draw_column(self.canvas, column, x, y, height, stretched=not last)
            self._running_matter()
            self.canvas.showPage()
            rest, heads = later, []

    def _chosen(self, deferred: list[Float], room: float) -> tuple[list[Float], list[Float]]:
        """The wide floats that fit the room at a page's top, and those that wait on."""
        chosen: list[Float] = []
        while len(chosen) < len(deferred) and deferred[len(chosen)].wide and self.design.columns > 1:
            room -= _floats_height([deferred[len(chosen)]])
            if room < 0:
                break
            chosen.append(deferred[len(chosen)])
        return chosen, deferred[len(chosen) :]

    def _draw_top(self, heads: list[Box | Glue], tops: list[Float], y: float) -> None:
        """Draw what stands above the columns: the title block, or wide floats."""
        for item in heads:
            if isinstance(item, Box):
                item.draw(self.canvas, self.left, y)
            y -= item.height
        for top in tops:
            top.box.draw(self.canvas, self.left, y)
            y -= _floats_height([top])

    def _fill_page(
        self, rest: list[Item], deferred: list[Float], height: float
    ) -> tuple[list[Column], list[Item], list[Float]]:
        """Fill a page's columns; what is left, and the floats that wait."""
        columns = []
        single = self.design.columns == 1
        for _ in range(self.design.columns):
            tops = [item for item in deferred if single or not item.wide]
            waiting = [item for item in deferred if not (single or not item.wide)]
            column = fill([*tops, *rest], height, single=single, waiting=waiting)
            rest, deferred = column.rest, [*waiting, *column.deferred]
            columns.append(column)
        return columns, rest, deferred

    def _balanced(self, rest: list[Item], waiting: list[Float], height: float) -> float:
        """The least height at which the last page's columns hold everything."""
        low = height if self.design.columns == 1 else height * 0.15
        while low < height:
            _, left, deferred = self._fill_page(rest, waiting, low)
            if not left and not deferred:
                return low
            low += self.design.leading / 2
        return height

    def _text(self, text: str, y: float, align: Align, family: str, size: float, style: str = "regular") -> None:
        measure = Measure(self.full, size * 1.2, size * 0.9, align)
        line = set_lines(inline(text, Type(family, size, style)), measure)[0]
        line.draw(self.canvas, self.left, y)

    def _running_matter(self) -> None:
        """Running heads, page numbers, the first page's notice and copyright line."""
        design, paper, canvas = self.design, self.paper, self.canvas
        family, size = design.heads, design.size * 0.86
        page = str(design.first_page + self.number - 1)
        even = (design.first_page + self.number - 1) % 2 == 0
        head_y = self.top + 26
        foot_y = self.bottom - 16
        if self.number == 1:
            y = self.bottom + sum(line.height for line in self.notice) - 2
            for line in self.notice:
                line.draw(canvas, self.left, y)
                y -= line.height
            if paper.copyright:
                self._text(paper.copyright, foot_y, "left", family, size * 0.92)
                self._text(page, foot_y, "right", family, size)
            else:
                self._text(page, foot_y, "center", family, size)
            return
        surnames = [name.rsplit(" ", 1)[-1] for name, _ in paper.authors]
        people = surnames[0] + (" et al." if len(surnames) > 2 else f" and {surnames[1]}" if surnames[1:] else "")
        if design.alternate:
            self._text(people if even else paper.running, head_y, "center", family, size, "italic")
            self._text(page, head_y, "left" if even else "right", family, size)
        elif design.footer_number:
            self._text(paper.running, head_y, "left", family, size, "italic")
            self._text(paper.journal, head_y, "right", family, size, "italic")
            self._text(page, foot_y, "center", family, size)
        else:
            self._text(f"{people}: {paper.running}", head_y, "left", family, size, "italic")
            self._text(page, head_y, "right", family, size)
        if design.rules:
            canvas.setLineWidth(0.4)
            canvas.setStrokeGray(0)
            canvas.line(self.left, head_y - size * 1.5, self.left + self.full, head_y - size * 1.5)


def typeset(paper: Paper, target: Path) -> int:
    """Write the paper's PDF; returns its number of pages."""
    initial = face(paper.design.family).name  # else ReportLab lists a Helvetica that is not embedded
    size = A4 if paper.design.page == "a4" else letter
    canvas = Canvas(str(target), pagesize=size, invariant=1, pageCompression=1, initialFontName=initial)
    canvas.setTitle(paper.title)
    canvas.setAuthor(", ".join(name for name, _ in paper.authors))
    canvas.setSubject("Fictional sample paper, public domain (CC0 1.0)")
    pages = Pages(paper, canvas)
    pages.draw()
    canvas.save()
    return pages.number
