"""A parsed Document against the truth: headings, purity of the body, captions, tables, metadata."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

from hiperrag.benchmarks.parsing import cells
from hiperrag.benchmarks.parsing.cells import TableScore
from hiperrag.benchmarks.parsing.printed import Printed, PrintedLine
from hiperrag.benchmarks.parsing.texts import f1, heading_key, key, label_of, words
from hiperrag.benchmarks.parsing.truth import Float, Truth
from hiperrag.errors import UserError
from hiperrag.records import BBox, Block, Document

SAME_HEADING = 0.9
"""Similarity of two headings' letters from which they are the same."""
BODY_KINDS = frozenset({"title", "abstract", "heading", "paragraph", "list", "equation", "code", "authors"})
NEAR = 0.12
"""Share of the page's height that may lie between a caption and its figure."""
SAME_TABLE = 0.3
"""Share of the smaller table's cells from which two tables without a common number are the same."""
MAX_BODY_LINES = 3
"""Lines of the body that a figure's box may hold: words in a drawing may be the body's, too."""
_OUTSIDE = frozenset(
    map(key, ["abstract", "keywords", "references", "article history", "article info", "summary", "bibliography"])
)


@dataclasses.dataclass(slots=True)
class HeadingScore:
    """Counts. `wanted` are printed headings of the truth; `absent` those whose text is on no page."""

    wanted: int
    found: int
    right_path: int
    given: int
    unknown: int
    """Headings of the parser that are no title anywhere in the source."""
    absent: int
    missed: list[str] = dataclasses.field(default_factory=list)
    wrong_paths: list[str] = dataclasses.field(default_factory=list)
    extra: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class PurityScore:
    """Of lines that do not belong to the body, by label: how many there are, and which stand in a block of the body.

    `body` and `lost` count the body's lines, and those of them that stand in no block of a body kind."""

    lines: dict[str, int]
    leaked: list[PrintedLine]
    body: int
    lost: list[PrintedLine]


@dataclasses.dataclass(slots=True)
class CaptionScore:
    """Counts of printed captions: in a caption block, tied to a block of the right kind at the right place."""

    wanted: int
    found: int
    tied: int
    absent: int
    missed: list[str] = dataclasses.field(default_factory=list)
    untied: list[str] = dataclasses.field(default_factory=list)
    figures: int = 0
    figures_tied: int = 0


@dataclasses.dataclass(slots=True)
class FrontScore:
    """Metadata. None where the truth does not say."""

    title: float | None
    title_exact: bool | None
    authors: float | None
    abstract: float | None
    year: bool | None
    doi: bool | None
    references_ratio: float | None
    references_found: float | None
    """Share of the truth's references that have a block of their own."""


def similarity(a: str, b: str) -> float:
    """1 - normalised Levenshtein distance of two texts' letters and digits."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise UserError("rapidfuzz is missing; install the benchmark extra: pip install 'hiperrag[bench]'") from None
    return 1.0 - float(Levenshtein.normalized_distance(key(a), key(b)))


# Headings


def heading_paths(blocks: Sequence[Block]) -> list[tuple[str, ...]]:
    """Path of every heading of a document, outermost first, in reading order."""
    above: list[Block] = []
    paths = []
    for block in blocks:
        if block.kind == "heading":
            level = max(1, block.level)
            above = [*(h for h in above if max(1, h.level) < level), block]
            paths.append(tuple(h.text for h in above))
    return paths


def score_headings(paths: Sequence[tuple[str, ...]], truth: Truth, printed: Printed) -> HeadingScore:
    """Headings of a parser against the truth's. A path is right if every printed ancestor is there, and no other."""
    pages = key(printed.text)
    wanted = [heading for heading in truth.headings if _is_printed(heading.text, pages)]
    absent = {heading_key(h.text) for h in truth.headings if not _is_printed(h.text, pages)}
    score = HeadingScore(len(wanted), 0, 0, len(paths), 0, len(truth.headings) - len(wanted))
    found = [tuple(map(heading_key, path)) for path in paths]
    free = list(range(len(found)))
    for heading in wanted:
        target = tuple(part for part in map(heading_key, heading.path) if part not in absent)
        same = [i for i in free if _same(found[i][-1], target[-1])]
        if not same:
            score.missed.append(heading.text)
            continue
        right = [i for i in same if len(found[i]) == len(target) and all(map(_same, found[i], target))]
        chosen = (right or same)[0]
        free.remove(chosen)
        score.found += 1
        score.right_path += bool(right)
        if not right:
            score.wrong_paths.append(f"{' > '.join(heading.path)}  ≠  {' > '.join(paths[chosen])}")
    known = truth.other_titles | _OUTSIDE
    score.extra = [paths[i][-1] for i in free if not any(_same(found[i][-1], title) for title in known)]
    score.unknown = len(score.extra)
    return score


