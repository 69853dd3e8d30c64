"""The layout model: boxes and kinds on planted pages, agreement with the network as it was exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiperrag.errors import UserError
from hiperrag.parsing import assembly, blocks, evidence, lines, onnx_graph, reading, vision
from hiperrag.records import BBox, Block

needs_model = pytest.mark.skipif(not vision.is_installed(), reason="the extra hiperrag[layout] is not installed")

PROSE = (
    "Token vectors of a passage are compared with those of a question, and the best match of each is summed. "
    "Candidates come from lists of nearby centroids, so that few passages have to be scored in full. "
)
WHERE: dict[str, BBox] = {
    "title": (72, 60, 540, 110),
    "paragraph": (72, 130, 540, 215),
    "table": (100, 270, 500, 400),
    "figure": (150, 450, 450, 650),
}


def _planted_page(pdf: Any, rotation: int = 0) -> Any:
    pymupdf = reading.load_pymupdf()
    page = pdf.new_page(width=612, height=792)
    page.insert_textbox(WHERE["title"], "Late Interaction at the Speed of Light", fontname="tibo", fontsize=20, align=1)
    assert page.insert_textbox(WHERE["paragraph"], PROSE * 3, fontname="tiro", fontsize=10, align=3) > 0
    page.insert_text((100, 265), "Table 1: Passages a second by encoder.", fontname="tiro", fontsize=9)
    x0, y0, x1, y1 = WHERE["table"]
    for row in range(7):
        y = y0 + row * (y1 - y0) / 7
        page.draw_line((x0, y), (x1, y))
        for column in range(4):
            page.insert_text((x0 + 10 + 100 * column, y + 13), f"{row * column * 1.7 + 3:.2f}", fontsize=9)
    page.draw_line((x0, y1), (x1, y1))
    noise = np.random.default_rng(7).integers(0, 256, (50, 75, 3), np.uint8)
    image = pymupdf.Pixmap(pymupdf.csRGB, 75, 50, noise.tobytes(), False)
    page.insert_image(WHERE["figure"], pixmap=image)
    page.insert_text((150, 665), "Figure 1: A photograph of a passage under a lens.", fontname="tiro", fontsize=9)
    page.set_rotation(rotation)
    return page


def _overlap(a: BBox, b: BBox) -> float:
    """Intersection over union."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


@needs_model
def test_planted_regions_are_found_where_they_are() -> None:
    with reading.load_pymupdf().open() as pdf:
        found = vision.load().detect_pages([_planted_page(pdf)])[0]
    for kind in ("table", "figure"):
        assert any(d.kind == kind and _overlap(d.bbox, WHERE[kind]) > 0.8 for d in found), kind
    assert any(d.kind == "paragraph" and _overlap(d.bbox, WHERE["paragraph"]) > 0.5 for d in found)
    heads = [d for d in found if d.kind in ("title", "heading")]
    assert any(60 < d.bbox[1] < 90 and d.bbox[3] < 115 for d in heads)
    assert any(d.kind == "caption" and 250 < d.bbox[1] < 670 for d in found)
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)


@needs_model
def test_boxes_are_those_of_the_page_as_it_is_displayed() -> None:
    """A page turned into landscape has landscape boxes; an upright picture turned by the page's rotation moves."""
    with reading.load_pymupdf().open() as pdf:
        page = _planted_page(pdf, rotation=90)
        found = vision.load().detect_pages([page])[0]
        x0, y0, x1, y1 = WHERE["figure"]
        turned = (page.rect.width - y1, x0, page.rect.width - y0, x1)
    assert any(d.kind == "figure" and _overlap(d.bbox, turned) > 0.8 for d in found)


@needs_model
def test_pages_of_several_sizes_keep_their_order() -> None:
    with reading.load_pymupdf().open() as pdf:
        _planted_page(pdf)
        pdf.new_page(width=1200, height=300)
        _planted_page(pdf)
        first, empty, last = vision.load().detect_pages(list(pdf))
    assert empty == []
    assert first
    assert first == last


