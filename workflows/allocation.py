"""The batch job that this process runs in, as Slurm and PBS describe it to its processes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Literal

SECONDS_PER_COMMAND = 60


@dataclasses.dataclass(frozen=True, slots=True)
class Allocation:
    """A job's nodes; `cores` are those of this node that the job may use."""

    scheduler: Literal["slurm", "pbs"]
    job: str
    nodes: int
    cores: int


def current_allocation() -> Allocation | None:
    """The job around this process; None outside of one."""
    here = len(os.sched_getaffinity(0))
    if "SLURM_JOB_ID" in os.environ:
        nodes = os.environ.get("SLURM_JOB_NUM_NODES") or os.environ.get("SLURM_NNODES") or "1"
        cores = os.environ.get("SLURM_CPUS_ON_NODE", "")
        return Allocation("slurm", os.environ["SLURM_JOB_ID"], int(nodes), int(cores) if cores.isdigit() else here)
    listed = Path(os.environ.get("PBS_NODEFILE", ""))
    if "PBS_JOBID" in os.environ and listed.is_file():
        return Allocation("pbs", os.environ["PBS_JOBID"], len(set(listed.read_text(encoding="utf-8").split())), here)
    return None


def seconds_left(allocation: Allocation) -> float | None:
    """Seconds until the job's walltime ends; None where it has no end, or nobody tells."""
    if allocation.scheduler == "pbs":
        return _pbs_seconds_left(allocation.job)
    end = os.environ.get("SLURM_JOB_END_TIME", "")  # from Slurm 22.05 on
    if end.isdigit():
        return int(end) - time.time()
    return slurm_seconds(_told("squeue", "--noheader", "--job", allocation.job, "--format", "%L").strip())


def slurm_seconds(limit: str) -> int | None:
    """A time as Slurm prints it, days-hours:minutes:seconds; None for UNLIMITED and the like."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds


def _pbs_seconds_left(job: str) -> float | None:
    try:
        told = next(iter(json.loads(_told("qstat", "-f", "-F", "json", job))["Jobs"].values()))
        hours, minutes, seconds = map(int, told["Resource_List"]["walltime"].split(":"))
        begun = time.mktime(time.strptime(told["stime"]))
    except (ValueError, KeyError, StopIteration):
        return None
    return begun + 3600 * hours + 60 * minutes + seconds - time.time()


def _told(*command: str) -> str:
    """What a command of the batch system prints; nothing if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_PER_COMMAND, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
