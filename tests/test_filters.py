"""Filter expressions: parsing, errors, and masks against a plain evaluation row by row."""

from __future__ import annotations

import contextlib
import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hiperrag.conditions import Both, Comparison, Condition, Contains, Either, Exists, Not
from hiperrag.errors import UserError
from hiperrag.filters import EXAMPLE, MAX_DEPTH, Filter
from hiperrag.metadata import metadata_columns, value_text

TEXT = ("document", "doc_id", "title", "kind", "section", "passage_id")
KEYS = ("year", "journal", "flag", "pub-date", "my key", "class")
ROWS: list[dict[str, Any]] = [
    {"document": "a.pdf", "title": "Soil of fens", "kind": "table", "pages": (1, 2), "n_tokens": 9, "year": 2015},
    {"document": "b.pdf", "title": "Peat", "kind": "paragraph", "pages": (3, 3), "n_tokens": 50, "year": "2016"},
    {"document": "c", "title": "", "kind": "paragraph", "pages": (0, 0), "n_tokens": 70, "year": "unknown"},
    {"document": "7", "title": "SOILS", "kind": "caption", "pages": (2, 5), "n_tokens": 7, "flag": True, "class": 1},
]


def table_of(rows: list[dict[str, Any]], encoded: bool = False, pieces: int = 1) -> pa.Table:
    columns = {name: pa.array([row.get(name, "") for row in rows], pa.string()) for name in TEXT}
    if encoded:
        columns = {name: column.dictionary_encode() for name, column in columns.items()}
    for index, name in enumerate(("page_start", "page_end")):
        columns[name] = pa.array([row.get("pages", (0, 0))[index] for row in rows], pa.int32())
    columns["n_tokens"] = pa.array([row.get("n_tokens", 0) for row in rows], pa.int32())
    metadata = [{key: value for key, value in row.items() if key in KEYS} for row in rows]
    columns |= {f"metadata.{key}": column for key, column in metadata_columns(metadata).items()}
    table = pa.table(columns)
    size = max(1, -(-len(rows) // pieces))
    return pa.concat_tables([table.slice(start, size) for start in range(0, max(1, len(rows)), size)])


def found(expression: str, rows: list[dict[str, Any]] = ROWS) -> list[int]:
    mask = Filter.parse(expression).mask(table_of(rows))
    assert mask.dtype == np.bool_
    assert mask.shape == (len(rows),)
    return list(np.flatnonzero(mask))


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("kind == 'table'", [0]),
        ('kind != "table"', [1, 2, 3]),
        ("document in ('a.pdf', 'b.pdf',)", [0, 1]),
        ("document not in ['a.pdf', 'b.pdf']", [2, 3]),
        ("document in ()", []),
        ("document not in ()", [0, 1, 2, 3]),
        ("document == 7", [3]),
        ("title >= 'Q'", [0, 3]),
        ("contains(title, 'soil')", [0, 3]),
        ("not contains(title, 'soil')", [1, 2]),
        ("exists(title)", [0, 1, 3]),
        ("n_tokens <= 9", [0, 3]),
        ("9 >= n_tokens", [0, 3]),
        ("8 < n_tokens <= 50", [0, 1]),
        ("n_tokens == 9.0 or n_tokens in (50, 7.5)", [0, 1]),
        ("kind == 'table' or kind == 'paragraph' and n_tokens > 60", [0, 2]),
        ("(kind == 'table' or kind == 'paragraph') and n_tokens > 60", [2]),
        ("not kind == 'table' and n_tokens < 60", [1, 3]),
        ("not (not (kind == 'table'))", [0]),
    ],
)
def test_built_in_fields(expression, rows):
    assert found(expression) == rows


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("page == 2", [0, 3]),
        ("page in (1, 4)", [0, 3]),
        ("page in ()", []),
        ("page == 2.5", []),
        ("page < 3", [0, 3]),
        ("page <= 3", [0, 1, 3]),
        ("page > 2", [1, 3]),
        ("page >= 2", [0, 1, 3]),
        ("3 <= page <= 4", [1, 3]),
        ("not (page == 2)", [1, 2]),
        ("exists(page)", [0, 1, 3]),
        (f"page <= {10**30}", [0, 1, 3]),
        ("page < 1e300", [0, 1, 3]),
        ("page == 0", []),
    ],
)
def test_pages_are_ranges(expression, rows):
    assert found(expression) == rows


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("year >= 2015", [0, 1]),
        ("year > 2015", [1]),
        ("year == 2016", [1]),
        ("year == '2016'", [1]),
        ("year < '2016'", [0]),
        ("year in (2015, '2016')", [0, 1]),
        ("year != 2015", [1, 2]),
        ("not (year == 2015)", [1, 2, 3]),
        ("not (year >= 2015)", [2, 3]),
        ("year not in (2015)", [1, 2]),
        ("exists(year)", [0, 1, 2]),
        ("year == true", []),
        ("flag == true", [3]),
        ("flag != true", []),
        ("not flag == true", [0, 1, 2]),
        ("flag == 'true'", [3]),
        ("flag == 1", []),
        ("class == 1", [3]),
        ("`class` == 1", [3]),
        ("`my key` == 1", []),
        ("not exists(`my key`)", [0, 1, 2, 3]),
        ("contains(year, 'UN')", [2]),
        ("contains(class, '1')", [3]),
    ],
)
def test_metadata_fields(expression, rows):
    assert found(expression) == rows


