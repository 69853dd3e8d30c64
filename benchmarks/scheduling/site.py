"""A simulated site in virtual time: workers start late, are slow, or die; the main process takes time."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from hiperrag.workflows.schedule import Task


@dataclasses.dataclass(frozen=True, slots=True)
class SiteModel:
    """What workers are like; times in seconds."""

    workers: int = 1000
    workers_per_node: int = 32
    start_mean: float = 60.0
    """Mean time until a node is up: exponential."""
    loading: float = 20.0
    """That a worker's first task takes longer."""
    slow_nodes: float = 0.02
    slowness: float = 3.0
    failures_per_node_hour: float = 0.05
    detection: float = 120.0
    """Until it is noticed that a node is gone."""
    repair: float = 300.0
    per_event: float = 0.003
    """Of the main process, for a submission with its result."""
    latency: float = 0.02
    """From the main process to a worker."""


class Policy(Protocol):
    """What chooses tasks: the scheduler, or one to compare it with."""

    def submissions(self, now: float) -> Iterator[Task]: ...
    def ended(self, task: Task, now: float) -> bool: ...
    def succeeded(self, task: Task, seconds: float) -> None: ...
    def lost(self, task: Task, with_node: bool) -> bool: ...
    @property
    def finished(self) -> bool: ...
    @property
    def nothing_left_to_submit(self) -> bool: ...


@dataclasses.dataclass(slots=True)
class Outcome:
    """How a simulated run went."""

    seconds: float = 0.0
    tail_from: float = 0.0
    """When for the first time nothing was left to begin: what followed had to wait for tasks that were running."""
    busy: float = 0.0
    """Share of the time of workers that were up which they worked, until then."""
    last_submission: float = 0.0
    """Of what was no double."""
    busy_until_last: float = 0.0
    busy_whole: float = 0.0
    """Until the end."""
    tasks: int = 0
    doubled: int = 0
    lost: int = 0
    wasted: float = 0.0
    """Worker seconds of copies that came second and of tasks that were lost."""
    curve: list[tuple[float, int, int]] = dataclasses.field(default_factory=list)
    """(time, workers up, workers busy) now and then."""


class Simulation:
    """Runs a policy to its end. `duration(task)` is what a task takes on a worker of normal speed."""

    def __init__(
        self,
        model: SiteModel,
        policy: Policy,
        duration: Callable[[Task], float],
        succeeded: Callable[[Task], None],
        seed: int = 0,
    ) -> None:
        self.model, self.policy = model, policy
        self._duration, self._succeeded = duration, succeeded
        self._rng = np.random.default_rng(seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = itertools.count()
        self._queue: deque[Task] = deque()
        self._idle: list[int] = []
        n_nodes = -(-model.workers // model.workers_per_node)
        self._slow = self._rng.random(n_nodes) < model.slow_nodes
        self._fresh = np.ones(model.workers, dtype=bool)
        self._up = np.zeros(n_nodes, dtype=bool)
        self._epoch = np.zeros(n_nodes, dtype=int)
        self._running: dict[int, tuple[Task, float]] = {}
        self._main_free = 0.0
        self.now = 0.0
        self.outcome = Outcome()
        self._up_time = self._busy_time = self._last = 0.0
        for node in range(n_nodes):
            self._at(self._rng.exponential(model.start_mean), self._node_up, node)

    def _at(self, time: float, what: Callable[..., None], *args: object) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), what, args))

    def run(self) -> Outcome:
        """Until the policy says that all is done."""
        outcome = self.outcome
        self._submit()
        next_sample = 0.0
        while not self.policy.finished:
            time, _, what, args = heapq.heappop(self._events)
            self._account(time)
            what(*args)
            if not outcome.tail_from and self.policy.nothing_left_to_submit and not self._queue:
                outcome.tail_from, outcome.busy = self.now, self._busy_time / max(self._up_time, 1e-9)
            if self.now >= next_sample:
                outcome.curve.append((self.now, self._n_up(), len(self._running)))
                next_sample = self.now + 5
        outcome.seconds, outcome.busy_whole = self.now, self._busy_time / self._up_time
        return outcome

    def _n_up(self) -> int:
        return len(self._running) + len(self._idle)

    def _account(self, time: float) -> None:
        self._up_time += (time - self.now) * self._n_up()
        self._busy_time += (time - self.now) * len(self._running)
        self.now = time

    # The main process

    def _main(self) -> float:
        """When the main process has dealt with one more thing."""
        self._main_free = max(self._main_free, self.now) + self.model.per_event
        return self._main_free

    def _submit(self) -> None:
        for task in self.policy.submissions(self.now):
            self.outcome.tasks += 1
            self.outcome.doubled += task.in_flight > 1
            if task.in_flight == 1:
                self.outcome.last_submission = self.now
                self.outcome.busy_until_last = self._busy_time / max(self._up_time, 1e-9)
            self._at(self._main() + self.model.latency, self._arrive, task)

    def _result(self, task: Task, seconds: float) -> None:
        if self.policy.ended(task, self.now):
            self.policy.succeeded(task, seconds)
            self._succeeded(task)
        else:
            self.outcome.wasted += seconds
        self._submit()

    def _noticed(self, task: Task) -> None:
        if self.policy.ended(task, self.now):
            self.policy.lost(task, with_node=True)
        self._submit()

    # Workers

    def _arrive(self, task: Task) -> None:
        self._queue.append(task)
        self._start()

    def _start(self) -> None:
        while self._queue and self._idle:
            worker, task = self._idle.pop(), self._queue.popleft()
            node = worker // self.model.workers_per_node
            seconds = self._duration(task) * (self.model.slowness if self._slow[node] else 1.0)
            seconds += self.model.loading if self._fresh[worker] else 0.0
            self._fresh[worker] = False
            self._running[worker] = (task, self.now)
            self._at(self.now + seconds, self._end, worker, int(self._epoch[node]))

    def _end(self, worker: int, epoch: int) -> None:
        if self._epoch[worker // self.model.workers_per_node] != epoch:
            return
        task, since = self._running.pop(worker)
        self._idle.append(worker)
        self._at(self.now + self.model.latency, self._result, task, self.now - since)
        self._start()

    def _workers_of(self, node: int) -> range:
        first = node * self.model.workers_per_node
        return range(first, min(first + self.model.workers_per_node, self.model.workers))

    def _node_up(self, node: int) -> None:
        self._up[node] = True
        self._idle += self._workers_of(node)
        for worker in self._workers_of(node):
            self._fresh[worker] = True
        if self.model.failures_per_node_hour:
            life = self._rng.exponential(3600 / self.model.failures_per_node_hour)
            self._at(self.now + life, self._node_down, node)
        self._start()

    def _node_down(self, node: int) -> None:
        self._up[node] = False
        self._epoch[node] += 1
        mine = set(self._workers_of(node))
        self._idle = [worker for worker in self._idle if worker not in mine]
        for worker in mine & set(self._running):
            task, since = self._running.pop(worker)
            self.outcome.lost += 1
            self.outcome.wasted += self.now - since
            self._at(self.now + self.model.detection, self._noticed, task)
        self._at(self.now + self.model.repair, self._node_up, node)
