"""What an indexing campaign will take: time, node-hours, storage, files, the limiting stage, the split of nodes.

The model. A stage's work is its units times the seconds of a unit; the work of a pool's stages is shared evenly by its
workers; pools work side by side, so the slowest says how long it takes. Added are the start of a job, what each
worker's first tasks cost besides, and half of what the last part takes from its first stage to its shard, during which
the other workers find less and less to do. Every rate is drawn from its error many times over: the range given is
what nine draws in ten stay within. Waiting in a queue is not in it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from hiperrag.errors import UserError
from hiperrag.workflows.observe import find_run
from hiperrag.workflows.plan import LEAST_SECONDS, PARTS_PER_WORKER
from hiperrag.workflows.rates import UNITS, Clock, Rate, Rates
from hiperrag.workflows.settings import IndexSettings, PartSettings
from hiperrag.workflows.sites import Site
from hiperrag.workflows.tasklog import Floats, read_tasks

DRAWS = 2000
GUESSED_ACCELERATOR = "a100"
PAPER_LOADING = (36.0, 0.476, 0.7)
"""Seconds that loading a model took on 2 nodes, the power of nodes by which they grow (362 on 256: HiPerRAG paper), and
the error of supposing that ours does the same."""
IN_FLIGHT = 3
"""Tasks submitted per worker, each of which may leave vectors that wait for their shard."""


@dataclasses.dataclass(frozen=True, slots=True)
class Campaign:
    """What is to be indexed, and on how many nodes."""

    documents: int
    nodes: int | None = None
    """Default: those of the site when all of its jobs run."""
    pages_per_document: float | None = None
    """Default: those of the documents that the rates were measured on."""
    ocr_share: float = 0.0
    """Share of the pages whose characters have to be recognised."""
    walltime: float | None = None
    """Seconds of a job; None for no limit."""


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """An estimate, and what nine draws in ten are within."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3g} ({self.low:.3g}-{self.high:.3g})"


