"""A site as a Parsl configuration: an executor for each pool, a provider for each kind of job."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.errors import TooManyJobFailuresError
from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import MpiExecLauncher, SingleNodeLauncher, SrunLauncher
from parsl.launchers.base import Launcher
from parsl.monitoring import MonitoringHub
from parsl.providers import LocalProvider, PBSProProvider, SlurmProvider
from parsl.providers.base import ExecutionProvider

from hiperrag.errors import UserError
from hiperrag.workflows.sites import Job, Site
from hiperrag.workflows.tethered import call_tethered

SCRIPTS = Path(sys.executable).parent
FAILED_STARTS_ALLOWED = 3
"""Jobs in a row that never brought a worker, after which a run gives up."""
MISSED_HEARTBEATS_ALLOWED = 6
SECONDS_PER_COMMAND = 120
"""What a command of the batch system may take; a busy one takes its time."""
SECONDS_IDLE = 300
"""A job without work for so long is given back."""


class NodeExecutor(HighThroughputExecutor):  # type: ignore[misc]
    """Asks for jobs, and starts on each of their nodes its own workers and those of the executors in `guests`.

    So CPU and GPU workers share nodes, whereas Parsl alone would ask for nodes for either.
    """

    guests: tuple[HighThroughputExecutor, ...] = ()

    def outstanding(self) -> int:
        """Tasks given to any of the executors: jobs are asked for as long as there are some."""
        tasks: int = super().outstanding() + sum(guest.outstanding() for guest in self.guests)
        return tasks

    @property
    def workers_per_node(self) -> float:
        """Workers of all executors."""
        workers: float = super().workers_per_node + sum(guest.workers_per_node for guest in self.guests)
        return workers

    def _get_launch_command(self, block_id: str) -> str:
        commands: list[str] = [super()._get_launch_command(block_id)]
        commands += [guest._get_launch_command(block_id) for guest in self.guests]
        if len(commands) == 1:
            return commands[0]
        # Where one ends in disorder, all do: then another job is asked for, whereas half a one would be waited for.
        together = "while wait -n; do :; done; kill $(jobs -p) 2>/dev/null; wait"
        return " & ".join(commands) + f" & {together}"


class _Slurm(SlurmProvider):  # type: ignore[misc]
    status_polling_interval = 60


class _Pbs(PBSProProvider):  # type: ignore[misc]
    status_polling_interval = 60


def parsl_config(site: Site, run_dir: Path, n_tasks: int, elsewhere: bool = False) -> Config:
    """The Parsl configuration of a site for a run of at least `n_tasks` tasks, with its logs in `run_dir`.

    `elsewhere`: only to be looked at, on whatever machine. UserError when the site does not fit this machine.
    """
    run_dir = run_dir.absolute()
    executors: list[HighThroughputExecutor] = []
    for job_name, pools in site.groups().items():
        provider = _provider(site, site.jobs.get(job_name), run_dir)
        guests = tuple(_executor(site, name, _no_jobs(), n_tasks, elsewhere) for name in pools[1:])
        host = _executor(site, pools[0], provider, n_tasks, elsewhere)
        host.guests = guests
        executors += [*guests, host]  # guests first: their ports have to be known when jobs are submitted
    is_local = site.scheduler == "local"
    return Config(
        executors=executors,
        run_dir=str(run_dir),
        initialize_logging=False,
        strategy="simple",  # asks for jobs again when those there were have ended
        strategy_period=2 if is_local else min(10, site.poll),
        max_idletime=SECONDS_IDLE,
        monitoring=_monitoring(site, run_dir) if site.monitoring else None,
        usage_tracking=0,
    )


def _monitoring(site: Site, run_dir: Path) -> MonitoringHub:
    """Parsl's monitoring: when each task began and ended, and where; what it took is in the run's own log.

    One process writes the database, so it does without the locks that network file systems break. That process and the
    one that receives messages end with the main process, however it ends.
    """
    site.check_monitoring()
    for module, name in (
        ("parsl.monitoring.monitoring", "dbm_starter"),
        ("parsl.monitoring.radios.zmq_router", "zmq_router_starter"),
    ):
        setattr(sys.modules[module], name, partial(call_tethered, os.getpid(), module, name))
    database = quote(str(run_dir / "monitoring.db"))
    return MonitoringHub(
        logging_endpoint=f"sqlite:///file:{database}?nolock=1&uri=true",
        resource_monitoring_interval=0,  # else it forks the worker for every task
        workflow_name="hiperrag",
    )


def batch_scripts(site: Site, run_dir: Path) -> dict[str, tuple[str, str]]:
    """What a run would submit: by kind of job, the command and the script, as Parsl's provider writes them.

    Nothing is submitted. A site that submits no jobs has the script that starts its workers.
    """
    config = parsl_config(site, run_dir, site.n_workers, elsewhere=True)
    for executor in config.executors:
        executor.run_dir = "RUN"
        executor.cert_dir, executor.logconf_path, executor.worker_port = "CERTIFICATES", None, "PORT"
        executor.initialize_scaling()
    hosts = [executor for executor in config.executors if isinstance(executor, NodeExecutor) and _submits(executor)]
    return dict(zip(site.groups(), map(_rendered, hosts), strict=True))


def _submits(executor: HighThroughputExecutor) -> bool:
    return bool(executor.provider.max_blocks)


def _rendered(executor: NodeExecutor) -> tuple[str, str]:
    """Let the provider write its script and keep the command that would submit it."""
    commands: list[str] = []

    def note(command: str, *_: object) -> tuple[int, str, str]:
        commands.append(command)
        return 0, "Submitted batch job 1", ""

    provider = executor.provider
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(provider, LocalProvider):
            body = provider.launcher(executor._get_launch_command("0"), 1, provider.nodes_per_block, "SCRIPTS")
            return "bash", provider.worker_init + "\n" + body
        provider.script_dir, provider.execute_wait = folder, note
        provider.submit(executor._get_launch_command("0"), 1, f"parsl.{executor.label}.block-0")
        script = next(path for path in Path(folder).iterdir() if path.suffix != ".sh").read_text(encoding="utf-8")
        return commands[-1].replace(folder, "SCRIPTS"), script.replace(folder, "SCRIPTS")


def _executor(site: Site, name: str, provider: ExecutionProvider, n_tasks: int, elsewhere: bool) -> NodeExecutor:
    pool, n_workers = site.active_pools[name], site.workers_per_node(name)
    is_local = site.scheduler == "local"
    address = "127.0.0.1" if is_local else _address(site, elsewhere)
    executor = NodeExecutor(
        label=name,
        address=address,
        loopback_address="127.0.0.1",
        max_workers_per_node=max(1, min(n_workers, n_tasks)) if is_local else n_workers,
        cores_per_worker=1e-6,  # the number of workers is the site's to say
        available_accelerators=list(pool.accelerator_names),
        cpu_affinity=pool.affinity,
        block_error_handler=_give_up_if_nothing_starts,
        heartbeat_period=site.heartbeat_seconds,
        heartbeat_threshold=site.heartbeat_seconds * MISSED_HEARTBEATS_ALLOWED,
        drain_period=_drain_period(site, name),
        launch_cmd=_launch_command(site, name),
        interchange_launch_cmd=[*_tether(), str(SCRIPTS / "interchange.py")],
        provider=provider,
    )
    if address == "0.0.0.0":
        executor.all_addresses = _all_addresses()
    return executor


def _drain_period(site: Site, pool: str) -> int | None:
    """Seconds after which a node takes no more tasks, so that none is cut off by the end of its job."""
    if site.scheduler not in ("slurm", "pbs"):
        return None
    job = site.jobs[site.pools[pool].job or next(iter(site.jobs))]
    return job.walltime_seconds - job.drain_seconds


def _tether() -> list[str]:
    # -P: a folder called hiperrag where the user stands (a clone) must not be taken for the package.
    return [sys.executable, "-P", "-m", "hiperrag.workflows.tethered", str(os.getpid())]


def _launch_command(site: Site, name: str) -> str:
    """The command that starts a pool on a node; on the main process's own machine it ends with that process."""
    script = [str(SCRIPTS / "process_worker_pool.py")]
    watched = [sys.executable, "-P", "-m", "hiperrag.workflows.node_watch"]
    start = shlex.join([*(_tether() if site.scheduler == "local" else watched), *script])
    threads = str(site.active_pools[name].threads)
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONSAFEPATH": "1",
        **({"TMPDIR": site.tmpdir} if site.tmpdir else {}),
        **({"HIPERRAG_NODE_LOCAL": site.node_local} if site.node_local else {}),
        **({"CUDA_VISIBLE_DEVICES": ""} if _hides_gpus(site, name) else {}),
        **site.environment,
    }
    assignments = " ".join(f'{key}="{value}"' for key, value in variables.items())  # $USER and the like are resolved
    folders = " ".join(f'"{folder}"' for folder in (site.tmpdir, site.node_local) if folder)
    prepare = "" if site.scheduler == "local" else f"cd {shlex.quote(str(Path.cwd()))}; "
    prepare += f"mkdir -p {folders}; " if folders else ""
    pool = DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", start, 1)
    return f"( {prepare}exec env {assignments} {pool} )"


