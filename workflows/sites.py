"""Sites: where a run's tasks execute. One YAML file each in site_configs/, validated, turned into a Parsl config."""

from __future__ import annotations

import os
import shlex
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hiperrag.errors import UserError

if TYPE_CHECKING:
    from parsl.config import Config

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "{threads}",
    "MKL_NUM_THREADS": "{threads}",
    "TOKENIZERS_PARALLELISM": "false",
}


class Site(BaseModel):
    """A place that can run Parsl workers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    provider: Literal["local"]
    workers: Literal["cores"] | int = Field(default="cores")
    """Worker processes; `cores` means one per core this process may use."""
    threads_per_worker: int = Field(default=1, gt=0)

    @property
    def n_workers(self) -> int:
        """Number of worker processes on this machine."""
        if self.workers == "cores":
            return max(1, len(os.sched_getaffinity(0)) // self.threads_per_worker)
        return self.workers


def packaged_sites() -> list[Site]:
    """The sites that come with the program."""
    files = (entry for entry in resources.files("hiperrag.site_configs").iterdir() if entry.name.endswith(".yaml"))
    return [_parse(entry.read_text(encoding="utf-8"), entry.name) for entry in sorted(files, key=lambda e: e.name)]


def load_site(name: str) -> Site:
    """A packaged site by name, or any site from a YAML file."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{name}: no such site file")
        return _parse(path.read_text(encoding="utf-8"), name)
    sites = {site.name: site for site in packaged_sites()}
    if name not in sites:
        raise UserError(f"unknown site {name!r}: choose one of {', '.join(sites)}, or name a .yaml file")
    return sites[name]


def _parse(text: str, origin: str) -> Site:
    try:
        return Site.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        reason = str(error).replace("\n", " ")
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(str(step) for step in first['loc']) or 'file'}: {first['msg']}"
    raise UserError(f"site {origin}: {reason}")


def parsl_config(site: Site, run_dir: Path, n_tasks: int) -> Config:
    """The Parsl configuration of a site for a run of at least `n_tasks` tasks, with its logs in `run_dir`."""
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
    from parsl.jobs.error_handlers import windowed_error_handler
    from parsl.providers import LocalProvider

    tether = [sys.executable, "-m", "hiperrag.workflows.tethered", str(os.getpid())]
    scripts = Path(sys.executable).parent
    pool = shlex.join([*tether, str(scripts / "process_worker_pool.py")])
    environment = {key: value.format(threads=site.threads_per_worker) for key, value in WORKER_ENVIRONMENT.items()}
    exports = "; ".join(f"export {key}={value}" for key, value in environment.items())
    executor = HighThroughputExecutor(
        label=site.name,
        address="127.0.0.1",
        loopback_address="127.0.0.1",
        max_workers_per_node=max(1, min(site.n_workers, n_tasks)),
        cores_per_worker=1e-6,  # the number of workers is the site's to say
        block_error_handler=windowed_error_handler,  # gives up when three pools in a row have failed
        heartbeat_period=5,
        heartbeat_threshold=30,
        launch_cmd=DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", pool, 1),
        interchange_launch_cmd=[*tether, str(scripts / "interchange.py")],
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1, worker_init=exports),
    )
    return Config(
        executors=[executor],
        run_dir=str(run_dir),
        initialize_logging=False,
        strategy="simple",  # starts a pool of workers again if the one there was killed
        strategy_period=2,
        usage_tracking=0,
    )