@dataclasses.dataclass(frozen=True, slots=True)
class StageForecast:
    """One stage: its work, and whether its rate was measured."""

    stage: str
    pool: str
    accelerator: str
    units: float
    unit: str
    worker_hours: Range
    share: float
    """Of its pool's time."""
    basis: str
    source: str


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Nodes of one kind of job, and the pools on them."""

    job: str
    nodes: int
    workers: dict[str, int]
    """By pool, on all nodes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Forecast:
    """What a campaign will take."""

    campaign: Campaign
    site: str
    pages: Range
    passages: Range
    tokens: Range
    groups: list[Group]
    stages: list[StageForecast]
    seconds: Range
    """Wall time of all jobs one after the other, without waiting in queues."""
    jobs: int
    node_hours: Range
    limiting_stage: str
    limiting_pool: str
    bytes: dict[str, float]
    files: int
    notes: list[str]
    """What was assumed."""

    def to_json(self) -> dict[str, Any]:
        """What `plan --json` prints."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """Numbers of everything, one for each draw; the first is the estimate."""

    pages: Floats
    passages: Floats
    tokens: Floats

    def units(self, stage: str, ocr_share: float) -> Floats:
        amount: Floats = {"page": self.pages, "passage": self.passages, "token": self.tokens}[UNITS[stage]]
        return amount * ocr_share if stage == "recognise" else amount


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """A stage: where it runs, at which rate, its units and its work in seconds of one worker, for each draw."""

    stage: str
    pool: str
    accelerator: str
    rate: Rate
    units: Floats
    work: Floats


def forecast(campaign: Campaign, site: Site, rates: Rates, settings: IndexSettings | None = None) -> Forecast:
    """Forecast a campaign on a site; UserError when it cannot run there."""
    parts = (settings or IndexSettings()).parts
    rng = np.random.default_rng(0)
    shape = _shape(campaign, rates, rng)
    n_parts = -(-campaign.documents // _documents_per_part(campaign, site, rates, shape, parts))
    n_shards = -(-n_parts // parts.parts_per_shard)
    steps = _steps(campaign, site, rates, shape, n_parts, rng)
    groups = _split(site, steps, campaign.nodes or sum(site.nodes(pools[0]) for pools in site.groups().values()))
    n_nodes = sum(group.nodes for group in groups)
    times = _pool_times(groups, steps, n_parts)
    slowest = max(times, key=lambda pool: times[pool][0])
    mine = [step for step in steps if step.pool == slowest]
    tail = sum((step.work / n_shards if step.stage == "build" else 0.5 * step.work / n_parts) for step in steps)
    start = rates.start_seconds.value * _draws(rates.start_seconds.error, rng) + sum(step.rate.first for step in mine)
    if site.scheduler != "local":
        start += PAPER_LOADING[0] * (n_nodes / 2) ** PAPER_LOADING[1] * _draws(PAPER_LOADING[2], rng)
    busy = np.max(np.stack(list(times.values())), axis=0) + tail
    seconds, n_jobs = _in_jobs(busy, start, campaign.walltime)
    waiting = min(n_parts, IN_FLIGHT * sum(sum(group.workers.values()) for group in groups) + parts.parts_per_shard)
    return Forecast(
        campaign=campaign,
        site=site.name,
        pages=_range(shape.pages),
        passages=_range(shape.passages),
        tokens=_range(shape.tokens),
        groups=groups,
        stages=[_describe(step, steps) for step in steps],
        seconds=_range(seconds),
        jobs=n_jobs,
        node_hours=_range(seconds * n_nodes / 3600),
        limiting_stage=max(mine, key=lambda step: step.work[0]).stage,
        limiting_pool=slowest,
        bytes=_bytes(campaign, shape, rates, n_parts, n_parts * len(steps), waiting / n_parts),
        files=int(rates.storage.files_per_part * n_parts + rates.storage.files_per_shard * n_shards),
        notes=_notes(site, steps, rates, campaign),
    )


def _documents_per_part(campaign: Campaign, site: Site, rates: Rates, shape: _Shape, parts: PartSettings) -> int:
    """As many as `plan` puts into a part, by the seconds of the stage that takes longest."""
    n_workers = site.n_workers
    if campaign.nodes:
        n_workers = sum(map(site.workers_per_node, site.active_pools)) * campaign.nodes // len(site.groups())
    work = [
        float(shape.units(stage, 0.0)[0]) * rates.of(stage, _accelerator(site, stage, rates)).seconds
        for stage in UNITS
        if stage != "recognise"
    ]
    each = max(work) / campaign.documents
    target = min(parts.target_seconds, max(LEAST_SECONDS, max(work) / (PARTS_PER_WORKER * n_workers)))
    return max(1, min(parts.files_per_part, int(target / each)))


def _steps(
    campaign: Campaign, site: Site, rates: Rates, shape: _Shape, n_parts: int, rng: np.random.Generator
) -> list[_Step]:
    steps = []
    for stage in UNITS:
        if stage == "recognise" and not campaign.ocr_share:
            continue
        kind = _accelerator(site, stage, rates)
        rate, units = rates.of(stage, kind), shape.units(stage, campaign.ocr_share)
        noise = float(np.hypot(rate.error, rate.spread / np.sqrt(n_parts)))
        work = units * rate.seconds * _draws(noise, rng) / _speed_up(site, stage)
        steps.append(_Step(stage, site.pool_of(stage), kind, rate, units, work))
    return steps


def _describe(step: _Step, steps: list[_Step]) -> StageForecast:
    return StageForecast(
        stage=step.stage,
        pool=step.pool,
        accelerator=step.accelerator,
        units=float(step.units[0]),
        unit=UNITS[step.stage],
        worker_hours=_range(step.work / 3600),
        share=float(step.work[0] / sum(other.work[0] for other in steps if other.pool == step.pool)),
        basis=step.rate.basis,
        source=step.rate.source,
    )


def _draws(error: float, rng: np.random.Generator) -> Floats:
    """(DRAWS,) factors around 1, log-normal; the first is 1."""
    factors: Floats = np.exp(error * rng.standard_normal(DRAWS))
    factors[0] = 1.0
    return factors


def _range(values: Floats) -> Range:
    low, high = np.quantile(values, (0.05, 0.95))
    return Range(float(values[0]), float(low), float(high))


def _shape(campaign: Campaign, rates: Rates, rng: np.random.Generator) -> _Shape:
    corpus = rates.corpus
    given = campaign.pages_per_document
    per_document = corpus.pages_per_document.value * _draws(corpus.pages_per_document.error, rng)
    pages = campaign.documents * (np.full(DRAWS, given) if given else per_document)
    passages = pages * corpus.passages_per_page.value * _draws(corpus.passages_per_page.error, rng)
    tokens = passages * corpus.tokens_per_passage.value * _draws(corpus.tokens_per_passage.error, rng)
    return _Shape(pages, passages, tokens)


def _accelerator(site: Site, stage: str, rates: Rates) -> str:
    """The kind of accelerator that runs a stage; empty for a core."""
    if not site.active_pools[site.pool_of(stage)].accelerator_names:
        return ""
    kind = rates.accelerator_of.get(site.name, GUESSED_ACCELERATOR)
    return kind if stage in rates.accelerators.get(kind, {}) else ""


def _speed_up(site: Site, stage: str) -> int:
    """Encoding on cores uses a worker's threads; everything else is the work of one."""
    pool = site.active_pools[site.pool_of(stage)]
    return pool.threads if stage == "encode" and not pool.accelerator_names else 1


