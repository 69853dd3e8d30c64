"""`hiperrag parse`: files for people, resuming, what it explains, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hiperrag.parsing import export
from hiperrag.parsing.reading import load_pymupdf
from hiperrag.records import read_documents


@pytest.fixture
def sources(tmp_path: Path, examples: Path) -> Path:
    """Two sample papers, and a file that is no PDF."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("alloy-fatigue", "lichen-growth"):
        (folder / f"{name}.pdf").symlink_to(examples / f"{name}.pdf")
    (folder / "empty.pdf").write_bytes(b"")
    return folder


def test_a_folder_of_papers_becomes_files_for_people(sources, tmp_path, hiperrag):
    code, output, errors = hiperrag("parse", sources, "--to", tmp_path / "out", "--render", tmp_path / "pages")
    assert code == 0
    assert output == ""
    assert errors[-1].startswith("2 documents (6 pages by text"), errors[-1]
    assert any(line.endswith("empty.pdf: the file is empty") for line in errors)
    out = tmp_path / "out"
    body, markdown = ((out / f"alloy-fatigue{suffix}").read_text() for suffix in (".txt", ".md"))
    assert body.startswith("Fatigue of a laser-peened")
    assert "| --- |" in markdown
    [figure] = (out / "alloy-fatigue").iterdir()
    assert f"](alloy-fatigue/{figure.name})" in markdown
    assert load_pymupdf().Pixmap(str(figure)).width > 200
    document = export.read_json(out / "alloy-fatigue.json")
    stored = read_documents(out / "documents.parquet")
    assert len(stored) == 2
    assert stored[0].source == document.source
    assert [block.text for block in stored[0].blocks] == [block.text for block in document.blocks]
    assert pq.read_table(out / "quarantine.parquet")["error"].to_pylist() == ["empty"]
    drawn = sorted(path.name for path in (tmp_path / "pages").glob("alloy-fatigue-*/*.png"))
    assert drawn == [f"page-{number:04d}.png" for number in (1, 2, 3, 4)]


def test_a_rerun_parses_only_what_is_not_done(sources, tmp_path, hiperrag, monkeypatch):
    out = tmp_path / "out"
    hiperrag("parse", sources, "--to", out, "--no-figures")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    log = (out / "parsed.jsonl").read_text().splitlines()
    assert len(log) == 3
    (out / "parsed.jsonl").write_text("\n".join([*log[:2], log[2][:20]]))  # killed while it wrote the last line
    for name in ("documents.parquet", "quarantine.parquet", "lichen-growth.md"):
        (out / name).unlink()
    code, _, errors = hiperrag("parse", sources, "--to", out, "--no-figures")
    assert code == 0
    assert errors[-1].startswith("2 documents (6 pages")
    whole = (out / "parsed.jsonl").read_text().splitlines()
    assert sorted(whole[:2] + whole[3:]) == sorted(log), "the cut line is left, and its input is done again"
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "parsed.jsonl"}
    assert after == {name: data for name, data in before.items() if name != "parsed.jsonl"}
    monkeypatch.setattr(
        "hiperrag.workflows.parse.parse_many", lambda todo, *_: pytest.fail("parsed again") if todo else iter(())
    )
    assert hiperrag("parse", sources, "--to", out, "--no-figures")[0] == 0


def test_one_file_goes_to_standard_output_as_markdown(sources, hiperrag):
    code, output, _ = hiperrag("parse", sources / "lichen-growth.pdf")
    assert code == 0
    assert output.startswith("# ")


def test_the_route_of_every_page_is_explained(sources, hiperrag):
    code, output, _ = hiperrag("parse", sources / "lichen-growth.pdf", "--explain", "--parser", "fast")
    assert code == 0
    lines = output.splitlines()
    assert lines[1].split() == ["page", "route", "quality", "reason"]
    assert [line.split() for line in lines[2:]] == [
        [str(page), "text", "1.00", "text", "layer"] for page in range(1, len(lines) - 1)
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["empty.pdf"], 2, "the file is empty"),
        (["empty.pdf", "alloy-fatigue.pdf", "--strict", "--explain"], 3, "1 quarantined"),
        (["missing.pdf"], 2, "does not exist"),
        (["alloy-fatigue.pdf", "--to", "empty.pdf"], 2, "is not a folder"),
        (["alloy-fatigue.pdf", "--ocr-budget", "lots"], 2, "--ocr-budget lots: give all, none"),
        (["alloy-fatigue.pdf", "--workers", "999999"], 2, "--workers 999999: this machine has"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, code, says, sources, hiperrag, monkeypatch):
    monkeypatch.chdir(sources)
    status, output, errors = hiperrag("parse", *arguments)
    assert status == code
    assert sum(says in line for line in errors) == 1, errors
    assert not any("Traceback" in line for line in [output, *errors])
