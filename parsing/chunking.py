"""Documents into passages: along sections, paragraphs and sentences, within the encoder's token limit.

A document is first taken apart into *streams*, texts that belong together: the running text of a section, an
abstract, a table with its caption, the footnotes of a section. Each stream is one string with a map from
character ranges to blocks; a stream that fits the limit is one passage, a longer one is cut where the sum of
costs (of cuts inside a paragraph, a sentence, a clause; of passages far from the target length) is least.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from hiperrag.parsing.streams import Stream, streams_of
from hiperrag.records import Block, BlockKind, Box, Document, Passage
from hiperrag.sentences import split_sentences

Count = Callable[[Sequence[str]], list[int]]


class ChunkSettings(BaseModel):
    """How long passages are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target_tokens: int | None = Field(default=None, ge=16)
    """Length aimed at where a section must be cut; by default three quarters of the encoder's limit."""


# What a cut costs, in units of the cost of an almost empty passage.
_PARAGRAPH_END, _SENTENCE_END, _CLAUSE_END, _WORD_END, _INSIDE_WORD = 0.0, 0.3, 2.0, 4.0, 16.0
_CLAUSE = re.compile(r"(?<=[;:,])(?=\s)|(?<=[，；、：])")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


@dataclasses.dataclass(slots=True)
class _Atom:
    """The smallest piece of a stream that is not cut: characters start..end and their tokens."""

    start: int
    end: int
    tokens: int
    cut_cost: float
    """Of a cut after it."""


@dataclasses.dataclass(slots=True)
class _Cut:
    """A passage to be: characters start..end of a stream's text behind `lead`, under a title."""

    title: str
    start: int
    end: int
    n_tokens: int
    lead: str = ""


def chunk_document(document: Document, count: Count, max_tokens: int, settings: ChunkSettings) -> list[Passage]:
    """The passages of a document, in reading order.

    count: tokens of each text, special tokens included. Every passage's `encoder_text()` counts at most
    `max_tokens`, and no word is cut, except that a single word (no white space) longer than the limit is cut
    by characters. Where title and text together do not fit, a title of more than a quarter of the limit is
    shortened in the passages (`Document.title` has it whole).
    Running heads, page numbers, authors and references make no passage. A document with nothing but a title
    gives one passage of kind "title".
    Raises ValueError if `max_tokens` is too small for any text beside the special tokens.
    """
    packer = _Packer(document.title, count, max_tokens, settings.target_tokens)
    found: list[Passage] = []
    for stream in streams_of(document.blocks) or _title_stream(document):
        for cut in packer.cut(stream):
            found.append(_passage(document, stream, len(found), cut))
    return found


def _title_stream(document: Document) -> list[Stream]:
    if not document.title:
        return []
    blocks = [block for block in document.blocks if block.kind == "title"]
    stream = Stream("title", "", document.title)
    stream.spans = [(0, len(document.title), block) for block in blocks]
    return [stream]


def _passage(document: Document, stream: Stream, ordinal: int, cut: _Cut) -> Passage:
    blocks = [block for first, last, block in stream.spans if first < cut.end and last > cut.start] + stream.attached
    boxes = _boxes(blocks)
    return Passage(
        passage_id=f"{document.doc_id[:16]}-{ordinal:04d}",
        doc_id=document.doc_id,
        document=document.source,
        title=cut.title,
        ordinal=ordinal,
        kind=stream.kind,
        section=stream.section,
        text=cut.lead + stream.text[cut.start : cut.end],
        page_start=min((box.page for box in boxes), default=0),
        page_end=max((box.page for box in boxes), default=0),
        boxes=boxes,
        n_tokens=cut.n_tokens,
        metadata=dict(document.metadata),
    )