def _is_printed(heading: str, pages: str) -> bool:
    return heading_key(heading) in pages


def _same(a: str, b: str) -> bool:
    if a == b:
        return True
    shorter, longer = sorted((len(a), len(b)))
    return shorter >= 5 and shorter >= SAME_HEADING * longer and similarity(a, b) >= SAME_HEADING


# Purity of the body


def score_purity(blocks: Sequence[Block], printed: Printed) -> PurityScore:
    """Which labelled lines stand in a block of a body kind: the block's box holds the line, its text the line's.

    A line of the body counts as kept wherever on its page it is in a body block's text.
    """
    bodies: dict[int, list[tuple[BBox, str]]] = {}
    for block in blocks:
        if block.kind in BODY_KINDS:
            bodies.setdefault(block.page, []).append((block.bbox, key(block.text)))
    labelled = [line for line in printed.lines if line.label not in ("", "body") and key(line.text)]
    body = [line for line in printed.lines if line.label == "body"]
    leaked = [
        line
        for line in labelled
        if any(_holds(box, line.centre) and key(line.text) in text for box, text in bodies.get(line.page, ()))
    ]
    whole = {page: "".join(text for _, text in blocks) for page, blocks in bodies.items()}
    lost = [line for line in body if key(line.text) not in whole.get(line.page, "")]
    return PurityScore(dict(Counter(line.label for line in labelled)), leaked, len(body), lost)


def _holds(box: BBox, point: tuple[float, float], slack: float = 1.0) -> bool:
    return box[0] - slack <= point[0] <= box[2] + slack and box[1] - slack <= point[1] <= box[3] + slack


# Captions


def score_captions(document: Document, truth: Truth, printed: Printed) -> CaptionScore:
    """Captions of the truth that are caption blocks, and those whose `about` is the right table or figure."""
    pages = key(printed.text)
    # A caption without a label is told from a heading by its length.
    wanted = [f for f in truth.floats if len(key(f.caption)) >= 8 and (f.label or len(words(f.caption)) > 3)]
    there = [f for f in wanted if key(f.caption)[:30] in pages]
    score = CaptionScore(len(there), 0, 0, len(wanted) - len(there))
    matches = match_captions(document.blocks, there)
    claimed = Counter(
        block.about for block in document.blocks if block.kind == "caption" and not block.continues and block.about >= 0
    )
    for index, item in enumerate(there):
        score.figures += item.kind == "figure"
        if index not in matches:
            score.missed.append(item.text[:70])
            continue
        score.found += 1
        reason = untied(document, matches[index], item, truth, printed, claimed)
        score.tied += not reason
        score.figures_tied += item.kind == "figure" and not reason
        if reason:
            score.untied.append(f"{reason}: {item.text[:60]}")
    return score