def _hides_gpus(site: Site, name: str) -> bool:
    """Whether a pool's workers must not all take to the first GPU, because it belongs to another pool."""
    pools = site.active_pools
    return not pools[name].accelerator_names and any(pool.accelerator_names for pool in pools.values())


# Where the main process is reached


def _address(site: Site, elsewhere: bool) -> str:
    """The address to listen at: that of the site's interface, or all."""
    if not site.interface:
        return "0.0.0.0"
    addresses = addresses_of(site.interface)
    if not addresses and elsewhere:
        return f"ADDRESS-OF-{site.interface}"
    if not addresses:
        raise UserError(
            f"site {site.name}: interface: there is no network interface {site.interface!r} on this machine"
        )
    return addresses[0]


def addresses_of(interface: str) -> list[str]:
    """IPv4 addresses of a network interface by its name; an address stands for itself."""
    if interface.count(".") == 3 and interface.replace(".", "").isdigit():
        return [interface]
    found = psutil.net_if_addrs().get(interface, [])
    return [entry.address for entry in found if entry.family == socket.AF_INET]


def _all_addresses() -> set[str]:
    """Every address of this machine: workers try them all, with no question to a server on the internet."""
    return {address for interface in psutil.net_if_addrs() for address in addresses_of(interface)}


# What is asked of the batch system