def _split(site: Site, steps: list[_Step], nodes: int) -> list[Group]:
    """Nodes for each kind of job such that the slowest pool is as fast as can be.

    Node after node goes to the job that would take longest without it, which is optimal as more nodes never slow a job.
    """
    grouped = site.groups()
    if nodes < len(grouped):
        raise UserError(f"site {site.name} has jobs of {len(grouped)} kinds; give it at least so many --nodes")

    def need(pool: str) -> float:
        return sum(float(step.work[0]) for step in steps if step.pool == pool) / site.workers_per_node(pool)

    needs = {job: max(map(need, pools)) for job, pools in grouped.items()}
    given = dict.fromkeys(grouped, 1)
    for _ in range(nodes - len(grouped)):
        given[max(given, key=lambda job: needs[job] / given[job])] += 1
    return [
        Group(job, given[job], {pool: site.workers_per_node(pool) * given[job] for pool in pools})
        for job, pools in grouped.items()
    ]


def _pool_times(groups: list[Group], steps: list[_Step], n_parts: int) -> dict[str, Floats]:
    """(DRAWS,) seconds that each pool is at work; no more workers than parts are of use."""
    workers = {pool: number for group in groups for pool, number in group.workers.items()}
    times: dict[str, Floats] = {}
    for step in steps:
        times[step.pool] = times.get(step.pool, 0.0) + step.work / min(workers[step.pool], n_parts)
    return times


def _in_jobs(busy: Floats, start: Floats, walltime: float | None) -> tuple[Floats, int]:
    """Seconds over as many jobs as the walltime asks for, each of which starts anew; and how many these are."""
    if walltime is None:
        return busy + start, 1
    useful = walltime - start
    if useful[0] <= 0:
        raise UserError(f"a walltime of {walltime:.0f} s does not even cover the start, about {start[0]:.0f} s")
    jobs = np.ceil(busy / np.maximum(useful, 0.05 * walltime))
    return busy + jobs * start, int(jobs[0])


