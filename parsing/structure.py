"""The document's structure: the kind of every region, in reading order, zone by zone."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from hiperrag.parsing import blocks, frontmatter, headings, mend, references, typography
from hiperrag.parsing.lines import Page
from hiperrag.parsing.recognition import quality
from hiperrag.parsing.regions import LIST_MARK, SENTENCE_END, Region
from hiperrag.parsing.typography import Style
from hiperrag.parsing.vision import Detection
from hiperrag.records import BlockKind

_RELATION = re.compile(r"[=<>≤≥≈≡∈⊂⊆∀∃→⇒⇔↔↦∑∏∫√∂≠∝≅⟨]|\(\d{1,3}[a-z]?\)$")
_SPACED = re.compile(r"abstract|introduction|references|discussion|methods|results|conclusions?|summary", re.I)
_LABELLED = re.compile(r"[^\W\d_][^:]{2,40}: \S")
_PART_OF_CAPTION = re.compile(
    r"(?:[A-Z](?:\s?[-–,&]\s?[A-Z])*|[a-z])\s?[:.)]\s|\(?[A-Za-z](?:\s?[-–,]\s?[A-Za-z])*\)[:.]?\s"
)
_NOTE_MARK = re.compile(r"(?:[*†‡§¶∗#]|\d{1,2}\s?[A-Z]|[a-z]\s?[A-Z])")


def set_text(region: Region, words: Mapping[str, int], style: Style) -> None:
    """Join the lines of a region; those of code stay lines."""
    texts = [line.text for line in region.lines]
    code = typography.looks_like_code(region, style)
    region.text = "\n".join(_indented(region)) if code else mend.join_all(texts, words)
    if len(texts) == 1 and len(region.text) < 30:  # "Ref erences"
        whole = region.text.replace(" ", "")
        if whole != region.text and _SPACED.fullmatch(whole):
            region.text = whole


def _indented(region: Region) -> list[str]:
    """Lines of code with the spaces they start with."""
    left = min(line.x0 for line in region.lines)
    widths = [line.width / len(line.text) for line in region.lines]
    pitch = max(1.0, statistics.median(widths))
    return [" " * round((line.x0 - left) / pitch) + line.text for line in region.lines]


def _with_whole_listings(found: Sequence[Region]) -> list[Region]:
    """The regions, those of code that follow one another closely made one."""
    result: list[Region] = []
    for region in found:
        last = result[-1] if result else None
        if last is not None and region.kind == last.kind == "code" and _goes_on_listing(last, region):
            blank = region.y0 - last.y1 > 0.8 * region.size
            last.lines = [*last.lines, *region.lines]
            last.text = "\n".join(_indented(last)) if not blank else f"{last.text}\n\n{region.text}"
        else:
            result.append(region)
    return result


def _goes_on_listing(last: Region, region: Region) -> bool:
    return (
        region.page == last.page
        and -0.5 * region.size < region.y0 - last.y1 < 2.5 * region.size
        and abs(region.left - last.left) < 2
        and abs(region.size - last.size) < 0.5
    )


def classify(
    found: list[Region],
    pages: Sequence[Page],
    style: Style,
    words: Mapping[str, int],
    metadata_title: str,
    detections: Mapping[int, Sequence[Detection]],
) -> tuple[list[Region], frontmatter.FrontMatter]:
    """Kind, level, text and continuation of every region; the regions of the references are split by entry."""
    front = rule_kinds(found, pages, style, metadata_title)
    notes = [region for region in found[: front.end] if region.kind == "footnote"]
    blocks.settle(found, pages, blocks.trained().probabilities(blocks.features(found, pages, style)), detections)
    for region in notes:  # "Australia", "Discuss this article" beside an abstract
        if region.kind in ("heading", "equation"):
            region.kind = "footnote"
    _mend_kinds(found[front.end :], style)
    found = [*_with_whole_title(found[: front.end], words), *headings.split_run_in(found[front.end :], style, words)]
    found = references.split_entries(_with_whole_listings(found), words)
    headings.set_levels([region for region in found if region.kind == "heading"])
    _continue(found, words)
    return found, front


def _with_whole_title(front: Sequence[Region], words: Mapping[str, int]) -> list[Region]:
    """The regions, those of a title set in several fonts made one."""
    result: list[Region] = []
    for region in front:
        last = result[-1] if result else None
        if last is not None and region.kind == last.kind == "title" and region.page == last.page:
            last.lines = [*last.lines, *region.lines]
            last.text = mend.join_all([last.text, region.text], words)
        else:
            result.append(region)
    return result


def _mend_kinds(body: Sequence[Region], style: Style) -> None:
    """Kinds that a region's neighbours contradict."""
    for above, region, below in zip([None, *body], body, [*body[1:], None], strict=False):
        if region.kind == "heading" and _LABELLED.match(region.text):
            if any(other is not None and _is_equal_line(region, other) for other in (above, below)):
                region.kind, region.level = "paragraph", 0
        elif not region.known and _is_text(region, above, style):
            region.kind = "paragraph"
    references.close_gaps(body)


