"""Who asked what: one JSON object a line, appended to a file that only its owner reads."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path

from hiperrag.errors import UserError
from hiperrag.service.errors import log


class AuditLog:
    """Appends to `path`; keeps nothing where it is None.

    A line is one write to a file opened for appending, so that lines of several services never mix. The file is opened
    for each line: it may be moved away (logrotate) at any time.
    """

    def __init__(self, path: Path | None) -> None:
        """Raises UserError where the file cannot be written."""
        self._path = path
        if path is not None:
            try:
                os.close(self._open(path))
            except OSError as error:
                raise UserError(f"--audit {path}: cannot be written ({error.strerror})") from None

    def record(
        self, caller: str, action: str, collection: str, question: str, passage_ids: Sequence[str], status: int | str
    ) -> None:
        """Note one request: what was asked and found, and how it ended (HTTP status, or "cancelled")."""
        if self._path is None:
            return
        entry = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "key": caller,
            "action": action,
            "collection": collection,
            "question": question,
            "passage_ids": list(passage_ids),
            "status": status,
        }
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            descriptor = self._open(self._path)
            try:
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            log.error("the audit log cannot be written (%s)", error.strerror)

    @staticmethod
    def _open(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
