"""Mending of extracted text: odd characters, stray accents, hyphens at line ends."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

_TABLE: dict[int, str | None] = {
    0x00AD: "\u00ad",  # soft hyphen: kept until lines are joined
    0x00A0: " ",
    0x2010: "-",
    0x2011: "-",
    0x200B: None,
    0x200C: None,
    0x200D: None,
    0x2060: None,
    0xFEFF: None,
    0xFFFD: None,
    0x00B5: "μ",
    0x2206: "Δ",
    0x0009: " ",
    0x2028: " ",
    0x2029: " ",
    0xF0B7: "•",
    0xF0A7: "•",
    0xF02D: "−",
    0xF0B0: "°",
    0xF0B1: "±",
    0xF0B4: "×",
    0xF06D: "μ",
}
_TABLE.update(dict.fromkeys([*range(0, 9), *range(11, 32), *range(127, 160)]))
_TABLE.update(dict.fromkeys((10, 11, 12, 13, *range(8192, 8203), 8239, 8287, 12288), " "))
# Symbol fonts without a Unicode map put Latin-coded Greek at U+F000 + code.
_SYMBOL_GREEK = dict(zip("abgdezhqiklmnxoprstufcywDGLPSW", "αβγδεζηθικλμνξοπρστυφχψωΔΓΛΠΣΩ", strict=True))
_TABLE.update({0xF000 + ord(latin): greek for latin, greek in _SYMBOL_GREEK.items()})

_COMPATIBLE = re.compile("[\ufb00-\ufb06\U0001d400-\U0001d7ff\uff01-\uff5e\u0132\u0133\u01c4-\u01cc]+")
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_SPACING_ACCENTS = {
    "´": "\u0301",
    "`": "\u0300",
    "¨": "\u0308",
    "ˆ": "\u0302",
    "˜": "\u0303",
    "ˇ": "\u030c",
    "˘": "\u0306",
    "˚": "\u030a",
    "˝": "\u030b",
    "˙": "\u0307",
    "¯": "\u0304",
}
_ACCENT_BEFORE = re.compile(r"([´¨ˆ˜ˇ˘˚˝˙])\s?([A-Za-zı])")
_CEDILLA_AFTER = re.compile(r"([cCsStT])\s?([¸])")
_RING = "[◦∘º˚]"
_OF_TEMPERATURE = re.compile(rf"(?<![^\W\d_)\]])(?<![^\W\d_)\]]\s){_RING}\s?(?=[CF]\b)")
_OF_ANGLE = re.compile(r"(?<![\w.])(\d+(?:[.,]\d+)?)[◦∘˚](?=[\s,.;:)–/-]|$)")
"""Rings that stand for the sign of degrees: before C and F, and after a number."""
_GLUED_COMBINING = re.compile(r"\s+([\u0300-\u036f])")


def characters(text: str) -> str:
    """Ligatures, odd spaces, private-use and control characters of one span replaced by plain ones."""
    if text.isascii() and text.isprintable():
        return text
    text = text.translate(_TABLE)
    text = _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text)
    return _PRIVATE.sub("", text)


def accents(text: str) -> str:
    """Accents set as characters of their own (TeX's older fonts) glued to their letters; rings that are degrees."""
    if text.isascii():
        return text
    text = _OF_ANGLE.sub(r"\1°", _OF_TEMPERATURE.sub("°", text))
    text = _GLUED_COMBINING.sub(r"\1", text)

    def compose(match: re.Match[str]) -> str:
        letter = "i" if match.group(2) == "ı" else match.group(2)
        composed = unicodedata.normalize("NFC", letter + _SPACING_ACCENTS[match.group(1)])
        return composed if len(composed) == 1 else match.group()

    text = _ACCENT_BEFORE.sub(compose, text)
    text = _CEDILLA_AFTER.sub(lambda m: unicodedata.normalize("NFC", m.group(1) + "\u0327"), text)
    return unicodedata.normalize("NFC", text)


_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_END = re.compile(r"([^\W_]+)[-\u00ad]$")
_START = re.compile(r"[^\W\d_]+")


def vocabulary(lines: Iterable[str]) -> Counter[str]:
    """Lower-case words (and hyphenated compounds) that stand whole within lines."""
    words: Counter[str] = Counter()
    for line in lines:
        found = _WORD.findall(line.lower())
        if found and line.endswith(("-", "\u00ad")):
            found.pop()
        words.update(found)
    return words


def join(first: str, second: str, words: Mapping[str, int]) -> str:
    """Two consecutive pieces of running text as one, a hyphen at the break resolved.

    A broken word loses its hyphen unless the compound occurs with it elsewhere in the document, or both halves
    are words of the document and their union is not.
    """
    if not first or not second:
        return first or second
    if first.endswith("\u00ad"):
        return first[:-1] + second
    if first.endswith("-") and len(first) > 1 and first[-2] != " ":
        left, right = _END.search(first), _START.match(second)
        if not left or not right:
            return first + second
        return (first[:-1] if _is_broken(left.group(1), right.group(), words) else first) + second
    if first.endswith(("–", "—")) and len(first) > 1 and first[-2] != " ":
        return first + second
    if first.endswith("/") and ("://" in first.rsplit(" ", 1)[-1] or first[-2:-1].isalnum()):
        return first + second
    return f"{first} {second}"


def _is_broken(left: str, right: str, words: Mapping[str, int]) -> bool:
    if not right[0].islower() or left[-1].isdigit():
        return False
    if left[-1].isupper() and len(left) > 1 and not (left + right).isupper():
        return False
    left, right = left.lower(), right.lower()
    whole, compound = words.get(left + right, 0), words.get(f"{left}-{right}", 0)
    if whole or compound:
        return whole >= compound
    return not (len(left) > 2 and len(right) > 3 and words.get(left, 0) and words.get(right, 0))


def join_all(texts: Sequence[str], words: Mapping[str, int]) -> str:
    """Lines of one region as running text."""
    result = ""
    for text in texts:
        result = join(result, text, words)
    return result.replace("\u00ad", "")
