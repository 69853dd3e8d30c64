"""The processes of an MPI job: rank 0 runs the command, the others do their part of the jobs that it gives.

A UserError on any rank is raised on rank 0. Any other failure aborts the job, so that no rank waits for ever.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from hiperrag.errors import UserError
from hiperrag.index import launch

if TYPE_CHECKING:
    from mpi4py import MPI

_ATTENTIVE_S, _PAUSE_S = 0.002, 0.0005
"""How long an idle rank looks for the next job without pausing, and its pauses afterwards."""
_FORWARD_S = 0.5
"""What a launcher has not passed on when a job is aborted is lost, so it gets so long."""
_T = TypeVar("_T")


def world() -> MPI.Intracomm:
    """All ranks of this MPI job; UserError where MPI cannot be used."""
    try:
        from mpi4py import MPI
    except ImportError:
        raise UserError(
            "this process was started by an MPI launcher, but mpi4py is missing: pip install mpi4py"
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"mpi4py finds no MPI library ({reason}); load the machine's MPI module, or: pip install mpich"
        ) from None
    started = launch.n_ranks()
    if started > 1 and MPI.COMM_WORLD.size != started:
        raise UserError(
            f"the launcher started {started} processes, but mpi4py sees {MPI.COMM_WORLD.size}; "
            "use the mpiexec that belongs to mpi4py's MPI library"
        )
    return MPI.COMM_WORLD


class Ranks:
    """The processes of an MPI job: rank 0 gives jobs, which all perform together."""

    def __init__(self, communicator: MPI.Intracomm) -> None:
        self.communicator = communicator
        self.size = communicator.size
        self.kept: list[object] = []
        """What jobs leave for later ones; at the same place on all ranks."""
        self._lock = threading.Lock()

    def run(self, command: Callable[[], _T]) -> _T | None:
        """Run a command on rank 0 and return its result; the other ranks serve it and return None when it has ended."""
        if self.communicator.rank:
            self._serve()
            return None
        try:
            return command()
        finally:
            self._send(None)

    def call(self, job: Callable[..., _T], *arrays: npt.NDArray[Any]) -> _T:
        """On rank 0: have all ranks perform a job with these arrays. UserError when any of them raises one."""
        with self._lock:
            self._send(job, arrays)
            return self._perform(job, arrays)

    def threads(self) -> int:
        """Cores for this rank: those it may use, shared with the ranks of its machine that may use them too."""
        from mpi4py import MPI

        mine = os.sched_getaffinity(0)
        machine = self.communicator.Split_type(MPI.COMM_TYPE_SHARED)
        n_sharing = sum(not mine.isdisjoint(cores) for cores in machine.allgather(mine))
        machine.Free()
        return max(1, len(mine) // n_sharing)

    def _serve(self) -> None:
        while True:
            job, arrays = self._receive()
            if job is None:
                return
            # rank 0 has the error too, and decides
            with contextlib.suppress(UserError):
                self._perform(job, arrays)

    def _send(self, job: Callable[..., Any] | None, arrays: Sequence[npt.NDArray[Any]] = ()) -> None:
        self.communicator.Ibcast(np.zeros(1, dtype=np.uint8)).Wait()
        self.communicator.bcast((job, [(array.shape, array.dtype) for array in arrays]))
        for array in arrays:
            self.communicator.Bcast(as_bytes(np.ascontiguousarray(array)))

    def _receive(self) -> tuple[Callable[..., Any] | None, list[npt.NDArray[Any]]]:
        """Wait for a job, leaving the core to others: MPI itself waits at full speed."""
        knock = self.communicator.Ibcast(np.zeros(1, dtype=np.uint8))
        began = time.monotonic()
        while not knock.Test():
            time.sleep(0 if time.monotonic() - began < _ATTENTIVE_S else _PAUSE_S)
        job, kinds = self.communicator.bcast(None)
        arrays = [np.empty(shape, dtype) for shape, dtype in kinds]
        for array in arrays:
            self.communicator.Bcast(as_bytes(array))
        return job, arrays

    def _perform(self, job: Callable[..., _T], arrays: Sequence[npt.NDArray[Any]]) -> _T:
        try:
            return job(self, *arrays)
        except UserError:
            raise  # on all ranks: see `agree` and `exchange`
        except BaseException as error:
            self._abort(error)

    def _abort(self, error: BaseException) -> NoReturn:
        if isinstance(error, KeyboardInterrupt):
            self.communicator.Abort(130)
        told = "".join(traceback.format_exception(error))
        sys.stderr.write(f"{told}hiperrag: rank {self.communicator.rank} failed; the job is aborted\n")
        sys.stderr.flush()
        time.sleep(_FORWARD_S)
        self.communicator.Abort(1)
        raise error

    def agree(self, compute: Callable[[], _T]) -> list[_T]:
        """What `compute` returns on each rank (something small); where it raises UserError on any, that, on all."""
        value: _T | None = None
        message: str | None = None
        try:
            value = compute()
        except UserError as error:
            message = str(error)
        answers: list[Any] = self.communicator.allgather((value, message))
        for _, failure in answers:
            if failure is not None:
                raise UserError(failure)
        return [answer for answer, _ in answers]


def as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A contiguous array as MPI sends it."""
    return array.reshape(-1).view(np.uint8)
