"""The batch job that this process runs in, as Slurm and PBS describe it to its processes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal


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
