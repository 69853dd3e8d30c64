"""The output of a batch: one result a line, added as it is done; what a killed run left is used by the next."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from hiperrag.batching.requests import Line
from hiperrag.errors import UserError
from hiperrag.files import atomic_file

SYNC_S = 1.0
"""Results since the last writing to disk that a power failure may cost, in seconds."""
PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that say nothing against the request: the next run asks again."""


class Results:
    """The results of a file, by request id.

    Opening it mends a last line that was cut in the writing, and takes out results of requests that have changed or
    are to be asked again. Raises UserError where the file cannot be written, is being written by another process, or
    holds something else.
    """

    def __init__(self, path: Path, lines: Collection[Line]) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._synced = time.monotonic()
        self.done: set[str] = set()
        """Ids of the requests with a result."""
        self.n_errors = 0
        self.n_stale = 0
        """Results taken out."""
        self._fd = self._open()
        try:
            self._mend({line.id for line in lines}, {line.custom_id for line in lines if line.custom_id is not None})
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino != self.path.stat().st_ino:
                raise OSError("replaced meanwhile")
        except OSError:
            os.close(fd)
            raise UserError(f"{self.path}: another batch is writing it") from None
        return fd

    def _mend(self, ids: set[str], custom_ids: set[str]) -> None:
        kept: list[tuple[int, int]] = []
        whole = 0
        for number, offset, raw in self._stored():
            whole = offset + len(raw)
            row = self._parsed(number, raw)
            status = (row.get("response") or {}).get("status_code", 0)
            if row["id"] in ids and row["id"] not in self.done and status not in PASSING:
                kept.append((offset, len(raw)))
                self.done.add(row["id"])
                self.n_errors += is_error(row)
                continue
            if row["id"] not in ids and row.get("custom_id") is not None and row["custom_id"] not in custom_ids:
                raise UserError(
                    f"{self.path}, line {number}: the result of another input (custom_id {row['custom_id']!r}); "
                    "name another file"
                )
            self.n_stale += 1
        if self.n_stale:
            self._rewrite(kept)
        elif whole != os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, whole)

    def _stored(self) -> Iterator[tuple[int, int, bytes]]:
        """(number, offset, bytes) of each whole line."""
        offset = 0
        with self.path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                if not raw.endswith(b"\n"):
                    return  # cut in the writing
                yield number, offset, raw
                offset += len(raw)

    def _parsed(self, number: int, raw: bytes) -> dict[str, Any]:
        try:
            row = json.loads(raw)
            if isinstance(row, dict) and str(row["id"]).startswith("batch_req_") and "error" in row:
                return row
        except (ValueError, KeyError):
            pass
        raise UserError(f"{self.path}, line {number}: no result of a batch; name another file")

    def _rewrite(self, kept: list[tuple[int, int]]) -> None:
        """Keep these lines alone. The file is replaced as a whole, and the new one is locked before it has a name."""
        with atomic_file(self.path) as temporary:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for offset, length in kept:
                _write(fd, os.pread(self._fd, length, offset))
        os.close(self._fd)
        self._fd = fd

    def pending(self, lines: Iterable[Line]) -> list[Line]:
        """Those without a result."""
        return [line for line in lines if line.id not in self.done]

    def add(self, line: Line, response: dict[str, Any] | None, error: dict[str, str] | None) -> None:
        """Write a result: one write, so that a reader sees all of a line or none, or a last line without its end."""
        row = {"id": line.id, "custom_id": line.custom_id, "response": response, "error": error}
        with self._lock:
            _write(self._fd, _encoded(row))
            self.done.add(line.id)
            self.n_errors += is_error(row)
            if time.monotonic() - self._synced > SYNC_S:
                os.fsync(self._fd)
                self._synced = time.monotonic()

    def close(self) -> None:
        """Everything is on disk."""
        os.fsync(self._fd)
        os.close(self._fd)


def is_error(row: dict[str, Any]) -> bool:
    """Whether a result is no answer."""
    return row["error"] is not None or (row.get("response") or {}).get("status_code") != 200


def _encoded(row: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say and UTF-8 cannot
        text = json.dumps(row).encode()
    return text + b"\n"


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
