"""What a long command has done so far: a line for each piece of work, appended as it is finished; survives a kill."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from hiperrag.errors import UserError

Entry = dict[str, Any]


class Journal:
    """Entries of a command whose settings and inputs have the hash `identity`, in the order in which they were added.

    `entries` holds those of earlier runs. UserError where the file is another command's, which may have cost hours or
    money, or where another process writes it.
    """

    def __init__(self, path: Path, identity: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._stream = path.open("a+b")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            raise UserError(f"{path}: another process is writing it; wait for it or give another --out") from None
        try:
            self.entries = self._read(identity)
        except UserError:
            self._stream.close()
            raise

    def _read(self, identity: str) -> list[Entry]:
        self._stream.seek(0)
        lines = [line for line in self._stream.read().splitlines(keepends=True) if line.endswith(b"\n")]
        self._stream.truncate(sum(map(len, lines)))  # a kill may have cut the last line off
        if not lines:
            self._write({"identity": identity})
            return []
        if lines[0] != _line({"identity": identity}):
            raise UserError(
                f"{self.path}: is the progress of a command with other inputs or settings; "
                "delete it, or give another --out"
            )
        return [json.loads(line) for line in lines[1:]]

    def add(self, entry: Entry) -> None:
        """Append an entry; it is in the file when this returns."""
        self._write(entry)
        self.entries.append(entry)

    def _write(self, entry: Entry) -> None:
        self._stream.write(_line(entry))
        self._stream.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._stream.fileno())
        self._stream.close()


def _line(entry: Entry) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def batches(count: int, size: int) -> Iterator[range]:
    """The numbers up to `count`, `size` at a time."""
    return (range(start, min(start + size, count)) for start in range(0, count, size))
