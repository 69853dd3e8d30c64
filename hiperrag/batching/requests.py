"""The input of a batch: one request a line, checked when it is opened and read again when its turn comes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hiperrag.errors import UserError
from hiperrag.files import fingerprint

CHAT_URL, EMBEDDINGS_URL = "/v1/chat/completions", "/v1/embeddings"
URLS = (CHAT_URL, EMBEDDINGS_URL)
LONGEST_LINE = 16 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line of the input. `id` names its result: the same line has the same in every run."""

    number: int
    offset: int
    length: int
    id: str
    custom_id: str | None
    url: str
    mistake: str
    """Why it is no request; empty for those that are."""


class Requests:
    """The requests of a file, by line. Those that name no model get the default one, if there is one.

    Raises UserError where the file cannot be read, holds nothing, or uses a custom_id twice.
    """

    def __init__(self, path: Path, default_model: str = "") -> None:
        self.path = path
        self._default_model = default_model
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        self.lines = list(self._read())
        if not self.lines:
            raise UserError(f"{path}: holds no requests")

    def _read(self) -> Iterator[Line]:
        seen: dict[str, int] = {}
        offset = 0
        for number, raw in enumerate(self._file, start=1):
            if raw.strip():
                line = self._line(number, offset, raw)
                if line.custom_id is not None and seen.setdefault(line.custom_id, number) != number:
                    raise UserError(
                        f"{self.path}, line {number}: custom_id {line.custom_id!r} is that of line "
                        f"{seen[line.custom_id]} too; every request needs its own"
                    )
                yield line
            offset += len(raw)

    def _line(self, number: int, offset: int, raw: bytes) -> Line:
        custom_id: str | None = None
        url = mistake = ""
        try:
            row = _row(raw)
            custom_id = row["custom_id"] if isinstance(row.get("custom_id"), str) and row["custom_id"] else None
            mistake = _mistake(row)
            url = "" if mistake else row["url"]
        except ValueError as error:
            mistake = str(error)
        # Lines without a name of their own are told apart by their place.
        identity = fingerprint(custom_id if custom_id is not None else number, raw.strip(), self._default_model)
        return Line(number, offset, len(raw), f"batch_req_{identity}", custom_id, url, mistake)

    def body(self, line: Line) -> dict[str, Any]:
        """The body of a request, with the default model where it names none."""
        row = _row(os.pread(self._file.fileno(), line.length, line.offset))
        body: dict[str, Any] = row["body"]
        if self._default_model and "model" not in body:
            body = {**body, "model": self._default_model}
        return body


def _row(raw: bytes) -> dict[str, Any]:
    """The object of a line; ValueError in one line of plain words."""
    if len(raw) > LONGEST_LINE:
        raise ValueError(f"longer than {LONGEST_LINE >> 20} MiB")
    try:
        row = json.loads(raw)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("not an object")
    return row


def _mistake(row: dict[str, Any]) -> str:
    if not isinstance(row.get("custom_id"), str) or not row["custom_id"]:
        return "custom_id is missing: give each request a text of its own"
    if row.get("method") != "POST":
        return "method is to be POST"
    if row.get("url") not in URLS:
        return f"url is to be one of {', '.join(URLS)}"
    if not isinstance(row.get("body"), dict):
        return "body is to be an object"
    if row["body"].get("stream"):
        return "body: stream is not possible in a batch"
    return ""


def models_named(path: Path) -> set[str]:
    """The models that the requests of a file name; lines that cannot be read name none. UserError without the file."""
    models: set[str] = set()
    try:
        with path.open("rb") as stream:
            for raw in stream:
                try:
                    body = json.loads(raw)["body"]
                    models.add(str(body["model"]))
                except (ValueError, KeyError, TypeError):
                    continue
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return models
