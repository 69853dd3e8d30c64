"""Reading citations and sentences out of generated text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiperrag.answering.citations import (
    SentenceReader,
    cited_numbers,
    split_generated,
    with_only,
    without_markers,
)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Water is wet [2].", [2]),
        ("Water is wet [1, 3].", [1, 3]),
        ("Water is wet [1][2].", [1, 2]),
        ("Water is wet [1-3].", [1, 2, 3]),
        ("Water is wet [1–2; 5].", [1, 2, 5]),
        ("Water is wet [3][3].", [3]),
        ("Water is wet [Passage 4].", [4]),
        ("Values lie in [0, 1].", []),
        ("See item [a] and x[i].", []),
        ("Reported in [9-1].", [9, 1]),
        ("A long range [1-9000].", [1, 9000]),
    ],
)
def test_cited_numbers(text: str, numbers: list[int]) -> None:
    assert cited_numbers(text) == numbers


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Water boils. [2] Ice melts [1].", ["Water boils. [2]", "Ice melts [1]."]),
        ("Water boils.[2] Ice melts.[1][3]", ["Water boils.[2]", "Ice melts.[1][3]"]),
        ("Water boils [1, 3]. Ice", ["Water boils [1, 3].", "Ice"]),
        (
            "It rose by 3.5 K, e.g. in Fig. 2 of Smith et al. [4]. Then it fell",
            ["It rose by 3.5 K, e.g. in Fig. 2 of Smith et al. [4].", "Then it fell"],
        ),
        ("Smith et al. [4] saw this. [4] Then", ["Smith et al. [4] saw this. [4]", "Then"]),
        (
            "It holds for E. coli [1]. It does not for yeast [2]",
            ["It holds for E. coli [1].", "It does not for yeast [2]"],
        ),
        ("What is it? A gas! [1] Really", ["What is it?", "A gas! [1]", "Really"]),
        ("- First item [1]\n- Second item [2]\n", ["- First item [1]", "- Second item [2]"]),
        ("1. First item. 2. Second item.", ["1. First item.", "2. Second item."]),
        ("Values lie. [0, 1] is the range.", ["Values lie.", "[0, 1] is the range."]),
        ("She said “no.” [1] He left.", ["She said “no.” [1]", "He left."]),
        ("Water boils [1]. [see 2] This", ["Water boils [1].", "[see 2] This"]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_generated(text) == sentences


def test_a_sentence_comes_out_as_soon_as_the_next_one_begins() -> None:
    reader = SentenceReader()
    assert reader.feed("Water boils.") == []
    assert reader.feed(" [2") == []
    assert reader.feed("] ") == []
    assert reader.feed("Ice") == ["Water boils. [2]"]
    assert reader.finish() == ["Ice"]


_FRAGMENTS = st.lists(
    st.sampled_from(
        [
            *("Water", "ice", "Fig", "e.g", "al", "3", "12", "A", "[1]", "[1, 3]", "[2-4]", "[", "]", "[x]", "[0, 1]"),
            *(".", "!", "?", "...", ",", " ", " ", "  ", "\n", "\n\n", '"', ")", "”", "- ", "[" + "1, " * 30 + "2]"),
        ]
    ),
    max_size=40,
).map("".join)


@given(_FRAGMENTS, st.data())
def test_token_boundaries_do_not_matter(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    reader = SentenceReader()
    found = [sentence for piece in pieces for sentence in reader.feed(piece)] + reader.finish()
    assert found == split_generated(text)
    one_by_one = SentenceReader()
    assert [s for character in text for s in one_by_one.feed(character)] + one_by_one.finish() == found


@given(_FRAGMENTS)
def test_no_text_is_lost_between_sentences(text: str) -> None:
    assert "".join("".join(split_generated(text)).split()) == "".join(text.split())


@given(_FRAGMENTS, st.lists(st.integers(1, 6), max_size=4))
def test_with_only_cites_exactly_what_is_kept(text: str, kept: list[int]) -> None:
    rewritten = with_only(text, kept)
    assert set(cited_numbers(rewritten)) == set(kept)
    assert cited_numbers(without_markers(text)) == []


@pytest.mark.parametrize(
    ("text", "kept", "expected"),
    [
        ("Water boils. [2]", [2], "Water boils [2]."),
        ("Water boils [1, 9].", [1], "Water boils [1]."),
        ("Water boils [1-3] and ice [9] melts.", [1, 3], "Water boils [1][3] and ice melts."),
        ("Water boils.", [4], "Water boils [4]."),
        ("Water boils", [4], "Water boils [4]"),
        ("Water boils [7].", [], "Water boils."),
        ("Water boils [7], then [8] ice melts.", [2], "Water boils, then ice melts [2]."),
        ("In [0, 1] it holds [2].", [2], "In [0, 1] it holds [2]."),
    ],
)
def test_with_only(text: str, kept: list[int], expected: str) -> None:
    assert with_only(text, kept) == expected
