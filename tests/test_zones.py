"""Front matter, references, furniture and captions: what stands where decides what it is."""

from __future__ import annotations

import random
from collections import Counter

from hiperrag.parsing import furniture, reading, references, structure
from hiperrag.parsing.graphics import Graphics
from hiperrag.parsing.lines import Line, Page
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.oreo import parse_pdf
from hiperrag.parsing.regions import Region
from hiperrag.parsing.typography import Style
from hiperrag.records import Document

pymupdf = reading.load_pymupdf()
WORDS = ["coral", "reefs", "lose", "colour", "when", "water", "stays", "warm", "and", "algae", "leave", "hosts"]
STYLE = Style(10.0, frozenset({"Times-Roman"}), frozenset({10.0}), 450.0)


class Sheet:
    """Writes one page, top to bottom."""

    def __init__(self) -> None:
        self.pdf = pymupdf.open()
        self.page = self.pdf.new_page(width=595, height=842)
        self.y = 80.0

    def line(self, text: str, font: str = "tiro", size: float = 10, gap: float = 0, x: float = 72) -> None:
        self.y += gap
        self.page.insert_text((x, self.y), text, fontsize=size, fontname=font)
        self.y += 1.2 * size

    def text(self, n_lines: int, font: str = "tiro") -> None:
        chance = random.Random(self.y)
        for index in range(n_lines):
            words = " ".join(chance.choices(WORDS, k=16 if index < n_lines - 1 else 4))
            self.line((words.capitalize() if index == 0 else words) + ("." if index == n_lines - 1 else ""), font)

    def parse(self) -> Document:
        return parse_pdf(self.pdf.tobytes(), "made.pdf", "made", ParseOptions("fast"))


def kinds(document: Document, start: str) -> list[str]:
    """Kinds of the blocks whose text starts so."""
    return [block.kind for block in document.blocks if block.text.startswith(start)]


def line(text: str, y: float, x: float = 72, size: float = 10, font: str = "Times-Roman", width: float = 200) -> Line:
    """A line whose top is at y."""
    return Line(1, x, y, x + width, y + size, y + 0.8 * size, size, font, False, False, False, text)


def region(text: str, y: float, kind: str = "paragraph", **look: float) -> Region:
    return Region(1, [line(text, y, **look)], 72, 522, kind, text=text)  # type: ignore[arg-type]


def page(lines: list[Line], rules: list[tuple[float, float, float, float]] | None = None, number: int = 1) -> Page:
    return Page(number, 595, 842, 0, lines, [], Graphics(rules=rules or []))


def test_page_from_the_middle_of_an_article_has_no_front_matter() -> None:
    sheet = Sheet()
    sheet.line("Table 4. Colour of the reefs by island and by month of the year.", "tibo")
    sheet.text(4)
    sheet.line("Temperature of the water over all of the reefs", "tibo", 14, gap=14)
    sheet.text(8)

    document = sheet.parse()

    assert document.title == ""
    assert document.authors == []
    assert kinds(document, "Table 4") == ["caption"]
    assert kinds(document, "Temperature of") == ["heading"]


def test_title_in_several_fonts_is_one_block() -> None:
    sheet = Sheet()
    sheet.line("Warm water and the colour of the common reef coral", "tibo", 16)
    sheet.line("Acropora millepora at three islands", "tibi", 16)
    sheet.line("Ann Example and Bo Sample", gap=12)
    sheet.line("Abstract", "tibo", gap=12)
    sheet.text(6)

    titles = [block.text for block in sheet.parse().blocks if block.kind == "title"]

    assert titles == ["Warm water and the colour of the common reef coral Acropora millepora at three islands"]


def test_document_in_one_monospaced_font_is_no_code() -> None:
    sheet = Sheet()
    for _ in range(4):
        sheet.y += 14
        chance = random.Random(sheet.y)
        for _ in range(5):
            sheet.line(" ".join(chance.choices(WORDS, k=12))[:70].ljust(70, "a"), "cour")

    assert "code" not in {block.kind for block in sheet.parse().blocks}


