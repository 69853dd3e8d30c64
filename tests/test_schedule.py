"""The scheduler's rules, one by one, in virtual time."""

from __future__ import annotations

import itertools

import pytest

from hiperrag.workflows.schedule import (
    LEAST_STRAGGLE,
    LOST_NODES_ALLOWED,
    LOST_WORKERS_ALLOWED,
    STRAGGLES_AFTER,
    TASKS_AHEAD,
    TASKS_PER_WORKER,
    Scheduler,
    Task,
)

STAGES = ("parse", "encode", "build")


def task(stage: str = "parse", shard: int = 0, part: int = 0, cost: float = 10.0, pool: str = "cores") -> Task:
    return Task(stage, shard, part, pool, STAGES.index(stage), shard, cost)


def scheduler(*shards: list[Task], workers: int = 1, closed: bool = True, **pools: int) -> Scheduler:
    """A scheduler whose feed gives these shards, and then none; unless it is `closed`, there may be more later."""
    coming = list(shards)

    def feed() -> list[Task] | None:
        return coming.pop(0) if coming else (None if closed else [])

    return Scheduler({"cores": workers} | pools, feed)


def submit(chosen: Scheduler, now: float = 0.0) -> list[tuple[str, int, int]]:
    return [(one.stage, one.shard, one.part) for one in chosen.submissions(now)]


def succeed(chosen: Scheduler, one: Task, seconds: float = 10.0, now: float = 0.0) -> bool:
    first = chosen.ended(one, now)
    if first:
        chosen.succeeded(one, seconds)
    return first


def test_later_stages_come_first_then_the_shard_that_was_opened_first():
    first, second = [task(shard=7)], [task("encode", 8, 0), task(shard=8, part=1, cost=99.0)]
    chosen = scheduler(first, second, closed=False, workers=1)
    assert submit(chosen) == [("encode", 8, 0), ("parse", 7, 0), ("parse", 8, 1)]


def test_when_all_shards_are_open_the_longest_task_of_a_stage_comes_first():
    costs = [3.0, 9.0, 1.0, 5.0]
    chosen = scheduler([task("encode", 1, cost=0.1)], [task(part=n, cost=cost) for n, cost in enumerate(costs)])
    order = []
    for _ in range(5):
        tasks = list(chosen.submissions(0.0))
        order += [(one.stage, one.cost) for one in tasks]
        for one in tasks:
            succeed(chosen, one)
    assert order == [("encode", 0.1), ("parse", 9.0), ("parse", 5.0), ("parse", 3.0), ("parse", 1.0)]
    assert chosen.finished


def test_shards_are_opened_as_workers_need_them():
    opened = []

    def feed() -> list[Task]:
        opened.append(1)
        return [task(shard=len(opened), part=n) for n in range(4)]

    chosen, workers = Scheduler({"cores": 10}, feed), 10
    for _ in range(500):
        for one in list(chosen.submissions(0.0)):
            succeed(chosen, one)
        assert chosen.unfinished <= (TASKS_AHEAD + TASKS_PER_WORKER) * workers + 4
    assert len(opened) > 1000


def test_shards_are_not_opened_without_end_for_a_pool_that_has_nothing_to_do():
    """Where encoding is what takes time, readers wait."""
    numbers = itertools.count()
    chosen = Scheduler({"cores": 4, "gpus": 1}, lambda: [task(shard=next(numbers))])
    for _ in range(300):
        for one in list(chosen.submissions(0.0)):
            if one.stage == "parse":
                succeed(chosen, one)
                chosen.add(task("encode", one.shard, pool="gpus"))
    assert chosen.unfinished == 2 * (TASKS_AHEAD + TASKS_PER_WORKER) * 5


def test_a_feed_that_has_nothing_at_present_is_asked_again():
    chosen = scheduler([task(shard=0)], [], [task(shard=1)])
    assert [*submit(chosen), *submit(chosen)] == [("parse", 0, 0), ("parse", 1, 0)]


def test_a_lost_worker_costs_nothing_but_another_try_until_the_task_is_the_cause():
    one = task()
    chosen = scheduler([one], workers=1)
    for attempt in range(1, LOST_WORKERS_ALLOWED + 1):
        for _ in range(3):
            assert list(chosen.submissions(0.0)) == [one]
            chosen.ended(one, 0.0)
            assert chosen.lost(one, with_node=True)
        assert list(chosen.submissions(0.0)) == [one]
        chosen.ended(one, 0.0)
        assert chosen.lost(one, with_node=False) == (attempt < LOST_WORKERS_ALLOWED)
    assert chosen.finished


