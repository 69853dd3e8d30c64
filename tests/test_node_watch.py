"""Deaths on a node that Parsl's manager does not get over: the node's workers are started anew."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import psutil
import pytest

from hiperrag.benchmarks.survival.strikes import managers_of
from hiperrag.workflows.node_watch import _is_stuck
from hiperrag.workflows.pool import NodeLostError, Pool, WorkerLostError, result_of
from hiperrag.workflows.sites import load_site


class Unreachable(dict):
    def __contains__(self, key: object) -> bool:
        raise ConnectionRefusedError


@pytest.mark.parametrize(
    ("keeper", "dead", "busy", "stuck"),
    [
        (True, [], {}, False),
        (True, [1], {1: "task"}, False),
        (True, [1], {0: "task"}, True),
        (False, [], {}, True),
        (True, [0], Unreachable(), True),
    ],
    ids=["all well", "died at work", "died while it waited", "the manager's memory died", "and nobody can say"],
)
def test_only_deaths_that_parsl_does_not_get_over_count(keeper, dead, busy, stuck):
    memory = SimpleNamespace(_process=SimpleNamespace(is_alive=lambda: keeper))
    assert _is_stuck(SimpleNamespace(_mp_manager=memory, _tasks_in_progress=busy), dead) == stuck


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["a worker that waits", "the manager's memory"])
def test_a_node_works_on_after_any_death(victim, tmp_path):
    (tmp_path / "site.yaml").write_text("extends: local\nheartbeat: 1\npools:\n  cores: {workers: 1}\n")
    pool = Pool(load_site(str(tmp_path / "site.yaml")), tmp_path / "run", n_tasks=9)
    try:
        first = run(pool, os.getpid)
        time.sleep(2)  # until it holds the lock of the queue again
        [manager] = managers_of(os.getpid())
        others = [one for one in manager.children() if "resource_tracker" not in " ".join(one.cmdline())]
        chosen = psutil.Process(first) if victim == "a worker that waits" else next(p for p in others if p.pid != first)
        chosen.kill()
        assert run(pool, os.getpid) != first
        assert manager.is_running(), "the same process, so that the job goes on"
    finally:
        pool.close()


def run(pool: Pool, function) -> object:
    """A task's result; whoever lost it is asked again."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        pool.submit("task", function)
        while pool.in_flight and time.monotonic() < deadline:
            for _, future in pool.finished(timeout=1):
                try:
                    return result_of(future)
                except (NodeLostError, WorkerLostError):
                    continue
    raise AssertionError("the node does nothing")