def _boxes(blocks: Sequence[Block]) -> list[Box]:
    """A box per block; one around all blocks of a table, of which there can be one a row."""
    boxes: list[Box] = []
    table: Box | None = None
    for block in blocks:
        if not block.page:
            continue
        box = Box(block.page, *block.bbox)
        if block.kind == "table" and table and table.page == block.page:
            table.x0, table.y0 = min(table.x0, box.x0), min(table.y0, box.y0)
            table.x1, table.y1 = max(table.x1, box.x1), max(table.y1, box.y1)
            continue
        if block.kind == "table":
            table = box
        boxes.append(box)
    return boxes


class _Packer:
    def __init__(self, title: str, count: Count, max_tokens: int, target: int | None) -> None:
        self._count = count
        self._limit = max_tokens
        self._target = min(target or max_tokens * 3 // 4, max_tokens)
        self._title = title
        self._special = count([""])[0]
        self._short_title = self._shortened(title, max(1, max_tokens // 4))

    def _shortened(self, title: str, limit: int) -> str:
        """The longest beginning of the title, in whole words and at most `limit` tokens, with an ellipsis."""
        if not title or self._count([title])[0] - self._special <= limit:
            return title
        ends = [match.start() for match in re.finditer(r"\s+", title)]
        candidates = [title[:end] + " …" for end in ends]
        counts = self._count(candidates) if candidates else []
        fitting = [c for c, n in zip(candidates, counts, strict=True) if n - self._special <= limit]
        return fitting[-1] if fitting else ""

    def _counts(self, title: str, kind: BlockKind, texts: Sequence[str]) -> list[int]:
        return self._count([_encoder_text(title, kind, text) for text in texts])

    def cut(self, stream: Stream) -> list[_Cut]:
        """Passages of a stream. Those of a table that start below its header repeat its lead where that fits."""
        text = stream.text
        begin, end = _stripped(text, 0, len(text))
        if begin == end:
            return []
        # A tokenizer gives a word a token at least, so most of what is too long need not be counted as a whole.
        titles = dict.fromkeys((self._title, self._short_title)) if len(text.split()) <= self._limit else ()
        for title in titles:
            [whole] = self._counts(title, stream.kind, [text[begin:end]])
            if whole <= self._limit:
                return [_Cut(title, begin, end, whole)]
        title = self._short_title
        lead, n_lead = self._lead(stream)
        fixed = self._counts(title, stream.kind, [""])[0] + n_lead
        budget = self._limit - fixed
        while budget >= 1:
            pieces = self._pack(stream, self._atoms(stream, budget), budget, self._target - fixed)
            leads = [lead if start >= stream.lead_end else "" for start, _ in pieces]
            texts = [before + text[start:stop] for before, (start, stop) in zip(leads, pieces, strict=True)]
            counts = self._counts(title, stream.kind, texts)
            excess = max(counts) - self._limit
            if excess <= 0:
                return [_Cut(title, *piece, n, lead) for piece, n, lead in zip(pieces, counts, leads, strict=True)]
            budget -= excess  # tokens of the parts need not add up to those of the whole
        raise ValueError(f"a limit of {self._limit} tokens leaves no room for text; {fixed} are taken by the title")

    def _lead(self, stream: Stream) -> tuple[str, int]:
        """What passages of a table repeat, and its tokens: at most a quarter of the limit, or nothing."""
        caption, _, header = stream.lead.rpartition("\n\n")
        for lead in dict.fromkeys((stream.lead, f"{caption}\n\n" if caption else "", header)):
            n_tokens = self._tokens([lead])[0] if lead.strip() else 0
            if 0 < n_tokens <= self._limit // 4:
                return lead, n_tokens
        return "", 0

    def _pack(self, stream: Stream, atoms: list[_Atom], budget: int, target: int) -> list[tuple[int, int]]:
        """The cheapest way to group atoms into passages of at most `budget` tokens (dynamic programming)."""
        target = max(1, min(target, budget))
        ends = [0, *itertools.accumulate(atom.tokens for atom in atoms)]
        best = [0.0] + [float("inf")] * len(atoms)
        previous = [0] * (len(atoms) + 1)
        for stop in range(1, len(atoms) + 1):
            cut_cost = atoms[stop - 1].cut_cost if stop < len(atoms) else 0.0
            for start in range(stop - 1, -1, -1):
                tokens = ends[stop] - ends[start]
                if tokens > budget and start < stop - 1:
                    break
                room = target if tokens < target else max(1, budget - target)
                cost = best[start] + ((tokens - target) / room) ** 2 + cut_cost
                if cost < best[stop]:
                    best[stop], previous[stop] = cost, start
        cuts = [len(atoms)]
        while cuts[-1]:
            cuts.append(previous[cuts[-1]])
        cuts.reverse()
        pieces = [_stripped(stream.text, atoms[a].start, atoms[b - 1].end) for a, b in itertools.pairwise(cuts)]
        return [piece for piece in pieces if piece[0] < piece[1]]

    def _atoms(self, stream: Stream, budget: int) -> list[_Atom]:
        """Sentences (lines of tables and code), finer where one is longer than the budget."""
        atoms: list[_Atom] = []
        for start, end in _paragraphs(stream.text):
            paragraph = stream.text[start:end]
            parts = paragraph.splitlines(keepends=True) if stream.by_lines(start) else split_sentences(paragraph)
            atoms += self._in_row(start, parts, _SENTENCE_END, _PARAGRAPH_END)
        for split, cost in ((_at_clauses, _CLAUSE_END), (_at_words, _WORD_END), (_at_half, _INSIDE_WORD)):
            atoms = self._refined(stream.text, atoms, budget, split, cost)
        return atoms

    def _refined(
        self, text: str, atoms: list[_Atom], budget: int, split: Callable[[str], list[str]], cost: float
    ) -> list[_Atom]:
        """Split the atoms that are longer than the budget, again and again as long as that makes pieces."""
        while True:
            refined: list[_Atom] = []
            for atom in atoms:
                parts = split(text[atom.start : atom.end]) if atom.tokens > budget else []
                refined += self._in_row(atom.start, parts, cost, atom.cut_cost) if len(parts) > 1 else [atom]
            if len(refined) == len(atoms):
                return atoms
            atoms = refined

    def _in_row(self, start: int, parts: Sequence[str], cost: float, last_cost: float) -> list[_Atom]:
        """Atoms of consecutive pieces of text, the first at `start`."""
        atoms = []
        for part, n in zip(parts, self._tokens(parts), strict=True):
            atoms.append(_Atom(start, start + len(part), n, cost))
            start += len(part)
        if atoms:
            atoms[-1].cut_cost = last_cost
        return atoms

    def _tokens(self, texts: Sequence[str]) -> list[int]:
        return [max(0, n - self._special) for n in self._count(texts)] if texts else []


def _encoder_text(title: str, kind: BlockKind, text: str) -> str:
    """What the encoder will see of a passage."""
    return Passage("", "", "", title, 0, kind, "", text, 0, 0, [], 0).encoder_text()


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, max(start, start + len(piece.strip()))


def _paragraphs(text: str) -> list[tuple[int, int]]:
    ends = [match.end() for match in _BLANK_LINE.finditer(text)]
    return [(a, b) for a, b in itertools.pairwise([0, *ends, len(text)]) if a < b]


def _at_clauses(text: str) -> list[str]:
    return [part for part in _CLAUSE.split(text) if part]


def _at_words(text: str) -> list[str]:
    """Two halves, cut at the white space closest to the middle; one piece if there is none."""
    cuts = [match.start() for match in re.finditer(r"(?<=\S)\s+(?=\S)", text)]
    if not cuts:
        return [text]
    cut = min(cuts, key=lambda position: abs(position - len(text) // 2))
    return [text[:cut], text[cut:]]


def _at_half(text: str) -> list[str]:
    middle = len(text) // 2
    return [text[:middle], text[middle:]] if middle else [text]