def _is_equal_line(region: Region, other: Region) -> bool:
    """Whether two regions are lines of one set of equal lines."""
    gap = max(region.y0, other.y0) - min(region.y1, other.y1)
    return (
        other.kind in ("paragraph", "list", "footnote")
        and len(region.lines) == len(other.lines) == 1
        and other.page == region.page
        and other.lines[0].font == region.lines[0].font
        and abs(other.size - region.size) < 0.2
        and abs(other.x0 - region.x0) < 1
        and gap < 0.6 * region.size
    )


def _is_text(region: Region, above: Region | None, style: Style) -> bool:
    """Whether an equation, or something in a figure or table, is part of the text after all."""
    if region.kind == "table":
        return _is_running_text(region, style) and not (above and above.kind == "caption")
    return region.kind in ("equation", "figure") and _is_sentence(region, style)


def _is_sentence(region: Region, style: Style) -> bool:
    """Whether a region in the font of the text says something in words, up to a full stop, and is no label."""
    text = region.text
    words = re.findall(r"(?<![^\W\d_])[a-z]{2,}(?![^\W\d_])", text)
    return (
        text[:1].isupper()
        and text[-1] in ".:"
        and len(words) >= 4
        and style.is_body_size(region.size)
        and sum(map(str.isalpha, text)) > 0.5 * len(text)
        and any(line.font in style.fonts or line.lead_font in style.fonts for line in region.lines)
    )


def _is_running_text(region: Region, style: Style) -> bool:
    """Whether lines in the size of the text talk, as no cells do, however uneven their gaps were recognised."""
    talks = len(region.text) > 120 and quality.common_share(region.text) > 0.2
    return talks and style.is_body_size(region.size)


def rule_kinds(
    found: Sequence[Region], pages: Sequence[Page], style: Style, metadata_title: str
) -> frontmatter.FrontMatter:
    """Kinds of the regions by rules alone."""
    settled = [(region, region.kind) for region in found if region.known]
    front = frontmatter.find(found, _first_page(found, pages), style, metadata_title)
    for region, kind in settled:
        region.kind = kind
    _body(found[front.end :], pages, style)
    return front


def _first_page(found: Sequence[Region], pages: Sequence[Page]) -> Page:
    """The first page with any text beside its furniture."""
    number = found[0].page if found else pages[0].number
    return next(page for page in pages if page.number == number)


def _body(found: Sequence[Region], pages: Sequence[Page], style: Style) -> None:
    """Kinds of everything after the front matter."""
    heights = {page.number: page.height for page in pages}
    references_heading: Region | None = None
    reference: Region | None = None
    caption: Region | None = None
    listed: Counter[float] = Counter()
    after = False
    for index, region in enumerate(found):
        if region.known or region.kind != "paragraph":
            continue
        if references_heading is not None and references.is_left(region, listed):
            references_heading, caption, after = None, None, True
        if typography.REFERENCES.fullmatch(region.text) and len(region.lines) == 1:
            region.kind, references_heading, caption = "heading", region, None
        elif typography.is_caption(region, style):
            region.kind, caption = "caption", region
        elif _ends_references(region, references_heading, style) and not (after and _is_plain(region, style)):
            region.kind, references_heading, caption = "heading", None, None
        elif references_heading is not None or (reference is not None and _set_alike(region, reference, style)):
            region.kind = "reference"
            reference = reference or region
            listed[round(region.size, 1)] += 1
        elif caption is not None and _goes_on_caption(caption, region):
            region.kind, region.continues, region.known = "caption", True, True
        elif caption is not None and _is_part_of_caption(caption, region):
            region.kind, region.continues, region.known, caption = "caption", True, True, region
        elif after:
            region.kind = _running_kind(region, caption, style, heights[region.page])
        elif _heads_text(region, following := found[index + 1] if index + 1 < len(found) else None, style) or (
            following is not None and _stands_alone(found[index - 1] if index else None, region, following, style)
        ):
            region.kind, caption = "heading", None
        else:
            region.kind = _running_kind(region, caption, style, heights[region.page])
            if region.kind in ("paragraph", "list") and (
                caption is None or typography.is_prose(region) or region.page != caption.page
            ):
                caption = None


