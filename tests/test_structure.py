"""Headings with their levels, and the trees that classify regions, on PDFs made here."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from hiperrag.parsing import assembly, blocks, headings
from hiperrag.parsing.graphics import page_graphics
from hiperrag.parsing.lines import Line, Page, page_lines
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.oreo import parse_pdf
from hiperrag.parsing.reading import load_pymupdf
from hiperrag.parsing.regions import Region
from hiperrag.parsing.spans import weight_and_slant
from hiperrag.records import Block, Document

pymupdf = load_pymupdf()
SHARED = Path(os.environ.get("HIPERRAG_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
PAIRS = SHARED / "data" / "pdfs" / "pairs"
WORDS = ["coral", "reefs", "lose", "colour", "when", "water", "stays", "warm", "and", "algae", "leave", "hosts"]

FAST = ParseOptions("fast")


class Paper:
    """Writes a paper of one column, top to bottom."""

    def __init__(self) -> None:
        self.pdf = pymupdf.open()
        self._new_page()

    def _new_page(self) -> None:
        self.page = self.pdf.new_page(width=595, height=842)
        self.y = 80.0

    def line(self, text: str, font: str = "tiro", size: float = 10, gap: float = 0) -> None:
        """A line of its own, `gap` points below the usual pitch."""
        if self.y > 740:
            self._new_page()
        self.y += gap
        self.page.insert_text((72, self.y), text, fontsize=size, fontname=font)
        self.y += 12

    def run_in(self, heading: str, text: str, font: str = "tiit") -> None:
        """A heading and the text behind it on one line, then a paragraph's rest."""
        self.y += 8
        self.page.insert_text((72, self.y), heading, fontsize=10, fontname=font)
        width = pymupdf.get_text_length(heading + " ", fontname=font, fontsize=10)
        self.page.insert_text((72 + width, self.y), text, fontsize=10, fontname="tiro")
        self.y += 12
        self.text(3, capital=False)

    def text(self, n_lines: int, capital: bool = True) -> None:
        """Running text that fills the column, the last line short."""
        chance = random.Random(self.y + len(self.pdf))
        for index in range(n_lines):
            words = " ".join(chance.choices(WORDS, k=16 if index < n_lines - 1 else 4))
            words = words.capitalize() if capital and index == 0 else words
            self.line(words + ("." if index == n_lines - 1 else ""))

    def parse(self) -> Document:
        return parse_pdf(self.pdf.tobytes(), "made.pdf", "made", FAST)

    def pages(self) -> list[Page]:
        flags = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP
        pages = []
        for number, source in enumerate(self.pdf, 1):
            pages.append(page_lines(source.get_text("dict", flags=flags), number))
            pages[-1].graphics = page_graphics(source)
        return pages


def outline(found: list[Block]) -> list[tuple[int, str]]:
    """Level and text of the headings."""
    return [(block.level, block.text) for block in found if block.kind == "heading"]


def paper() -> Paper:
    """A paper with numbered sections and run-in subsections."""
    made = Paper()
    made.line("Warm water and the colour of coral reefs", "tibo", 16)
    made.line("Ann Example and Bo Sample", gap=6)
    made.line("1. Introduction", "tibo", 12, gap=10)
    made.text(8)
    made.line("2. Methods", "tibo", 12, gap=10)
    made.run_in("2.1. Sites.", "Reefs of three islands were visited in every season")
    made.run_in("2.2. Temperature.", "Loggers were read out twice a year by the same diver")
    made.line("3. Results", "tibo", 12, gap=10)
    made.text(6)
    return made


def test_run_in_headings_are_sections_below_their_section() -> None:
    document = paper().parse()

    assert outline(document.blocks) == [
        (1, "1. Introduction"), (1, "2. Methods"), (2, "2.1. Sites."), (2, "2.2. Temperature."), (1, "3. Results"),
    ]  # fmt: skip
    after = document.blocks[[block.text for block in document.blocks].index("2.1. Sites.") + 1]
    assert after.kind == "paragraph"
    assert after.text.startswith("Reefs of three islands")


def test_emphasis_at_the_start_of_one_paragraph_is_no_heading() -> None:
    made = paper()
    made.run_in("Note well.", "This paragraph begins with two words in italics and goes on")

    assert "Note well." not in [text for _, text in outline(made.parse().blocks)]


def test_heading_in_another_font_set_tight_on_its_text_is_told_apart() -> None:
    made = paper()
    made.line("Colour of branching corals", "heit", 10, gap=10)
    made.text(6)

    assert (2, "Colour of branching corals") in outline(made.parse().blocks)


def test_stacked_headings_of_one_size_rank_by_their_order() -> None:
    made = Paper()
    made.line("Warm water and the colour of coral reefs", "tibo", 16)
    made.line("Ann Example and Bo Sample", gap=6)
    made.line("Introduction", "tibo", gap=10)
    made.text(8)
    made.line("Methods", "tibo", gap=10)
    made.line("Sampling of branches", "tibi")
    made.text(6)
    made.line("Results", "tibo", gap=10)
    made.text(6)

    assert outline(made.parse().blocks) == [
        (1, "Introduction"), (1, "Methods"), (2, "Sampling of branches"), (1, "Results"),
    ]  # fmt: skip


