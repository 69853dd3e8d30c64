"""Captions: where they start among a page's lines, and which figure or table each belongs to."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from hiperrag.parsing import matching, typography
from hiperrag.parsing.lines import Line, Page
from hiperrag.parsing.regions import SENTENCE_END
from hiperrag.parsing.typography import Style
from hiperrag.records import BBox, Block

MIN_DRAWING = 40.0
"""Width and height in points from which a block of kind figure is more than a stray label."""
MIN_EMPTY = 50.0
"""Height in points of an empty area that may hold a figure whose drawing was not found."""
MAX_COST = 400.0
MAX_TAIL_GAP = 8.0
"""Points between the parts of a caption."""

_FURNITURE = ("header", "footer", "page_number")
_TARGETS = ("figure", "table", "code")


@dataclasses.dataclass(slots=True)
class Label:
    """The lines of a caption on a page. `kind` is "figure", "table" or "code"; `number` as printed, in capitals."""

    kind: str
    number: str
    lines: list[Line]

    @property
    def box(self) -> BBox:
        return (
            min(line.x0 for line in self.lines),
            min(line.y0 for line in self.lines),
            max(line.x1 for line in self.lines),
            max(line.y1 for line in self.lines),
        )


def parse(text: str) -> tuple[str, str] | None:
    """Kind of thing and number that a caption's text starts with; None if it starts with no label."""
    match = typography.CAPTION.match(text)
    if not match:
        return None
    label = match.group("label").lower()
    kind = "table" if label.startswith("tab") else "code" if label in ("listing", "algorithm", "box") else "figure"
    prefix = text[: match.start("label")].strip().lower()
    return kind, f"{prefix} {match.group('number').upper()}".strip()


def labels(lines: Sequence[Line], style: Style, leading: float) -> list[Label]:
    """Captions among the lines of a page, each with the lines it goes on in, top to bottom."""
    ordered = sorted(lines, key=lambda line: line.baseline)
    found: list[Label] = []
    for index, line in enumerate(ordered):
        described = parse(line.text)
        if described and _starts_caption(line, ordered[:index], style, leading):
            found.append(Label(*described, [line]))
    starts = {id(label.lines[0]) for label in found}
    for label in found:
        for line in ordered:
            last = label.lines[-1]
            pitch = line.baseline - last.baseline
            if pitch <= 0.3 * last.size or id(line) in starts:
                continue
            if pitch > 1.25 * leading * last.size + 1:
                break
            first = label.lines[0]
            beside = line.x0 > max(one.x1 for one in label.lines) or line.x1 < first.x0
            if not beside and abs(line.size - first.size) < 0.35 and line.x0 > first.x0 - 3 * line.size:
                label.lines.append(line)
    return found


def _starts_caption(line: Line, before: Sequence[Line], style: Style, leading: float) -> bool:
    match = typography.CAPTION.match(line.text)
    if match is None or line.text[:1].islower() or line.kind:
        return False
    rest = line.text[match.end() :].lstrip()
    marked = bool(match.group("after").strip()) or not rest or line.bold_start
    small = not style.is_body_size(line.size) and line.size < style.size
    if not marked and not small and not (rest[:1].isupper() and line.font not in style.fonts):
        return False
    if line.bold_start:
        return True
    # A sentence of running text may start a line with "Figure 2." or "Table 1)".
    for other in reversed(before):
        pitch = line.baseline - other.baseline
        if pitch > 1.3 * leading * line.size:
            break
        alike = abs(other.size - line.size) < 0.2 and other.font == line.font
        if pitch > 0.5 * line.size and alike and other.x0 < line.x1 and other.x1 > line.x0 + line.size:
            return bool(SENTENCE_END.search(other.text)) and not style.is_body_size(line.size)
    return True


