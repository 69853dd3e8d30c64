"""A training on the workers of a site, which train together as its processes.

The first worker that arrives waits for the others, and tells those that came in time who they are. When one is lost,
the rest give up the step they were at, and whoever is there by then forms a group that goes on from the last
checkpoint; how many they are changes nothing but rounding. Groups meet by files in the training folder, which are made
exclusively or by renaming.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hiperrag.encoders.training import checkpoints
from hiperrag.encoders.training.ranks import join, leave
from hiperrag.encoders.training.run import Trained, train
from hiperrag.encoders.training.settings import TrainSettings
from hiperrag.encoders.training.trainer import StepReport, Stops
from hiperrag.errors import UserError
from hiperrag.files import write_text_atomic
from hiperrag.workflows.parsl_config import addresses_of
from hiperrag.workflows.pool import Pool
from hiperrag.workflows.sites import Site

ATTEMPTS = 3
"""Groups in a row that may fail without a checkpoint between them."""
WAIT_SECONDS = 30.0
"""How long the first worker waits for others; later ones do nothing until the next group."""
_LOOK_SECONDS = 0.05
_REPORT_SECONDS = 1.0
_FOLDER = "groups"
_GROUP = "group.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What all processes of a training are told."""

    settings: TrainSettings
    files: tuple[Path, ...]
    out: Path
    until: float | None
    """Seconds since the epoch."""
    interface: str
    """Network interface of the nodes; "" for the one that their host names belong to."""


def train_on_site(
    site: Site,
    settings: TrainSettings,
    files: Sequence[Path],
    out: Path,
    report: Callable[[StepReport], None],
    stops: Stops,
) -> Trained | None:
    """As `hiperrag.encoders.training.run.train`, on the workers that encode at this site; resumes like it.

    `out` and the files have to be seen by all nodes. None where it was stopped before any worker was there. UserError
    where groups fail again and again.
    """
    until = None if stops.deadline is None else time.time() + stops.deadline - time.monotonic()
    files = tuple(path.expanduser().resolve() for path in files)
    job = Job(settings, files, out.expanduser().resolve(), until, site.interface or "")
    pool_name = site.pool_of("train")
    size = min(site.nodes(pool_name) * site.workers_per_node(pool_name), settings.batch // settings.block_rows)
    folder = job.out / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    failures, reached = 0, _saved(job.out)
    with contextlib.closing(Pool(site, folder / "parsl", size)) as pool:
        for number in itertools.count():
            done, error = _one_group(pool, folder / str(number), size, job, report, stops)
            if done or _is_over(stops):
                break
            failures = 1 if _saved(job.out) != reached else failures + 1
            reached = _saved(job.out)
            if failures == ATTEMPTS:
                raise UserError(f"the training failed {ATTEMPTS} times, last with {error!r}; rerun to resume")
    if done and done.finished:
        shutil.rmtree(folder, ignore_errors=True)
    return done


def _is_over(stops: Stops) -> bool:
    return stops.asked() or (stops.deadline is not None and time.monotonic() > stops.deadline)


def _saved(out: Path) -> frozenset[str]:
    """The checkpoints that are there."""
    folder = out / checkpoints.FOLDER
    return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()


def _one_group(
    pool: Pool, place: Path, size: int, job: Job, report: Callable[[StepReport], None], stops: Stops
) -> tuple[Trained | None, BaseException | None]:
    """How the training ended, if this group ended it, or why it did not."""
    place.mkdir()
    for number in range(size):
        pool.submit(("train", number), work, place, number, size, job)
    done: Trained | None = None
    error: BaseException | None = None
    log = _Tail(place / "steps.jsonl")
    while pool.in_flight:
        if stops.asked():
            (place / "stop").touch()
        if _is_over(stops) and not (place / _GROUP).is_file():
            break  # the tasks wait for workers, perhaps in a queue
        for _, future in pool.finished(timeout=_REPORT_SECONDS):
            failure = future.exception()
            if isinstance(failure, UserError):
                raise failure
            error = failure or error
            done = (None if failure else future.result()) or done
        for line in log.new_lines():
            report(StepReport(**json.loads(line)))
    return done, error


class _Tail:
    """The lines that are added to a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def new_lines(self) -> Iterator[str]:
        """Those that are complete and were not given before."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                yield line.decode()


# On a worker


def work(place: Path, number: int, size: int, job: Job) -> Trained | None:
    """Train as one of the group that meets at `place`; None where it was formed without this worker."""
    environment = _join_group(place, number, size, job.interface)
    if environment is None:
        return None
    before = dict(os.environ)
    os.environ |= environment
    ranks = join()
    try:
        deadline = None if job.until is None else time.monotonic() + job.until - time.time()
        stops = Stops(deadline, (place / "stop").exists)
        with (place / "steps.jsonl").open("a") if ranks.first else contextlib.nullcontext() as log:
            return train(job.settings, job.files, job.out, ranks, _Reporter(log), stops)
    finally:
        leave(ranks)
        for name in environment:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


class _Reporter:
    """Writes steps, one a second and the last one; nothing on other ranks."""

    def __init__(self, log: Any) -> None:
        self._log, self._last = log, 0.0

    def __call__(self, step: StepReport) -> None:
        if self._log and (time.monotonic() - self._last >= _REPORT_SECONDS or step.step == step.steps):
            self._last = time.monotonic()
            self._log.write(json.dumps(dataclasses.asdict(step)) + "\n")
            self._log.flush()


def _join_group(place: Path, number: int, size: int, interface: str) -> dict[str, str] | None:
    """What torch has to be told to be in the group; None for a worker that came too late."""
    write_text_atomic(place / f"here-{number}.json", json.dumps({"number": number, "host": socket.gethostname()}))
    try:
        (place / "first").mkdir()
    except FileExistsError:
        group = _wait_for_group(place / _GROUP)
    else:
        group = _form_group(place, number, size, interface)
        write_text_atomic(place / _GROUP, json.dumps(group))
    if group is None or number not in group["members"]:
        return None
    told = {
        "MASTER_ADDR": group["address"],
        "MASTER_PORT": str(group["port"]),
        "RANK": str(group["members"].index(number)),
        "WORLD_SIZE": str(len(group["members"])),
    }
    if interface and interface != group["address"]:
        told |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    return told


def _form_group(place: Path, first: int, size: int, interface: str) -> dict[str, Any]:
    """The workers that are here once all are, or after a while."""
    until = time.monotonic() + WAIT_SECONDS
    while len(arrived := list(place.glob("here-*.json"))) < size and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    here = [json.loads(path.read_text(encoding="utf-8")) for path in arrived]
    others = sorted(one["number"] for one in here if one["number"] != first)
    together = len({one["host"] for one in here}) == 1
    address = "127.0.0.1" if together else next(iter(addresses_of(interface)), socket.gethostname())
    with socket.socket() as listener:
        listener.bind(("", 0))
        return {"members": [first, *others], "address": address, "port": listener.getsockname()[1]}


def _wait_for_group(file: Path) -> dict[str, Any] | None:
    """What the first worker wrote; None where it was lost before."""
    until = time.monotonic() + 2 * WAIT_SECONDS
    while time.monotonic() < until:
        if file.is_file():
            group: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return group
        time.sleep(_LOOK_SECONDS)
    return None
