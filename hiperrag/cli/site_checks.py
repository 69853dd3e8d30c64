"""`hiperrag doctor --site`: does this machine have what a site says, one line each."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hiperrag.cli.findings import Finding
from hiperrag.counted import counted

if TYPE_CHECKING:
    from hiperrag.workflows.sites import Job, Site

COMMANDS = {"slurm": ("sbatch", "squeue", "scancel"), "pbs": ("qsub", "qstat", "qdel")}
LONGEST_TMPDIR = 60
"""Sockets in TMPDIR have names of 40 characters and more, and may have 107 with their folder."""
SECONDS_PER_COMMAND = 60


def check_site(site: Site) -> Iterator[Finding]:
    """What a site asks for, compared with this machine; nothing is submitted."""
    yield _facts(site)
    yield from _filled(site)
    if site.scheduler in COMMANDS:
        yield from _commands(site)
        yield from _accounts(site)
        yield from _queues(site)
    if site.scheduler == "allocation":
        yield from _allocation(site)
    yield from _interface(site)
    yield from _folders(site)
    yield from _setup(site)
    yield from _workers(site)


def _facts(site: Site) -> Finding:
    return Finding(True if site.facts.tested else None, f"site {site.name}", site.facts.note)


def _filled(site: Site) -> Iterator[Finding]:
    for field in site.unfilled():
        yield Finding(False, field, f"to be filled in: write a file with `extends: {site.name}` and your value")


def _commands(site: Site) -> Iterator[Finding]:
    wanted = COMMANDS[site.scheduler]
    missing = [command for command in wanted if not shutil.which(command)]
    if missing:
        yield Finding(False, f"command {missing[0]}", "not found; run this on the machine's login node")
    else:
        yield Finding(True, f"commands {', '.join(wanted)}")


def _accounts(site: Site) -> Iterator[Finding]:
    accounts = {job.account or site.account for job in site.jobs.values()} - {"", "FILL"}
    if site.scheduler != "slurm" or not shutil.which("sacctmgr"):
        for account in sorted(accounts):
            yield Finding(
                None, f"account {account}", "cannot be checked here; the batch system will when a job is submitted"
            )
        return
    done = _run("sacctmgr", "-nP", "show", "assoc", f"user={getpass.getuser()}", "format=account")
    if done is None:
        if accounts:
            yield Finding(
                None, f"account {', '.join(sorted(accounts))}", "this Slurm keeps no accounts to compare with"
            )
        return
    known = set(done.split())
    for account in sorted(accounts):
        yield Finding(
            account in known,
            f"account {account}",
            "" if account in known else f"not yours; you have {', '.join(sorted(known)) or 'none'}",
        )


def _queues(site: Site) -> Iterator[Finding]:
    for name, job in site.jobs.items():
        if job.queue in ("", "FILL"):
            continue
        found = _partition(job) if site.scheduler == "slurm" else _queue(job)
        if found:
            yield Finding(found == "ok", f"jobs.{name}: queue {job.queue}", "" if found == "ok" else found)


def _partition(job: Job) -> str | None:
    """`ok` or what is wrong with the partition; None where it cannot be asked for."""
    told = _run("sinfo", "-h", "-p", job.queue, "-o", "%l %D") if shutil.which("sinfo") else None
    if told is None:
        return None
    if not told.strip():
        return "there is no such partition; `sinfo` lists them"
    from hiperrag.workflows.allocation import slurm_seconds

    limit, nodes = told.split()[:2]
    if job.nodes > sum(int(line.split()[1]) for line in told.splitlines()):
        return f"it has {counted(int(nodes), 'node')}, and a job asks for {job.nodes}"
    seconds = slurm_seconds(limit)
    if seconds is not None and job.walltime_seconds > seconds:
        return f"jobs may take {limit}, not {job.walltime}"
    return "ok"


def _queue(job: Job) -> str | None:
    if not shutil.which("qstat"):
        return None
    told = _run("qstat", "-Qf", job.queue)
    return "ok" if told else "there is no such queue; `qstat -Q` lists them"


def _allocation(site: Site) -> Iterator[Finding]:
    from hiperrag.errors import UserError

    try:
        job = site.allocation
    except UserError as error:
        yield Finding(False, "a job around this process", str(error).partition(": ")[2])
        return
    yield Finding(
        True, f"{job.scheduler} job {job.job}: {counted(job.nodes, 'node')}, {counted(job.cores, 'core')} on this one"
    )
    launcher = {"slurm": "srun", "pbs": "mpiexec"}[job.scheduler]
    if job.nodes > 1:
        found = shutil.which(launcher)
        yield Finding(bool(found), f"command {launcher}", "" if found else "not found; load the machine's MPI module")


def _interface(site: Site) -> Iterator[Finding]:
    from hiperrag.workflows.parsl_config import addresses_of

    if site.interface:
        found = addresses_of(site.interface)
        advice = "not on this machine; `ip address` lists those there are"
        yield Finding(bool(found), f"interface {site.interface} {' '.join(found)}".strip(), "" if found else advice)


def _folders(site: Site) -> Iterator[Finding]:
    yield _writable("this folder", Path.cwd())
    everywhere = site.scheduler in ("local", "allocation")
    if site.tmpdir:
        tmpdir = Path(os.path.expandvars(site.tmpdir))
        if len(str(tmpdir)) > LONGEST_TMPDIR:
            yield Finding(False, f"tmpdir {tmpdir}", "too long for sockets; choose a shorter path such as /tmp")
        else:
            yield _writable("tmpdir", tmpdir) if everywhere or tmpdir.exists() else _on_nodes("tmpdir", tmpdir)
    if site.node_local:
        folder = Path(os.path.expandvars(site.node_local))
        existing = next(one for one in (folder, *folder.parents) if one.exists())
        here = everywhere or existing != Path("/")
        yield _writable("node_local", existing) if here else _on_nodes("node_local", folder)


def _on_nodes(what: str, folder: Path) -> Finding:
    return Finding(None, f"{what} {folder}", "not on this machine; it has to be on the nodes of the jobs")


def _writable(what: str, folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free / 1e9
            return Finding(True, f"{what} {folder} can be written, {free:.0f} GB free")
    except OSError as error:
        return Finding(False, f"{what} {folder}", f"cannot be written ({error.strerror}); choose another")


def _setup(site: Site) -> Iterator[Finding]:
    """Runs the setup lines in a login shell, as a job would, one after the other."""
    before = ""
    for line in site.setup:
        before += f"{line} || exit 1\n"
        done = _run("bash", "-lc", before)
        yield Finding(done is not None, f"setup: {line}", "" if done is not None else "fails here; mend the line")
        if done is None:
            return


def _workers(site: Site) -> Iterator[Finding]:
    if site.scheduler == "allocation" and not _inside():
        return
    for name in site.active_pools:
        pool, n_workers = site.active_pools[name], site.workers_per_node(name)
        kind = f"on accelerators {' '.join(pool.accelerator_names)}" if pool.accelerator_names else "on cores"
        yield Finding(
            True,
            f"pool {name}: {counted(n_workers, 'worker')} a node {kind}, {counted(pool.threads, 'thread')} each, "
            f"{counted(site.nodes(name), 'node')}",
        )
    for name in site.pools.keys() - site.active_pools.keys():
        yield Finding(None, f"pool {name}", "no accelerator was found on this machine; its stages run on cores")


def _inside() -> bool:
    from hiperrag.workflows.allocation import current_allocation

    return current_allocation() is not None


def _run(*command: str) -> str | None:
    """A command's standard output; None if it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_PER_COMMAND, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
