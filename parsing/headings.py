"""Headings: those set on the line of the text they head, and the level of each."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from hiperrag.parsing import mend, typography
from hiperrag.parsing.lines import Line
from hiperrag.parsing.regions import SECTION_NUMBER, Region
from hiperrag.parsing.spans import weight_and_slant
from hiperrag.parsing.typography import Style

MAX_RUN_IN = 160
"""Characters of the longest run-in heading."""
MAX_LEVEL = 6

_NUMBERED = re.compile(r"(?:section |chapter |appendix )?(?P<number>\d{1,2}(?:\.\d{1,2}){0,4})[.):]?\s+\S", re.I)
_MAIN = re.compile(
    r"(?:(?:\d{1,2}|[IVX]{1,4})[.)]?\s+)?(?:introduction|background|"
    r"(?:materials? (?:and|&) )?methods?(?: and materials?)?|"
    r"methodology|experimental(?: section)?|results?(?: (?:and|&) discussions?)?|discussions?|conclusions?|"
    r"(?:summary|statement of need)|references)\s*[:.]?",
    re.I,
)
_STATEMENT = re.compile(
    r"acknowledge?ments?|(?:sources? of )?funding(?: (?:information|statement|sources?))?|financial disclosures?|"
    r"authors?[’']?s? contributions?|(?:competing|conflicts? of|declarations? of|conflicting) (?:financial )?interests?"
    r"(?: statement)?|disclosures?|(?:supplementary|supporting) (?:materials?|information|data)|abbreviations",
    re.I,
)
"""Headings of statements about an article, which stand beside its sections however they are set."""

_ROLE = re.compile(
    r"conceptuali[sz]ation|data curation|formal analysis|funding acquisition|investigation|methodology|"
    r"project administration|resources|software|supervision|validation|visuali[sz]ation|"
    r"writing\W{1,3}(?:original draft|review\W{1,5}(?:and )?editing)(?: preparation)?",
    re.I,
)
"""What authors did, by CRediT (ANSI/NISO Z39.104-2022): labels of a statement, however they are set."""

_Look = tuple[float, bool, bool, bool, str]


def split_run_in(found: Sequence[Region], style: Style, words: Mapping[str, int]) -> list[Region]:
    """The regions, run-in headings of paragraphs ("2.1. Plants. We grew ...") made regions of their own.

    A heading without a section number is one only where another one of the document is set like it.
    """
    leads = {id(region): lead for region in found if (lead := _run_in(region, style))}
    looks = Counter(_lead_look(region, leads[id(region)]) for region in found if id(region) in leads)
    result: list[Region] = []
    for region in found:
        lead = leads.get(id(region), "")
        sure = lead and (
            SECTION_NUMBER.match(lead)
            or looks[_lead_look(region, lead)] > 1
            or typography.RUN_IN_BACK_MATTER.fullmatch(lead)
        )
        result.extend(_parted(region, words) if sure else [region])
    return result


def _run_in(region: Region, style: Style) -> str:
    """The run-in heading a paragraph starts with, or nothing. It may fill lines of its own."""
    if region.kind != "paragraph" or region.known or region.continues:
        return ""
    whole = _whole_lines(region)
    end = region.lines[len(whole)]
    font = (whole[0] if whole else end).font if whole or not end.lead else end.lead_font
    shared = end.lead > 0 and end.lead_font == font
    if font in style.fonts or not (whole or shared) or (end.lead == 0 and end.font == font):
        return ""
    lead = " ".join([line.text for line in whole] + ([end.text[: end.lead]] if shared else []))
    rest = end.text[end.lead :].strip() if shared else end.text
    if not 3 < len(lead) <= MAX_RUN_IN or not re.search(r"[^\W\d_]{3}", lead):
        return ""
    numbered = SECTION_NUMBER.match(lead)
    words = lead.lstrip("0123456789. ") if numbered else lead
    starts = words[:1].isupper() and (rest[:1].isupper() or rest[:1].isdigit())
    marked = lead[-1] in ".:—–?" or bool(numbered and shared)
    worded = sum(map(str.isalpha, words)) > 0.6 * len(words)
    heads = len(region.text) - len(lead) > 40
    label = typography.CAPTION.match(lead) or typography.KEYWORDS.match(lead) or _ROLE.fullmatch(lead.rstrip(":. "))
    return lead if starts and marked and worded and heads and not label else ""


def _whole_lines(region: Region) -> list[Line]:
    """The first lines, three at most, as long as they are of one style and more follow."""
    first = region.lines[0]
    whole: list[Line] = []
    for line in region.lines[: min(3, len(region.lines) - 1)]:
        if line.lead or line.font != first.font:
            break
        whole.append(line)
    return whole


def _lead_look(region: Region, lead: str) -> tuple[str, str, bool]:
    line = region.lines[0]
    return line.lead_font or line.font, lead[-1], SECTION_NUMBER.match(lead) is not None


def _parted(region: Region, words: Mapping[str, int]) -> list[Region]:
    """A region as its run-in heading and what follows it."""
    whole = _whole_lines(region)
    last = region.lines[len(whole)]
    lines, following_lines = whole, region.lines[len(whole) :]
    if last.lead and (not whole or last.lead_font == whole[0].font):
        bold, italic = weight_and_slant(last.lead_font)
        start = dataclasses.replace(
            last,
            x1=last.lead_x1,
            text=last.text[: last.lead],
            font=last.lead_font,
            bold=bold or last.bold_start,
            italic=italic,
            lead=0,
        )
        rest = dataclasses.replace(last, x0=last.lead_x1, text=last.text[last.lead :].strip(), bold_start=False, lead=0)
        lines, following_lines = [*whole, start], [rest, *following_lines[1:]]
    heading = Region(region.page, lines, region.left, region.right, "heading", run_in=True)
    following = dataclasses.replace(region, lines=following_lines)
    for part in (heading, following):
        part.text = mend.join_all([line.text for line in part.lines], words)
    return [heading, following]


def _look(region: Region) -> _Look:
    line = region.lines[0]
    name = re.sub(r"[^a-z]", "", line.font.lower())
    return round(region.size * 2) / 2, region.text.isupper(), region.bold or line.bold_start, region.italic, name


def _rank_key(look: _Look, run_in: bool) -> tuple[bool, float, bool, bool, bool]:
    """Larger is higher; at one size capitals, then bold, then upright are higher; run-in headings are lowest."""
    size, capitals, bold, italic, _ = look
    return run_in, -size, not capitals, not bold, italic


def set_levels(headings: Sequence[Region]) -> None:
    """Level of every heading, in reading order: from section numbers where there are any, else from the rank of
    the typography among the headings it stands below."""
    if not headings:
        return
    looks = [_look(heading) for heading in headings]
    ranks = _ranks(headings, looks)
    numbers = [_depth(heading) for heading in headings]
    numbered = _numbered_looks(looks, numbers)
    top = _top_rank(headings, looks, ranks)
    open_: list[tuple[int, float]] = []
    for heading, look, depth in zip(headings, looks, numbers, strict=True):
        rank = float(max(0, ranks[look] - top))
        if _is_main(heading):
            depth, rank = depth or 1, 0.0
        elif depth is None and look in numbered:
            depth = numbered[look]
        if depth is not None:
            open_ = [(level, r) for level, r in open_ if level < depth]
            level = depth if numbered else min(depth, len(open_) + 1)
        else:
            while open_ and open_[-1][1] >= rank:
                open_.pop()
            level = open_[-1][0] + 1 if open_ else 1
        heading.level = min(MAX_LEVEL, level)
        # Nothing is a part of the references, whatever it looks like.
        open_ = [] if typography.REFERENCES.fullmatch(heading.text) else [*open_, (level, rank)]


def _is_main(heading: Region) -> bool:
    """Whether a heading's words make it a section of the first level."""
    text = heading.text
    if _STATEMENT.fullmatch(text.rstrip(" .:—–")):
        return True
    return bool(typography.ABSTRACT.fullmatch(text) or typography.REFERENCES.fullmatch(text)) and not heading.run_in


