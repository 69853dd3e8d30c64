"""Pools of real workers on this machine: stages on their own workers, and losses of every size."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml
from collection_helpers import found

from hiperrag.workflows.pool import NodeLostError, Pool, WorkerLostError, result_of
from hiperrag.workflows.sites import load_site


@pytest.fixture
def scratch():
    """A folder with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        yield Path(folder) / "tmp"


@pytest.fixture
def site(tmp_path, scratch):
    """This machine with a worker of one thread for each core-bound stage and one of three for the others."""
    values = {
        "extends": "local",
        "heartbeat": 1,
        "environment": {"KIND": "both"},
        "setup": ["export PREPARED=yes"],
        "tmpdir": str(scratch),
        "pools": {
            "cores": {"stages": ["parse", "chunk", "build"], "workers": 1},
            "gpus": {"stages": ["recognise", "encode"], "accelerators": ["7"], "threads": 3},
        },
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(values))
    return load_site(str(tmp_path / "two.yaml"))


@pytest.fixture
def pool(site, tmp_path):
    pool = Pool(site, tmp_path / "my run", n_tasks=9)
    yield pool
    pool.close()


def results(pool: Pool) -> dict[object, object]:
    """All tasks' results, or what they raised."""
    found = {}
    while pool.in_flight:
        for tag, future in pool.finished(timeout=1):
            try:
                found[tag] = result_of(future)
            except WorkerLostError as error:
                found[tag] = error
    return found


def test_stages_run_on_their_own_workers_of_one_node(pool, tmp_path, scratch):
    variables = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "KIND", "PREPARED", "TMPDIR", "PARSL_WORKER_BLOCK_ID")
    for stage in ("parse", "encode"):
        for variable in variables:
            pool.submit((stage, variable), os.getenv, variable)
    found = results(pool)
    same = {"KIND": "both", "PREPARED": "yes", "TMPDIR": str(scratch), "PARSL_WORKER_BLOCK_ID": "0"}
    for variable, value in same.items():
        assert found["parse", variable] == found["encode", variable] == value
    assert (found["parse", "OMP_NUM_THREADS"], found["encode", "OMP_NUM_THREADS"]) == ("1", "3")
    assert (found["parse", "CUDA_VISIBLE_DEVICES"], found["encode", "CUDA_VISIBLE_DEVICES"]) == ("", "7")
    assert scratch.is_dir()
    assert len(list((tmp_path / "my run" / "000" / "submit_scripts").glob("*.sh"))) == 1, "one job for both"


def test_parsls_monitoring_lists_the_tasks_in_the_runs_folder(site, tmp_path):
    pytest.importorskip("sqlalchemy")
    pool = Pool(site.model_copy(update={"monitoring": True}), tmp_path / "run", n_tasks=3)
    for number in range(3):
        pool.submit(("parse", number), abs, -number)
    results(pool)
    pool.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "monitoring.db")) as database:
        tries = database.execute("select task_try_time_running, task_try_time_returned from try").fetchall()
    assert len(tries) == 3
    assert all(began and ended for began, ended in tries)


def test_a_lost_parsl_is_started_again_with_what_was_in_flight(pool):
    pool.submit(("parse", "first"), os.getpid)
    results(pool)
    pool.submit(("parse", "long"), time.sleep, 1)
    launching = pool._kernel._task_launch_pool
    interchange = next(iter(pool._kernel.executors.values())).interchange_proc
    psutil.Process(interchange.pid).kill()
    interchange.wait()
    for number in range(5):
        pool.submit(("parse", number), abs, -number)
        pool.submit(("encode", number), abs, -number)
    found = results(pool)
    assert len(found) == 11
    assert {found["parse", number] for number in range(5)} == set(range(5))
    assert pool.restarts == 1
    wait_until(lambda: not any(thread.is_alive() for thread in launching._threads))


def test_a_lost_worker_and_a_lost_node_are_told_apart(pool, site, tmp_path):
    pool.submit(("parse", "worker"), os.getpid)
    worker = psutil.Process(results(pool)["parse", "worker"])
    pool.submit(("parse", "hangs"), time.sleep, 600)
    wait_until(lambda: "Received executor task 2" in log_of(tmp_path, "worker_0.log"))
    worker.kill()
    lost = results(pool)["parse", "hangs"]
    assert isinstance(lost, WorkerLostError)
    assert not isinstance(lost, NodeLostError)
    pool.submit(("parse", "worker"), os.getppid)
    manager = psutil.Process(results(pool)["parse", "worker"])
    pool.submit(("parse", "hangs"), time.sleep, 600)
    wait_until(lambda: "Received executor task 4" in log_of(tmp_path, "worker_0.log"))
    manager.kill()
    assert isinstance(results(pool)["parse", "hangs"], NodeLostError)
    left = {("parse", "after"), ("encode", "after")}  # the other pool's workers do not hold up either
    while left:
        for tag in left:
            pool.submit(tag, abs, -3)
        for tag, result in results(pool).items():
            if not isinstance(result, NodeLostError):  # sent to the rest of the old job
                assert result == 3
                left.remove(tag)


def test_a_run_gives_each_stage_to_its_pool(sources, built, tmp_path, site):
    driver = Path(__file__).parent / "held_stage.py"
    command = [sys.executable, driver, tmp_path / "two.yaml", tmp_path / "c", "", sources]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert found(tmp_path / "c") == found(built)
    logs = {name: tmp_path.glob(f"c/runs/*/parsl/*/{name}/**/worker_*.log") for name in site.pools}
    tasks = {
        name: sum(path.read_text().count("Received executor task") for path in paths) for name, paths in logs.items()
    }
    assert tasks == {"cores": 9 + 9 + 3, "gpus": 9}


def log_of(folder, name: str) -> str:
    return "".join(path.read_text() for path in folder.glob(f"my run/000/cores/block-*/*/{name}"))


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
