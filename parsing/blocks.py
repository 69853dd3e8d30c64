"""What a region looks like in numbers, and how likely it is to be of each kind: an ensemble of gradient-boosted trees.

The trees (`blocks.npz`, one-against-all logits that softmax makes probabilities) are trained on regions whose kind
the ground truth of published articles tells; `python -m hiperrag.benchmarks.parsing.train_blocks` makes them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from hiperrag.parsing import evidence, typography
from hiperrag.parsing.lines import Page
from hiperrag.parsing.regions import LIST_MARK, REFERENCE_MARK, SECTION_NUMBER, SENTENCE_END, Region
from hiperrag.parsing.typography import Style
from hiperrag.parsing.vision import Detection
from hiperrag.records import BlockKind

CLASSES: tuple[BlockKind, ...] = (
    "title",
    "authors",
    "abstract",
    "heading",
    "paragraph",
    "table",
    "figure",
    "caption",
    "equation",
    "footnote",
    "reference",
    "header",
)
"""Kinds the trees tell apart. Lists count as paragraphs and running feet as heads: rules tell those."""

_WORD = re.compile(r"[^\W\d_]+")
_STOP_WORDS = (
    "the of and in to a is was were for with that by as on are from at be this which an or it we not have has "
    "these der die das und ist ein eine von zu mit den für sich nicht les des une dans est pour el los las por "
    "con una "
)
_STOP = frozenset(_STOP_WORDS.split())
_YEAR = re.compile(r"\b(?:1[89]|20)\d\d[a-z]?\b")
_INITIAL = re.compile(r"\b[A-Z]\.|\b[A-Z]{1,2}[,;]")
_RANGE = re.compile(r"\d+\s?[-–]\s?\d+|\b\d+\(\d+\)|\d+\s?:\s?e?\d+")
_RELATION = re.compile(r"[=<>≤≥≈≡∈⊂⊆∀∃→⇒⇔↔↦∑∏∫√∂≠∝≅⟨±×÷∪∩∧∨]")
_EQUATION_NUMBER = re.compile(r"\(\d{1,3}[a-z]?\)$")
_MATH_FONT = re.compile(r"cm(?:mi|sy|ex|r\d)|msam|msbm|math|symbol|euclid|mtmi|mtsy|stix", re.I)
_INSTITUTION = re.compile(
    r"universit|institut|department|college|hospital|laborator|school|facult|cent(?:er|re)\b", re.I
)
_EMAIL = re.compile(r"\S@\S+\.\w")
_DOI = re.compile(r"\bdoi\b|10\.\d{4,9}/|https?:|www\.", re.I)
_REFERENCE_WORDS = re.compile(
    r"\bet al\b|\bpp?\.\s?\d|\bvol\.|\beds?\.\)|\bJ\. |\bJournal\b|\bProc\.|\bInt\.|\bPress\b"
)

Features = NDArray[np.float32]


def features(found: Sequence[Region], pages: Sequence[Page], style: Style) -> Features:
    """One row a region, in reading order; furniture is no region. Text and the kinds by rules must be set."""
    if not found:
        return np.zeros((0, len(NAMES)), np.float32)
    own = np.array([[*_own(region, style), *_rule(region)] for region in found], np.float32)
    around = np.array(_around(found, pages, style), np.float32)
    return np.hstack([own, around, _context(own, found), _looks(found, own)]).astype(np.float32)


_OF_REGION = (
    "size bold italic capitals body_font body_size mono math lines characters width fill last_short indent "
    "lead number subnumber caption caption_mark references known abstract introduction keywords boilerplate "
    "licence back_matter list_mark reference_mark sentence starts_upper starts_lower letters digits "
    "capitalised stop years initials ranges relations equation_number institution email doi reference_words "
    "commas split prose coloured lone "
)
_OWN = _OF_REGION.split()
_RULES = (*CLASSES[:-1], "list", "code")
_OWN += [f"rule_{kind}" for kind in _RULES]


def _rule(region: Region) -> list[float]:
    """What the rules make of the region."""
    return [float(region.kind == kind) for kind in _RULES]


def _own(region: Region, style: Style) -> list[float]:
    """Of the region alone."""
    text, lines = region.text, region.lines
    head, length = text[:400], max(1, len(text))
    n_head = max(1, len(head))
    words = _WORD.findall(head)
    n_words = max(1, len(words))
    column = max(1.0, region.right - region.left)
    last = lines[-1]
    caption = typography.CAPTION.match(region.first_text)
    size = region.size
    per = 100.0 / n_head
    return [
        size / max(1.0, style.size),
        region.bold,
        region.italic,
        text.isupper(),
        lines[0].font in style.fonts,
        style.is_body_size(size),
        typography.MONOSPACED.search(lines[0].font) is not None,
        sum(1 for line in lines if _MATH_FONT.search(line.font)) / len(lines),
        min(20, len(lines)),
        math.log(length),
        (region.x1 - region.x0) / column,
        column / max(1.0, style.width or column),
        (region.right - last.x1) / column,
        (region.x0 - region.left) / max(1.0, size),
        lines[0].lead / max(1, len(lines[0].text)),
        re.match(r"(?:\d{1,2}|[IVX]{1,4}|[A-Z])[.)]?\s+[^\W\d_]", text) is not None,
        SECTION_NUMBER.match(text) is not None,
        caption is not None,
        bool(caption and (caption.group("after").strip() or lines[0].bold_start or lines[0].lead)),
        typography.REFERENCES.fullmatch(text) is not None,
        typography.KNOWN_HEADINGS.fullmatch(text) is not None,
        typography.ABSTRACT.fullmatch(text) is not None,
        typography.INTRODUCTION.fullmatch(text) is not None,
        typography.KEYWORDS.match(text) is not None,
        typography.BOILERPLATE.search(head) is not None,
        typography.LICENCE.search(head) is not None,
        typography.RUN_IN_BACK_MATTER.match(text) is not None,
        LIST_MARK.match(text) is not None,
        REFERENCE_MARK.match(text) is not None,
        SENTENCE_END.search(text) is not None,
        text[:1].isupper(),
        text[:1].islower(),
        sum(map(str.isalpha, head)) / n_head,
        sum(map(str.isdigit, head)) / n_head,
        sum(1 for word in words if word[0].isupper()) / n_words,
        sum(1 for word in words if word in _STOP) / n_words,
        len(_YEAR.findall(head)) * per,
        len(_INITIAL.findall(head)) * per,
        len(_RANGE.findall(head)) * per,
        len(_RELATION.findall(head)) * per,
        _EQUATION_NUMBER.search(text) is not None,
        _INSTITUTION.search(head) is not None,
        _EMAIL.search(head) is not None,
        _DOI.search(head) is not None,
        len(_REFERENCE_WORDS.findall(head)) * per,
        (head.count(",") + head.count(";")) * per,
        region.n_rows_split / len(lines),
        typography.is_prose(region),
        lines[0].color != 0,
        _is_lone(region),
    ]


def _is_lone(region: Region) -> bool:
    """Whether a region is one short line that begins and ends like a heading."""
    text = region.text
    first = next((character for character in text if character.isalpha()), "")
    return (
        len(region.lines) == 1
        and 3 < len(text) < 120
        and first.isupper()
        and text[-1] not in ".,;:?!"
        and region.x1 < region.right - 0.12 * (region.right - region.left)
        and sum(map(str.isalpha, text)) > 0.6 * len(text)
    )


_OF_PLACE = (
    "page first_page last_pages top bottom gap_above gap_below above_size below_size below_prose above_prose "
    "below_font caption_above caption_below after_references since_caption table_caption drawn ruled place "
)
_AROUND = _OF_PLACE.split()


def _around(found: Sequence[Region], pages: Sequence[Page], style: Style) -> list[list[float]]:
    """Of the region's place among the others."""
    by_number = {page.number: page for page in pages}
    n_pages = max(by_number, default=1)
    prose = [typography.is_prose(region) for region in found]
    is_caption = [typography.CAPTION.match(region.first_text) is not None for region in found]
    rows: list[list[float]] = []
    after_references = False
    caption: Region | None = None
    for i, region in enumerate(found):
        page = by_number[region.page]
        above = found[i - 1] if i and found[i - 1].page == region.page else None
        below = found[i + 1] if i + 1 < len(found) and found[i + 1].page == region.page else None
        size = max(1.0, region.size)
        if caption is not None and caption.page != region.page:
            caption = None
        rows.append(
            [
                region.page / n_pages,
                region.page == found[0].page,
                n_pages - region.page,
                region.y0 / page.height,
                region.y1 / page.height,
                _gap(region.y0 - above.y1, size) if above else 9.0,
                _gap(below.y0 - region.y1, size) if below else 9.0,
                above.size / size if above else 0.0,
                below.size / size if below else 0.0,
                bool(below and prose[i + 1]),
                bool(above and prose[i - 1]),
                bool(below and below.lines[0].font in style.fonts),
                bool(above and is_caption[i - 1]),
                bool(below and is_caption[i + 1]),
                after_references,
                min(9.0, abs(region.y0 - caption.y1) / page.height) if caption else 9.0,
                bool(caption and typography.is_table_caption(caption)),
                _share_drawn(region, page),
                _ruled(region, page),
                i / len(found),
            ]
        )
        after_references = after_references or typography.REFERENCES.fullmatch(region.text) is not None
        if is_caption[i]:
            caption = region
    return rows


