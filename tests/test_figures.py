"""Figures and captions of pages drawn here: where they are found, what belongs to them, which goes with which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pymupdf
import pytest

from hiperrag.parsing import captions, figures, matching, oreo
from hiperrag.parsing.graphics import page_graphics
from hiperrag.parsing.lines import Page
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.streams import streams_of
from hiperrag.records import BBox, Block, Document

PROSE = (
    "The measurements were repeated on three days with the same samples and the same instrument, and the mean of "
    "all of them is given here together with the deviation between the days of the campaign. "
)

FAST = ParseOptions("fast")


def text(page: Any, box: BBox, content: str, size: float = 10, font: str = "tiro") -> None:
    assert page.insert_textbox(box, content, fontsize=size, fontname=font) >= 0


def plot(page: Any, box: BBox) -> None:
    """Axes, a curve and labels."""
    x0, y0, x1, y1 = box
    page.draw_line((x0, y1), (x1, y1))
    page.draw_line((x0, y0), (x0, y1))
    page.draw_bezier((x0, y1), (x0 + 40, y0), (x1 - 40, y1), (x1, y0), width=2)
    for step in range(5):
        page.insert_text((x0 + step * (x1 - x0) / 4.2, y1 + 9), str(step * 10), fontsize=7, fontname="helv")
    page.insert_text(((x0 + x1) / 2 - 15, y1 + 19), "Time (s)", fontsize=7, fontname="helv")
    page.insert_text((x0 - 6, (y0 + y1) / 2 + 15), "Height (m)", fontsize=7, fontname="helv", rotate=90)


def parsed(*draw: Callable[[Any], None]) -> Document:
    pdf = pymupdf.open()
    for one in draw:
        one(pdf.new_page(width=600, height=800))
    return oreo.parse_pdf(pdf.tobytes(), "drawn.pdf", "0", FAST)


def of_kind(document: Document, kind: str) -> list[Block]:
    return [block for block in document.blocks if block.kind == kind]


def covers(outer: BBox, inner: BBox, slack: float = 3) -> bool:
    return all(a <= b + slack for a, b in zip(outer[:2], inner[:2], strict=True)) and all(
        a >= b - slack for a, b in zip(outer[2:], inner[2:], strict=True)
    )


def one_figure(page: Any) -> None:
    text(page, (60, 60, 540, 200), "1 Results\n" + PROSE * 5)
    plot(page, (150, 230, 450, 380))
    text(
        page, (60, 410, 540, 440), "Figure 1. Height of the column over time in all three samples of the first day.", 8
    )
    text(page, (60, 460, 540, 740), PROSE * 9)


def test_a_figure_is_one_block_with_its_labels_and_its_caption() -> None:
    document = parsed(one_figure)
    (figure,) = of_kind(document, "figure")
    assert covers(figure.bbox, (150, 230, 450, 380))
    assert figure.bbox[0] < 146, "the label of an axis belongs to it"
    assert 395 < figure.bbox[3] < 412, "its caption does not"
    assert "Time (s)" in figure.text
    body = " ".join(block.text for block in document.blocks if block.kind in ("paragraph", "heading"))
    assert "Time (s)" not in body
    assert "Height (m)" not in body
    (caption,) = of_kind(document, "caption")
    assert caption.text.startswith("Figure 1.")
    assert document.blocks[caption.about] is figure


def test_the_panels_of_one_caption_are_one_figure_and_two_captions_make_two() -> None:
    def draw(page: Any) -> None:
        text(page, (60, 30, 540, 130), PROSE * 3)
        plot(page, (90, 140, 270, 230))
        plot(page, (350, 140, 530, 230))
        text(page, (60, 260, 540, 280), "Figure 1. Two panels of one figure, (a) and (b).", 8)
        text(page, (60, 290, 540, 395), PROSE * 4)
        plot(page, (150, 410, 450, 520))
        text(page, (60, 550, 540, 570), "Figure 2. Another figure on the same page.", 8)
        text(page, (60, 590, 540, 700), PROSE * 4)

    document = parsed(draw)
    first, second = of_kind(document, "figure")
    assert covers(first.bbox, (90, 140, 530, 230))
    assert first.bbox[3] < 262
    assert covers(second.bbox, (150, 410, 450, 520))
    one, two = of_kind(document, "caption")
    assert [document.blocks[one.about], document.blocks[two.about]] == [first, second]


def test_captions_above_their_figures_are_tied_to_what_is_under_them() -> None:
    def draw(page: Any) -> None:
        for number, top in ((1, 60), (2, 380)):
            text(page, (60, top, 540, top + 18), f"Figure {number}. A caption set over its figure, as some do.", 8)
            plot(page, (150, top + 30, 450, top + 150))
            text(page, (60, top + 190, 540, top + 290), PROSE * 4)

    document = parsed(draw)
    for caption, top in zip(of_kind(document, "caption"), (60, 380), strict=True):
        assert covers(document.blocks[caption.about].bbox, (150, top + 30, 450, top + 150))


def test_logos_banners_backgrounds_and_frames_of_text_are_no_figures() -> None:
    def draw(page: Any) -> None:
        page.draw_rect((0, 0, 600, 800), fill=(0.95, 0.95, 1), color=None)
        page.draw_rect((0, 0, 600, 40), fill=(0.2, 0.3, 0.6), color=None)
        logo = pymupdf.Pixmap(pymupdf.csRGB, (0, 0, 30, 30))
        page.insert_image((500, 5, 530, 35), pixmap=logo)
        page.draw_rect((55, 95, 545, 235), fill=(1, 1, 0.8))
        text(page, (60, 100, 540, 230), PROSE * 5)
        text(page, (60, 260, 540, 700), PROSE * 12)

    document = parsed(draw, draw)
    assert of_kind(document, "figure") == []
    assert "".join(b.text for b in of_kind(document, "paragraph")).count("deviation between the days") == 34


def test_cards_with_text_and_formulas_are_no_figure() -> None:
    def draw(page: Any) -> None:
        shadow = pymupdf.Pixmap(pymupdf.csRGB, (0, 0, 60, 60))
        for x in (50, 310):
            for y in (100, 400):
                page.insert_image((x, y, x + 240, y + 260), pixmap=shadow, keep_proportion=False)
                page.draw_rect((x + 3, y + 3, x + 237, y + 257), fill=(1, 1, 1), color=None)
                text(page, (x + 10, y + 120, x + 230, y + 250), PROSE)

    document = parsed(draw)
    assert of_kind(document, "figure") == []
    assert "".join(block.text for block in document.blocks).count("deviation between the days") == 4


def test_a_caption_without_a_drawing_gets_the_empty_area_above_it() -> None:
    def draw(page: Any) -> None:
        text(page, (60, 60, 540, 200), PROSE * 5)
        text(page, (60, 410, 540, 440), "Figure 1. What was drawn here cannot be seen in the file.", 8)
        text(page, (60, 460, 540, 740), PROSE * 9)

    document = parsed(draw)
    (caption,) = of_kind(document, "caption")
    figure = document.blocks[caption.about]
    assert (figure.kind, figure.text) == ("figure", "")
    assert figure.bbox[1] < 220
    assert 400 < figure.bbox[3] < 414


def test_a_caption_on_the_facing_page_and_tables_beside_figures() -> None:
    blocks = [
        Block(1, "figure", (100, 100, 500, 700), "a"),
        Block(2, "caption", (60, 60, 540, 80), "Figure 1. On the facing page."),
        Block(2, "paragraph", (60, 90, 540, 300), PROSE),
        Block(2, "caption", (60, 320, 300, 340), "Table 1 | Of numbers."),
        Block(2, "table", (60, 345, 300, 500), "1\t2"),
        Block(2, "figure", (320, 310, 540, 460), "b"),
        Block(2, "caption", (320, 470, 540, 500), "Figure 2. Beside the table."),
    ]
    tied = captions.tie(blocks, [Page(n, 600, 800, 0, [], []) for n in (1, 2)])
    assert [b.about for b in tied if b.kind == "caption"] == [0, 4, 5]


def test_what_goes_on_under_a_caption_is_joined_to_it_and_takes_no_figure() -> None:
    blocks = [
        Block(1, "figure", (60, 60, 540, 200), "a"),
        Block(1, "caption", (60, 210, 540, 230), "Figure 1. Two panels."),
        Block(1, "caption", (60, 232, 540, 245), "(b) The height of the column over time."),
        Block(1, "figure", (60, 250, 540, 400), "b"),
        Block(1, "caption", (60, 410, 540, 430), "Figure 2. Another one."),
    ]
    tied = captions.tie(blocks, [Page(1, 600, 800, 0, [], [])])
    found = [(b.text, b.about) for b in tied if b.kind == "caption"]
    assert found == [
        ("Figure 1. Two panels. (b) The height of the column over time.", 0),
        ("Figure 2. Another one.", 2),
    ]


def test_streams_take_the_captions_word_for_what_it_is_about() -> None:
    blocks = [
        Block(1, "caption", (60, 60, 540, 80), "Table 1. Not the next one.", about=3),
        Block(1, "figure", (60, 90, 540, 200), "label"),
        Block(1, "caption", (60, 210, 540, 230), "Figure 1. A figure.", about=1),
        Block(1, "table", (60, 240, 540, 400), "1\t2"),
        Block(1, "table", (60, 410, 540, 500), "3\t4"),
        Block(1, "caption", (60, 510, 540, 520), "Table 2. Below.", about=4),
    ]
    found = [(stream.kind, stream.text, stream.attached) for stream in streams_of(blocks)]
    assert found == [
        ("table", "Table 1. Not the next one.\n\n1\t2", []),
        ("caption", "Figure 1. A figure.", [blocks[1]]),
        ("table", "Table 2. Below.\n\n3\t4", []),
    ]


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_boxes_are_those_of_the_page_as_displayed_and_the_crop_shows_the_figure(rotation: int) -> None:
    pdf = pymupdf.open()
    page = pdf.new_page(width=600, height=800)
    one_figure(page)
    page.draw_rect((200, 260, 400, 360), fill=(1, 0, 0), color=None)
    page.set_cropbox(pymupdf.Rect(20, 30, 590, 790))
    page.set_rotation(rotation)
    data = pdf.tobytes()
    document = oreo.parse_pdf(data, "drawn.pdf", "0", FAST)
    (figure,) = of_kind(document, "figure")
    with pymupdf.open(stream=data) as again:
        assert covers((0, 0, *again[0].rect[2:]), figure.bbox)
        (shape,) = [box for box in page_graphics(again[0]).shapes if (box[2] - box[0]) * (box[3] - box[1]) == 20000]
        assert covers(figure.bbox, shape)
        picture = pymupdf.Pixmap(figures.crop(again, figure, dpi=72))
        red = sum(
            picture.pixel(x, y) == (255, 0, 0) for x in range(0, picture.width, 4) for y in range(0, picture.height, 4)
        )
    assert red * 16 == pytest.approx(20000, rel=0.1)
    assert picture.width * picture.height < 0.4 * 570 * 760


def test_the_cheapest_assignment_gives_up_a_good_pair_for_a_better_whole() -> None:
    edges = {(0, 10): 1.0, (0, 11): 2.0, (1, 10): 2.0, (1, 11): 50.0, (2, 12): 3.0}
    assert matching.cheapest(edges) == {0: 11, 1: 10, 2: 12}
    assert matching.cheapest({(0, 1): 5.0, (2, 1): 1.0}) in ({0: 1}, {2: 1})
    assert matching.cheapest({}) == {}


def test_labels_in_running_text_are_no_captions() -> None:
    def draw(page: Any) -> None:
        one_figure(page)
        first = "As was shown for the first sample before, the result is the one that is given in"
        text(page, (60, 745, 540, 775), f"{first}\nFigure 1. It does not depend on the day of the measurement at all.")

    document = parsed(draw)
    assert len(of_kind(document, "caption")) == 1
