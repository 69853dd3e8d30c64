"""A real Slurm with two nodes on this machine, for tests; Debian's packages slurm-wlm and munge, run as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

NODES = ("node1", "node2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "munged")
SYSTEM_CONFIGURATION = Path("/etc/slurm")
"""Where the node daemons' helpers look, whatever SLURM_CONF says; what is there is put back afterwards."""
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ReturnToService=2
SlurmdTimeout=10
KillWait=3
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Starts, breaks and stops the daemons; `run` calls Slurm's commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def start(self) -> None:
        (self.folder / "state").mkdir(parents=True)
        configuration = CONFIGURATION.format(folder=self.folder, host=socket.gethostname(), ports=_free_ports())
        (self.folder / "slurm.conf").write_text(configuration)
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        SYSTEM_CONFIGURATION.mkdir(exist_ok=True)
        for name in ("slurm.conf", "cgroup.conf"):
            shutil.copy(self.folder / name, SYSTEM_CONFIGURATION)
        subprocess.run(["slurmctld", "-c"], env=self.environment, check=True, timeout=60)
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.idle_nodes() == len(NODES), 60)

    def start_node(self, node: str) -> None:
        (self.folder / f"spool.{node}").mkdir(exist_ok=True)
        subprocess.run(["slurmd", "-N", node], env=self.environment, check=True, timeout=60)

    def idle_nodes(self) -> int:
        return sum(int(line) for line in self.run("sinfo", "-h", "-t", "idle", "-o", "%D").split())

    def jobs(self, state: str = "") -> dict[str, str]:
        """Node lists by the ids of the jobs that are pending or running, or only those in `state`."""
        wanted = ["-t", state] if state else []
        lines = self.run("squeue", "-h", "-o", "%i %N", *wanted).splitlines()
        return {job: (nodes[0] if nodes else "") for job, *nodes in map(str.split, lines)}

    def kill_node(self, node: str) -> None:
        """Take a node away as a power cut would: its daemon and everything it runs."""
        victims = [process for process in psutil.process_iter() if _runs_on(process, node)]
        daemon = int((self.folder / f"slurmd.{node}.pid").read_text())
        os.kill(daemon, signal.SIGKILL)
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def stop(self) -> None:
        for job in self.jobs():
            self.run("scancel", job)
        wait_until(lambda: not self.jobs(), 30)
        for name in ("slurmd.node1", "slurmd.node2", "slurmctld"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
                daemon = psutil.Process(int((self.folder / f"{name}.pid").read_text()))
                daemon.terminate()
                daemon.wait(20)


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[Slurm]:
    """Slurm with two nodes of two cores; the test is skipped where that cannot be had."""
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        pytest.skip(f"no Slurm on this machine ({', '.join(missing)} missing): apt-get install slurm-wlm munge")
    if os.geteuid():
        pytest.skip("a Slurm of one's own is started as root")
    if shutil.which("pgrep") and subprocess.run(["pgrep", "-x", "slurmctld"], capture_output=True).returncode == 0:
        pytest.skip("a slurmctld runs on this machine already")
    slurm = Slurm(folder)
    saved = {path: path.read_bytes() for path in SYSTEM_CONFIGURATION.glob("*.conf") if path.is_file()}
    with _munge():
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
            for name in ("slurm.conf", "cgroup.conf"):
                path = SYSTEM_CONFIGURATION / name
                path.write_bytes(saved[path]) if path in saved else path.unlink(missing_ok=True)


@contextlib.contextmanager
def _munge() -> Iterator[None]:
    """Munge's daemon, which signs messages between Slurm's; started if it does not run."""
    if subprocess.run(["munge", "-n"], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0:
        yield
        return
    run = Path("/run/munge")
    run.mkdir(mode=0o755, exist_ok=True)
    shutil.chown(run, "munge", "munge")
    as_munge = ["setpriv", "--reuid", "munge", "--regid", "munge", "--clear-groups"]
    daemon = subprocess.Popen([*as_munge, shutil.which("munged") or "munged", "--foreground"])
    signed = ["munge", "-n"]
    wait_until(lambda: subprocess.run(signed, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0, 30)
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait(20)


def _runs_on(process: psutil.Process, node: str) -> bool:
    with contextlib.suppress(psutil.Error):
        if process.environ().get("SLURMD_NODENAME") == node:
            return True
        return process.name() == "slurmstepd" and f"spool.{node}" in " ".join(f.path for f in process.open_files())
    return False


def _free_ports() -> list[int]:
    """Three ports, of which the last two follow one another, as node daemons take a range."""
    for first in range(17001, 17999, 3):
        ports = [first, first + 1, first + 2]
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in ports:
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return ports
    pytest.skip("no free ports for Slurm")


def wait_until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)
