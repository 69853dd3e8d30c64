"""PBS sites against a stand-in for PBS that refuses what PBS refuses; no PBS takes part."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pbs_stand_in
import pytest
import yaml
from collection_helpers import found, index, shards_of, unnamed, use_inline_pool
from held_stage import PARTS
from slurm_helpers import wait_until

from hiperrag.errors import UserError
from hiperrag.workflows.parsl_config import batch_scripts
from hiperrag.workflows.pool import Pool, result_of
from hiperrag.workflows.sites import load_site

TESTS = Path(__file__).resolve().parent
ALCF = {
    "max_nodes": 496,
    "max_walltime": 86400,
    "accounts": ["p1"],
    "filesystems": ["home", "eagle", "flare"],
}


@pytest.fixture
def pbs(tmp_path, monkeypatch):
    """Queues like those of ALCF, and one that takes anything."""
    environment = pbs_stand_in.install(
        tmp_path / "pbs",
        prod=ALCF | {"min_nodes": 10},
        debug=ALCF | {"min_nodes": 1, "max_nodes": 2, "max_walltime": 3600},
        anything={"min_nodes": 1, "max_nodes": 9999, "max_walltime": 10**6},
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "pbs"


@pytest.fixture
def load(tmp_path):
    def write(base: str, **values: object):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"extends": base, "account": "p1", "interface": "127.0.0.1"} | values))
        return load_site(str(path))

    return write


def submit(site, tmp_path: Path) -> list[subprocess.CompletedProcess[str]]:
    """Give the scripts as they would be submitted to the stand-in, which only checks them."""
    results = []
    for number, (command, text) in enumerate(batch_scripts(site, tmp_path / "run").values()):
        script = tmp_path / f"job-{number}"
        script.write_text(text)
        words = [word if not word.startswith("SCRIPTS/") else str(script) for word in command.split()]
        environment = os.environ | {"PBS_STAND_IN_ONLY_CHECKS": "yes"}
        results.append(subprocess.run(words, capture_output=True, text=True, env=environment, check=False))
    return results


@pytest.mark.parametrize(
    ("base", "values"),
    [
        ("pbs", {"jobs": {"nodes": {"queue": "anything"}}}),
        ("pbs", {"jobs": {"nodes": {"queue": "anything", "memory_gb": 64, "gpus": 2, "nodes": 3, "exclusive": False}}}),
        ("polaris", {}),
        ("polaris", {"jobs": {"gpu": {"queue": "debug", "nodes": 2, "walltime": "01:00:00"}}}),
        ("aurora", {"jobs": {"gpu": {"nodes": 10}}}),
    ],
)
def test_scripts_are_accepted(base, values, pbs, load, tmp_path):
    (done,) = submit(load(base, **values), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"account": "p2"}, "No active allocation"),
        ({"jobs": {"gpu": {"queue": "production"}}}, "Unknown queue"),
        ({"jobs": {"gpu": {"nodes": 2}}}, "violates queue"),
        ({"jobs": {"gpu": {"queue": "debug", "nodes": 2}}}, "violates queue"),
        ({"jobs": {"gpu": {"filesystems": "home:grand"}}}, "filesystems"),
        ({"jobs": {"gpu": {"filesystems": ""}}}, "filesystems"),
        ({"jobs": {"gpu": {"options": ["-l ncpus=4"]}}}, 'cannot be used with "select"'),
        ({"jobs": {"gpu": {"options": ["-l colour=red"]}}}, "Unknown resource"),
        ({"jobs": {"gpu": {"options": ["--exclusive"]}}}, "invalid option"),
    ],
)
def test_the_stand_in_refuses_what_pbs_refuses(values, says, pbs, load, tmp_path):
    (done,) = submit(load("polaris", **values), tmp_path)
    assert done.returncode == 1
    assert says in done.stderr


def test_what_pbs_refuses_ends_the_run_in_one_line(pbs, load, tmp_path):
    site = load("pbs", account="p2", poll=1, jobs={"nodes": {"queue": "prod", "nodes": 10}})
    pool = Pool(site, tmp_path / "run", n_tasks=1)
    try:
        pool.submit(("parse", 0, 0), len, "abc")
        with pytest.raises(UserError, match="No active allocation found for project") as caught:
            drain(pool)
    finally:
        pool.close()
    assert "\n" not in str(caught.value)


def drain(pool: Pool) -> None:
    while pool.in_flight:
        for _, future in pool.finished(timeout=0.5):
            result_of(future)


def test_ready_text_is_indexed_through_the_stand_in(pbs, sources, load, tmp_path, monkeypatch, models):
    load("pbs", poll=1, heartbeat=1, jobs={"nodes": {"queue": "anything"}}, pools={"cores": {"workers": 1}})
    command = [sys.executable, TESTS / "held_stage.py", tmp_path / "mine.yaml", tmp_path / "c", "", sources]
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    use_inline_pool(monkeypatch)
    index(sources, tmp_path / "same", parts=PARTS)
    assert found(tmp_path / "c") == found(tmp_path / "same")
    assert [files(folder) for folder in shards_of(tmp_path / "c")] == [
        files(folder) for folder in shards_of(tmp_path / "same")
    ]
    assert not unnamed(tmp_path / "c")
    wait_until(lambda: not pbs_stand_in.is_running(pbs, "1"), 30)  # it was deleted when the run was done


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
