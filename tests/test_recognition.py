"""Recognition: the check of text layers, and characters from images of pages that are turned, slanting or coarse."""

from __future__ import annotations

import importlib.util
import random
import re
import shutil
import string
import subprocess
from collections.abc import Callable

import numpy as np
import pytest
from rapidfuzz.distance import Levenshtein

from hiperrag.errors import UserError
from hiperrag.parsing.columns import in_rows
from hiperrag.parsing.graphics import Graphics, page_graphics
from hiperrag.parsing.lines import Page, page_lines
from hiperrag.parsing.reading import load_pymupdf
from hiperrag.parsing.recognition import (
    drawn,
    engines,
    images,
    pages,
    print_size,
    quality,
    rapid,
    tesseract,
    tesseract_library,
    typeset,
)
from hiperrag.parsing.recognition.engines import Picture, Recognised, TextLine, Word

pymupdf = load_pymupdf()

VARIANTS = {"upright": (0, 0.0), "turned": (1, 0.0), "over": (2, 0.0), "lying": (3, 0.0), "slanting": (0, 1.0)}
"""Quarter turns clockwise and degrees that the pages of the test file are turned by."""
SENTENCE = "The roots of the grasses were washed and dried before they were weighed in the laboratory. "


def text_page(pdf, text, size=10, font="tiro"):
    page = pdf.new_page()
    page.insert_textbox((60, 60, 540, 780), text, fontsize=size, fontname=font)
    return page


def read(page, number=1) -> Page:
    lines = page_lines(page.get_text("dict"), number)
    lines.graphics = page_graphics(page)
    return lines


def similarity(a: str, b: str) -> float:
    return 1 - Levenshtein.normalized_distance(re.sub(r"\s+", " ", a), re.sub(r"\s+", " ", b))


def picture_of(page, dpi=150.0) -> Picture:
    return images.render(page, dpi)


@pytest.fixture(scope="module")
def original(examples):
    """The upper part of a page of a sample paper: its text, and itself."""
    with pymupdf.open(examples / "groundwater-tracer.pdf") as pdf:
        page = pdf[2]
        page.set_cropbox(pymupdf.Rect(0, 0, page.rect.width, 0.3 * page.rect.height))
        yield page


@pytest.fixture(scope="module")
def scanned(original, tmp_path_factory):
    """A file without a text layer: the page at 150 dpi in grey, turned in its pixels in every way of VARIANTS."""
    picture = picture_of(original)
    path = tmp_path_factory.mktemp("scan") / "scan.pdf"
    with pymupdf.open() as pdf:
        for turn, angle in VARIANTS.values():
            pixels = np.ascontiguousarray(
                np.rot90(images.rotated(picture.pixels, angle) if angle else picture.pixels, -turn)
            )
            height, width = pixels.shape
            page = pdf.new_page(width=width * 72 / 150, height=height * 72 / 150)
            pixmap = pymupdf.Pixmap(pymupdf.csGRAY, width, height, pixels.tobytes(), False)
            page.insert_image(page.rect, stream=pixmap.tobytes("jpeg", jpg_quality=80))
        pdf.save(path)
    with pymupdf.open(path) as pdf:
        yield pdf


@pytest.fixture(scope="module")
def tesseract_engine():
    if not tesseract.is_available():
        pytest.skip(f"Tesseract is not installed ({tesseract.INSTALL})")
    return engines.load("tesseract")


@pytest.fixture(scope="module")
def recognised(scanned, tesseract_engine):
    return pages.read_pages(scanned, range(1, len(scanned) + 1), tesseract_engine)


def needs_program():
    if shutil.which(tesseract.PROGRAM) is None:
        pytest.skip(f"Tesseract's program is not installed ({tesseract.INSTALL})")


