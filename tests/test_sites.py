"""Site files: what is accepted, what is refused and how, what Parsl is told, and what the command line says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
import yaml

from hiperrag.cli.site_checks import check_site
from hiperrag.errors import UserError
from hiperrag.workflows import sites
from hiperrag.workflows.allocation import Allocation, current_allocation, seconds_left
from hiperrag.workflows.parsl_config import batch_scripts, parsl_config
from hiperrag.workflows.sites import StageName, load_site, packaged_sites
from hiperrag.workflows.stages import STAGES
from hiperrag.workflows.staging import staged

SUBMITTING = ("slurm", "pbs", "polaris", "aurora", "frontier", "perlmutter")
FILLED = {"account": "p1", "interface": "127.0.0.1"}


@pytest.fixture
def load(tmp_path):
    """A site from values, read as a file of the user's."""

    def write(**values: object):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_site(str(path))

    return write


def job(**values: object) -> dict[str, object]:
    return {"jobs": {"nodes": {"queue": "q", **values}}}


def scripts_of(site, tmp_path):
    return batch_scripts(site, tmp_path / "run")


def test_packaged_sites_say_where_their_facts_come_from():
    packaged = {site.name: site for site in packaged_sites()}
    assert set(packaged) == {"local", "workstation", "allocation", *SUBMITTING}
    for site in packaged.values():
        assert site.facts.note
        if not site.facts.tested:
            assert site.facts.sources, site.name
            assert all(source.startswith("https://") for source in site.facts.sources)
        if site.name in SUBMITTING:
            assert "account" in site.unfilled()


def test_stages_are_those_of_a_run():
    assert set(get_args(StageName)) >= set(STAGES)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"extends": "slurm", "acount": "x"}, ["acount: there is no such field"]),
        ({"extends": "slurm", **job(walltime="1h")}, ["jobs.nodes.walltime: '1h' is not of the form HH:MM:SS"]),
        ({"extends": "slurm", **job(nodes=0)}, ["jobs.nodes.nodes: "]),
        ({"extends": "slurm", **job(filesystems="home")}, ["jobs.nodes.filesystems: only PBS has it"]),
        ({"extends": "slurm", **job(options=["exclusive"])}, ["jobs.nodes.options: 'exclusive' is no directive"]),
        ({"extends": "slurm", **job(walltime="00:10:00", drain="00:10:00")}, ["jobs.nodes: drain leaves no time"]),
        ({"extends": "pbs", **job(qos="debug")}, ["jobs.nodes.qos: only Slurm has it"]),
        ({"extends": "pbs", **job(cpus=None)}, ["jobs.nodes.cpus: PBS has to be told"]),
        ({"extends": "slurm", "pools": {"cores": {"workers": "cores"}}}, ["pools.cores.workers: a number is needed"]),
        ({"extends": "slurm", "pools": {"cores": {"job": "gpu"}}}, ["pools.cores.job: no job 'gpu'"]),
        ({"extends": "slurm", "pools": {"cores": {"stages": ["parse"]}}}, ["pools: none has the stage recognise"]),
        ({"extends": "slurm", "pools": {"more": {"workers": 1}}}, ["pools.more.stages: missing"]),
        (
            {
                "extends": "perlmutter",
                "pools": {"cores": {"stages": ["encode", "parse", "recognise", "chunk", "build"]}},
            },
            ["encode"],
        ),
        ({"extends": "polaris", "pools": {"gpus": {"accelerators": 3}}}, ["pools.gpus.affinity: 3 workers need 3"]),
        ({"extends": "local", "jobs": {"x": {}}}, ["jobs: this machine takes none"]),
        ({"extends": "summit"}, ["unknown site 'summit'"]),
        ({"extends": "mine.yaml"}, ["extends itself"]),
        ({"scheduler": "lsf"}, ["scheduler: ", "description: missing", "facts: missing", "pools: missing"]),
    ],
)
def test_each_mistake_is_a_line_with_file_and_field(values, says, load):
    with pytest.raises(UserError) as caught:
        load(**values)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(says), lines
    for line, expected in zip(sorted(lines), sorted(says), strict=True):
        assert expected in line
        assert "mine.yaml" in line or "summit" in line