def test_strings_with_quotes_and_backslashes():
    rows = [{"document": name} for name in ("O'Hara.pdf", 'the "best".pdf', "dir\\new.pdf", "\\'")]
    expressions = [r'"O\'Hara.pdf"', '"O\'Hara.pdf"', "'the \"best\".pdf'", r"'dir\new.pdf'", r"'\\\''"]
    assert [found(f"document == {text}", rows) for text in expressions] == [[0], [0], [1], [2], [3]]


def test_big_integers_are_not_rounded():
    rows = [{"year": 2**53}, {"year": 2**53 + 1}, {"year": 2**63 - 1}]
    assert found(f"year == {2**53 + 1}", rows) == [1]
    assert found(f"year <= {2**53}.0", rows) == [0]
    assert found(f"year < {10**30}", rows) == [0, 1, 2]
    assert found(f"year == {12345678901234567890123}", [{"year": "12345678901234567890123"}]) == [0]


def test_fields_and_columns():
    parsed = Filter.parse("page > 1 and (year >= 2015 or not contains(title, 'x')) and exists(journal)")
    assert parsed.fields == {"page", "year", "title", "journal"}
    assert parsed.columns == {"page_start", "page_end", "metadata.year", "title", "metadata.journal"}
    assert parsed.unknown_fields({"year", "doi"}) == {"journal"}
    parsed.check_fields({"year", "journal"})
    with pytest.raises(UserError, match=r"no passage of the collection has a field named 'journal'; fields: .*year"):
        parsed.check_fields({"year"})
    with pytest.raises(UserError, match=r"did you mean year\?"):
        Filter.parse("yaer == 3").check_fields({"year"})
    assert pickle.loads(pickle.dumps(parsed)) == parsed


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "the expression is empty"),
        ("  ", "the expression is empty"),
        ("year = 2015", "found '=' where == is due (column 6)"),
        ("year <> 2015", "found '<>' where != is due (column 6)"),
        ("year >= 2015 AND kind == 'table'", "found 'AND' where and is due (column 14)"),
        ("year > 1 && year < 3", "found '&&' where and"),
        ("year >=", "found the end where a field or a value is due (column 8)"),
        ("(year >= 2015", "found the end where ) is due (column 14)"),
        ("year >= 2015)", "found ')' where and, or, or the end is due (column 13)"),
        ("document == a.pdf", "two fields are compared"),
        ("2015 == 2015", "two values are compared"),
        ("document == 'a.pdf", "the ' has no end (column 13)"),
        ("year == 2015a", "cannot read '2' (column 9)"),
        ("year == $", "cannot read '$' (column 9)"),
        ("year", "'year' is compared with nothing; write year == ... or exists(year) (column 1)"),
        ("not", "found the end where a field or a value is due (column 4)"),
        ("'a' in title", "write contains(title, 'a')"),
        ("document in (a, b)", "'a' is no value; write strings in quotes (column 14)"),
        ("document in ('a' 'b')", "found 'b' where ) is due"),
        ("page != 3", "write not (page == 3)"),
        ("page == 'x'", "page is compared with a number only"),
        ("contains(page, '3')", "page is a number"),
        ("contains(title, 3)", "contains() looks for a string"),
        ("exists('a')", "is a value where a field is due"),
        ("n_tokens > 'a'", "n_tokens is compared with a number only"),
        ("flag < true", "true and false are compared by == and != only"),
        ("kind == 'tabel'", "no such kind of passage; kinds: title"),
        ("year == 1e999", "the number is too large (column 9)"),
        ("year == " + "9" * 5000, "the number is too large (column 9)"),
        ("(" * 200 + "year == 1" + ")" * 200, "more than 50 nested"),
        ("not " * 5000 + "year == 1", "more than 50 nested"),
        ("__import__('os')", "is compared with nothing"),
        ("year == 1\n  and kind = 2", "found '=' where == is due (column 22)"),
    ],
)
def test_errors_are_one_line_with_place_and_example(expression, message):
    with pytest.raises(UserError) as caught:
        Filter.parse(expression)
    text = str(caught.value)
    assert message in text
    assert text.endswith(f"for example: {EXAMPLE}")
    assert "\n" not in text


