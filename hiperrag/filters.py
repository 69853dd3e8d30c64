"""Filter expressions: `year >= 2015 and kind == 'table'` as a mask over the passages of a table.

    condition  = both ("or" both)*              both  = one ("and" one)*
    one        = "not" one | "(" condition ")" | "exists" "(" field ")"
               | "contains" "(" field "," string ")" | comparison
    comparison = operand (operator operand)+    between a field and a literal; chains as in 2010 <= year < 2015
               | field ["not"] "in" "(" literal, ... ")"
    field      = name | `any name`              literal = number | 'string' | "string" | true | false

Logic is two-valued: a comparison with a field that a passage does not have is false, so `year < 2015` and
`year != 2015` leave out passages without a year, and `not (year == 2015)` keeps them.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from typing import NoReturn, cast, get_args

import pyarrow as pa

from hiperrag import conditions
from hiperrag.conditions import BUILT_IN, NUMBER_FIELDS, Comparison, Condition, Contains, Exists, Mask, Operator
from hiperrag.errors import UserError
from hiperrag.metadata import Value
from hiperrag.records import BlockKind

EXAMPLE = "year >= 2015 and kind == 'table'"
MAX_DEPTH = 50
"""Nested parentheses and nots."""

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![\w.])
    |(?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<quoted>`[^`]+`)
    |(?P<name>[^\W\d](?:[\w.-]*\w)?)
    |(?P<symbol><=|>=|==|!=|<>|&&|\|\||[<>=!&|(),\[\]])
    |(?P<end>$)
    )""",
    re.VERBOSE | re.DOTALL,
)
_MIRRORED: dict[str, Operator] = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_OTHERWISE = {"=": "==", "<>": "!=", "&&": "and", "&": "and", "||": "or", "|": "or", "!": "not", "is": "=="}
_TRUTH = {"true": True, "false": False, "True": True, "False": False}
_KEYWORDS = ("and", "or", "not", "in")
_MAX_DIGITS = 400


