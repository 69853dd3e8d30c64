"""Displayed formulas: gathered from their pieces, and read as LaTeX from where their characters stand."""

from __future__ import annotations

from typing import Any

import pymupdf
import pytest

from hiperrag.parsing import displays, equations, latex, oreo, reading, symbols
from hiperrag.parsing.latex import Item
from hiperrag.parsing.lines import Line
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.typography import Style
from hiperrag.records import Block

STYLE = Style(10.0, frozenset(["Times"]), frozenset(), 400.0)

FAST = ParseOptions("fast")


def put(text: str, x: float, y: float, size: float = 10, font: str = "Times-Italic", italic: bool = True) -> list[Item]:
    """Characters from x on, on the baseline y, each half as wide as high."""
    step = 0.5 * size
    return [
        Item(c, x + i * step, y - 0.7 * size, x + (i + 1) * step, y + 0.2 * size, y, size, font, italic and c.isalpha())
        for i, c in enumerate(text)
        if c != " "
    ]


def test_scripts_by_size_and_height() -> None:
    items = put("x", 0, 100) + put("2", 5, 96, 7) + put("+y", 10, 100) + put("ij", 20, 102, 7) + put("=", 28, 100)
    items += put("z", 34, 100) + put("n", 39, 96, 7) + put("k", 39, 103, 7)
    assert latex.write(items, []) == "x^{2} + y_{i j} = z_{k}^{n}"


def test_fractions_in_fractions_and_roots() -> None:
    items = put("a=", 0, 100) + put("b", 22, 92) + put("c", 17, 110) + put("+d", 22, 110)
    assert latex.write(items, [(14, 97, 36, 97.5)]) == "a = \\frac{b}{c + d}"
    nested = put("x", 20, 90) + put("1", 20, 106, 7) + put("2", 20, 116, 7)
    assert latex.write(nested, [(12, 97, 34, 97.5), (19, 108, 26, 108.4)]) == "\\frac{x}{\\frac{1}{2}}"
    small = put("a=", 0, 100) + put("Σ", 24, 92) + put("1-", 14, 111) + put("b", 28, 107, 7) + put("c", 28, 117, 7)
    assert latex.write(small, [(12, 97, 36, 97.5), (26, 108.6, 33, 109)]) == "a = \\frac{\\Sigma}{1 - \\frac{b}{c}}"
    root = put("√", 0, 100) + put("u+v", 6, 100)
    assert latex.write(root, [(5, 91, 22, 91.4)]) == "\\sqrt{u + v}"


def test_operators_with_limits_functions_words_and_symbols() -> None:
    total = (
        put("∑", 20, 100, 14) + put("i=1", 17, 112, 7) + put("N", 21, 86, 7) + put("α", 32, 100) + put("i", 37, 102, 7)
    )
    assert latex.write(total, []) == "\\sum_{i = 1}^{N} \\alpha_{i}"
    smallest = put("min", 0, 100, italic=False) + put("t∈T", 2, 109, 7) + put("f", 20, 100) + put("≤", 26, 100)
    assert latex.write(smallest, []) == "\\min_{t \\in T} f \\leq"
    roman = put("E", 0, 100) + put("loss", 5, 102, 7, italic=False) + put("→R", 22, 100, font="MSBM10")
    assert latex.write(roman, []) == "E_{\\mathrm{loss}} \\to \\mathbb{R}"
    assert symbols.latex("𝑥") == "x"
    assert symbols.latex("ℝ") == "\\mathbb{R}"
    assert symbols.symbol("\x12", "ABCDEF+CMEX10") == "("
    assert symbols.decoded("a ¼ ðb þ cÞ", "AdvP4C4E74") == "a = (b + c)"


def test_rows_are_kept_apart_and_cases_known() -> None:
    rows = put("a=b", 0, 100) + put("c=d", 0, 116)
    assert latex.write(rows, []) == "a = b \\\\ c = d"
    brace = [Item("{", 20, 84, 25, 122, 103, 10, "CMEX10")]
    cases = put("f=", 0, 103) + brace + put("0", 30, 95) + put("1", 30, 113)
    assert latex.write(cases, []) == "f = \\begin{cases} 0 \\\\ 1 \\end{cases}"