def _depth(heading: Region) -> int | None:
    match = _NUMBERED.match(heading.text)
    return match.group("number").count(".") + 1 if match else None


def _numbered_looks(looks: Sequence[_Look], numbers: Sequence[int | None]) -> dict[_Look, int]:
    """Depth by look, where a document numbers its sections."""
    if sum(number is not None for number in numbers) < 3:
        return {}
    counts: dict[_Look, Counter[int]] = defaultdict(Counter)
    for look, number in zip(looks, numbers, strict=True):
        if number is not None:
            counts[look][number] += 1
    return {look: count.most_common(1)[0][0] for look, count in counts.items()}


def _ranks(headings: Sequence[Region], looks: Sequence[_Look]) -> dict[_Look, int]:
    """0 for the look that ranks highest, and so on."""
    run_in: dict[_Look, bool] = {}
    for heading, look in zip(headings, looks, strict=True):
        run_in[look] = heading.run_in and run_in.get(look, True)
    order = sorted(run_in, key=lambda look: _rank_key(look, run_in[look]))
    above: Counter[tuple[_Look, _Look]] = Counter()
    for (a, look), (b, next_look) in itertools.pairwise(zip(headings, looks, strict=True)):
        if look != next_look and a.page == b.page and -2 < b.y0 - a.y1 < 1.5 * max(a.size, b.size):
            above[look, next_look] += 1
    for _ in range(len(order)):  # a heading set right above another one ranks higher, whatever it looks like
        moved = False
        for index, (first, second) in enumerate(itertools.pairwise(order)):
            if above[second, first] > above[first, second]:
                order[index], order[index + 1] = second, first
                moved = True
        if not moved:
            break
    return {look: index for index, look in enumerate(order)}


def _top_rank(headings: Sequence[Region], looks: Sequence[_Look], ranks: dict[_Look, int]) -> int:
    """Rank of the look of the main sections, by their names."""
    main = Counter(
        ranks[look]
        for heading, look in zip(headings, looks, strict=True)
        if _MAIN.fullmatch(heading.text) and not heading.run_in
    )
    best = max(main.values(), default=0)
    return min((rank for rank, count in main.items() if count >= 0.5 * best), default=0)
