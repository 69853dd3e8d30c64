"""Sources: discovery, archives, row files and the reading of inputs."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hiperrag.errors import UserError
from hiperrag.parsing import archives, inputs, row_files
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.ready_text import document_from_row
from hiperrag.parsing.row_files import JsonLinesReader, jsonl_ranges
from hiperrag.parsing.sources import Input, discover, iter_rows, read_bytes


@pytest.fixture(autouse=True)
def _close_archives() -> Iterator[None]:
    yield
    while archives._open_archives:
        archives._open_archives.popitem()[1].close()


def _zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _jsonl(n: int, prefix: str = "") -> bytes:
    return b"".join(json.dumps({"_id": f"{prefix}{i}", "text": f"text {i}"}).encode() + b"\n" for i in range(n))


def _ids(found: list[Input]) -> list[str]:
    return [row["_id"] for item in found for _, row in iter_rows(item) if isinstance(row, dict)]


def test_folder_is_walked_in_name_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ["b/2.pdf", "b/10.PDF", "a.pdf", "c.pdf", ".hidden.pdf", ".git/x.pdf", "notes.docx", "b/readme"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = discover([str(tmp_path)])
    assert [item.source for item in found.inputs] == [
        str(tmp_path / name) for name in ["a.pdf", "c.pdf", "b/10.PDF", "b/2.pdf"]
    ]
    assert found.ignored == 2
    assert found.unreadable == []
    assert [read_bytes(item) for item in found.inputs] == [b"a.pdf", b"c.pdf", b"b/10.PDF", b"b/2.pdf"]
    assert discover([str(tmp_path)]) == found


def test_source_is_shown_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.pdf").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    for given_name, shown in [(".", "d/x.pdf"), ("d/", "d/x.pdf"), ("d/x.pdf", "d/x.pdf")]:
        [item] = discover([given_name]).inputs
        assert item.source == shown
        assert item.path == os.path.realpath(tmp_path / "d" / "x.pdf")


def test_links_loops_and_repeated_names(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.pdf").write_bytes(b"x")
    (tmp_path / "d" / "back").symlink_to(tmp_path)
    (tmp_path / "d" / "self").symlink_to("self")
    (tmp_path / "d" / "same.pdf").symlink_to("x.pdf")
    (tmp_path / "d" / "gone.pdf").symlink_to("nowhere.pdf")
    found = discover([str(tmp_path / "d"), str(tmp_path / "d" / "x.pdf")])
    assert [Path(item.source).name for item in found.inputs] == ["same.pdf"]
    assert found.duplicates == 2  # x.pdf in the folder (its link comes first), and as named
    assert [entry.source for entry in found.unreadable] == [str(tmp_path / "d" / "gone.pdf")]


def test_what_cannot_be_read_is_listed_with_its_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pdf")
    (tmp_path / "bad.zip").write_bytes(b"not a zip")
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "bad.tar.gz").write_bytes(gzip.compress(b"x" * 2000)[:-20])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    (tmp_path / "bad.jsonl.gz").write_bytes(gzip.compress(_jsonl(5000))[:-100])
    (tmp_path / "garbage.jsonl").write_bytes(b"\x00\xff\n" * 9)
    (tmp_path / "empty.jsonl").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/name\xff.pdf")).write_bytes(b"x")
    found = discover([str(tmp_path)])
    assert found.inputs == []
    reasons = {Path(entry.source).name: entry.error for entry in found.unreadable}
    assert reasons == {
        "pipe.pdf": "unreadable",
        "bad.zip": "damaged",
        "empty.tar": "damaged",
        "bad.tar.gz": "damaged",
        "bad.parquet": "damaged",
        "bad.jsonl.gz": "damaged",
        "garbage.jsonl": "bad_rows",
        "empty.jsonl": "bad_rows",
        "name?.pdf": "unreadable",
    }
    assert {entry.stage for entry in found.unreadable} == {"discover"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").write_bytes(b"x")
    (tmp_path / "x.pdf").chmod(0)
    [entry] = discover([str(tmp_path)]).unreadable
    assert (entry.error, entry.message) == ("unreadable", "permission denied")


def test_user_errors(tmp_path: Path) -> None:
    (tmp_path / "x.docx").write_bytes(b"x")
    with pytest.raises(UserError, match="does not exist"):
        discover([str(tmp_path / "no.pdf")])
    with pytest.raises(UserError, match=r"x\.docx cannot be read"):
        discover([str(tmp_path / "x.docx")])
    with pytest.raises(UserError, match=r"nothing to read in .* \(1 other files\)"):
        discover([str(tmp_path)])
    with pytest.raises(UserError, match="nothing to read"):
        discover([])


def test_other_json_lines_beside_pdfs_are_ignored_but_not_when_named(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").write_bytes(b"x")
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"file": "x.pdf", "title": "T"}\n')
    pq.write_table(pa.table({"n": [1]}), tmp_path / "numbers.parquet")
    found = discover([str(tmp_path)])
    assert (len(found.inputs), found.ignored, found.unreadable) == (1, 2, [])
    [entry] = discover([str(manifest)]).unreadable
    assert entry.error == "not_ready_text"


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tgz", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.tar.xz", "w:xz")]
)
def test_tar(tmp_path: Path, name: str, mode: str) -> None:
    members = {
        "p/one.pdf": b"first",
        "p/two.pdf": b"second" * 1000,
        ".hidden/x.pdf": b"h",
        "r.jsonl": _jsonl(5),
        "r.jsonl.gz": gzip.compress(_jsonl(5, "z")),
        "p/in.zip": b"z",
        "p/other.txt": b"t",
        "p/empty.pdf": b"",
        "p/Ü.pdf": b"u",
    }
    path = _tar(tmp_path / name, members, mode)
    found = discover([str(path)], rows_per_input=2)
    pdfs = [item for item in found.inputs if item.kind == "pdf"]
    assert {item.source: read_bytes(item) for item in reversed(pdfs)} == {
        f"{path}/{member}": members[member] for member in ["p/one.pdf", "p/two.pdf", "p/empty.pdf", "p/Ü.pdf"]
    }
    rows = [item for item in found.inputs if item.kind == "rows"]
    assert _ids(rows) == [*"01234", "z0", "z1", "z2", "z3", "z4"]
    assert [entry.error for entry in found.unreadable] == ["unsupported"]
    assert found.ignored == 1
    os.utime(path, ns=(1, 1))
    with pytest.raises(ParseError, match="changed"):
        read_bytes(pdfs[0])


def test_zip(tmp_path: Path) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"_id": ["p"], "text": ["t"]}), table)
    members = {"one.pdf": b"first", "__MACOSX/._one.pdf": b"m", "../up.pdf": b"up", "r.jsonl": _jsonl(3)}
    path = _zip(tmp_path / "a.zip", members | {"r.parquet": table.getvalue()})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("one.pdf", b"replaced")
    found = discover([str(path)])
    by_source = {item.source: item for item in found.inputs}
    assert read_bytes(by_source[f"{path}/one.pdf"]) == b"replaced"
    assert read_bytes(by_source[f"{path}/../up.pdf"]) == b"up"
    assert _ids([item for item in found.inputs if item.kind == "rows"]) == ["0", "1", "2", "p"]
    assert len(found.inputs) == 4
    assert sorted(tmp_path.iterdir()) == [path]

    item = by_source[f"{path}/one.pdf"]
    _zip(path, {"one.pdf": b"another"})
    with pytest.raises(ParseError, match="changed"):
        read_bytes(item)


def test_files_listed_before_are_opened_again_only_if_they_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = _zip(tmp_path / "a.zip", {"one.pdf": b"1", "r.jsonl": _jsonl(5), "in.zip": b"", "note.txt": b""})
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(_jsonl(7))
    first = discover([str(tmp_path)], 3)
    known = {path: (one, [i for i in first.inputs if i.path == path]) for path, one in first.listings.items()}
    assert set(known) == {str(archive), str(rows)}

    opened = []
    monkeypatch.setattr(archives, "list_members", lambda path: opened.append(path) or [])
    monkeypatch.setattr(row_files, "jsonl_ranges", lambda *_: opened.append("rows") or [])
    assert discover([str(tmp_path)], 3, known) == first
    monkeypatch.chdir(tmp_path)
    assert [item.source for item in discover(["a.zip"], 3, known).inputs] == ["a.zip/one.pdf", *["a.zip/r.jsonl"] * 2]
    assert opened == []

    os.utime(archive, ns=(0, 0))
    rows.write_bytes(_jsonl(8))
    with pytest.raises(UserError, match="nothing to read"):
        discover([str(tmp_path)], 3, known)
    assert opened == [str(archive), "rows"]
    opened.clear()
    with pytest.raises(UserError, match="nothing to read"):
        discover([str(rows)], 4, known)
    assert opened == ["rows"]


def test_encrypted_and_damaged_zip_members(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"good.pdf": b"good" * 100, "bad.pdf": b"bad" * 100}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    at = data.index(b"bad" * 100)
    data[at : at + 3] = b"BAD"
    path.write_bytes(data)
    good, bad = discover([str(path)]).inputs
    assert read_bytes(good) == b"good" * 100
    with pytest.raises(ParseError, match="damaged"):
        read_bytes(bad)

    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1
    path.write_bytes(data)
    found = discover([str(path)])
    assert [(Path(entry.source).name, entry.error) for entry in found.unreadable] == [("good.pdf", "encrypted")]


def test_damaged_tar_keeps_the_members_before_the_damage(tmp_path: Path) -> None:
    members = {f"{i}.pdf": bytes([65 + i]) * 700 for i in range(4)}
    path = _tar(tmp_path / "a.tar", members)
    whole = path.read_bytes()
    third = whole.index(b"2.pdf")
    for data in (whole[: third + 900], whole[:third] + b"\xff" * 512 + whole[third + 512 :]):
        path.write_bytes(data)
        found = discover([str(path)])
        readable = [item for item in found.inputs if item.member in ("0.pdf", "1.pdf")]
        assert [read_bytes(item) for item in readable] == [b"A" * 700, b"B" * 700]
        assert [(entry.source, entry.error) for entry in found.unreadable] == [(str(path), "damaged")]


def test_zip_bomb_is_refused_by_its_declared_and_its_real_size(tmp_path: Path) -> None:
    path = _zip(tmp_path / "bomb.zip", {"x.pdf": b"\0" * 5_000_000})
    [item] = discover([str(path)]).inputs
    with pytest.raises(ParseError, match="too_large"):
        read_bytes(item, limit=1_000_000)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = (1000).to_bytes(4, "little")  # claims 1,000 bytes
    path.write_bytes(data)
    [item] = discover([str(path)]).inputs
    with pytest.raises(ParseError, match="damaged"):
        read_bytes(item, limit=1_000_000)


def test_reading_many_tar_members_takes_linear_time(tmp_path: Path) -> None:
    members = {f"{i:05d}.pdf": b"%d" % i for i in range(3000)}
    for name, mode in (("many.tar", "w"), ("many.tar.gz", "w:gz")):
        found = discover([str(_tar(tmp_path / name, members, mode))])
        started = time.process_time()
        assert [read_bytes(item) for item in found.inputs] == list(members.values())
        assert time.process_time() - started < 3  # opening the archive anew each time takes minutes


def test_rows_are_cut_into_ranges(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_bytes(_jsonl(1100) + b"\n \n")
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(_jsonl(1100)[:-1]))
    rows = {"_id": [str(i) for i in range(1100)], "title": [""] * 1100, "text": ["t"] * 1100, "n": [0] * 1100}
    pq.write_table(pa.table(rows), tmp_path / "r.parquet", row_group_size=300)
    for name in ("r.jsonl", "r.jsonl.gz", "r.parquet"):
        found = discover([str(tmp_path / name)])
        assert [(item.start, item.stop) for item in found.inputs] == [(0, 512), (512, 1024), (1024, 1100)]
        assert _ids(found.inputs) == rows["_id"]
        assert _ids(found.inputs[::-1]) == rows["_id"][1024:] + rows["_id"][512:1024] + rows["_id"][:512]
        assert all(item.size > 0 for item in found.inputs)
        assert [Input.from_row(item.to_row()) for item in found.inputs] == found.inputs


def test_a_changed_row_file_is_not_read_at_wrong_offsets(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(_jsonl(10))
    [item] = discover([str(path)]).inputs
    path.write_bytes(_jsonl(12))
    os.utime(path, ns=(1, 1))
    with pytest.raises(ParseError, match="changed"):
        list(iter_rows(item))


@given(
    st.lists(st.sampled_from([b'{"text": "a"}', b"", b"  ", b"x" * 50]), max_size=30),
    st.integers(1, 7),
    st.booleans(),
    st.integers(1, 40),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranges_cover_every_row_once(
    monkeypatch: pytest.MonkeyPatch, lines: list[bytes], rows: int, newline_at_end: bool, chunk: int
) -> None:
    monkeypatch.setattr("hiperrag.parsing.row_files._CHUNK", chunk)
    lines = [b'{"text": "first"}', *lines]
    data = b"\n".join(lines) + (b"\n" if newline_at_end else b"")
    ranges = jsonl_ranges(io.BytesIO(data), rows)
    expected = data.rstrip().split(b"\n")
    assert [i for r in ranges for i in range(r.start, r.stop)] == list(range(len(expected)))
    assert all(r.stop - r.start <= rows for r in ranges)
    for r in ranges:
        read = list(JsonLinesReader(io.BytesIO(data)).read(r.start, r.stop, r.offset))
        assert [index for index, _ in read] == list(range(r.start, r.stop))
        assert [isinstance(row, dict) for _, row in read] == [
            expected[i].startswith(b"{") for i in range(r.start, r.stop)
        ]


def test_bad_rows_are_reported_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiperrag.parsing.row_files.MAX_ROW_BYTES", 1000)
    lines = [
        b'\xef\xbb\xbf{"text": "bom"}',
        b"{",
        b"[1]",
        b"\xff",
        b"",
        b'"' + b"x" * 2000,
        b"[" * 900,
        b'{"text": "z"}',
    ]
    (tmp_path / "r.jsonl").write_bytes(b"\n".join(lines))
    [item] = discover([str(tmp_path / "r.jsonl")]).inputs
    outcome = [row if isinstance(row, dict) else str(row) for _, row in iter_rows(item)]
    assert outcome == [
        {"text": "bom"},
        "bad_row: line 2 is not JSON",
        "bad_row: line 3 is not a JSON object but list",
        "bad_row: line 4 is not UTF-8",
        "bad_row: line 5 is not JSON",
        "too_large: line 6 is longer than 1000 bytes",
        "bad_row: line 7 is not JSON",
        {"text": "z"},
    ]


def test_ready_text_becomes_a_document() -> None:
    row = {"_id": "q7", "title": " A\n title ", "text": "One.\nStill one.\n\n \nTwo.\r\n\r\nThree."}
    document = document_from_row(row, "c.jsonl", 3)
    assert (document.source, document.title, document.n_pages, document.parser) == ("q7", "A title", 0, "ready_text")
    assert [(block.kind, block.text) for block in document.blocks] == [
        ("title", "A title"),
        ("paragraph", "One.\nStill one."),
        ("paragraph", "Two."),
        ("paragraph", "Three."),
    ]
    assert len(document.doc_id) == 32
    assert document_from_row(dict(reversed(row.items())), "elsewhere.jsonl", 9).doc_id == document.doc_id
    assert document_from_row(row | {"text": "One."}, "c.jsonl", 3).doc_id != document.doc_id


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"text": "t"}, "c.jsonl#3"),
        ({"_id": 12, "text": "t"}, "12"),
        ({"_id": "", "id": "i", "text": "t"}, "i"),
        ({"doc_id": "d", "title": "only a title", "text": None}, "d"),
        ({"_id": "\ud800", "text": "\ud800"}, "?"),
    ],
)
def test_names_of_rows(row: dict[str, Any], name: str) -> None:
    assert document_from_row(row, "c.jsonl", 3).source == name


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"text": " "},
        {"text": 3},
        {"text": ["t"]},
        {"text": "t", "title": 1},
        {"text": "t", "_id": []},
        {"_id": True, "text": "t"},
    ],
)
def test_unusable_rows(row: dict[str, Any]) -> None:
    with pytest.raises(ParseError, match="line 4") as caught:
        document_from_row(row, "c.jsonl", 3)
    assert caught.value.error == "bad_row"


def test_few_files_stay_open(tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / f"{i}.jsonl").write_bytes(_jsonl(3))
        _tar(tmp_path / f"{i}.tar", {"x.pdf": b"x", "y.jsonl": _jsonl(2)})
        _zip(tmp_path / f"{i}.zip", {"x.pdf": b"x", "y.jsonl.gz": gzip.compress(_jsonl(2))})
    before = len(list(Path("/proc/self/fd").iterdir()))
    for item in discover([str(tmp_path)]).inputs:
        assert list(iter_rows(item)) if item.kind == "rows" else read_bytes(item)
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= archives._KEPT_OPEN + inputs._KEPT_OPEN
