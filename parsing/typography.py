"""What a region looks like and says: running text, heading, caption, boilerplate."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections import Counter
from collections.abc import Sequence

from hiperrag.parsing.lines import Page
from hiperrag.parsing.regions import LIST_MARK, Region

CAPTION = re.compile(
    r"(?:supplementary |supplemental |extended data |online |appendix )?"
    r"(?P<label>fig(?:ure|s)?\.?|tab(?:le\.?|\.)|scheme|chart|plate|box|listing|algorithm|exhibit|"
    r"abbildung|abb\.|tabelle|figura|tabla|tableau)"
    r"\s*(?P<number>[A-Z]?[.-]?\d{1,3}(?:[.-]\d{1,2})?[A-Za-z]?|[IVX]{1,5})(?!\w)(?P<after>\s*[.:|–—-]?)",
    re.I,
)
REFERENCES = re.compile(
    r"(?:\d+\.?\s*)?(?:references?(?: and notes| cited| list|s and recommended reading)?|bibliography|"
    r"literature(?: cited)?|works cited|notes and references|literatur(?:verzeichnis)?|références|referencias|"
    r"bibliografía|bibliographie)\s*[:.]?",
    re.I,
)
ABSTRACT = re.compile(
    r"(?:abstract|summary|a\s?b\s?s\s?t\s?r\s?a\s?c\s?t|zusammenfassung|résumé|resumen)\s*[:.]?", re.I
)
RUN_IN_ABSTRACT = re.compile(r"(?:abstract|summary)\s?[:.—–-]+\s*\S|ABSTRACT\s+\S|Abstract\s+[A-Z]")
ABSTRACT_PART = re.compile(
    r"(?:backgrounds?|introduction|objectives?|aims?|purpose|context|rationale|hypothesis|scope|significance|"
    r"(?:materials? (?:and|&) |patients (?:and|&) )?methods?(?: and (?:analysis|design|findings|materials|results))?|"
    r"design|setting|participants|interventions?|main outcomes?(?: measures?)?|measurements|study design|"
    r"(?:main |principal )?(?:results?|findings)|discussions?|conclusions?(?:[/ ]\w+)?|interpretation|limitations|"
    r"trial registration(?: number)?|ethics and dissemination|registration(?: details)?|trial status)\s*[:.]?",
    re.I,
)
INTRODUCTION = re.compile(
    r"(?:(?:\d|I)\.?\s*)?(?:introduction|background|statement of need|motivation|einleitung|introducción|"
    r"general introduction|introduction and background)\s*[:.]?",
    re.I,
)
KEYWORDS = re.compile(
    r"(?:key\s?-?words?(?: and phrases)?|index terms|abbreviations?|schlüsselwörter|palabras clave|mots[- ]clés|"
    r"subject (?:areas|classification)|jel (?:codes?|classification)|msc)\b\s*(?P<after>[:.—–]?)",
    re.I,
)
KNOWN_HEADINGS = re.compile(
    r"(?:(?:\d+|[IVX]+)\.?\s+)?(?:introduction|background|related work|(?:materials? (?:and|&) )?methods?|"
    r"methodology|materials?|experimental(?: section| procedures?)?|results?(?: (?:and|&) discussions?)?|"
    r"discussions?|(?:discussion and )?conclusions?(?: and .{3,30})?|statement of need|summary|acknowledge?ments?|"
    r"appendix|supplementary (?:material|information|data)s?|supporting information|(?:conflicts?|declarations?) of "
    r"interests?(?: statement)?|competing (?:financial )?interests?|authors?[’']?s? contributions?|funding|"
    r"data availability(?: statement)?|limitations|statistical analys[ie]s|abbreviations|declarations|"
    r"publisher[’']s note|open access|additional (?:information|files?)|ethical approval|abstract)\s*:?",
    re.I,
)
BOILERPLATE = re.compile(
    r"©|\(c\) (?:19|20)\d\d|copyright|creative commons|open[- ]access article|all rights reserved|licen[sc]ee|"
    r"\b(?:received|accepted|revised|published|available online|submitted|epub)\b(?:\s\w+)?\s*:?\s*"
    r"(?:on |in )?(?:\d{1,2}|january|february|march|april|may|june|july|august|september|october|november|"
    r"december|jan|feb|mar|apr|jun|jul|aug|sep|oct|nov|dec)\b|"
    r"\bcorresponding author|^\W{0,3}correspond|address (?:for )?correspondence|e-?mail\s?:|\S@\S+\.\w|"
    r"https?://\S*doi|^doi\b|\bdoi\s?:|^(?:academic |handling |associate )?(?:edit(?:or|ed by)|review(?:er|ed by))\b|"
    r"(?:how to )?cite this (?:article|paper)|^citation\s?:|contributed equally|\bissn\b|equal contribution|"
    r"^(?:p-|e-)?issn|continued on next page|^article history|^article info|peer[- ]review|"
    r"author information is available|electronic supplementary (?:material|information)",
    re.I,
)
_STATEMENTS = (
    r"(?:supplementary|supplemental|supporting) (?:materials?|information|data|files?)|additional files?|"
    r"abbreviations?|(?:source of )?funding(?: (?:information|statement|sources?))?|"
    r"financial (?:support|disclosure)|grant (?:information|support)|"
    r"(?:availability of|access to) (?:data|supporting).{0,30}|declarations?|ethics approval.{0,40}|"
    r"consent (?:for publication|to participate)|authors?[’']?s? (?:details|information)|sample availability|"
    r"publisher[’']s note|open access|provenance and peer review|patient consent.{0,20}|"
    r"compliance with ethical standards"
)
BACK_MATTER = re.compile(rf"(?:{_STATEMENTS})\s*[:.]?", re.I)
"""Headings of statements about an article, not of it, that journals set after its conclusion."""
LICENCE = re.compile(
    r"(?:this (?:work|article) is (?:licen[sc]ed|distributed|an open access)|this is an open[- ]access article|"
    r"open access\W{1,3}this article is|© the authors?|copyright:? ?©|© (?:19|20)\d\d)",
    re.I,
)
RUN_IN_BACK_MATTER = re.compile(
    rf"(?:{_STATEMENTS}|acknowledge?ments?|authors?[’']?s? contributions?|disclosures?|"
    r"data (?:availability|accessibility)(?: statement)?|"
    r"(?:competing|conflicts? of|declarations? of|conflicting) (?:financial )?interests?(?: statement)?)"
    r"(?:\s?[:.—–]|\s+(?=(?-i:[A-Z])))",
    re.I,
)
"""The same, and others, as the first words of a paragraph."""
MONOSPACED = re.compile(r"courier|mono(?!type)|cmtt|consol|menlo|sftt|lmtt|typewriter|inconsolata|lucidasanstyp", re.I)
_NUMBERED = re.compile(r"(?P<number>(?:\d{1,2}|[A-Z])(?:\.\d{1,2}){0,4}|[IVX]{1,5})[.)]?\s+(?P<rest>\S.*)")


@dataclasses.dataclass(slots=True)
class Style:
    """What running text looks like in a document. Sizes and widths in points."""

    size: float
    fonts: frozenset[str]
    sizes: frozenset[float]
    """Sizes (to half a point) that much running text is set in, the main one included."""
    width: float = 0.0
    """Width of the column most running text is set in."""

    def is_body_size(self, size: float) -> bool:
        return abs(size - self.size) < 0.45 or round(size * 2) / 2 in self.sizes


def body_style(pages: Sequence[Page]) -> Style:
    """Font size and fonts of most of the text before the references."""
    counts: Counter[tuple[float, str]] = Counter()
    lengths: list[tuple[float, float]] = []
    done = False
    for page in pages:
        for line in page.lines:
            done = done or (sum(counts.values()) > 2000 and bool(REFERENCES.fullmatch(line.text)))
            if not done and len(line.text) > 20:
                counts[line.size, line.font] += len(line.text)
                lengths.append((line.width, line.size))
    sizes: Counter[float] = Counter()
    for (size, _), count in counts.items():
        sizes[round(size * 2) / 2] += count
    if not sizes:
        return Style(10.0, frozenset(), frozenset())
    # Sizes may jitter about their nominal value: half a point to either side counts for a size.
    peak = max(sizes, key=lambda s: sizes[s] + 0.5 * (sizes[s - 0.5] + sizes[s + 0.5]))
    near = {key: count for key, count in counts.items() if abs(key[0] - peak) <= 0.5}
    total = sum(near.values())
    size = sum(key[0] * count for key, count in near.items()) / total
    at_size: Counter[str] = Counter()
    for (_, font), count in near.items():
        at_size[font] += count
    widths = sorted(w for w, s in lengths if abs(s - size) < 0.45)
    return Style(
        size,
        frozenset(f for f, n in at_size.items() if n > 0.12 * total),
        frozenset(),
        widths[int(0.7 * len(widths))] if widths else 0.0,
    )


def refine(style: Style, found: Sequence[Region]) -> Style:
    """The style with column width and further sizes of running text, from the regions of all pages."""
    running = [region for region in found if len(region.lines) >= 3 and is_prose(region)]
    main = [region for region in running if abs(region.size - style.size) < 0.45]
    widths = [region.right - region.left for region in main for _ in region.lines]
    width = statistics.median(widths) if widths else 0.0
    amount: Counter[float] = Counter()
    for region in running:
        if RUN_IN_BACK_MATTER.match(region.text) or BACK_MATTER.fullmatch(region.text):
            break
        if not CAPTION.match(region.first_text) and 0.8 * width < region.right - region.left < 1.2 * width:
            amount[round(region.size * 2) / 2] += region.n_characters
    total = sum(amount.values())
    sizes = {
        size for size, count in amount.items() if count > 0.25 * total and style.size - 1.6 <= size <= style.size + 2
    }
    return Style(style.size, style.fonts, frozenset(sizes), width)


def is_prose(region: Region) -> bool:
    """Whether lines fill their column like running text; single lines must look like a sentence's end."""
    lines = region.lines
    text = " ".join(line.text for line in lines)
    letters = sum(map(str.isalpha, text))
    if letters < 0.6 * len(text) or region.n_rows_split > 0.25 * len(lines):
        return False
    width = max(1.0, region.right - region.left)
    if len(lines) >= 3:
        full = sum(1 for line in lines[:-1] if line.x1 > region.right - 0.2 * width)
        return full >= 0.5 * (len(lines) - 1) and letters / len(lines) > 12
    return len(text) > 60 and lines[0].width > 0.6 * width


