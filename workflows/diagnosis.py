"""What a run's log says is wrong: stragglers, failing and slow hosts, the limiting stage, idle and lost workers."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np

from hiperrag.counted import counted
from hiperrag.workflows.observe import Status
from hiperrag.workflows.progress import duration
from hiperrag.workflows.tasklog import Failure, Floats, Mask, Numbers, TaskLog

STRAGGLES = 3.0
"""A straggler takes so many times as long as its cost predicts."""
STRAGGLES_BY = 1.0
"""And at least so many seconds longer."""
SLOW_HOST = 1.5
"""A slow host takes so many times as long as the others for the same cost, in the median of ..."""
TASKS_TO_JUDGE = 5
"""... at least so many tasks."""
CHANCE = 0.01
"""A host fails more often than others if chance gives as many failures this seldom."""
NAMED = 5
"""Stragglers, hosts and workers named one by one."""
_PAIRS = 4000


Level = Literal["fault", "note", "fact"]


@dataclasses.dataclass(frozen=True, slots=True)
class Symptom:
    """One thing found: a fault, a note of what cost time, or a fact that every run has."""

    kind: str
    level: Level
    what: str
    advice: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Where the workers' time went between the first task's start and the last one's end, as shares of it."""

    seconds: float
    workers: int
    busy: float
    starting: float
    """Before a worker's first task."""
    gaps: float
    """Between two tasks of a worker."""
    tail: float
    """After a worker's last task."""
    per_worker: Floats
    """(seen workers,) the share of the time that each was busy."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """Workers that run the same stages, by number; `busy` is the share of the run's time that they were at work."""

    stages: list[str]
    workers: list[int]
    busy: float


def diagnose(status: Status, log: TaskLog) -> list[Symptom]:
    """Everything found in a run, the worst first."""
    found = [*_ending(status, log), *_failures(log)]
    if len(log):
        expected = expected_seconds(log)
        found += [*_stragglers(log, expected), *_slow_hosts(log, expected), *_limits(log), *_idle(log)]
    return sorted(found, key=lambda symptom: get_args(Level).index(symptom.level))


def _ending(status: Status, log: TaskLog) -> Iterator[Symptom]:
    if status.state == "killed":
        yield Symptom("killed", "fault", f"the run was killed ({status.why})", "run the same command again to resume")
    elif status.state == "stopped":
        yield Symptom("stopped", "fault", f"the run stopped ({status.why})", "run the same command again to resume")
    if log.waiting and status.state != "finished":
        oldest = min(log.waiting, key=lambda task: log.waiting[task])
        age = duration(status.last_sign - log.waiting[oldest])
        named = f"the oldest, {_task(*oldest)}, for {age}"
        yield Symptom("in_flight", "note", f"in flight: {counted(len(log.waiting), 'task')}, {named}")


def _task(stage: str, shard: int, part: int) -> str:
    return f"{stage} of shard {shard}" if stage == "build" else f"{stage} of shard {shard} part {part}"


def _failures(log: TaskLog) -> Iterator[Symptom]:
    tasks = Counter(dict(zip(log.hosts, np.bincount(log.host, minlength=len(log.hosts)).tolist(), strict=True)))
    failed = Counter(failure.host for failure in log.failures if failure.host)
    for host, number in failed.most_common():
        others = [(failed[other], tasks[other] + failed[other]) for other in {*tasks, *failed} - {host}]
        if others and _is_worse(number, tasks[host] + number, others):
            elsewhere = f"{sum(count for count, _ in others)} on {counted(len(others), 'other host')}"
            yield Symptom(
                "failing_host",
                "fault",
                f"host {host} fails: {number} of {counted(tasks[host] + number, 'task')}, {elsewhere}",
                "leave it out of the next job, and tell the site's staff",
            )
    lost = [failure for failure in log.failures if failure.kind == "worker_lost"]
    if lost:
        again = "its task" if len(lost) == 1 else "their tasks"
        what = f"{counted(len(lost), 'worker')} lost {_on_hosts(lost)}; {again} ran again"
        yield Symptom("lost_workers", "note", what)
    parts = [failure for failure in log.failures if failure.kind == "part_failed"]
    for stage, number in Counter(failure.stage for failure in parts).most_common():
        message = Counter(failure.message for failure in parts if failure.stage == stage).most_common(1)[0][0]
        what = f"{counted(number, 'part')} failed in {stage}{', such as' if number > 1 else ''} by {message}"
        yield Symptom("failed_parts", "fault", what, "run the same command again, which tries them anew")