@needs_model
def test_the_cut_network_agrees_with_the_exported_one() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    file = vision._model_file()
    whole = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    with reading.load_pymupdf().open() as pdf:
        shown = vision.picture(_planted_page(pdf), 1024)
    image = np.full((1, 3, 1024, 1024), vision.GREY / 255, np.float32)
    height, width = shown.pixels.shape[:2]
    image[0, :, :height, :width] = shown.pixels.transpose(2, 0, 1) / np.float32(255)
    square = vision.Picture((image[0].transpose(1, 2, 0) * 255).round().astype(np.uint8), 1024.0, 1024.0)
    found = vision.load().detect([square])[0]
    boxes = whole.run(None, {"images": image})[0][0]
    best = boxes[4:].max(axis=0).argmax()
    x, y, w, h = boxes[:4, best]
    assert found[0].score == pytest.approx(float(boxes[4:, best].max()), abs=2e-3)
    assert vision.KINDS.index(found[0].kind) == boxes[4:, best].argmax()
    assert found[0].bbox == pytest.approx((x - w / 2, y - h / 2, x + w / 2, y + h / 2), abs=1.0)


@needs_model
def test_a_sideways_page_is_seen_upright_and_its_boxes_lie_on_the_page() -> None:
    """The same planted page, its contents turned: text that runs up or down the page."""
    with reading.load_pymupdf().open() as upright, reading.load_pymupdf().open() as pdf:
        _planted_page(upright)
        for quarter in (90, 270):
            page = pdf.new_page(width=792, height=612)
            page.show_pdf_page(page.rect, upright, 0, rotate=quarter)
        found = vision.load().detect_pages(list(pdf), [1, 3])
        x0, y0, x1, y1 = WHERE["table"]
    for boxes, turned in zip(found, [(y0, 612 - x1, y1, 612 - x0), (792 - y1, x0, 792 - y0, x1)], strict=True):
        assert any(d.kind == "table" and _overlap(d.bbox, turned) > 0.8 for d in boxes)


@pytest.mark.parametrize(
    ("turn", "size", "box"),
    [
        (0, (100, 200), (10, 40, 30, 80)),
        (1, (200, 100), (40, 70, 80, 90)),
        (2, (100, 200), (70, 120, 90, 160)),
        (3, (200, 100), (120, 10, 160, 30)),
    ],
)
def test_a_box_of_a_turned_picture_comes_back_to_the_page(turn: int, size: tuple[float, float], box: BBox) -> None:
    """A mark in an upright picture of 200 by 400 pixels, on the page before it was turned."""
    shown = vision.Picture(np.zeros((400, 200, 3), np.uint8), *size, turn)
    assert shown.page_bbox(20, 80, 60, 160) == pytest.approx(box)


def test_what_is_seen_moves_the_doubtful_kind_and_not_the_sure_one() -> None:
    box = (50.0, 100.0, 250.0, 110.0)
    heading = [vision.Detection("heading", (48.0, 98.0, 252.0, 112.0), 0.9)]
    factors = evidence.weights(box, heading)
    assert set(factors) == set(evidence.SEEN)
    doubtful = {"heading": 0.3, "paragraph": 0.6}
    sure = {"heading": 0.003, "paragraph": 0.99}
    assert doubtful["heading"] * factors["heading"] > doubtful["paragraph"] * factors["paragraph"]
    assert sure["heading"] * factors["heading"] < sure["paragraph"] * factors["paragraph"]
    # The model sees entries of a bibliography as list items.
    items = evidence.weights(box, [vision.Detection("list", box, 0.9)])
    assert max(items, key=lambda kind: items[kind]) == "reference"


def test_a_detection_elsewhere_or_too_faint_says_nothing() -> None:
    box = (50.0, 100.0, 250.0, 110.0)
    nothing = evidence.weights(box, [])
    for other in (vision.Detection("table", (50, 200, 250, 210), 0.99), vision.Detection("table", box, 0.1)):
        assert evidence.weights(box, [other]) == nothing
    assert evidence.covered(box, (150.0, 0.0, 400.0, 400.0)) == pytest.approx(0.5)
    assert evidence.covered((5, 5, 5, 5), box) == 0.0