def _gap(distance: float, size: float) -> float:
    return max(-3.0, min(9.0, distance / size))


def _share_drawn(region: Region, page: Page) -> float:
    """The largest share of the region that one picture or shape covers."""
    x0, y0, x1, y1 = page.page_bbox(region.x0, region.y0, region.x1, region.y1)
    area = max(1.0, (x1 - x0) * (y1 - y0))
    best = 0.0
    for a0, b0, a1, b1 in (*page.graphics.images, *page.graphics.shapes[:200]):
        if a0 < x1 and a1 > x0 and b0 < y1 and b1 > y0 and (a1 - a0) * (b1 - b0) < 0.7 * page.width * page.height:
            best = max(best, (min(a1, x1) - max(a0, x0)) * (min(b1, y1) - max(b0, y0)) / area)
    return min(1.0, best)


def _ruled(region: Region, page: Page) -> float:
    """Whether a ruling line lies close above (1) or below (2) the region, or both (3)."""
    x0, y0, x1, y1 = page.page_bbox(region.x0, region.y0, region.x1, region.y1)
    reach = region.size
    above = below = False
    for a0, b0, a1, b1 in page.graphics.rules[:400]:
        if a1 - a0 > 30 and a0 < x1 and a1 > x0:
            above = above or y0 - reach < b1 < y0 + 2
            below = below or y1 - 2 < b0 < y1 + reach
    return float(above + 2 * below)