def test_entries_without_numbers_and_indent_are_told_by_gaps() -> None:
    lines = [
        line(f"Part {part} of entry {entry}", 100 + 32 * entry + 9 * part) for entry in range(5) for part in range(3)
    ]
    found = [Region(1, [one], 72, 300, "reference", text=one.text) for one in lines]

    entries = references.split_entries(found, Counter())

    assert len(entries) == 5
    assert entries[1].text == "Part 0 of entry 1 Part 1 of entry 1 Part 2 of entry 1"


def test_gap_in_the_references_is_closed_only_by_what_is_set_alike() -> None:
    found = [
        region("1. Morton DB.", 100, "reference", size=8),
        region("2. Breed WG.", 120, "footnote", size=8),
        region("3. Hermo L.", 140, "reference", size=8),
        region("A note in larger type", 160, "footnote", size=11),
        region("4. Baltz JM.", 180, "reference", size=8),
    ]

    references.close_gaps(found)

    assert [one.kind for one in found] == ["reference", "reference", "reference", "footnote", "reference"]


def test_larger_text_leaves_the_references() -> None:
    listed = Counter({7.0: 6})

    assert references.is_left(region("Referee report", 100, size=10), listed)
    assert not references.is_left(region("Baltz JM. Dense fibres.", 100, size=7), listed)
    assert not references.is_left(region("12. Baltz JM. Dense fibres.", 100, size=10), listed)
    assert not references.is_left(region("Referee report", 100, size=10), Counter({7.0: 2}))


def test_parts_of_a_caption_belong_to_it() -> None:
    caption = region("Figure 2. Sperm heads.", 300, "caption", size=8)
    part = region("D: A section through the base of the head.", 309, size=8)
    text = region("The reefs lose colour.", 309, size=8)

    assert structure._is_part_of_caption(caption, part)
    assert not structure._is_part_of_caption(caption, text)
    assert not structure._is_part_of_caption(caption, region("D: Far below.", 380, size=8))


def test_one_of_several_equal_lines_is_no_heading() -> None:
    found = [
        region("Software: Ann Example.", 100),
        region("Funding acquisition: Bo Sample.", 111, "heading"),
        region("Supervision: Ann Example.", 122),
    ]

    structure._mend_kinds(found, STYLE)

    assert [one.kind for one in found] == ["paragraph"] * 3


def test_sentence_with_a_formula_is_no_equation() -> None:
    found = [
        region("Suppose that g = uh for some unit u of the ring. Then they are equal.", 100, "equation"),
        region("a = b + c", 140, "equation"),
    ]

    structure._mend_kinds(found, STYLE)

    assert [one.kind for one in found] == ["paragraph", "equation"]


def test_rows_of_a_ruled_table_are_no_running_heads() -> None:
    rules = [(72.0, 80.0, 522.0, 80.5), (72.0, 300.0, 522.0, 300.5)]
    pages = []
    for number in (1, 2, 3):
        lines = [
            line("Warm water", 40),
            line("Plant Dose Effect", 84),
            *(line(f"row {n}", 150 + 12 * n) for n in range(9)),
        ]
        for one in lines:
            one.page = number
        pages.append(page(lines, rules, number))

    found = furniture.find(pages)

    assert [found.get(id(one)) for one in pages[0].lines[:2]] == ["header", None]


def test_label_of_a_continued_table_is_no_running_head() -> None:
    pages = []
    for number in (1, 2, 3):
        lines = [line("Warm water", 40), line(f"Table {number} (continued)", 70), line("text of the page", 300)]
        for one in lines:
            one.page = number
        pages.append(page(lines, number=number))

    found = furniture.find(pages)

    assert [found.get(id(one)) for one in pages[0].lines] == ["header", None, None]


