"""The records every room shares, and their Arrow schemas (one Parquet row per record)."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from hiperrag.files import atomic_file
from hiperrag.metadata import Metadata

BlockKind = Literal[
    "title",
    "authors",
    "abstract",
    "heading",
    "paragraph",
    "list",
    "table",
    "figure",
    "caption",
    "equation",
    "code",
    "footnote",
    "reference",
    "header",
    "footer",
    "page_number",
]
BBox = tuple[float, float, float, float]
"""x0, y0, x1, y1 in PDF points, origin at the page's top left, page rotation applied."""


@dataclasses.dataclass(slots=True)
class Block:
    """One region of a page, in reading order within its document.

    `page` counts from 1; 0 means the source has no pages (ready text). `level` is the depth of a heading
    (1 = section, 2 = subsection, ...), 0 for other kinds. A paragraph that runs over a column or page break
    is one block per region; `continues` marks that it goes on from the previous paragraph block, whose
    text it completes (joined with a space, or with nothing if `text` of the former ends within a word).
    """

    page: int
    kind: BlockKind
    bbox: BBox
    text: str
    level: int = 0
    continues: bool = False
    html: str = ""
    """Rows and cells of a table as an HTML `<table>`; empty for other kinds and where no cells were found."""
    latex: str = ""
    """An equation in LaTeX without delimiters; empty for other kinds and where it could not be read."""
    about: int = -1
    """Of a caption: the index in the document's blocks of the table, figure or code it belongs to; -1 for none."""


Route = Literal["text", "vision", "ocr", "failed"]


@dataclasses.dataclass(slots=True)
class PageRecord:
    """How one page was read. Width and height in points, page rotation applied.

    `route` is "text" (text layer and typography), "vision" (text layer, regions from the layout model), "ocr"
    (characters recognised from the page's image) or "failed" (nothing could be read); `reason` says why in a
    few words, `quality` (0..1) how good the text layer is.
    """

    page: int
    width: float
    height: float
    route: Route
    reason: str
    quality: float


@dataclasses.dataclass(slots=True)
class Document:
    """One source file (or one row of ready text) after parsing."""

    doc_id: str
    source: str
    title: str
    authors: list[str]
    n_pages: int
    parser: str
    parser_version: str
    quality: float
    """Share of pages with a usable text layer, 0..1."""
    blocks: list[Block]
    pages: list[PageRecord] = dataclasses.field(default_factory=list)
    """One record a page that was tried; none for ready text."""
    metadata: Metadata = dataclasses.field(default_factory=dict)
    """What filters can ask for beside the fields above: year, doi, or further columns of ready text."""


@dataclasses.dataclass(slots=True)
class Box:
    """A rectangle on a page (`page` from 1; coordinates as in BBox)."""

    page: int
    x0: float
    y0: float
    x1: float
    y1: float


@dataclasses.dataclass(slots=True)
class Passage:
    """The unit of retrieval. `document`, `title` and `metadata` repeat the document's, so that a hit needs no join."""

    passage_id: str
    doc_id: str
    document: str
    title: str
    ordinal: int
    kind: BlockKind
    section: str
    """Heading path, e.g. "Methods > Participants"."""
    text: str
    page_start: int
    page_end: int
    boxes: list[Box]
    n_tokens: int
    metadata: Metadata = dataclasses.field(default_factory=dict)

    @property
    def pages(self) -> list[int]:
        """Pages the passage touches; empty for ready text."""
        return list(range(self.page_start, self.page_end + 1)) if self.page_start else []

    def encoder_text(self) -> str:
        """The text the encoder sees: the document's title gives a passage its context."""
        if not self.title or self.kind == "title":
            return self.text
        return f"{self.title} {self.text}".strip()


@dataclasses.dataclass(slots=True)
class Quarantined:
    """An input that could not be processed, with the reason."""

    source: str
    stage: str
    error: str
    """Class of error, e.g. "encrypted", "damaged", "no_pages", "no_text", "timeout", "crashed", "memory"."""
    message: str


Record = Document | Passage | Quarantined

