"""How good a page's text layer is, from its characters and from what the page draws: no rendering, no model.

A page that shows much and says little has no text layer; one whose letters come in no language's proportions, or
whose words are glued together or spaced out, has one that cannot be used.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hiperrag.parsing.graphics import Graphics
from hiperrag.parsing.lines import Page
from hiperrag.records import BBox

MIN_CHARACTERS = 10
"""A page with fewer characters has no text layer, if it shows anything."""
FEW_LETTERS = 200
"""Letters that a page image may have beside it, as a stamp or a caption, without a text layer."""
MIN_LETTERS = 150
"""Fewer letters say nothing about their proportions."""
COVERED = 0.75
"""Share of a page that the image of a scan covers."""
UNMAPPED = "characters without a meaning"
GLYPH = 16.0
"""Largest drawn letter in points."""

_LATIN = re.compile(r"[a-z]+")
_WORD = re.compile(r"[^\W\d_]+")
_SPACED = re.compile(r"(?:(?<=\s)|^)(?:[^\W\d_] ){5,}[^\W\d_](?=\s|$)")
_ODD = re.compile(
    r"[^\W\d_][|\\^~¬¦«»£¢§{}<>=]|[a-z][0-9][a-z]|[a-z][A-Z]{1,2}[a-z]|[^\w\s]{3,}|"
    r"(?:^|\s)[^\w\s(&–—-](?=\s|$)"
)
_UNSPOKEN = re.compile(r"^[^aeiouy]+$|[^aeiouy]{5}")
_MIXED = re.compile(r"[^\W\d_][^\w\s'’.,/‐–—:-]+[^\W\d_]|[a-z]\d+[a-z]|[^\w\s]{2,}[^\W\d_]")
_COMMON_IDEOGRAPHS = re.compile("[的一是不了在有中人大为為和\u3040-\u30ff]")

# Relative frequencies of a..z: English, German, French, Spanish, Polish, Finnish, Turkish.
_LANGUAGES = (
    (82, 15, 28, 43, 127, 22, 20, 61, 70, 2, 8, 40, 24, 67, 75, 19, 1, 60, 63, 91, 28, 10, 24, 2, 20, 1),
    (65, 19, 31, 51, 174, 17, 30, 48, 76, 3, 12, 34, 25, 98, 25, 8, 0, 70, 73, 62, 44, 7, 19, 0, 0, 11),
    (76, 9, 33, 37, 147, 11, 9, 7, 75, 6, 0, 55, 30, 71, 54, 30, 14, 66, 79, 72, 63, 16, 0, 4, 3, 1),
    (125, 14, 47, 58, 137, 7, 10, 7, 63, 4, 0, 50, 32, 67, 87, 25, 9, 69, 80, 46, 39, 9, 0, 2, 9, 5),
    (89, 15, 40, 33, 77, 3, 14, 11, 82, 23, 35, 21, 28, 55, 78, 31, 0, 47, 43, 40, 25, 0, 47, 0, 38, 56),
    (122, 3, 3, 10, 80, 2, 4, 19, 108, 20, 50, 58, 32, 88, 56, 18, 0, 29, 79, 88, 50, 22, 0, 0, 17, 0),
    (112, 28, 10, 47, 89, 5, 12, 12, 86, 0, 47, 59, 37, 72, 25, 9, 0, 67, 30, 33, 32, 10, 0, 0, 33, 15),
)
_COMMON = (
    "the of and to in is that for with as by on at from are was were be this which it an not or we have der die und "
    "das den von zu mit des im ist nicht ein eine de la le les et du en un une que dans pour est el los las del por "
    "con para una se do da os di il per che na ve bir ja on ei"
)
_COMMON_WORDS = frozenset(_COMMON.split())
_REVERSED = frozenset(word[::-1] for word in _COMMON_WORDS if len(word) > 2) - _COMMON_WORDS
_SIGNS = frozenset({"So", "Sk", "Cn", "Co", "Cc", "Lm"})
"""Categories of characters that no language has many of."""
_Finding = tuple[float, str]


def assess(page: Page, pdf_page: Any = None) -> tuple[float, str]:
    """How good the text layer of a page is, 0 (none) .. 1, and in a few words what is wrong with it ("" if nothing).

    `page`: its lines and graphics; `pdf_page`: the PyMuPDF page, asked only where the lines leave doubt.
    """
    text = "\n".join(line.text for line in (*page.lines, *page.sideways))
    n_characters = sum(map(len, text.split()))
    graphics = page.graphics
    if n_characters < MIN_CHARACTERS:
        if pdf_page is not None and _unmapped(pdf_page) >= MIN_CHARACTERS:
            return 0.0, UNMAPPED
        return (1.0, "") if graphics == Graphics() else (0.0, "no text layer")
    checks: list[_Finding] = [_missing(text, page), _spacing(text), _letters(text), _scripts(text)]
    if min(checks)[0] < 0.9 or n_characters < 2 * FEW_LETTERS:
        checks.append(_mapping(n_characters, pdf_page))
    if _is_scan(page):
        checks.append(_poor_recognition(text))
    score, reason = min(checks)
    return (score, reason) if score < 0.9 else (score, "")


def judge_letters(text: str) -> _Finding:
    """The same for text of any origin, from its characters alone: whether they come as in some language."""
    return min(_letters(text), _scripts(text))


def common_share(text: str) -> float:
    """Share of the words that are among the most common ones of some European languages."""
    words = _WORD.findall(text.lower())
    return sum(word in _COMMON_WORDS for word in words) / max(1, len(words))


def _ramp(value: float, bad: float, good: float) -> float:
    """0 at `bad`, 1 at `good`, straight between."""
    return min(1.0, max(0.0, (value - bad) / (good - bad)))


def _covered(boxes: Sequence[BBox], page: Page) -> float:
    """Share of the page that images cover; overlaps count twice, which makes no difference to what is asked."""
    area = max(1.0, page.width * page.height)
    return min(1.0, sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) / area)


def _is_scan(page: Page) -> bool:
    return _covered(page.graphics.images, page) >= COVERED


def _missing(text: str, page: Page) -> _Finding:
    """Whether a page says much less than it shows."""
    letters = sum(map(str.isalpha, text))
    if letters >= FEW_LETTERS:
        return 1.0, ""
    if _is_scan(page):
        return 0.6 * _ramp(letters, 100, FEW_LETTERS), "an image of a page, nearly without text"
    small = [box for box in page.graphics.curves if 1 < box[2] - box[0] < GLYPH and 2 < box[3] - box[1] < GLYPH]
    if len(small) > 200 and letters < min(80, 0.2 * len(small)):
        rows = Counter(round(y1) for _, _, _, y1 in small)
        if sum(count for count in rows.values() if count > 15) > 0.6 * len(small):
            return 0.2, "letters drawn as shapes"
    return 1.0, ""


def _spacing(text: str) -> _Finding:
    """Words glued together, or spaced out letter by letter. Only scripts that set spaces are judged."""
    words = [word for word in _WORD.findall(text) if ord(word[0]) < 0x530]
    letters = sum(map(len, words))
    if letters < MIN_LETTERS:
        return 1.0, ""
    glued = sum(len(word) for word in words if len(word) > 22) / letters
    spaced = sum(len(run) // 2 for run in _SPACED.findall(text)) / letters
    if glued > 0.12:  # German pages have a tenth in long words
        return 1 - _ramp(glued, 0.12, 0.35), "words glued together"
    return 1 - _ramp(spaced, 0.1, 0.4), "words spaced out"


def _letters(text: str) -> _Finding:
    """Whether Latin letters come as in some language.

    Four signs of a wrong encoding: proportions of no language, words that cannot be spoken, signs and digits within
    words, and none of the words that all text is full of. Formulas, code, tables and lists of names each show one of
    the latter two; a wrong encoding shows one of the former two and another.
    """
    lower = text.lower()
    counts = Counter(lower)
    latin = [counts[chr(code)] for code in range(97, 123)]
    total = sum(latin)
    if total < MIN_LETTERS or sum(count > 0.01 * total for count in latin) < 8:
        return 1.0, ""
    words = _LATIN.findall(lower)
    common = sum(word in _COMMON_WORDS for word in words) / max(1, len(words))
    fit = max(_cosine(latin, language) for language in _LANGUAGES)
    tokens = text.split()
    if (fit > 0.86 and common > 0.06) or sum(map(len, tokens)) < 3.2 * len(tokens):  # text, formulas
        return 1.0, ""
    if common < 0.06 and sum(word in _REVERSED for word in words) > 0.08 * len(words):
        return 0.1, "letters in the wrong order"
    long = [word for word in words if len(word) > 3]
    unspoken = sum(1 for word in long if _UNSPOKEN.search(word)) / max(20, len(long))
    mixed = sum(1 for token in tokens if _MIXED.search(token)) / max(1, len(tokens))
    wrong, dumb = 1 - _ramp(fit, 0.74, 0.84), _ramp(unspoken, 0.1, 0.25)
    signs = sorted((wrong, dumb, _ramp(mixed, 0.2, 0.35), 1 - _ramp(common, 0.01, 0.05)))
    return 1 - min(max(wrong, dumb), signs[-2]), "letters in no language's proportions"


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))


def _scripts(text: str) -> _Finding:
    """Whether characters beyond ASCII are those of writing."""
    if text.isascii():
        return 1.0, ""
    counts = Counter(c for c in text if not c.isspace())
    total = sum(counts.values())
    if total < MIN_LETTERS:
        return 1.0, ""
    strange = accented = ideographs = 0
    blocks: Counter[int] = Counter()
    for c, n in counts.items():
        if c < "\u0080":
            continue
        if unicodedata.category(c) in _SIGNS:
            strange += n
        elif c.isalpha():
            blocks[_block(ord(c))] += n
            accented += n * (c < "\u0250")
            ideographs += n * ("\u4e00" <= c <= "\u9fff")
    if sum(1 for n in blocks.values() if n > 0.04 * total) > 3:
        return 0.2, "letters of many scripts"
    if ideographs > MIN_LETTERS and len(_COMMON_IDEOGRAPHS.findall(text)) < 0.01 * ideographs:
        return 0.2, "ideographs in no language's proportions"
    signs = max(_ramp(strange / total, 0.12, 0.4), _ramp(accented / total, 0.3, 0.5))
    return 1 - signs, "signs instead of letters"


def _block(code: int) -> int:
    """A number for the script a letter belongs to, roughly."""
    if code < 0x370:
        return 0  # Latin
    if 0x2E80 <= code < 0xD7B0 or code >= 0xF900:
        return 1  # East Asian, and presentation forms
    return 2 + (code >> 8)


def _unmapped(pdf_page: Any) -> int:
    """Characters of a PyMuPDF page that its fonts give no meaning."""
    text = pdf_page.get_text("text", flags=0)
    return sum(_is_unmapped(c) for c in text if c > "\u007e" or c < " ")


def _is_unmapped(c: str) -> bool:
    return c == "\ufffd" or "\ue000" <= c <= "\uf8ff" or (c < " " and c not in "\n\r\t\f") or "\u007f" <= c < "\u00a0"


def _mapping(n_characters: int, pdf_page: Any) -> _Finding:
    """Whether many characters have no meaning."""
    if pdf_page is None:
        return 1.0, ""
    lost = _unmapped(pdf_page)
    return 1 - _ramp(lost / max(1, lost + n_characters), 0.03, 0.3), UNMAPPED


def _poor_recognition(text: str) -> _Finding:
    """Whether the text that lies behind a page image was recognised badly."""
    words = text.split()
    if not words:
        return 0.0, "no text layer"
    odd = len(_ODD.findall(text)) / len(words)
    latin = [word for word in words if word[:1].isascii() and word[:1].isalpha()]
    known = sum(word.lower().strip(".,;:()") in _COMMON_WORDS for word in latin) / max(1, len(latin))
    score = 1 - _ramp(odd, 0.06, 0.3)
    if len(latin) > 0.6 * len(words) and len(latin) >= 80:
        score = min(score, _ramp(known, 0.02, 0.1) if known < 0.1 else 1.0)
    return score, "badly recognised text behind an image"
