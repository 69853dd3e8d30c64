"""A campaign of made-up papers, cut into parts by the real planner, with stages that take what such papers take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from hiperrag.parsing.sources import Input
from hiperrag.workflows.costs import BYTES_PER_PAGE, Costs
from hiperrag.workflows.plan import Plan, extend_plan
from hiperrag.workflows.rates import Rates, packaged_rates
from hiperrag.workflows.schedule import Task
from hiperrag.workflows.settings import PartSettings
from hiperrag.workflows.sites import load_site

STAGES = ("parse", "chunk", "encode", "build")
Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(slots=True)
class Campaign:
    """Seconds by stage: predicted, and taken, for every part; `shards[s]` are numbers of parts."""

    shards: list[range]
    predicted: dict[str, Floats]
    taken: dict[str, Floats]

    @property
    def work(self) -> float:
        """Worker seconds in all."""
        return float(sum(taken.sum() for taken in self.taken.values()))


def make_campaign(documents: int, settings: PartSettings, n_workers: int, seed: int = 0) -> Campaign:
    """Papers of 10 pages or so, log-normal; one in 300 a thesis of hundreds; bytes tell the pages to a factor."""
    rng = np.random.default_rng(seed)
    rates = packaged_rates()
    pages = np.maximum(1, rng.lognormal(np.log(8.0), 0.6, documents))
    theses = rng.random(documents) < 1 / 300
    pages[theses] = rng.lognormal(np.log(250.0), 0.4, int(theses.sum()))
    size = pages * BYTES_PER_PAGE * rng.lognormal(-0.15, 0.55, documents)
    inputs = [Input(str(n), "pdf", str(n), "", 0, 0, int(size[n]), "") for n in range(documents)]
    costs = Costs(rates, load_site("local"))
    plan = extend_plan(Plan(), inputs, lambda _: False, _unread, settings, costs.longest, n_workers)
    parts = [part for shard in plan.shards for part in shard]
    number = {item.source: n for n, item in enumerate(inputs)}
    in_part = np.empty(documents, dtype=np.int64)
    for position, part in enumerate(parts):
        in_part[[number[item.source] for item in part]] = position
    listed = [costs.of_part(part) for part in parts]
    predicted = {stage: np.array([one[stage] for one in listed]) for stage in STAGES}
    taken = {
        stage: np.bincount(in_part, pages * per_page * rng.lognormal(-0.08, 0.4, documents), len(parts)).astype(float)
        for stage, per_page in _seconds_per_page(rates).items()
    }
    ends = np.cumsum([len(shard) for shard in plan.shards])
    starts = [0, *ends[:-1]]
    return Campaign([range(a, b) for a, b in zip(starts, ends, strict=True)], predicted, taken)


def _unread(item: Input) -> bytes:
    return item.source.encode()  # of the same size by chance: other bytes


def _seconds_per_page(rates: Rates) -> dict[str, float]:
    passages = rates.corpus.passages_per_page.value
    tokens = passages * rates.corpus.tokens_per_passage.value
    units = {"parse": 1.0, "chunk": passages, "encode": tokens, "build": tokens}
    return {stage: rates.of(stage).seconds * units[stage] for stage in STAGES}


class Chain:
    """What a run does with a part: one stage after another, and the shard when all its parts are encoded."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._shards = iter(enumerate(campaign.shards))
        self._waiting: dict[int, int] = {}
        self.add: Callable[[Task], None] = lambda _: None

    def feed(self) -> list[Task] | None:
        """The first tasks of the next shard."""
        shard, parts = next(self._shards, (None, None))
        if shard is None or parts is None:
            return None
        self._waiting[shard] = len(parts)
        return [self._task("parse", shard, part) for part in parts]

    def succeeded(self, task: Task) -> None:
        """Go on with what follows."""
        if task.stage == "build":
            return
        following = STAGES[STAGES.index(task.stage) + 1]
        if following != "build":
            self.add(self._task(following, task.shard, task.part))
            return
        self._waiting[task.shard] -= 1
        if not self._waiting[task.shard]:
            del self._waiting[task.shard]
            self.add(self._task("build", task.shard, 0))

    def duration(self, task: Task) -> float:
        """What the task takes."""
        return self._seconds(self._campaign.taken, task.stage, task.shard, task.part)

    def _task(self, stage: str, shard: int, part: int) -> Task:
        cost = self._seconds(self._campaign.predicted, stage, shard, part)
        return Task(stage, shard, part, "cores", STAGES.index(stage), shard, cost)

    def _seconds(self, table: dict[str, Floats], stage: str, shard: int, part: int) -> float:
        rows = self._campaign.shards[shard] if stage == "build" else [part]
        return float(table[stage][rows].sum())


def all_tasks(chain: Chain) -> Iterator[Task]:
    """Every first task at once."""
    while (tasks := chain.feed()) is not None:
        yield from tasks
