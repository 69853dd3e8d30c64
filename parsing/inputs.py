"""The unit of work: one PDF, or a range of rows of ready text; and its bytes or rows."""

from __future__ import annotations

import dataclasses
import gzip
import io
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Literal, cast

from hiperrag.parsing import archives
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.row_files import JsonLinesReader, ParquetReader, Row

MAX_BYTES = 512 << 20
"""Default limit of one PDF, and limit of a Parquet file inside an archive (which must be held in memory)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """One PDF, or a range of rows of one file of ready text; the unit of which parts are made.

    The fields say where the bytes are and when they change; none depends on the order or number of inputs.
    """

    source: str
    """Name to show: the path as the user gave it, down to the file, with `/member` for archive members."""
    kind: Literal["pdf", "rows"]
    path: str
    """Absolute path of the file, or of the archive that holds it."""
    member: str
    """Name inside the archive, "" for a plain file."""
    start: int
    """First row (rows only)."""
    stop: int
    """One past the last row (rows only)."""
    size: int
    """Bytes: of the PDF, or of the rows' text (of Parquet, its share of the file)."""
    stamp: str
    """Changes with the content: mtime in ns; CRC-32 of a zip member; mtime and offset of a tar member."""
    member_offset: int = 0
    """Where the member's bytes begin in the unpacked tar."""
    member_size: int = 0
    row_offset: int = 0
    """Where row `start` begins in the unpacked text; `row_files.UNKNOWN` where lines have to be counted."""

    def to_row(self) -> dict[str, Any]:
        """A plain dict of strings and integers."""
        return dataclasses.asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Input:
        """The inverse of `to_row`."""
        return cls(**row)


class guarded(AbstractContextManager[None]):  # noqa: N801
    """Turns what damaged or missing files make the standard library raise into ParseError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (*archives.DAMAGE, gzip.BadGzipFile)):
            raise ParseError("damaged", f"the file is damaged: {archives.describe(error)}") from error
        if isinstance(error, OSError):
            raise ParseError("unreadable", error.strerror or archives.describe(error)) from error


def file_name(item: Input) -> str:
    """The name whose ending tells the format, in lower case."""
    return (item.member or item.path).lower()


def _opened(item: Input, shared: bool) -> IO[bytes]:
    """The input's file as stored, a seekable stream."""
    if not item.member:
        return open(item.path, "rb")  # noqa: PTH123
    member = archives.Member(item.member, item.member_size, item.stamp, item.member_offset)
    return archives.open_member(item.path, member, shared)


class _Gunzipped(gzip.GzipFile):
    """As GzipFile, and closes the compressed stream with itself."""

    def __init__(self, compressed: IO[bytes]) -> None:
        self._compressed = compressed
        super().__init__(fileobj=compressed, mode="rb")

    def close(self) -> None:
        super().close()
        self._compressed.close()


def open_unpacked(item: Input, shared: bool) -> IO[bytes]:
    """The file of rows with its compression removed, a seekable stream."""
    stream = _opened(item, shared)
    if file_name(item).endswith(".gz"):
        return cast(IO[bytes], _Gunzipped(stream))
    if file_name(item).endswith(".parquet") and item.member:
        with stream:
            return io.BytesIO(_bounded(stream, item.member_size, MAX_BYTES))
    return stream


def _bounded(stream: IO[bytes], declared: int, limit: int) -> bytes:
    """All bytes of a stream of `declared` bytes. Raises ParseError("too_large") above `limit`."""
    data = stream.read(declared + 1) if declared <= limit else b""
    if declared > limit or len(data) > limit:
        raise ParseError("too_large", f"{declared / 1e6:.0f} MB, the limit is {limit / 1e6:.0f} MB")
    return data


def read_bytes(item: Input, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a PDF input; at most `limit` are ever held, whatever an archive claims.

    Raises ParseError: "too_large", "damaged" (archive), "unreadable" (gone, permission), "changed".
    """
    with guarded(), _opened(item, shared=True) as stream:
        declared = item.member_size if item.member else os.fstat(stream.fileno()).st_size
        return _bounded(stream, declared, limit)


_Reader = JsonLinesReader | ParquetReader
_open_readers: OrderedDict[tuple[int, str, str, str], _Reader] = OrderedDict()
_KEPT_OPEN = 2


def iter_rows(item: Input) -> Iterator[Row]:
    """Rows start..stop of a rows input, as (index from 0, row); a row that cannot be read is a ParseError.

    The last files read stay open, so consecutive ranges of a compressed file are read in one pass; hence
    one range is to be read to its end before the next.
    Raises ParseError where the file is gone, damaged or shorter than listed.
    """
    following = item.start
    with guarded():
        if not item.member and str(Path(item.path).stat().st_mtime_ns) != item.stamp:
            raise ParseError("changed", archives.CHANGED)
        for index, row in _reader(item).read(item.start, item.stop, item.row_offset):
            following = index + 1
            yield index, row
    if following < item.stop:
        raise ParseError("changed", archives.CHANGED)


def _reader(item: Input) -> _Reader:
    key = (os.getpid(), item.path, item.member, item.stamp)
    if key not in _open_readers:
        make: Callable[[IO[bytes]], _Reader] = (
            ParquetReader if file_name(item).endswith(".parquet") else JsonLinesReader
        )
        _open_readers[key] = make(open_unpacked(item, shared=False))
        if len(_open_readers) > _KEPT_OPEN:
            (owner, *_), reader = _open_readers.popitem(last=False)
            if owner == os.getpid():
                reader.close()
    _open_readers.move_to_end(key)
    return _open_readers[key]
