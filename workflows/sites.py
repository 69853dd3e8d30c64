"""Sites: where a run's tasks execute. One YAML file each in site_configs/, or a user's own, validated here.

A site has kinds of *jobs* (what is asked of a batch system) and *pools* of workers on their nodes; each stage of a run
belongs to one pool. `workflows/parsl_config.py` turns a site into a Parsl configuration. docs/sites.md is the manual.
"""

from __future__ import annotations

import os
import re
from functools import cached_property
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from hiperrag.errors import UserError
from hiperrag.workflows.accelerators import accelerators_here
from hiperrag.workflows.allocation import Allocation, current_allocation

StageName = Literal["parse", "recognise", "chunk", "encode", "build"]
FILL = "FILL"
"""Stands for a value that only the user knows, such as the account to charge."""


def _clock(value: object) -> object:
    """YAML reads 10:00:00 without quotes as a number to the base 60."""
    return f"{value // 3600}:{value // 60 % 60:02d}:{value % 60:02d}" if isinstance(value, int) else value


Duration = Annotated[str, BeforeValidator(_clock), StringConstraints(pattern=r"^\d+:[0-5]\d:[0-5]\d$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Facts(_Part):
    """Where a site's facts come from, and whether it has been run on that machine."""

    tested: bool
    note: str
    sources: tuple[str, ...] = ()


class Job(_Part):
    """What one batch job asks for."""

    nodes: int = Field(default=1, gt=0)
    at_most: int = Field(default=1, gt=0)
    """Jobs of this kind in the queue or running at a time."""
    walltime: Duration = "01:00:00"
    drain: Duration | None = None
    """Time before the end in which nodes begin no more tasks; default a tenth of the walltime, at most 5 minutes."""
    account: str = ""
    """Overrides the site's."""
    queue: str = ""
    """Slurm's partition, PBS's queue."""
    qos: str = ""
    constraint: str = ""
    cpus: int | None = Field(default=None, gt=0)
    """CPUs of a node, as the batch system counts them."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of a node."""
    memory_gb: int | None = Field(default=None, gt=0)
    """Memory of a node to ask for."""
    exclusive: bool = True
    filesystems: str = ""
    """File systems a PBS job needs, such as home:eagle."""
    options: tuple[str, ...] = ()
    """Further directives, as after #SBATCH or #PBS."""
    launcher: Literal["auto", "none", "srun", "mpiexec"] = "auto"
    """Starts one pool on each node; `auto` is srun or mpiexec for more than one node."""
    launcher_options: str = ""
    launcher_bind: str = "--bind-to"
    """The option of mpiexec that is given the value `none`: --cpu-bind on Cray machines."""

    @property
    def walltime_seconds(self) -> int:
        """Length of a job."""
        return _seconds(self.walltime)

    @property
    def drain_seconds(self) -> int:
        """Time before the end in which nodes begin no more tasks."""
        return _seconds(self.drain) if self.drain else min(300, self.walltime_seconds // 10)

    @model_validator(mode="after")
    def _leaves_time_to_work(self) -> Self:
        if self.drain_seconds >= self.walltime_seconds:
            raise ValueError("drain leaves no time to work: it has to be shorter than walltime")
        return self


class WorkerPool(_Part):
    """Workers of one kind on every node of a job."""

    job: str = ""
    """Kind of job on whose nodes the workers run; default the first. Pools of one job share its nodes."""
    stages: tuple[StageName, ...] = ()
    """Default: all that no other pool has."""
    workers: Literal["cores"] | Annotated[int, Field(gt=0)] = "cores"
    """Worker processes a node; `cores`: as many as this node's cores allow beside the other pools."""
    threads: int = Field(default=1, gt=0)
    """Threads of a worker."""
    accelerators: Literal["auto"] | Annotated[int, Field(gt=0)] | tuple[str, ...] = ()
    """A worker for each and pinned to it: their number, their names, or `auto` for those of this machine."""
    affinity: str = Field(default="none", pattern=r"^(none|block|block-reverse|alternating|list:[\d,:-]+)$")
    """CPUs of each worker, as Parsl's cpu_affinity: none, block, block-reverse, alternating, list:0-7:8-15."""

    @property
    def accelerator_names(self) -> tuple[str, ...]:
        """What each worker of a node is pinned to; empty for workers without accelerator."""
        if self.accelerators == "auto":
            return accelerators_here()
        if isinstance(self.accelerators, int):
            return tuple(map(str, range(self.accelerators)))
        return self.accelerators


class Site(_Part):
    """A place that can run Parsl workers."""

    name: str = Field(pattern=r"^[\w.-]+$")
    description: str
    scheduler: Literal["local", "slurm", "pbs", "allocation"]
    facts: Facts
    account: str = ""
    jobs: dict[str, Job] = {}
    pools: dict[str, WorkerPool] = Field(min_length=1)
    interface: str = ""
    """Network interface, or address, at which workers reach the main process; default: any that works."""
    setup: tuple[str, ...] = ()
    """Shell lines that each job runs before its workers start, such as `module load`."""
    environment: dict[str, str] = {}
    """Variables of the workers' environment."""
    tmpdir: str = ""
    """TMPDIR of the workers: on a file system of the node, with a short path."""
    node_local: str = ""
    """Folder of a fast file system of each node; models are copied there once a node."""
    heartbeat: int = Field(default=0, ge=0)
    """Seconds between signs of life; a node that gave none for six times as long is lost. Default 5, or 20 on a
    batch system."""
    poll: int = Field(default=60, gt=0)
    """Seconds between questions to the batch system about the jobs."""
    monitoring: bool = False
    """Parsl's own monitoring: a database of tasks in the run's folder, for `parsl-visualize`."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        problems = [*self._job_problems(), *self._pool_problems()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _job_problems(self) -> list[str]:
        problems = []
        if self.scheduler in ("slurm", "pbs") and not self.jobs:
            problems.append(f"jobs: {self.scheduler} needs at least one")
        if self.scheduler == "local" and self.jobs:
            problems.append("jobs: this machine takes none; remove them, or give another scheduler")
        for name, job in self.jobs.items():
            only_slurm = [field for field in ("qos", "constraint") if getattr(job, field)]
            if self.scheduler == "pbs" and only_slurm:
                problems.append(f"jobs.{name}.{only_slurm[0]}: only Slurm has it; give PBS directives in options")
            if self.scheduler == "slurm" and job.filesystems:
                problems.append(f"jobs.{name}.filesystems: only PBS has it")
            if self.scheduler == "pbs" and job.cpus is None:
                problems.append(f"jobs.{name}.cpus: PBS has to be told")
            wrong = [option for option in job.options if not option.startswith("-")]
            if wrong:
                problems.append(f"jobs.{name}.options: {wrong[0]!r} is no directive; it has to begin with -")
        return problems

    def _pool_problems(self) -> list[str]:
        problems = []
        for name, pool in self.pools.items():
            if not re.fullmatch(r"[\w-]+", name):
                problems.append(f"pools.{name}: a pool's name is made of letters, digits, - and _")
            if pool.job and pool.job not in self.jobs:
                problems.append(f"pools.{name}.job: no job {pool.job!r}")
            fixed = isinstance(pool.workers, int) or (pool.accelerators and pool.accelerators != "auto")
            if self.scheduler in ("slurm", "pbs") and not fixed:
                problems.append(f"pools.{name}.workers: a number is needed, as the nodes' cores cannot be counted here")
            if pool.affinity.startswith("list:") and fixed:
                wanted = len(pool.accelerator_names) or pool.workers
                if pool.affinity.count(":") != wanted:
                    problems.append(f"pools.{name}.affinity: {wanted} workers need {wanted} lists of CPUs")
        listed = [stage for pool in self.pools.values() for stage in pool.stages]
        missing = [stage for stage in get_args(StageName) if stage not in listed]
        open_pools = [name for name, pool in self.pools.items() if not pool.stages]
        twice = sorted({stage for stage in listed if listed.count(stage) > 1})
        if twice:
            problems.append(f"pools: more than one has the stage {twice[0]}")
        if missing and not open_pools:
            problems.append(f"pools: none has the stage {missing[0]}")
        if len(open_pools) > 1 or (open_pools and not missing):
            problems.append(f"pools.{open_pools[-1]}.stages: missing")
        return problems

    # What runs where

    @cached_property
    def allocation(self) -> Allocation:
        """The job that this process is in, for the scheduler `allocation`; UserError when it is in none."""
        found = current_allocation()
        if not found:
            raise UserError(
                f"site {self.name}: this is not inside a Slurm or PBS job; start it from a batch script, salloc "
                "or qsub -I"
            )
        return found

    @cached_property
    def active_pools(self) -> dict[str, WorkerPool]:
        """The pools that have workers: one whose accelerators are `auto` has none where there are none."""
        active = {
            name: pool for name, pool in self.pools.items() if pool.accelerators != "auto" or pool.accelerator_names
        }
        return active or dict(list(self.pools.items())[:1])

    def pool_of(self, stage: str) -> str:
        """The name of the pool that runs a stage; what is no stage of indexing runs where encoding does."""
        stage = stage if stage in get_args(StageName) else "encode"
        listed = {one for pool in self.pools.values() for one in pool.stages}
        for name, pool in self.active_pools.items():
            if stage in pool.stages or (not pool.stages and stage not in listed):
                return name
        return next(iter(self.active_pools))

    def groups(self) -> dict[str, list[str]]:
        """Pools that share nodes, by the kind of job; one group, named "", where no job is submitted."""
        if self.scheduler in ("local", "allocation"):
            return {"": list(self.active_pools)}
        grouped: dict[str, list[str]] = {}
        for name, pool in self.active_pools.items():
            grouped.setdefault(pool.job or next(iter(self.jobs)), []).append(name)
        return grouped

    def workers_per_node(self, name: str) -> int:
        """Worker processes of a pool on each of its nodes."""
        pool = self.active_pools[name]
        if pool.accelerator_names:
            return len(pool.accelerator_names)
        if pool.workers != "cores":
            return pool.workers
        group = next(names for names in self.groups().values() if name in names)
        others = (self.active_pools[other] for other in group if other != name)
        taken = sum((len(one.accelerator_names) or _number(one.workers)) * one.threads for one in others)
        cores = self.allocation.cores if self.scheduler == "allocation" else len(os.sched_getaffinity(0))
        return max(1, (cores - taken) // pool.threads)

    def nodes(self, name: str) -> int:
        """Nodes of a pool when all of its jobs run."""
        if self.scheduler == "local":
            return 1
        if self.scheduler == "allocation":
            return self.allocation.nodes
        job = self.jobs[self.pools[name].job or next(iter(self.jobs))]
        return job.nodes * job.at_most

    @property
    def n_workers(self) -> int:
        """Worker processes when all jobs run."""
        return sum(self.workers_per_node(name) * self.nodes(name) for name in self.active_pools)

    @property
    def threads_per_worker(self) -> int:
        """Threads of a worker that encodes."""
        return self.active_pools[self.pool_of("encode")].threads

    @property
    def heartbeat_seconds(self) -> int:
        """Seconds between signs of life of a node."""
        return self.heartbeat or (5 if self.scheduler == "local" else 20)

    def unfilled(self) -> list[str]:
        """Fields that only the user can fill in, and that a job needs."""
        if self.scheduler not in ("slurm", "pbs"):
            return []
        return [field for field, value in _leaves(self.model_dump()) if value == FILL]

    def check_monitoring(self) -> None:
        """UserError when Parsl's monitoring is asked for and what it needs is not installed."""
        if self.monitoring and not find_spec("sqlalchemy"):
            raise UserError(
                f"site {self.name}: monitoring: needs `pip install 'hiperrag[monitoring]'`; or leave it out"
            )

    def check_filled(self) -> None:
        """UserError that names what is still to be filled in."""
        fields = self.unfilled()
        if fields:
            raise UserError(
                f"site {self.name}: {' and '.join(fields)} not filled in; write a file with `extends: {self.name}` and "
                f"your {fields[0]}, and give it to --site"
            )


def _seconds(text: str) -> int:
    hours, minutes, seconds = map(int, text.split(":"))
    return 3600 * hours + 60 * minutes + seconds


def _number(workers: int | str) -> int:
    return workers if isinstance(workers, int) else 0


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, one in value.items() for leaf in _leaves(one, f"{path}.{key}" if path else str(key))]
    return [(path, value)]


# Reading


def packaged_sites() -> list[Site]:
    """The sites that come with the program."""
    return [load_site(name) for name in _packaged()]


def load_site(name: str) -> Site:
    """A packaged site by name, or any site from a YAML file; UserError with a line for each mistake in it."""
    origin, values = _read(name, ())
    return _validate(values, origin)


def _packaged() -> dict[str, Any]:
    files = (entry for entry in resources.files("hiperrag.site_configs").iterdir() if entry.name.endswith(".yaml"))
    return {entry.name.removesuffix(".yaml"): entry for entry in sorted(files, key=lambda entry: entry.name)}


def _read(name: str, seen: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    """A site's origin for messages, and its values with those of the site that it extends."""
    if name in seen:
        raise UserError(f"site {name}: extends itself")
    own: dict[str, Any] = {}
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{name}: no such site file")
        origin, text, own = name, path.read_text(encoding="utf-8"), {"name": re.sub(r"[^\w.-]", "-", path.stem)}
    else:
        sites = _packaged()
        if name not in sites:
            raise UserError(f"unknown site {name!r}: choose one of {', '.join(sites)}, or name a .yaml file")
        origin, text = sites[name].name, sites[name].read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"site {origin}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"site {origin}: has to be a mapping of fields to values")
    base = values.pop("extends", None)
    if base is None:
        return origin, own | values
    if not isinstance(base, str):
        raise UserError(f"site {origin}: extends: has to name one site")
    if base.endswith((".yaml", ".yml")):
        base = str(Path(name).parent / base)
    return origin, _merge(_read(base, (*seen, name))[1], own | values)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`: mappings are merged, anything else is replaced, null removes."""
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _validate(values: dict[str, Any], origin: str) -> Site:
    try:
        return Site.model_validate(values)
    except ValidationError as error:
        lines = dict.fromkeys(f"site {origin}: {line}" for detail in error.errors() for line in _describe(detail))
    raise UserError("\n".join(lines))


def _describe(detail: Any) -> list[str]:
    """One line for each mistake: the field and what is wrong with it."""
    steps = [str(step) for step in detail["loc"] if not re.search(r"[\[(]", str(step))]
    field = ".".join(steps)
    if detail["type"] == "value_error":
        problems = str(detail["ctx"]["error"]).split("\n") if not steps else [str(detail["ctx"]["error"])]
        return [f"{field}: {problem}" if field else problem for problem in problems]
    if detail["type"] == "extra_forbidden":
        return [f"{field}: there is no such field"]
    if detail["type"] == "missing":
        return [f"{field}: missing"]
    if detail["type"] == "string_pattern_mismatch" and steps[-1] in ("walltime", "drain"):
        return [f"{field}: {detail['input']!r} is not of the form HH:MM:SS"]
    return [f"{field}: {detail['msg']}"]