def _bytes(
    campaign: Campaign, shape: _Shape, rates: Rates, n_parts: int, n_tasks: int, waiting: float
) -> dict[str, float]:
    """Bytes by kind, by the estimate; `waiting` is the share of the vectors that wait for their shard at a time."""
    storage = rates.storage
    pages, passages, tokens = float(shape.pages[0]), float(shape.passages[0]), float(shape.tokens[0])
    vectors = storage.vectors_per_token * tokens
    kept = {
        "documents": storage.documents_per_page * pages,
        "passages": storage.passages_per_passage * passages,
        "shards: vectors": vectors,
        "shards: text and words": storage.text_per_passage * passages,
        "plan, manifest, logs": storage.plan_per_document * campaign.documents
        + storage.manifest_per_part * n_parts
        + storage.log_per_task * n_tasks,
    }
    return kept | {"total": sum(kept.values()), "besides, while it runs": vectors * waiting}


def _notes(site: Site, steps: list[_Step], rates: Rates, campaign: Campaign) -> list[str]:
    notes = []
    for step in steps:
        if step.rate.basis == "assumed":
            where = f" on {step.accelerator}" if step.accelerator else ""
            notes.append(f"{step.stage}{where}: not measured; assumed from {step.rate.source}")
    on_cores = [step for step in steps if not step.accelerator and step.rate.basis == "measured"]
    if site.scheduler != "local":
        for source in dict.fromkeys(step.rate.source for step in on_cores):
            named = ", ".join(step.stage for step in on_cores if step.rate.source == source)
            notes.append(f"{named}: a core of {site.name} is assumed to be as fast as the one measured ({source})")
        notes.append("loading on many nodes: as in the HiPerRAG paper, 36 s on 2 nodes and 362 s on 256")
    if any(step.accelerator for step in steps) and site.name not in rates.accelerator_of:
        notes.append(f"the kind of accelerator is not known for {site.name}; assumed to be {GUESSED_ACCELERATOR}")
    if not campaign.pages_per_document:
        pages = rates.corpus.pages_per_document.value
        notes.append(f"{pages:g} pages a document, as in {rates.corpus.source}; say --pages-per-document if you know")
    notes.append(f"passages, tokens and bytes as in {rates.storage.source}")
    return notes


def check_run(collection: Path, rates: Rates, clock: Clock = "wall") -> dict[str, Any]:
    """Forecast the last run of a collection from other rates, and what it took: how far forecasts are to be trusted.

    `by_documents` knows only how many documents there were, `by_pages` their pages too. `work` is the time of all
    workers by the clock that the rates are of, which is the fairer comparison where other programs use the machine.
    """
    log = read_tasks(find_run(collection))
    if log.last.get("event") != "run_finished" or not len(log):
        raise UserError(f"{collection}: its last run did not finish, or had nothing to do")
    parsed = log.of_stage("parse")
    documents, pages = (int(log.columns[name][parsed].sum()) for name in ("n_inputs", "n_pages"))
    if not pages:
        raise UserError(f"{collection}: its last run parsed no PDF")
    site = Site.model_validate(
        {
            "name": "check",
            "description": "the workers of a run",
            "scheduler": "local",
            "facts": {"tested": True, "note": ""},
            "pools": {"workers": {"workers": max(len(log.workers), int(log.first.get("workers", 0)))}},
        }
    )
    ways = {"by_documents": None, "by_pages": pages / documents}
    found = {way: forecast(Campaign(documents, pages_per_document=given), site, rates) for way, given in ways.items()}
    work = log.seconds if clock == "wall" else log.columns["cpu_seconds"]
    return {
        "run": log.first.get("run", ""),
        "documents": documents,
        "pages": pages,
        "workers": site.n_workers,
        "seconds": log.last["time"] - log.first["time"],
        "work": float(work.sum()),
        "clock": clock,
        **{way: dataclasses.asdict(result.seconds) for way, result in found.items()},
        **{
            f"work_{way}": 3600 * sum(stage.worker_hours.estimate for stage in result.stages)
            for way, result in found.items()
        },
    }