def test_a_number_becomes_a_tag_and_doubt_leaves_nothing() -> None:
    box = (0, 80, 300, 120)
    formula = put("a=b", 100, 100) + put("(12)", 270, 100)
    assert equations.read(formula, [], box) == "a = b \\tag{12}"
    assert equations.read(put("a=(b", 100, 100), [], box) == "", "brackets do not match"
    assert equations.read(put("a=\ue001", 100, 100), [], box) == "", "a glyph that is not known"
    assert equations.read(put("nothing", 100, 100, italic=False), [], box) == ""
    struck = [*put("a=b", 100, 100), Item("\u0338", 106, 93, 109, 102, 100, 10)]
    assert equations.read(struck, [], box) == "a \\neq b"


def line(text: str, x0: float, y: float, x1: float, size: float = 10) -> Line:
    return Line(1, x0, y - 0.7 * size, x1, y + 0.2 * size, y, size, "Times", False, False, False, text)


def test_the_pieces_of_a_formula_are_one_line_and_text_is_left_alone() -> None:
    sentence = "The mean of all of the samples on all days is given by the sum"
    prose = [line(sentence, 50, 100, 450), line(sentence, 50, 112, 450), line("n = 12.", 50, 124, 90)]
    pieces = [
        line("a =", 200, 160, 215),
        line("b + c", 220, 153, 245),
        line("d", 230, 168, 235),
        line("(3)", 435, 160, 450),
    ]
    after = [line("where d is the number of samples that were measured on the day", 50, 200, 450)]
    found = displays.gather([*prose, *pieces, *after], [(220, 157, 245, 157.5)], STYLE)
    (formula,) = [one for one in found if one.kind == "equation"]
    assert (formula.x0, formula.x1) == (200, 450)
    assert sorted(formula.text.split()) == sorted(["a", "=", "b", "+", "c", "d", "(3)"])
    assert [one.text for one in found if one.kind is None] == [one.text for one in (*prose, *after)]


def test_two_numbered_formulas_are_two() -> None:
    lines = [
        line("a = b", 200, 160, 240),
        line("(1)", 435, 160, 450),
        line("c = d", 200, 172, 240),
        line("(2)", 435, 172, 450),
    ]
    found = displays.gather(lines, [], STYLE)
    assert sorted(one.text for one in found) == ["a = b (1)", "c = d (2)"]


def draw(page: Any) -> None:
    words = "The mean of all of the samples on all days is given by the sum over the days of the campaign, "
    page.insert_textbox((60, 60, 540, 200), words * 6, fontsize=10, fontname="tiro")
    for text, x, y, size, font in (
        ("E", 260, 240, 10, "tiit"),
        ("=", 270, 240, 10, "tiro"),
        ("m", 283, 233, 10, "tiit"),
        ("v", 291, 233, 10, "tiit"),
        ("2", 296, 229, 7, "tiro"),
        ("2", 288, 248, 10, "tiro"),
        ("(7)", 525, 240, 10, "tiro"),
    ):
        page.insert_text((x, y), text, fontsize=size, fontname=font)
    page.draw_line((282, 237), (301, 237), width=0.4)
    page.insert_textbox((60, 270, 540, 400), words * 6, fontsize=10, fontname="tiro")


def test_a_formula_on_a_page_is_one_block_with_its_latex() -> None:
    pdf = pymupdf.open()
    draw(pdf.new_page(width=600, height=800))
    data = pdf.tobytes()
    document = oreo.parse_pdf(data, "drawn.pdf", "0", FAST)
    found: list[Block] = [block for block in document.blocks if block.kind == "equation"]
    assert len(found) == 1
    with pymupdf.open(stream=data) as again:
        equations.set_latex(again, found, list(reading.read_pages(again, {}, lambda *_: None).pages.values()))
    assert found[0].latex == "E = \\frac{m v^{2}}{2} \\tag{7}"


@pytest.mark.parametrize(
    ("text", "plausible"),
    [
        ("E = m c^{2}", True),
        ("f(x) = \\frac{a}{b} \\\\ (1 + y)", True),
        ("\\sigma_{f (} 2 N_{f )}^{b} = 1", False),
        ("\\exp \\frac{a}{b} \\\\ ( )", False),
        ("(a = b", False),
    ],
)
def test_brackets_that_stand_apart_from_what_they_enclose_are_no_formula(text: str, plausible: bool) -> None:
    assert equations._is_plausible(text, [Item("x", 0, 0, 0, 0, 0, 10, "")] * 20) is plausible
