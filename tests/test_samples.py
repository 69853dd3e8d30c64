"""The sample papers of examples/: their kinds, the truth of questions.jsonl, and that they can be made again."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import runpy
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import pymupdf
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PAPERS = sorted((EXAMPLES / "papers").glob("*.pdf"))
PAGES = {
    "alloy-fatigue": 4,
    "borate-electrolyte": 3,
    "cement-slag": 2,
    "compiler-layout": 2,
    "groundwater-tracer": 3,
    "lichen-growth": 2,
    "ocean-acoustics": 3,
    "peat-nitrification": 3,
    "protein-thermostability": 2,
    "school-cohort": 3,
    "seabird-migration": 3,
    "transit-photometry": 3,
}
SCAN = ("groundwater-tracer", 2)


def front_matter(name: str) -> dict[str, Any]:
    """The YAML head of a paper's source."""
    front: dict[str, Any] = yaml.safe_load((EXAMPLES / "sources" / f"{name}.md").read_text("utf-8").split("---\n")[1])
    return front


def bare(text: str) -> str:
    """Text without white space and hyphens, ligatures and superscripts resolved."""
    return re.sub(r"[\s\-\u00ad]+", "", unicodedata.normalize("NFKC", text))


def page_texts(name: str) -> list[str]:
    """The text layer of each page."""
    with pymupdf.open(EXAMPLES / "papers" / name) as document:
        return [page.get_text() for page in document]


def questions() -> list[dict[str, Any]]:
    """All rows of questions.jsonl."""
    return [json.loads(line) for line in (EXAMPLES / "questions.jsonl").read_text("utf-8").splitlines()]


def test_set_is_complete_and_small() -> None:
    """Every source has its PDF; together they stay small enough to ship."""
    sources = sorted(path.stem for path in (EXAMPLES / "sources").glob("*.md"))
    assert [path.stem for path in PAPERS] == sources == sorted(PAGES)
    assert sum(path.stat().st_size for path in PAPERS) < 2_500_000


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_pages_and_text_layer(path: Path) -> None:
    """Each paper opens undamaged, with its number of pages; only the scanned page has no text."""
    with pymupdf.open(path) as document:
        assert document.page_count == PAGES[path.stem]
        assert not document.is_repaired
        assert document.metadata["title"] == front_matter(path.stem)["title"]
        for number, page in enumerate(document, start=1):
            scanned = (path.stem, number) == SCAN
            assert bool(page.get_text().strip()) != scanned
            assert bool(page.get_images()) == scanned
        everything = " ".join(page.get_text() for page in document)
    assert bare("fictional sample written for HiPerRAG") in bare(everything)
    assert bare("CC0 1.0") in bare(everything)


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_fonts_are_embedded(path: Path) -> None:
    """Every font is embedded as a subset."""
    with pymupdf.open(path) as document:
        fonts = {(font[0], font[3]) for page in document for font in page.get_fonts()}
        assert len(fonts) >= 4
        for xref, name in sorted(fonts):
            assert document.extract_font(xref)[3], name
            assert re.match("[A-Z]{6}[+]", name)


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_columns(path: Path) -> None:
    """Body lines of two-column papers keep to the halves of the page; those of the others run across."""
    columns = front_matter(path.stem)["design"]["columns"]
    with pymupdf.open(path) as document:
        page = document[0]
        middle = page.rect.width / 2
        blocks = page.get_text("dict")["blocks"]
        lines = [line["bbox"] for block in blocks for line in block.get("lines", [])]
        below = [box for box in lines if box[1] > page.rect.height * 0.5 and box[2] - box[0] > 0.25 * page.rect.width]
    left = [box for box in below if box[2] < middle]
    right = [box for box in below if box[0] > middle]
    across = [box for box in below if box[0] < middle < box[2]]
    if columns == 2:
        assert min(len(left), len(right)) >= 6
        assert len(across) <= 2  # the notice at the foot
    else:
        assert not right
        assert len(across) >= 8


def test_at_least_five_have_two_columns() -> None:
    """The set has both kinds."""
    columns = [front_matter(path.stem)["design"]["columns"] for path in PAPERS]
    assert columns.count(2) >= 5
    assert columns.count(1) >= 3


@pytest.mark.parametrize("name", ["peat-nitrification", "transit-photometry", "compiler-layout"])
def test_ligatures_are_glyphs(name: str) -> None:
    """Papers set with ligatures have them as characters of the text layer."""
    text = "".join(page_texts(f"{name}.pdf"))
    assert text.count("\ufb01") > 10
    assert "\ufb02" in text
    assert re.search(r"[^\W\d_]-\n", text)


def test_questions_are_answered_where_they_say() -> None:
    """Each sentence is found on its page, in hyphenated and justified text, and on no other page of the paper."""
    rows = questions()
    assert len({row["_id"] for row in rows}) == len(rows)
    answered = [row for row in rows if row["document"]]
    assert (len(answered), len(rows) - len(answered)) == (24, 4)
    assert {Path(row["document"]).stem for row in answered} == set(PAGES)
    assert sum(row.get("demo", False) for row in rows) == 3
    for row in answered:
        for place in (row, *row.get("also", [])):
            texts = page_texts(place["document"])
            found = [n for n, text in enumerate(texts, start=1) if bare(place["sentence"]) in bare(text)]
            assert found == [place["page"]], (row["_id"], place["sentence"])
    for row in rows:
        if not row["document"]:
            assert (row["page"], row["answer"], row["sentence"]) == (None, None, None)


def test_missing_tool_is_one_clear_line() -> None:
    """Without the extra the script says in one line what to install."""
    script = (
        "import runpy, sys; sys.modules['reportlab'] = None; runpy.run_module('examples.typeset', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == ["reportlab is not installed: pip install '.[samples]'"]


def _why_not_again() -> str:
    settings = runpy.run_path(str(EXAMPLES / "typeset" / "__init__.py"))
    for name, version in settings["TOOLS"].items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"{name} is not installed (the extra `samples` brings it)"
        if installed != version:
            return f"{name} {installed} is installed, the PDFs were made with {version}"
    if settings["ZLIB"] != zlib.ZLIB_RUNTIME_VERSION:
        return f"zlib is {zlib.ZLIB_RUNTIME_VERSION}, the PDFs were made with {settings['ZLIB']}"
    return "" if platform.machine() == "x86_64" else "the PDFs were made on x86-64"


def test_typesetting_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """The committed PDFs are what the script makes of the sources."""
    if reason := _why_not_again():
        pytest.skip(reason)
    command = [sys.executable, "-m", "examples.typeset", "--to", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for path in PAPERS:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