def test_deep_but_allowed():
    depth = MAX_DEPTH - 1
    assert found("(" * depth + "kind == 'table'" + ")" * depth) == [0]
    assert found(" or ".join(["kind == 'table'"] * 3000)) == [0]


PIECES = st.sampled_from([
    "and", "or", "not", "in", "(", ")", "[", "]", ",", "==", "!=", "<", "<=", ">", ">=", "=", "'a'", '"b"', "'", '"',
    "`", "`k`", "year", "page", "kind", "exists", "contains", "true", "1", "-2.5", "1e9", "\\", "\0", "é", ".", "-",
])  # fmt: skip


@settings(max_examples=500)
@given(st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=12).map(" ".join), st.lists(PIECES).map("".join)))
@example("exists(year")
@example("kind in ('table'")
def test_any_text_is_parsed_or_refused(expression):
    try:
        parsed = Filter.parse(expression)
    except UserError:
        return
    assert Filter.parse(expression) == parsed
    assert parsed.mask(table_of(ROWS)).shape == (len(ROWS),)


ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
SOME_STRINGS = ["", "a", "B", "É", "soil", "2015", "2015.0", "007", "-3", "1e3", "true", "False", " 7 "]
SOME_INTEGERS = [-3, 0, 1, 2, 3, 7, 1000, 2015, 2016]
SOME_FLOATS = [-0.0, 0.5, 2.5, 7.0, 1e3, 2015.0, 2015.5]
EXTREMES = [2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2.0**53, 2.0**60, 1e300]
STRINGS = st.sampled_from(SOME_STRINGS)
NUMBERS = st.sampled_from([*SOME_INTEGERS, *SOME_FLOATS, *EXTREMES])
LITERALS = st.one_of(NUMBERS, STRINGS, st.booleans())
VALUES = LITERALS


def number(value: Any) -> float | int | None:
    if isinstance(value, bool):
        return None
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return None


def equal(value: Any, literal: Any) -> bool:
    if isinstance(literal, (bool, str)):
        return value_text(value) == value_text(literal)
    return number(value) is not None and number(value) == literal


def compare(value: Any, symbol: str, literal: Any, plain: bool) -> bool:
    if symbol in ("==", "!="):
        return equal(value, literal) == (symbol == "==")
    if isinstance(literal, str) and (plain or number(value) is None or number(literal) is None):
        return ORDER[symbol](value_text(value), literal)
    a, b = number(value), number(literal)
    return a is not None and b is not None and ORDER[symbol](a, b)


def meets(condition: Condition, row: dict[str, Any]) -> bool:
    """The condition on one row, in plain Python."""
    match condition:
        case Not(inner):
            return not meets(inner, row)
        case Both(parts):
            return all(meets(part, row) for part in parts)
        case Either(parts):
            return any(meets(part, row) for part in parts)
    field = condition.field
    if field == "page":
        start, end = row["pages"]
        pages = range(start, end + 1) if start else range(0)
        match condition:
            case Comparison(_, "==" | "in", literals):
                return any(page == literal for page in pages for literal in literals)
            case Comparison(_, symbol, [literal]):
                return any(ORDER[symbol](page, literal) for page in pages)
            case _:
                return len(pages) > 0
    if field not in row:
        return False
    value = row[field]
    match condition:
        case Exists():
            return value != ""
        case Contains(_, text):
            return text.lower() in value_text(value).lower()
        case Comparison(_, "in", literals):
            return any(equal(value, literal) for literal in literals)
        case Comparison(_, "not in", literals):
            return not any(equal(value, literal) for literal in literals)
        case Comparison(_, symbol, [literal]):
            return compare(value, symbol, literal, field in TEXT)
    raise AssertionError(condition)


