"""A stand-in for PBS, called as qsub, qstat or qdel: it refuses what PBS refuses, and runs jobs on this machine.

It is no PBS. What it checks is taken from the PBS Professional User's Guide (2022.1, chapters 2 to 4) and, for queues,
accounts and file systems, from the hooks that ALCF describes; messages are PBS's where it has them. Its folder is
PBS_STAND_IN, with `queues.json`: limits by the queue's name.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil

LONGEST_NAME = 236
WITH_VALUE = "aAcCeJklMmNoPpqSuvW"
WITHOUT_VALUE = "fhIRrVXz"
CHUNK_RESOURCES = {"ncpus", "ngpus", "mem", "mpiprocs", "ompthreads", "host", "vnode", "system", "arch"}
JOB_RESOURCES = {"walltime", "select", "place", "filesystems", "min_walltime", "max_walltime", "software"}
PLACE = r"(free|pack|scatter|vscatter|excl|exclhost|shared)(:(excl|exclhost|shared))?(:group=\w+)?"


class RefusedError(Exception):
    """What qsub says before it exits with 1."""


def directives(script: str) -> list[str]:
    """Lines of options up to the first command; PBS ignores those after it, which is refused here."""
    found, commands = [], False
    for line in script.splitlines():
        if line.startswith("#PBS"):
            if commands:
                raise RefusedError(f"directive after the first command is ignored: {line}")
            found.append(line[4:].strip())
        commands = commands or bool(line.strip() and not line.startswith("#"))
    return found


def parse(options: list[str]) -> dict[str, list[str]]:
    parsed: dict[str, list[str]] = {}
    words = [word for option in options for word in option.split()]
    while words:
        word = words.pop(0)
        letter = word[1:2]
        if not word.startswith("-") or letter not in WITH_VALUE + WITHOUT_VALUE or not letter:
            raise RefusedError(f"invalid option -- '{word}'")
        value = ""
        if letter in WITH_VALUE:
            value = word[2:] or (words.pop(0) if words else "")
            if not value:
                raise RefusedError(f"option requires an argument -- '{letter}'")
        parsed.setdefault(letter, []).append(value)
    return parsed


def resources(options: dict[str, list[str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in options.get("l", []):
        for one in re.split(r",(?=\w+=)", entry):
            name, _, value = one.partition("=")
            if name in found:
                raise RefusedError(f"resource given twice: {name}")
            found[name] = value
    for name in found:
        if "select" in found and name in CHUNK_RESOURCES | {"nodes"}:
            raise RefusedError(f'"-lresource=" cannot be used with "select" or "place", resource is: {name}')
        if name not in JOB_RESOURCES | CHUNK_RESOURCES | {"nodes"}:
            raise RefusedError(f"Unknown resource Resource_List.{name}")
    return found


def seconds(walltime: str) -> int:
    if not re.fullmatch(r"\d+|(\d+:)?\d+:\d\d", walltime):
        raise RefusedError("Illegal attribute or resource value Resource_List.walltime")
    total = 0
    for field in walltime.split(":"):
        total = 60 * total + int(field)
    return total


def nodes_of(select: str) -> int:
    total = 0
    for chunk in select.split("+"):
        count, *pairs = chunk.split(":")
        names = [pair.partition("=")[0] for pair in pairs]
        if not re.fullmatch(r"\d+", count) or not all(re.fullmatch(r"\w+=[\w.]+", pair) for pair in pairs):
            raise RefusedError("Illegal attribute or resource value Resource_List.select")
        if set(names) - CHUNK_RESOURCES:
            raise RefusedError(f"Unknown resource {(set(names) - CHUNK_RESOURCES).pop()}")
        if len(set(names)) != len(names):
            raise RefusedError(f"Duplicate resource in chunk: {chunk}")
        total += int(count)
    return total


def check(arguments: list[str], folder: Path) -> tuple[Path, int, int]:
    """The script, its walltime in seconds and its number of nodes, if the job is accepted."""
    *given, name = arguments
    script = Path(name)
    options = parse([*directives(script.read_text()), *given])
    title = options.get("N", ["x"])[0]
    if len(title) > LONGEST_NAME or not re.fullmatch(r"[\w+-][!-~]*", title):
        raise RefusedError("illegal -N value")
    if not re.fullmatch(r"n|[abe]+", options.get("m", ["n"])[0]):
        raise RefusedError("illegal -m value")
    asked = resources(options)
    nodes, walltime = nodes_of(asked.get("select", "1")), seconds(asked.get("walltime", "60"))
    if "place" in asked and not re.fullmatch(PLACE, asked["place"]):
        raise RefusedError("Illegal attribute or resource value Resource_List.place")
    queues = json.loads((folder / "queues.json").read_text())
    queue = options.get("q", ["default"])[-1]
    if queue not in queues:
        raise RefusedError("Unknown queue")
    limits = queues[queue]
    if not limits["min_nodes"] <= nodes <= limits["max_nodes"] or walltime > limits["max_walltime"]:
        raise RefusedError("Job violates queue and/or server resource limits")
    if "accounts" in limits and options.get("A", [""])[-1] not in limits["accounts"]:
        raise RefusedError("Request rejected. Reason: No active allocation found for project")
    if "filesystems" in limits:
        wanted = asked.get("filesystems", "").split(":")
        if wanted == [""] or set(wanted) - set(limits["filesystems"]):
            raise RefusedError("Resource: filesystems is required to be set to valid file systems")
    return script, walltime, nodes


def qsub(arguments: list[str], folder: Path) -> None:
    try:
        script, walltime, nodes = check(arguments, folder)
    except RefusedError as error:
        sys.exit(f"qsub: {error}")
    number = 1 + len(list(folder.glob("*.job")))
    job = f"{number}.standin"
    (folder / f"{number}.nodes").write_text("localhost\n" * nodes)
    (folder / f"{number}.job").write_text("")
    if "PBS_STAND_IN_ONLY_CHECKS" not in os.environ:
        environment = {
            "PBS_JOBID": job,
            "PBS_NODEFILE": str(folder / f"{number}.nodes"),
            "PBS_O_WORKDIR": str(Path.cwd()),
        }
        log = (folder / f"{number}.log").open("w")
        process = subprocess.Popen(
            ["timeout", "-s", "KILL", str(walltime), "bash", str(script)],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path.home(),
        )
        (folder / f"{number}.job").write_text(str(process.pid))
    print(job)


def is_running(folder: Path, number: str) -> bool:
    try:
        job = psutil.Process(int((folder / f"{number}.job").read_text()))
        return job.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.NoSuchProcess):
        return False


def qstat(arguments: list[str], folder: Path) -> None:
    if arguments[:4] != ["-x", "-f", "-F", "json"]:
        sys.exit(f"qstat: illegally formed job identifier: {arguments}")
    states = {job: {"job_state": "R" if is_running(folder, job.split(".")[0]) else "F"} for job in arguments[4:]}
    print(json.dumps({"Jobs": states}))


def qdel(arguments: list[str], folder: Path) -> None:
    for job in arguments:
        if is_running(folder, job.split(".")[0]):
            os.killpg(int((folder / f"{job.split('.')[0]}.job").read_text()), signal.SIGKILL)


def install(folder: Path, **queues: dict[str, object]) -> dict[str, str]:
    """Put the commands into a folder; the environment in which they are found."""
    folder.mkdir()
    (folder / "queues.json").write_text(json.dumps(queues))
    for command in ("qsub", "qstat", "qdel"):
        script = folder / command
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" {command} "$@"\n')
        script.chmod(0o755)
    return {"PBS_STAND_IN": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}


if __name__ == "__main__":
    {"qsub": qsub, "qstat": qstat, "qdel": qdel}[sys.argv[1]](sys.argv[2:], Path(os.environ["PBS_STAND_IN"]))
