"""Metadata of documents: from rows of ready text, from the first pages of PDFs, through files and into columns."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiperrag.metadata import MAX_TEXT, RESERVED, Metadata, clean_value, metadata_columns, value_text
from hiperrag.parsing.chunking import ChunkSettings, chunk_document
from hiperrag.parsing.inputs import iter_rows
from hiperrag.parsing.metadata import stated
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.oreo import parse_pdf
from hiperrag.parsing.reading import load_pymupdf
from hiperrag.parsing.ready_text import document_from_row
from hiperrag.parsing.sources import discover
from hiperrag.records import (
    Block,
    BlockKind,
    Document,
    Passage,
    passage_from_row,
    read_documents,
    read_passages,
    write_records,
)

SHARED = Path(os.environ.get("HIPERRAG_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
PAIRS = SHARED / "data" / "pdfs" / "pairs"

VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)

FAST = ParseOptions("fast")


def metadata_of(row: dict[str, Any]) -> Metadata:
    return document_from_row({"_id": "1", "text": "t", **row}, "c.jsonl", 0).metadata


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_records_keep_metadata(tmp_path_factory, metadata):
    folder = tmp_path_factory.mktemp("records")
    documents = [
        Document("d", "a.pdf", "T", [], 1, "p", "1", 1.0, [Block(1, "paragraph", (0, 0, 1, 1), "t")], metadata=found)
        for found in (metadata, {})
    ]
    passages = [p for d in documents for p in chunk_document(d, lambda t: [len(x) for x in t], 64, ChunkSettings())]
    write_records(folder / "d.parquet", Document, documents)
    write_records(folder / "p.parquet", Passage, passages)
    assert [typed(d.metadata) for d in read_documents(folder / "d.parquet")] == [typed(metadata), {}]
    assert [typed(p.metadata) for p in read_passages(folder / "p.parquet")] == [typed(metadata), {}]


def typed(metadata: Metadata) -> dict[str, tuple[type, Any]]:
    return {name: (type(value), value) for name, value in metadata.items()}


def test_the_column_is_sorted_json(tmp_path):
    document = Document("d", "a", "T", [], 0, "p", "1", 1.0, [], metadata={"z": 1, "a": "é"})
    write_records(tmp_path / "d.parquet", Document, [document, Document("e", "b", "T", [], 0, "p", "1", 1.0, [])])
    assert pq.read_table(tmp_path / "d.parquet")["metadata"].to_pylist() == ['{"a": "é", "z": 1}', "{}"]


def test_passages_without_the_column_have_no_metadata():
    row = {"passage_id": "p", "doc_id": "d", "document": "a", "title": "T", "ordinal": 0, "kind": "table"}
    row |= {"section": "", "text": "t", "page_start": 0, "page_end": 0, "boxes": [], "n_tokens": 1}
    assert passage_from_row(row).metadata == {}


def test_scalars_of_a_row():
    row = {
        "year": 2015, "weight": 0.5, "open": False, "journal": "Soil Letters", "authors": ["A. Moss", "B. Fen"],
        "pub-date": "2015-05-12", "Größe (m)": 3,
    }  # fmt: skip
    assert metadata_of(row) == row | {"authors": "A. Moss; B. Fen"}


@pytest.mark.parametrize(
    "value", [None, {"a": 1}, [1, 2], ["a", 1], [], "", "  ", "x" * (MAX_TEXT + 1), float("nan"), float("inf")]
)
def test_what_is_no_metadata(value):
    assert metadata_of({"x": value, "year": 1}) == {"year": 1}


@pytest.mark.parametrize("name", [*sorted(RESERVED), "", " ", "a\nb", "x" * 300])
def test_names_that_are_left_out(name):
    usable = {"_id": "1", "text": "t", "title": "t"}
    assert document_from_row({**usable, "id": "2", "doc_id": "3", name: usable.get(name, "v")}, "c", 0).metadata == {}


def test_the_metadata_object_is_flattened_and_the_row_wins():
    nested = {"year": 1999, "url": "u", "deep": {"x": 1}, "title": "no"}
    assert metadata_of({"year": 2015, "metadata": nested}) == {"year": 2015, "url": "u"}
    assert metadata_of({"metadata": "a string"}) == {}


def test_unusual_values():
    assert metadata_of({"n": 2**64}) == {"n": str(2**64)}
    assert metadata_of({"n": 10**5000}) == {}
    assert metadata_of({"\ud800": "\ud800"}) == {"?": "?"}
    assert clean_value(datetime.datetime(2019, 5, 12, 3)) == "2019-05-12T03:00:00"


def test_metadata_is_no_part_of_a_documents_identity():
    row = {"_id": "1", "title": "T", "text": "t"}
    assert document_from_row(row, "c", 0).doc_id == document_from_row(row | {"year": 2015}, "c", 0).doc_id


def test_row_files_of_every_kind(tmp_path):
    rows = [{"_id": "a", "text": "t", "year": 2015, "tags": ["x", "y"]}, {"_id": "b", "text": "t", "open": True}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "1.jsonl").write_bytes(lines)
    (tmp_path / "2.jsonl.gz").write_bytes(gzip.compress(lines))
    table = pa.Table.from_pylist(
        [
            {"_id": "a", "text": "t", "tags": ["x", "y"], "year": 2015, "open": None},
            {"_id": "b", "text": "t", "tags": None, "year": None, "open": True},
        ]
    )
    pq.write_table(table, tmp_path / "3.parquet")
    found = {
        Path(item.path).name: [document_from_row(row, item.source, i).metadata for i, row in iter_rows(item)]
        for item in discover([str(tmp_path)]).inputs
    }
    expected = [{"year": 2015, "tags": "x; y"}, {"open": True}]
    assert found == dict.fromkeys(["1.jsonl", "2.jsonl.gz", "3.parquet"], expected)


def test_columns_of_a_parquet_file(tmp_path):
    table = pa.table(
        {
            "text": ["t"],
            "journal": pa.array(["Soil"]).dictionary_encode(),
            "day": pa.array([datetime.date(2019, 5, 12)]),
            "score": pa.array([0.5], pa.float32()),
            "n": pa.array([7], pa.uint64()),
            "metadata": [{"year": 2019, "deep": {"x": 1}}],
            "embedding": [[0.1, 0.2]],
            "raw": [b"\0"],
        }
    )
    pq.write_table(table, tmp_path / "c.parquet")
    [item] = discover([str(tmp_path / "c.parquet")]).inputs
    [(_, row)] = iter_rows(item)
    assert set(row) == {"text", "journal", "day", "score", "n", "metadata"}
    expected = {"journal": "Soil", "day": "2019-05-12", "score": 0.5, "n": 7, "year": 2019}
    assert document_from_row(row, "c.parquet", 0).metadata == expected


def test_types_of_columns():
    rows: list[dict[str, Any]] = [
        {"year": 2015, "x": 1, "flag": True, "any": 1, "big": 2**53 + 1, "text": "a"},
        {"x": 0.5, "flag": False, "any": "b", "big": 0.5},
        {"any": True},
    ]
    columns = metadata_columns(rows)
    assert list(columns) == sorted(columns)
    assert {name: (str(column.type), column.to_pylist()) for name, column in columns.items()} == {
        "year": ("int64", [2015, None, None]),
        "x": ("double", [1.0, 0.5, None]),
        "flag": ("bool", [True, False, None]),
        "any": ("string", ["1", "b", "true"]),
        "big": ("string", [str(2**53 + 1), "0.5", None]),
        "text": ("string", ["a", None, None]),
    }
    assert metadata_columns([]) == {}
    assert metadata_columns([{}, {}]) == {}


@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), max_size=8))
def test_columns_hold_every_value(rows):
    columns = metadata_columns(rows)
    assert set(columns) == {key for row in rows for key in row}
    for key, column in columns.items():
        assert [None if v is None else value_text(v) for v in column.to_pylist()] == [
            value_text(row[key]) if key in row else None for row in rows
        ]


def blocks_of(*notes: str, kind: BlockKind = "footnote", page: int = 1) -> list[Block]:
    return [Block(page, kind, (0, 0, 1, 1), note) for note in notes]


@pytest.mark.parametrize(
    ("note", "year"),
    [
        ("Received: 14 December 2018; Accepted: 28 January 2019; Published: 3 February 2019", 2019),
        ("Received 16 May 2017; accepted 3 December 2018", 2018),
        ("Received 2022 March 3; accepted 2022 May 26", 2022),
        ("Accepted: 2021-03-04", 2021),
        ("Published: May 14, 2025", 2025),
        ("Available online 14 May 2024", 2024),
        ("Received: 31-08-2016, Accepted: 28-12-2016, Published online: 27-01-2017", 2017),
        ("© 2019 The Authors. Received 3 May 2018", 2019),
        ("© The Author(s). 2021 Open Access", 2021),
        ("Copyright: © 2015 Frazier BS et al.", 2015),
        ("arXiv:1812.06145v2 [cs.CV] 3 Dec 2018", 2018),
        ("arXiv:hep-th/9901001v1 1 Jan 1999", 1999),
        ("Published as a conference paper at ICLR 2020", 2020),
        ("Citation: Moss A (2018) Of peat. PLoS ONE 13(3): e0193451. Published: March 20, 2018", 2018),
    ],
)
def test_year_in_a_note(note, year):
    assert stated(blocks_of(note)).get("year") == year


@pytest.mark.parametrize(
    ("head", "year"),
    [
        ("J. Foo 12 (2019) 1-9", 2019),
        ("BMC Cancer (2021) 21:56", 2021),
        ("Heliyon 10 (2024) e31208", 2024),
        ("J Clin Exp Dent. 2016;8(3):e230-5.", 2016),
        ("Entropy 2019, 21, 388", 2019),
        ("Arch. Anim. Breed., 59, 121–129, 2016", 2016),
        ("Volume 2016, Article ID 2345141, 6 pages", 2016),
        ("September 2015 | Volume 6 | Article 892", 2015),
        ("Proceedings of the 3rd Conference on Peat, 2021, pp. 77–80", 2021),
        ("Downloaded from the Conference Library on 3 May 2022", None),
        ("Rewetting of fens, 1990 to 2019", None),
    ],
)
def test_year_in_a_running_head(head, year):
    assert stated(blocks_of(head, kind="header", page=2)).get("year") == year


@pytest.mark.parametrize(
    "notes",
    [
        ["Published: 3 May 2015", "Published: 3 May 2019"],
        ["© 2015 The Authors", "© 2019 The Publisher"],
        ["© 2015 The Authors", "Received 3 May 2016; accepted 5 June 2016"],
        ["Published: 3 May 2015", "Accepted: 5 June 2016"],
        ["Received 3 May 2003"],
        ["1 A. Moss, J. Foo 12 (1999) 1-9"],
        ["The Fen Survey of 1994"],
        ["Registered on January 14, 2019."],
        ["arXiv:1812.06145v2 [cs.CV] 3 Dec 2018", "arXiv:1512.06145v2 [cs.CV] 3 Dec 2015"],
    ],
)
def test_a_doubtful_year_is_not_given(notes):
    assert "year" not in stated(blocks_of(*notes))


@pytest.mark.parametrize("kind", ["reference", "paragraph", "abstract", "caption", "table"])
def test_nothing_is_taken_from_the_text_or_its_references(kind):
    notes = ["Moss A. Peat. J. Foo 12 (2019) 1-9. Published: 3 May 2019. © 2019. https://doi.org/10.1234/foo.2019.1"]
    assert stated(blocks_of(*notes, kind=kind)) == {}
    assert stated(blocks_of(*notes, page=3)) == {}
    assert stated(blocks_of(*notes)) == {"year": 2019, "doi": "10.1234/foo.2019.1"}


@pytest.mark.parametrize(
    ("notes", "doi"),
    [
        (["https://doi.org/10.1186/s12885-020-07772-7"], "10.1186/s12885-020-07772-7"),
        (["DOI: 10.1097/MD.0000000000025138."], "10.1097/md.0000000000025138"),
        (["doi:10.1016/S0140-6736(20)30183-5)"], "10.1016/s0140-6736(20)30183-5"),
        (["https://doi.org/10.21105/jose.", "DOI: 10.21105/jose.00302"], "10.21105/jose.00302"),
        (["https://doi.org/10.1371/journal. pone.0323994"], None),
        (["doi 10.1136/bmjopen-2020- 042953"], None),
        (["The data are in the repository at https://doi.org/10.5281/zenodo.15281377"], None),
        (["Registration number: DOI 10.17605/OSF.IO/QHW86"], None),
        (["A reproduction of DOI 10.1038/nature06512"], None),
        (["Moss, A. (2008) Chaos. Nature, 451, 822 DOI: 10.1038/nature06512", "Published 3 May 2016"], None),
        (["doi:10.1234/a1", "doi:10.1234/b2"], None),
        (["doi:10.1234/a1 and again https://doi.org/10.1234/a1", "German Edition: 10.1234/b2"], "10.1234/a1"),
    ],
)
def test_doi(notes, doi):
    assert stated(blocks_of(*notes)).get("doi") == doi


@given(st.lists(st.text(alphabet="©10./ (2)9,;:-–adoivhceptbluYs\n", max_size=60), max_size=4))
def test_any_notes_are_read(notes):
    found = stated(blocks_of(*notes))
    assert set(found) <= {"year", "doi"}
    assert 1900 <= found.get("year", 1900) < 2100


def test_year_and_doi_of_a_pdf():
    pdf = load_pymupdf().open()
    for number in (1, 2):
        page = pdf.new_page(width=595, height=842)
        page.insert_text((60, 40), f"J. Peat 12 (2019) 1–9    {number}", fontsize=8)
        for line in range(30):
            page.insert_text(
                (60, 200 + 12 * line), f"The year {1990 + line} was wetter than the year before it in all fens."
            )
        page.insert_text((60, 800), "https://doi.org/10.1234/peat.2019.7", fontsize=8)
    pdf[0].insert_text((60, 100), "How fens drain and fill again", fontsize=20)
    assert parse_pdf(pdf.tobytes(), "a.pdf", "x", FAST).metadata == {"year": 2019, "doi": "10.1234/peat.2019.7"}


@pytest.mark.slow
@pytest.mark.skipif(not PAIRS.exists(), reason="development data is not here")
def test_precision_on_development_pairs():
    """Against publishers' JATS; JOSE's are left out of the years, for their dates are not those of publication."""
    right = {"year": [], "doi": []}  # type: dict[str, list[bool]]
    for line in (PAIRS / "manifest.jsonl").read_text().splitlines():
        pair = json.loads(line)
        source = PAIRS / "gt" / f"{pair['id']}.jats.xml.gz"
        if not source.exists():
            continue
        found = parse_pdf((PAIRS / pair["pdf"]).read_bytes(), pair["pdf"], "x", FAST).metadata
        front = re.split(r"<body\b|<back\b", gzip.decompress(source.read_bytes()).decode())[0]
        years = re.findall(r"<pub-date\b.*?<year[^>]*>(\d{4})", front, re.DOTALL)
        if "year" in found and pair["stratum"] != "jose":
            right["year"].append(str(found["year"]) in years)
        if "doi" in found:
            right["doi"].append(found["doi"] == str(pair["doi"]).lower())
    for name, least in (("year", 39), ("doi", 45)):
        assert len(right[name]) >= least
        assert sum(right[name]) >= 0.98 * len(right[name]), name