def written(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' if isinstance(value, str) else repr(value)


def in_list(values: list[Any]) -> str:
    return "(" + ", ".join(map(written, values)) + ")"


COLUMNS = {
    "integers": [*SOME_INTEGERS, *EXTREMES[:4]],
    "floats": [*SOME_FLOATS, *EXTREMES[4:]],
    "numbers": [*SOME_INTEGERS, *SOME_FLOATS],
    "booleans": [True, False],
    "strings": SOME_STRINGS,
    "everything": [*SOME_INTEGERS, *SOME_FLOATS, *EXTREMES, True, False, *SOME_STRINGS],
}


@pytest.mark.parametrize("field", ["year", "title"])
@pytest.mark.parametrize("values", COLUMNS.values(), ids=COLUMNS)
def test_every_comparison_of_every_two_values(values, field):
    if field == "title":
        values = [value_text(value) for value in values]
    rows = [{field: value, "kind": "table"} for value in values] + [{"kind": "table"}] * (field == "year")
    table = table_of(rows)
    literals = COLUMNS["everything"]
    expressions = [
        f"{field} {symbol} {written(literal)}"
        for literal in literals
        for symbol in (*ORDER, "==", "!=")
        if not isinstance(literal, bool) or symbol in ("==", "!=")
    ]
    expressions += [
        f"{field} {symbol} {in_list([first, second])}"
        for first, second in zip(literals, [*literals[3:], *literals[:3]], strict=True)
        for symbol in ("in", "not in")
    ]
    for expression in expressions:
        parsed = Filter.parse(expression)
        assert parsed.mask(table).tolist() == [meets(parsed.condition, row) for row in rows], expression


def test_every_comparison_of_pages():
    rows = [{"pages": (0, 0)}, *({"pages": (a, b)} for a in range(1, 6) for b in range(a, 6))]
    table = table_of(rows)
    for literal in (-1, 0, 1, 2.5, 3, 3.0, 5, 6, 10**30, 1e300):
        for symbol in (*ORDER, "==", "in"):
            parsed = Filter.parse(f"page {symbol} {in_list([literal]) if symbol == 'in' else written(literal)}")
            assert parsed.mask(table).tolist() == [meets(parsed.condition, row) for row in rows], parsed.expression


SYMBOLS = st.sampled_from([*ORDER, "==", "!="])
EQUALITY = st.sampled_from(["==", "!="])
KEY = st.sampled_from(["year", "journal", "flag", "`my key`", "document", "title"])
LEAVES = st.one_of(
    st.builds("{} {} {}".format, KEY, SYMBOLS, st.one_of(NUMBERS, STRINGS).map(written)),
    st.builds("{1} {2} {0}".format, KEY, st.one_of(NUMBERS, STRINGS).map(written), SYMBOLS),
    st.builds("{} {} {}".format, KEY, EQUALITY, st.booleans().map(written)),
    st.builds("{} {} {}".format, KEY, st.sampled_from(["in", "not in"]), st.lists(LITERALS, max_size=3).map(in_list)),
    st.builds("{} <= n_tokens < {}".format, st.integers(-1, 5), NUMBERS.map(written)),
    st.builds("contains({}, {})".format, KEY, STRINGS.map(written)),
    st.builds("exists({})".format, st.sampled_from(["year", "title", "page", "`my key`"])),
    st.builds("page {} {}".format, st.sampled_from([*ORDER, "=="]), NUMBERS.map(written)),
    st.builds("page in {}".format, st.lists(NUMBERS, max_size=3).map(in_list)),
)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds("not ({})".format, inner),
        st.builds("({}) and ({})".format, inner, inner),
        st.builds("({}) or ({})".format, inner, inner),
    ),
    max_leaves=5,
)
RANDOM_ROWS = st.fixed_dictionaries(
    {
        "document": STRINGS,
        "title": STRINGS,
        "kind": st.just("table"),
        "n_tokens": st.integers(0, 5),
        "pages": st.one_of(
            st.just((0, 0)), st.tuples(st.integers(1, 4), st.integers(0, 3)).map(lambda p: (p[0], sum(p)))
        ),
    },
    optional=dict.fromkeys(("year", "journal", "flag", "my key"), VALUES),
)


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, st.lists(RANDOM_ROWS, max_size=6), st.booleans(), st.integers(1, 3))
def test_masks_agree_with_evaluation_row_by_row(expression, rows, encoded, pieces):
    parsed = Filter.parse(expression)
    mask = parsed.mask(table_of(rows, encoded, pieces))
    assert mask.tolist() == [meets(parsed.condition, row) for row in rows]


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS, st.lists(RANDOM_ROWS, min_size=1, max_size=6))
def test_a_rows_answer_does_not_depend_on_its_shard(expression, rows):
    """Columns may differ in type from shard to shard, as their other rows do."""
    parsed = Filter.parse(expression)
    alone = [bool(parsed.mask(table_of([row]))[0]) for row in rows]
    assert parsed.mask(table_of(rows)).tolist() == alone
