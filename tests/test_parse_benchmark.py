"""The parsing benchmark's metrics on planted cases whose values are known."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pymupdf
import pytest

from hiperrag.benchmarks.parsing import (
    cells,
    compare,
    metrics,
    olmocr,
    outputs,
    printed,
    rasters,
    structure,
    texts,
    truth,
)
from hiperrag.benchmarks.parsing.__main__ import main as compare_main
from hiperrag.benchmarks.parsing.cells import Cell
from hiperrag.benchmarks.parsing.printed import Printed, PrintedLine
from hiperrag.benchmarks.parsing.truth import Float, Heading, Truth
from hiperrag.errors import UserError
from hiperrag.records import Block, BlockKind, Document

BOX = (50.0, 100.0, 300.0, 200.0)


def block(kind: BlockKind, text: str, page: int = 1, **more: Any) -> Block:
    return Block(page, kind, more.pop("bbox", BOX), text, **more)


def document(*blocks: Block, **more: Any) -> Document:
    given = {"title": "", "authors": [], **more}
    return Document("id", "a.pdf", n_pages=1, parser="", parser_version="", quality=1.0, blocks=list(blocks), **given)


def known(**more: Any) -> Truth:
    return Truth("id", 1, 1, more.pop("text", ""), **more)


def page_of(*lines: tuple[str, float], page: int = 1, x: float = 60.0) -> Printed:
    """One page with lines at the given heights; 60 points wide, 10 high."""
    made = [PrintedLine(page, box := (x, y, x + 200, y + 10), text, box) for text, y in lines]
    return Printed(made, {page: (600.0, 800.0)}, {page: []})


# Texts


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("2.1. Study design", "studydesign"),
        ("IV. Results", "results"),
        ("A. Sampling", "sampling"),
        ("Appendix B Proofs", "proofs"),
        ("A priori power", "aprioripower"),
        ("Determination of MIC values", "determinationofmicvalues"),
        ("1 Introduction", "introduction"),
        ("Naïve Bayes", "naivebayes"),
    ],
)
def test_headings_are_compared_without_numbers(given: str, wanted: str) -> None:
    assert texts.heading_key(given) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("Table-4: Primers", ("table", "4")),
        ("FIG. 2A. Rates", ("", "")),
        ("Figure 12 | Rates", ("figure", "12")),
        ("Table IV. Rates", ("table", "4")),
        ("Supplementary Table S1", ("supplementary table", "S1")),
        ("Figures show that", ("", "")),
    ],
)
def test_labels_of_captions(given: str, wanted: tuple[str, str]) -> None:
    assert texts.label_of(given) == wanted


# Tables

ROWS = [[Cell("a"), Cell("b")], [Cell("1"), Cell("−2")], [Cell(""), Cell("3")]]


def test_the_same_table_scores_one_whatever_its_spaces_and_dashes() -> None:
    score = cells.compare([[Cell(" A"), Cell("b ")], [Cell("1"), Cell("-2")], [Cell(""), Cell("3")]], ROWS)
    assert (score.cells, score.adjacency, score.wanted) == (1.0, 1.0, 5)


def test_turned_table_has_all_cells_and_no_adjacency() -> None:
    turned = [list(row) for row in zip(*ROWS, strict=True)]
    score = cells.compare(turned, ROWS)
    assert score.cells == 1.0
    assert score.adjacency == 0.0


def test_glued_cells_count_against_precision_and_recall() -> None:
    # "1 −2" is one wrong cell in place of two: 3 of 4 found are right, 3 of 5 wanted are found.
    score = cells.compare([[Cell("a"), Cell("b")], [Cell("1 −2")], [Cell("3")]], ROWS)
    assert score.cells == pytest.approx(2 * 3 / (4 + 5))


def test_relations_jump_blank_cells_and_follow_spans() -> None:
    rows = [[Cell("head", columns=2)], [Cell("x"), Cell("")], [Cell("y"), Cell("z")]]
    assert set(cells.relations(rows)) == {
        ("head", "x", "down"),
        ("head", "z", "down"),
        ("x", "y", "down"),
        ("y", "z", "right"),
    }


def test_rowspan_moves_the_cells_of_the_next_row() -> None:
    rows = [[Cell("a", rows=2), Cell("b")], [Cell("c")]]
    assert cells.grid_of(rows) == [[0, 1], [0, 2]]


def test_tables_of_markdown_and_html() -> None:
    pipes = "Text | with a bar\n\n| a | b\\|c |\n|---|:-:|\n| **1** | 2 |\n"
    text = f"{pipes}\n<table><tr><td colspan='2'>x&amp;y</td></tr></table>\n"
    first, second = cells.markdown_tables(text)
    assert [[cell.text.strip() for cell in row] for row in first] == [["a", "b|c"], ["1", "2"]]
    assert second == [[Cell("x&y", columns=2)]]


def test_parts_of_a_table_are_found_by_number_then_by_cells() -> None:
    one, two = Float("table", "Table 1", "", [[Cell("q"), Cell("w")]]), Float("table", "Table 2", "", ROWS)
    given = document(
        block("caption", "Table 2. Numbers", about=1),
        block("table", "a\tb"),
        block("table", "1\t−2\n\t3", page=2),
    )
    scores = metrics.score_tables(given, known(floats=[one, two]))
    assert [score.cells for _, score in scores] == [0.0, 1.0]


# Headings


def test_headings_found_with_and_without_their_path() -> None:
    wanted = [
        Heading(("Methods",)),
        Heading(("Methods", "Samples")),
        Heading(("Results",)),
        Heading(("Results", "Samples")),
        Heading(("Nowhere",)),
    ]
    lines = page_of(("1 Methods", 100), ("1.1 Samples", 120), ("2 Results", 140), ("2.1 Samples", 160), ("Aside", 180))
    found = [("1. Methods",), ("1. Methods", "Samples"), ("Results",), ("Samples",), ("Keywords",), ("Aside",)]
    score = metrics.score_headings(found, known(headings=wanted), lines)
    assert (score.wanted, score.found, score.right_path, score.absent) == (4, 4, 3, 1)
    assert (score.given, score.unknown, score.extra) == (6, 1, ["Aside"])
    assert score.wrong_paths == ["Results > Samples  ≠  Samples"]


def test_missed_heading_and_misspelt_one() -> None:
    lines = page_of(("Introduction", 100), ("Discussion", 120))
    wanted = [Heading(("Introduction",)), Heading(("Discussion",))]
    score = metrics.score_headings([("Introductlon",)], known(headings=wanted), lines)
    assert (score.found, score.missed) == (1, ["Discussion"])


def test_paths_of_blocks_follow_levels() -> None:
    blocks = [block("heading", name, level=level) for name, level in (("A", 1), ("B", 2), ("C", 3), ("D", 2), ("E", 1))]
    assert metrics.heading_paths(blocks) == [("A",), ("A", "B"), ("A", "B", "C"), ("A", "D"), ("E",)]


def test_headings_of_the_json_are_all_parts_of_paths_once(tmp_path: Path) -> None:
    made = _pair(tmp_path, sections=[["M", "A"], ["M", "B"], ["R"], ["M"]])
    found = truth.load(tmp_path, made)
    assert [h.path for h in found.headings] == [("M",), ("M", "A"), ("M", "B"), ("R",), ("M",)]


# Labels of lines


def test_running_heads_page_numbers_captions_and_references_are_labelled() -> None:
    lines = []
    for page in (1, 2, 3):
        texts_of_page = [
            (f"Smith et al. Journal {page}", 30.0),
            (str(page + 10), 780.0),
            (f"Body text number {page}", 300.0),
        ]
        lines += page_of(*texts_of_page, page=page).lines
    lines += page_of(
        ("Figure 1. Rates of growth in", 500), ("two cultures.", 512), ("two cultures of it", 560), page=2
    ).lines
    lines += page_of(
        ("References", 400), ("Smith A, Jones B. Growth of", 412), ("cultures. Journal 2001;3:1-9", 424), page=3
    ).lines
    made = Printed(lines, dict.fromkeys((1, 2, 3), (600.0, 800.0)), {})
    figure = Float("figure", "Fig 1", "Rates of growth in two cultures.")
    printed.label(made, known(floats=[figure], references=["Smith A Jones B Growth of cultures Journal 2001 3 1 9"]))
    labels = {(line.page, line.text): line.label for line in made.lines}
    assert [labels[page, f"Smith et al. Journal {page}"] for page in (1, 2, 3)] == ["furniture"] * 3
    assert [labels[page, str(page + 10)] for page in (1, 2, 3)] == ["page_number"] * 3
    assert [labels[page, f"Body text number {page}"] for page in (1, 2, 3)] == [""] * 3
    assert labels[2, "Figure 1. Rates of growth in"] == labels[2, "two cultures."] == "caption"
    assert labels[2, "two cultures of it"] == ""
    assert labels[3, "Smith A, Jones B. Growth of"] == labels[3, "cultures. Journal 2001;3:1-9"] == "reference"


def test_lines_of_a_sideways_caption_are_followed() -> None:
    with pymupdf.open() as pdf:
        page = pdf.new_page(width=600, height=800)
        for x, text in ((100, "Table 1. Effects of the treatment"), (112, "on all of the groups.")):
            page.insert_text((x, 700), text, rotate=90, fontsize=10)
        made = printed.read(pdf.tobytes())
    printed.label(made, known(floats=[Float("table", "Table 1", "Effects of the treatment on all of the groups.")]))
    assert [line.label for line in made.lines] == ["caption", "caption"]


def test_purity_counts_labelled_lines_in_body_blocks_and_lost_body_lines() -> None:
    lines = page_of(("Running head", 110), ("Kept where it belongs to", 130), ("A line that is lost", 150), ("9", 170))
    for line, label in zip(lines.lines, ("furniture", "body", "body", "page_number"), strict=True):
        line.label = label  # type: ignore[assignment]
    score = metrics.score_purity([block("paragraph", "Running head kept where it belongs to")], lines)
    assert [line.text for line in score.leaked] == ["Running head"]
    assert (score.lines, score.body) == ({"furniture": 1, "page_number": 1}, 2)
    assert json.loads(json.dumps(dataclasses.asdict(score)))["lines"] == score.lines
    assert [line.text for line in score.lost] == ["A line that is lost"]


def test_line_outside_the_block_with_its_words_is_no_leak() -> None:
    lines = page_of(("Running head", 20))
    lines.lines[0].label = "furniture"
    assert not metrics.score_purity([block("paragraph", "Running head")], lines).leaked


# Captions


def _captions(*blocks: Block, item: Float, lines: Printed) -> metrics.CaptionScore:
    return metrics.score_captions(document(*blocks), known(floats=[item]), lines)


def test_figure_is_tied_if_near_drawn_and_claimed_once() -> None:
    item = Float("figure", "Figure 1", "Rates of growth.")
    lines = page_of(("Figure 1. Rates of growth.", 210))
    lines.drawn[1] = [BOX]
    caption = block("caption", "Figure 1. Rates of growth.", bbox=(60, 210, 300, 220), about=0)
    assert _captions(block("figure", ""), caption, item=item, lines=lines).tied == 1
    again = block("caption", "Figure 2. Others.", about=0)
    assert _captions(block("figure", ""), caption, again, item=item, lines=lines).untied[0].startswith("claimed twice")
    assert _captions(block("table", ""), caption, item=item, lines=lines).untied[0].startswith("tied to a table")
    far = block("figure", "", bbox=(50.0, 600.0, 300.0, 700.0))
    assert _captions(far, caption, item=item, lines=lines).untied[0].startswith("far away")
    lines.drawn[1] = []
    assert _captions(block("figure", ""), caption, item=item, lines=lines).untied[0].startswith("tied to nothing drawn")


def test_caption_of_a_table_needs_that_tables_words() -> None:
    one = Float("table", "Table 1", "The first of them.", [[Cell("alpha"), Cell("beta")], [Cell("1"), Cell("2")]])
    two = Float("table", "Table 2", "The other of them.", [[Cell("gamma"), Cell("delta")], [Cell("8"), Cell("9")]])
    lines = page_of(("Table 1. The first of them.", 100), ("Table 2. The other of them.", 300))
    blocks = [
        block("table", "alpha\tbeta\n1\t2"),
        block("table", "gamma\tdelta\n8\t9"),
        block("caption", "Table 1. The first of them.", about=1),
        block("caption", "Table 2. The other of them.", about=1),
    ]
    score = metrics.score_captions(document(*blocks), known(floats=[one, two]), lines)
    assert (score.wanted, score.found, score.tied) == (2, 2, 1)
    assert score.untied == ["tied to another table: Table 1 The first of them."]


def test_caption_with_another_number_or_not_on_the_pages_does_not_count() -> None:
    item = Float("figure", "Figure 1", "Rates of growth.")
    lines = page_of(("Figure 1. Rates of growth.", 210))
    caption = block("caption", "Figure 2. Rates of growth.", about=0)
    assert _captions(block("figure", ""), caption, item=item, lines=lines).missed == ["Figure 1 Rates of growth."]
    assert _captions(caption, item=item, lines=page_of(("Nothing", 10))).absent == 1


# Metadata


def test_names_match_by_letters_or_by_surname_and_initial() -> None:
    assert metrics.authors_f1(["A. Müller", "Li Wei"], ["Anna Muller", "Wei Li", "C. Third"]) == pytest.approx(4 / 5)


def test_front_matter() -> None:
    given = document(
        block("abstract", "We did it."),
        block("reference", "[1] Smith A. Growth of cultures. Journal 2001."),
        block("reference", "[2] Something else altogether, of another kind."),
        title="On growth",
        authors=["Ann Smith"],
        metadata={"year": 2001, "doi": "10.1/x"},
    )
    wanted = known(title="On Growth.", authors=["Ann Smith"], abstract="We did it.", years={2001, 2002}, doi="10.1/y")
    wanted.references = ["Smith A Growth of cultures Journal 2001", "Jones B Decay Nature 1999"]
    score = metrics.score_front(given, wanted)
    assert (score.title_exact, score.authors, score.abstract, score.year, score.doi) == (True, 1.0, 1.0, True, False)
    assert (score.references_ratio, score.references_found) == (1.0, 0.5)


# Outputs of any parser


def test_kendalls_tau() -> None:
    assert outputs.kendall_tau([1, 5, 9]) == 1.0
    assert outputs.kendall_tau([9, 5, 1]) == -1.0
    assert outputs.kendall_tau([1, 9, 5]) == pytest.approx(1 / 3)
    assert outputs.kendall_tau([4]) is None


def test_paragraphs_are_found_by_their_beginning_or_middle() -> None:
    first, second, lost = ("alpha " * 30).strip(), "beta " * 20 + "gamma " * 20, "omega " * 30
    output = texts.key("gamma " * 20 + "and then " + first)
    assert outputs.reading_order(output, [first, second, lost, "short"]) == (pytest.approx(2 / 3), -1.0)


def test_markdown_headings_leave_the_title_out() -> None:
    text = "# On growth\n\n## **1. Methods**\n\n```\n# no heading\n```\n\n### _Samples_ #\n\n## Results\n"
    assert outputs.markdown_paths(text, "On Growth") == [("1. Methods",), ("1. Methods", "Samples"), ("Results",)]
    assert outputs.markdown_paths("# A\n# B\n## C\n", "") == [("A",), ("B",), ("B", "C")]


# olmOCR-bench

PAGE = """# The **first** page