def test_a_page_in_pieces_or_with_a_lost_caption_is_worth_a_look() -> None:
    cells = [Block(1, "figure", (0, 0, 1, 1), "0.5")] * (evidence.MAX_PIECES + 1)
    photographs = [Block(1, "figure", (0, 0, 1, 1), "")] * 20
    tied, lost = (Block(1, "caption", (0, 0, 1, 1), "Figure 1", about=about) for about in (0, -1))
    assert evidence.is_fragmented(cells)
    assert evidence.is_fragmented([lost])
    assert not evidence.is_fragmented([*photographs, *cells[1:], tied])
    assert not evidence.is_fragmented([])


def test_a_table_that_only_the_model_sees_becomes_one() -> None:
    """Rows of cells without rules or caption, between paragraphs; the model's box is where they are, or too faint."""
    with reading.load_pymupdf().open() as pdf:
        page = pdf.new_page()
        for y in (72, 400):
            assert page.insert_textbox((72, y, 540, y + 90), PROSE * 3, fontname="tiro", fontsize=10) > 0
        for row in range(6):
            for column, x in enumerate((100, 230, 390)):
                page.insert_text((x, 220 + 22 * row), f"value {row}.{column}", fontname="tiro", fontsize=10)
        page = lines.page_lines(page.get_text("dict"), 1)
    box = (95.0, 205.0, 460.0, 335.0)

    def tables(score: float) -> list[str]:
        found = assembly.assemble([page], {}, {1: [vision.Detection("table", box, score)]})
        return [block.text for block in found.blocks if block.kind == "table"]

    assert tables(0.9) == ["\n".join("\t".join(f"value {row}.{column}" for column in range(3)) for row in range(6))]
    assert not any("\n" in text or "\t" in text for text in tables(0.4))


def test_every_kind_the_trees_tell_apart_has_its_shares() -> None:
    assert set(evidence.SEEN) == set(blocks.CLASSES)
    for kind, shares in evidence.SEEN.items():
        assert len(shares) == len(vision.KINDS) + 1
        assert 0.9 < sum(shares) < 1.1, kind


def test_of_overlapping_boxes_the_surest_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 20, 10, 30], [0, 0, 30, 30]], np.float32)
    scores = np.array([0.6, 0.9, 0.3, 0.5], np.float32)
    assert vision._surest(boxes, scores) == [1, 3, 2]


def test_without_the_package_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "PACKAGE", "a-package-nobody-has")
    assert not vision.is_installed()
    with pytest.raises(UserError, match=r"hiperrag\[layout\]") as caught:
        vision.load.__wrapped__()
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    for content in (b"", b"not a model at all", b"\x3a\x05abc"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="cannot be used"):
            vision.LayoutModel(file)


def test_the_graph_keeps_only_what_the_outputs_need() -> None:
    """A model of three nodes, x -> a -> b and x -> c, cut at b."""

    def node(source: str, target: str) -> bytes:
        return onnx_graph._message(1, source.encode()) + onnx_graph._message(2, target.encode())

    graph = b"".join(onnx_graph._message(1, node(*pair)) for pair in (("x", "a"), ("a", "b"), ("x", "c")))
    model = onnx_graph._message(7, graph)
    cut = dict(onnx_graph._fields(onnx_graph.cut(model, "x", ["b"])))[7]
    assert isinstance(cut, bytes)
    nodes = [value for number, value in onnx_graph._fields(cut) if number == 1]
    assert nodes == [node("x", "a"), node("a", "b")]
    with pytest.raises(ValueError, match="no node makes d"):
        onnx_graph.cut(model, "x", ["d"])
    with pytest.raises(ValueError, match="do not depend on y"):
        onnx_graph.cut(model, "y", ["b"])
