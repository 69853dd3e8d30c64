"""The fast text path on small PDFs made here, on damaged files, and (where present) on development data."""

from __future__ import annotations

import json
import os
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from hiperrag.parsing.body import body_text
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.oreo import parse_pdf
from hiperrag.parsing.reading import load_pymupdf
from hiperrag.records import Document

pymupdf = load_pymupdf()
SHARED = Path(os.environ.get("HIPERRAG_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
PAIRS = SHARED / "data" / "pdfs" / "pairs"
MALFORMED = SHARED / "data" / "pdfs" / "malformed"
LINE = 12.0
WORDS = [
    "coral", "reefs", "lose", "colour", "when", "water", "stays", "warm", "and", "algae", "leave", "their", "hosts",
]  # fmt: skip

FAST = ParseOptions("fast")


def prose(start: int, n_lines: int, words_a_line: int) -> list[str]:
    """Running text of a given length, every line different, the last one short and ended."""
    chance = random.Random(start)
    lines = [" ".join(chance.choices(WORDS, k=words_a_line)) for _ in range(n_lines)]
    lines[0] = lines[0].capitalize()
    lines[-1] = " ".join(lines[-1].split()[:2]) + f" case {start}."
    return lines


class Maker:
    """Writes lines at given places of a PDF's pages (595 by 842 points)."""

    def __init__(self) -> None:
        self.pdf = pymupdf.open()

    def page(self) -> int:
        """Number of a new page."""
        self.pdf.new_page(width=595, height=842)
        return len(self.pdf) - 1

    def write(self, page: int, x: float, y: float, lines: list[str], size: float = 10, font: str = "tiro") -> float:
        """Lines from (x, y) down; returns the baseline after the last."""
        for line in lines:
            self.pdf[page].insert_text((x, y), line, fontsize=size, fontname=font)
            y += LINE * size / 10
        return y

    def parse(self) -> Document:
        return parse_pdf(self.pdf.tobytes(), "made.pdf", "made", FAST)


def kinds(document: Document, kind: str) -> list[str]:
    return [block.text for block in document.blocks if block.kind == kind]


def two_column_article() -> Document:
    make = Maker()
    for number in range(1, 5):
        page = make.page()
        make.write(page, 50, 30, [f"Journal of Reefs 2024, 12:{300 + number}"], 8, "helv")
        make.write(page, 290, 815, [str(number)], 8, "helv")
        top = 70.0
        if number == 1:
            make.write(page, 50, 80, ["Bleaching of corals in warm water"], 18, "hebo")
            make.write(page, 50, 105, ["Ada Lovelace1, Charles Babbage2 and Mary Somerville1"], 11, "helv")
            make.write(page, 50, 122, ["1 Department of Reefs, University of Somewhere"], 8, "helv")
            make.write(page, 50, 150, ["Abstract"], 11, "hebo")
            make.write(page, 50, 165, prose(1, 5, 17), 10)
            make.write(page, 50, 240, ["Introduction"], 12, "hebo")
            top = 260.0
        for column, x in enumerate((50, 310)):
            y = top
            for paragraph in range(2):
                lines = prose(100 * number + 10 * column + paragraph, 12, 8)
                y = make.write(page, x, y, lines) + LINE
            if number == 2 and column == 0:
                make.write(page, x, y + 6, ["2.1 Sampling of colonies"], 11, "hebo")
                y = make.write(page, x, y + 24, prose(7, 6, 8))
                y = make.write(page, x, y + 20, ["Figure 1. A colony before and after bleaching."], 8, "hebo")
            if number == 3 and column == 1:
                make.write(page, x, y + 10, ["Table 2. Counts by site"], 8, "hebo")
                for row, cells in enumerate((("Site", "Colonies"), ("North", "41"), ("South", "17"))):
                    for cell, text in enumerate(cells):
                        make.write(page, x + 110 * cell, y + 30 + 10 * row, [text], 8)
            if number == 4 and column == 1:
                make.write(page, x, y + 10, ["References"], 12, "hebo")
                entries = [
                    "1. Babbage C. On warm water and the",
                    "    health of corals. J Reefs 2019; 3: 1-9.",
                    "2. Lovelace A. Algae. J Reefs 2020; 4: 10.",
                    "3. Somerville M. Hosts and guests in the",
                    "    sea. J Reefs 2021; 5: 77-81.",
                ]
                make.write(page, x, y + 30, entries, 8)
    return make.parse()


@pytest.fixture(scope="module")
def article() -> Document:
    return two_column_article()


def test_columns_are_read_one_after_the_other(article: Document) -> None:
    body = body_text(article)
    marks = [f"case {100 * page + 10 * column + part}." for page in range(1, 5) for column in (0, 1) for part in (0, 1)]
    places = [body.index(mark) for mark in marks]
    assert places == sorted(places)


def test_title_authors_and_abstract(article: Document) -> None:
    assert article.title == "Bleaching of corals in warm water"
    assert article.authors == ["Ada Lovelace", "Charles Babbage", "Mary Somerville"]
    assert len(kinds(article, "abstract")) == 1
    assert kinds(article, "abstract")[0].endswith("case 1.")
    body = body_text(article)
    assert body.startswith("Bleaching of corals in warm water\n\nAbstract\n\n")
    assert "Babbage2" not in body
    assert "University of Somewhere" not in body


def test_running_heads_and_page_numbers_are_set_apart(article: Document) -> None:
    assert len(kinds(article, "header")) == 4
    assert kinds(article, "page_number") == ["1", "2", "3", "4"]
    assert "Journal of Reefs" not in body_text(article)


def test_headings_have_levels(article: Document) -> None:
    headings = {block.text: block.level for block in article.blocks if block.kind == "heading"}
    assert headings["Introduction"] == 1
    assert headings["2.1 Sampling of colonies"] == 2


def test_captions_and_tables_are_set_apart(article: Document) -> None:
    assert kinds(article, "caption") == [
        "Figure 1. A colony before and after bleaching.",
        "Table 2. Counts by site",
    ]
    assert kinds(article, "table") == ["Site\tColonies\nNorth\t41\nSouth\t17"]
    assert "North" not in body_text(article)


def test_references_are_separate_entries(article: Document) -> None:
    references = kinds(article, "reference")
    assert [entry[:2] for entry in references] == ["1.", "2.", "3."]
    assert references[0] == "1. Babbage C. On warm water and the health of corals. J Reefs 2019; 3: 1-9."
    assert "Babbage C." not in body_text(article)


def test_blocks_lie_on_their_pages(article: Document) -> None:
    for block in article.blocks:
        x0, y0, x1, y1 = block.bbox
        assert 1 <= block.page <= 4
        assert 0 <= x0 < x1 <= 595
        assert 0 <= y0 < y1 <= 842


def test_paragraph_goes_on_in_the_next_column_and_page() -> None:
    make = Maker()
    first, second = make.page(), make.page()
    left, right = prose(1, 50, 8), prose(2, 50, 8)
    left[-1] = "the colony was then moved to another tank where the infor-"
    right[0] = "mation was written down by hand in the evening of the day"
    right[-1] = "and every tank was cleaned before the next colony could be"
    make.write(first, 50, 80, left, 9)
    make.write(first, 310, 80, right, 9)
    after = prose(3, 10, 8)
    after[0] = "taken from the sea and put in its place by the same person"
    make.write(second, 50, 80, after, 9)
    make.write(second, 310, 80, prose(4, 10, 8), 9)
    document = make.parse()
    paragraphs = [block for block in document.blocks if block.kind == "paragraph"]
    assert [block.continues for block in paragraphs] == [False, True, True, False]
    assert paragraphs[0].text.endswith("where the information")
    body = body_text(document)
    assert "the information was written down" in body
    assert "could be taken from the sea" in body


def test_references_across_both_columns_do_not_cut_the_text() -> None:
    make = Maker()
    page = make.page()
    make.write(page, 50, 80, prose(1, 30, 8))
    make.write(page, 310, 80, prose(2, 30, 8))
    make.write(page, 50, 480, ["References"], 12, "hebo")
    for x, first in ((50, 1), (310, 9)):
        entries = [f"{n}. Babbage C. Warm water, part {n}. J Reefs 2019; 3: {n}." for n in range(first, first + 8)]
        make.write(page, x, 500, entries, 8)
    document = make.parse()
    assert body_text(document).rstrip().endswith("case 2.")
    assert [entry.split(".")[0] for entry in kinds(document, "reference")] == [str(n) for n in range(1, 17)]


def test_notes_of_the_first_page_are_no_body() -> None:
    make = Maker()
    page = make.page()
    make.write(page, 200, 80, ["Corals that lose their colour"], 18, "hebo")
    make.write(page, 200, 105, ["Ada Lovelace1, Mary Somerville2"], 10, "helv")
    make.write(page, 200, 135, ["Abstract"], 11, "hebo")
    make.write(page, 200, 150, prose(1, 12, 10))
    make.write(page, 200, 320, ["Introduction"], 11, "hebo")
    make.write(page, 200, 340, prose(2, 25, 10))
    notes = [
        "Received: 1 May 2024",
        "Accepted: 2 June 2024",
        "Citation: Lovelace A,",
        "Corals. J Reefs 12:300",
        "Editor: C. Babbage",
    ]
    make.write(page, 40, 300, notes, 7, "helv")
    make.write(page, 200, 690, ["This is an open access article under the Creative Commons licence."], 7, "helv")
    document = make.parse()
    body = body_text(document)
    for note in ("Received", "Citation", "Babbage", "open access", "Somerville"):
        assert note not in body
    assert body.index("case 1.") < body.index("Introduction") < body.index("case 2.")
    assert document.authors == ["Ada Lovelace", "Mary Somerville"]


def test_statements_about_the_article_are_left_out_of_the_body() -> None:
    make = Maker()
    page = make.page()
    y = make.write(page, 50, 80, ["Conclusion"], 12, "hebo")
    y = make.write(page, 50, y + 4, prose(1, 6, 12))
    y = make.write(page, 50, y + 14, ["Funding"], 12, "hebo")
    y = make.write(page, 50, y + 4, prose(2, 3, 12))
    y = make.write(page, 50, y + 14, ["Appendix A"], 12, "hebo")
    make.write(page, 50, y + 4, prose(3, 6, 12))
    document = make.parse()
    body = body_text(document)
    assert "case 1." in body
    assert "case 2." not in body
    assert "case 3." in body
    assert any("case 2." in text for text in kinds(document, "paragraph"))


def test_superscript_citations_are_set_off_and_exponents_are_not() -> None:
    make = Maker()
    number = make.page()
    make.write(number, 50, 80, prose(1, 6, 12))
    page = make.pdf[number]
    y = 80 + 6 * LINE
    for text, mark in (("It was shown before by others", "12,13"), ("The area of the tank was 3 m", "2")):
        page.insert_text((50, y), text, fontsize=10, fontname="tiro")
        x = 50 + pymupdf.get_text_length(text, fontname="tiro", fontsize=10)
        page.insert_text((x, y - 3.5), mark, fontsize=6, fontname="tiro")
        y += LINE
    body = body_text(make.parse())
    assert "others 12,13" in body
    assert "3 m2" in body


def test_powers_of_ten_are_told_from_citations_after_a_number() -> None:
    make = Maker()
    number = make.page()
    make.write(number, 50, 80, prose(1, 6, 12))
    page = make.pdf[number]
    y = 80 + 6 * LINE
    for text, mark in (
        ("The plates held 3 × 10", "5"),
        ("The rate was 2.5 × 10", "-3"),
        ("They counted 110", "7"),
        ("It was 0.10", "7"),
    ):
        page.insert_text((50, y), text, fontsize=10, fontname="tiro")
        x = 50 + pymupdf.get_text_length(text, fontname="tiro", fontsize=10)
        page.insert_text((x, y - 3.5), mark, fontsize=6, fontname="tiro")
        y += LINE
    body = body_text(make.parse())
    assert "3 × 10⁵" in body
    assert "2.5 × 10⁻³" in body
    assert "1107" in body  # a citation, for all one can tell
    assert "0.107" in body


def test_line_numbers_of_a_manuscript_are_dropped() -> None:
    make = Maker()
    page = make.page()
    for index, line in enumerate(prose(5, 30, 10)):
        make.write(page, 40, 80 + 20 * index, [str(index + 1)], 8, "helv")
        make.write(page, 90, 80 + 20 * index, [line], 11)
    document = make.parse()
    assert len(kinds(document, "page_number")) == 30
    assert not any(character.isdigit() for character in body_text(document).replace("case 5.", ""))


def test_page_without_text_lowers_quality_but_keeps_the_document() -> None:
    make = Maker()
    make.write(make.page(), 50, 80, prose(1, 10, 10))
    page = make.pdf[make.page()]
    pixmap = pymupdf.Pixmap(pymupdf.csRGB, pymupdf.IRect(0, 0, 20, 20))
    page.insert_image(page.rect, pixmap=pixmap)
    document = make.parse()
    assert document.n_pages == 2
    assert document.quality == 0.5
    assert document.doc_id == "made"
    assert document.source == "made.pdf"


def test_rotated_text_is_read_and_placed() -> None:
    make = Maker()
    page = make.pdf[make.page()]
    for index, line in enumerate(prose(9, 12, 9)):
        page.insert_text((100 + 14 * index, 700), line, fontsize=10, fontname="tiro", rotate=90)
    document = make.parse()
    assert body_text(document).strip().endswith("case 9.")
    (block,) = document.blocks
    assert block.bbox[0] < 101
    assert 240 < block.bbox[2] < 270
    assert block.bbox[3] == pytest.approx(700, abs=3)


def test_stamp_in_the_margin_is_no_body() -> None:
    make = Maker()
    number = make.page()
    make.write(number, 70, 80, prose(1, 30, 12))
    make.pdf[number].insert_text((25, 500), "arXiv:2401.00001v1 [cs.IR] 1 Jan 2024", fontsize=14, rotate=90)
    document = make.parse()
    (stamp,) = [block for block in document.blocks if block.kind == "footer"]
    assert stamp.text.startswith("arXiv:2401.00001v1")
    assert stamp.bbox[2] < 40
    assert "arXiv" not in body_text(document)


def encrypted() -> bytes:
    make = Maker()
    make.write(make.page(), 50, 80, ["secret"])
    data = make.pdf.tobytes(encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="key", owner_pw="other")
    return bytes(data)


def no_pages() -> bytes:
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
        b"trailer<</Root 1 0 R>>\n"
    )


def page_loop() -> bytes:
    return (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[2 0 R]/Count 1000000>>endobj\ntrailer<</Root 1 0 R>>\n"
    )


def blank() -> bytes:
    make = Maker()
    make.page()
    return bytes(make.pdf.tobytes())


@pytest.mark.parametrize(
    ("make", "errors"),
    [
        (lambda: b"", {"empty"}),
        (lambda: b"\n \n", {"empty"}),
        (lambda: b"this is no PDF at all, " * 50, {"damaged", "no_pages"}),
        (encrypted, {"encrypted"}),
        (no_pages, {"no_pages", "damaged"}),
        (page_loop, {"damaged", "no_pages"}),
        (blank, {"no_text"}),
    ],
)
def test_unusable_files(make: Callable[[], bytes], errors: set[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ParseError) as caught:
        parse_pdf(make(), "x.pdf", "x", FAST)
    assert caught.value.error in errors
    assert caught.value.message
    assert "\n" not in caught.value.message
    assert capfd.readouterr().err == ""


def outcome(data: bytes) -> tuple[Document | None, ParseError | None]:
    try:
        return parse_pdf(data, "x.pdf", "x", FAST), None
    except ParseError as error:
        return None, error


def test_truncated_file_is_parsed_or_refused() -> None:
    make = Maker()
    for start in range(5):
        make.write(make.page(), 50, 80, prose(start, 20, 10))
    data = make.pdf.tobytes()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        document, error = outcome(data[: int(share * len(data))])
        assert document.blocks if document else error and error.message


def test_damaged_bytes_are_parsed_or_refused() -> None:
    make = Maker()
    for start in range(3):
        make.write(make.page(), 50, 80, prose(start, 20, 10))
    good = make.pdf.tobytes(deflate=False)
    chance = random.Random(7)
    for _ in range(60):
        data = bytearray(good)
        for _ in range(chance.choice((1, 20, 300))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        document, error = outcome(bytes(data))
        assert document.n_pages >= 1 if document else error and error.message


@pytest.mark.skipif(not MALFORMED.is_dir(), reason="development data (malformed PDFs) not present")
def test_malformed_files_are_parsed_or_refused_with_the_true_reason() -> None:
    expected = {"empty": "empty", "password_required": "encrypted", "zero_pages": "no_pages"}
    for row in map(json.loads, (MALFORMED / "manifest.jsonl").read_text().splitlines()):
        document, error = outcome((MALFORMED / row["file"]).read_bytes())
        reason = error.error if error else None
        if row["category"] in expected:
            assert reason == expected[row["category"]], row["file"]
        else:
            assert reason in (None, "damaged", "no_pages", "no_text"), row["file"]
            assert document is None or document.n_pages >= 1


@pytest.mark.skipif(not PAIRS.is_dir(), reason="development data (PDFs with ground truth) not present")
def test_body_is_nearer_the_truth_than_plain_text() -> None:
    pytest.importorskip("rapidfuzz", reason="rapidfuzz of the bench extra is not installed")
    pytest.importorskip("sacrebleu", reason="sacrebleu of the bench extra is not installed")
    from hiperrag.benchmarks import parse_quality

    rows = [json.loads(line) for line in (PAIRS / "manifest.jsonl").read_text().splitlines()]
    short = sorted((row for row in rows if row["pages"] <= 12), key=lambda row: str(row["sha256"]))
    ids = [row["id"] for columns in (1, 2) for row in [r for r in short if r["columns"] == columns][:5]]
    results = parse_quality.run(PAIRS, ids)
    assert len(results) == 20
    for columns in (1, 2):
        ours, plain = (
            statistics.median(r.similarity for r in results if r.parser == parser and r.columns == columns)
            for parser in ("fast", "plain")
        )
        assert ours > plain
        assert ours >= 0.8