Some “quoted” text - here.

| Type | Words |
| --- | --- |
| code | 3.7B |

| all | 9B |

$$ e^{i \\pi}+1=0 $$
"""


@pytest.mark.parametrize(
    ("test", "wanted"),
    [
        ({"type": "present", "text": 'Some "quoted" text – here'}, True),
        ({"type": "present", "text": "The first page"}, True),
        ({"type": "present", "text": "the first page"}, False),
        ({"type": "present", "text": "the first page", "case_sensitive": False}, True),
        ({"type": "present", "text": "The furst page", "max_diffs": 1}, True),
        ({"type": "present", "text": "The furst page"}, False),
        ({"type": "present", "text": "quoted", "first_n": 10}, False),
        ({"type": "absent", "text": "quoted"}, False),
        ({"type": "absent", "text": "page 7"}, True),
        ({"type": "order", "before": "first", "after": "quoted"}, True),
        ({"type": "order", "before": "quoted", "after": "first"}, False),
        ({"type": "order", "before": "nothing", "after": "first"}, False),
        ({"type": "table", "cell": "3.7B", "left": "code"}, True),
        ({"type": "table", "cell": "3.7B", "left": "all"}, False),
        ({"type": "table", "cell": "3.7B", "up": "Words", "top_heading": "Words"}, True),
        ({"type": "table", "cell": "code", "right": "3.7B", "down": "3.7B"}, False),
        ({"type": "table", "cell": "3.7B", "left_heading": "code"}, True),
        ({"type": "math", "math": "e^{i\\pi} + 1 = 0"}, True),
        ({"type": "math", "math": "e^{i \\pi}-1=0"}, False),
    ],
)
def test_assertions_of_olmocr_bench(test: dict[str, Any], wanted: bool) -> None:
    assert olmocr.holds({"id": "x", **test}, PAGE) is wanted


def test_unknown_assertion_is_refused() -> None:
    with pytest.raises(UserError, match="type 'smell'"):
        olmocr.holds({"id": "x", "type": "smell"}, PAGE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\\left( x_{i} \\right)", "(x_i)"),
        ("\\sum_{i = 1}^{k}", "\\sum_{i=1}^k"),
        ("\\mathbf{E} \\tag{3}", "\\mathbf{E}"),
        ("\\alpha x, \\quad y", "\\alpha x,y"),
    ],
)
def test_latex_that_looks_the_same_is_the_same(one: str, other: str) -> None:
    assert olmocr.latex_key(one) == olmocr.latex_key(other)


def test_latex_that_differs_stays_different() -> None:
    assert len({olmocr.latex_key(text) for text in ("x_{ij}", "x_ij", "x_i", "x^i", "\\alpha x", "\\alphax")}) == 6


# Copies without a text layer


def _two_pages() -> bytes:
    with pymupdf.open() as pdf:
        for text in ("first", "second"):
            pdf.new_page(width=300, height=400).insert_text((50, 80), text, fontsize=30)
        return bytes(pdf.tobytes())


def test_rasterised_copy_has_pictures_and_no_text() -> None:
    with pymupdf.open(stream=rasters.rasterise(_two_pages(), 72)) as copy:
        assert [page.get_text() for page in copy] == ["", ""]
        assert [tuple(page.rect) for page in copy] == [(0, 0, 300, 400)] * 2
        assert copy[0].get_image_info()[0]["width"] == 300


@pytest.mark.parametrize(
    ("way", "size", "rotation"), [("pixels", (400, 300), 0), ("flag", (400, 300), 90), ("both", (300, 400), 270)]
)
def test_pages_are_turned_by_pixels_by_flag_or_by_both(way: str, size: tuple[int, int], rotation: int) -> None:
    data = rasters.rasterise(_two_pages(), 72, [(way, 90), ("", 0)])
    with pymupdf.open(stream=data) as copy:
        assert (copy[0].rect.width, copy[0].rect.height, copy[0].rotation) == (*size, rotation)
        assert (copy[1].rect.width, copy[1].rotation) == (300, 0)
        seen = copy[0].get_pixmap(colorspace=pymupdf.csGRAY)
        half = seen.width // 2
        # The word stands in the upper left; a page seen turned clockwise has it in the upper right.
        dark = [_darkest(seen, left, half) < 128 for left in (0, half)]
        assert dark == ([True, False] if way == "both" else [False, True])


def _darkest(pixmap: Any, left: int, width: int) -> int:
    """The darkest grey of the upper half of a strip."""
    places = ((x, y) for x in range(left, left + width, 2) for y in range(0, pixmap.height // 2, 2))
    return int(min(pixmap.pixel(x, y)[0] for x, y in places))


def test_turning_is_the_same_for_the_same_name() -> None:
    ways = rasters.turns("a", 400)
    assert ways == rasters.turns("a", 400) != rasters.turns("b", 400)
    turned = [way for way, degrees in ways if degrees]
    assert set(turned) == set(rasters.WAYS)
    assert 60 < len(turned) < 140


# Commands


def _pair(folder: Path, sections: list[list[str]] | None = None) -> dict[str, Any]:
    """A pairs folder with one document: two headings, a table, a figure's caption, one reference."""
    (folder / "pdf").mkdir()
    (folder / "gt").mkdir()
    sentence = "Cultures of yeast were grown in flasks for several days and then counted by hand in a chamber. "
    other = "Each flask was weighed before the yeast went in, and again on the morning of the last day. "
    body = [("Introduction", 14, "hebo"), (sentence, 10, "helv"), ("Methods", 14, "hebo"), (other, 10, "helv")]
    with pymupdf.open() as pdf:
        page = pdf.new_page(width=600, height=800)
        page.insert_text((60, 60), "Growth of yeast in flasks over time", fontsize=20, fontname="hebo")
        for index, (text, size, font) in enumerate(body):
            page.insert_text((60, 120 + 40 * index), text, fontsize=size, fontname=font)
        pdf.save(folder / "pdf" / "one.pdf")
    given = {
        "title": "Growth of yeast in flasks over time",
        "authors": [],
        "abstract": "",
        "sections": [
            {"path": path, "paragraphs": [text]}
            for path, text in zip(sections or [["Introduction"], ["Methods"]], itertools.cycle([sentence, other]))
        ],
    }
    (folder / "gt" / "one.json").write_text(json.dumps(given))
    (folder / "gt" / "one.txt").write_text("\n\n".join([given["title"], *(text for text, _, _ in body)]))
    jats = (
        "<article><front><article-meta><pub-date><year>2001</year></pub-date></article-meta></front><body>"
        "<table-wrap><label>Table 1</label><caption><p>Counts.</p></caption><table><tr><td colspan='2'>a</td></tr>"
        "<tr><td>1<sup>b</sup></td><td>2</td></tr></table></table-wrap>"
        "<fig><label>Figure 1</label><caption><title>Rates.</title><p>By day.</p></caption></fig></body>"
        "<back><ref-list><title>References</title><ref><element-citation><name><surname>Smith</surname></name>"
        "<year>1999</year></element-citation></ref></ref-list></back>"
        "<sub-article><body><fig><label>Figure 9</label></fig></body></sub-article></article>"
    )
    (folder / "gt" / "one.jats.xml.gz").write_bytes(gzip.compress(jats.encode()))
    row = {"id": "one", "gt_text": "gt/one.txt", "gt_json": "gt/one.json", "pages": 1, "columns": 1}
    (folder / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    return row


def test_truth_reads_floats_references_and_dates_of_the_source(tmp_path: Path) -> None:
    found = truth.load(tmp_path, _pair(tmp_path))
    assert [(item.kind, item.text) for item in found.floats] == [
        ("table", "Table 1 Counts."),
        ("figure", "Figure 1 Rates. By day."),
    ]
    assert found.floats[0].rows == [[Cell("a", columns=2)], [Cell("1b"), Cell("2")]]
    assert found.references == ["Smith 1999"]
    assert (found.years, found.other_titles) == ({2001}, {"references"})


def test_halves_of_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text("\n".join(json.dumps({"id": name}) for name in "cab"))
    assert [[row["id"] for row in truth.rows_of(tmp_path, half)] for half in ("dev", "held", "all")] == [
        ["a", "c"],
        ["b"],
        ["a", "b", "c"],
    ]


def test_structure_command_prints_and_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _pair(tmp_path)
    assert structure.main([str(tmp_path), "--half", "all", "--json", str(tmp_path / "out.json")]) == 0
    summary = json.loads((tmp_path / "out.json").read_text())["summary"]
    assert (summary["documents"], summary["headings"], summary["heading_recall"]) == (1, 2, 1.0)
    assert (summary["captions"], summary["captions_absent"], summary["tables"]) == (0, 1, 1)
    assert summary["table_cells_f1"] == 0.0
    assert "one" in capsys.readouterr().out


def test_comparison_writes_figures_table_and_pictures(tmp_path: Path) -> None:
    _pair(tmp_path)
    out = tmp_path / "out"
    given = [
        str(tmp_path),
        "--out",
        str(out),
        "--parsers",
        "fast",
        "--work",
        str(tmp_path / "work"),
        "--rasterise",
        "72",
    ]
    assert compare_main(given) == 0
    report = json.loads((out / "parsing.json").read_text())
    digital, picture = report["results"]
    assert digital["similarity"] > 0.95
    assert (digital["headings"], digital["order"], digital["cells"], digital["failed"]) == (1.0, 1.0, 0.0, "")
    assert (picture["copy"], picture["similarity"]) == ("72 dpi", 0.0)
    assert "no_text" in picture["failed"]
    assert "| **hiperrag fast** |" in (out / "parsing.md").read_text()
    assert {path.name for path in out.glob("*.png")} == {
        "quality_speed.png",
        "similarity.png",
        "structure.png",
        "rasterised.png",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DIR", "--out", "OUT", "--parsers", "magic"], "no parser 'magic'"),
        (["--out", "OUT", "--parsers", "fast"], "give the folder"),
        (["DIR", "--out", "OUT", "--parsers", "fast"], "has no manifest.jsonl"),
    ],
)
def test_unusable_arguments_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert (
        compare_main(
            [argument.replace("DIR", str(tmp_path)).replace("OUT", str(tmp_path / "o")) for argument in arguments]
        )
        == 2
    )
    assert message in capsys.readouterr().err
    assert structure.main([str(tmp_path)]) == 2
    assert olmocr.main([str(tmp_path)]) == 2


def test_summary_says_what_a_copy_loses_against_the_text_layer() -> None:
    empty = dict.fromkeys(("bleu", *compare.FIGURES[2:]), 0.5) | {"failed": "", "cpu_s": 2.0, "pages": 10, "columns": 2}
    results = [
        {"id": name, "copy": copy, "parser": "fast", "similarity": similarity, **empty}
        for name, digital, picture in (("a", 0.9, 0.8), ("b", 0.8, 0.78), ("c", 1.0, 0.5))
        for copy, similarity in ((compare.BORN_DIGITAL, digital), ("150 dpi", picture))
    ]
    rows = {(row["copy"], row["stratum"]): row for row in compare.summarise(results)}
    assert set(rows) == {(copy, s) for copy in (compare.BORN_DIGITAL, "150 dpi") for s in ("all", "2 columns")}
    picture = rows["150 dpi", "2 columns"]
    assert (picture["documents"], picture["similarity"], picture["similarity_p10"]) == (3, 0.78, 0.5)
    assert (picture["loss"], picture["loss_p90"]) == (pytest.approx(0.1), pytest.approx(0.5))
    assert picture["pages_per_cpu_s"] == pytest.approx(5.0)
    assert rows[compare.BORN_DIGITAL, "all"]["loss"] is None