def test_lost_nodes_are_forgiven_longer_but_not_for_ever():
    one = task()
    chosen = scheduler([one])
    for attempt in range(1, LOST_NODES_ALLOWED + 1):
        assert list(chosen.submissions(0.0)) == [one]
        chosen.ended(one, 0.0)
        assert chosen.lost(one, with_node=True) == (attempt < LOST_NODES_ALLOWED)


@pytest.fixture
def straggling() -> tuple[Scheduler, Task]:
    """Two workers; all tasks but one have ended, and took twice what was predicted."""
    tasks = [task(part=n, cost=10.0) for n in range(5)]
    chosen = scheduler(tasks, workers=2)
    slow = tasks[0]
    while chosen.unfinished > 1 or not chosen.all_open:
        for one in list(chosen.submissions(0.0)):
            if one is not slow:
                succeed(chosen, one, seconds=20.0)
    return chosen, slow


OVERDUE = STRAGGLES_AFTER * 2 * 10.0 + LEAST_STRAGGLE


def test_a_task_that_takes_too_long_is_doubled_once_when_a_worker_has_nothing_to_do(straggling):
    chosen, slow = straggling
    assert submit(chosen, OVERDUE - 1) == []
    assert list(chosen.submissions(OVERDUE + 1)) == [slow]
    assert submit(chosen, 10 * OVERDUE) == []


@pytest.mark.parametrize("also", ["ends", "fails", "loses its worker"])
def test_the_first_of_two_copies_wins_whatever_becomes_of_the_other(straggling, also):
    chosen, slow = straggling
    submit(chosen, OVERDUE + 1)
    if also == "fails":
        assert chosen.ended(slow, 60.0)
        assert not chosen.failed(slow), "the other copy may succeed"
    elif also == "loses its worker":
        assert chosen.ended(slow, 60.0)
        assert chosen.lost(slow, with_node=False)
    assert succeed(chosen, slow, now=61.0)
    assert chosen.finished
    if also == "ends":
        assert not succeed(chosen, slow, now=62.0)
    assert chosen.finished


def test_both_copies_lost_is_once_more_to_do(straggling):
    chosen, slow = straggling
    submit(chosen, OVERDUE + 1)
    for _ in range(2):
        assert chosen.ended(slow, 70.0)
        assert chosen.lost(slow, with_node=True)
    assert list(chosen.submissions(70.0)) == [slow]


def test_a_task_that_waits_for_a_worker_does_not_straggle():
    tasks = [task(part=n) for n in range(TASKS_PER_WORKER)]
    chosen = scheduler(tasks, workers=1)
    submitted = list(chosen.submissions(0.0))
    for one in submitted[:-1]:
        succeed(chosen, one, now=1000.0)
    assert submitted[-1].started == 1000.0
    assert submit(chosen, 1001.0) == []


def test_nothing_is_doubled_before_it_is_known_how_long_tasks_take():
    chosen = scheduler([task()], workers=2)
    submit(chosen)
    assert submit(chosen, 1e6) == []


def test_before_a_deadline_only_what_is_expected_to_end_in_time_is_begun():
    tasks = [task(part=n, cost=cost) for n, cost in enumerate((10.0, 30.0, 10.0, 10.0))]
    chosen = scheduler(tasks, workers=1)
    chosen.deadline = 25.0
    submitted = list(chosen.submissions(0.0))
    assert [one.cost for one in submitted] == [10.0, 10.0], "one that takes too long keeps no other back"
    for number, one in enumerate(submitted, start=1):
        assert not chosen.drained
        succeed(chosen, one, now=10.0 * number)
    assert submit(chosen, 20.0) == []
    assert chosen.drained
    assert (chosen.in_flight, chosen.unfinished, chosen.finished) == (0, 2, False)


def test_what_tasks_took_tells_whether_others_end_in_time():
    chosen = scheduler([task(part=n, cost=1.0) for n in range(9)], workers=1)
    chosen.deadline = 100.0
    for one in list(chosen.submissions(0.0)):
        succeed(chosen, one, seconds=40.0, now=0.0)
    assert submit(chosen, 50.0) == [("parse", 0, TASKS_PER_WORKER)]
    assert submit(chosen, 70.0) == []


def test_no_shard_is_opened_when_there_is_no_time_for_it():
    opened = []

    def feed():
        opened.append(len(opened))
        return [task(shard=opened[-1], cost=10.0)]

    chosen = Scheduler({"cores": 1}, feed)
    chosen.deadline = 5.0
    assert submit(chosen) == []
    assert submit(chosen) == []
    assert len(opened) <= 2 * TASKS_AHEAD