def tie(blocks: Sequence[Block], pages: Sequence[Page]) -> list[Block]:
    """The blocks with `about` of every caption set to the index of its figure, table or code in the returned list.

    Stray labels are joined to the figure they stand in, and where a figure's caption has no drawing beside it, a
    figure block for the empty area above or below is put in front of it.
    """
    found = _with_tails(_without_labels(blocks))
    for block in found:
        if block.kind == "caption":
            block.about = -1
    pairs = _pairs(found)
    sizes = {page.number: page for page in pages}
    added: dict[int, list[Block]] = defaultdict(list)
    ties: dict[int, Block] = {}
    for index, block in enumerate(found):
        if block.kind != "caption":
            continue
        target = pairs.get(index)
        described = parse(block.text)
        if target is None and described and described[0] == "figure" and block.page in sizes:
            empty = _empty_area(block, found, sizes[block.page])
            if empty is not None:
                added[index].append(empty)
                ties[id(block)] = empty
        elif target is not None:
            ties[id(block)] = found[target]
    whole = [one for index, block in enumerate(found) for one in (*added[index], block)]
    places = {id(block): index for index, block in enumerate(whole)}
    for block in whole:
        if id(block) in ties:
            block.about = places[id(ties[id(block)])]
    previous: Block | None = None
    for block in whole:  # the second part of a caption is about the same
        if block.kind == "caption":
            if block.continues and previous is not None and block.about < 0:
                block.about = previous.about
            previous = block
    return whole


def _is_drawing(block: Block) -> bool:
    x0, y0, x1, y1 = block.bbox
    return block.kind == "figure" and min(x1 - x0, y1 - y0) >= MIN_DRAWING


def _without_labels(blocks: Sequence[Block]) -> list[Block]:
    """Blocks with stray figure text that lies in a drawing, or close to it, joined to that drawing's block."""
    drawings: dict[int, list[Block]] = defaultdict(list)
    for block in blocks:
        if _is_drawing(block):
            drawings[block.page].append(block)
    found: list[Block] = []
    for block in blocks:
        owner = None
        if block.kind == "figure" and block.text and drawings[block.page] and block not in drawings[block.page]:
            x, y = (block.bbox[0] + block.bbox[2]) / 2, (block.bbox[1] + block.bbox[3]) / 2
            owner = next((d for d in drawings[block.page] if _contains(d.bbox, x, y, 8.0)), None)
        if owner is None:
            found.append(block)
        else:
            owner.text = f"{owner.text}\n{block.text}".strip()
            owner.bbox = (
                min(owner.bbox[0], block.bbox[0]),
                min(owner.bbox[1], block.bbox[1]),
                max(owner.bbox[2], block.bbox[2]),
                max(owner.bbox[3], block.bbox[3]),
            )
    return found


def _with_tails(blocks: Sequence[Block]) -> list[Block]:
    """Blocks with sentences under a caption that pass for labels, or for a caption without one, joined to it."""
    found: list[Block] = []
    for block in blocks:
        caption = next((one for one in reversed(found) if one.page == block.page and one.kind == "caption"), None)
        if caption is not None and _ends_caption(block, caption):
            caption.text = f"{caption.text} {block.text}"
            caption.bbox = (
                min(caption.bbox[0], block.bbox[0]),
                caption.bbox[1],
                max(caption.bbox[2], block.bbox[2]),
                max(caption.bbox[3], block.bbox[3]),
            )
        else:
            found.append(block)
    return found


def _ends_caption(block: Block, caption: Block) -> bool:
    x0, y0, x1, _ = block.bbox
    left, _, right, bottom = caption.bbox
    letters = sum(map(str.isalpha, block.text))
    return (
        (block.kind == "figure" or (block.kind == "caption" and not block.continues and parse(block.text) is None))
        and -2 < y0 - bottom < MAX_TAIL_GAP
        and min(x1, right) - max(x0, left) > 0.8 * min(x1 - x0, right - left)
        and len(block.text) > 20
        and letters > 0.6 * len(block.text)
        and "\n" not in block.text
    )


def _contains(box: BBox, x: float, y: float, margin: float) -> bool:
    return box[0] - margin <= x <= box[2] + margin and box[1] - margin <= y <= box[3] + margin


