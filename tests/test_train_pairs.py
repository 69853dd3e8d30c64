"""Pairs: files, text to make them of, duplicates, the split by document, and the card that accounts for all of it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from training_helpers import made_pairs

from hiperrag.encoders.training.corpus import pairs_of_row
from hiperrag.encoders.training.pairs import document_of, read_pairs, text_hash, write_pairs
from hiperrag.errors import UserError

ARTICLE = {
    "id": "10.1/x",
    "title": "Honeybees dance to tell where flowers are",
    "abstract": "Bees dance on the comb. The angle of a waggle run tells the direction of the flowers. Its length "
    "tells how far away they are, as many experiments with artificial feeders have shown. Recruits fly out soon after.",
    "license": "licenses/by/4.0",
    "paragraphs": [
        ["Introduction", "Word " * 30],
        ["Results > 2.1. Angle of the waggle run", "The angle differed between hives in spring. " * 6],
        ["Author contributions", "All of the authors wrote the paper together and approved it in the end. " * 4],
    ],
}


def _lines(file: Path, rows: list[object]) -> Path:
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    return file


def test_formats_agree(tmp_path: Path) -> None:
    pairs = made_pairs(12, negatives=2)
    rows = [pair.model_dump() for pair in pairs]
    write_pairs(tmp_path / "plain.jsonl", pairs)
    _lines(tmp_path / "packed.jsonl.gz", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    for name in ("plain.jsonl", "packed.jsonl.gz", "table.parquet"):
        assert read_pairs([tmp_path / name], held_out=0.0).training == pairs


def test_duplicates_are_left_out_and_counted(tmp_path: Path) -> None:
    row = {"query": "What sings?", "positive": "Whales sing."}
    rows = [row, {"query": "what  sings? ", "positive": "WHALES sing."}, {"query": "q", "positive": "Q"}]
    other = {"query": "What dances?", "positive": "Bees dance.", "licence": "CC0", "source": "bees"}
    data = read_pairs([_lines(tmp_path / "a.jsonl", [*rows, other])], held_out=0.0)
    assert [pair.query for pair in data.training] == ["What sings?", "What dances?"]
    assert data.card["sources"]["a"] == {
        "read": 3,
        "training": 1,
        "duplicates": 1,
        "query_is_positive": 1,
        "documents": 1,
        "licences": {"unknown": 1},
    }
    assert data.card["sources"]["bees"]["licences"] == {"CC0": 1}
    assert data.card["files"][0]["name"] == "a.jsonl"


def test_documents_are_not_split_and_the_split_does_not_depend_on_order(tmp_path: Path) -> None:
    rows = [{"query": f"q{number}", "positive": f"p{number}", "document": f"d{number % 60}"} for number in range(300)]
    data = read_pairs([_lines(tmp_path / "a.jsonl", rows)], held_out=0.25)
    training, held_out = ({document_of(pair) for pair in pairs} for pairs in (data.training, data.held_out))
    assert not training & held_out
    assert 5 <= len(held_out) <= 28
    turned = read_pairs([_lines(tmp_path / "b.jsonl", rows[::-1])], held_out=0.25)
    assert {document_of(pair) for pair in turned.held_out} == held_out
    assert {document_of(pair) for pair in read_pairs([tmp_path / "a.jsonl"], 0.25, seed=1).held_out} != held_out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"query": "a"}\n', "row 1: positive"),
        ('{"query": "a", "positive": ""}\n', "row 1: positive"),
        ('{"query": "a", "positive": "b", "negatives": ["c"], "teacher_scores": [1.0]}\n', "1 teacher_scores"),
        ('{"query": "a", "positive": "b"}\n{"query": \n', "line 2"),
        ("[1]\n", "not a JSON object"),
        ('{"query": "a", "positive": "b"}\n', "1 pairs to train with"),
        ("", "0 pairs"),
    ],
)
def test_unusable_files_are_explained(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        read_pairs([tmp_path / "a.jsonl"], held_out=0.0)


def test_files_that_are_not_there_or_no_table_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_pairs([tmp_path / "absent.jsonl"])
    (tmp_path / "a.parquet").write_text("no table")
    with pytest.raises(UserError, match="Parquet"):
        read_pairs([tmp_path / "a.parquet"])


def test_an_article_gives_titles_headings_and_sentences() -> None:
    made = [pair for seed in range(8) for pair in pairs_of_row(ARTICLE, "bees", seed)]
    recipes = {pair["source"] for pair in made}
    assert recipes == {"bees/title", "bees/heading", "bees/sentence"}
    assert {(pair["licence"], pair["document"]) for pair in made} == {("CC BY 4.0", "bees:10.1/x")}
    assert {pair["query"] for pair in made if pair["source"] == "bees/heading"} == {"Angle of the waggle run"}
    assert not any("approved" in pair["positive"] for pair in made)
    sentences = [pair for pair in made if pair["source"] == "bees/sentence"]
    assert all(pair["positive"].startswith(ARTICLE["title"]) for pair in sentences)
    assert any(pair["query"] not in pair["positive"] for pair in sentences)


def test_the_same_seed_gives_the_same_pairs() -> None:
    assert list(pairs_of_row(ARTICLE, "bees", 3)) == list(pairs_of_row(ARTICLE, "bees", 3))


def test_a_textbook_paragraph_gives_its_heading() -> None:
    row = {
        "_id": "book:m1#4",
        "title": "Physics > Waves > Standing waves on a string",
        "text": "Waves on a string that is fixed at both ends are reflected, and so they meet themselves. " * 3,
    }
    made = list(pairs_of_row(row, "openstax_ccby"))
    assert made[0]["query"] == "Waves: Standing waves on a string"
    assert (made[0]["licence"], made[0]["document"]) == ("CC BY", "openstax_ccby:book:m1")
    assert not list(pairs_of_row(row | {"title": "Physics > Preface > Waves of authors"}, "openstax_ccby"))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a stable core1,2 of cells", "a stable core of cells"),
        (
            "expression of p53 and TP53 in CD4 cells at 37 degrees",
            "expression of p53 and TP53 in CD4 cells at 37 degrees",
        ),
        ("MethodsThis study", "Methods: This study"),
    ],
)
def test_glued_citations_and_labels_are_mended(text: str, clean: str) -> None:
    row = {"_id": "a", "title": "A title of four words", "text": text + " and so forth" * 12}
    (title,) = [pair for pair in pairs_of_row(row, "x") if pair["source"] == "x/title"]
    assert title["positive"].startswith(clean)


def test_hashes_do_not_see_case_and_white_space() -> None:
    assert text_hash("A  cell ") == text_hash("a cell") != text_hash("a cello")


def test_the_shared_corpora_give_licensed_pairs(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "corpus"
    for name in ("openstax_ccby", "arxiv_abstracts_cc0", "pmc_oa_ccby_articles"):
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(next(lines)) for _ in range(60)]
        data = read_pairs([_lines(tmp_path / f"{name}.jsonl.gz", rows)])
        assert len(data.training) > 30
        licences = {licence for source in data.card["sources"].values() for licence in source["licences"]}
        assert all(licence == "CC0" or licence.startswith("CC BY") for licence in licences)
