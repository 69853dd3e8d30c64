"""Pictures of parsed pages: colours at known places, arrows, turned and odd pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hiperrag.parsing import reading, render
from hiperrag.records import BBox, Block, Document, PageRecord

pymupdf = reading.load_pymupdf()
DPI = 144
SCALE = DPI / 72


def _document(blocks: list[Block], n_pages: int = 1) -> Document:
    return Document(
        doc_id="0123456789abcdef",
        source="folder/some paper.pdf",
        title="",
        authors=[],
        n_pages=n_pages,
        parser="fast",
        parser_version="1",
        quality=1.0,
        blocks=blocks,
        pages=[PageRecord(1, 612.0, 792.0, "text", "text layer", 1.0)],
    )


def _blank(width: float = 612, height: float = 792, rotation: int = 0) -> Any:
    pdf = pymupdf.open()
    pdf.new_page(width=width, height=height).set_rotation(rotation)
    return pdf


def _colour(picture: Any, x: float, y: float) -> tuple[float, ...]:
    """Colour at a point of the page, 0..1."""
    return tuple(value / 255 for value in picture.pixel(round(x * SCALE), round(y * SCALE))[:3])


def _is_like(found: tuple[float, ...], colour: render.Colour) -> bool:
    return max(abs(a - b) for a, b in zip(found, colour, strict=True)) < 0.2


def _drawn(blocks: list[Block], pdf: Any = None) -> Any:
    return pymupdf.Pixmap(render.render(pdf or _blank(), _document(blocks), 1, DPI))


@pytest.mark.parametrize("kind", list(render.STYLES))
def test_a_box_has_its_kinds_colour_and_leaves_the_text_readable(kind: Any) -> None:
    picture = _drawn([Block(1, kind, (100, 200, 300, 260), "text")])
    colour = render.STYLES[kind][1]
    edge = [_colour(picture, 200, 200 + step / 4) for step in range(-4, 5)]
    inside = _colour(picture, 200, 230)
    outside = _colour(picture, 200, 300)
    assert any(found == pytest.approx(colour, abs=0.06) for found in edge)
    assert inside == pytest.approx(tuple(0.9 + 0.1 * value for value in colour), abs=0.03)
    assert outside == (1, 1, 1)


def test_every_kind_has_a_colour_of_its_own() -> None:
    colours = [colour for _, colour in render.STYLES.values()]
    apart = [
        sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5
        for i, one in enumerate(colours)
        for other in colours[:i]
    ]
    assert min(apart) > 0.12


def test_the_tag_stands_left_of_the_box_and_the_legend_below_the_page() -> None:
    picture = _drawn([Block(1, "heading", (100, 200, 300, 212), "Methods", level=2)])
    tag = [_colour(picture, x, y) for x in range(80, 99) for y in range(201, 206)]
    assert sum(_is_like(found, render.STYLES["heading"][1]) for found in tag) > len(tag) / 4
    assert picture.height > 792 * SCALE + 20
    strip = {
        picture.pixel(x, y)[:3] for x in range(0, picture.width, 3) for y in range(round(793 * SCALE), picture.height)
    }
    for kind, (_, colour) in render.STYLES.items():
        wanted = tuple(255 * value for value in colour)
        assert any(max(abs(a - b) for a, b in zip(wanted, found, strict=True)) <= 2 for found in strip), kind


@pytest.mark.parametrize("figure", [(100, 100, 300, 380), (100, 460, 300, 600), (350, 400, 500, 500)])
def test_an_arrow_leads_from_a_caption_to_its_figure(figure: BBox) -> None:
    """Above, below, beside: the gap between the boxes is crossed by the caption's colour only where they are tied."""
    caption = (100, 400, 300, 440)
    gap = {380: (200, 390), 600: (200, 450), 500: (325, 420)}[int(figure[3])]
    for about in (0, -1):
        blocks = [Block(1, "figure", figure, ""), Block(1, "caption", caption, "Figure 1", about=about)]
        picture = _drawn(blocks)
        near = [_colour(picture, gap[0] + dx, gap[1] + dy) for dx in range(-8, 9) for dy in range(-8, 9)]
        assert any(_is_like(found, render.STYLES["caption"][1]) for found in near) == (about == 0)


def test_tags_tell_order_level_continuation_and_where_a_caption_points() -> None:
    blocks = [
        Block(1, "table", (0, 0, 10, 10), ""),
        Block(2, "heading", (0, 0, 10, 10), "Results", level=2),
        Block(2, "paragraph", (0, 20, 10, 30), "goes on", continues=True),
        Block(2, "caption", (0, 40, 10, 50), "Table 1", about=0),
    ]
    assert [render._tag(block, order, blocks) for order, block in enumerate(blocks[1:], 1)] == [
        "1 head2",
        "2+ para",
        "3 cap > p.1",
    ]


def test_a_turned_page_is_drawn_as_it_is_displayed() -> None:
    picture = _drawn([Block(1, "figure", (600, 300, 700, 500), "")], _blank(rotation=90))
    assert picture.width == round(792 * SCALE)
    edge = [_colour(picture, 650, 300 + step / 4) for step in range(-4, 5)]
    assert any(found == pytest.approx(render.STYLES["figure"][1], abs=0.06) for found in edge)


@pytest.mark.parametrize(("width", "height"), [(5, 5), (14400, 200), (30, 9000)])
def test_odd_pages_are_drawn_within_bounds(width: float, height: float) -> None:
    picture = _drawn([Block(1, "paragraph", (width, height, -width, 0), "x")], _blank(width, height))
    assert 0 < picture.width <= render.MAX_PIXELS + 1
    assert picture.height <= 2 * render.MAX_PIXELS


def test_files_are_written_by_page_and_a_missing_page_is_refused(tmp_path: Path) -> None:
    pdf = pymupdf.open()
    for _ in range(3):
        pdf.new_page()
    document = _document([Block(2, "title", (10, 10, 90, 30), "x")], n_pages=3)
    files = render.write(pdf.tobytes(), document, tmp_path, dpi=40)
    assert [file.name for file in files] == ["page-0001.png", "page-0002.png", "page-0003.png"]
    assert {file.parent.name for file in files} == {"some_paper-01234567"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    with pytest.raises(ValueError, match="no page 4"):
        render.render(pdf, document, 4)