def test_what_only_the_user_knows_is_asked_for_in_one_line():
    with pytest.raises(UserError, match=r"account and jobs\.nodes\.queue not filled in.*extends: slurm") as caught:
        load_site("slurm").check_filled()
    assert "\n" not in str(caught.value)
    load_site("local").check_filled()


def test_a_file_extends_a_site_with_what_differs(load):
    site = load(extends="polaris", account=4711, jobs={"gpu": {"queue": "debug", "nodes": 2, "walltime": 3600}})
    polaris = load_site("polaris")
    assert (site.name, site.account, site.unfilled()) == ("mine", "4711", [])
    assert site.jobs["gpu"].queue == "debug"
    assert site.jobs["gpu"].walltime_seconds == 3600
    assert site.jobs["gpu"].filesystems == polaris.jobs["gpu"].filesystems
    assert site.pools == polaris.pools
    assert site.n_workers == 2 * (24 + 4)
    site.check_filled()


def test_stages_go_to_their_pools(tmp_path):
    site = load_site("perlmutter")
    assert {stage: site.pool_of(stage) for stage in get_args(StageName)} == {
        "parse": "cores",
        "recognise": "cores",
        "chunk": "cores",
        "encode": "gpus",
        "build": "cores",
    }
    assert site.pool_of("train") == "gpus"
    assert site.n_workers == 2 * 128 + 4 * 4
    assert site.threads_per_worker == 16
    cpu, gpu = (script for _, script in scripts_of(site, tmp_path).values())
    assert 'CUDA_VISIBLE_DEVICES=""' in cpu, "all of its workers would take the first"
    assert "CUDA_VISIBLE_DEVICES" not in gpu, "Parsl gives each worker its own"
    assert "--constraint=cpu" in cpu
    assert "--available-accelerators  )" in cpu
    assert "--constraint=gpu" in gpu
    assert "--available-accelerators 0 1 2 3" in gpu
    assert "--account=FILL" in gpu


@pytest.mark.parametrize("site", packaged_sites(), ids=lambda site: site.name)
def test_accelerators_are_kept_for_encoding(site):
    """Recognition runs on cores, of which there are more, unless an engine for GPUs is installed."""
    listed = [stage for pool in site.pools.values() if pool.accelerators for stage in pool.stages]
    assert listed in ([], ["encode"])


def test_monitoring_is_parsls_own_and_refused_in_one_line_where_it_cannot_be(load, tmp_path, monkeypatch):
    assert load(extends="local").monitoring is False
    site = load(extends="local", monitoring=True)
    monkeypatch.setattr(sites, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"hiperrag\[monitoring\]") as refused:
        parsl_config(site, tmp_path, 1)
    assert "\n" not in str(refused.value)


def test_pools_of_one_job_share_its_nodes(load, tmp_path):
    site = load(extends="polaris", **FILLED)
    ((command, script),) = scripts_of(site, tmp_path).values()
    assert command.startswith("qsub  -q prod -A p1 ")
    assert "#PBS -l select=10:ncpus=64:ngpus=4" in script
    assert "#PBS -l filesystems=home:eagle" in script
    pools = next(line for line in script.splitlines() if "process_worker_pool" in line)
    assert pools.count("process_worker_pool.py") == 2
    assert pools.endswith("& while wait -n; do :; done; kill $(jobs -p) 2>/dev/null; wait")
    assert pools.count("-m hiperrag.workflows.node_watch") == 2
    assert "--max_workers_per_node=24" in pools
    assert "--available-accelerators 0 1 2 3" in pools
    assert 'TMPDIR="/tmp"' in pools
    assert "mpiexec --cpu-bind none --depth=64 --ppn 1 -n $WORKERCOUNT" in script
    guest, host = parsl_config(site, tmp_path, 1).executors
    assert host.guests == (guest,)
    assert host.workers_per_node == 28
    guest.tasks[1] = host.tasks[1] = None
    assert host.outstanding() == 2, "jobs are asked for while any pool has work"