def match_captions(blocks: Sequence[Block], floats: Sequence[Float]) -> dict[int, int]:
    """Index of a float -> index of the caption block that has most of its text and little else, one to one."""
    pairs = []
    for i, block in enumerate(blocks):
        if block.kind != "caption":
            continue
        for j, item in enumerate(floats):
            share = caption_share(block.text, item)
            if share >= 0.5:
                pairs.append((share, -i, j))
    matches: dict[int, int] = {}
    for _, i, j in sorted(pairs, reverse=True):
        if j not in matches and -i not in matches.values():
            matches[j] = -i
    return matches


def caption_share(text: str, item: Float) -> float:
    """How much of a caption a text has: similarity once it is cut where the caption ends; 0 for another label."""
    ours, theirs = label_of(text), label_of(item.text)
    if ours != theirs and all(ours) and all(theirs):
        return 0.0
    mine, whole, bare = key(text), key(item.text), key(item.caption)
    best = max(similarity(mine[: len(t) + 5], t) for t in (whole, bare))
    # Sources often leave the notes out that the printed caption has, and the other way round.
    if all(ours) and ours == theirs and (mine[:40] == whole[: len(mine[:40])] or whole.startswith(mine)):
        best = max(best, 0.8)
    return best if len(mine) <= 3 * max(len(whole), 60) else 0.0


def untied(document: Document, caption: int, item: Float, truth: Truth, printed: Printed, claimed: Counter[int]) -> str:
    """Why the caption block is not tied to its float; empty if it is.

    A table with rows in the truth: the block must be a table whose cells are those of this table rather than of
    another. A figure, and a table that the truth has as a picture: a block of that kind on the same page, claimed by no
    other caption, near this one, with something drawn in it (or a table's text) and without the body's lines.
    """
    blocks = document.blocks
    block = blocks[caption]
    if not 0 <= block.about < len(blocks):
        return "tied to nothing"
    partner = blocks[block.about]
    if item.kind == "table" and item.rows:
        return _wrong_table(partner, item, truth)
    if partner.kind not in _partners(item):
        return f"tied to a {partner.kind}"
    if partner.page != block.page:
        return "tied to another page"
    if claimed[block.about] > 1:
        return "claimed twice"
    height = printed.sizes[block.page][1]
    if _apart(block.bbox, partner.bbox) > NEAR * height:
        return "far away"
    inside = [line for line in printed.lines if line.page == partner.page and _holds(partner.bbox, line.centre)]
    if sum(line.label in ("body", "reference") for line in inside) >= MAX_BODY_LINES:
        return "tied to running text"
    if not partner.text and not any(_apart(partner.bbox, drawn) == 0 for drawn in printed.drawn.get(block.page, ())):
        return "tied to nothing drawn"
    return ""


def _partners(item: Float) -> tuple[str, ...]:
    """Kinds of block that a float without rows may be."""
    if item.kind == "table":
        return "table", "figure"
    is_code = item.label.lower().startswith(("algorithm", "listing", "box"))
    return ("figure", "code") if is_code else ("figure",)


def _wrong_table(partner: Block, item: Float, truth: Truth) -> str:
    if partner.kind != "table":
        return f"tied to a {partner.kind}"
    text = Counter(words(partner.text))
    shares = {id(table): _share(_table_words(table), text) for table in truth.floats if table.rows}
    if shares[id(item)] < 0.3 and shares[id(item)] < max(shares.values()):
        return "tied to another table"
    # A table may go on over pages: the caption's block then has only the first part, but nothing else.
    reverse = _share(text, _table_words(item))
    return "" if max(shares[id(item)], reverse) >= 0.5 else "tied to other text"


def _table_words(table: Float) -> Counter[str]:
    return Counter(word for row in table.rows for cell in row for word in words(cell.text))


def _share(part: Counter[str], whole: Counter[str]) -> float:
    return (part & whole).total() / part.total() if part else 0.0


def _apart(a: BBox, b: BBox) -> float:
    """Distance of two boxes in points, the larger of the horizontal and the vertical one."""
    return max(0.0, b[0] - a[2], a[0] - b[2], b[1] - a[3], a[1] - b[3])


# Tables


