"""A run's machine-readable log: one JSON object a line, appended as things happen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any


class EventLog:
    """Appends events to `runs/<id>/events.jsonl`; every event has `time` (Unix seconds) and `event`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a", encoding="utf-8")

    def write(self, event: str, **fields: Any) -> None:
        """Append one event and flush it, so that a killed run keeps its log."""
        record = {"time": round(time.time(), 3), "event": event, **fields}
        self._stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._stream.flush()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
