"""Tasks on a site: a thin layer over Parsl that submits plain functions and yields them as they finish."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from hiperrag.errors import UserError
from hiperrag.workflows.sites import Site, parsl_config


class WorkerLostError(Exception):
    """The worker that ran a task died, or its node did; the task itself is not to blame."""


class Pool:
    """Runs functions on a site's workers; `finished` yields each task's tag with its future."""

    def __init__(self, site: Site, run_dir: Path, n_tasks: int) -> None:
        import parsl
        from parsl.dataflow.dflow import DataFlowKernel

        self._kernel = DataFlowKernel(parsl_config(site, run_dir, n_tasks))
        self._app = parsl.python_app(_call, data_flow_kernel=self._kernel)
        self._finished: queue.SimpleQueue[tuple[Any, Future[Any]]] = queue.SimpleQueue()
        self.in_flight = 0

    def submit(self, tag: Any, function: Callable[..., Any], *args: Any) -> None:
        """Start `function(*args)` on a worker; both must be importable and picklable there."""
        future = self._app(function, args)
        self.in_flight += 1
        future.add_done_callback(lambda done: self._finished.put((tag, done)))

    def finished(self, timeout: float) -> Iterator[tuple[Any, Future[Any]]]:
        """Tasks that ended since the last call; waits up to `timeout` seconds for the first."""
        with contextlib.suppress(queue.Empty):
            while True:
                tag, future = self._finished.get(timeout=timeout)
                self.in_flight -= 1
                timeout = 0
                yield tag, future
        if not self._is_alive():
            raise UserError("Parsl's interchange process died; rerun to resume")

    def _is_alive(self) -> bool:
        return all(executor.interchange_proc.poll() is None for executor in self._executors)

    @property
    def _executors(self) -> list[Any]:
        return [executor for executor in self._kernel.executors.values() if hasattr(executor, "interchange_proc")]

    def close(self) -> None:
        """Stop the workers, whatever they are doing."""
        if self._is_alive():
            self._kernel.cleanup()
            return
        for executor in self._executors:  # an orderly clean-up would wait for the interchange to answer
            executor.provider.cancel(list(executor.provider.resources))


def result_of(future: Future[Any]) -> Any:
    """The task's result; WorkerLostError when its worker ended under it, UserError when no worker can be had."""
    from parsl.executors.errors import BadStateException
    from parsl.executors.high_throughput.errors import ManagerLost
    from parsl.executors.high_throughput.errors import WorkerLost as ParslWorkerLost
    from parsl.jobs.errors import TooManyJobFailuresError

    try:
        return future.result()
    except (ManagerLost, ParslWorkerLost) as error:
        raise WorkerLostError(str(error)) from None
    except (BadStateException, TooManyJobFailuresError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the site's workers cannot be started ({reason}); try `hiperrag doctor`") from None


def _call(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return function(*args)