def _is_plain(region: Region, style: Style) -> bool:
    """Whether a heading is hardly larger than the text and none that articles share."""
    return region.size < style.size + 1.5 and not typography.KNOWN_HEADINGS.fullmatch(region.text)


def _ends_references(region: Region, references_heading: Region | None, style: Style) -> bool:
    """Whether a region is a heading; within the references only one set like theirs counts."""
    if not typography.is_heading(region, style):
        return False
    if references_heading is None:
        return True
    known = typography.KNOWN_HEADINGS.fullmatch(region.text) is not None
    return known or typography.same_look(region, references_heading)


def _set_alike(region: Region, reference: Region, style: Style) -> bool:
    """Whether a region is set like the references, and those unlike the text."""
    return (
        reference.size < style.size - 0.45
        and abs(region.size - reference.size) < 0.2
        and region.lines[0].font == reference.lines[0].font
    )


def _goes_on_caption(caption: Region, region: Region) -> bool:
    """Whether a region is the second column of a caption set in two."""
    return (
        region.page == caption.page
        and abs(region.size - caption.size) < 0.2
        and region.lines[0].font == caption.lines[-1].font
        and abs(region.y0 - caption.y0) < 0.5 * region.size
        and region.x0 > caption.x1
    )


def _is_part_of_caption(caption: Region, region: Region) -> bool:
    """Whether a region under a caption tells of one part of its figure ("D: ...")."""
    return (
        region.page == caption.page
        and _PART_OF_CAPTION.match(region.text) is not None
        and abs(region.size - caption.size) < 0.3
        and -1 < region.y0 - caption.y1 < 0.8 * region.size
        and region.x0 < caption.x1
        and region.x1 > caption.x0
    )


def _heads_text(region: Region, following: Region | None, style: Style) -> bool:
    """Whether a short line in a font of its own stands on top of running text."""
    line = region.lines[0]
    return (
        following is not None
        and len(region.lines) <= (3 if region.bold else 1)
        and line.font not in style.fonts
        and region.size > style.size - (3.5 if region.bold else 1)
        and 3 < len(region.text) < 160
        and region.text[:1].isupper()
        and region.text[-1] not in ".,;:"
        and region.lines[-1].x1 < region.right - 0.1 * (region.right - region.left)
        and following.page == region.page
        and -2 < following.y0 - region.y1 < 2 * region.size
        and abs(following.left - region.left) < 2 * region.size
        and following.lines[0].font in style.fonts
        and abs(following.size - style.size) < 0.45
        and typography.is_prose(following)
    )


def _stands_alone(above: Region | None, region: Region, following: Region, style: Style) -> bool:
    """Whether a short line that looks like running text stands on top of it, with space around it."""
    first, text = region.lines[0], region.text
    apart = (
        above is None or above.page != region.page or above.y0 > region.y0 or region.y0 - above.y1 > 0.5 * first.size
    )
    words = re.findall(r"[^\W\d_]{2,}", text)
    return (
        apart
        and len(region.lines) == 1
        and region.page == following.page
        and 0.25 * first.size < following.y0 - region.y1 < 2.5 * first.size
        and abs(following.left - region.left) < 2 * first.size
        and abs(region.size - style.size) < 0.45
        and first.x0 < region.left + first.size
        and first.x1 < region.right - 0.12 * (region.right - region.left)
        and 3 < len(text) < 120
        and text[:1].isupper()
        and text[-1] not in ".,;:?!"
        and sum(map(len, words)) > 0.75 * len(text)
        and following.text[:1].isupper()
        and abs(following.size - style.size) < 0.45
        and typography.is_prose(following)
    )


