"""Texts and cells in the forms in which they are compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_NUMBERING = re.compile(
    r"\s*(?:"
    r"(?i:section|appendix|chapter)\s+(?:\d{1,2}|[IVX]{1,5}|[A-Z])\b[.:]?\s*[|–—-]?\s*|"
    r"\d{1,2}(?:\.\d{1,2})*[.)]?\s*[|–—-]?\s*(?=[^\W\d])|"
    r"(?:[IVX]{1,5}|[A-Z](?:\.\d{1,2})*)[.)]\s+"
    r")(?=\S)"
)
_LABEL = re.compile(
    r"\s*((?:supplementary|extended data)\s+)?"
    r"(fig(?:ure)?|tab(?:le)?|scheme|box)s?\b[\s.–-]*([A-Z]?\d{1,3}|[IVXL]{1,5})\b",
    re.I,
)
_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50}
_DASHES = dict.fromkeys(map(ord, "‐‑‒–—―−﹣－­"), "-") | {ord("∗"): "*", ord("′"): "'", ord("’"): "'", ord("‘"): "'"}
_DASHES |= {ord("“"): '"', ord("”"): '"', ord("×"): "x", ord("·"): ".", ord("∼"): "~", ord("˜"): "~"}


def key(text: str) -> str:
    """Letters and digits only, without case or accents: for finding a text whatever its spaces and marks."""
    decomposed = unicodedata.normalize("NFKD", text.replace("∆", "Δ").replace("º", "°"))
    return "".join(c for c in decomposed if c.isalnum()).lower()


def heading_key(text: str) -> str:
    """A heading without its number."""
    text = unicodedata.normalize("NFKC", text)
    match = _NUMBERING.match(text)
    rest = key(text[match.end() :]) if match else ""
    return rest if len(rest) > 2 else key(text)


def cell_key(text: str) -> str:
    """A cell's text without spaces and case; dashes, quotes and look-alikes are one."""
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text).translate(_DASHES)).lower()


def words(text: str) -> list[str]:
    """Words and numbers, lower case, without accents."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", plain.lower())


def label_of(caption: str) -> tuple[str, str]:
    """Kind ("figure", "table", ...) and number of a caption that begins with its label; two empty texts if none."""
    match = _LABEL.match(unicodedata.normalize("NFKC", caption))
    if not match:
        return "", ""
    kind = {"fig": "figure", "tab": "table"}.get(match[2].lower(), match[2].lower())
    number = match[3].upper()
    if not any(c.isdigit() for c in number):
        number = str(_arabic(number))
    return ("supplementary " if match[1] else "") + kind, number


def without_label(caption: str) -> str:
    """A caption behind its label."""
    caption = unicodedata.normalize("NFKC", caption)
    match = _LABEL.match(caption)
    return caption[match.end() :] if match else caption


def _arabic(roman: str) -> int:
    values = [_ROMAN[c] for c in roman]
    return sum(-v if any(v < later for later in values[i + 1 :]) else v for i, v in enumerate(values))


def f1(matched: float, found: float, wanted: float) -> float:
    """Harmonic mean of precision and recall from counts; 1 where there is nothing to find and nothing found."""
    return 2 * matched / (found + wanted) if found + wanted else 1.0


def mean(values: Sequence[float]) -> float | None:
    """Mean, or None of nothing."""
    return sum(values) / len(values) if values else None
