"""Parts of a page without usable characters: found by their font, read from the image, the rest left alone."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

import pytest

from hiperrag.parsing import oreo, router
from hiperrag.parsing.lines import Line, page_lines
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.reading import load_pymupdf
from hiperrag.parsing.recognition import engines, parts
from hiperrag.records import Block, Document

pymupdf = load_pymupdf()
needs_engine = pytest.mark.skipif(not engines.available(), reason="no OCR engine is installed (the extra ocr)")

ABOVE = 6 * "The lichens on the northern wall grew half as fast in the dry years as they had before. "
BLOCK = 5 * "No bats were seen above the tree line although the traps stood there all summer. "
BELOW = 6 * "The bridge was closed for repairs when two of its cables showed the first signs of rust. "


def shuffled(letter: str) -> str:
    order = list(string.ascii_lowercase)
    random.Random(3).shuffle(order)
    moved = order[string.ascii_lowercase.index(letter.lower())]
    return moved.upper() if letter.isupper() else moved


def page_with(block: str, meaning: Callable[[str], str] | None) -> bytes:
    """A page of three blocks. The font of the one in the middle says that each letter means `meaning` of it, or nothing
    where that is None."""
    pdf = pymupdf.open()
    page = pdf.new_page()
    page.insert_textbox((60, 60, 540, 200), ABOVE, fontname="helv", fontsize=10)
    font = pymupdf.Font("tiro")
    page.insert_font(fontname="F1", fontbuffer=font.buffer)
    page.insert_textbox((60, 300, 540, 400), block, fontname="F1", fontsize=10)
    page.insert_textbox((60, 500, 540, 640), BELOW, fontname="helv", fontsize=10)
    known = string.ascii_letters if meaning else ""
    pairs = [f"<{font.has_glyph(ord(c)):04x}> <{ord(meaning(c)):04x}>" for c in known if meaning]
    pairs += [f"<{font.has_glyph(ord(' ')):04x}> <0020>"]
    table = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapType 2 def\n"
        f"1 begincodespacerange <0000> <ffff> endcodespacerange\n{len(pairs)} beginbfchar\n"
        + "\n".join(pairs)
        + "\nendbfchar endcmap end end"
    )
    for xref in range(1, pdf.xref_length()):
        kind, value = pdf.xref_get_key(xref, "ToUnicode")
        if kind == "xref":
            pdf.update_stream(int(value.split()[0]), table.encode())
    return bytes(pdf.tobytes())


def parse(data: bytes, **options: object) -> Document:
    return oreo.parse_pdf(data, "x.pdf", "id", ParseOptions(**options))  # type: ignore[arg-type]


def text(document: Document) -> str:
    return " ".join(" ".join(block.text for block in document.blocks).split())


def block_of(document: Document, words: str) -> Block:
    return next(block for block in document.blocks if words in block.text)


def spoilt(data: bytes) -> parts.Spoilt | None:
    with pymupdf.open(stream=data, filetype="pdf") as pdf:
        return parts.find(page_lines(pdf[0].get_text("dict"), 1), router.GOOD_TEXT)


@needs_engine
@pytest.mark.parametrize(
    ("meaning", "why"),
    [(shuffled, "letters in no language's proportions"), (None, "characters without a meaning")],
    ids=["shuffled", "none"],
)
def test_a_block_without_usable_characters_is_read_from_the_image(
    meaning: Callable[[str], str] | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[int, int]] = []
    engine = engines.load()
    heights: list[float] = []
    recognise = engine.recognise

    def watched(pictures, seconds=60.0):  # type: ignore[no-untyped-def]
        heights.extend(72 * picture.pixels.shape[0] / picture.dpi for picture in pictures)
        return recognise(pictures, seconds)

    monkeypatch.setattr(engine, "recognise", watched)
    data = page_with(BLOCK, meaning)
    document = oreo.parse_pdf(data, "x.pdf", "id", on_page=lambda *step: steps.append(step))
    assert text(document).count("No bats were seen above the tree line although the traps stood there") == 5
    assert ABOVE.strip() in text(document)
    assert BELOW.strip() in text(document)
    [record] = document.pages
    assert (record.route, record.reason) == ("text", f"{why} in a region; {engine.name}")
    assert 0.6 < record.quality < 0.8, "the share that is usable"
    assert document.quality == 1.0
    assert len(heights) == 1
    assert heights[0] < 100, "the block alone is read"
    assert (1, 1) in steps, "the page's time is limited"
    x0, y0, _, y1 = block_of(document, "No bats").bbox
    assert (x0, y0) == (pytest.approx(60, abs=4), pytest.approx(300, abs=5))
    assert y1 < 400
    order = [text(document).index(words) for words in ("The lichens", "No bats", "The bridge")]
    assert order == sorted(order)


@needs_engine
def test_a_block_is_left_alone_over_the_budget_or_without_an_engine() -> None:
    data = page_with(BLOCK, shuffled)
    garbled = "".join(shuffled(c) for c in "traps")
    for options, why in (({"recognise": ()}, router.OVER_BUDGET), ({"engine": "none"}, "in part of the page")):
        document = parse(data, **options)
        assert garbled in text(document)
        assert why in document.pages[0].reason
        assert ABOVE.strip() in text(document)
    assert "bats" in text(parse(data, recognise=(1,)))
    assert garbled in text(parse(data, parser="fast"))


@needs_engine
def test_codes_that_the_image_confirms_stay_as_they_are() -> None:
    proteins = " ".join("".join(random.Random(k).choices("ACDEFGHIKLMNPQRSTVWY", k=18)) for k in range(20))
    data = page_with(proteins, lambda letter: letter)
    assert spoilt(data) is not None, "these letters are in no language's proportions"
    document = parse(data)
    assert all(protein in text(document) for protein in proteins.split())
    assert "in a region, not mended" in document.pages[0].reason


def test_good_pages_have_no_unusable_parts() -> None:
    assert spoilt(page_with(BLOCK, lambda letter: letter)) is None
    found = spoilt(page_with(BLOCK, shuffled))
    assert found is not None
    assert found.share == pytest.approx(len(BLOCK) / len(ABOVE + BLOCK + BELOW), abs=0.03)


def test_sample_papers_have_no_unusable_parts(examples) -> None:  # type: ignore[no-untyped-def]
    for path in sorted(examples.glob("*.pdf")):
        with pymupdf.open(path) as pdf:
            for page in pdf:
                assert parts.find(page_lines(page.get_text("dict"), 1), router.GOOD_TEXT) is None, path.name


def test_what_a_neighbour_already_says_is_not_said_twice() -> None:
    def line(text: str, y: float, x0: float = 60, font: str = "Fine") -> Line:
        return Line(1, x0, y, x0 + 100, y + 10, y + 8, 10, font, False, False, False, text)

    with pymupdf.open() as pdf:
        pdf.new_page()
        page = page_lines(pdf[0].get_text("dict"), 1)
    page.lines = [line("Good one", 100), line("xqz", 100, 200, "Bad"), line("Good two", 130)]
    part = parts.Part((60, 100, 300, 110), [page.lines[1]])
    read = [line("Good one", 101), line("of the bats in the trees", 100.5, 201)]
    assert parts.mend(page, part, read)
    assert [one.text for one in page.lines] == ["Good one", "of the bats in the trees", "Good two"]
    assert (page.lines[1].font, page.lines[1].baseline) == ("Bad", 108)
    assert not parts.mend(page, part, [])
