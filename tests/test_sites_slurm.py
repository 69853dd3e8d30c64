"""Runs through a real Slurm of two nodes on this machine, disturbed as machines are."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from collection_helpers import found, shards_of, unnamed, use_inline_pool, write_folder
from held_stage import PARTS
from slurm_helpers import two_nodes, wait_until

from hiperrag.collection import Collection
from hiperrag.records import read_passages
from hiperrag.workflows import run
from hiperrag.workflows.sites import load_site

pytestmark = pytest.mark.slow
TESTS = Path(__file__).resolve().parent
DRIVER = TESTS / "held_stage.py"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with two_nodes(tmp_path_factory.mktemp("slurm") / "s") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def papers(tmp_path_factory, examples):
    """Ready text in small files, and two sample papers."""
    folder = write_folder(tmp_path_factory.mktemp("mixed") / "in")
    for paper in sorted(examples.glob("*.pdf"))[:2]:
        (folder / paper.name).symlink_to(paper)
    return folder


@pytest.fixture(scope="module")
def undisturbed(papers, tmp_path_factory, models):
    root = tmp_path_factory.mktemp("undisturbed") / "c"
    with pytest.MonkeyPatch.context() as patch:
        use_inline_pool(patch)
        run.index_sources(
            [str(papers)], root, load_site("local"), lambda old: old.model_copy(update={"parts": PARTS}), quiet=True
        )
    return contents(root)


@pytest.fixture
def site(tmp_path):
    """A site file for the test cluster: up to two jobs of a node, impatient about losses."""

    def write(**job: object) -> Path:
        changes = {
            "extends": "slurm",
            "account": "",
            "heartbeat": 1,
            "poll": 1,
            "jobs": {"nodes": {"queue": "debug", "at_most": 2, "walltime": "00:10:00"} | job},
            "pools": {"cores": {"workers": 1}},
        }
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(changes))
        return tmp_path / "cluster.yaml"

    return write


def contents(root: Path):
    """All passages with their places, the bytes of all shards, and what is found."""
    collection = Collection(root)
    passages = [
        (p.passage_id, p.document, p.kind, p.section, p.text, p.page_start, p.page_end)
        for part in collection.manifest().parts
        for p in read_passages(collection.passages_path(part.passages))
    ]
    shards = [{path.name: path.read_bytes() for path in sorted(folder.iterdir())} for folder in shards_of(root)]
    return passages, shards, found(root), found(root, "fast", 5)


@pytest.fixture
def start(slurm, papers):
    """Start a run on a site; it is ended with the test."""
    processes = []

    def begin(site: Path, root: Path, held: Path | str = "") -> subprocess.Popen[str]:
        command = [sys.executable, str(DRIVER), str(site), str(root), str(held), str(papers)]
        process = subprocess.Popen(command, env=environment(slurm), stderr=subprocess.PIPE, text=True, cwd=root.parent)
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def environment(slurm) -> dict[str, str]:
    """Workers find this folder's modules through the environment that jobs inherit."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return slurm.environment | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def finish(process: subprocess.Popen[str], root: Path) -> list[dict]:
    """Wait for the end of a run that has to go well; its events."""
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert not unnamed(root)
    log = next(root.glob("runs/*/events.jsonl"))
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_ready_text_and_papers_are_indexed_by_batch_jobs(slurm, site, start, undisturbed, tmp_path):
    root = tmp_path / "c"
    process = start(site(), root)
    wait_until(lambda: slurm.jobs("R") or process.poll() is not None, 120)
    finish(process, root)
    assert contents(root) == undisturbed
    wait_until(lambda: not slurm.jobs(), 30)
    script = next(root.glob("runs/*/parsl/*/submit_scripts/*block-0*[0-9]")).read_text()
    assert "#SBATCH --partition=debug" in script


@pytest.mark.parametrize("how", ["node killed", "job cancelled", "walltime"])
def test_what_is_lost_is_done_again(how, slurm, site, start, undisturbed, tmp_path):
    root, held = tmp_path / "c", tmp_path / "held"
    walltime = "00:01:00" if how == "walltime" else "00:10:00"
    process = start(site(walltime=walltime, drain="00:00:05"), root, held)
    wait_until(lambda: held.exists() or process.poll() is not None, 120)
    job, node, _ = held.read_text().split()
    if how == "node killed":
        slurm.kill_node(node)
    elif how == "job cancelled":
        slurm.run("scancel", job)
    else:
        wait_until(lambda: job not in slurm.jobs(), 240)  # Slurm looks every half minute
    events = finish(process, root)
    if how == "node killed":
        slurm.start_node(node)
        wait_until(lambda: slurm.idle_nodes() == 2, 60)
    assert contents(root) == undisturbed
    lost = [event for event in events if event["event"] == "worker_lost"]
    assert [event["stage"] for event in lost if "loss of manager" in event["message"]].count("encode") >= 1
    assert not [event for event in events if event["event"] == "part_failed"]


