"""The head of a paper: journal line, title, authors, affiliations, dates, abstract, keywords."""

from __future__ import annotations

from reportlab.pdfgen.canvas import Canvas

from examples.typeset.boxes import Box, Glue, stack
from examples.typeset.elements import Body
from examples.typeset.inline import Type, inline
from examples.typeset.lines import Align, Measure, set_lines
from examples.typeset.source import Paper


def _lines(text: str, kind: Type, width: float, align: Align, leading: float = 1.22, left: float = 0.0) -> list[Box]:
    measure = Measure(width, kind.size * leading, kind.size * 0.9, align, left=left)
    return set_lines(inline(text, kind), measure)


def _rule(width: float, thickness: float = 0.5) -> Box:
    def draw(canvas: Canvas, x: float, y: float) -> None:
        canvas.setStrokeGray(0)
        canvas.setLineWidth(thickness)
        canvas.line(x, y, x + width, y)

    return Box(thickness, draw)


def _framed(content: Box, width: float) -> Box:
    def draw(canvas: Canvas, x: float, y: float) -> None:
        canvas.setFillGray(0.94)
        canvas.setStrokeGray(0.35)
        canvas.setLineWidth(0.5)
        canvas.rect(x, y - content.height - 14, width, content.height + 14, fill=1)
        content.draw(canvas, x + 9, y - 7)

    return Box(content.height + 14, draw)


def title_block(paper: Paper, body: Body) -> Box:
    """Journal, title, authors, affiliations, correspondence and dates, over the full width."""
    design, full = paper.design, body.full
    align: Align = "center" if design.centred else "left"
    small = Type(design.family, design.size * 0.84)
    journal = Type(design.heads, design.size * 0.86, "italic")
    doi = f" · https://doi.org/{paper.doi}" if paper.doi else ""
    items: list[Box | Glue] = [
        *_lines(f"{paper.journal}, {paper.issue}{doi}", journal, full, align),
        Glue(5),
        _rule(full, 0.8),
        Glue(design.size * 1.5),
        *_lines(paper.title, Type(design.heads, design.title_size, "bold"), full, align, 1.18),
        Glue(design.size * 0.8),
    ]
    names = ", ".join(
        name.replace(" ", "\u00a0") + (f"^{marks.strip('^')}^" if marks else "") for name, marks in paper.authors
    )
    items += [*_lines(names, Type(design.family, design.size * 1.12), full, align), Glue(3)]
    for affiliation in paper.affiliations:
        items += _lines(affiliation, Type(design.family, design.size * 0.86, "italic"), full, align)
    if paper.correspondence:
        items += [Glue(2), *_lines(paper.correspondence, small, full, align)]
    if paper.dates:
        items += [Glue(4), *_lines(paper.dates, small, full, align)]
    return stack([*items, Glue(design.size)])


def abstract_items(paper: Paper, body: Body, width: float) -> list[Box | Glue]:
    """The abstract and the keywords, set to a width in the paper's manner."""
    design = paper.design
    boxed = design.abstract == "boxed"
    inner = width - 18 if boxed else width
    inset = 26.0 if design.abstract == "plain" else 0.0
    scale = 0.95
    measure = body.measure(inner - inset, scale=scale, left=inset)
    head = Type(design.heads, design.size, "bold")
    align: Align = "center" if design.centred and design.abstract != "column" else "left"
    paragraphs = paper.abstract.strip().split("\n")
    text: list[Box | Glue] = []
    for paragraph in paragraphs:
        text += set_lines(inline(paragraph, body.type(scale=scale)), measure)
    if paper.keywords:
        atoms = inline(f"**Keywords:** {paper.keywords}", body.type(scale=0.9))
        text += [Glue(3), *set_lines(atoms, body.measure(inner - inset, scale=0.9, left=inset))]
    indent = 0.0 if align == "center" else inset
    title = _lines("Abstract", head, inner - indent, align, left=indent)
    items: list[Box | Glue] = [*title, Glue(2), *text]
    if boxed:
        return [_framed(stack(items), width), Glue(design.size)]
    if design.abstract == "ruled":
        return [_rule(width), Glue(5), *items, Glue(6), _rule(width), Glue(design.size)]
    return [*items, Glue(design.size * 0.9)]
