"""Conditions on passages, evaluated over the columns of an Arrow table: what a filter expression stands for."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from hiperrag.metadata import COLUMN_PREFIX, Value, value_text

Operator = Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"]
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]

TEXT_FIELDS = ("document", "doc_id", "title", "kind", "section", "passage_id")
NUMBER_FIELDS = ("n_tokens",)
PAGE_COLUMNS = ("page_start", "page_end")
BUILT_IN = frozenset([*TEXT_FIELDS, *NUMBER_FIELDS, "page"])

_SPELLED_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?\s*")
_MAX_DIGITS = 400
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARROW: dict[str, Callable[..., Any]] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """`field operator literal`; the literals of `in` and `not in` are any number, of the others one."""

    field: str
    operator: Operator
    literals: tuple[Value, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Contains:
    """The field's text has `text` in it, in upper or lower case."""

    field: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Exists:
    """The field has a value that is not empty."""

    field: str


@dataclasses.dataclass(frozen=True, slots=True)
class Not:
    condition: Condition


@dataclasses.dataclass(frozen=True, slots=True)
class Both:
    """All of the conditions hold."""

    conditions: tuple[Condition, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Either:
    """At least one of the conditions holds."""

    conditions: tuple[Condition, ...]


Condition = Comparison | Contains | Exists | Not | Both | Either


def fields_of(condition: Condition) -> set[str]:
    """Names of all fields a condition asks for."""
    match condition:
        case Not(inner):
            return fields_of(inner)
        case Both(parts) | Either(parts):
            return set().union(*map(fields_of, parts))
        case Comparison(field) | Contains(field) | Exists(field):
            return {field}


def column_names(field: str) -> tuple[str, ...]:
    """The columns of a table that hold a field."""
    if field == "page":
        return PAGE_COLUMNS
    return (field,) if field in BUILT_IN else (COLUMN_PREFIX + field,)


def mask_of(condition: Condition, table: pa.Table) -> Mask:
    """Which rows of the table meet the condition, shape (n_rows,)."""
    match condition:
        case Not(inner):
            return ~mask_of(inner, table)
        case Both(parts):
            return functools.reduce(operator.and_, [mask_of(part, table) for part in parts])
        case Either(parts):
            return functools.reduce(operator.or_, [mask_of(part, table) for part in parts])
        case Comparison("page", symbol, literals):
            return _page_mask(table, symbol, literals)
        case Exists("page"):
            return _page_mask(table, ">=", (1,))
        case Contains(field, text):
            return _on_column(table, field, lambda c: _containing(c, text))
        case Exists(field):
            return _on_column(table, field, _has_value)
        case Comparison(field, symbol, literals):
            plain = field in TEXT_FIELDS
            return _on_column(table, field, lambda c: _compared(c, symbol, literals, plain))


def holds(value: Value, symbol: Operator, literals: tuple[Value, ...], plain: bool = False) -> bool:
    """Whether a comparison holds for a value that is there: the meaning of every comparison.

    A number as literal compares with numbers and with strings that spell one. A string compares as text with
    the value's text (`value_text`), except that < <= > >= compare numbers where both sides spell one and the
    field is not `plain` text. true and false equal themselves (and their text) alone, and have no order.
    What cannot be compared is not equal, and neither less nor greater.
    """
    if symbol in ("in", "=="):
        return any(_equals(value, literal) for literal in literals)
    if symbol in ("not in", "!="):
        return not any(_equals(value, literal) for literal in literals)
    [literal] = literals
    if isinstance(literal, bool):
        return False
    if isinstance(literal, str):
        left, right = (None, None) if plain else (_number(value), _number(literal))
        if left is None or right is None:
            return _ORDER[symbol](value_text(value), literal)
        return _ORDER[symbol](left, right)
    number = _number(value)
    return number is not None and _ORDER[symbol](number, literal)


def _equals(value: Value, literal: Value) -> bool:
    if isinstance(literal, (bool, str)):
        return value_text(value) == value_text(literal)
    return _number(value) == literal


def _number(value: Value) -> int | float | None:
    if isinstance(value, bool):
        return None
    if not isinstance(value, str):
        return value
    if len(value) > _MAX_DIGITS or not _SPELLED_NUMBER.fullmatch(value):
        return None
    if value.strip().lstrip("+-").isdigit():
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def _on_column(table: pa.Table, field: str, evaluate: Callable[[pa.Array], pa.Array]) -> Mask:
    """`evaluate` (values to booleans, null where undecided) on a field's column; false for nulls."""
    [name] = column_names(field)
    if field not in BUILT_IN and name not in table.column_names:
        return np.zeros(table.num_rows, dtype=np.bool_)
    chunks = [_evaluated(chunk, evaluate) for chunk in table.column(name).chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.bool_)


def _evaluated(column: pa.Array, evaluate: Callable[[pa.Array], pa.Array]) -> Mask:
    encoded = types.is_dictionary(column.type)
    decided = evaluate(column.dictionary).take(column.indices) if encoded else evaluate(column)
    found: Mask = pc.fill_null(decided, False).to_numpy(zero_copy_only=False).astype(np.bool_, copy=False)
    return found


def _has_value(column: pa.Array) -> pa.Array:
    return pc.not_equal(column, "") if _is_text(column) else column.is_valid()


def _containing(column: pa.Array, text: str) -> pa.Array:
    if _is_text(column):
        return pc.match_substring(pc.utf8_lower(column), pc.utf8_lower(pa.scalar(text)).as_py())
    return _by_value(column, lambda value: text.lower() in value_text(value))


def _is_text(column: pa.Array) -> bool:
    return bool(types.is_string(column.type) or types.is_large_string(column.type))


def _by_value(column: pa.Array, decide: Callable[[Value], bool]) -> pa.Array:
    """`decide` on every different value once; null for null."""
    encoded = column.dictionary_encode()
    decided = pa.array([decide(value) for value in encoded.dictionary.to_pylist()], type=pa.bool_())
    return decided.take(encoded.indices)


def _compared(column: pa.Array, symbol: Operator, literals: tuple[Value, ...], plain: bool) -> pa.Array:
    """`holds` over a column, by Arrow's kernels for the common cases."""
    if _is_text(column) and all(isinstance(literal, str) for literal in literals):
        if symbol in ("==", "!=", "in", "not in"):
            return _membership(column, symbol, literals)
        if plain or _number(literals[0]) is None:
            return _ARROW[symbol](column, pa.scalar(literals[0], column.type))
    if types.is_integer(column.type) or types.is_floating(column.type):
        exact = _exact(column, literals)
        if exact is not None and symbol in ("==", "!=", "in", "not in"):
            return _membership(column, symbol, exact)
        if exact:
            return _ARROW[symbol](column, pa.scalar(exact[0], column.type))
    return _by_value(column, lambda value: holds(value, symbol, literals, plain))


def _membership(column: pa.Array, symbol: Operator, values: tuple[Value, ...]) -> pa.Array:
    if len(values) == 1:
        return _ARROW["==" if symbol in ("==", "in") else "!="](column, pa.scalar(values[0], column.type))
    if types.is_floating(column.type) and 0.0 in values:
        values = (*values, 0.0, -0.0)  # equal, but sets of Arrow tell them apart
    found = pc.is_in(column, value_set=pa.array(values, type=column.type))
    return pc.if_else(column.is_valid(), found if symbol in ("==", "in") else pc.invert(found), None)


def _exact(column: pa.Array, literals: tuple[Value, ...]) -> tuple[Value, ...] | None:
    """Literals as numbers of the column's type, None if one is no number or would not be the same number."""
    if any(isinstance(literal, (bool, str)) for literal in literals):
        return None
    try:
        numbers = tuple(pa.scalar(literal, column.type).as_py() for literal in literals)
    except (pa.ArrowInvalid, OverflowError):
        return None
    return numbers if numbers == literals else None


def _page_mask(table: pa.Table, symbol: Operator, literals: tuple[Value, ...]) -> Mask:
    """Whether a page of the passage is one of the literals, or before or after the one; false without pages."""
    start, end = (table.column(name).to_numpy() for name in PAGE_COLUMNS)
    found: Mask = np.zeros(table.num_rows, dtype=np.bool_)
    for literal in literals:
        if isinstance(literal, (bool, str)):
            raise TypeError(f"page compared with {literal!r}")
        if symbol in ("==", "in"):
            if int(literal) == literal:
                found |= (start <= literal) & (end >= literal)
        else:
            found |= _ORDER[symbol](start if symbol in ("<", "<=") else end, literal)
    found &= start > 0
    return found
