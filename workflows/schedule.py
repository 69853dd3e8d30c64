"""What is to be submitted next, and what to do about tasks that fail, are lost, or take too long.

Nothing here knows of Parsl, files or clocks: the run tells the time and what happened, so a simulation can drive the
same decisions in virtual time. Shards are opened one by one, as workers need work: what is in memory depends on the
number of workers, not on that of parts.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence

LOST_WORKERS_ALLOWED = 5
"""How often a task may lose its worker before the task itself is taken to be the cause."""
LOST_NODES_ALLOWED = 50
"""The same for all workers of its node at once, which jobs that end or are cancelled do to any task."""
TASKS_PER_WORKER = 3
"""Tasks submitted at a time: enough to keep workers busy, few enough to hold no long list of futures."""
TASKS_AHEAD = 2
"""Tasks per worker that are ready beside those submitted: what the longest is chosen from at the end."""
STRAGGLES_AFTER = 2.0
"""How many times longer than predicted a task may take before another worker is given it as well."""
LEAST_STRAGGLE = 10.0
"""Seconds by which it has to exceed what is predicted besides."""
TASKS_TO_LEARN = 3
"""Finished tasks of a stage from which on its predictions are trusted, after being scaled by what these took."""


@dataclasses.dataclass(slots=True, eq=False)
class Task:
    """A stage of a part, or the building of a shard. `rank`: how late a stage it is; `order`: that of its shard."""

    stage: str
    shard: int
    part: int
    pool: str
    rank: int
    order: int
    cost: float
    """Seconds that a worker is predicted to need."""
    lost_workers: int = 0
    lost_nodes: int = 0
    copies: int = 0
    """How often it was submitted."""
    in_flight: int = 0
    """Copies submitted that have not ended."""
    started: float | None = None
    """When a worker is taken to have begun the first of these copies."""
    done: bool = False


class _Queue:
    """The tasks of one pool of workers.

    Nobody tells when a worker begins a task. As workers take them in the order of submission, it is supposed that one
    begins when so few of those before it are left that a worker is free.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.in_flight = 0
        self.ready: list[tuple[float, float, float, int, Task]] = []
        self.running: dict[Task, None] = {}
        self.waiting: deque[Task] = deque()

    @property
    def has_room(self) -> bool:
        return self.in_flight < TASKS_PER_WORKER * self.workers

    def submit(self, task: Task, now: float) -> None:
        self.in_flight += 1
        self.waiting.append(task)
        self._begin(now)

    def end(self, task: Task, now: float) -> None:
        self.in_flight -= 1
        if not task.in_flight:
            self.running.pop(task, None)
            task.started = None
        self._begin(now)

    def _begin(self, now: float) -> None:
        while self.waiting and len(self.running) < self.workers:
            task = self.waiting.popleft()
            if task.in_flight and task not in self.running:
                self.running[task] = None
                task.started = now


