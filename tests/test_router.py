"""The router: budgets, which pages need recognition, and which get it."""

from __future__ import annotations

import dataclasses
import random

import pytest

from hiperrag.errors import UserError
from hiperrag.parsing.router import GOOD_TEXT, IN_PART, Budget, Need, choose, is_needed, needs
from hiperrag.records import PageRecord


@pytest.mark.parametrize(
    ("text", "of", "amount"),
    [
        ("all", "pages", 1.0),
        ("none", "pages", 0.0),
        ("5%", "pages", 0.05),
        ("0.05", "pages", 0.05),
        ("100%", "pages", 1.0),
        (" 1 ", "pages", 1.0),
        ("time:25%", "time", 0.25),
        ("time:0.25", "time", 0.25),
        ("90s", "seconds", 90.0),
        ("30m", "seconds", 1800.0),
        ("2h", "seconds", 7200.0),
        ("1.5D", "seconds", 129600.0),
    ],
)
def test_budgets_are_understood(text: str, of: str, amount: float) -> None:
    budget = Budget.parse(text)
    assert (budget.of, budget.amount) == (of, pytest.approx(amount))


@pytest.mark.parametrize("text", ["", "5", "105%", "-1%", "time:100%", "30", "fast", "1e-3", "5 %x", "nan", "time:30m"])
def test_what_is_no_budget_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^--ocr-budget .*: give all, none") as refused:
        Budget.parse(text)
    assert "\n" not in str(refused.value)


def test_a_budget_says_how_many_pages_or_seconds() -> None:
    assert Budget.parse("all").pages(123) == 123
    assert Budget.parse("none").pages(123) == 0
    assert Budget.parse("10%").pages(123) == 12
    assert Budget.parse("7%").pages(100) == 7, "no page is lost to rounding"
    assert Budget.parse("20s").seconds(10.0) == 20.0
    assert Budget.parse("1h").seconds(10.0) == 3600.0
    # A quarter of the whole time: 10 s of reading are three quarters, 3.33 s are left.
    assert Budget.parse("time:25%").seconds(10.0) == pytest.approx(10 / 3)
    assert Budget.parse("time:50%").seconds(10.0) == pytest.approx(10.0)


def record(page: int, quality: float, route: str = "text") -> PageRecord:
    return PageRecord(page, 600.0, 800.0, route, "", quality)  # type: ignore[arg-type]


def test_pages_that_need_recognition() -> None:
    records = [record(1, 1.0), record(2, 0.0), record(3, GOOD_TEXT), record(4, 0.2, "ocr"), record(5, 0.0, "failed")]
    assert [is_needed(one) for one in records] == [False, True, False, False, False]
    assert needs("part", 7, records) == [Need(0.0, "part", 7, 2)]


def test_the_worst_pages_of_all_parts_come_first() -> None:
    wanted = [Need(0.3, "a", 0, 1), Need(0.0, "b", 2, 4), Need(0.0, "b", 2, 3), Need(0.1, "c", 1, 9)]
    assert choose(wanted, 0) == {}
    assert choose(wanted, 2) == {("b", 2): [3, 4]}
    assert choose(wanted, 3) == {("b", 2): [3, 4], ("c", 1): [9]}
    assert choose(wanted, 99) == {("b", 2): [3, 4], ("c", 1): [9], ("a", 0): [1]}


def test_pages_that_are_good_but_for_a_part_count_as_that_part() -> None:
    spoilt = dataclasses.replace(record(6, 0.7), reason=f"characters without a meaning {IN_PART}")
    assert is_needed(spoilt)
    [need] = needs("part", 0, [spoilt, record(7, 0.7)])
    assert (need.page, need.share) == (6, pytest.approx(0.3))
    others = [dataclasses.replace(need, page=page) for page in range(1, 8)]
    worst = Need(0.0, "part", 0, 99)
    assert choose([worst, *others], 1) == {("part", 0): [99]}
    assert choose([worst, *others], 2) == {("part", 0): [1, 2, 3, 99]}
    dear, cheap = Need(0.2, "a", 0, 1, 0.9), Need(0.8, "a", 0, 2, 0.2)
    assert choose([Need(0.1, "a", 0, 3, 0.8), dear, cheap], 1) == {("a", 0): [2, 3]}, "what is left goes to what fits"


def test_the_choice_does_not_depend_on_the_order_of_the_parts() -> None:
    wanted = [Need(quality / 4, f"part{part}", 0, page) for part in range(5) for page in range(6) for quality in (0, 1)]
    expected = choose(wanted, 11)
    for seed in range(5):
        shuffled = random.Random(seed).sample(wanted, len(wanted))
        assert choose(shuffled, 11) == expected
