"""Tasks on a site: a thin layer over Parsl that submits plain functions and yields them as they finish."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import queue
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from hiperrag.errors import UserError
from hiperrag.workflows.sites import Site

PLAIN_PATH = r"[\w./+@%=:,~-]+"
RESTARTS_ALLOWED = 5
"""How often Parsl itself may be lost in a run."""
SEND_SECONDS = 3
"""How long handing a task to Parsl's interchange may take; it waits only where that process is gone."""


class WorkerLostError(Exception):
    """The worker that ran a task died; the task may be the cause."""


class NodeLostError(WorkerLostError):
    """All workers of the node were lost: its job was cancelled or ran out of time, or the node failed."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Task:
    tag: Any
    function: Callable[..., Any]
    args: tuple[Any, ...]


class Pool:
    """Runs functions on a site's workers; `finished` yields each task's tag with its future.

    Jobs that end are asked for again as long as there is work. If Parsl's own processes are lost, they are started
    again and given the tasks that were in flight.
    """

    def __init__(self, site: Site, run_dir: Path, n_tasks: int) -> None:
        site.check_filled()
        self.site, self._run_dir, self._n_tasks = site, _plain(run_dir), n_tasks
        self._finished: queue.SimpleQueue[tuple[int, Future[Any]]] = queue.SimpleQueue()
        self._tasks: dict[int, _Task] = {}
        self._tickets = itertools.count()
        self.restarts = 0
        self._start()

    def _start(self) -> None:
        import parsl
        from parsl.dataflow.dflow import DataFlowKernel

        from hiperrag.workflows.parsl_config import parsl_config

        self._kernel = DataFlowKernel(parsl_config(self.site, self._run_dir, self._n_tasks))
        for executor in self._executors:  # else a thread that this process waits for at its end could wait for ever
            executor.outgoing_q.zmq_socket.sndtimeo = SEND_SECONDS * 1000
        self._apps = {
            label: parsl.python_app(_call, data_flow_kernel=self._kernel, executors=[label])
            for label in self.site.active_pools
        }

    @property
    def in_flight(self) -> int:
        """Tasks submitted and not yet yielded by `finished`."""
        return len(self._tasks)

    def submit(self, tag: Any, function: Callable[..., Any], *args: Any) -> None:
        """Start `function(*args)` on a worker; both must be importable and picklable there.

        A tag that is a tuple begins with the name of the stage, which decides on what kind of worker.
        """
        self._launch(_Task(tag, function, args))

    def _launch(self, task: _Task) -> None:
        ticket = next(self._tickets)
        self._tasks[ticket] = task
        stage = task.tag[0] if isinstance(task.tag, tuple) else ""
        future = self._apps[self.site.pool_of(stage)](task.function, task.args)
        future.add_done_callback(lambda done: self._finished.put((ticket, done)))

    def finished(self, timeout: float) -> Iterator[tuple[Any, Future[Any]]]:
        """Tasks that ended since the last call; waits up to `timeout` seconds for the first."""
        self._look_after_executors()  # first: tasks that could not be handed to a lost Parsl did not fail
        with contextlib.suppress(queue.Empty):
            while True:
                ticket, future = self._finished.get(timeout=timeout)
                timeout = 0
                task = self._tasks.pop(ticket, None)
                if task:  # else it was in flight when Parsl was lost, and has been started again
                    yield task.tag, future

    def _look_after_executors(self) -> None:
        for executor in self._executors:
            if executor.bad_state_is_set:
                raise _cannot_start(executor.executor_exception)
        if not self._is_alive():
            self._restart()

    def _is_alive(self) -> bool:
        return all(executor.interchange_proc.poll() is None for executor in self._executors)

    @property
    def _executors(self) -> list[Any]:
        return [executor for executor in self._kernel.executors.values() if hasattr(executor, "interchange_proc")]

    def _restart(self) -> None:
        self.restarts += 1
        if self.restarts > RESTARTS_ALLOWED:
            raise UserError("Parsl's interchange process died again and again; rerun to resume")
        self._abandon()
        tasks, self._tasks = self._tasks, {}
        self._start()
        for task in tasks.values():
            self._launch(task)

    def _abandon(self) -> None:
        """Stop what is left of Parsl; its orderly clean-up would wait for the process that died."""
        from parsl.utils import Timer

        Timer.close(self._kernel.job_status_poller, timeout=0)
        self._kernel._task_launch_pool.shutdown(wait=False, cancel_futures=True)
        for executor in self._executors:
            _cancel_jobs(executor)
            executor._result_queue_thread_exit.set()
            executor.interchange_proc.kill()

    def close(self) -> None:
        """Stop the workers, whatever they are doing, and cancel jobs that wait."""
        if self._is_alive():
            for executor in self._executors:
                if executor.bad_state_is_set:  # Parsl leaves its other jobs in the queue
                    _cancel_jobs(executor)
            self._kernel.cleanup()
        else:
            self._abandon()
        if self._run_dir.is_symlink():
            self._run_dir.unlink()


def _plain(folder: Path) -> Path:
    """The folder, or a link to it in the home folder if its path has spaces, with which Parsl cannot cope."""
    folder.mkdir(parents=True, exist_ok=True)
    if re.fullmatch(PLAIN_PATH, str(folder.absolute())):
        return folder
    link = Path.home() / ".cache" / "hiperrag" / "runs" / uuid.uuid4().hex
    if not re.fullmatch(PLAIN_PATH, str(link)):
        raise UserError(f"{folder}: Parsl needs a path without spaces and the like, here or in {Path.home()}")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(folder.absolute())
    return link


def _cancel_jobs(executor: Any) -> None:
    jobs = [job for job, entry in executor.provider.resources.items() if not entry["status"].terminal]
    if jobs:
        executor.provider.cancel(jobs)


def _cannot_start(error: Exception) -> UserError:
    reason = " ".join(str(error).rpartition("due to: ")[2].split())[:300]
    return UserError(f"the site's workers cannot be started ({reason}); try `hiperrag doctor --site`")


def result_of(future: Future[Any]) -> Any:
    """The task's result.

    NodeLostError when its node or job ended under it, WorkerLostError when its worker did, UserError when no worker
    can be had.
    """
    from parsl.executors.errors import BadStateException
    from parsl.executors.high_throughput.errors import ManagerLost
    from parsl.executors.high_throughput.errors import WorkerLost as ParslWorkerLost
    from parsl.jobs.errors import TooManyJobFailuresError

    try:
        return future.result()
    except ManagerLost as error:
        raise NodeLostError(str(error)) from None
    except ParslWorkerLost as error:
        raise WorkerLostError(str(error)) from None
    except (BadStateException, TooManyJobFailuresError) as error:
        raise _cannot_start(error) from None


def _call(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return function(*args)