class FilterError(UserError):
    """A condition that cannot be read, or that asks for what passages do not have."""


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """A condition that passages must meet; made by `parse`."""

    expression: str
    condition: Condition

    @classmethod
    def parse(cls, expression: str) -> Filter:
        """Raises FilterError, one line that says what is wrong and in which column."""
        return cls(expression, _Parser(expression).parse())

    @property
    def fields(self) -> set[str]:
        """Names of the built-in fields and metadata keys asked for."""
        return conditions.fields_of(self.condition)

    @property
    def columns(self) -> set[str]:
        """Names of the columns of a table that `mask` reads, where the table has them."""
        return {name for field in self.fields for name in conditions.column_names(field)}

    def unknown_fields(self, available: set[str]) -> set[str]:
        """Fields that are neither built in nor among the metadata keys `available`."""
        return self.fields - BUILT_IN - available

    def check_fields(self, available: set[str]) -> None:
        """Raises FilterError for a field that is neither built in nor among the metadata keys `available`."""
        for field in sorted(self.unknown_fields(available)):
            known = sorted(available | BUILT_IN)
            close = difflib.get_close_matches(field, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"fields: {', '.join(known[:30])}"
            raise FilterError(f"filter: no passage of the collection has a field named {_shown(field)}; {hint}")

    def mask(self, table: pa.Table) -> Mask:
        """Which rows of `table` meet the condition, shape (n_rows,).

        Columns are those of `columns`: built-in ones as in a passage's record, metadata as `metadata.KEY` (see
        `metadata_columns`), plain or dictionary-encoded. A metadata column the table lacks has no values.
        """
        return conditions.mask_of(self.condition, table)


@dataclasses.dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """number, string, name, quoted (a name), symbol, end."""
    text: str
    start: int

    @property
    def is_field(self) -> bool:
        return self.kind == "quoted" or (self.kind == "name" and self.text not in (*_KEYWORDS, *_TRUTH))


class _Parser:
    """Recursive descent with one token of look-ahead."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._position = 0
        self._depth = 0
        self._token = self._next()

    def parse(self) -> Condition:
        if self._token.kind == "end":
            raise FilterError(f"filter: the expression is empty; for example: {EXAMPLE}")
        condition = self._condition()
        if self._token.kind != "end":
            self._unexpected("and, or, or the end")
        return condition

    def _condition(self) -> Condition:
        parts = [self._both()]
        while self._accept("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else conditions.Either(tuple(parts))

    def _both(self) -> Condition:
        parts = [self._one()]
        while self._accept("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else conditions.Both(tuple(parts))

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} nested parentheses", self._token.start)
        condition = self._innermost()
        self._depth -= 1
        return condition

    def _innermost(self) -> Condition:
        if self._accept("not"):
            return conditions.Not(self._one())
        if self._accept("("):
            condition = self._condition()
            self._expect(")")
            return condition
        first = self._operand()
        if first.kind == "name" and first.text in ("exists", "contains") and self._accept("("):
            return self._function(first.text)
        return self._comparison(first)

    def _function(self, name: str) -> Condition:
        field = self._field(self._operand())
        if name == "exists":
            self._expect(")")
            return Exists(field)
        if field == "page":
            self._fail("page is a number and contains no text; write page == 3", self._token.start)
        self._expect(",")
        token = self._operand()
        text = self._literal(token)
        if not isinstance(text, str):
            self._fail("contains() looks for a string in quotes", token.start)
        self._expect(")")
        return Contains(field, text)

    def _comparison(self, first: _Token) -> Condition:
        parts: list[Condition] = []
        left = first
        while True:
            symbol = self._operator()
            if symbol is None:
                break
            if symbol in ("in", "not in"):
                parts.append(self._membership(left, symbol))
                break
            right = self._operand()
            parts.append(self._compare(left, symbol, right))
            left = right
        if not parts:
            what = f"{_shown(first.text)} is compared with nothing"
            field = first.text if first.is_field else "year"
            self._fail(f"{what}; write {field} == ... or exists({field})", first.start)
        return parts[0] if len(parts) == 1 else conditions.Both(tuple(parts))

    def _operator(self) -> Operator | None:
        token = self._token
        if token.kind == "symbol" and token.text in _MIRRORED:
            self._advance()
            return cast(Operator, token.text)
        if self._accept("in"):
            return "in"
        if self._accept("not"):
            self._expect("in")
            return "not in"
        if token.text in _OTHERWISE and token.kind in ("symbol", "name"):
            self._unexpected(_OTHERWISE[token.text])
        return None

    def _compare(self, left: _Token, symbol: Operator, right: _Token) -> Condition:
        if left.is_field == right.is_field:
            what = "two fields" if left.is_field else "two values"
            self._fail(f"{what} are compared; a comparison is between a field and a value", left.start)
        if right.is_field:
            left, symbol, right = right, _MIRRORED[symbol], left
        return self._checked(Comparison(self._field(left), symbol, (self._literal(right),)), right.start)

    def _membership(self, left: _Token, symbol: Operator) -> Condition:
        start = self._token.start
        closing = ")" if self._accept("(") else "]" if self._accept("[") else ""
        if not closing:
            self._unexpected("a list such as ('a', 'b'); to search within a text write contains(title, 'a')")
        literals = []
        while not self._accept(closing):
            literals.append(self._literal(self._operand()))
            if not self._accept(","):
                self._expect(closing)
                break
        return self._checked(Comparison(self._field(left), symbol, tuple(literals)), start)

    def _checked(self, comparison: Comparison, start: int) -> Comparison:
        """Refuse what could only be a mistake."""
        field, symbol, literals = comparison.field, comparison.operator, comparison.literals
        if field == "page" and symbol in ("!=", "not in"):
            self._fail("a passage can span several pages; write not (page == 3)", start)
        if field in ("page", *NUMBER_FIELDS) and any(isinstance(value, (bool, str)) for value in literals):
            self._fail(f"{field} is compared with a number only", start)
        if symbol in ("<", "<=", ">", ">=") and isinstance(literals[0], bool):
            self._fail("true and false are compared by == and != only", start)
        kinds = get_args(BlockKind)
        if field == "kind" and any(value not in kinds for value in literals):
            self._fail(f"no such kind of passage; kinds: {', '.join(kinds)}", start)
        return comparison

    def _operand(self) -> _Token:
        token = self._token
        if token.kind in ("symbol", "end") or (token.kind == "name" and token.text in _KEYWORDS):
            self._unexpected("a field or a value")
        self._advance()
        return token

    def _field(self, token: _Token) -> str:
        if not token.is_field:
            self._fail(f"{_shown(token.text)} is a value where a field is due", token.start)
        return token.text[1:-1] if token.kind == "quoted" else token.text

    def _literal(self, token: _Token) -> Value:
        if token.kind == "string":
            return re.sub(r"\\([\\'\"])", r"\1", token.text[1:-1])
        if token.kind == "name" and token.text in _TRUTH:
            return _TRUTH[token.text]
        if token.is_field:
            self._fail(f"{_shown(token.text)} is no value; write strings in quotes", token.start)
        number = float(token.text)
        if len(token.text) > _MAX_DIGITS or not math.isfinite(number):
            self._fail("the number is too large", token.start)
        return int(token.text) if token.text.lstrip("+-").isdigit() else number

    def _accept(self, text: str) -> bool:
        """Consume a symbol or keyword if it comes next."""
        if self._token.kind not in ("symbol", "name") or self._token.text != text:
            return False
        self._advance()
        return True

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            self._unexpected(text)

    def _advance(self) -> None:
        self._token = self._next()

    def _next(self) -> _Token:
        match = _TOKEN.match(self._expression, self._position)
        if match is None or match.lastgroup is None:
            start = len(self._expression) - len(self._expression[self._position :].lstrip())
            character = self._expression[start]
            what = f"the {character} has no end" if character in "'\"`" else f"cannot read {_shown(character)}"
            self._fail(what, start)
        self._position = match.end()
        return _Token(match.lastgroup, match.group(match.lastgroup), match.start(match.lastgroup))

    def _unexpected(self, wanted: str) -> NoReturn:
        text = self._token.text
        found = {"end": "the end", "string": text}.get(self._token.kind, _shown(text))
        wanted = text.lower() if text in ("AND", "OR", "NOT", "IN") else wanted
        self._fail(f"found {found} where {wanted} is due", self._token.start)

    def _fail(self, what: str, start: int) -> NoReturn:
        raise FilterError(f"filter: {what} (column {start + 1}); for example: {EXAMPLE}")


def _shown(text: str) -> str:
    """Part of an expression in a message of one line."""
    return repr(text if len(text) <= 40 else text[:39] + "…")
