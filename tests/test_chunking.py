"""Sentences, and passages cut from documents."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hiperrag.parsing.chunking import ChunkSettings, chunk_document
from hiperrag.parsing.ready_text import document_from_row
from hiperrag.parsing.sandbox import parse_inputs
from hiperrag.parsing.sources import discover
from hiperrag.records import Block, BlockKind, Box, Document, Passage
from hiperrag.sentences import split_sentences

SHARED = Path(os.environ.get("HIPERRAG_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SETTINGS = ChunkSettings()
FLOW = ("paragraph", "list", "equation", "code")


def word_pieces(texts: Sequence[str]) -> list[int]:
    """Like WordPiece: a token per four characters of a word, two special tokens."""
    return [2 + sum(-(-len(word) // 4) for word in text.split()) for text in texts]


def characters(texts: Sequence[str]) -> list[int]:
    return [1 + len(text) for text in texts]


def not_additive(texts: Sequence[str]) -> list[int]:
    """The whole has more tokens than its parts."""
    return [2 + len(text.split()) + len(text) // 40 for text in texts]


COUNTS = [word_pieces, characters, not_additive]


def document(*blocks: Block, title: str = "") -> Document:
    return Document("0123456789abcdef" * 2, "x.pdf", title, [], 9, "test", "1", 1.0, list(blocks))


def block(
    kind: BlockKind, text: str, page: int = 1, top: float = 0.0, level: int = 0, continues: bool = False
) -> Block:
    return Block(page, kind, (10.0, top, 90.0, top + 10.0), text, level, continues)


def chunk(*blocks: Block, limit: int = 40, title: str = "") -> list[Passage]:
    return chunk_document(document(*blocks, title=title), word_pieces, limit, SETTINGS)


def sentence(word: str, n: int) -> str:
    return " ".join([word.capitalize(), *[word] * (n - 1)]) + "."


# Sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["As shown in Fig. 3A, S. aureus grew (Smith et al., 2010). ", "The rate rose."],
        ["It was 0.5 mg/L vs. 1.2 mg/L. ", "See Eq. (3). ", "Then we stopped."],
        ["We thank J. R. Smith and A.-B. Lee of the U.S. Department. ", "They helped."],
        ["This was found by Smith et al. ", "The end, by Smith et al. 2010, came."],
        ["We use e.g. Apples, i.e. Fruit, cf. Table 2. ", "Done."],
        ["Cells divide.12,13 ", "They die.[4] ", "Others live. [5, 6–8] ", "All rest."],
        ["p53 was 0.5. ", "mRNA levels fell. ", "α-Synuclein did not."],
        ["Is it so? ", "Yes! ", "“It is.” ", "(We checked.) ", "End"],
        ["1. Introduction to it. ", "2.1. Methods were used. ", "No. 5 was best."],
        ["It took approx. 5 min. ", "The rest took 3 hr. ", "We left at 5 p.m. on 3 Jan."],
        ["Homo sapiens sp. nov. was found at pH 7. ", "It was new."],
        ["第一句。", "第二句！", "第三"],
        ["A heading\n\n", "a paragraph. ", "Another one."],
        ["They took 5 ml for 24 h. ", "Total counts fell in 30 min. ", "Nothing else did."],
        ["The p. Lys27Met mutation (J. Biol. Chem. 83) is rare. ", "Others are not."],
        ["Vitamin C. ", "The rest follows…  ", "And so on."],
        ["The ratio was 0.5 The next had no stop."],
        ["Dr. Jones (Dept. Chem., Univ. Oslo) wrote Vol. 3, pp. 4–9."],
    ],
)
def test_sentence_boundaries(sentences: list[str]) -> None:
    assert split_sentences("".join(sentences)) == sentences


@given(
    st.one_of(
        st.text(),
        st.lists(
            st.sampled_from(["Fig.", "al.", "A", "word", ". ", " ", "\n", "\n\n", "。", "[1]", "?", "”", "3", ".4"]),
            max_size=40,
        ).map("".join),
    )
)
@settings(max_examples=300, deadline=None)
def test_sentences_are_the_text_again(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    if text.strip():
        assert all(piece.strip() for piece in sentences)


def test_sentences_of_a_hostile_text_take_linear_time() -> None:
    for text in (
        "." * 50_000,
        "[1, " * 50_000,
        "A. " * 50_000,
        "\n" * 50_000,
        "'" * 50_000,
        ".1,2" * 20_000,
        "? " * 50_000,
    ):
        assert "".join(split_sentences(text)) == text


# Structure


def test_sections_paragraphs_and_ids() -> None:
    passages = chunk(
        block("title", "Title"),
        block("authors", "A. Author"),
        block("abstract", "Short abstract."),
        block("heading", "1 Methods", level=1),
        block("paragraph", "First paragraph."),
        block("paragraph", "Second paragraph.", page=2),
        block("header", "Running head", page=2),
        block("heading", "1.1 Participants", level=2),
        block("list", "• One item"),
        block("heading", "2 Results", level=1),
        block("paragraph", "Third."),
        block("heading", "References", level=1),
        block("reference", "[1] Someone."),
        title="Title",
    )
    assert [(p.kind, p.section, p.text, p.pages) for p in passages] == [
        ("abstract", "", "Short abstract.", [1]),
        ("paragraph", "1 Methods", "First paragraph.\n\nSecond paragraph.", [1, 2]),
        ("list", "1 Methods > 1.1 Participants", "• One item", [1]),
        ("paragraph", "2 Results", "Third.", [1]),
    ]
    assert [p.passage_id for p in passages] == [f"0123456789abcdef-{i:04d}" for i in range(4)]
    assert {(p.document, p.title) for p in passages} == {("x.pdf", "Title")}
    assert [p.n_tokens for p in passages] == word_pieces([p.encoder_text() for p in passages])


def test_long_sections_are_cut_evenly_between_paragraphs_first() -> None:
    texts = [sentence("aa", 12), sentence("bb", 12), sentence("cc", 12), sentence("dd", 12)]
    passages = chunk(*[block("paragraph", text) for text in texts])
    assert [p.text for p in passages] == ["\n\n".join(texts[:2]), "\n\n".join(texts[2:])]

    texts = [sentence("aa", 10), sentence("bb", 10), sentence("cc", 10), sentence("dd", 10)]
    passages = chunk(block("paragraph", " ".join(texts)))
    assert [p.text for p in passages] == [" ".join(texts[:2]), " ".join(texts[2:])]


def test_a_sentence_over_the_limit_is_cut_at_clauses_then_words() -> None:
    clauses = [" ".join(["aa"] * 20) + ";", " ".join(["bb"] * 20) + ",", " ".join(["cc"] * 20) + "."]
    passages = chunk(block("paragraph", " ".join(clauses)), limit=24)
    assert [p.text for p in passages] == clauses
    passages = chunk(block("paragraph", " ".join(["word"] * 100)), limit=24)
    assert " ".join(p.text for p in passages) == " ".join(["word"] * 100)
    assert min(p.n_tokens for p in passages) > 8


def test_only_a_word_over_the_limit_is_cut_inside() -> None:
    long = "x" * 500
    passages = chunk(block("paragraph", f"Before {long} after."), limit=24)
    assert "".join(p.text for p in passages).replace(" ", "") == f"Before{long}after."
    assert max(p.n_tokens for p in passages) <= 24
    assert len(passages) < 14


def test_running_text_goes_on_behind_floats_footnotes_and_page_breaks() -> None:
    passages = chunk(
        block("paragraph", "The text goes"),
        block("footnote", "* A footnote."),
        block("page_number", "1"),
        block("header", "Head", page=2),
        block("figure", "axis labels", page=2, top=0),
        block("caption", "Figure 1. A caption.", page=2, top=12),
        block("paragraph", "on here, well-", page=2, continues=True),
        block("paragraph", "known.", page=3, continues=True),
    )
    assert [(p.kind, p.text, p.pages) for p in passages] == [
        ("paragraph", "The text goes on here, well-known.", [1, 2, 3]),
        ("footnote", "* A footnote.", [1]),
        ("caption", "Figure 1. A caption.", [2]),
    ]
    assert passages[2].boxes == [Box(2, 10, 12, 90, 22), Box(2, 10, 0, 90, 10)]


def test_equations_stay_inside_their_paragraph() -> None:
    passages = chunk(
        block("paragraph", "The energy is"),
        block("equation", "E = mc2 (1)"),
        block("paragraph", "where m is mass."),
        block("paragraph", "New paragraph."),
    )
    assert [(p.kind, p.text) for p in passages] == [
        ("paragraph", "The energy is\nE = mc2 (1)\nwhere m is mass.\n\nNew paragraph.")
    ]


def test_captions_go_with_the_nearest_table_on_their_page() -> None:
    """Captions above or below; with a block per row; the second table's caption is not the first one's."""
    passages = chunk(
        block("table", "a b", top=100),
        block("table", "1 2", top=112),
        block("caption", "Table 1. Below.", top=124),
        block("table", "c d", top=400),
        block("caption", "Table 2. Below too.", top=412),
        block("figure", "", top=500),
        block("caption", "Table 3. Above, beside a figure.", top=512),
        block("table", "e f", top=530),
        block("caption", "Table 4. Alone.", top=600),
        block("table", "g h", page=2),
    )
    assert [(p.kind, p.text) for p in passages] == [
        ("table", "Table 1. Below.\n\na b\n1 2"),
        ("table", "Table 2. Below too.\n\nc d"),
        ("table", "Table 3. Above, beside a figure.\n\ne f"),
        ("caption", "Table 4. Alone."),
        ("table", "g h"),
    ]
    assert passages[0].boxes == [Box(1, 10, 124, 90, 134), Box(1, 10, 100, 90, 122)]


def test_long_tables_and_code_are_cut_between_lines() -> None:
    lines = [f"row{i} A. B. C, D; E {i}" for i in range(30)]
    for kind in ("table", "code"):
        passages = chunk(block(kind, "\n".join(lines)))
        assert len(passages) > 3
        assert [line for p in passages for line in p.text.split("\n")] == lines


def test_boxes_are_those_of_the_text() -> None:
    blocks = [block("paragraph", sentence(f"w{i}", 12), page=i + 1) for i in range(4)]
    passages = chunk(*blocks)
    assert [[box.page for box in p.boxes] for p in passages] == [[1, 2], [3, 4]]
    assert [p.pages for p in passages] == [[1, 2], [3, 4]]


# Titles and ready text


def test_ready_text_within_the_limit_is_one_passage() -> None:
    text = sentence("word", 20) + "\n\n" + sentence("more", 15)
    ready = document_from_row({"_id": "7", "title": "Title", "text": text}, "c.jsonl", 0)
    for limit in (41, 200):
        [passage] = chunk_document(ready, word_pieces, limit, ChunkSettings(target_tokens=16))
        assert (passage.text, passage.document, passage.kind) == (text, "7", "paragraph")
        assert (passage.pages, passage.boxes) == ([], [])
    assert len(chunk_document(ready, word_pieces, 40, SETTINGS)) == 2


def test_a_title_is_shortened_only_where_it_takes_too_much_room() -> None:
    title = " ".join(["long"] * 30)
    [whole] = chunk(block("paragraph", "Fits."), title=title)
    assert whole.title == title
    cut = chunk(block("paragraph", " ".join(["word"] * 20)), title=title)
    assert {p.title for p in cut} == {" ".join(["long"] * 9) + " …"}
    [without] = chunk(block("paragraph", " ".join(["word"] * 20)), title="x" * 400)
    assert without.title == ""


def test_a_title_alone_makes_a_passage() -> None:
    ready = document_from_row({"_id": "7", "title": "Only a title"}, "c.jsonl", 0)
    [passage] = chunk_document(ready, word_pieces, 40, SETTINGS)
    assert (passage.kind, passage.text, passage.title) == ("title", "Only a title", "Only a title")
    assert passage.encoder_text() == "Only a title"
    assert chunk(block("header", "Head")) == []


def test_impossible_limits_and_settings() -> None:
    with pytest.raises(ValueError, match="no room for text"):
        chunk(block("paragraph", "Some text."), limit=2)
    with pytest.raises(ValidationError):
        ChunkSettings(target=5)  # type: ignore[call-arg]


# Properties


@st.composite
def documents(draw: st.DrawFn) -> Document:
    numbers = itertools.count()

    def word() -> str:
        return f"{next(numbers)}{draw(st.sampled_from(['a', 'Bc', 'word.', 'x,', 'long' * 4, 'é;', '。']))}"

    kinds = st.sampled_from([*get_args(BlockKind), *["paragraph"] * 12])
    separators = st.sampled_from([" ", " ", " ", "\n", "\n\n"])
    blocks = [
        Block(
            page,
            draw(kinds),
            (0.0, 0.0, 1.0, 1.0),
            "".join(word() + draw(separators) for _ in range(draw(st.integers(0, 25)))),
            draw(st.integers(0, 3)),
            draw(st.booleans()),
        )
        for page in range(1, draw(st.integers(1, 10)))
    ]
    return document(*blocks, title=draw(st.sampled_from(["", "Title", "A long title of many words " * 4])))


def words_of(texts: Sequence[str]) -> list[str]:
    return [word for text in texts for word in text.split()]


@given(documents(), st.sampled_from(COUNTS), st.integers(40, 90), st.sampled_from([None, 16, 50]))
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost_cut_or_over_the_limit(doc: Document, count: object, limit: int, target: int | None) -> None:
    assert callable(count)
    passages = chunk_document(doc, count, limit, ChunkSettings(target_tokens=target))
    assert passages == chunk_document(doc, count, limit, ChunkSettings(target_tokens=target))
    assert [p.ordinal for p in passages] == list(range(len(passages)))
    assert [p.n_tokens for p in passages] == count([p.encoder_text() for p in passages])
    assert all(p.n_tokens <= limit and p.text == p.text.strip() != "" for p in passages)
    for kinds in (FLOW, ("abstract",), ("footnote",)):
        given_words = words_of([b.text for b in doc.blocks if b.kind in kinds])
        kept = words_of([p.text for p in passages if p.kind in kinds])
        assert sorted(kept) == sorted(given_words)  # every word, whole
    flow = words_of([p.text for p in passages if p.kind in FLOW])
    assert flow == words_of([b.text for b in doc.blocks if b.kind in FLOW])
    floats = words_of([p.text for p in passages if p.kind in ("table", "caption")])
    assert sorted(floats) == sorted(words_of([b.text for b in doc.blocks if b.kind in ("table", "caption")]))
    for p in passages:
        if p.kind != "title":
            sources = [b for b in doc.blocks if b.kind in (*FLOW, "abstract", "footnote", "table", "caption")]
            pages = {b.page for b in sources for word in b.text.split() if word in p.text.split()}
            assert pages <= {box.page for box in p.boxes}
            assert (p.page_start, p.page_end) == (min(b.page for b in p.boxes), max(b.page for b in p.boxes))


@given(st.text(min_size=1), st.sampled_from(COUNTS), st.integers(8, 30))
@settings(max_examples=300, deadline=None)
def test_any_text_fits_any_limit(text: str, count: object, limit: int) -> None:
    assert callable(count)
    passages = chunk_document(document(block("paragraph", text)), count, limit, SETTINGS)
    assert all(p.n_tokens <= limit for p in passages)
    assert re.sub(r"\s", "", "".join(p.text for p in passages)) == re.sub(r"\s", "", text)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no development data (HIPERRAG_SHARED)")
def test_real_papers() -> None:
    pdfs = sorted((SHARED / "data" / "pdfs" / "pairs" / "pdf").glob("*.pdf"))[:3]
    parsed, quarantined = parse_inputs(discover(list(map(str, pdfs))).inputs)
    assert (len(parsed), quarantined) == (3, [])
    for doc in parsed:
        passages = chunk_document(doc, word_pieces, 400, SETTINGS)
        prose = [p for p in passages if p.kind == "paragraph"]
        assert len(prose) > 10
        assert all(0 < p.page_start <= p.page_end <= doc.n_pages and p.boxes for p in passages)
        # Most passages of running text end where a sentence does.
        assert sum(p.text.rstrip("”’)]0123456789,–")[-1:] in ".?!:" for p in prose) > 0.8 * len(prose)