def test_nodes_take_no_new_tasks_near_the_end_of_their_job(load, tmp_path):
    (executor,) = parsl_config(load(extends="slurm", account="", **job(walltime="02:00:00")), tmp_path, 9).executors
    assert executor.drain_period == 2 * 3600 - 300
    site = load(extends="slurm", account="", **job(walltime="02:00:00", drain="00:20:00"))
    assert parsl_config(site, tmp_path, 9).executors[0].drain_period == 2 * 3600 - 1200


def test_accelerators_are_found_and_taken_one_a_worker(load, monkeypatch):
    monkeypatch.setattr("hiperrag.workflows.sites.accelerators_here", lambda: ("0", "1"))
    site = load_site("workstation")
    assert site.pool_of("encode") == "gpus"
    assert site.workers_per_node("gpus") == 2
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)))
    assert site.workers_per_node("cores") == 16 - 2 * 2, "the GPUs' workers need cores too"
    monkeypatch.setattr("hiperrag.workflows.sites.accelerators_here", lambda: ())
    without = load_site("workstation")
    assert without.pool_of("encode") == "cores"
    assert without.n_workers == 16


def test_a_job_around_the_process_is_found(monkeypatch, tmp_path):
    for variable in ("SLURM_JOB_ID", "PBS_JOBID", "PBS_NODEFILE"):
        monkeypatch.delenv(variable, raising=False)
    assert current_allocation() is None
    with pytest.raises(UserError, match="not inside a Slurm or PBS job"):
        _ = load_site("allocation").n_workers
    nodes = tmp_path / "nodes"
    nodes.write_text("n1\nn1\nn2\n")
    monkeypatch.setenv("PBS_JOBID", "7.server")
    monkeypatch.setenv("PBS_NODEFILE", str(nodes))
    job = current_allocation()
    assert job is not None
    assert (job.scheduler, job.nodes) == ("pbs", 2)
    ((_, script),) = scripts_of(load_site("allocation"), tmp_path).values()
    assert "mpiexec --bind-to none" in script
    assert "WORKERCOUNT=2" in script
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "12")
    site = load_site("allocation")
    assert site.n_workers == 36
    ((_, script),) = scripts_of(site, tmp_path).values()
    assert "srun --ntasks 3 -l --overlap --nodes=3 --ntasks-per-node=1" in script


def test_a_machine_of_its_own_inside_a_job_keeps_its_pools(load, monkeypatch, tmp_path):
    (tmp_path / "nodes").write_text("n1\nn2\n")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PBS_JOBID", "7.server")
    monkeypatch.setenv("PBS_NODEFILE", str(tmp_path / "nodes"))
    site = load(extends="aurora", scheduler="allocation", interface="127.0.0.1")
    site.check_filled()
    assert site.n_workers == 2 * (80 + 12)
    ((_, script),) = scripts_of(site, tmp_path).values()
    assert "mpiexec --cpu-bind none --ppn 1" in script
    assert "--available-accelerators 0.0 0.1 1.0" in script
    assert "module load frameworks" in script


def test_the_command_line_lists_and_shows_sites(hiperrag):
    status, listed, _ = hiperrag("sites")
    assert status == 0
    assert {line.split()[0] for line in listed.splitlines()} == {site.name for site in packaged_sites()}
    for name in ("local", *SUBMITTING):
        status, shown, errors = hiperrag("sites", "show", name)
        assert status == 0
        assert "# Parsl configuration\nConfig(" in shown
        assert f"label='{load_site(name).pool_of('encode')}'" in shown
        assert "process_worker_pool.py" in shown
        assert bool(errors) == (name != "local"), "what is to be filled in"
    assert "#SBATCH --constraint=nvme" in hiperrag("sites", "show", "frontier")[1]


