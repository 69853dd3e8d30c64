"""The plan keeps parts as they were cut, whatever is added, changed or interrupted."""

from __future__ import annotations

import dataclasses

import pytest

from hiperrag.collection import Collection
from hiperrag.parsing.sources import Input
from hiperrag.workflows.plan import Plan, extend_plan, load_plan, save_plan
from hiperrag.workflows.settings import PartSettings

SETTINGS = PartSettings(files_per_part=3, rows_per_part=10, parts_per_shard=2)


def pdf(name: str, size: int = 0, stamp: str = "1") -> Input:
    return Input(f"in/{name}", "pdf", f"/in/{name}", "", 0, 0, size or 1000 + int(name), stamp)


def rows(name: str, start: int, stop: int, stamp: str = "1") -> Input:
    return Input(f"in/{name}", "rows", f"/in/{name}", "", start, stop, 50, stamp)


def extend(plan: Plan, found: list[Input], committed=lambda shard: False, contents: dict[str, bytes] | None = None):
    read = (lambda item: (contents or {})[item.source]) if contents else (lambda item: pytest.fail("opened a file"))
    return extend_plan(plan, found, committed, read, SETTINGS)


def names(plan: Plan) -> list[list[list[str]]]:
    return [[[item.source.removeprefix("in/") for item in part] for part in shard] for shard in plan.shards]


def test_inputs_are_cut_into_bounded_parts_of_one_kind():
    found = [pdf(str(n)) for n in range(8)] + [rows("t.jsonl", 0, 10), rows("t.jsonl", 10, 14), rows("u.jsonl", 0, 3)]
    assert names(extend(Plan(), found)) == [
        [["0", "1", "2"], ["3", "4", "5"]],
        [["6", "7"], ["t.jsonl"]],
        [["t.jsonl", "u.jsonl"]],
    ]


def test_a_saved_plan_is_read_back_the_same(tmp_path):
    plan = extend(Plan(), [pdf(str(n)) for n in range(8)] + [rows("t.jsonl", 0, 10)])
    plan.duplicates = [(pdf("9"), "in/1")]
    save_plan(Collection(tmp_path), plan)
    assert load_plan(Collection(tmp_path)) == plan


def test_added_files_leave_the_old_parts_alone():
    first = extend(Plan(), [pdf(str(n)) for n in range(0, 8, 2)])
    second = extend(first, [pdf(str(n)) for n in range(8)], committed=lambda shard: True)
    assert names(second)[: len(first.shards)] == names(first)
    assert names(second)[len(first.shards) :] == [[["1", "3", "5"], ["7"]]]


def test_an_interrupted_plan_is_cut_the_same_way_again():
    found = [pdf(str(n)) for n in range(8)]
    first = extend(Plan(), found)
    assert extend(first, found) == first
    assert names(extend(first, [*found, pdf("9")]))[: len(first.shards)] == names(first)


def test_unfinished_inputs_that_are_not_asked_for_again_are_dropped_and_committed_ones_stay():
    first = extend(Plan(), [pdf(str(n)) for n in range(8)])
    committed_first = first.shards[0]
    second = extend(first, [pdf("7")], committed=lambda shard: shard == committed_first)
    assert names(second) == [[["0", "1", "2"], ["3", "4", "5"]], [["7"]]]


def test_a_changed_file_is_exchanged_in_its_part():
    first = extend(Plan(), [pdf(str(n)) for n in range(8)])
    second = extend(first, [pdf("1", stamp="2")], committed=lambda shard: True)
    assert names(second) == names(first)
    assert [item.stamp for item in second.shards[0][0]] == ["1", "2", "1"]


def test_a_source_named_differently_is_the_same_input():
    first = extend(Plan(), [pdf(str(n)) for n in range(3)])
    renamed = [dataclasses.replace(pdf(str(n)), source=f"./{n}") for n in range(3)]
    assert extend(first, renamed, committed=lambda shard: True) == first


def test_row_ranges_of_a_shortened_file_disappear():
    first = extend(Plan(), [rows("t.jsonl", 0, 10), rows("t.jsonl", 10, 20)])
    second = extend(first, [rows("t.jsonl", 0, 5, stamp="2")], committed=lambda shard: True)
    assert [(item.start, item.stop) for item in second.inputs] == [(0, 5)]


def test_files_with_equal_bytes_are_indexed_once_and_remembered():
    found = [pdf("1", size=10), pdf("2", size=10), pdf("3", size=10), pdf("4", size=11)]
    contents = {"in/1": b"same", "in/2": b"same", "in/3": b"other"}
    plan = extend(Plan(), found, contents=contents)
    assert names(plan) == [[["1", "3", "4"]]]
    assert [(item.source, kept) for item, kept in plan.duplicates] == [("in/2", "in/1")]
    assert extend(plan, found, committed=lambda shard: True) == plan, "known duplicates are not opened again"