def _on_hosts(failures: list[Failure]) -> str:
    hosts = Counter(failure.host or "unknown hosts" for failure in failures).most_common()
    named = ", ".join(f"{host} {number}" for host, number in hosts[:NAMED])
    return f"({named}{', …' if len(hosts) > NAMED else ''})"


def _is_worse(number: int, tasks: int, others: list[tuple[int, int]]) -> bool:
    """Whether a binomial law with the others' rate (a failure added) gives so many failures only by rare chance."""
    failures, total = (sum(column) for column in zip(*others, strict=True))
    rate = min((failures + 1) / (total + 1), 1.0)
    if number < 2 or number <= rate * tasks:
        return False
    below = sum(math.comb(tasks, k) * rate**k * (1 - rate) ** (tasks - k) for k in range(number))
    return bool(1 - below < CHANCE)


def expected_seconds(log: TaskLog) -> Floats:
    """(n,) what each task should take by its cost: a line through the tasks of its stage that outliers do not move.

    Slope: the median over pairs of tasks (Theil-Sen). A worker's first task of a stage loads models; it is held
    against the others of its kind.
    """
    expected = np.zeros(len(log))
    first = first_of_worker(log)
    for name in log.stages:
        rows = log.of_stage(name)
        if not rows.any():
            continue
        cost, seconds = log.cost(name), log.seconds
        settled = rows & ~first if np.count_nonzero(rows & ~first) >= TASKS_TO_JUDGE else rows
        base, slope = _line(cost[settled], seconds[settled])
        expected[rows] = base + slope * cost[rows]
        loading = rows & first & ~settled
        if loading.any():
            expected[loading] += max(0.0, float(np.median((seconds - expected)[loading])))
    return np.maximum(expected, 1e-3)


def first_of_worker(log: TaskLog) -> Mask:
    """(n,) whether a task was its worker's first of its stage."""
    order = np.argsort(log.started, kind="stable")
    pairs = log.stage[order] * max(1, len(log.workers)) + log.worker[order]
    mask = np.zeros(len(log), dtype=bool)
    mask[order[np.unique(pairs, return_index=True)[1]]] = True
    return mask


def _line(cost: Floats, seconds: Floats) -> tuple[float, float]:
    """(base, slope) of seconds over cost, neither negative."""
    if len(cost) < TASKS_TO_JUDGE or np.ptp(cost) <= 0.1 * np.max(cost):
        positive = cost > 0
        if not positive.all():
            return float(np.median(seconds)), 0.0
        return 0.0, float(np.median(seconds / cost))
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, len(cost), (2, _PAIRS))
    apart = cost[one] != cost[other]
    slopes = (seconds[one] - seconds[other])[apart] / (cost[one] - cost[other])[apart]
    slope = max(0.0, float(np.median(slopes)))
    return max(0.0, float(np.median(seconds - slope * cost))), slope


def stragglers(log: TaskLog, expected: Floats) -> Numbers:
    """Rows of the tasks that took much longer than expected, the longest overrun first."""
    over = log.seconds - expected
    slow = (log.seconds > STRAGGLES * expected) & (over > STRAGGLES_BY)
    rows: Numbers = np.flatnonzero(slow)
    return rows[np.argsort(-over[rows], kind="stable")]


def _stragglers(log: TaskLog, expected: Floats) -> Iterator[Symptom]:
    rows = stragglers(log, expected)
    for row in rows[:NAMED]:
        stage = log.stages[log.stage[row]]
        task = _task(stage, int(log.columns["shard"][row]), int(log.columns["part"][row]))
        spent = f"{duration(log.seconds[row])}, {log.seconds[row] / expected[row]:.0f} times what its cost predicts"
        waited = log.columns["cpu_seconds"][row] < 0.5 * log.seconds[row]
        why = "it waited more than it computed: look at the file system and the node" if waited else ""
        yield Symptom("straggler", "note", f"straggler: {task} took {spent}, on {log.workers[log.worker[row]]}", why)
    if len(rows) > NAMED:
        worst, number = Counter(log.hosts[log.host[row]] for row in rows).most_common(1)[0]
        yield Symptom("stragglers", "note", f"{len(rows)} stragglers in all, {number} of them on {worst}")


def _slow_hosts(log: TaskLog, expected: Floats) -> Iterator[Symptom]:
    times = log.seconds / expected
    medians = {
        host: float(np.median(times[log.host == number]))
        for number, host in enumerate(log.hosts)
        if np.count_nonzero(log.host == number) >= TASKS_TO_JUDGE
    }
    if len(medians) < 2:
        return
    usual = float(np.median(list(medians.values())))
    slow = sorted((host for host in medians if medians[host] >= SLOW_HOST * usual), key=lambda host: -medians[host])
    for host in slow[:NAMED]:
        yield Symptom("slow_host", "note", f"host {host} is slow: {medians[host] / usual:.1f} times as long as others")


