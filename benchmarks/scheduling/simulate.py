"""Are 1,000 simulated workers kept busy? `python -m hiperrag.benchmarks.scheduling.simulate --out DIR`.

The scheduler and the planner are the real ones; workers, failures, the time that the main process takes, and papers are
made up (`site.py`, `campaign.py`). They are compared with a policy that cuts parts by number of files, knows no costs
and doubles nothing. Virtual time: nothing else on the machine matters.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from hiperrag.benchmarks.pictures import write
from hiperrag.benchmarks.scheduling.campaign import Chain, all_tasks, make_campaign
from hiperrag.benchmarks.scheduling.site import Outcome, Simulation, SiteModel
from hiperrag.machine import describe_machine
from hiperrag.workflows.schedule import TASKS_PER_WORKER, Scheduler, Task
from hiperrag.workflows.settings import PartSettings

BY_COST = PartSettings()
BY_NUMBER = PartSettings(target_seconds=1e9, files_per_part=8)


class ByCost(Scheduler):
    """The scheduler of runs."""

    @property
    def nothing_left_to_submit(self) -> bool:
        return self.all_open and self.in_flight == self.unfinished


class ByNumber:
    """Later stages first, then the order of shards, from a list of all parts; no costs, no doubles."""

    def __init__(self, workers: int, tasks: Iterator[Task]) -> None:
        self._numbers, self._room = itertools.count(), TASKS_PER_WORKER * workers
        self._ready: list[tuple[int, int, int, Task]] = []
        self._in_flight = 0
        for task in tasks:
            self.add(task)

    def add(self, task: Task) -> None:
        heapq.heappush(self._ready, (-task.rank, task.order, next(self._numbers), task))

    def submissions(self, now: float) -> Iterator[Task]:  # noqa: ARG002
        while self._ready and self._in_flight < self._room:
            task = heapq.heappop(self._ready)[-1]
            task.in_flight = 1
            self._in_flight += 1
            yield task

    def ended(self, task: Task, now: float) -> bool:  # noqa: ARG002
        self._in_flight -= 1
        task.in_flight = 0
        return True

    def succeeded(self, task: Task, seconds: float) -> None:  # noqa: ARG002
        task.done = True

    def lost(self, task: Task, with_node: bool) -> bool:  # noqa: ARG002
        self.add(task)
        return True

    @property
    def finished(self) -> bool:
        return not self._ready and not self._in_flight

    @property
    def nothing_left_to_submit(self) -> bool:
        return not self._ready


def run_by_cost(documents: int, model: SiteModel, seed: int) -> tuple[Outcome, dict[str, Any]]:
    """The present planner and scheduler."""
    campaign = make_campaign(documents, BY_COST, model.workers, seed)
    chain = Chain(campaign)
    scheduler = ByCost({"cores": model.workers}, chain.feed)
    chain.add = scheduler.add
    outcome = Simulation(model, scheduler, chain.duration, chain.succeeded, seed).run()
    return outcome, _describe(outcome, campaign.work, len(campaign.predicted["parse"]), model)


def run_by_number(documents: int, model: SiteModel, seed: int) -> tuple[Outcome, dict[str, Any]]:
    """Parts of eight files, in order."""
    campaign = make_campaign(documents, BY_NUMBER, model.workers, seed)
    chain = Chain(campaign)
    policy = ByNumber(model.workers, all_tasks(chain))
    chain.add = policy.add
    outcome = Simulation(model, policy, chain.duration, chain.succeeded, seed).run()
    return outcome, _describe(outcome, campaign.work, len(campaign.predicted["parse"]), model)


def _describe(outcome: Outcome, work: float, parts: int, model: SiteModel) -> dict[str, Any]:
    found = dataclasses.asdict(outcome)
    del found["curve"]
    return {
        "parts": parts,
        "work_seconds": work,
        "tail_seconds": outcome.seconds - outcome.tail_from,
        "over_ideal": outcome.seconds / (work / model.workers),
        **found,
    }


POLICIES = {"by cost": run_by_cost, "by number": run_by_number}


def main() -> None:
    """Simulate, print, and write results with a picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, nargs="+", default=[50_000, 500_000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model = SiteModel()
    results: list[dict[str, Any]] = []
    curves: dict[tuple[int, str], Outcome] = {}
    for documents, (name, run), seed in itertools.product(given.documents, POLICIES.items(), range(given.seeds)):
        outcome, found = run(documents, model, seed)
        curves.setdefault((documents, name), outcome)
        results.append({"documents": documents, "policy": name, "seed": seed, **found})
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in results[-1].items()}), flush=True)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        report = {"machine": describe_machine(), "site": dataclasses.asdict(model), "runs": results}
        (given.out / "simulation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        write(lambda: iter([("simulation", _draw(curves))]), given.out)


def _draw(curves: dict[tuple[int, str], Outcome]) -> Figure:
    sizes = sorted({size for size, _ in curves})
    figure, axes = plt.subplots(1, len(sizes), figsize=(4.2 * len(sizes), 2.8), squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        for (documents, name), outcome in curves.items():
            if documents == size:
                times, _, busy = zip(*outcome.curve, strict=True)
                axis.plot([t / 60 for t in times], busy, label=f"parts {name}", linewidth=1)
                axis.axvline(outcome.tail_from / 60, linewidth=0.6, linestyle=":", color=axis.lines[-1].get_color())
                if name == "by cost":
                    up = [n for _, n, _ in outcome.curve]
                    axis.plot([t / 60 for t in times], up, color="#999999", linewidth=0.8, label="workers up", zorder=0)
        axis.set_title(f"{size:,} documents")
        axis.set_xlabel("minutes")
        axis.set_ylim(0)
    axes[0][0].set_ylabel("workers busy")
    axes[0][0].legend(loc="center right")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main()