def test_a_job_of_two_nodes_goes_on_with_one_when_the_other_fails(slurm, site, start, undisturbed, tmp_path):
    root, held = tmp_path / "c", tmp_path / "held"
    process = start(site(nodes=2, at_most=1), root, held)
    wait_until(lambda: held.exists() or process.poll() is not None, 120)
    slurm.kill_node("node2")  # the first node has the batch script, without which there is no job
    if held.read_text().split()[1] == "node1":
        held.unlink()
    finish(process, root)
    slurm.start_node("node2")
    wait_until(lambda: slurm.idle_nodes() == 2, 60)
    scripts = [path for path in root.glob("runs/*/parsl/*/submit_scripts/parsl.*") if path.suffix.strip(".").isdigit()]
    assert len(scripts) == 1, "one job was enough"
    assert contents(root) == undisturbed


def test_jobs_end_with_the_main_process_and_a_second_run_resumes(slurm, site, start, undisturbed, tmp_path):
    root, held = tmp_path / "c", tmp_path / "held"
    process = start(site(), root, held)
    wait_until(lambda: held.exists() or process.poll() is not None, 120)
    process.kill()
    process.wait()
    wait_until(lambda: not slurm.jobs(), 90)
    process = start(site(), root)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert contents(root) == undisturbed
    assert not unnamed(root)


def test_inside_a_job_its_nodes_are_used(slurm, papers, undisturbed, tmp_path):
    root, script = tmp_path / "c", tmp_path / "script"
    command = shlex.join([sys.executable, str(DRIVER), "allocation", str(root), "", str(papers)])
    script.write_text(f"#!/bin/bash\n#SBATCH --nodes=2 --exclusive --output={tmp_path / 'log'}\n{command}\n")
    done = subprocess.run(["sbatch", "--wait", script], env=environment(slurm), check=False, timeout=300)
    assert done.returncode == 0, (tmp_path / "log").read_text()
    assert contents(root) == undisturbed
    assert len(list(root.glob("runs/*/parsl/*/cores/block-0/*/manager.log"))) == 2, "a pool on each node"


def test_two_jobs_share_a_collection_and_one_finishes_what_the_other_leaves(slurm, papers, undisturbed, tmp_path):
    root, held = tmp_path / "c", tmp_path / "held"
    changes = {"extends": "allocation", "heartbeat": 1, "pools": {"cores": {"workers": 1}}}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(changes))

    def submit(held: Path | str) -> str:
        script = tmp_path / "script"
        command = [sys.executable, str(DRIVER), str(tmp_path / "one.yaml"), str(root), str(held), str(papers)]
        directives = f"#SBATCH --nodes=1 --exclusive --output={tmp_path / 'log'}-%j"
        script.write_text(f"#!/bin/bash\n{directives}\n{shlex.join(command)}\n")
        return subprocess.check_output(["sbatch", "--parsable", script], env=environment(slurm), text=True).strip()

    def log(job: str) -> str:
        return (tmp_path / f"log-{job}").read_text()

    first = submit(held)
    wait_until(lambda: held.exists() or first not in slurm.jobs(), 120)
    assert held.exists(), log(first)
    second = submit("")
    wait_until(lambda: '"event": "waiting"' in "".join(events_of(root)) or second not in slurm.jobs(), 180)
    assert second in slurm.jobs(), log(second)
    waiting = next(json.loads(line) for line in "".join(events_of(root)).splitlines() if '"waiting"' in line)
    assert f"batch job {first}" in waiting["others"][0]
    assert 0 < Collection(root).manifest().counts.shards < 4
    slurm.run("scancel", first)
    wait_until(lambda: second not in slurm.jobs(), 180)
    assert contents(root) == undisturbed
    assert not unnamed(root)
    done = [json.loads(line) for text in events_of(root) for line in text.splitlines()]
    tasks = [(one["stage"], one["shard"], one["part"]) for one in done if one["event"] == "part_done"]
    assert len(tasks) == len(set(tasks)), "nothing twice"


def events_of(root: Path) -> list[str]:
    return [path.read_text() for path in root.glob("runs/*/events.jsonl")]