def _pairs(blocks: Sequence[Block]) -> dict[int, int]:
    """Index of a caption -> index of its figure, table or code: the cheapest assignment of the whole document."""
    texts = [i for i, block in enumerate(blocks) if block.kind == "caption" and not block.continues]
    targets = [i for i, block in enumerate(blocks) if block.kind in _TARGETS]
    by_page: dict[int, list[int]] = defaultdict(list)
    for target in targets:
        by_page[blocks[target].page].append(target)
    best: dict[int, int] = {}
    below: dict[str, float] = {"figure": 0.0, "table": 0.0, "code": 0.0}
    for _ in range(2):  # the second time knowing on which side this document sets its captions
        edges = {
            (caption, target): cost
            for caption in texts
            for page in (blocks[caption].page - 1, blocks[caption].page, blocks[caption].page + 1)
            for target in by_page[page]
            if (cost := _cost(blocks, caption, target, below)) < MAX_COST
        }
        best = matching.cheapest(edges)
        votes: dict[str, list[int]] = defaultdict(list)
        for caption, target in best.items():
            if blocks[caption].page == blocks[target].page:
                kind = (parse(blocks[caption].text) or ("figure", ""))[0]
                votes[kind].append(1 if blocks[caption].bbox[1] > blocks[target].bbox[1] else -1)
        below = {kind: sum(votes[kind]) / len(votes[kind]) if votes[kind] else 0.0 for kind in below}
    return best


def _cost(blocks: Sequence[Block], caption: int, target: int, below: dict[str, float]) -> float:
    """How ill a caption fits a figure or table: points between them, with what speaks against the pair added."""
    text, thing = blocks[caption], blocks[target]
    described = parse(text.text)
    kind = described[0] if described else "figure"
    cost = 0.0 if described else 100.0
    if thing.kind != kind:
        cost += 150.0
    if thing.kind == "figure" and not _is_drawing(thing):
        cost += 60.0
    if thing.page != text.page:
        return cost + 250.0 if not _has_own(blocks, thing, kind) else MAX_COST
    a, b = text.bbox, thing.bbox
    down = max(b[1] - a[3], a[1] - b[3])
    across = max(b[0] - a[2], a[0] - b[2])
    under = a[1] + a[3] > b[1] + b[3]  # the caption is under it
    usual = below.get(kind, 0.0) or (-1.0 if kind == "table" else 1.0)
    if across < 0:
        cost += max(0.0, down) + (0.0 if under == (usual > 0) else 40.0 * abs(usual))
        cost += _between(blocks, caption, target, a, b) * 80.0
    elif down < 0:
        cost += across + 20.0
    else:
        cost += down + across + 60.0
    return cost


def _has_own(blocks: Sequence[Block], thing: Block, kind: str) -> bool:
    """Whether a page has captions of this kind itself."""
    return any(b.kind == "caption" and b.page == thing.page and (parse(b.text) or ("", ""))[0] == kind for b in blocks)


def _between(blocks: Sequence[Block], caption: int, target: int, a: BBox, b: BBox) -> int:
    """Blocks of text that stand between the two."""
    top, bottom = min(a[3], b[3]), max(a[1], b[1])
    left, right = max(a[0], b[0]), min(a[2], b[2])
    return sum(
        1
        for index, block in enumerate(blocks)
        if block.page == blocks[caption].page
        and index not in (caption, target)
        and block.kind not in (*_FURNITURE, "figure", "footnote")
        and top <= (block.bbox[1] + block.bbox[3]) / 2 <= bottom
        and block.bbox[0] < right
        and block.bbox[2] > left
    )


def _empty_area(caption: Block, blocks: Sequence[Block], page: Page) -> Block | None:
    """A figure block for the larger of the empty areas over and under a caption, if it is high enough."""
    x0, y0, x1, y1 = caption.bbox
    others = [
        b.bbox for b in blocks if b.page == caption.page and b is not caption and b.bbox[0] < x1 and b.bbox[2] > x0
    ]
    height = page.width if page.turn % 2 else page.height
    top = max((b[3] for b in others if b[3] <= y0 + 1), default=0.06 * height)
    bottom = min((b[1] for b in others if b[1] >= y1 - 1), default=0.94 * height)
    over, under = y0 - top, bottom - y1
    if over >= MIN_EMPTY:
        return Block(caption.page, "figure", (x0, top + 2, x1, y0 - 2), "")
    if under >= MIN_EMPTY:
        return Block(caption.page, "figure", (x0, y1 + 2, x1, bottom - 2), "")
    return None
