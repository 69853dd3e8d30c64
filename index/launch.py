"""How this process was started: alone, or as one of the ranks of an MPI job. Alone, it loads no MPI."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from hiperrag.index.ranks import Ranks

_T = TypeVar("_T")

VARIABLE = "HIPERRAG_MPI"
"""1: this process is a rank whatever the environment looks like; 0: it is not."""
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Set by the launchers of Open MPI; of MPICH and its kin (Intel, Cray, MVAPICH), and by `srun --mpi=pmi2`."""
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
_SLURM_RANK = "SLURM_PROCID"


def n_ranks() -> int:
    """Processes of the MPI job that this process belongs to, as far as the environment tells; 1 when alone.

    Slurm sets its variables in batch scripts too, so they count only beside PMIX_RANK, which `srun --mpi=pmix` sets.
    """
    sizes = [*_SIZES, "SLURM_STEP_NUM_TASKS"] if "PMIX_RANK" in os.environ else _SIZES
    found = [int(os.environ[name]) for name in sizes if os.environ.get(name, "").isdecimal()]
    return max([1, *found])


def under_mpi() -> bool:
    """Whether MPI is to be loaded: in a job of several ranks, or where HIPERRAG_MPI says so."""
    wanted = os.environ.get(VARIABLE, "")
    return wanted == "1" or (wanted != "0" and n_ranks() > 1)


def speaks() -> bool:
    """Whether this process may write messages: rank 0, and every process outside MPI. Needs no MPI library."""
    if not under_mpi():
        return True
    ranks = [os.environ[name] for name in (*_RANKS, _SLURM_RANK) if name in os.environ]
    return not ranks or ranks[0] == "0"


def run(command: Callable[[Ranks | None], _T]) -> _T | None:
    """Run a command; in an MPI job on rank 0, with the other ranks, where this returns None, at its service."""
    if not under_mpi():
        return command(None)
    from hiperrag.index.ranks import Ranks, world

    ranks = Ranks(world())
    return ranks.run(lambda: command(ranks))
