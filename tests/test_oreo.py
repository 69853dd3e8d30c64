"""Oreo: routes of pages, recognition under a budget, and what becomes of pages that cannot be read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from collection_helpers import SENTENCES, InlinePool, index, stages_run, use_inline_pool

from hiperrag.collection import Collection
from hiperrag.parsing import oreo, vision
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.reading import load_pymupdf
from hiperrag.parsing.recognition import engines
from hiperrag.records import Document, read_documents
from hiperrag.workflows.settings import ParseSettings, PartSettings

needs_engine = pytest.mark.skipif(
    not engines.available(), reason="no OCR engine is installed (apt-get install tesseract-ocr, or the extra ocr)"
)
WORDS = (
    "The lichens on the northern wall grew half as fast in the dry years as before. ",
    "Copper in the rain water was measured every week with an ion selective electrode. ",
    "No bats were seen above the tree line although the traps stood there all summer. ",
    "The bridge was closed for repairs when two of its cables showed signs of rust. ",
)


def written(words: str) -> bytes:
    """A PDF of one page of text that begins with these words."""
    pdf = load_pymupdf().open()
    rest = " ".join(SENTENCES[WORDS.index(words) :: 4])
    pdf.new_page(width=300, height=420).insert_textbox((40, 40, 260, 400), words + rest, fontsize=11)
    return bytes(pdf.tobytes())


def scanned(*pages: bytes, dpi: int = 150) -> bytes:
    """A PDF with a picture of each page; b"" is a blank page."""
    pdf = load_pymupdf().open()
    for data in pages:
        page = pdf.new_page(width=300, height=420)
        if data:
            with load_pymupdf().open(stream=data, filetype="pdf") as original:
                page.insert_image(page.rect, pixmap=original[0].get_pixmap(dpi=dpi))
    return bytes(pdf.tobytes(garbage=4, deflate=True))


def joined(*files: bytes) -> bytes:
    """One PDF of several."""
    pdf = load_pymupdf().open()
    for data in files:
        with load_pymupdf().open(stream=data, filetype="pdf") as original:
            pdf.insert_pdf(original)
    return bytes(pdf.tobytes())


def parse(data: bytes, **options: object) -> Document:
    return oreo.parse_pdf(data, "x.pdf", "id", ParseOptions(**options))  # type: ignore[arg-type]


def routes(document: Document) -> list[tuple[str, str]]:
    return [(page.route, page.reason) for page in document.pages]


def text(document: Document) -> str:
    return " ".join(block.text for block in document.blocks)


@needs_engine
def test_only_pages_without_a_good_text_layer_are_recognised() -> None:
    announced: list[tuple[int, int]] = []
    data = joined(written(WORDS[0]), scanned(written(WORDS[1])), written(WORDS[2]))
    document = oreo.parse_pdf(data, "x.pdf", "id", on_page=lambda *step: announced.append(step))
    assert [page.route for page in document.pages] == ["text", "ocr", "text"]
    assert [page.page for page in document.pages] == [1, 2, 3]
    assert engines.available()[0] in document.pages[1].reason
    assert [page.quality for page in document.pages] == [1.0, 0.0, 1.0]
    assert document.quality == pytest.approx(2 / 3)
    assert "Copper in the rain water was measured every week" in text(document)
    assert "lichens on the northern wall" in text(document)
    assert announced == [(1, 0), (2, 0), (3, 0), (0, 0), (2, 1), (0, 0)]
    [block] = [block for block in document.blocks if block.page == 2 and "Copper" in block.text]
    assert 30 < block.bbox[0] < 50
    assert 35 < block.bbox[1] < 60, "boxes are in points of the page"


@needs_engine
def test_only_the_pages_that_may_be_are_recognised() -> None:
    data = scanned(*map(written, WORDS[:3]))
    document = parse(data, recognise=(2,))
    assert [route for route, _ in routes(document)] == ["text", "ocr", "text"]
    assert "over the OCR budget" in document.pages[0].reason
    assert "Copper" in text(document)
    assert "lichens" not in text(document)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"parser": "fast"}, "--parser auto"),
        ({"engine": "none"}, "no text layer"),
        ({"recognise": ()}, "over the OCR budget"),
    ],
)
def test_a_scan_that_may_not_be_recognised_says_why(options: dict[str, object], why: str) -> None:
    with pytest.raises(ParseError, match=why) as refused:
        parse(scanned(written(WORDS[0])), **options)
    assert refused.value.error == "no_text"


def test_without_an_engine_the_reason_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "available", lambda: [])
    with pytest.raises(ParseError, match=r"apt-get install tesseract-ocr .*pip install 'hiperrag\[ocr\]'"):
        parse(scanned(written(WORDS[0])))
    document = parse(joined(written(WORDS[1]), scanned(written(WORDS[0]))))
    assert "no OCR engine is installed" in document.pages[1].reason
    assert "Copper" in text(document), "the rest of the document is kept"


def test_blank_pages_need_no_recognition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "load", lambda *_: pytest.fail("an engine was loaded"))
    document = parse(joined(written(WORDS[0]), scanned(b"")))
    assert [page.quality for page in document.pages] == [1.0, 1.0]
    with pytest.raises(ParseError, match="blank"):
        parse(scanned(b"", b""))


@pytest.mark.skipif(not vision.is_installed(), reason=vision.MISSING)
@pytest.mark.parametrize("parser", ["auto", "fast"])
def test_where_a_gpu_makes_it_cheap_every_page_is_shown_to_the_layout_model(
    parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = joined(written(WORDS[0]), written(WORDS[1]))
    alone = parse(data, parser=parser)
    assert [page.route for page in alone.pages] == ["text", "text"]
    monkeypatch.setattr(vision, "is_cheap", lambda: True)
    pages = parse(data, parser=parser).pages
    assert [page.route for page in pages] == ["vision" if parser == "auto" else "text"] * 2
    assert all(page.reason.endswith("layout model (on a GPU)") == (parser == "auto") for page in pages)


def test_a_skipped_page_is_left_out_with_its_reason() -> None:
    document = parse(joined(written(WORDS[0]), written(WORDS[1])), skip={1: "page 1: took too long"})
    assert routes(document) == [("failed", "page 1: took too long"), ("text", "text layer")]
    assert "lichens" not in text(document)
    assert document.n_pages == 2


@needs_engine
@pytest.mark.usefixtures("in_process")
def test_a_budget_goes_to_the_worst_pages_of_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight pages, of which five are scans, over three parts: a quarter may be recognised."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(joined(written(WORDS[0]), scanned(written(WORDS[1]))))
    (folder / "b.pdf").write_bytes(scanned(written(WORDS[2]), written(WORDS[3])))
    (folder / "c.pdf").write_bytes(joined(written(WORDS[1]), written(WORDS[3])))
    (folder / "d.pdf").write_bytes(scanned(written(WORDS[0]), written(WORDS[2])))
    settings = {"parse": ParseSettings(ocr_budget="25%"), "parts": PartSettings(files_per_part=1, parts_per_shard=2)}
    begun = []

    def interrupt(name: str, call: int) -> None:
        begun.append(name)
        if begun.count("recognise_part") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(InlinePool, "fault", staticmethod(interrupt))
    with pytest.raises(KeyboardInterrupt):
        index(folder, tmp_path / "c", **settings)
    chosen = json.loads((tmp_path / "c" / "surveys" / "choice.json").read_text())
    assert sum(len(pages) for part in chosen.values() for pages in part.values()) == 2
    use_inline_pool(monkeypatch)
    index(folder, tmp_path / "c", **settings)
    assert "parse" not in stages_run(tmp_path / "c"), "what was read once is not read again"
    index(folder, tmp_path / "undisturbed", **settings)
    resumed, undisturbed = (documents(tmp_path / name) for name in ("c", "undisturbed"))
    assert resumed == undisturbed
    read = [page.route for document in resumed for page in document.pages]
    assert read.count("ocr") == 2
    assert read.count("text") == 4, "b.pdf or d.pdf went to quarantine"
    assert Collection(tmp_path / "c").manifest().counts.quarantined == 1
    assert not (tmp_path / "c" / "surveys").exists()


def documents(root: Path) -> list[Document]:
    collection = Collection(root)
    parts = collection.manifest().parts
    found = [one for part in parts for one in read_documents(collection.documents_path(part.documents))]
    return sorted((dataclasses.replace(one, source=Path(one.source).name) for one in found), key=lambda d: d.source)