_CONTEXT_OF = (
    *("years", "initials", "reference_mark", "reference_words", "size", "prose", "relations", "digits"),
    *("rule_reference", "rule_paragraph", "rule_figure", "rule_heading", "rule_caption", "rule_footnote"),
)
_REACH = 3


def _context(own: Features, found: Sequence[Region]) -> Features:
    """Means of some features over the regions around each."""
    chosen = own[:, [_OWN.index(name) for name in _CONTEXT_OF]]
    total = np.vstack([np.zeros((1, chosen.shape[1]), np.float32), np.cumsum(chosen, axis=0)])
    n = len(found)
    start = np.maximum(0, np.arange(n) - _REACH)
    stop = np.minimum(n, np.arange(n) + _REACH + 1)
    return np.asarray((total[stop] - total[start]) / (stop - start)[:, None], np.float32)


_LOOKS = ("look_count", "look_short", "look_heads", "look_share", "look_lone")


def _looks(found: Sequence[Region], own: Features) -> Features:
    """Of all regions of the document that are set alike: how many, how short, how often running text follows."""
    looks = [
        (round(region.size * 2) / 2, region.bold, region.italic, region.lines[0].font, region.lines[0].color)
        for region in found
    ]
    prose, lone = own[:, _OWN.index("prose")], own[:, _OWN.index("lone")]
    members: dict[tuple[float, bool, bool, str, int], list[int]] = defaultdict(list)
    for i, look in enumerate(looks):
        members[look].append(i)
    characters: Counter[tuple[float, bool, bool, str, int]] = Counter()
    for look, region in zip(looks, found, strict=True):
        characters[look] += len(region.text)
    total = max(1, sum(characters.values()))
    result = np.zeros((len(found), len(_LOOKS)), np.float32)
    for look, indices in members.items():
        heads = sum(1 for i in indices if not prose[i] and i + 1 < len(found) and prose[i + 1])
        short = sum(1 for i in indices if len(found[i].lines) <= 2)
        result[indices] = (
            math.log(len(indices)),
            short / len(indices),
            heads / len(indices),
            characters[look] / total,
            math.log1p(sum(1 for i in indices if lone[i] and i + 1 < len(found) and prose[i + 1])),
        )
    return result