def usage(log: TaskLog) -> Usage:
    """Where the workers' time went. Those that never got a task count as starting all the time."""
    begin, end = float(log.started.min()), float(log.finished.max())
    length, seen = max(end - begin, 1e-3), len(log.workers)
    workers = max(seen, int(log.first.get("workers", 0)))
    busy = np.bincount(log.worker, log.seconds, seen)
    first, last = np.full(seen, end), np.full(seen, begin)
    np.minimum.at(first, log.worker, log.started)
    np.maximum.at(last, log.worker, log.finished)
    total = workers * length
    return Usage(
        seconds=length,
        workers=workers,
        busy=float(busy.sum() / total),
        starting=float(((first - begin).sum() + (workers - seen) * length) / total),
        gaps=float(np.maximum(last - first - busy, 0).sum() / total),
        tail=float((end - last).sum() / total),
        per_worker=np.minimum(busy / length, 1.0),
    )


def pools(log: TaskLog) -> list[Pool]:
    """Groups of workers that share stages, the busiest first; stages on separate executors are in separate groups."""
    groups: list[tuple[set[int], set[int]]] = []
    length = float(log.finished.max() - log.started.min())
    stages_of: dict[int, set[int]] = defaultdict(set)
    for pair in np.unique(log.worker * len(log.stages) + log.stage).tolist():
        stages_of[pair // len(log.stages)].add(pair % len(log.stages))
    for worker, own in stages_of.items():
        stages, workers = set(own), {worker}
        for group in [group for group in groups if group[0] & stages]:
            stages, workers = stages | group[0], workers | group[1]
            groups.remove(group)
        groups.append((stages, workers))
    found = []
    for stages, workers in groups:
        mine = np.isin(log.worker, list(workers))
        busy = float(log.seconds[mine].sum()) / max(len(workers) * length, 1e-3)
        found.append(Pool([log.stages[stage] for stage in sorted(stages)], sorted(workers), min(busy, 1.0)))
    return sorted(found, key=lambda pool: -pool.busy)


def limiting_stage(log: TaskLog) -> tuple[str, float, Pool]:
    """The stage that takes most of the busiest workers' time, its share of it, and those workers."""
    pool = pools(log)[0]
    spent = {name: float(log.seconds[log.of_stage(name)].sum()) for name in pool.stages}
    name = max(spent, key=lambda stage: spent[stage])
    return name, spent[name] / max(sum(spent.values()), 1e-9), pool


def _limits(log: TaskLog) -> Iterator[Symptom]:
    name, share, pool = limiting_stage(log)
    used = usage(log)
    workers, are = counted(len(pool.workers), "worker"), "is" if len(pool.workers) == 1 else "are"
    shared = f"{100 * share:.0f} % of the work of its {workers}, which {are} {100 * pool.busy:.0f} % busy"
    if pool.busy < 0.6 and used.gaps > 0.2:
        waits = f"workers wait {100 * used.gaps:.0f} % of the time between tasks"
        yield Symptom("limit", "note", f"the main process or its supply of tasks limits throughput: {waits}")
    yield Symptom("limiting_stage", "fact", f"{name} limits throughput: {shared}")


def _idle(log: TaskLog) -> Iterator[Symptom]:
    used, seen = usage(log), len(log.workers)
    if used.workers > seen:
        what = f"{used.workers - seen} of {counted(used.workers, 'worker')} never got a task"
        yield Symptom("idle_workers", "note", what, "ask for fewer, or for smaller parts")
    for pool in pools(log):
        busy = used.per_worker[pool.workers]
        usual = float(np.median(busy))
        idle = [(worker, share) for worker, share in zip(pool.workers, busy, strict=True) if share < 0.5 * usual]
        if idle:
            named = ", ".join(f"{log.workers[worker]} {100 * share:.0f} %" for worker, share in idle[:NAMED])
            what = f"{counted(len(idle), 'worker')} less than half as busy as the usual {100 * usual:.0f} %: {named}"
            yield Symptom("idle_workers", "note", what + (", …" if len(idle) > NAMED else ""))
    parts = f"{100 * used.starting:.0f} % starting, {100 * used.gaps:.0f} % between tasks, {100 * used.tail:.0f} % tail"
    yield Symptom("usage", "fact", f"workers were busy {100 * used.busy:.0f} % of {duration(used.seconds)} ({parts})")
