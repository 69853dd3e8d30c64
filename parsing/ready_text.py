"""Ready text (rows with BEIR's names `_id`, `title`, `text`) as documents."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from hiperrag.metadata import Metadata, clean_value, is_name
from hiperrag.parsing.errors import ParseError
from hiperrag.records import BBox, Block, Document

PARSER = "ready_text"
VERSION = "1"
_NOWHERE: BBox = (0.0, 0.0, 0.0, 0.0)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")


def document_from_row(row: dict[str, Any], source: str, index: int) -> Document:
    """The document of row `index` (from 0) of the file `source`: a title and a paragraph block each.

    The row's `_id` (or `id`, `doc_id`, else `source#index`) becomes `Document.source`. A row with a title and
    no text is a document too (its title can be found). Its other scalar fields become `Document.metadata`.
    Raises ParseError("bad_row") for a row with neither title nor text, or with fields of the wrong type.
    """
    if not isinstance(row, dict):
        raise ParseError("bad_row", f"line {index + 1} is not a JSON object but {type(row).__name__}")
    name = _identifier(row, index) or f"{source}#{index}"
    title = " ".join(_string(row, "title", index).split())
    text = _string(row, "text", index).replace("\r\n", "\n").strip()
    if not title and not text:
        raise ParseError("bad_row", f"line {index + 1} has no text")
    canonical = json.dumps([name, title, text], ensure_ascii=False)
    blocks = [Block(0, "title", _NOWHERE, title, level=0)] if title else []
    blocks += [Block(0, "paragraph", _NOWHERE, paragraph) for paragraph in _BLANK_LINE.split(text) if paragraph]
    return Document(
        doc_id=hashlib.sha256(canonical.encode()).hexdigest()[:32],
        source=name,
        title=title,
        authors=[],
        n_pages=0,
        parser=PARSER,
        parser_version=VERSION,
        quality=1.0,
        blocks=blocks,
        metadata=_metadata(row),
    )


def _metadata(row: dict[str, Any]) -> Metadata:
    """Scalar fields of a row, and those in its `metadata` object (BEIR), over which the row's own win."""
    nested = row.get("metadata")
    found: Metadata = {}
    for name, value in [*(nested.items() if isinstance(nested, dict) else ()), *row.items()]:
        name = _encodable(name) if isinstance(name, str) else ""
        cleaned = clean_value(value) if is_name(name) else None
        if cleaned is not None:
            found[name] = _encodable(cleaned) if isinstance(cleaned, str) else cleaned
    return found


def _identifier(row: dict[str, Any], index: int) -> str:
    for field in ("_id", "id", "doc_id"):
        value = row.get(field)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None and not isinstance(value, str):
            raise ParseError("bad_row", f"line {index + 1}: {field} is {type(value).__name__}, not a string")
        if value and value.strip():
            return _encodable(value)
    return ""


def _string(row: dict[str, Any], field: str, index: int) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ParseError("bad_row", f"line {index + 1}: {field} is {type(value).__name__}, not a string")
    return _encodable(value)


def _encodable(text: str) -> str:
    """JSON may hold lone surrogates, which no file can."""
    return text.encode("utf-8", "replace").decode()
