"""Metadata of documents (year, journal, ...): which names and values there are, and columns of them for filters."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

Value = str | int | float | bool
Metadata = dict[str, Value]

COLUMN_PREFIX = "metadata."
"""Before a key in the names of Arrow columns, so that no key meets a built-in column."""

MAX_NAME, MAX_TEXT = 200, 4096
"""Characters; what is longer is content and not metadata, and would be repeated in every passage."""

RESERVED = frozenset([
    "_id", "id", "doc_id", "document", "title", "text", "passage_id", "ordinal", "kind", "section", "page", "pages",
    "page_start", "page_end", "boxes", "n_tokens", "metadata",
])  # fmt: skip
"""Fields of a passage (and of a row of ready text), which no metadata can be named after."""

_INT64 = range(-(2**63), 2**63)
_EXACT_IN_FLOAT = range(-(2**53), 2**53 + 1)


def is_name(name: str) -> bool:
    """Whether metadata can have this name: short, printable and not that of a built-in field."""
    return 0 < len(name) <= MAX_NAME and name.isprintable() and bool(name.strip()) and name not in RESERVED


def clean_value(value: Any) -> Value | None:
    """A value as metadata, None where it is none.

    Lists of strings are joined with "; ", dates become ISO 8601. Empty and overlong strings, numbers that are
    not finite, and nested things are none. An integer beyond 64 bits becomes a string.
    """
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        value = "; ".join(value)
    if isinstance(value, datetime.date):  # a datetime is one, too
        value = value.isoformat()
    if isinstance(value, str):
        return value if value.strip() and len(value) <= MAX_TEXT else None
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value in _INT64 else clean_value(_digits(value))
    return value if isinstance(value, float) and math.isfinite(value) else None


def _digits(value: int) -> str:
    # Python refuses to write integers of more than 4,300 digits in decimal.
    return str(value) if value.bit_length() < 8192 else ""


def value_text(value: Value) -> str:
    """A value as text: "true", "2015" (for 2015.0, too), "0.5"."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and int(value) in _EXACT_IN_FLOAT:
        return str(int(value))
    return str(value)


def metadata_columns(values: Sequence[Mapping[str, Value]]) -> dict[str, pa.Array]:
    """One Arrow array per key over all rows, null where a row lacks it; keys in order.

    The type is int64, double (also for integers beside other numbers), bool, or string; mixed values become
    strings as `value_text` writes them. Comparisons in filters do not depend on which of these it is.
    """
    import pyarrow as pa

    keys = sorted({key for row in values for key in row})
    columns = {}
    for key in keys:
        column = [row.get(key) for row in values]
        kind = _arrow_type(value for value in column if value is not None)
        if kind == pa.string():
            column = [value if value is None else value_text(value) for value in column]
        columns[key] = pa.array(column, type=kind)
    return columns


def _arrow_type(values: Iterable[Value]) -> pa.DataType:
    import pyarrow as pa

    kinds: set[type] = set()
    in_int64 = exact = True
    for value in values:
        kinds.add(type(value))
        if type(value) is int:
            in_int64 = in_int64 and value in _INT64
            exact = exact and value in _EXACT_IN_FLOAT
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int} and in_int64:
        return pa.int64()
    if kinds == {float} or (kinds == {int, float} and exact):
        return pa.float64()
    return pa.string()