class TestPages:
    @pytest.mark.parametrize(("number", "name"), list(enumerate(VARIANTS, start=1)))
    def test_text_of_a_page_turned_in_its_pixels(self, recognised, original, number, name):
        page = recognised[number]
        text, expected = (" ".join(line.text for line in in_rows(found.lines)) for found in (page, read(original)))
        assert similarity(text, expected) > 0.95, name
        assert page.confidence > 0.85

    def test_turns_back_what_was_turned(self, recognised):
        assert [recognised[n].turn for n in range(1, 6)] == [0, 3, 2, 1, 0]

    def test_lines_lie_where_the_original_has_them(self, recognised, original):
        width, height = original.rect.width, original.rect.height
        first = next(line for line in read(original).lines if len(line.text) > 60)
        for number, (turn, _) in enumerate(VARIANTS.values(), start=1):
            page = recognised[number]
            line = max(page.lines, key=lambda line: similarity(line.text, first.text))
            x0, y0, x1, y1 = page.page_bbox(line.x0, line.y0, line.x1, line.y1)
            if turn == 1:
                x0, y0, x1, y1 = y0, height - x1, y1, height - x0
            elif turn == 2:
                x0, y0, x1, y1 = width - x1, height - y1, width - x0, height - y0
            elif turn == 3:
                x0, y0, x1, y1 = width - y1, x0, width - y0, x1
            tolerance = 3 if number < 5 else 12  # half a line slants by the height of letters
            assert abs(x0 - first.x0) < tolerance
            assert abs(x1 - first.x1) < tolerance
            assert abs((y0 + y1) / 2 - (first.y0 + first.y1) / 2) < tolerance

    def test_type_of_one_size_has_one_size(self, recognised, original):
        pairs = [
            (line.size, min(read(original).lines, key=lambda other: abs(other.baseline - line.baseline)).size)
            for line in recognised[1].lines
            if len(line.text) > 60
        ]
        for size in {true for _, true in pairs}:
            measured = [found for found, true in pairs if true == size]
            assert max(measured) - min(measured) < 0.3
            assert measured[0] == pytest.approx(size, rel=0.15)

    def test_what_was_read_sideways_is_tried_a_quarter_turn_on(self, original, tesseract_engine, monkeypatch):
        tried: list[int] = []

        class Sideways:
            name, on_gpu, dpi, cost = "sideways", False, 60.0, tesseract_engine.cost

            def recognise(self, pictures, seconds=1.0):
                upright = pictures[0].pixels.shape[1] > pictures[0].pixels.shape[0]
                box = (10, 10, 60, 30) if upright else (10, 10, 30, 60)
                tried.append(upright)
                word = Word("standing", box, 0.95)
                return [Recognised([TextLine([word], engines.runs_vertically([word]))])]

        monkeypatch.setattr(images, "orientations", lambda _: [1, 3, 0, 2])
        [page] = pages.read_pages(original.parent, [original.number + 1], Sideways()).values()
        assert tried == [False, True]
        assert page.turn == 0

    def test_a_page_that_fails_loses_no_other(self, scanned, tesseract_engine):
        class Failing:
            name, on_gpu, dpi, cost = "failing", False, 60.0, tesseract_engine.cost

            def recognise(self, pictures, seconds=1.0):
                word = Word("fine", (10, 10, 60, 30), 0.9)
                good = Recognised([TextLine([word])])
                return [good if p.pixels.shape[0] < p.pixels.shape[1] else Recognised(error="broken") for p in pictures]

        failed: dict[int, str] = {}
        tall = pymupdf.open()
        tall.insert_pdf(scanned, from_page=0, to_page=0)
        tall.insert_pdf(scanned, from_page=0, to_page=0)
        found = pages.read_pages(tall, [1, 7, 2], Failing(), failed=failed)
        assert sorted(found) == [1, 2]
        assert list(failed) == [7]
        assert "not in document" in failed[7]

    def test_regions(self, scanned, original, tesseract_engine):
        line = next(line for line in read(original).lines if len(line.text) > 60)
        box = (line.x0, line.y0, line.x1, line.y1)
        [found] = pages.recognise_regions(scanned, [(1, box)], tesseract_engine)
        best = max(found, key=lambda other: similarity(other.text, line.text))
        assert similarity(best.text, line.text) > 0.9
        assert abs(best.y0 - line.y0) < 4
        assert abs(best.x0 - line.x0) < 4