def score_tables(document: Document, truth: Truth) -> list[tuple[Float, TableScore]]:
    """Each table of the truth that has rows, against the blocks found for it."""
    parts = table_parts(document, [item for item in truth.floats if item.rows])
    return [(item, cells.compare(cells.merge([block_rows(b) for b in blocks]), item.rows)) for item, blocks in parts]


def block_rows(block: Block) -> cells.Rows:
    """Rows of a table block: of its cells, or of its text where it has none."""
    return cells.merge(cells.html_tables(block.html)) if block.html else cells.text_rows(block.text)


def table_parts(document: Document, tables: Sequence[Float]) -> list[tuple[Float, list[Block]]]:
    """Blocks of each table: those whose caption has its number, then those with most of its cells. One table each."""
    labels: dict[int, tuple[str, str]] = {
        block.about: label_of(block.text)
        for block in document.blocks
        if block.kind == "caption" and 0 <= block.about < len(document.blocks)
    }
    chosen: dict[int, list[Block]] = {i: [] for i in range(len(tables))}
    for index, block in enumerate(document.blocks):
        if block.kind != "table":
            continue
        mine = labels.get(index, ("", ""))
        same = [i for i, item in enumerate(tables) if all(mine) and label_of(item.label) == mine]
        if not same:
            content = cells.contents(block_rows(block))
            shares = [cells.overlap(content, cells.contents(item.rows)) for item in tables]
            same = [i for i, share in enumerate(shares) if share == max(shares) and share >= SAME_TABLE][:1]
        for i in same[:1]:
            chosen[i].append(block)
    return [(item, chosen[i]) for i, item in enumerate(tables)]


# Metadata


def score_front(document: Document, truth: Truth) -> FrontScore:
    """Title, authors, abstract, year, DOI and references."""
    abstract = " ".join(block.text for block in document.blocks if block.kind == "abstract")
    references = [block.text for block in document.blocks if block.kind == "reference"]
    year, doi = document.metadata.get("year"), str(document.metadata.get("doi") or "").lower()
    return FrontScore(
        title=similarity(document.title, truth.title) if truth.title else None,
        title_exact=key(document.title) == key(truth.title) if truth.title else None,
        authors=authors_f1(document.authors, truth.authors) if truth.authors else None,
        abstract=similarity(abstract, truth.abstract) if truth.abstract else None,
        year=year in truth.years if truth.years else None,
        doi=doi == truth.doi if truth.doi else None,
        references_ratio=len(references) / len(truth.references) if truth.references else None,
        references_found=_references_found(references, truth.references) if truth.references else None,
    )


def authors_f1(found: Iterable[str], wanted: Iterable[str]) -> float:
    """F1 of names; the same name has the same letters, or the same last word and first initial."""
    ours, theirs = [words(name) for name in found], [words(name) for name in wanted]
    free = [name for name in ours if name]
    matched = 0
    for name in theirs:
        same = next((other for other in free if _same_name(name, other)), None)
        if same is not None:
            free.remove(same)
            matched += 1
    return f1(matched, len(ours), len(theirs))


def _same_name(a: Sequence[str], b: Sequence[str]) -> bool:
    if not a or not b:
        return False
    return "".join(sorted("".join(a))) == "".join(sorted("".join(b))) or (a[-1] == b[-1] and a[0][0] == b[0][0])


def _references_found(found: Sequence[str], wanted: Sequence[str]) -> float:
    """A reference is found if most of a block is made of its words and most of its words are in the block."""
    bags = [Counter(words(text)) for text in found]
    free = set(range(len(bags)))
    matched = 0
    for reference in wanted:
        target = Counter(words(reference))
        best = max(free, key=lambda i: f1((bags[i] & target).total(), bags[i].total(), target.total()), default=None)
        if best is not None and f1((bags[best] & target).total(), bags[best].total(), target.total()) >= 0.6:
            free.remove(best)
            matched += 1
    return matched / len(wanted)