class Scheduler:
    """Chooses among the tasks of open shards.

    `workers` is the number of each pool; `feed` opens another shard and gives the tasks that it begins with: an empty
    list if there is none at present, None if there will be none.

    While there are shards to open, later stages come first and then the shard that was opened first, so that shards
    are committed early and little waits half-done. Once all are open, the longest task of a stage comes first, because
    what begins last decides when the run ends; then workers without work double tasks that take too long.
    """

    def __init__(self, workers: Mapping[str, int], feed: Callable[[], Sequence[Task] | None]) -> None:
        self._queues = {name: _Queue(number) for name, number in workers.items()}
        self._feed = feed
        self._numbers = itertools.count()
        self._most_open = 2 * (TASKS_PER_WORKER + TASKS_AHEAD) * sum(workers.values())
        self._predicted: defaultdict[str, float] = defaultdict(float)
        self._taken: defaultdict[str, float] = defaultdict(float)
        self._finished: Counter[str] = Counter()
        self.unfinished = 0
        """Tasks that are ready or in flight."""
        self.all_open = False
        """Whether every shard has been opened."""
        self.deadline: float | None = None
        """When everything has to have ended: a task that is not expected to is not begun."""
        self._too_late: list[Task] = []

    def add(self, task: Task) -> None:
        """A task that can be done."""
        self.unfinished += 1
        self._push(task)

    def _push(self, task: Task) -> None:
        queue = self._queues[task.pool]
        order = 0 if self.all_open else task.order
        heapq.heappush(queue.ready, (-task.rank, order, -task.cost, next(self._numbers), task))

    def submissions(self, now: float) -> Iterator[Task]:
        """The tasks to submit at this time; each counts as submitted when it is given out."""
        for queue in self._queues.values():
            while queue.has_room:
                self._open_shards()
                task = self._next(queue, now)
                if not task:
                    break
                task.copies += 1
                task.in_flight += 1
                queue.submit(task, now)
                yield task

    def _next(self, queue: _Queue, now: float) -> Task | None:
        while queue.ready:
            task: Task = heapq.heappop(queue.ready)[-1]
            if self.deadline is None or self._expected_end(queue, task, now) <= self.deadline:
                return task
            self._too_late.append(task)
        return self._straggler(queue, now)

    def _expected_end(self, queue: _Queue, task: Task, now: float) -> float:
        start = now
        if len(queue.running) == queue.workers:
            left = [(task.started or now) + self._expected(task) - now for task in queue.running]
            ahead = sum(max(0.0, seconds) for seconds in left) + sum(map(self._expected, queue.waiting))
            start += ahead / queue.workers
        return start + self._expected(task)

    def _open_shards(self) -> None:
        """Open shards until every pool has tasks ahead, unless too many wait for a pool that is slower."""
        while not self.all_open and not self._too_late and self.unfinished < self._most_open:
            if all(len(queue.ready) >= TASKS_AHEAD * queue.workers for queue in self._queues.values()):
                return
            tasks = self._feed()
            if tasks is None:
                self.all_open = True
                self._longest_first()
                return
            if not tasks:
                return
            for task in tasks:
                self.add(task)

    def _longest_first(self) -> None:
        for queue in self._queues.values():
            tasks, queue.ready = [entry[-1] for entry in queue.ready], []
            for task in tasks:
                self._push(task)

    def _straggler(self, queue: _Queue, now: float) -> Task | None:
        """The task of a pool that is longest overdue, where a worker has nothing else to do."""
        if not self.all_open or queue.in_flight >= queue.workers:
            return None
        overdue = [(self._overdue(task, now), number) for number, task in enumerate(queue.running)]
        latest, number = max(overdue, default=(0.0, 0))
        return list(queue.running)[number] if latest > 0 else None

    def _overdue(self, task: Task, now: float) -> float:
        """Seconds beyond what is allowed; not above 0 for one that has been doubled."""
        if task.done or task.in_flight > 1 or task.started is None or self._finished[task.stage] < TASKS_TO_LEARN:
            return 0.0
        return now - task.started - STRAGGLES_AFTER * self._expected(task) - LEAST_STRAGGLE

    def _expected(self, task: Task) -> float:
        """Seconds that a task takes, as predicted and scaled by what others of its stage took."""
        if self._finished[task.stage] < TASKS_TO_LEARN:
            return task.cost
        return task.cost * self._taken[task.stage] / max(self._predicted[task.stage], 1e-9)

    def ended(self, task: Task, now: float) -> bool:
        """A copy of a task ended, well or badly: whether that matters, as no other was or may be better."""
        task.in_flight -= 1
        self._queues[task.pool].end(task, now)
        return not task.done

    def succeeded(self, task: Task, seconds: float) -> None:
        """The first copy of a task succeeded, and took so long on its worker."""
        task.done = True
        self.unfinished -= 1
        self._finished[task.stage] += 1
        self._predicted[task.stage] += task.cost
        self._taken[task.stage] += seconds

    def lost(self, task: Task, with_node: bool) -> bool:
        """A copy lost its worker; whether the task goes on. If not, it counts as failed."""
        task.lost_nodes += with_node
        task.lost_workers += not with_node
        if task.in_flight:
            return True
        if task.lost_workers < LOST_WORKERS_ALLOWED and task.lost_nodes < LOST_NODES_ALLOWED:
            self._push(task)
            return True
        return not self.failed(task)

    def failed(self, task: Task) -> bool:
        """A copy of a task failed; whether that is final, as no other copy is in flight."""
        if task.in_flight:
            return False
        task.done = True
        self.unfinished -= 1
        return True

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.all_open and not self.unfinished

    @property
    def drained(self) -> bool:
        """Whether what is left would not end before the deadline."""
        return bool(self._too_late) and not self.in_flight

    @property
    def in_flight(self) -> int:
        """Tasks that were submitted and have not ended, each once."""
        return self.unfinished - sum(len(queue.ready) for queue in self._queues.values()) - len(self._too_late)