class TestPrint:
    def test_bold_headings_and_small_print(self, tesseract_engine):
        with pymupdf.open() as pdf:
            page = pdf.new_page(width=420, height=300)
            page.insert_text((40, 60), "Methods of measurement", fontname="tibo", fontsize=13)
            page.insert_textbox((40, 80, 380, 200), 4 * SENTENCE, fontname="tiro", fontsize=10)
            page.insert_textbox((40, 220, 380, 260), SENTENCE, fontname="tiro", fontsize=8)
            found = pages.read_pages(pdf, [1], tesseract_engine)[1].lines
        heading, body, note = found[0], found[1], found[-1]
        assert heading.text == "Methods of measurement"
        assert (heading.bold, body.bold, note.bold) == (True, False, False)
        assert heading.font == typeset.BOLD != body.font
        assert 1.2 < heading.size / body.size < 1.4
        assert 0.75 < note.size / body.size < 0.85

    def test_sizes_are_drawn_to_the_few_of_the_document(self):
        measured = [(10 + 0.01 * k, 40.0) for k in range(-9, 10)] + [(12.05, 20.0), (8.0, 100.0)]
        classes = print_size.size_classes(measured)
        assert [round(size) for size in classes] == [8, 10, 12]
        assert print_size.nearest_class(10.2, classes) == print_size.nearest_class(9.9, classes)

    def test_cells_of_a_row_are_lines_of_their_own(self):
        words = [
            Word(text, (x, 10, x + 30, 22), 0.9) for text, x in (("Group", 10), ("A", 45), ("12.5", 140), ("3.1", 240))
        ]
        picture = Picture(np.full((40, 300), 255, np.uint8), 72.0)
        image = images.PageImage(picture, 0, 0.0, 300.0, 40.0)
        [page] = typeset.finish([typeset.draft(1, image, Recognised([TextLine(words)]))])
        assert [line.text for line in page.lines] == ["Group A", "12.5", "3.1"]


class TestImages:
    @pytest.mark.parametrize("turn", range(4))
    def test_orientation(self, original, turn):
        assert images.orientations(images.turned(picture_of(original), turn))[0] == (4 - turn) % 4

    @pytest.mark.parametrize("turn", [0, 1])
    def test_small_landscape_pages_of_repeated_text(self, turn):
        with pymupdf.open() as pdf:
            page = pdf.new_page(width=400, height=220)
            page.insert_textbox((30, 30, 370, 200), 8 * SENTENCE, fontsize=11, fontname="tiro")
            picture = picture_of(page)
        assert images.orientations(images.turned(picture, turn))[0] == (4 - turn) % 4

    @pytest.mark.parametrize("angle", [-2.0, 0.0, 1.0])
    def test_skew(self, original, angle):
        picture = picture_of(original)
        slanting = Picture(images.rotated(picture.pixels, angle), picture.dpi) if angle else picture
        assert images.skew(slanting) == pytest.approx(-angle, abs=0.15)

    def test_a_scan_is_not_enlarged(self, scanned, original):
        assert images.scan_dpi(original) == 0
        assert images.render(scanned[0], 300.0).dpi == pytest.approx(150, abs=1)
        assert images.render(original, 300.0).dpi == 300

    def test_a_page_of_any_size_makes_a_bounded_picture(self):
        with pymupdf.open() as pdf:
            page = pdf.new_page(width=14000, height=14000)
            assert images.render(page, 200.0).pixels.size <= 1.01 * images.MAX_PIXELS

    def test_rules_and_pictures(self):
        with pymupdf.open() as pdf:
            page = pdf.new_page(width=300, height=300)
            page.draw_line((50, 40), (250, 40), width=0.8)
            page.draw_line((60, 60), (60, 120), width=0.8)
            for k in range(40):
                page.draw_line((100, 150 + 2 * k), (100 + 2.5 * ((k * 7) % 40), 150 + 2 * ((k * 11) % 40)))
            picture = picture_of(page)
        scale = 72 / picture.dpi
        black = images.ink(picture.pixels)
        rules = drawn.rules(black, picture.dpi)
        level = min(rules, key=lambda box: box[1])
        upright = min(rules, key=lambda box: box[0] + box[2])
        assert [value * scale for value in level] == pytest.approx([50, 39.6, 250, 40.4], abs=1.5)
        assert [value * scale for value in upright] == pytest.approx([59.6, 60, 60.4, 120], abs=1.5)
        [found] = drawn.pictures(black, picture.dpi, [], [level, upright])
        assert [value * scale for value in found] == pytest.approx([100, 150, 200, 230], abs=12)


