"""Blocks of a document sorted into streams: texts that belong together and become passages of one kind."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from hiperrag.records import Block, BlockKind

_FLOW = frozenset({"paragraph", "list", "equation", "code"})
_TABLE_LABEL = re.compile(r"\s*(supplementary\s+|extended\s+data\s+)?tab(le|\.)", re.IGNORECASE)
_HEADER_ROW = re.compile(r"<tr>(?:<th[^>]*>[^<]*</th>)+</tr>")
_FIRST_LINE = re.compile(r".{1,120}?(?:(?<=[^\d\s.][.:])(?=\s)|$)|.{1,120}(?=\s)")
"""A caption's first sentence, or as much of it as is worth repeating."""
_HYPHENS = ("-", "\u00ad")


@dataclasses.dataclass(slots=True)
class Stream:
    """One text and where it comes from."""

    kind: BlockKind
    section: str
    text: str = ""
    spans: list[tuple[int, int, Block]] = dataclasses.field(default_factory=list)
    """Character range of each block in `text`, in order."""
    attached: list[Block] = dataclasses.field(default_factory=list)
    """Blocks that belong to it but give no text: the figure of a caption."""
    place: int = 0
    """Index of its first block, which orders the streams."""
    lead: str = ""
    """Of a table: first line of its caption and rows of its header, for passages that start further down."""
    lead_end: int = 0
    """Where the rows below the header start in `text`."""

    def append(self, block: Block, separator: str) -> None:
        """Add a block's text."""
        text = block.text.strip()
        if self.text:
            self.text += separator
        self.spans.append((len(self.text), len(self.text) + len(text), block))
        self.text += text

    def by_lines(self, position: int) -> bool:
        """Whether the text at `position` is cut between lines rather than sentences."""
        kind = next((block.kind for _, end, block in self.spans if end > position), "")
        return kind in ("table", "code")


def streams_of(blocks: Sequence[Block]) -> list[Stream]:
    """Streams in reading order. No stream holds text of two sections.

    Running text goes on behind figures, tables and footnotes; equations stay inside it. A caption takes its
    table's text along, and its figure's place. Text inside figures (axis labels) is left out.
    """
    collector = _Collector()
    floats = _floats(blocks)
    captions = _pair_captions(blocks, floats)
    paired = {run[0] for run in captions.values()}
    tables = {run[0]: run for run in floats if blocks[run[0]].kind == "table" and run[0] not in paired}
    for place, block in enumerate(blocks):
        if block.kind == "heading":
            collector.heading(block)
        elif place in tables:
            collector.table([blocks[i] for i in tables[place]], place)
        elif not block.text.strip():
            continue
        elif block.kind in _FLOW:
            collector.flow(block, place)
        elif block.kind in ("abstract", "footnote"):
            collector.running(block, place)
        elif block.kind == "caption":
            collector.caption(block, [blocks[i] for i in captions.get(place, [])], place)
    return sorted(collector.streams, key=lambda stream: stream.place)


class _Collector:
    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self._headings: list[Block] = []
        self._open: dict[str, Stream] = {}

    def heading(self, block: Block) -> None:
        level = max(1, block.level)
        self._headings = [h for h in self._headings if max(1, h.level) < level] + [block]
        self._open = {}

    def _new(self, kind: BlockKind, place: int) -> Stream:
        section = " > ".join(" ".join(heading.text.split()) for heading in self._headings)
        self.streams.append(Stream(kind, section, place=place))
        return self.streams[-1]

    def _stream(self, kind: BlockKind, place: int) -> Stream:
        if kind not in self._open:
            self._open[kind] = self._new(kind, place)
        return self._open[kind]

    def flow(self, block: Block, place: int) -> None:
        """Running text: one stream a section, whose kind is that of its blocks, if of one kind."""
        stream = self._stream("paragraph", place)
        if not stream.spans:
            stream.kind = block.kind
        elif block.kind != stream.kind:
            stream.kind = "paragraph"
        _join(stream, block)

    def running(self, block: Block, place: int) -> None:
        """An abstract or footnotes: a stream of its own beside the section's running text."""
        _join(self._stream(block.kind, place), block)

    def caption(self, block: Block, partner: Sequence[Block], place: int) -> None:
        """A caption, with the text of its table or the box of its figure."""
        if partner and partner[0].kind == "table":
            self.table(partner, place, caption=block)
        else:
            stream = self._new("caption", place)
            stream.append(block, "")
            stream.attached = list(partner)

    def table(self, blocks: Sequence[Block], place: int, caption: Block | None = None) -> None:
        """A table, behind its caption if it has one."""
        stream = self._new("table", place)
        if caption:
            stream.append(caption, "")
        for block in blocks:
            separator = "\n\n" if stream.spans and stream.spans[-1][2] is caption else "\n"
            stream.append(block, separator)
        _set_lead(stream, caption, blocks[0])


