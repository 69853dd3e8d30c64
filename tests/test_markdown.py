"""Documents as Markdown."""

from __future__ import annotations

from typing import Any

import pytest

from hiperrag.parsing.markdown import figure_names, list_item, table_markdown, to_markdown
from hiperrag.records import Block, BlockKind, Document

BOX = (50.0, 50.0, 300.0, 200.0)


def block(kind: BlockKind, text: str, page: int = 1, **more: Any) -> Block:
    return Block(page, kind, more.pop("bbox", BOX), text, **more)


def document(*blocks: Block, title: str = "") -> Document:
    return Document("id", "a.pdf", title, [], 1, "fast", "1", 1.0, list(blocks))


def test_headings_follow_their_levels_and_running_heads_are_left_out() -> None:
    text = to_markdown(
        document(
            block("header", "Journal of Tests 3 (2020)"),
            block("title", "On testing"),
            block("heading", "1. Methods", level=1),
            block("heading", "1.1. Samples", level=2),
            block("paragraph", "We sampled."),
            block("page_number", "7"),
            block("footer", "Downloaded from here"),
        )
    )
    assert text == "# On testing\n\n## 1. Methods\n\n### 1.1. Samples\n\nWe sampled.\n"


def test_title_of_the_document_stands_in_for_a_missing_block() -> None:
    assert to_markdown(document(block("paragraph", "Text."), title="A title")) == "# A title\n\nText.\n"


def test_title_of_two_blocks_is_one() -> None:
    text = to_markdown(document(block("title", "Oils of"), block("title", "Ocimum"), block("authors", "A. Smith")))
    assert text == "# Oils of Ocimum\n\nA. Smith\n"


def test_paragraph_over_a_page_break_is_joined_before_what_interrupts_it() -> None:
    text = to_markdown(
        document(
            block("paragraph", "It began here and"),
            block("table", "a\tb\nc\td"),
            block("paragraph", "ended with a non-", page=2, continues=True),
            block("paragraph", "stop.", page=2, continues=True),
            block("paragraph", "Another.", page=2),
        )
    )
    assert text == ("It began here and ended with a non-stop.\n\n| a | b |\n| --- | --- |\n| c | d |\n\nAnother.\n")


def test_continuation_without_a_beginning_is_a_paragraph() -> None:
    assert to_markdown(document(block("paragraph", "goes on.", continues=True))) == "goes on.\n"


def test_table_stands_below_its_caption_wherever_that_was() -> None:
    html = "<table><tr><th>n</th><th>x|y</th></tr><tr><td>1</td><td>&lt;0.05</td></tr></table>"
    text = to_markdown(document(block("table", "", html=html), block("caption", "Table 1. Numbers.", about=0)))
    assert text == "Table 1. Numbers.\n\n| n | x\\|y |\n| --- | --- |\n| 1 | <0.05 |\n"


def test_table_with_spans_stays_html_and_rows_of_unequal_length_are_filled() -> None:
    html = '<table><tr><td colspan="2">both</td></tr><tr><td>1</td><td>2</td></tr></table>'
    assert table_markdown(block("table", "", html=html)) == html
    assert table_markdown(block("table", "a\tb\nc")) == "| a | b |\n| --- | --- |\n| c |  |"
    assert table_markdown(block("table", " \n")) == ""


def test_figure_is_a_picture_with_its_caption_and_stray_labels_are_left_out() -> None:
    given = document(
        block("figure", "", page=3),
        block("caption", "Figure 1. Rates [%].", page=3, about=0),
        block("figure", "0.5", page=3, bbox=(60.0, 60.0, 70.0, 66.0)),
        block("figure", "", page=3),
    )
    assert figure_names(given) == {0: "figure-3-1.png", 3: "figure-3-2.png"}
    assert to_markdown(given) == "![Figure 1. Rates \\[%\\].](figure-3-1.png)\n\n![](figure-3-2.png)\n"


def test_caption_of_nothing_is_text() -> None:
    assert to_markdown(document(block("caption", "Figure 2. Lost."))) == "Figure 2. Lost.\n"


def test_equations_are_latex_or_their_text_and_stay_in_their_place() -> None:
    text = to_markdown(
        document(
            block("paragraph", "Energy is"),
            block("equation", "E=mc2", latex="E = mc^2"),
            block("paragraph", "as known.", continues=True),
            block("equation", "a=b"),
        )
    )
    assert text == "Energy is\n\n$$\nE = mc^2\n$$\n\nas known.\n\na=b\n"


def test_code_is_fenced_by_more_marks_than_it_holds() -> None:
    text = to_markdown(document(block("code", "print(1)\n```\n  x")))
    assert text == "````\nprint(1)\n```\n  x\n````\n"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("• first", "- first"),
        ("(2) second one", "2. second one"),
        ("3. third", "3. third"),
        ("bare", "- bare"),
        ("2020 was a year", "- 2020 was a year"),
    ],
)
def test_list_items_get_markdowns_marks(given: str, wanted: str) -> None:
    assert list_item(given) == wanted


def test_items_stand_together_and_footnotes_behind_their_section() -> None:
    text = to_markdown(
        document(
            block("list", "• a"),
            block("footnote", "1 A note."),
            block("list", "• b"),
            block("heading", "References", level=1),
            block("reference", "[1] One, A. 2001."),
            block("reference", "Two, B. 2002."),
        )
    )
    assert text == "- a\n- b\n\n1 A note.\n\n## References\n\n1. One, A. 2001.\n- Two, B. 2002.\n"


def test_text_of_a_pdf_makes_no_html_headings_or_emphasis() -> None:
    text = to_markdown(
        document(
            block("paragraph", "# not a heading <script>alert(1)</script> p<0.05"),
            block("paragraph", "a *b* snake_case _c_ 2 * 3 * 4"),
        )
    )
    assert text == ("\\# not a heading &lt;script>alert(1)&lt;/script> p<0.05\n\na \\*b* snake_case \\_c_ 2 * 3 * 4\n")


def test_an_empty_document_is_an_empty_text() -> None:
    assert to_markdown(document()) == ""
    assert to_markdown(document(block("header", "x"), block("paragraph", "  "))) == ""