def heading(text: str, size: float = 10, bold: bool = True, y: float = 0) -> Region:
    """A heading's region."""
    line = Line(1, 72, y, 300, y + size, y + size, size, "Serif-Bold" if bold else "Serif", bold, False, bold, text)
    return Region(1, [line], 72, 500, "heading", text=text)


def test_nothing_is_a_part_of_the_references() -> None:
    found = [
        heading("Introduction", 12, y=0),
        heading("Discussion", 12, y=100),
        heading("References", 12, y=200),
        heading("Peer review", 10, y=300),
    ]
    headings.set_levels(found)

    assert [region.level for region in found] == [1, 1, 1, 1]


def test_levels_follow_numbers_whatever_the_type() -> None:
    found = [heading(f"{number} Something", y=40 * i) for i, number in enumerate(["1", "1.1", "1.1.1", "2", "2.1"])]
    headings.set_levels(found)

    assert [region.level for region in found] == [1, 2, 3, 1, 2]


@pytest.mark.parametrize(
    ("font", "expected"),
    [
        ("AdvPTimesB", (True, False)),
        ("AdvSCASBDI", (True, True)),
        ("AdvPTimesI", (False, True)),
        ("AdvTT83913201.I", (False, True)),
        ("MinionPro-Regular", (False, False)),
        ("NimbusRomNo9L-Medi", (True, False)),
    ],
)
def test_weight_and_slant_are_read_from_names(font: str, expected: tuple[bool, bool]) -> None:
    assert weight_and_slant(font) == expected


def stump(*leaves: tuple[float, float], feature: int = 0, threshold: float = 0.5) -> blocks.Trees:
    """A tree a class with one split: the values of its two leaves."""
    n = len(leaves)
    return blocks.Trees(
        feature=np.array([feature, 0, 0] * n, np.int16),
        threshold=np.array([threshold, np.inf, np.inf] * n, np.float32),
        child=np.array([v for i in range(n) for v in (3 * i + 1, 3 * i + 1, 3 * i + 2)], np.int32),
        value=np.array([v for low, high in leaves for v in (0.0, low, high)], np.float32),
        roots=np.array([3 * i for i in range(n)], np.int32),
        depth=1,
    )


def test_trees_vote_by_their_splits() -> None:
    leaves = [(0.0, 0.0) for _ in blocks.CLASSES]
    leaves[3] = (2.0, -1.0)
    rows = np.array([[0.5, 9.0], [0.6, 9.0]], np.float32)
    found = stump(*leaves).probabilities(rows)

    rest = len(leaves) - 1
    assert found.sum(axis=1) == pytest.approx([1, 1])
    assert found[:, 3] == pytest.approx([np.exp(2) / (np.exp(2) + rest), np.exp(-1) / (np.exp(-1) + rest)])


def test_shipped_trees_know_the_features() -> None:
    trees = blocks.trained()

    assert trees.feature.max() < len(blocks.NAMES)
    assert len(trees.roots) % len(blocks.CLASSES) == 0
    assert blocks.features([], [], assembly.typography.Style(10, frozenset(), frozenset())).shape == (
        0,
        len(blocks.NAMES),
    )
    assert trees.probabilities(np.zeros((0, len(blocks.NAMES)), np.float32)).shape == (0, len(blocks.CLASSES))


def test_trees_overrule_rules_but_not_words_that_leave_no_doubt() -> None:
    doubtful, known = heading("Something set apart", y=100), heading("Results", y=200)
    rows = np.zeros((2, len(blocks.CLASSES)), np.float32)
    rows[0, [blocks.CLASSES.index("caption"), blocks.CLASSES.index("heading")]] = 0.7, 0.3
    rows[1, blocks.CLASSES.index("caption")] = 1.0
    blocks.settle([doubtful, known], [Page(1, 595, 842, 0, [], [])], rows, {})

    assert (doubtful.kind, known.kind) == ("caption", "heading")
    assert doubtful.confidence == pytest.approx(0.7)


def test_pages_have_a_confidence() -> None:
    made = paper()
    made.pdf.new_page()
    found = assembly.assemble(made.pages(), {})

    assert set(found.confidence) == {1}
    assert 0.5 < found.confidence[1] <= 1


@pytest.mark.skipif(not PAIRS.is_dir(), reason="development data is absent")
def test_headings_of_a_published_article() -> None:
    found = outline(parse_pdf((PAIRS / "pdf" / "PMC5376420.pdf").read_bytes(), "", "", FAST).blocks)

    assert [level for level, text in found if text.startswith("3.")] == [1, 2, 2, 2, 2, 2, 2]
    assert (2, "2.6. Data Extraction.") in found
