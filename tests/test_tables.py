"""Tables drawn on the fly, whose rows and cells are known, through the fast parser and into passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

import pymupdf
import pytest

from hiperrag.parsing import cells, oreo
from hiperrag.parsing.chunking import ChunkSettings, chunk_document
from hiperrag.parsing.lines import page_lines
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.pieces import Piece, pieces_of
from hiperrag.parsing.rules import Rule, Rules
from hiperrag.parsing.tabular import Cell, Grid
from hiperrag.records import Block, Document

PROSE = (
    "The samples were taken in the morning and kept on ice until they were",
    "analysed in the laboratory, where two of us read every plate without",
    "knowing which group it came from. Readings that differed were repeated",
    "on the next day and the mean of both was used in what follows below.",
)
ROWS = (
    ("Sample", "Mass (g)", "Length", "Yield"),
    ("Alder", "12.5", "3.1", "0.5"),
    ("Beech", "", "14.25", "1.75"),
    ("Common oak", "7.0", "2.9", ""),
    ("Elm", "110.2", "5.5", "0.25"),
)
COLUMNS = (80.0, 200.0, 300.0, 400.0)

FAST = ParseOptions("fast")


class Sheet:
    """A page to draw on, from the top down."""

    def __init__(self, size: tuple[float, float] = (595, 842)) -> None:
        self.pdf = pymupdf.open()
        self.page = self.pdf.new_page(width=size[0], height=size[1])
        self.y = 80.0

    def text(self, x: float, text: str, size: float = 10, font: str = "helv") -> None:
        self.page.insert_text((x, self.y), text, fontsize=size, fontname=font)

    def prose(self, x: float = 72, lines: Sequence[str] = PROSE) -> None:
        for line in lines * 2:
            self.text(x, line, 11, "tiro")
            self.y += 13
        self.y += 12

    def row(self, texts: Sequence[str], columns: Sequence[float] = COLUMNS, pitch: float = 15) -> None:
        for x, text in zip(columns, texts, strict=True):
            if text:
                self.text(x, text, 9)
        self.y += pitch

    def rule(self, x0: float = 75, x1: float = 470, y: float | None = None) -> None:
        at = self.y - 10 if y is None else y
        self.page.draw_line((x0, at), (x1, at), width=0.6)

    def line(self, x: float, y0: float, y1: float) -> None:
        self.page.draw_line((x, y0), (x, y1), width=0.6)

    def parse(self) -> Document:
        return oreo.parse_pdf(self.pdf.tobytes(), "drawn.pdf", "0" * 32, FAST)


def tables(document: Document) -> list[Block]:
    return [block for block in document.blocks if block.kind == "table"]


def spans(block: Block) -> list[list[tuple[str, int, int]]]:
    """Text, colspan and rowspan of each cell."""
    root = ElementTree.fromstring(block.html)
    return [
        [("".join(cell.itertext()), int(cell.get("colspan", 1)), int(cell.get("rowspan", 1))) for cell in row]
        for row in root.iter("tr")
    ]


def texts(block: Block) -> list[tuple[str, ...]]:
    return [tuple(text for text, _, _ in row) for row in spans(block)]


def body(document: Document) -> str:
    return " ".join(block.text for block in document.blocks if block.kind == "paragraph")


def plain(sheet: Sheet) -> None:
    for row in ROWS:
        sheet.row(row)


def booktabs(sheet: Sheet) -> None:
    sheet.rule()
    sheet.row(ROWS[0])
    sheet.rule()
    for row in ROWS[1:]:
        sheet.row(row)
    sheet.rule()
    sheet.y += 4


def ruled(sheet: Sheet) -> None:
    top = sheet.y - 10
    for row in ROWS:
        sheet.rule()
        sheet.row(row)
    sheet.rule()
    for x in (75, 195, 295, 395, 470):
        sheet.line(x, top, sheet.y - 10)
    sheet.y += 4


def one_path(sheet: Sheet) -> None:
    """A grid drawn as a single path."""
    top = sheet.y - 10
    shape = sheet.page.new_shape()
    for row in ROWS:
        shape.draw_line((75, sheet.y - 10), (470, sheet.y - 10))
        sheet.row(row)
    shape.draw_line((75, sheet.y - 10), (470, sheet.y - 10))
    for x in (75, 195, 295, 395, 470):
        shape.draw_line((x, top), (x, sheet.y - 10))
    shape.finish(width=0.6)
    shape.commit()
    sheet.y += 4


def shaded(sheet: Sheet) -> None:
    """No lines, every second row on a ground."""
    for number, row in enumerate(ROWS):
        if number % 2 == 0:
            sheet.page.draw_rect((75, sheet.y - 10, 470, sheet.y + 5), fill=(0.8, 0.9, 0.8), color=None)
        sheet.row(row)
    sheet.y += 4


@pytest.mark.parametrize("draw", [plain, booktabs, ruled, one_path, shaded])
def test_cells_keep_their_places(draw: Callable[[Sheet], None]) -> None:
    sheet = Sheet()
    sheet.prose()
    sheet.text(72, "Table 1. Trees by mass and length.", 9, "hebo")
    sheet.y += 20
    draw(sheet)
    sheet.y += 20
    sheet.prose()
    document = sheet.parse()
    [table] = tables(document)
    assert texts(table) == list(ROWS)
    assert [tuple(row.split("\t")) for row in table.text.split("\n")] == [row if row[-1] else row[:-1] for row in ROWS]
    assert body(document).split() == " ".join(PROSE * 4).split()
    assert ElementTree.fromstring(table.html)[0][0].tag == "th"


def test_caption_below_and_note_outside() -> None:
    sheet = Sheet()
    sheet.prose()
    booktabs(sheet)
    sheet.text(75, "a Masses are means of three readings each, taken by two of us on separate days.", 8)
    sheet.y += 14
    sheet.text(72, "Table 1. Trees by mass and length.", 9, "hebo")
    sheet.y += 24
    sheet.prose()
    document = sheet.parse()
    found = [block for block in tables(document) if block.html]
    assert [texts(block) for block in found] == [list(ROWS)]
    assert "Masses are means" not in found[0].text
    assert "Masses" not in body(document)


def test_ruled_table_without_caption() -> None:
    sheet = Sheet()
    sheet.prose()
    sheet.pdf.new_page(width=595, height=842)
    sheet.page, sheet.y = sheet.pdf[1], 80.0
    sheet.prose()
    ruled(sheet)
    sheet.y += 20
    sheet.prose()
    document = sheet.parse()
    [table] = tables(document)
    assert table.page == 2
    assert texts(table) == list(ROWS)


def test_lines_of_a_cell_are_joined() -> None:
    sheet = Sheet()
    sheet.prose()
    sheet.text(72, "Table 2. Treatments.", 9, "hebo")
    sheet.y += 20
    columns = (80.0, 150.0, 380.0)
    sheet.rule()
    sheet.row(("Group", "Treatment", "Birds"), columns, 16)
    sheet.rule()
    sheet.row(("A", "Standard diet as described in the report of", "40"), columns, 11)
    sheet.row(("", "the bureau of standards in full", ""), columns, 11)
    sheet.row(("B", "Control with garlic powder", "38"), columns, 11)
    sheet.row(("C", "Control with garlic powder and leaves that were", "41"), columns, 11)
    sheet.row(("", "dried in the shade", ""), columns, 16)
    sheet.rule()
    sheet.y += 20
    sheet.prose()
    [table] = tables(sheet.parse())
    assert texts(table) == [
        ("Group", "Treatment", "Birds"),
        ("A", "Standard diet as described in the report of the bureau of standards in full", "40"),
        ("B", "Control with garlic powder", "38"),
        ("C", "Control with garlic powder and leaves that were dried in the shade", "41"),
    ]


def test_header_cells_span_columns() -> None:
    sheet = Sheet()
    sheet.prose()
    sheet.text(72, "Table 3. Two seasons.", 9, "hebo")
    sheet.y += 20
    columns = (80.0, 180.0, 250.0, 330.0, 400.0)
    sheet.rule()
    sheet.row(("", "Spring", "", "Autumn", ""), (80.0, 210.0, 250.0, 360.0, 400.0))
    sheet.rule(178, 300)
    sheet.rule(328, 460)
    sheet.row(("Species", "Mean", "SD", "Mean", "SD"), columns)
    sheet.rule()
    sheet.row(("Alder", "1.5", "0.2", "2.5", "0.3"), columns)
    sheet.row(("Beech", "1.7", "0.1", "", "0.4"), columns)
    sheet.rule()
    sheet.y += 20
    sheet.prose()
    [table] = tables(sheet.parse())
    assert spans(table)[0] == [("Species", 1, 2), ("Spring", 2, 1), ("Autumn", 2, 1)]
    assert texts(table)[1:] == [
        ("Mean", "SD", "Mean", "SD"),
        ("Alder", "1.5", "0.2", "2.5", "0.3"),
        ("Beech", "1.7", "0.1", "", "0.4"),
    ]


def test_two_tables_side_by_side_in_two_columns() -> None:
    sheet = Sheet()
    left, right = 50.0, 310.0
    half = [" ".join(line.split()[:7]) for line in PROSE]
    for x, name in ((left, "Table 1. Left."), (right, "Table 2. Right.")):
        sheet.y = 80.0
        sheet.prose(x, half * 3)
        sheet.text(x, name, 9, "hebo")
        sheet.y += 20
        sheet.rule(x, x + 230)
        sheet.row(("Item", f"In {name[6]}", "Sum"), (x + 4, x + 100, x + 180))
        sheet.rule(x, x + 230)
        for number in range(3):
            sheet.row((f"Row {number}", f"{number}.5{name[6]}", f"{number}9"), (x + 4, x + 100, x + 180))
        sheet.rule(x, x + 230)
        sheet.y += 20
        sheet.prose(x, half)
    found = tables(sheet.parse())
    assert [texts(block) for block in found] == [
        [("Item", f"In {n}", "Sum"), *((f"Row {i}", f"{i}.5{n}", f"{i}9") for i in range(3))] for n in "12"
    ]


def test_turned_table() -> None:
    sheet = Sheet((842, 595))
    sheet.text(72, "Table 1. Trees by mass and length.", 9, "hebo")
    sheet.y += 20
    booktabs(sheet)
    upright = pymupdf.open()
    page = upright.new_page(width=595, height=842)
    page.show_pdf_page(page.rect, sheet.pdf, 0, rotate=90)
    document = oreo.parse_pdf(upright.tobytes(), "turned.pdf", "0" * 32, FAST)
    [table] = tables(document)
    assert texts(table) == list(ROWS)
    x0, y0, x1, y1 = table.bbox
    assert 0 <= x0 < x1 <= 595
    assert 0 <= y0 < y1 <= 842
    assert y1 - y0 > x1 - x0


def test_table_set_sideways_on_an_upright_page() -> None:
    sheet = Sheet((500, 260))
    sheet.y = 40
    sheet.text(72, "Table 1. Trees by mass and length.", 9, "hebo")
    sheet.y += 20
    booktabs(sheet)
    upright = Sheet()
    upright.prose()
    upright.prose()
    upright.page.show_pdf_page(pymupdf.Rect(72, 340, 332, 840), sheet.pdf, 0, rotate=90)
    document = upright.parse()
    [table] = tables(document)
    assert texts(table) == list(ROWS)
    x0, y0, x1, y1 = table.bbox
    assert 72 <= x0 < x1 <= 332
    assert 340 <= y0 < y1 <= 840
    [caption] = [block for block in document.blocks if block.kind == "caption"]
    assert caption.text == "Table 1. Trees by mass and length."
    assert document.blocks[caption.about] is table
    assert not any(block.kind == "figure" for block in document.blocks)
    assert body(document).count("kept on ice") == 4


def test_labels_of_axes_are_no_table() -> None:
    sheet = Sheet()
    sheet.prose()
    for index in range(12):
        sheet.page.insert_text((100 + 30 * index, 400), f"Load {index}", fontsize=8, rotate=90)
    assert tables(sheet.parse()) == []


def test_superscripts_stay_with_their_values() -> None:
    sheet = Sheet()
    sheet.prose()
    sheet.text(72, "Table 1. Marked.", 9, "hebo")
    sheet.y += 20
    sheet.rule()
    sheet.row(("Oil", "Day 1", "Day 90"), COLUMNS[:3])
    sheet.rule()
    for name, first, second in (("Olive", "12.1", "13.9"), ("Sesame", "4.0", "14.1")):
        sheet.text(COLUMNS[0], name, 9)
        for x, value in zip(COLUMNS[1:3], (first, second), strict=True):
            sheet.text(x, value, 9)
            width = pymupdf.get_text_length(value, fontsize=9)
            sheet.page.insert_text((x + width, sheet.y - 3.2), "ab", fontsize=5.5)
        sheet.y += 15
    sheet.rule()
    [table] = tables(sheet.parse())
    assert texts(table)[1:] == [("Olive", "12.1ab", "13.9ab"), ("Sesame", "4.0ab", "14.1ab")]


def test_boxed_text_is_no_table() -> None:
    sheet = Sheet()
    sheet.prose()
    sheet.pdf.new_page(width=595, height=842)
    sheet.page, sheet.y = sheet.pdf[1], 250.0
    for _ in range(3):
        sheet.rule(70, 460, sheet.y - 14)
        sheet.prose()
    sheet.rule(70, 460, sheet.y - 14)
    document = sheet.parse()
    assert tables(document) == []
    assert body(document).split() == " ".join(PROSE * 8).split()


def test_recognised_lines_without_rules() -> None:
    """Word boxes from OCR, a little uneven, give the same cells."""
    pieces = [
        Piece(x, y - 8 + dy, x + 4.6 * len(text), y + 2 + dy, y + dy, 9.0 + dy / 3, text, bold=False)
        for y, row in zip(range(100, 200, 15), ROWS, strict=False)
        for x, text, dy in zip(COLUMNS, row, (0.0, 0.9, -0.8, 0.4), strict=True)
        if text
    ]
    grid = cells.build(pieces, Rules())
    assert grid is not None
    assert [tuple(row) for row in grid.rows()] == list(ROWS)
    assert cells.build(pieces[:1], Rules()) is None


def test_html_is_escaped_and_spans_take_their_places() -> None:
    grid = Grid([Cell(0, 0, "a < b & c", 2, 1, True), Cell(0, 1, "both", 1, 2, True), Cell(1, 2, "x")], 2, 3)
    assert grid.html() == (
        '<table><tr><th rowspan="2">a &lt; b &amp; c</th><th colspan="2">both</th></tr>'
        "<tr><th></th><td>x</td></tr></table>"
    )
    assert grid.text() == "a < b & c\tboth\n\t\tx"


def count(items: Sequence[str]) -> list[int]:
    return [len(text.split()) + 2 for text in items]


def passages_of(header: str, limit: int) -> list[Any]:
    rows = [f"name{i}\tvalue{i}" for i in range(60)]
    html = "<table><tr><th>Name</th><th>Value</th></tr>" + "<tr><td>n</td><td>v</td></tr>" * 60 + "</table>"
    blocks = [
        Block(1, "caption", (50, 50, 300, 60), "Table 1. Names and values. Taken in May, when all were there."),
        Block(1, "table", (50, 70, 300, 400), "\n".join([header, *rows]), html=html),
    ]
    blocks[0].about = 1
    document = Document("d" * 32, "d.pdf", "", [], 1, "fast", "1", 1.0, blocks)
    return chunk_document(document, count, limit, ChunkSettings())


def test_pieces_of_a_long_table_repeat_caption_and_header() -> None:
    passages = passages_of("Name\tValue", 40)
    assert len(passages) > 3
    assert all(passage.kind == "table" and passage.n_tokens <= 40 for passage in passages)
    lead = "Table 1. Names and values.\n\nName\tValue\n"
    assert passages[0].text.startswith("Table 1. Names and values. Taken in May")
    assert all(passage.text.startswith(lead + "name") for passage in passages[1:])
    rows = [row for passage in passages for row in passage.text.splitlines() if row.startswith("name")]
    assert rows == [f"name{i}\tvalue{i}" for i in range(60)]


def test_a_header_too_long_to_repeat_is_left_out() -> None:
    passages = passages_of("Name " + "of the thing " * 5 + "\tValue", 40)
    assert all(passage.n_tokens <= 40 for passage in passages)
    assert all(passage.text.startswith("Table 1. Names and values.\n\nname") for passage in passages[2:])


def _pieces(*rows: tuple[float, list[tuple[float, str]]]) -> list[Piece]:
    """Pieces of text 10 points high from (baseline, [(left edge, text), ...])."""
    return [
        Piece(x, baseline - 8, x + 5 * len(text), baseline + 2, baseline, 10.0, text, False)
        for baseline, row in rows
        for x, text in row
    ]


def test_cell_between_two_rows_spans_both() -> None:
    rows = []
    for index in range(3):
        y = 100 + 24 * index
        rows += [
            (y, [(80.0, "-S9"), (140.0, f"1.{index}"), (200.0, f"2.{index}"), (260.0, f"3.{index}")]),
            (y + 6, [(20.0, f"TA {index}")]),
            (y + 12, [(80.0, "+S9"), (140.0, f"4.{index}"), (200.0, f"5.{index}"), (260.0, f"6.{index}")]),
        ]
    head = (80.0, [(20.0, "Strain"), (80.0, "S9"), (140.0, "A"), (200.0, "B"), (260.0, "C")])
    grid = cells.build(_pieces(head, *rows), Rules([Rule(86.0, 20.0, 280.0)]))
    assert grid is not None
    assert (grid.n_rows, grid.n_columns) == (7, 5)
    assert [(cell.text, cell.rowspan) for cell in grid.cells if cell.column == 0 and not cell.header] == [
        ("TA 0", 2),
        ("TA 1", 2),
        ("TA 2", 2),
    ]


def test_rows_of_running_text_are_parted_by_their_distance() -> None:
    rows = []
    for y in (100, 180):
        rows += [
            (y, [(20.0, "Brassica"), (120.0, "Bacterial suspension"), (260.0, "Objectives:")]),
            (y + 12.0, [(120.0, "The soil was dried"), (260.0, "Under stress")]),
            (y + 24.0, [(120.0, "Each pot was weighed"), (260.0, "Results:")]),
            (y + 36.0, [(260.0, "Plants grew well")]),
        ]
    head = (80.0, [(20.0, "Plant"), (120.0, "Design"), (260.0, "Outcome")])
    grid = cells.build(_pieces(head, *rows), Rules([Rule(86.0, 20.0, 360.0)]))
    assert grid is not None
    assert grid.n_rows == 3
    assert grid.rows()[1][2] == "Objectives: Under stress Results: Plants grew well"


def test_values_parted_by_a_drawn_blank_are_cells() -> None:
    def span(x0: float, x1: float, y: float, text: str) -> dict[str, object]:
        box = (x0, y - 8, x1, y + 2)
        return {"bbox": box, "origin": (x0, y), "size": 10.0, "font": "Times", "flags": 0, "text": text}

    text_lines = [
        {"dir": (1.0, 0.0), "spans": [span(20, 45, y, "0.029"), span(45, 50, y, " "), span(50, 75, y, "2.801")]}
        for y in range(100, 172, 12)
    ]
    page = page_lines({"width": 300.0, "height": 400.0, "blocks": [{"lines": text_lines}]}, 1)
    assert [part[2] for part in page.lines[0].parts] == ["0.029", "2.801"]
    grid = cells.build([piece for line in page.lines for piece in pieces_of(line)], Rules())
    assert grid is not None
    assert (grid.n_rows, grid.n_columns) == (6, 2)


def test_header_under_the_rule_of_the_table_is_joined() -> None:
    head = [
        (96.0, [(20.0, "Jadad"), (80.0, "Intervention"), (200.0, "Outcome")]),
        (108.0, [(20.0, "score"), (80.0, "Dose"), (120.0, "Time"), (200.0, "measure")]),
    ]
    body = [(y, [(20.0, "3"), (80.0, "1 g"), (120.0, "2 h"), (200.0, "none")]) for y in (124.0, 136.0, 148.0)]
    rules = Rules([Rule(87.0, 20.0, 240.0), Rule(112.0, 20.0, 240.0), Rule(152.0, 20.0, 240.0)])
    grid = cells.build(_pieces(*head, *body), rules)
    assert grid is not None
    header = {cell.text for cell in grid.cells if cell.header}
    assert {"Jadad score", "Outcome measure", "Intervention"} <= header


def test_caption_ends_at_the_rule_above_closely_set_rows() -> None:
    sheet = Sheet()
    sheet.prose()
    sheet.text(75, "Table 1. Control points and what is recommended for each of them.", 9, "hebo")
    sheet.rule(y=sheet.y + 4)
    sheet.y += 12
    for left, right in (("Control point", "Advice"), ("Strict quarantine", "Necessary"), ("Vaccination", "Desirable")):
        sheet.text(75, left, 9)
        sheet.text(300, right, 9)
        sheet.rule(y=sheet.y + 4)
        sheet.y += 12
    sheet.y += 30
    sheet.prose()
    document = oreo.parse_pdf(sheet.pdf.tobytes(), "a", "a", FAST)
    assert [block.text for block in document.blocks if block.kind == "table"] == [
        "Control point\tAdvice\nStrict quarantine\tNecessary\nVaccination\tDesirable"
    ]
    assert [block.text for block in document.blocks if block.kind == "caption"] == [
        "Table 1. Control points and what is recommended for each of them."
    ]
