"""Year and DOI of an article, where its first two pages state them beyond doubt.

Only what stands around the text is read (running heads and feet, notes of the first page, lines about the
authors): a year or a DOI in running text, an abstract or a reference is that of something else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from hiperrag.metadata import Metadata
from hiperrag.records import Block

PAGES = 2
MAX_CHARACTERS = 3000
"""Of a block; a longer one is no note."""

_AROUND_TEXT = ("header", "footer", "footnote", "authors")
_YEAR = r"((?:19|20)\d\d)(?!\d)"
_MONTH = r"(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]{0,6}\.?"
_DATE = (
    rf"(?:\d{{1,2}}(?:st|nd|rd|th)?[\s,]{{1,2}}{_MONTH}|{_MONTH}(?:[\s,]{{1,2}}\d{{1,2}}(?:st|nd|rd|th)?)?|"
    rf"\d{{1,2}}[-/.]\d{{1,2}}(?=[-/.])|(?=(?:19|20)\d\d-\d\d-\d\d))[\s,/.-]{{0,2}}{_YEAR}"
)
_PUBLISHED = re.compile(
    rf"(?:published(?: online)?(?: on| in)?|available online|publication date)\s?:?\s{{0,2}}{_DATE}", re.I
)
_HISTORY = re.compile(
    rf"\b(?:received|accepted|revised|received in revised form)(?: on| in)?\s?:?\s{{0,2}}(?:{_DATE}|{_YEAR})", re.I
)
_COPYRIGHT = re.compile(
    rf"(?:©|\(c\)\s|\bcopyright\b)[^.;\d]{{0,30}}(?:(?:19|20)\d\d\s?[-–]\s?)?{_YEAR}|"
    rf"(?:©|\bthe author\(s\))[^;\d]{{0,60}}{_YEAR}",
    re.I,
)
_CITATION = re.compile(
    "|".join(
        [
            rf"\({_YEAR}\)\s?\d{{1,4}}\s?[:(]",  # BMC Cancer (2021) 21:56
            rf"\d\s?\({_YEAR}\)",  # Heliyon 10 (2024) e31208; Bioinformation 13(3): 67-72 (2017)
            rf"\b{_YEAR}\s?;\s?\d{{1,4}}\s?[:(]",  # J Clin Exp Dent. 2016;8(3):e230-5
            rf"\b{_YEAR},\s?\d{{1,4}}(?:\s?\(\d{{1,3}}\))?\s?[,:]\s?[\de]",  # Entropy 2019, 21, 388
            rf"\d[-–]\d{{1,6}},\s?{_YEAR}",  # Arch. Anim. Breed., 59, 121–129, 2016
            rf"\bvol(?:\.|ume)\s?\d{{1,4}},\s?{_YEAR}",
            rf"\bvolume {_YEAR}, article\b",  # Volume 2016, Article ID 2345141
            rf"\b{_MONTH}\s{_YEAR} \| volume\b",  # September 2015 | Volume 6
            rf"\bvol(?:\.|ume)\s?\d{{1,4}}\b.{{0,40}}\b(?:{_MONTH}|spring|summer|autumn|fall|winter)\s{_YEAR}",
        ]
    ),
    re.I,
)
_RUNNING_HEAD = re.compile(
    rf"\b(?:proceedings|conference|workshop|symposium|congress)\b.{{0,120}}\b{_YEAR}",
    re.I,
)
_DOWNLOADED = re.compile(r"\b(?:downloaded|accessed|retrieved)\b", re.I)
_CONFERENCE = re.compile(rf"\bpublished as a (?:conference|workshop) paper at \w{{2,20}}\s{_YEAR}", re.I)
_ARXIV = re.compile(
    rf"\barXiv:(?:\d{{4}}\.\d{{4,5}}|[a-z-]{{2,10}}(?:\.[A-Z]{{2}})?/\d{{7}})(?:v\d{{1,2}})?\s{{1,3}}"
    rf"(?:\[[\w.-]{{2,20}}\]\s{{1,3}})?\d{{1,2}}\s{_MONTH}\s{_YEAR}",
    re.I,
)

_DOI = re.compile(r"(?<![\w.])10\.\d{4,9}/[^\s\"'<>|,;{}\[\]]{2,120}")
_NOT_OWN = re.compile(
    r"data ?(?:set|base|bank)?s?\b|repositor|registration|registered|supplement|supporting|preprint of|correction|"
    r"reproduc|comment(?:ary)? on|reply to|erratum|code\b|software|archive",
    re.I,
)
_OWN = re.compile(r"cit(?:e|ation)\b|\bthis article\b", re.I)
_OWN_LINE = re.compile(r"\bcit(?:e|ation)\b|\bdoi\b|https?:|\bwww\.|\barticle id\b|\bopen access\b", re.I)
_ANY_YEAR = re.compile(rf"(?<![\d/.-]){_YEAR}")


def stated(blocks: Sequence[Block]) -> Metadata:
    """`{"year": int, "doi": str}` of an article from its blocks, either one left out where there is a doubt.

    `year` is the one its journal cites it by; else that of publication, of the copyright, of the last date of
    its history (received, accepted), or of arXiv's stamp. Years of publication that differ by more than one are
    a doubt. `doi` is in lower case, as DOIs are compared (ISO 26324).
    """
    around = [b for b in blocks if 0 < b.page <= PAGES and b.kind in _AROUND_TEXT and len(b.text) <= MAX_CHARACTERS]
    running = [" ".join(block.text.split()) for block in around if block.kind in ("header", "footer")]
    first = [
        " ".join(block.text.split()) for block in around if block.kind not in ("header", "footer") and block.page == 1
    ]
    found: Metadata = {}
    year = _year(running, first)
    if year is not None:
        found["year"] = year
    doi = _doi(running + first, year)
    if doi:
        found["doi"] = doi
    return found


def _years(pattern: re.Pattern[str], notes: Iterable[str]) -> list[int]:
    return [int(next(filter(None, match.groups()))) for note in notes for match in pattern.finditer(note)]


def _year(running: Sequence[str], first: Sequence[str]) -> int | None:
    # A note that cites a journal and says nothing of this article may be a reference at the foot of the page.
    citing = [*running, *(note for note in first if _OWN_LINE.search(note))]
    notes = [*running, *first]
    heads = [note for note in running if not _DOWNLOADED.search(note)]
    cited = _years(_CITATION, citing) + _years(_RUNNING_HEAD, heads) + _years(_CONFERENCE, notes)
    published = _years(_PUBLISHED, notes)
    owned = _years(_COPYRIGHT, notes)
    history = _years(_HISTORY, notes)
    issued = cited + published
    if issued:
        if max(issued) - min(issued) > 1 or (history and max(history) > max(issued)):
            return None
        return _most_common(cited or published)
    if owned:
        doubtful = len(set(owned)) > 1 or (history and not 0 <= owned[0] - max(history) <= 2)
        return None if doubtful else owned[0]
    if any(re.search(r"\baccepted\b", note, re.I) for note in notes) and history:
        return max(history)
    stamps = set(_years(_ARXIV, notes))
    return stamps.pop() if len(stamps) == 1 else None


def _most_common(years: Sequence[int]) -> int:
    """The latest of the most frequent."""
    counts = Counter(years)
    return max(counts, key=lambda year: (counts[year], year))


def _doi(notes: Sequence[str], year: int | None) -> str:
    counts: Counter[str] = Counter()
    for note in notes:
        for match in _DOI.finditer(note):
            doi = _trimmed(match.group()).lower()
            before = note[max(0, match.start() - 250) : match.start()]
            if _is_whole(doi, note[match.end() :]) and _is_own(before, year):
                counts[doi] += 1
    ranked = counts.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] < 2 * ranked[1][1]):
        return ""
    return ranked[0][0]


def _trimmed(doi: str) -> str:
    """Without the sentence's punctuation, and without a closing bracket that was not opened."""
    while doi and (doi[-1] in ".:" or (doi[-1] == ")" and doi.count(")") > doi.count("("))):
        doi = doi[:-1]
    return doi


def _is_whole(doi: str, after: str) -> bool:
    """Not cut by the end of a line: its second half has a digit, and no piece of one follows."""
    suffix = doi.partition("/")[2]
    return any(map(str.isdigit, suffix)) and doi[-1] not in "-/_(" and not re.match(r" [a-z\d.-]*\d{4,}", after)


def _is_own(before: str, year: int | None) -> bool:
    """Whether the text before a DOI leaves it to be the article's own: not of data, nor of a work of another year."""
    if _NOT_OWN.search(before[-120:]) and not _OWN.search(before[-120:]):
        return False
    years = {int(y) for y in _ANY_YEAR.findall(before)}
    return not years or (year is not None and any(abs(y - year) <= 1 for y in years))
