"""The plan keeps parts as they were cut, whatever is added, changed or interrupted."""

from __future__ import annotations

import dataclasses
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiperrag.collection import Collection
from hiperrag.parsing.sources import Input, Listing, discover, iter_rows
from hiperrag.workflows.plan import (
    Plan,
    PlanFile,
    extend_plan,
    halves,
    has_listings,
    known_pieces,
    load_plan,
    save_plan,
)
from hiperrag.workflows.settings import PartSettings

SETTINGS = PartSettings(target_seconds=100, files_per_part=3, rows_per_part=10, parts_per_shard=2)


def pdf(name: str, size: int = 0, stamp: str = "1") -> Input:
    return Input(f"in/{name}", "pdf", f"/in/{name}", "", 0, 0, size or 1000 + int(name), stamp)


def rows(name: str, start: int, stop: int, stamp: str = "1") -> Input:
    return Input(f"in/{name}", "rows", f"/in/{name}", "", start, stop, 50, stamp)


def extend(plan: Plan, found: list[Input], committed=lambda shard: False, contents: dict[str, bytes] | None = None):
    read = (lambda item: (contents or {})[item.source]) if contents else (lambda item: pytest.fail("opened a file"))
    known = {tuple(part) for shard in plan.shards if committed(shard) for part in shard}
    return extend_plan(plan, found, lambda part: tuple(part) in known, read, SETTINGS, lambda item: 0.01)


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
    plan.listings["/data/t.jsonl"] = Listing(9, 8, 512, 1, (("/in.zip", "unsupported", "an archive"),))
    assert not has_listings(Collection(tmp_path))
    save_plan(Collection(tmp_path), plan)
    assert has_listings(Collection(tmp_path))
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


def cut(sizes: list[int], n_workers: int = 1, **settings) -> list[list[int]]:
    """Parts as lists of the seconds of their inputs."""
    found = [pdf(str(n), size) for n, size in enumerate(sizes)]
    read = lambda item: item.source.encode()  # noqa: E731
    limits = PartSettings(**{"files_per_part": 100, "parts_per_shard": 1000} | settings)
    plan = extend_plan(Plan(), found, lambda part: False, read, limits, lambda item: float(item.size), n_workers)
    return [[item.size for item in part] for shard in plan.shards for part in shard]


def test_parts_take_the_target_time_and_what_is_longer_stands_alone():
    assert cut([20, 30, 20, 200, 10, 59], target_seconds=60) == [[20, 30], [20], [200], [10], [59]]


def test_parts_are_smaller_where_there_would_not_be_enough_for_all_workers():
    assert [len(part) for part in cut([1] * 240, n_workers=1)] == [60] * 4
    assert [len(part) for part in cut([1] * 240, n_workers=10)] == [6] * 40
    assert [len(part) for part in cut([1] * 240, n_workers=1000)] == [2] * 120, "not below what a task costs"


@pytest.mark.parametrize("n_files", [7, 9000])
def test_shards_are_read_from_the_file_one_by_one(tmp_path, n_files):
    plan = extend(Plan(), [pdf(str(n)) for n in range(n_files)] + [rows("t.jsonl", 0, 10)])
    plan.duplicates = [(pdf("9"), "in/1")]
    save_plan(Collection(tmp_path), plan)
    saved = PlanFile(Collection(tmp_path))
    assert len(saved) == len(plan.shards)
    for number in (len(saved) - 1, 0, len(saved) // 2):
        assert saved.shard(number) == plan.shards[number]


def test_halves_of_a_part_are_its_inputs_and_in_the_end_single_rows():
    first, second = halves([pdf("1"), pdf("2"), rows("t.jsonl", 0, 10)])
    assert (first, second) == ([pdf("1")], [pdf("2"), rows("t.jsonl", 0, 10)])
    assert halves([pdf("1")]) is None
    first, second = halves([rows("t.jsonl", 4, 9)])
    assert [(item.start, item.stop) for item in (*first, *second)] == [(4, 6), (6, 9)]
    assert sum(item.size for item in (*first, *second)) == 50
    assert halves([rows("t.jsonl", 4, 5)]) is None


def test_a_part_that_was_split_is_found_again_by_its_pieces():
    part = [pdf(str(n)) for n in range(4)]
    (left, right), pieces = halves(part), []
    known = lambda some: list(some) in pieces  # noqa: E731
    assert known_pieces(part, known) == []
    pieces += [left, *halves(right)]
    assert known_pieces(part, known) == pieces
    del pieces[1]
    assert known_pieces(part, known) == [], "one of the pieces is another now"


def test_half_of_a_range_of_rows_is_read_wherever_it_lies(tmp_path):
    lines = [json.dumps({"_id": str(n), "text": "x" * 30 * n}) for n in range(20)]
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    plain.write_text("\n".join(lines))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in lines]), tmp_path / "c.parquet")
    for item in discover([str(tmp_path)], rows_per_input=7).inputs:
        first, second = halves([item])
        for piece in (*first, *second, *halves(second)[1]):
            read = [(index, row["_id"]) for index, row in iter_rows(piece)]
            assert read == [(n, str(n)) for n in range(piece.start, piece.stop)]
