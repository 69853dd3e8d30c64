"""Characters of formulas as LaTeX."""

from __future__ import annotations

import re
import unicodedata

_GREEK = [
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu"),
    *("xi", "omicron", "pi", "rho", "varsigma", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
]
_UNUSUAL = {"ϵ": "\\epsilon", "ϑ": "\\vartheta", "ϕ": "\\phi", "φ": "\\varphi", "ϱ": "\\varrho", "ϖ": "\\varpi"}
_PLAIN_CAPITALS = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABEZHIKMNOPTX", strict=True))
_COMMANDS = {
    "−": "-", "–": "-", "∗": "*", "·": "\\cdot", "⋅": "\\cdot", "∙": "\\cdot", "×": "\\times", "÷": "\\div",
    "±": "\\pm", "∓": "\\mp", "∘": "\\circ", "◦": "\\circ", "•": "\\bullet", "⊕": "\\oplus", "⊗": "\\otimes",
    "⊙": "\\odot", "≤": "\\leq", "⩽": "\\leq", "≥": "\\geq", "⩾": "\\geq", "≪": "\\ll", "≫": "\\gg",
    "≠": "\\neq", "≈": "\\approx", "≃": "\\simeq", "≅": "\\cong", "≡": "\\equiv", "∼": "\\sim", "∝": "\\propto",
    "≺": "\\prec", "≻": "\\succ", "∈": "\\in", "∉": "\\notin", "∋": "\\ni", "⊂": "\\subset", "⊃": "\\supset",
    "⊆": "\\subseteq", "⊇": "\\supseteq", "∪": "\\cup", "∩": "\\cap", "∖": "\\setminus", "∅": "\\emptyset",
    "⊥": "\\perp", "∥": "\\|", "‖": "\\|", "∣": "|", "∧": "\\wedge", "∨": "\\vee", "¬": "\\neg", "∀": "\\forall",
    "∃": "\\exists", "∂": "\\partial", "∇": "\\nabla", "∞": "\\infty", "ℏ": "\\hbar", "ℓ": "\\ell", "ℜ": "\\Re",
    "ℑ": "\\Im", "ℵ": "\\aleph", "′": "'", "″": "''", "→": "\\to", "←": "\\leftarrow", "↔": "\\leftrightarrow",
    "⇒": "\\Rightarrow", "⇐": "\\Leftarrow", "⇔": "\\Leftrightarrow", "↦": "\\mapsto", "↑": "\\uparrow",
    "↓": "\\downarrow", "⟶": "\\longrightarrow", "⇌": "\\rightleftharpoons", "…": "\\ldots", "⋯": "\\cdots",
    "⋮": "\\vdots", "⋱": "\\ddots", "⟨": "\\langle", "⟩": "\\rangle", "〈": "\\langle", "〉": "\\rangle",
    "⌊": "\\lfloor", "⌋": "\\rfloor", "⌈": "\\lceil", "⌉": "\\rceil", "{": "\\{", "}": "\\}", "%": "\\%",
    "#": "\\#", "&": "\\&", "$": "\\$", "_": "\\_", "°": "^{\\circ}", "√": "\\surd", "△": "\\triangle",
    "∆": "\\Delta", "Ω": "\\Omega", "µ": "\\mu", "∫": "\\int", "∬": "\\iint", "∮": "\\oint", "∑": "\\sum",
    "∏": "\\prod", "∐": "\\coprod", "⋃": "\\bigcup", "⋂": "\\bigcap", "⊎": "\\uplus", "†": "\\dagger",
    "⋆": "\\star", "□": "\\square", "■": "\\blacksquare", "≔": ":=", "≜": "\\triangleq", "\\": "\\backslash",
    "⊢": "\\vdash", "⊨": "\\models", "⊤": "\\top", "˜": "\\sim", "‐": "-", "’": "'", "ø": "\\emptyset",
}  # fmt: skip
OPERATORS = frozenset("∑∏∐⋃⋂")
"""Operators whose limits stand above and below."""
INTEGRALS = frozenset("∫∬∮")
ACCENTS = {"ˆ": "\\hat", "^": "\\hat", "˜": "\\tilde", "~": "\\tilde", "¯": "\\bar", "ˉ": "\\bar", "˙": "\\dot",
           "¨": "\\ddot", "→": "\\vec", "´": "\\acute", "`": "\\grave", "ˇ": "\\check", "˘": "\\breve",
           ".": "\\dot"}  # fmt: skip
FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        "arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf limsup ln log "
        "max min Pr sec sin sinh sup tan tanh",
    )
)
LIMITS = frozenset(("lim", "liminf", "limsup", "max", "min", "sup", "inf", "det", "Pr"))
_STYLES = {
    "BOLD": "mathbf",
    "DOUBLE-STRUCK": "mathbb",
    "SCRIPT": "mathcal",
    "FRAKTUR": "mathfrak",
    "BLACK-LETTER": "mathfrak",
}