class TestEngines:
    def test_time_limit_of_the_program(self, monkeypatch):
        def stuck(*_, timeout, **__):
            raise subprocess.TimeoutExpired("tesseract", timeout)

        monkeypatch.setattr(tesseract.subprocess, "run", stuck)
        picture = Picture(np.full((50, 50), 255, np.uint8), 150.0)
        found = tesseract.Program("eng").read([picture, picture], 2.0)
        assert [page.error for page in found] == 2 * ["recognition took longer than 2 seconds"]

    def test_several_pages_to_one_process(self):
        needs_program()
        with pymupdf.open() as pdf:
            pictures = [picture_of(text_page(pdf, word, 30)) for word in ("Basalt", "Granite", "Limestone")]
        found = tesseract.Program("eng").read(pictures, 60.0)
        assert [page.lines[0].words[0].text for page in found] == ["Basalt", "Granite", "Limestone"]

    def test_unknown_names_are_refused(self):
        with pytest.raises(UserError, match="no OCR engine is called"):
            engines.load("abbyy")

    def test_nothing_installed(self, monkeypatch):
        monkeypatch.setattr(tesseract, "PROGRAM", "no-such-program")
        for module in (rapid, tesseract_library):
            monkeypatch.setattr(module, "PACKAGE", "no_such_package")
        assert engines.available() == []
        with pytest.raises(UserError, match="no OCR engine is installed"):
            engines.load("auto")
        with pytest.raises(UserError, match="not installed"):
            tesseract.load("eng")

    def test_a_language_that_is_missing(self, tesseract_engine):
        with pytest.raises(UserError, match="no model for xyz"):
            engines.load("tesseract", "xyz")

    def test_the_library_and_the_program_read_the_same(self):
        needs_program()
        if (folder := tesseract_library.models("eng")) is None:
            pytest.skip("tesserocr is not installed (pip install 'hiperrag[ocr]')")
        with pymupdf.open() as pdf:
            page = text_page(pdf, 3 * SENTENCE, 12)
            page.insert_text((30, 500), "Running up the margin", rotate=90)
            pictures = [picture_of(page), picture_of(pdf.new_page())]
        reader = tesseract_library.Library("eng", folder)
        (read, empty), (expected, _) = (one.read(pictures, 60.0) for one in (reader, tesseract.Program("eng")))
        assert empty == Recognised()
        assert [line.vertical for line in read.lines] == [line.vertical for line in expected.lines]
        assert True in [line.vertical for line in read.lines]
        words, others = ([word for line in one.lines for word in line.words] for one in (read, expected))
        assert [word.text for word in words] == [word.text for word in others]
        assert np.allclose([word.box for word in words], [word.box for word in others], atol=2)
        assert np.allclose([word.confidence for word in words], [word.confidence for word in others], atol=0.1)

    def test_time_limit_of_the_library(self):
        if (folder := tesseract_library.models("eng")) is None:
            pytest.skip("tesserocr is not installed (pip install 'hiperrag[ocr]')")
        with pymupdf.open() as pdf:
            picture = picture_of(text_page(pdf, 40 * SENTENCE))
        [read] = tesseract_library.Library("eng", folder).read([picture], 0.001)
        assert "longer than" in read.error
        assert not read.lines

    def test_models_are_looked_for_where_the_environment_says(self, tmp_path, monkeypatch):
        if importlib.util.find_spec("tesserocr") is None:
            pytest.skip("tesserocr is not installed (pip install 'hiperrag[ocr]')")
        for name in ("deu", "nor"):
            (tmp_path / f"{name}.traineddata").touch()
        monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))
        assert tesseract_library.models("deu+nor") == tmp_path
        assert tesseract_library.models("deu+xyz") is None

    def test_rapidocr_reads_words_where_they_are(self):
        if not rapid.is_available():
            pytest.skip("RapidOCR is not installed (pip install 'hiperrag[ocr]')")
        with pymupdf.open() as pdf:
            page = pdf.new_page(width=300, height=80)
            page.insert_text((20, 45), "Lichen growth is slow", fontname="tiro", fontsize=14)
            expected = page.get_text("words")
            [read] = engines.load("rapidocr").recognise([picture_of(page)])
        assert [[word.text for word in line.words] for line in read.lines] == [["Lichen", "growth", "is", "slow"]]
        scale = 72 / 150
        for word, (x0, _, x1, *_) in zip(read.lines[0].words, expected, strict=True):
            assert word.box[0] * scale == pytest.approx(x0, abs=6)
            assert word.box[2] * scale == pytest.approx(x1, abs=6)

    def test_cost_follows_what_is_measured(self):
        cost = engines.Cost(prior=2.0)
        assert cost.seconds_per_page == 2.0
        cost.add(12.0, 3)
        assert cost.seconds_per_page == pytest.approx(4.0)
        cost.add(2.0, 1)
        assert cost.seconds_per_page == pytest.approx(3.5)


