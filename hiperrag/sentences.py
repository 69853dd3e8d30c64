"""Sentence boundaries in scientific prose.

Rules rather than a model: what ends in a full stop is weighed by the word before it and the word after it.
The pieces, joined, are the text again, character by character.
"""

from __future__ import annotations

import re

# A terminator with closing quotes and brackets, glued superscript citations ("shown.12,13 The") or a
# bracketed citation after it ("shown. [12] The"), white space, and what can begin a sentence. Or a blank
# line, or the terminators of Chinese and Japanese, which take no space. Runs are matched possessively and from
# their start, so that no text takes quadratic time.
_CANDIDATE = re.compile(
    r"""
    (?P<stop> (?<![.!?…]) [.!?…]++ )
    (?P<close> ['"”’»)\]}]* (?: (?<![\d.]\.) \d{1,3} (?: [,–-]\d{1,3} )* (?=\s) )? )
    (?P<cited> \s*+ \[ \d+ (?: [\s,;–-]+ \d+ )* \] )?
    \s++
    (?= ["'“‘«(\[]* (?: [^\W_a-z] | [a-z]{1,3}[A-Z0-9] ) )
    | (?P<blank> \n [^\S\n]* \n \s* )
    | (?P<wide> [。！？]+ [”’」』）]* \s* )
    """,
    re.VERBOSE,
)
_VISIBLE = re.compile(r"\S")
_WORD_BEFORE = re.compile(r"[^\s(\[{“‘\"']*$")
_WORD_AFTER = re.compile(r"[\"'“‘«(\[]*([\w’-]*)")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEVER_FINAL = _words(
    """
    fig figs eq eqs eqn eqns ref refs sec sect tab tabs ch chap app vol vols pp ed eds cf vs viz i.e
    e.g dr prof mr mrs st mt ser suppl exp expt figures resp incl wrt w.r.t a.k.a jr dept univ
    proc trans annu rev
    """
)
"""Abbreviations that are always followed by what they belong to."""
_NUMBERED = _words("no nos nr art p n table step")
"""Words whose full stop is an abbreviation before a number ("No. 4")."""
_SOMETIMES_FINAL = _words(
    """
    al etc ca approx inc ltd co corp sp spp subsp var cv ssp u.s u.k u.s.a ph.d m.d b.sc m.sc a.m
    p.m min max sec hr hrs wk yr yrs mo ms temp conc vol wt dia est ave av sr bros n.b j biol chem acad
    sci natl med biochem biophys res reprod physiol pharmacol immunol clin c g p
    """
)
"""Abbreviations that may end a sentence: they do where a word follows that typically begins one."""
_UNITS = _words("min sec hr hrs wk yr yrs mo ms s h d")
_STARTERS = _words(
    """
    the this these those that there a an in on at as by for from to of with within without we our i
    it its he she they their his her however moreover furthermore therefore thus hence here although
    while when where which after before during since because if then such some many most both each
    all no not only also another other one two three several few results figure table data although
    despite using based given finally first second third next overall together consequently
    additionally similarly interestingly conversely nevertheless nonetheless instead indeed recently
    previously subsequently patients methods conclusions background
    """
)


def split_sentences(text: str) -> list[str]:
    """Cut `text` into sentences, each with the white space that follows it: `"".join(result) == text`.

    A blank line ends a sentence. White space before the first sentence belongs to it.
    """
    sentences: list[str] = []
    start = 0
    first = _first_visible(text, start)
    for match in _CANDIDATE.finditer(text):
        if match.start() <= first:
            continue
        if match["stop"] is None or _ends_sentence(text, first, match):
            sentences.append(text[start : match.end()])
            start = match.end()
            first = _first_visible(text, start)
    if start < len(text):
        sentences.append(text[start:])
    return sentences


def _first_visible(text: str, start: int) -> int:
    found = _VISIBLE.search(text, start)
    return found.start() if found else len(text)


def _ends_sentence(text: str, first: int, match: re.Match[str]) -> bool:
    if match["stop"] != "." or match["close"] or match["cited"]:
        return True
    before = _word_before(text, first, match.start("stop"))
    following = _WORD_AFTER.match(text, match.end())
    after = following[1] if following else ""
    starts = after.lower() in _STARTERS and not after.islower()
    word = before.lower()
    if word in _NEVER_FINAL:
        return False
    if word in _NUMBERED and after[:1].isdigit():
        return False
    if match.start() - first < 12 and not text[first : match.start()].strip("0123456789.()"):
        return False  # the number of a heading or of a list item
    begin = match.start() - len(before)
    if word in _UNITS and text[max(0, begin - 2) : begin].rstrip()[-1:].isdigit():
        return True
    is_initial = len(before) == 1 and before.isalpha() and before.isupper()
    if is_initial or re.fullmatch(r"(?:[A-Z][a-z]?[.-]{1,2})+[A-Z]", before) or word in _SOMETIMES_FINAL:
        return starts
    return True


def _word_before(text: str, start: int, end: int) -> str:
    found = _WORD_BEFORE.search(text, max(start, end - 40), end)
    return found[0] if found else ""