# Extension fonts name their glyphs in ways that have no Unicode; their codes are those of TeX's OMX encoding.
_EXTENSION_FONT = re.compile(r"CMEX|LMMathExt|MathExt|[pt]xex|Size\d.*Ext|EXT1?0$", re.I)
_OMX = {
    **dict.fromkeys((0x00, 0x10, 0x12, 0x20, 0x30), "("), **dict.fromkeys((0x01, 0x11, 0x13, 0x21, 0x31), ")"),
    **dict.fromkeys((0x02, 0x14, 0x22, 0x32, 0x68), "["), **dict.fromkeys((0x03, 0x15, 0x23, 0x33, 0x69), "]"),
    **dict.fromkeys((0x04, 0x16, 0x24, 0x6A), "⌊"), **dict.fromkeys((0x05, 0x17, 0x25, 0x6B), "⌋"),
    **dict.fromkeys((0x06, 0x18, 0x26, 0x6C), "⌈"), **dict.fromkeys((0x07, 0x19, 0x27, 0x6D), "⌉"),
    **dict.fromkeys((0x08, 0x1A, 0x28, 0x38, 0x6E), "{"), **dict.fromkeys((0x09, 0x1B, 0x29, 0x39, 0x6F), "}"),
    **dict.fromkeys((0x0A, 0x1C, 0x2A, 0x44), "⟨"), **dict.fromkeys((0x0B, 0x1D, 0x2B, 0x45), "⟩"),
    **dict.fromkeys((0x0C, 0x3F), "|"), 0x0D: "‖", **dict.fromkeys((0x0E, 0x1E, 0x2C, 0x2E), "/"),
    **dict.fromkeys((0x50, 0x58), "∑"), **dict.fromkeys((0x51, 0x59), "∏"), **dict.fromkeys((0x52, 0x5A), "∫"),
    **dict.fromkeys((0x53, 0x5B), "⋃"), **dict.fromkeys((0x54, 0x5C), "⋂"), **dict.fromkeys((0x60, 0x61), "∐"),
    **dict.fromkeys((0x48, 0x49), "∮"), **dict.fromkeys((0x62, 0x63, 0x64), "ˆ"),
    **dict.fromkeys((0x65, 0x66, 0x67), "˜"),
    **dict.fromkeys((0x70, 0x71, 0x72, 0x73, 0x74), "√"),
    **dict.fromkeys((0x34, 0x35, 0x36, 0x37, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x40, 0x41, 0x42, 0x43, 0x75, 0x76), ""),
}  # fmt: skip
_PIECES = {**dict.fromkeys("⎛", "("), **dict.fromkeys("⎞", ")"), "⎡": "[", "⎤": "]", "⎧": "{", "⎫": "}",
           **dict.fromkeys("⎝⎜⎠⎟⎣⎢⎦⎥⎨⎩⎪⎬⎭", "")}  # fmt: skip
"""Brackets in pieces: the top stands for the whole."""


_ADVANCED = {
    "AdvP4C4E74": str.maketrans("¼ðÞþ½Š!\ufffd\x00\x01\x02\x03\x04", "=()+[]→−−−−−−"),
    "AdvP4C4E51": str.maketrans("=", "/"),
}
"""Symbol fonts of a typesetting system of several publishers, without a usable encoding."""


_MATHABX = str.maketrans("´ˆ˝˘¨„«ăąďěÑ", "−×°±·∼≈<>≤≥→")
"""Signs of the mathabx fonts where a text layer takes their codes for those of TeX's letters (T1 encoding)."""


def decoded(text: str, font: str) -> str:
    """A text layer's text with the characters put right that some symbol fonts are known to get wrong."""
    codes = _MATHABX if "TeX-math" in font else _ADVANCED.get(font[-10:])
    return text.translate(codes) if codes else text


def is_extension(font: str) -> bool:
    """Whether a font holds large delimiters and operators, whose glyphs hang below their origin."""
    return bool(_EXTENSION_FONT.search(font))


def symbol(character: str, font: str) -> str:
    """The Unicode character meant; "" for what is left out: spaces and all but the top of brackets in pieces.

    Characters of extension fonts are expected as their codes where they have no Unicode.
    """
    if is_extension(font) and (ord(character) < 0x80 or ord(character) == 0xFFFD):
        return _OMX.get(ord(character), character)
    character = decoded(character, font)
    if character.isspace() or unicodedata.category(character) in ("Cc", "Cf", "Zs"):
        return ""
    return _PIECES.get(character, character)


def known(character: str) -> bool:
    """Whether a character has a meaning that can be written."""
    return character != "\ufffd" and unicodedata.category(character) not in ("Co", "Cn", "Cc", "Cs")


def latex(character: str) -> str:
    """One character in math mode."""
    if character in _COMMANDS:
        return _COMMANDS[character]
    if character in _UNUSUAL:
        return _UNUSUAL[character]
    code = ord(character)
    if 0x3B1 <= code <= 0x3C9:
        return "o" if character == "ο" else "\\" + _GREEK[code - 0x3B1]
    if 0x391 <= code <= 0x3A9:
        plain = _PLAIN_CAPITALS.get(character)
        return plain or "\\" + _GREEK[code - 0x391].replace("varsigma", "sigma").capitalize()
    if code > 0x2000:
        simple = unicodedata.normalize("NFKC", character)
        if simple != character and len(simple) == 1:
            name = unicodedata.name(character, "")
            style = next((value for key, value in _STYLES.items() if key in name), "")
            return f"\\{style}{{{latex(simple)}}}" if style else latex(simple)
    return character
