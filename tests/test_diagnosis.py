"""`hiperrag doctor RUN` on logs whose troubles are known."""

from __future__ import annotations

import numpy as np
import pytest
from run_logs import BEGIN, PlantedRun, ordinary_run

from hiperrag.workflows.diagnosis import diagnose, expected_seconds, limiting_stage, pools, stragglers, usage
from hiperrag.workflows.observe import status_of
from hiperrag.workflows.tasklog import read_tasks


def kinds(planted: PlantedRun, root) -> dict[str, list[str]]:
    folder = planted.write(root)
    found: dict[str, list[str]] = {}
    for symptom in diagnose(status_of(folder), read_tasks(folder)):
        found.setdefault(symptom.kind, []).append(symptom.what)
    return found


def test_an_ordinary_run_has_a_limiting_stage_and_no_fault(tmp_path):
    found = kinds(ordinary_run(), tmp_path)
    assert set(found) == {"limiting_stage", "usage"}
    assert found["limiting_stage"][0].startswith("encode limits")


def test_the_planted_straggler_is_the_only_one_named(tmp_path):
    planted = ordinary_run(straggler=23)
    log = read_tasks(planted.write(tmp_path / "a"))
    rows = stragglers(log, expected_seconds(log))
    assert [(log.stages[log.stage[row]], log.columns["part"][row]) for row in rows] == [("parse", 23)]
    assert "shard 0 part 23" in kinds(ordinary_run(straggler=23), tmp_path / "b")["straggler"][0]


def test_long_parts_are_no_stragglers_when_their_pages_say_so(tmp_path):
    planted = PlantedRun(1, 30)
    at = 0.0
    for part in range(30):
        pages = 2000 if part == 20 else 50 + part
        at = planted.task("parse", part, "n0:0.0", at, 0.1 * pages, n_pages=pages)
    planted.add(at, "run_finished")
    log = read_tasks(planted.write(tmp_path))
    assert not len(stragglers(log, expected_seconds(log)))


def test_loading_a_model_makes_no_straggler(tmp_path):
    planted = PlantedRun(4, 40)
    free = {f"n{number}:0.0": 0.0 for number in range(4)}
    for part in range(40):
        worker = min(free, key=lambda name: free[name])
        seconds = 2.0 + (60.0 if free[worker] == 0 else 0.0)
        free[worker] = planted.task("encode", part, worker, free[worker], seconds, n_tokens=1000)
    planted.add(max(free.values()), "run_finished")
    log = read_tasks(planted.write(tmp_path))
    assert not len(stragglers(log, expected_seconds(log)))


def test_the_slow_host_is_named(tmp_path):
    found = kinds(ordinary_run(slow="n2"), tmp_path)["slow_host"]
    assert len(found) == 1
    assert found[0].startswith("host n2 is slow")


@pytest.mark.parametrize("kind", ["worker_lost", "part_failed"])
def test_the_failing_host_is_named_and_the_unlucky_one_is_not(kind, tmp_path):
    planted = ordinary_run()
    for number in range(8):
        planted.trouble(10 + number, kind, "encode", number, "n3")
    planted.trouble(12, kind, "encode", 30, "n1")
    found = kinds(planted, tmp_path)
    assert [what.split()[1] for what in found["failing_host"]] == ["n3"]
    assert "8 of" in found["failing_host"][0]
    assert ("lost_workers" in found) == (kind == "worker_lost")


def test_failures_on_all_hosts_blame_none(tmp_path):
    planted = ordinary_run()
    for number in range(12):
        planted.trouble(10 + number, "worker_lost", "encode", number, f"n{number % 4}")
    assert "failing_host" not in kinds(planted, tmp_path)


def test_pools_are_told_apart_by_the_stages_they_share(tmp_path):
    log = read_tasks(ordinary_run().write(tmp_path))
    found = {tuple(pool.stages): [log.workers[worker] for worker in pool.workers] for pool in pools(log)}
    assert set(found) == {("parse", "chunk", "build"), ("encode",)}
    assert all(":1." in worker for worker in found["encode",])
    stage, share, pool = limiting_stage(log)
    assert (stage, round(share, 6), len(pool.workers)) == ("encode", 1.0, 4)
    assert pool.busy > 0.85


def test_where_the_workers_time_went_adds_up(tmp_path):
    planted = PlantedRun(4, 3)  # two of the four never come
    planted.task("parse", 0, "n0:0.0", 0, 10, n_pages=10)
    planted.task("parse", 1, "n0:0.0", 15, 5, n_pages=10)
    planted.task("parse", 2, "n1:0.0", 5, 5, n_pages=10)
    planted.add(20, "run_finished")
    used = usage(read_tasks(planted.write(tmp_path)))
    assert (used.seconds, used.workers) == (20, 4)
    assert np.allclose([used.busy, used.starting, used.gaps, used.tail], [20 / 80, 45 / 80, 5 / 80, 10 / 80])
    assert np.allclose(used.per_worker, [0.75, 0.25])


def test_tasks_that_wait_for_the_main_process_are_noticed(tmp_path):
    planted = PlantedRun(2, 40)
    for part in range(40):
        planted.task("parse", part, f"n0:0.{part % 2}", 5.0 * part, 1.0, n_pages=10)
    planted.add(200, "run_finished")
    assert "main process" in kinds(planted, tmp_path)["limit"][0]


def test_a_killed_run_says_what_was_in_flight(tmp_path):
    planted = ordinary_run()
    planted.events.pop()
    planted.submit(3, "encode", 99)
    found = kinds(planted, tmp_path)
    assert "was killed" in found["killed"][0]
    assert "encode of shard 0 part 99" in found["in_flight"][0]


def test_a_line_cut_short_by_a_kill_does_no_harm(tmp_path):
    folder = ordinary_run().write(tmp_path)
    log = folder / "events.jsonl"
    whole = len(read_tasks(folder))
    text = log.read_text().splitlines(keepends=True)
    log.write_text("".join(text[:-1]) + '{"time": 17e8, "event": "part_do')
    assert len(read_tasks(folder)) == whole


def test_doctor_names_them_on_the_command_line(tmp_path, hiperrag):
    planted = ordinary_run(straggler=23)
    for number in range(8):
        planted.trouble(10 + number, "part_failed", "encode", number, "n3", "CUDA error: device lost")
    folder = planted.write(tmp_path)
    status, output, _ = hiperrag("doctor", folder)
    assert status == 1
    assert "BAD   host n3 fails" in output
    assert "CUDA error: device lost" in output
    assert "note  straggler: parse of shard 0 part 23" in output


def test_times_are_those_of_the_log(tmp_path):
    log = read_tasks(ordinary_run().write(tmp_path))
    assert log.started.min() == pytest.approx(BEGIN + 5)
    assert len(log) == 3 * 40 + 1
