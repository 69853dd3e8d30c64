"""The passages of a shard on disk: one JSON object a line, read by row, and their columns for filters."""

from __future__ import annotations

import json
import mmap
import zlib
from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hiperrag.index.storage import LINES, damaged, first_line
from hiperrag.metadata import COLUMN_PREFIX, metadata_columns
from hiperrag.records import Box, Passage

ROWS, COLUMNS = "rows.npy", "columns.parquet"
FILES = (LINES, ROWS, COLUMNS)
_ROW = np.dtype([("start", "<u8"), ("check", "<u4")])
_PLAIN = ("passage_id", "doc_id", "document", "title", "kind", "section")
_NUMBERS = ("page_start", "page_end", "n_tokens")


def write_passages(folder: Path, passages: Iterable[Passage]) -> int:
    """Write the passages of a shard, in the order of its rows; return how many there are."""
    rows: list[tuple[int, int]] = []
    columns: dict[str, list[Any]] = {name: [] for name in (*_PLAIN, *_NUMBERS)}
    metadata = []
    position = 0
    with (folder / LINES).open("wb") as stream:
        for passage in passages:
            line = json.dumps(asdict(passage), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            rows.append((position, zlib.crc32(line)))
            position += stream.write(line)
            for name, values in columns.items():
                values.append(getattr(passage, name))
            metadata.append(passage.metadata)
    np.save(folder / ROWS, np.array([*rows, (position, 0)], dtype=_ROW))
    arrays = {name: pa.array(columns[name], pa.string()).dictionary_encode() for name in _PLAIN}
    arrays |= {name: pa.array(columns[name], pa.int32()) for name in _NUMBERS}
    extra = metadata_columns(metadata)
    arrays |= {COLUMN_PREFIX + name: array for name, array in extra.items()}
    pq.write_table(pa.table(arrays), folder / COLUMNS, compression="zstd", write_page_checksum=True)
    return len(rows)


class PassageStore:
    """Reads the passages of a shard by row."""

    def __init__(self, folder: Path, n_passages: int) -> None:
        self.folder = folder
        try:
            with (folder / ROWS).open("rb") as stream:
                self._rows: npt.NDArray[Any] = np.lib.format.read_array(stream)
        except Exception as error:  # NumPy reads headers as Python, which raises anything
            raise damaged(folder / ROWS, first_line(error)) from None
        try:
            with (folder / LINES).open("rb") as stream:
                self._lines = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise damaged(folder / LINES, first_line(error)) from None
        starts = self._rows["start"] if self._rows.dtype == _ROW else np.empty(0)
        if len(starts) != n_passages + 1 or starts[-1] != len(self._lines) or np.any(starts[1:] < starts[:-1]):
            raise damaged(folder / ROWS, "it disagrees with the shard")
        # Open from the start, so that the shard stays readable when its files are replaced.
        try:
            self._columns = pq.ParquetFile(folder / COLUMNS, memory_map=True, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise damaged(folder / COLUMNS, first_line(error)) from None
        if self._columns.metadata.num_rows != n_passages:
            raise damaged(folder / COLUMNS, "it disagrees with the shard")

    def __getitem__(self, row: int) -> Passage:
        start, stop = int(self._rows["start"][row]), int(self._rows["start"][row + 1])
        line = self._lines[start:stop]
        if zlib.crc32(line) != self._rows["check"][row]:
            raise damaged(self.folder / LINES, f"row {row} has a wrong checksum")
        fields = json.loads(line)
        return Passage(**{**fields, "boxes": [Box(**box) for box in fields["boxes"]]})

    @property
    def metadata_names(self) -> set[str]:
        """Metadata that any passage of the shard has."""
        names = self._columns.schema_arrow.names
        return {name.removeprefix(COLUMN_PREFIX) for name in names if name.startswith(COLUMN_PREFIX)}

    def columns(self, names: Iterable[str]) -> pa.Table:
        """Columns of all rows, those of `names` that the shard has: fields of a passage or "metadata.NAME"."""
        wanted = [name for name in self._columns.schema_arrow.names if name in set(names)]
        try:
            return self._columns.read(columns=wanted)
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.folder / COLUMNS, first_line(error)) from None

    @cached_property
    def documents(self) -> list[str]:
        """The document of each row."""
        names: list[str] = self.columns(["document"])["document"].to_pylist()
        return names