_BLOCK = pa.struct(
    [
        ("page", pa.int32()),
        ("kind", pa.string()),
        ("bbox", pa.list_(pa.float32(), 4)),
        ("text", pa.string()),
        ("level", pa.int8()),
        ("continues", pa.bool_()),
        ("html", pa.string()),
        ("latex", pa.string()),
        ("about", pa.int32()),
    ]
)
_PAGE = pa.struct(
    [
        ("page", pa.int32()),
        ("width", pa.float32()),
        ("height", pa.float32()),
        ("route", pa.string()),
        ("reason", pa.string()),
        ("quality", pa.float32()),
    ]
)
_BOX = pa.struct([("page", pa.int32())] + [(c, pa.float32()) for c in ("x0", "y0", "x1", "y1")])

DOCUMENT_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("title", pa.string()),
        ("authors", pa.list_(pa.string())),
        ("n_pages", pa.int32()),
        ("parser", pa.string()),
        ("parser_version", pa.string()),
        ("quality", pa.float32()),
        ("blocks", pa.list_(_BLOCK)),
        ("pages", pa.list_(_PAGE)),
        ("metadata", pa.string()),  # a JSON object: its keys differ from file to file
    ]
)
PASSAGE_SCHEMA = pa.schema(
    [
        ("passage_id", pa.string()),
        ("doc_id", pa.string()),
        ("document", pa.string()),
        ("title", pa.string()),
        ("ordinal", pa.int32()),
        ("kind", pa.string()),
        ("section", pa.string()),
        ("text", pa.string()),
        ("page_start", pa.int32()),
        ("page_end", pa.int32()),
        ("boxes", pa.list_(_BOX)),
        ("n_tokens", pa.int32()),
        ("metadata", pa.string()),
    ]
)
QUARANTINE_SCHEMA = pa.schema([(c, pa.string()) for c in ("source", "stage", "error", "message")])

_ROWS_AT_A_TIME = 1024
_SCHEMAS: dict[type[Any], pa.Schema] = {
    Document: DOCUMENT_SCHEMA,
    Passage: PASSAGE_SCHEMA,
    Quarantined: QUARANTINE_SCHEMA,
}


def write_records(path: Path, kind: type[Record], records: Iterable[Record]) -> None:
    """Write records of one kind to a Parquet file, atomically."""
    schema, rest = _SCHEMAS[kind], iter(records)
    with (
        atomic_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        while rows := [_row(record) for record in itertools.islice(rest, _ROWS_AT_A_TIME)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def _row(record: Record) -> dict[str, Any]:
    row = dataclasses.asdict(record)
    if "metadata" in row:
        row["metadata"] = json.dumps(row["metadata"], ensure_ascii=False, sort_keys=True)
    return row


def _metadata(row: dict[str, Any]) -> Metadata:
    """Metadata of a row; none in files that have no such column."""
    found: Metadata = json.loads(row.get("metadata") or "{}")
    return found


def document_from_row(row: dict[str, Any]) -> Document:
    """A Document from a Parquet row as a dict."""
    blocks = [Block(**{**block, "bbox": tuple(block["bbox"])}) for block in row["blocks"]]
    pages = [PageRecord(**page) for page in row.get("pages") or ()]
    return Document(**{**row, "blocks": blocks, "pages": pages, "metadata": _metadata(row)})


def passage_from_row(row: dict[str, Any]) -> Passage:
    """A Passage from a Parquet row as a dict."""
    return Passage(**{**row, "boxes": [Box(**box) for box in row["boxes"]], "metadata": _metadata(row)})


def read_documents(path: Path) -> list[Document]:
    """All documents of one `documents/part-*.parquet`."""
    return [document_from_row(row) for row in pq.read_table(path).to_pylist()]


def read_passages(path: Path) -> list[Passage]:
    """All passages of one `passages/part-*.parquet`."""
    return [passage_from_row(row) for row in pq.read_table(path).to_pylist()]


def read_quarantined(paths: Sequence[Path]) -> list[Quarantined]:
    """All quarantined inputs of the given files."""
    return [Quarantined(**row) for path in paths for row in pq.read_table(path).to_pylist()]