def is_caption(region: Region, style: Style) -> bool:
    """A region that starts with a label and number set as a caption, not a sentence that refers to one."""
    match = CAPTION.match(region.first_text)
    if not match or region.first_text[:1].islower():
        return False
    rest = region.first_text[match.end() :].lstrip()
    if match.group("after").strip() or region.lines[0].bold_start or not rest:
        return True
    if not style.is_body_size(region.size) and region.size < style.size:
        return True
    return rest[:1].isupper() and (region.italic or region.lines[0].font not in style.fonts)


def looks_like_code(region: Region, style: Style) -> bool:
    """Whether a region is monospaced, in a document whose running text is not."""
    return bool(MONOSPACED.search(region.lines[0].font)) and not any(map(MONOSPACED.search, style.fonts))


def is_table_caption(region: Region) -> bool:
    match = CAPTION.match(region.first_text)
    return bool(match and match.group("label").lower().startswith("tab"))


def is_heading(region: Region, style: Style) -> bool:
    """A short region that stands out by size, weight, slant or number, or bears a known name."""
    text = region.text
    if len(region.lines) > 4 or len(text) > 200 or len(text) < 3 or region.n_rows_split:
        return False
    if not re.search(r"[^\W\d_]{3}", text) or text.endswith((",", ";")):
        return False
    if KNOWN_HEADINGS.fullmatch(text):
        return True
    last = region.lines[-1]
    if len(last.text) - last.lead > 20 and last.lead > 3 and last.bold_start:
        return False  # a run-in heading with its text
    first = re.search(r"[^\W\d_]", text)
    starts_lower = bool(first and first.group().islower())
    if region.size < style.size - 0.9 or (starts_lower and not _NUMBERED.match(text)):
        return False
    if text.endswith(".") and len(text) > 70 and not region.bold:
        return False
    body_font = region.lines[0].font in style.fonts
    if region.bold and not (body_font and region.size < style.size + 0.3):
        return True
    if region.size > style.size + 0.7:
        return True
    short = region.lines[-1].x1 < region.right - 0.15 * (region.right - region.left)
    number = _NUMBERED.match(text)
    if not short or len(region.lines) > 2 or text.endswith("."):
        return False
    if not body_font:
        return region.italic or bool(number) or text.isupper() or region.size > style.size + 0.3
    return bool(number and text[-1] not in ":;," and len(text) < 90 and not LIST_MARK.match(text))


def _look(region: Region) -> tuple[float, bool, bool]:
    return round(region.size * 2) / 2, region.bold, region.text.isupper()


def same_look(a: Region, b: Region) -> bool:
    """Whether two headings are set alike."""
    return _look(a) == _look(b) and a.lines[0].font == b.lines[0].font
