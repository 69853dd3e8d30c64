"""A document as Markdown for people: CommonMark with GitHub's tables, HTML where cells span, LaTeX between dollars."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from urllib.parse import quote

from hiperrag.records import Block, Document

MIN_FIGURE = 40.0
"""Width and height in points from which a figure without a caption is shown."""

_LEFT_OUT = frozenset({"header", "footer", "page_number"})
_LIST_MARK = re.compile(r"\s*(?:[•◦▪■●○‣∙·►▶▸➢✓*–—-]|\uf0b7)\s+(?=\S)")
_NUMBER_MARK = re.compile(r"\s*\(?(\d{1,3})[.)]\s+(?=\S)")
_REFERENCE_MARK = re.compile(r"\s*(?:\[(\d{1,4})\]|(\d{1,4})\.)\s*(?=\S)")
_HYPHENS = ("-", "\u00ad")


def to_markdown(document: Document, folder: str = "") -> str:
    """The whole document in reading order, without running heads, feet and page numbers.

    A figure is a link to `figure_names(document)[index]` in `folder`, behind which its picture can be put.
    Paragraphs that run over a column or page break are joined, and what stands between their parts follows them, but
    for equations, which stay in their place. Footnotes follow the section they stand in.
    """
    writer = _Writer(document, folder)
    for index, block in enumerate(document.blocks):
        writer.add(index, block)
    return writer.finish()


def figure_names(document: Document) -> dict[int, str]:
    """File names of figures: index of the block -> "figure-PAGE-N.png", N counted on the page from 1.

    Figures are blocks of that kind with a caption, or of a size that a picture has and without text.
    """
    captioned = {block.about for block in document.blocks if block.kind == "caption"}
    counts: Counter[int] = Counter()
    names: dict[int, str] = {}
    for index, block in enumerate(document.blocks):
        x0, y0, x1, y1 = block.bbox
        large = min(x1 - x0, y1 - y0) >= MIN_FIGURE and not block.text.strip()
        if block.kind == "figure" and (large or index in captioned):
            counts[block.page] += 1
            names[index] = f"figure-{block.page}-{counts[block.page]}.png"
    return names


class _Writer:
    def __init__(self, document: Document, folder: str) -> None:
        self._blocks = document.blocks
        place = f"{quote(folder)}/" if folder else ""
        self._figures = {index: place + name for index, name in figure_names(document).items()}
        self._captions: dict[int, int] = {}
        for index, block in enumerate(document.blocks):
            if block.kind == "caption" and 0 <= block.about < len(document.blocks):
                self._captions.setdefault(block.about, index)
        self._parts: list[str] = []
        self._in_list: list[bool] = []
        self._notes: list[str] = []
        self._paragraph: int | None = None
        if document.title and not any(block.kind == "title" for block in document.blocks):
            self._put(f"# {_line(document.title)}")

    def add(self, index: int, block: Block) -> None:
        """Write one block, or keep it for its place."""
        if block.kind in _LEFT_OUT:
            return
        if block.kind == "figure":
            self._figure(index)
        elif block.kind == "table":
            self._table(index, block)
        elif block.kind == "caption":
            self._caption(index, block)
        elif block.text.strip() or block.latex:
            self._text(block)

    def finish(self) -> str:
        self._put_notes()
        text = ""
        for index, part in enumerate(self._parts):
            together = index > 0 and self._in_list[index] and self._in_list[index - 1]
            text += ("\n" if together else "\n\n") + part if text else part
        return text + "\n" if text else ""

    def _put(self, text: str, in_list: bool = False) -> None:
        self._parts.append(text)
        self._in_list.append(in_list)

    def _put_notes(self) -> None:
        for note in self._notes:
            self._put(note)
        self._notes = []

    def _text(self, block: Block) -> None:
        text = block.text
        if block.kind == "heading":
            self._put_notes()
            self._put(f"{'#' * min(6, max(1, block.level) + 1)} {_line(text)}")
        elif block.kind == "title":
            self._put_title(_line(text))
        elif block.kind == "equation":
            self._put(f"$$\n{block.latex.strip()}\n$$" if block.latex.strip() else _prose(text))
        elif block.kind == "code":
            self._put(_fenced(text))
        elif block.kind == "list":
            self._put(list_item(text), in_list=True)
        elif block.kind == "reference":
            self._put(_reference(text), in_list=True)
        elif block.kind == "footnote":
            self._notes.append(_prose(text))
            return
        elif block.kind == "paragraph":
            self._flow(block)
            return
        else:
            self._put(_prose(text))
        self._paragraph = None

    def _put_title(self, text: str) -> None:
        """The title, or what goes on with it."""
        if self._parts and self._parts[-1].startswith("# "):
            self._parts[-1] += f" {text}"
        else:
            self._put(f"# {text}")

    def _flow(self, block: Block) -> None:
        if not block.continues or self._paragraph is None:
            self._paragraph = len(self._parts)
            self._put(_prose(block.text))
            return
        before, text = self._parts[self._paragraph], _prose(block.text)
        in_word = before.endswith(_HYPHENS) and before[-2:-1].isalpha()
        self._parts[self._paragraph] = before + ("" if in_word else " ") + text

    def _figure(self, index: int) -> None:
        if index in self._figures and index not in self._captions:
            self._put(f"![]({self._figures[index]})")

    def _table(self, index: int, block: Block) -> None:
        if index in self._captions:
            self._put(_prose(self._blocks[self._captions[index]].text))
        if table := table_markdown(block):
            self._put(table)

    def _caption(self, index: int, block: Block) -> None:
        if block.about in self._figures and self._captions[block.about] == index:
            self._put(f"![{_alternative(block.text)}]({self._figures[block.about]})")
        elif self._captions.get(block.about) != index or self._blocks[block.about].kind != "table":
            self._put(_prose(block.text))


def table_markdown(block: Block) -> str:
    """A table block as a pipe table; as HTML where a cell spans others; from its lines where it has no cells."""
    rows = _Cells.rows(block.html) if block.html else [line.split("\t") for line in block.text.splitlines()]
    if rows is None:
        return block.html
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return ""
    width = max(map(len, rows))
    lines = [_pipe_row(row, width) for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def _pipe_row(row: Sequence[str], width: int) -> str:
    cells = [_prose(cell).replace("|", "\\|") for cell in row] + [""] * (width - len(row))
    return "| " + " | ".join(cells) + " |"


class _Cells(HTMLParser):
    """Reads the cells of one table; gives up on spans."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[list[str]] = []
        self.spans = False
        self._open = False

    @classmethod
    def rows(cls, html: str) -> list[list[str]] | None:
        """Texts of the cells, row by row; None where a cell spans several rows or columns."""
        reader = cls()
        reader.feed(html)
        reader.close()
        return None if reader.spans else reader.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.found.append([])
        elif tag in ("td", "th") and self.found:
            self.found[-1].append("")
            self._open = True
            self.spans = self.spans or any(name in ("rowspan", "colspan") and value != "1" for name, value in attrs)
        elif tag == "br" and self._open:
            self.found[-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found[-1][-1] += data


def list_item(text: str) -> str:
    """A list item with Markdown's mark in place of its own."""
    if number := _NUMBER_MARK.match(text):
        return f"{int(number[1])}. {_line(text[number.end() :])}"
    if mark := _LIST_MARK.match(text):
        text = text[mark.end() :]
    return f"- {_line(text)}"


def _reference(text: str) -> str:
    mark = _REFERENCE_MARK.match(text)
    if not mark:
        return f"- {_line(text)}"
    return f"{int(mark[1] or mark[2])}. {_line(text[mark.end() :])}"


def _fenced(code: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{code.rstrip()}\n{fence}"


def _alternative(text: str) -> str:
    return re.sub(r"([\[\]])", r"\\\1", _line(text))


def _prose(text: str) -> str:
    """Text that Markdown does not take for marks at its beginning."""
    return re.sub(r"^(#{1,6}(?=\s)|>|[+-](?=\s)|={3,}|-{3,}|~{3,}|`{3,})", r"\\\1", _line(text))


def _line(text: str) -> str:
    """Text on one line in which nothing becomes HTML or emphasis by chance."""
    text = " ".join(text.split())
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"(?<![\w\\])([*_]+)(?=\S)(?=.*\S\1)", lambda match: re.sub(r"(.)", r"\\\1", match[1]), text)