def _set_lead(stream: Stream, caption: Block | None, table: Block) -> None:
    start = next(first for first, _, block in stream.spans if block is table)
    rows = table.text.strip().splitlines(keepends=True)
    header = rows[: min(len(_HEADER_ROW.findall(table.html)), len(rows) - 1)] if rows else []
    first_line = _FIRST_LINE.match(" ".join(caption.text.split())) if caption else None
    stream.lead = (f"{first_line.group()}\n\n" if first_line else "") + "".join(header)
    stream.lead_end = start + len("".join(header))


def _join(stream: Stream, block: Block) -> None:
    """Add a block to running text: a paragraph of its own unless it goes on from what is there."""
    if not stream.spans:
        return stream.append(block, "")
    last = stream.spans[-1][2]
    text = block.text.lstrip()
    if block.kind == "equation" or (last.kind == "equation" and (block.continues or text[:1].islower())):
        return stream.append(block, "\n")
    if not block.continues:
        return stream.append(block, "\n\n")
    ends_in_word = stream.text.endswith(_HYPHENS) and stream.text[-2:-1].isalpha()
    return stream.append(block, "" if ends_in_word else " ")


def _body(blocks: Sequence[Block]) -> list[int]:
    return [i for i, block in enumerate(blocks) if block.kind not in ("header", "footer", "page_number")]


def _floats(blocks: Sequence[Block]) -> list[list[int]]:
    """Runs of blocks that make one table (a parser may give a block per row) or one figure.

    A block that a caption is said to be about starts a run of its own.
    """
    told = {block.about for block in blocks if block.kind == "caption"}
    runs: list[list[int]] = []
    previous: int | None = None
    for i in _body(blocks):
        if blocks[i].kind in ("table", "figure"):
            same = previous is not None and (blocks[previous].kind, blocks[previous].page) == (
                blocks[i].kind,
                blocks[i].page,
            )
            if same and i not in told:
                runs[-1].append(i)
            else:
                runs.append([i])
        previous = i
    return runs


def _pair_captions(blocks: Sequence[Block], floats: Sequence[list[int]]) -> dict[int, list[int]]:
    """Index of a caption -> the run of the table or figure it is about.

    Where the parser does not say which, it is the one directly before or behind it, on the same page.
    """
    body = _body(blocks)
    by_edge = {edge: run for run in floats for edge in (run[0], run[-1])}
    pairs: dict[int, list[int]] = {}
    taken: set[int] = set()
    for index, caption in enumerate(blocks):
        run = by_edge.get(caption.about) if caption.kind == "caption" else None
        if run is not None and run[0] not in taken:
            pairs[index] = run
            taken.add(run[0])
    for place, index in enumerate(body):
        caption = blocks[index]
        if caption.kind != "caption" or caption.about >= 0:
            continue
        wanted = "table" if _TABLE_LABEL.match(caption.text) else "figure"
        beside = [by_edge[i] for i in body[max(0, place - 1) : place] + body[place + 1 : place + 2] if i in by_edge]
        free = [run for run in beside if run[0] not in taken and blocks[run[0]].page == caption.page]
        if free:
            partner = min(
                free, key=lambda run: (blocks[run[0]].kind != wanted, min(_gap(caption, blocks[i]) for i in run))
            )
            pairs[index] = partner
            taken.add(partner[0])
    return pairs


def _gap(a: Block, b: Block) -> float:
    """Vertical distance of two blocks in points."""
    return max(0.0, b.bbox[1] - a.bbox[3], a.bbox[1] - b.bbox[3])