def _running_kind(region: Region, caption: Region | None, style: Style, page_height: float) -> BlockKind:
    """Kind of a region that is neither heading nor caption. `caption` is the latest one with no text since."""
    text = region.text
    beside = caption is not None and caption.page == region.page
    in_table = beside and caption is not None and typography.is_table_caption(caption)
    prose = typography.is_prose(region)
    if typography.looks_like_code(region, style) and (len(region.lines) > 1 or not prose):
        return "code"
    small = region.size < style.size - 0.45 and not style.is_body_size(region.size)
    keywords = typography.KEYWORDS.match(text)
    if typography.LICENCE.match(text):
        return "footnote"
    if keywords and len(text) > 14 and (small or keywords.group("after")):
        return "footnote"
    if small:
        if in_table:
            return "table"
        if not prose or (caption is not None and beside and abs(region.size - caption.size) < 0.3):
            return "figure" if not _NOTE_MARK.match(text) else "footnote"
        return "footnote" if len(text) < 1500 or region.y0 > 0.6 * page_height else "paragraph"
    if in_table and _fills_column(region, style):
        return "paragraph"
    if not in_table and LIST_MARK.match(text):
        return "list"
    if not in_table and is_equation(region, style):
        return "equation"
    if region.n_rows_split >= max(1, 0.3 * len(region.lines)) and not prose:
        return "table"
    if in_table and not prose and region.page == (caption.page if caption else 0):
        return "table"
    narrow = region.right - region.left < 0.5 * style.width
    if narrow and not prose and not style.is_body_size(region.size):
        return "figure"
    if len(text) < 60 and region.lines[0].font not in style.fonts and not SENTENCE_END.search(text):
        return "figure"
    return "paragraph"


def _fills_column(region: Region, style: Style) -> bool:
    """Whether lines set as the text is fill their column, though figures among their words hide that they are prose."""
    lines = region.lines
    edge = region.right - 0.2 * (region.right - region.left)
    return (
        len(lines) >= 3
        and abs(region.size - style.size) < 0.45
        and lines[0].font in style.fonts
        and not region.n_rows_split
        and sum(line.x1 > edge for line in lines) >= 0.7 * len(lines)
        and sum(map(str.isalpha, region.text)) > 0.45 * len(region.text)
    )


def is_equation(region: Region, style: Style) -> bool:
    """A displayed formula: relations or operators, few words, set in or near the size of the text."""
    if typography.is_prose(region) or len(region.text) > 300 or region.size < style.size - 1.6:
        return False
    words = re.findall(r"[^\W\d_]{4,}", region.text)
    return bool(_RELATION.search(region.text)) and sum(map(len, words)) < 0.7 * len(region.text)


def _continue(found: Sequence[Region], words: Mapping[str, int]) -> None:
    """Join paragraphs over column and page breaks. A word broken there is completed in the former region."""
    previous: Region | None = None
    for region in found:
        if region.kind == "heading":
            previous = None
        if region.kind not in ("paragraph", "abstract", "list"):
            continue
        if previous is not None and _goes_on(previous, region):
            region.continues = True
            if previous.text.endswith(("-", "\u00ad")) and " " in region.text:
                head, _, rest = region.text.partition(" ")
                previous.text = mend.join_all([previous.text, head], words)
                region.text = rest
        previous = region


def _goes_on(previous: Region, region: Region) -> bool:
    if previous.kind != region.kind and (previous.kind, region.kind) != ("list", "paragraph"):
        return False
    if LIST_MARK.match(region.text) and not region.text[:1].islower():
        return False
    if region.text[:1].islower():
        return not SENTENCE_END.search(previous.text) or previous.text[-1] not in ".!?"
    if SENTENCE_END.search(previous.text):
        return False
    full = previous.lines[-1].x1 > previous.right - 0.15 * (previous.right - previous.left)
    moved = region.page != previous.page or region.y0 < previous.y1
    return full and moved