def shuffled(seed: int) -> Callable[[str], str]:
    letters = list(string.ascii_lowercase)
    random.Random(seed).shuffle(letters)
    table = str.maketrans(string.ascii_letters, "".join(letters) + "".join(letters).upper())
    return lambda text: text.translate(table)


DAMAGES = {
    "shuffled letters": shuffled(1),
    "codes for characters": lambda text: "".join(chr(ord(c) - 29) if c > "@" else c for c in text),
    "accented letters": lambda text: "".join(c if c.isspace() else chr(ord(c) + 128) for c in text if ord(c) < 127),
    "glued words": lambda text: text.replace(" ", ""),
    "spaced letters": " ".join,
    "reversed words": lambda text: " ".join(word[::-1] for word in text.split()),
}


class TestQuality:
    def test_sample_papers_are_good(self, examples):
        for path in sorted(examples.glob("*.pdf")):
            with pymupdf.open(path) as pdf:
                for page in pdf:
                    if page.get_text().strip():
                        assert quality.assess(read(page), page) == (1.0, ""), f"{path.name} {page.number}"

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_damaged_text_is_found(self, examples, damage):
        with pymupdf.open(examples / "ocean-acoustics.pdf") as pdf:
            page = read(pdf[0])
        for line in page.lines:
            line.text = DAMAGES[damage](line.text)
        score, reason = quality.assess(page)
        assert score < 0.5
        assert reason

    @pytest.mark.parametrize(
        "text",
        [
            "Die Untersuchung der Grundwasserneubildung erfolgte in zwei Jahren mit einem Modell für das Gebiet. ",
            "Las muestras se tomaron en tres profundidades y se secaron antes de los análisis en el laboratorio. ",
            "Näytteet otettiin kolmesta syvyydestä ja kuivattiin ennen analyysiä, kuten aiemmissa tutkimuksissa. ",
            "Образцы были взяты на трёх глубинах и высушены перед анализом в лаборатории института. ",
            "تم أخذ العينات من ثلاثة أعماق وتجفيفها قبل التحليل في المختبر خلال فصل الصيف من العام. ",
            "我们在三个深度采集了样品并在分析之前进行了干燥这是本研究中的主要方法和结果。",
            "for (int i = 0; i < n; i++) { if (ptr->next == NULL) return -1; sum += buf[i] * w[i & 0xff]; }\n",
            "f(x) = ax^2 + bx + c, x = (−b ± √(b^2 − 4ac)) / 2a, ∑ x_i y_i ≤ ‖x‖ ‖y‖, ∂u/∂t = α ∇²u + q ",
            "12.5 (3.1) 0.04 17.2 (2.8) <0.001 n = 24 SD Mean Control Treated ANOVA Tukey kg ha 2018 2019 ",
        ],
    )
    def test_other_languages_code_and_mathematics_are_good(self, text):
        page = Page(1, 600, 800, 0, [], [])
        line = Word(12 * text, (0, 0, 1, 1), 1.0).text
        page.lines = [_plain_line(part) for part in re.findall(r".{1,90}", line)]
        assert quality.assess(page)[0] >= 0.9

    def test_images_without_text(self, scanned):
        assert quality.assess(read(scanned[0]), scanned[0]) == (0.0, "no text layer")

    def test_a_stamp_on_a_scan_is_no_text_layer(self):
        page = Page(1, 600, 800, 0, [_plain_line("Downloaded from the library on 3 May 2019")], [])
        page.graphics = Graphics(images=[(0, 0, 600, 800)])
        assert quality.assess(page)[0] < 0.5

    def test_hidden_text_of_a_scan(self):
        page = Page(1, 600, 800, 0, [_plain_line(SENTENCE) for _ in range(30)], [])
        page.graphics = Graphics(images=[(0, 0, 600, 800)])
        assert quality.assess(page)[0] >= 0.9
        for line in page.lines:
            line.text = "Tbc r0ots ol llic gra£ses wcre wa^hed ^ ;; aud dr|ed bel'ore tl1ey werc we|ghed ~ in tbe l4b"
        assert quality.assess(page)[0] < 0.5

    def test_letters_drawn_as_shapes(self):
        page = Page(1, 600, 800, 0, [_plain_line("Page 3 of the report")], [])
        page.graphics = Graphics(curves=[(x, y, x + 5, y + 7) for y in range(60, 700, 14) for x in range(60, 540, 7)])
        assert quality.assess(page) == (0.2, "letters drawn as shapes")

    def test_blank_pages_are_fine(self):
        assert quality.assess(Page(1, 600, 800, 0, [], [])) == (1.0, "")


def _plain_line(text):
    with pymupdf.open() as pdf:
        page = pdf.new_page()
        page.insert_text((50, 50), "x")
        line = read(page).lines[0]
    line.text = text
    return line


def test_pages_of_a_file_go_to_the_engine_in_batches(tesseract_engine):
    calls: list[int] = []
    announced: list[list[int]] = []

    class Counting:
        name, on_gpu, dpi, cost = "counting", True, 60.0, tesseract_engine.cost

        def recognise(self, pictures, seconds=1.0):
            calls.append(len(pictures))
            return [Recognised([TextLine([Word("enough", (10, 10, 60, 30), 0.95)])]) for _ in pictures]

    with pymupdf.open() as pdf:
        for _ in range(3):
            text_page(pdf, SENTENCE)
        found = pages.read_pages(
            pdf, [3, 1, 2], Counting(), batch=2, on_batch=lambda numbers: not announced.append(list(numbers))
        )
        refused = pages.read_pages(pdf, [3, 1, 2], Counting(), batch=2, on_batch=lambda numbers: len(numbers) > 1)
    assert sorted(found) == [1, 2, 3]
    assert sorted(refused) == [1, 3]
    assert calls == [2, 1, 2]
    assert announced == [[3, 1], [2]]