NAMES = (*_OWN, *_AROUND, *(f"around_{name}" for name in _CONTEXT_OF), *_LOOKS)
"""Names of the features, in their order."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trees:
    """An ensemble of trees, laid out flat. A node's children follow one another; a leaf's child is itself."""

    feature: NDArray[np.int16]
    threshold: NDArray[np.float32]
    child: NDArray[np.int32]
    value: NDArray[np.float32]
    roots: NDArray[np.int32]
    """First node of each tree; tree i votes for class i % len(CLASSES)."""
    depth: int

    def probabilities(self, rows: Features) -> Features:
        """(n, classes) from (n, features)."""
        n = len(rows)
        node = np.broadcast_to(self.roots, (n, len(self.roots))).copy()
        row = np.arange(n)[:, None]
        for _ in range(self.depth):
            right = rows[row, self.feature[node]] > self.threshold[node]
            node = self.child[node] + right
        votes = self.value[node].reshape(n, len(self.roots) // len(CLASSES), len(CLASSES)).sum(axis=1)
        votes = np.exp(votes - votes.max(axis=1, keepdims=True))
        return np.asarray(votes / votes.sum(axis=1, keepdims=True), np.float32)


@functools.lru_cache(maxsize=1)
def trained() -> Trees:
    """The trees shipped with the package."""
    with resources.as_file(resources.files("hiperrag.parsing") / "blocks.npz") as path, np.load(path) as stored:
        return Trees(
            stored["feature"],
            stored["threshold"],
            stored["child"],
            stored["value"],
            stored["roots"],
            int(stored["depth"]),
        )


DECIDED: tuple[BlockKind, ...] = ("heading", "paragraph", "caption", "equation", "footnote", "reference")
"""Kinds that the trees may give a region; the others are for rules and for the layout model."""
SURE = 0.8
"""Probability from which the trees overrule a table, figure or list of the rules."""


def settle(
    found: Sequence[Region],
    pages: Sequence[Page],
    probabilities: Features,
    detections: Mapping[int, Sequence[Detection]],
) -> None:
    """Kind and confidence of the regions that the rules have classified, from the trees' probabilities, weighed on
    pages with detections by what the layout model sees."""
    by_number = {page.number: page for page in pages}
    columns = [CLASSES.index(kind) for kind in DECIDED]
    for region, row in zip(found, probabilities, strict=True):
        rule: BlockKind = "paragraph" if region.kind in ("list", "code") else region.kind
        if region.known or rule == "header" or _is_certain(region):
            continue
        if rule in ("title", "authors", "abstract"):
            region.confidence = float(row[CLASSES.index(rule)])
            continue
        if seen := detections.get(region.page):
            page = by_number[region.page]
            factors = evidence.weights(page.page_bbox(region.x0, region.y0, region.x1, region.y1), seen)
            row = row * np.array([factors[kind] for kind in CLASSES])
        decided = row[columns] / max(1e-6, float(row[columns].sum()))
        scores: dict[BlockKind, float] = dict(zip(DECIDED, decided.tolist(), strict=True))
        best = max(scores, key=lambda kind: scores[kind])
        loose = best == "paragraph" and not typography.is_prose(region)
        if rule not in DECIDED and (scores[best] < SURE or loose):
            region.confidence = 0.5 if loose else 1 - scores[best]
        elif best != rule and (region.kind == rule or scores[best] > SURE):
            region.kind, region.confidence = best, scores[best]
        else:
            region.confidence = scores.get(rule, scores[best])


def _is_certain(region: Region) -> bool:
    """Whether the words of a heading, of a caption or of a publisher's note leave no doubt."""
    text = region.text
    if region.kind == "caption":
        label = typography.CAPTION.match(region.first_text)
        return bool(label and label.group("after").strip())
    if region.kind == "footnote":
        return bool(typography.BOILERPLATE.search(text[:200]) or typography.KEYWORDS.match(text))
    return region.kind == "heading" and any(
        pattern.fullmatch(text)
        for pattern in (typography.KNOWN_HEADINGS, typography.ABSTRACT, typography.INTRODUCTION, typography.REFERENCES)
    )


def coarse(kind: BlockKind) -> BlockKind:
    """A kind as one of the classes."""
    if kind in ("list", "code"):
        return "paragraph"
    return "header" if kind in ("footer", "page_number") else kind