def _no_jobs() -> LocalProvider:
    return LocalProvider(init_blocks=0, min_blocks=0, max_blocks=0)


def _provider(site: Site, job: Job | None, run_dir: Path) -> ExecutionProvider:
    setup = "\n".join((f"cd {shlex.quote(str(run_dir))}", *site.setup))
    if site.scheduler == "local":
        return LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1, worker_init="\n".join(site.setup))
    if site.scheduler == "allocation":
        return LocalProvider(
            nodes_per_block=site.allocation.nodes,
            launcher=_launcher_inside(site),
            init_blocks=1,
            min_blocks=1,
            max_blocks=1,
            worker_init=setup,
            cmd_timeout=SECONDS_PER_COMMAND,
        )
    assert job is not None, "checked when the site was read"
    common: dict[str, Any] = {
        "account": job.account or site.account or None,
        "nodes_per_block": job.nodes,
        "init_blocks": 1,
        "min_blocks": 0,
        "max_blocks": job.at_most,
        "walltime": job.walltime,
        "worker_init": setup,
        "cmd_timeout": SECONDS_PER_COMMAND,
    }
    provider = _slurm(job, common) if site.scheduler == "slurm" else _pbs(job, common)
    provider.status_polling_interval = site.poll
    return provider


def _slurm(job: Job, common: dict[str, Any]) -> SlurmProvider:
    return _Slurm(
        partition=job.queue or None,
        qos=job.qos or None,
        constraint=job.constraint or None,
        cores_per_node=job.cpus,
        mem_per_node=job.memory_gb,
        gpus_per_node=job.gpus or None,
        exclusive=job.exclusive,
        scheduler_options="\n".join(f"#SBATCH {option}" for option in job.options),
        launcher=_launcher(job, "srun"),
        **common,
    )


def _pbs(job: Job, common: dict[str, Any]) -> PBSProProvider:
    chunk = [f"ngpus={job.gpus}"] if job.gpus else []
    chunk += [f"mem={job.memory_gb}gb"] if job.memory_gb else []
    directives = [f"-l filesystems={job.filesystems}"] if job.filesystems else []
    directives += ["-l place=scatter:excl" if job.exclusive else "-l place=scatter", *job.options]
    return _Pbs(
        queue=job.queue or None,
        cpus_per_node=job.cpus,
        select_options=":".join(chunk),
        scheduler_options="\n".join(f"#PBS {directive}" for directive in directives),
        launcher=_launcher(job, "mpiexec"),
        **common,
    )


def _launcher(job: Job, usual: str) -> Launcher:
    kind = job.launcher if job.launcher != "auto" else (usual if job.nodes > 1 else "none")
    if kind == "none":
        return SingleNodeLauncher()
    if kind == "mpiexec":
        return MpiExecLauncher(bind_cmd=job.launcher_bind, overrides=job.launcher_options)
    return SrunLauncher(overrides=_srun_options(job.launcher_options, job.cpus))


def _srun_options(given: str, cpus: int | None) -> str:
    """One pool a node with all of its CPUs; the others go on when a node fails."""
    count = f" --cpus-per-task={cpus}" if cpus and " -c" not in f" {given}" else ""
    return f"--ntasks-per-node=1 --cpu-bind=none --no-kill{count} {given}".rstrip()


def _launcher_inside(site: Site) -> Launcher:
    """Starts a pool on every node of the job that this process is in."""
    job = next(iter(site.jobs.values()), Job())
    if site.allocation.nodes == 1:
        return SingleNodeLauncher()
    if site.allocation.scheduler == "pbs":
        return MpiExecLauncher(bind_cmd=job.launcher_bind, overrides=job.launcher_options)
    nodes = site.allocation.nodes
    return SrunLauncher(
        overrides=f"--overlap --nodes={nodes} " + _srun_options(job.launcher_options, site.allocation.cores)
    )


def _give_up_if_nothing_starts(executor: BlockProviderExecutor, status: dict[str, JobStatus]) -> None:
    """Fail a run whose last jobs could not be submitted or ended before they brought a worker.

    Jobs that did work and then ended, by their walltime or a lost node, are no reason to give up.
    """
    last = [status[block] for block in sorted(status, key=int)[-FAILED_STARTS_ALLOWED:]]
    unsubmitted = executor._simulated_status.values()
    failed = [one for one in last if one.state == JobState.MISSING or one in unsubmitted]
    if len(failed) == FAILED_STARTS_ALLOWED:
        executor.set_bad_state_and_fail_all(TooManyJobFailuresError(_reason(failed[-1])))


def _reason(status: JobStatus) -> str:
    """The last words of the job, or of the command that should have submitted it."""
    told = status.stderr_summary or (status.message or "no message").partition("stderr=")[2] or status.message
    return (told or "no message").strip().splitlines()[-1]