def test_number_in_the_middle_under_the_text_is_the_pages() -> None:
    text = [line("A line of text that fills the page from edge to edge", 700 + 12 * n, width=450) for n in range(7)]
    number = line("14", 785, x=292, width=10)

    assert furniture.find([page([*text, number])]) == {id(number): "page_number"}
    at_the_side = line("14", 785, x=100, width=10)
    assert furniture.find([page([*text, at_the_side])]) == {}


def test_numbers_that_do_not_count_the_pages_are_no_page_numbers() -> None:
    pages = []
    for number in (1, 2, 3, 4):
        lines = [line(str(10 + number), 30, x=500, width=12), line("123", 800, x=500, width=18), line("text", 400)]
        if number == 3:
            lines.append(line("50", 790, x=80, width=12))
        for one in lines:
            one.page = number
        pages.append(page(lines, number=number))

    found = furniture.find(pages)

    assert {found[id(one.lines[0])] for one in pages} == {"page_number"}
    assert {found[id(one.lines[1])] for one in pages} == {"footer"}  # the same on every page: a mark
    assert id(pages[2].lines[3]) not in found  # of a plot's axis


def test_running_head_close_to_the_text_is_told_by_the_number_beside_it() -> None:
    head = [line("400", 40, x=72, size=8, width=15), line("BRITISH HUSBANDRY", 40, x=250)]
    text = [line("A line of text that fills the page from edge to edge", 56 + 12 * n, width=450) for n in range(9)]

    assert furniture.find([page([*head, *text])]) == {id(head[0]): "page_number", id(head[1]): "header"}
    assert furniture.find([page([head[1], *text])]) == {}


def test_numbered_section_under_a_title_is_no_name() -> None:
    sheet = Sheet()
    sheet.line("On Coral Reefs in Warm Water and Their Algae", "tibo", 18)
    sheet.line("1. Warm Reefs", "tibo", 13, gap=30)
    sheet.text(6)
    sheet.line("2. Cold Hosts", "tibo", 13, gap=20)
    sheet.text(6)
    document = sheet.parse()

    assert kinds(document, "1. Warm") == kinds(document, "2. Cold") == ["heading"]


def test_listing_is_one_block_with_its_indents() -> None:
    sheet = Sheet()
    sheet.text(12)
    for index, code in enumerate(("def warm(sea):", "    return sea + 1", "}", "print(warm(3))")):
        sheet.line(code.strip(), "cour", gap=14 if index == 0 else 0, x=72 + 6 * (len(code) - len(code.lstrip())))
    sheet.y += 14
    sheet.text(12)
    listings = [block.text for block in sheet.parse().blocks if block.kind == "code"]

    assert listings == ["def warm(sea):\n    return sea + 1\n}\nprint(warm(3))"]


def test_second_column_of_a_caption_is_one() -> None:
    words = "coral reefs lose their colour when water stays warm"
    first = region("Fig. 1 Reefs in warm water, " + words, 400, size=8, width=200)
    second = region(words + " and algae leave", 400, x=320, size=8, width=200)
    found = [region("Text " + words * 3, 100), first, second, region("Text " + words * 3, 600)]
    structure.rule_kinds(found, [page([one.lines[0] for one in found])], STYLE, "")

    assert (second.kind, second.continues, second.known) == ("caption", True, True)


def test_gaps_between_characters_are_spaces() -> None:
    def run(text: str, gaps: dict[int, float]) -> dict[str, object]:
        x, characters = 0.0, []
        for index, character in enumerate(text):
            characters.append({"c": character, "bbox": (x, 0.0, x + 5, 10.0)})
            x += 5 + gaps.get(index, 0.0)
        return {"size": 10.0, "chars": characters}

    assert reading.spaced("ofthereefs", run("ofthereefs", {1: 1.4, 4: 1.4})) == "of the reefs"
    assert reading.spaced("ofthereefs", run("ofthereefs", {1: 0.4})) == "ofthereefs"
    assert reading.spaced("heading", run("heading", dict.fromkeys(range(7), 2.0))) == "heading"
