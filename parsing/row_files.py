"""Files of ready text (.jsonl, .jsonl.gz, .parquet): cut into ranges of rows, and rows read from a range."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import IO, Any

from hiperrag.parsing.errors import ParseError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
MAX_ROW_BYTES = 16 << 20
UNKNOWN = -1
"""Offset of a row whose place has to be found by counting lines."""
OTHER_DATA = "not_ready_text"
"""Error of a file that is in order and holds something else, such as a manifest beside PDFs."""

_TEXT_COLUMNS = ("_id", "id", "doc_id", "title", "text")
_CHUNK = 1 << 20
_FIRST_ROWS = 10

Row = tuple[int, dict[str, Any] | ParseError]
"""Index of a row in its file (from 0) and the row, or why it is none."""


@dataclasses.dataclass(frozen=True, slots=True)
class RowRange:
    """Rows start..stop of a file, and where: bytes of the unpacked text (Parquet: 0, and a share)."""

    start: int
    stop: int
    offset: int
    size: int


def is_row_file(name: str) -> bool:
    """Whether a file name has one of the endings of `SUFFIXES`."""
    return name.lower().endswith(SUFFIXES)


def jsonl_ranges(stream: IO[bytes], rows: int) -> list[RowRange]:
    """Cut JSON lines into ranges of at most `rows` lines in one pass; blank lines at the end are no rows.

    Raises ParseError(OTHER_DATA) if none of the first rows has a text, ParseError("bad_rows") if none is JSON.
    """
    _check_first_rows(stream, rows)
    ranges: list[RowRange] = []
    line = start = offset = position = blank_tail = 0
    ends_in_line = False
    while chunk := stream.read(_CHUNK):
        begin = 0
        while line + chunk.count(b"\n", begin) >= start + rows:
            for _ in range(start + rows - line):
                begin = chunk.index(b"\n", begin) + 1
            line = start + rows
            ranges.append(RowRange(start, line, offset, position + begin - offset))
            start, offset = line, position + begin
        line += chunk.count(b"\n", begin)
        position += len(chunk)
        ends_in_line = not chunk.endswith(b"\n")
        content = len(chunk.rstrip())
        blank_tail = chunk.count(b"\n", content) + (0 if content else blank_tail)
    if position > offset:
        ranges.append(RowRange(start, line + ends_in_line, offset, position - offset))
    # The first line end after the last content closes its line; what follows it is blank.
    n_rows = line + ends_in_line - max(0, blank_tail - 1 + ends_in_line if blank_tail else 0)
    return [dataclasses.replace(r, stop=min(r.stop, n_rows)) for r in ranges if r.start < n_rows]


def _check_first_rows(stream: IO[bytes], rows: int) -> None:
    first = [row for _, row in JsonLinesReader(stream).read(0, min(rows, _FIRST_ROWS), 0)]
    stream.seek(0)
    if any(isinstance(row, dict) and "text" in row for row in first):
        return
    if any(isinstance(row, dict) for row in first):
        raise ParseError(OTHER_DATA, f"not ready text: none of the first {len(first)} rows has a field named text")
    raise ParseError("bad_rows", f"none of the first {len(first)} rows is a JSON object" if first else "no rows")


def parquet_ranges(stream: IO[bytes], size: int, rows: int) -> list[RowRange]:
    """Cut a Parquet file into ranges of at most `rows` rows.

    Raises ParseError(OTHER_DATA) for a file without a text column.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(stream)
    columns = file.schema_arrow.names
    if "text" not in columns:
        raise ParseError(OTHER_DATA, f"not ready text: no column named text (columns: {', '.join(columns)})")
    total = file.metadata.num_rows
    if not total:
        raise ParseError("bad_rows", "no rows")
    cuts = [(start, min(start + rows, total)) for start in range(0, total, rows)]
    return [RowRange(start, stop, 0, size * (stop - start) // total) for start, stop in cuts]


class JsonLinesReader:
    """Rows of an open (unpacked) JSON lines stream; going forward costs nothing twice."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, start: int, stop: int, offset: int) -> Iterator[Row]:
        """Rows start..stop, the first at byte `offset`, or UNKNOWN."""
        self._stream.seek(max(offset, 0))
        for _ in range(start if offset == UNKNOWN else 0):
            while (line := self._stream.readline(_CHUNK)) and not line.endswith(b"\n"):
                pass
        for index in range(start, stop):
            line = self._stream.readline(MAX_ROW_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_ROW_BYTES:
                while line and not line.endswith(b"\n"):
                    line = self._stream.readline(_CHUNK)
                yield index, ParseError("too_large", f"line {index + 1} is longer than {MAX_ROW_BYTES} bytes")
            else:
                yield index, _json_row(line, index)

    def close(self) -> None:
        self._stream.close()


def _json_row(line: bytes, index: int) -> dict[str, Any] | ParseError:
    try:
        row = json.loads(line.decode("utf-8-sig" if index == 0 else "utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
        return ParseError("bad_row", f"line {index + 1} is {reason}")
    if not isinstance(row, dict):
        return ParseError("bad_row", f"line {index + 1} is not a JSON object but {type(row).__name__}")
    return row


def _is_read(field: Any) -> bool:
    """Whether a column is text or metadata: not, for instance, the vectors of an embedding."""
    import pyarrow.types as t

    kind = field.type.value_type if t.is_dictionary(field.type) else field.type
    if field.name in _TEXT_COLUMNS or (field.name == "metadata" and t.is_struct(kind)):
        return True
    if t.is_list(kind) or t.is_large_list(kind):
        return bool(t.is_string(kind.value_type) or t.is_large_string(kind.value_type))
    scalar = (t.is_string, t.is_large_string, t.is_integer, t.is_floating, t.is_boolean, t.is_date, t.is_timestamp)
    return any(test(kind) for test in scalar)


class ParquetReader:
    """Rows of an open Parquet file. Consecutive ranges continue where the last one ended."""

    def __init__(self, stream: IO[bytes]) -> None:
        import pyarrow.parquet as pq

        self._stream = stream
        self._file = pq.ParquetFile(stream)
        self._columns = [field.name for field in self._file.schema_arrow if _is_read(field)]
        self._next = 0
        self._rows: Iterator[dict[str, Any]] = iter(())

    def read(self, start: int, stop: int, offset: int) -> Iterator[Row]:  # noqa: ARG002
        """Rows start..stop (`offset` is for text files)."""
        if start != self._next or start == 0:
            self._rows = self._from(start)
        self._next = -1  # until this range has been read to its end
        for index in range(start, stop):
            yield index, next(self._rows)
        self._next = stop

    def _from(self, start: int) -> Iterator[dict[str, Any]]:
        metadata = self._file.metadata
        group = first = 0
        while group < metadata.num_row_groups and first + metadata.row_group(group).num_rows <= start:
            first += metadata.row_group(group).num_rows
            group += 1
        skip = start - first
        groups = list(range(group, metadata.num_row_groups))
        for batch in self._file.iter_batches(batch_size=512, row_groups=groups, columns=self._columns):
            if skip < batch.num_rows:
                yield from batch.slice(skip).to_pylist()
            skip = max(0, skip - batch.num_rows)

    def close(self) -> None:
        self._stream.close()
