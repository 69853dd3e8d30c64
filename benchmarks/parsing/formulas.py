"""Formulas as sequences of signs, from LaTeX and from MathML, so that the two can be compared.

A fraction becomes `frac { over } { under }`, a root `sqrt { }`, scripts `_ { }` and `^ { }`; letters stand for
themselves whatever their style, words and functions letter by letter, accents are one sign. What does not show
(spaces, sizes of brackets, alignment, numbers of equations) is left out.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

from hiperrag.parsing import symbols

STRUCTURE = frozenset(("frac", "sqrt", "^", "_", "{", "}", "accent"))
"""Signs of the layout; the others are printed."""
ACCENTS = frozenset(
    (
        "hat",
        "widehat",
        "bar",
        "overline",
        "tilde",
        "widetilde",
        "dot",
        "ddot",
        "vec",
        "breve",
        "check",
        "acute",
        "grave",
    )
)
_STYLES = frozenset(
    ("mathrm", "mathbf", "mathit", "mathbb", "mathcal", "mathfrak", "mathsf", "text", "textrm", "operatorname")
)
_DROPPED = frozenset(
    ("left", "right", "big", "Big", "bigg", "Bigg", "displaystyle", "textstyle", "quad", "qquad", "nonumber", "limits")
)
_SKIPPED = frozenset(("tag", "label", "begin", "end"))
"""Commands whose argument does not show."""
_FOLDED = str.maketrans("−–—‐∗⋅∙•∥‖∣ˉ¯′’´∑∏∆⩽⩾〈〉∼˜", "----*···|||¯¯'''ΣΠΔ≤≥⟨⟩~~")
_INVISIBLE = re.compile("[\u2061-\u2064\u200b\u00a0\\s]")
_TOKEN = re.compile(r"\\[a-zA-Z]+\*?|\\.|\S", re.S)
_ACCENT_SIGNS = frozenset("^ˆ~˜¯ˉ˙¨→⃗˘ˇ.")


def plain_signs(text: str) -> list[str]:
    """The printed characters of a text."""
    folded = unicodedata.normalize("NFKC", text.translate(_FOLDED)).translate(_FOLDED)
    return [c for c in _INVISIBLE.sub("", folded) if not unicodedata.combining(c)]


def printed(signs: Sequence[str]) -> list[str]:
    """Signs without those of the layout."""
    return [sign for sign in signs if sign not in STRUCTURE]


@functools.lru_cache(maxsize=1)
def _commands() -> dict[str, str]:
    """LaTeX command -> character."""
    codes = (*range(0x21, 0x7F), *range(0xA1, 0x100), *range(0x370, 0x400), *range(0x2010, 0x2300), 0x25A1, 0x25B3)
    found: dict[str, str] = {}
    for code in codes:
        command = symbols.latex(chr(code))
        if command.startswith("\\") and "{" not in command[2:]:
            found.setdefault(command, chr(code))
    more = {"\\le": "≤", "\\ge": "≥", "\\ne": "≠", "\\dots": "…", "\\prime": "'", "\\lbrace": "{", "\\rbrace": "}"}
    return found | more


def of_latex(latex: str) -> list[str]:
    """Signs of a formula in LaTeX."""
    reader = _Latex(_TOKEN.findall(latex))
    found: list[str] = []
    while not reader.is_done:
        found += reader.item()
    return found


class _Latex:
    """Reads LaTeX from the left; what it does not know counts letter by letter."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.place = tokens, 0

    @property
    def is_done(self) -> bool:
        return self.place >= len(self.tokens)

    def _next(self) -> str:
        token = "" if self.is_done else self.tokens[self.place]
        self.place += 1
        return token

    def item(self) -> list[str]:
        """Signs of the next sign, group or command with its arguments."""
        token = self._next()
        if token == "{":
            found: list[str] = []
            while not self.is_done and self.tokens[self.place] != "}":
                found += self.item()
            self._next()
            return found
        if token in ("^", "_"):
            return [token, "{", *self.item(), "}"]
        if token.startswith("\\") and len(token) > 1 and token[1].isalpha():
            return self._command(token.rstrip("*"))
        if token in ("}", "&", "~") or (token.startswith("\\") and token[1:] in ("\\", ",", ";", ":", "!", " ")):
            return []
        return plain_signs(_commands().get(token, token.lstrip("\\")))

    def _command(self, token: str) -> list[str]:
        name = token[1:]
        if name in ("frac", "dfrac", "tfrac"):
            return ["frac", "{", *self.item(), "}", "{", *self.item(), "}"]
        if name == "sqrt":
            return ["sqrt", "{", *self.item(), "}"]
        if name in ACCENTS:
            return [*self.item(), "accent"]
        if name in _STYLES:
            return self.item()
        if name in _SKIPPED:
            self.item()
            return []
        if name in _DROPPED:
            return []
        return plain_signs(_commands().get(token, name))


def of_mathml(element: ElementTree.Element) -> list[str]:
    """Signs of a formula in MathML."""
    name = element.tag.rpartition("}")[2]
    parts = [child for child in element if child.tag.rpartition("}")[2] not in ("mspace", "annotation", "none")]
    inner = [of_mathml(child) for child in parts]
    if name in ("mi", "mn", "mo", "mtext", "ms"):
        return plain_signs("".join(element.itertext()))
    if name == "mfrac" and len(inner) == 2:
        return ["frac", "{", *inner[0], "}", "{", *inner[1], "}"]
    if name == "msqrt":
        return ["sqrt", "{", *itertools.chain(*inner), "}"]
    if name in ("mover", "munder") and len(inner) == 2 and set(inner[1]) <= _ACCENT_SIGNS | {"-", "_"}:
        return [*inner[0], "accent"]
    if name in ("msub", "munder") and len(inner) == 2:
        return [*inner[0], "_", "{", *inner[1], "}"]
    if name in ("msup", "mover") and len(inner) == 2:
        return [*inner[0], *_raised(inner[1])]
    if name in ("msubsup", "munderover") and len(inner) == 3:
        return [*inner[0], "_", "{", *inner[1], "}", *_raised(inner[2])]
    if name == "mfenced":
        opening, closing = element.get("open", "("), element.get("close", ")")
        between = (element.get("separators", ",").strip() or " ")[0]
        body = [sign for index, part in enumerate(inner) for sign in ([between] if index else []) + part]
        return plain_signs(opening) + [sign for sign in body if sign != " "] + plain_signs(closing)
    return list(itertools.chain(*inner))


def _raised(signs: Sequence[str]) -> list[str]:
    return list(signs) if set(signs) == {"'"} else ["^", "{", *signs, "}"]