@pytest.mark.parametrize(
    ("told", "expected"), [("1-02:03:04", 93784), ("29:58", 1798), ("UNLIMITED", None), ("INVALID", None), ("", None)]
)
def test_slurm_says_how_long_a_job_goes_on(told, expected, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    command(tmp_path, "squeue", f"test \"$*\" = '--noheader --job 77 --format %L' && echo '{told}'", monkeypatch)
    job = Allocation("slurm", "77", 1, 1)
    assert seconds_left(job) == expected
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 500))
    assert 490 < (seconds_left(job) or 0) <= 500


def test_pbs_says_how_long_a_job_goes_on(tmp_path, monkeypatch):
    told = {"Resource_List": {"walltime": "01:00:00"}, "stime": time.ctime(time.time() - 600)}
    answer = json.dumps({"Jobs": {"8.polaris": told}})
    command(tmp_path, "qstat", f"test \"$*\" = '-f -F json 8.polaris' && echo '{answer}'", monkeypatch)
    assert 2990 < (seconds_left(Allocation("pbs", "8.polaris", 1, 1)) or 0) < 3001
    command(tmp_path, "qstat", "exit 1", monkeypatch)
    assert seconds_left(Allocation("pbs", "8.polaris", 1, 1)) is None


def command(folder: Path, name: str, script: str, monkeypatch) -> None:
    """A command of the batch system that does what a shell script says."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_doctor_says_what_a_site_lacks_here(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    says = {"sbatch": "", "squeue": "", "scancel": "", "sinfo": "1:00:00 4", "sacctmgr": "p1\np2"}
    for command, output in says.items():
        (tmp_path / command).write_text(f"#!/bin/sh\nprintf '{output}\\n'\n")
        (tmp_path / command).chmod(0o755)
    values = {
        "extends": "slurm",
        "account": "p3",
        "interface": "ib7",
        "setup": ["true", "false"],
        "node_local": str(tmp_path / "fast"),
        "tmpdir": "/" + "t" * 80,
        "jobs": {"nodes": {"queue": "short", "nodes": 5, "walltime": "02:00:00"}},
    }
    findings = list(check_site(load(**values)))
    wrong = [f"{finding.what}: {finding.advice}" for finding in findings if finding.ok is False]
    for line, expected in zip(
        wrong,
        (
            "account p3: not yours; you have p1, p2",
            "queue short: it has 4 nodes, and a job asks for 5",
            "interface ib7: not on this machine",
            "too long for sockets",
            "setup: false: fails here",
        ),
        strict=True,
    ):
        assert expected in line
    assert "commands sbatch, squeue, scancel" in [finding.what for finding in findings if finding.ok]
    values |= {"account": "p2", "interface": "lo", "setup": ["true"], "tmpdir": "/tmp"}
    values["jobs"] = {"nodes": {"queue": "short", "nodes": 4, "walltime": "01:00:00"}}
    assert not [finding for finding in check_site(load(**values)) if finding.ok is False]


def test_models_are_copied_to_the_node_once(tmp_path, monkeypatch):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"w" * 1000)
    assert staged(model) == model
    monkeypatch.setenv("HIPERRAG_NODE_LOCAL", str(tmp_path / "node"))
    code = (
        "import pathlib, sys; from hiperrag.workflows.staging import staged; print(staged(pathlib.Path(sys.argv[1])))"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(model)], stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(2)
    ]
    copies = {worker.communicate(timeout=60)[0].strip() for worker in workers}
    assert len(copies) == 1
    copy = Path(copies.pop())
    assert copy.is_relative_to(tmp_path / "node")
    assert (copy / "weights").read_bytes() == b"w" * 1000
    assert staged(copy) == copy
    (model / "weights").write_bytes(b"v" * 1000)
    assert (staged(model) / "weights").read_bytes() == b"v" * 1000
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    (model / "weights").write_bytes(b"u" * 1001)
    assert staged(model) == model, "no room on the node"
