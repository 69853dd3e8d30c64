"""Mending of characters, accents and hyphens."""

from __future__ import annotations

import pytest

from hiperrag.parsing import mend


@pytest.mark.parametrize(
    ("raw", "mended"),
    [
        ("ﬁnal eﬃciency", "final efficiency"),
        ("a\u00a0b\u2009c", "a b c"),
        ("𝑥 ∈ ℝ", "x ∈ ℝ"),
        ("10⁻³ mol", "10⁻³ mol"),  # an exponent keeps its meaning
        ("\uf061-pinene", "α-pinene"),
        ("zero\u200bwidth", "zerowidth"),
        ("∆G of 5 \u00b5m", "ΔG of 5 μm"),
    ],
)
def test_characters(raw: str, mended: str) -> None:
    assert mend.characters(raw) == mended


@pytest.mark.parametrize(
    ("raw", "mended"),
    [
        ("Universit´e de Gen`eve", "Université de Gen`eve"),
        ("M¨uller", "Müller"),
        ("Pozna ´n", "Pozna ń"),
        ("Gar¸con", "Gar¸con"),
        ("gar c¸on", "gar çon"),
        ("na\u0308ive", "näive"),
        ("cafe \u0301", "café"),
        ("at 25 ◦C, not 98 ºF", "at 25 °C, not 98 °F"),
        ("Temperature (˚C)", "Temperature (°C)"),
        ("turned by 90◦.", "turned by 90°."),
        ("f ◦ g and φ1◦ φ2", "f ◦ g and φ1◦ φ2"),  # composed functions
        ("G ◦ F", "G ◦ F"),
    ],
)
def test_accents(raw: str, mended: str) -> None:
    assert mend.accents(raw) == mended


def test_hyphen_of_a_broken_word_is_dropped() -> None:
    assert mend.join("the infor-", "mation is", {}) == "the information is"


def test_hyphen_of_a_compound_found_elsewhere_is_kept() -> None:
    words = mend.vocabulary(["a long-term study", "it was so"])
    assert mend.join("for long-", "term use", words) == "for long-term use"


def test_hyphen_between_two_words_of_the_document_is_kept() -> None:
    words = mend.vocabulary(["high yields and performance"])
    assert mend.join("a high-", "performance method", words) == "a high-performance method"


def test_joined_word_found_elsewhere_wins_over_its_halves() -> None:
    words = mend.vocabulary(["over all inter views", "interviews were held"])
    assert mend.join("the inter-", "views", words) == "the interviews"


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("SARS-CoV-", "2 infection", "SARS-CoV-2 infection"),
        ("pages 10–", "20", "pages 10–20"),
        ("the Diels-", "Alder reaction", "the Diels-Alder reaction"),
        ("value -", "axis", "value - axis"),
        ("soft\u00ad", "ware", "software"),
        ("https://example.org/", "data", "https://example.org/data"),
        ("end.", "Start", "end. Start"),
        ("", "alone", "alone"),
    ],
)
def test_join(first: str, second: str, joined: str) -> None:
    assert mend.join(first, second, {}) == joined


def test_vocabulary_leaves_out_the_broken_half() -> None:
    words = mend.vocabulary(["we gathered infor-", "mation from"])
    assert "infor" not in words
    assert words["gathered"] == 1
