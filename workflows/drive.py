"""Works off a backlog: turns what the scheduler chooses into stage functions on workers, and results into shards."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from concurrent.futures import Future
from typing import Any

from hiperrag.claims import Claims
from hiperrag.collection import Collection, EncoderEntry, ShardEntry
from hiperrag.errors import UserError
from hiperrag.events import EventLog
from hiperrag.parsing.sources import Input
from hiperrag.records import Quarantined, write_records
from hiperrag.workflows.backlog import Backlog, Part, Shard
from hiperrag.workflows.choice import Choice
from hiperrag.workflows.ledger import Ledger
from hiperrag.workflows.metering import Measured, Metered, place_of
from hiperrag.workflows.pool import NodeLostError, Pool, WorkerLostError, result_of
from hiperrag.workflows.progress import Progress
from hiperrag.workflows.recognition import recognise_part
from hiperrag.workflows.schedule import Scheduler, Task
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.sharing import Shares
from hiperrag.workflows.sites import Site
from hiperrag.workflows.stages import (
    STAGES,
    Outcome,
    ShardTask,
    Stage,
    build_shard,
    chunk_part,
    encode_part,
    name_shard,
    parse_part,
    stages_of,
)


class Drive:
    """The work of one run, from the first part that is not there to the last shard."""

    def __init__(
        self,
        collection: Collection,
        settings: IndexSettings,
        encoder: EncoderEntry,
        site: Site,
        backlog: Backlog,
        ledger: Ledger,
        claims: Claims,
        choice: Choice,
        events: EventLog,
        progress: Progress,
        first: int = 0,
        deadline: float | None = None,
    ) -> None:
        self._collection, self._root = collection, str(collection.root.absolute())
        self._settings, self._encoder, self._site = settings, encoder, site
        self._backlog, self._ledger, self._claims, self._choice = backlog, ledger, claims, choice
        self._events, self._progress = events, progress
        self._stages = stages_of(settings)
        self._first, self._deadline = first, deadline
        self._waiting = False
        """Whether it has been said that other jobs have the rest."""
        self._shards: dict[int, Shard] = {}
        """Those that are open."""
        self._surveyed: list[str] = []
        """Parts that wait for the choice of the pages to recognise, by their documents."""
        self._surveying = False
        self.stage_seconds: Counter[str] = Counter()
        self.stopped = False
        """Whether the deadline came before the end."""

    def work(self, pool: Pool) -> None:
        """Do everything, or what can be done before the deadline, a time of the monotonic clock; some shards first.

        Under a budget for recognition all files are read first, because it is shared out then.
        """
        if self._settings.parse.decides_later:
            self._surveying = True
            self._work_off(pool)
            self._surveying = False
            if self._surveyed and not self.stopped:
                self._choice.make(self._surveyed, self.stage_seconds["parse"])
        if not self.stopped:
            self._work_off(pool)

    def _work_off(self, pool: Pool) -> None:
        site = self._site
        workers = {name: site.workers_per_node(name) * site.nodes(name) for name in site.active_pools}
        self._shares, self._shards = Shares(self._claims, self._ledger, self._backlog.numbers(self._first)), {}
        self._scheduler = Scheduler(workers, self._open_next)
        self._scheduler.deadline = self._deadline
        while not self._scheduler.finished:
            if self._deadline and (time.monotonic() >= self._deadline or self._scheduler.drained):
                self.stopped = True
                return
            for task in self._scheduler.submissions(time.monotonic()):
                self._submit(pool, task)
            for (_, scheduler, task), future in pool.finished(timeout=0.5):
                if scheduler.ended(task, time.monotonic()):
                    self._settle(task, future)
            self._ledger.commit_when_due()
            self._progress.refresh()

    # Shards and tasks

    def _open_next(self) -> list[Task] | None:
        """The first tasks of another shard; none while all that are left are built by other jobs, then None."""
        for number in self._shares:
            shard = self._backlog.open(number)
            self._shards[shard.number] = shard
            tasks = self._surveys(shard) if self._surveying else self._first_tasks(shard)
            if tasks:
                return tasks
        while self._shares.found:
            self._found(self._shares.found.popleft())
        if self._shares.exhausted:
            return None
        self._wait_for_others()
        return []

    def _found(self, number: int) -> None:
        """Another job has built a shard."""
        done = self._backlog.left(number) | {"build": 1}
        self._events.write("shard_found", shard=number, done=done)
        for stage, units in done.items():
            self._progress.advance(stage, units)

    def _wait_for_others(self) -> None:
        if self._shards:
            return
        self._ledger.commit_what_is_built()
        if self._waiting:
            return
        self._waiting, others = True, self._shares.elsewhere()
        self._events.write("waiting", others=others)
        self._progress.say(f"waiting for {' and '.join(others)}")

    def _surveys(self, shard: Shard) -> list[Task]:
        """What has to be read before it can be said which pages are recognised."""
        waiting = [part.names.documents for part in shard.parts if part.stage == "recognise"]
        self._surveyed += [documents for documents in waiting if not self._choice.covers(documents)]
        tasks = [self._task("parse", shard, n) for n, part in enumerate(shard.parts) if part.stage == "parse"]
        return self._await(shard, tasks)

    def _first_tasks(self, shard: Shard) -> list[Task]:
        tasks = [self._task(part.stage, shard, n) for n, part in enumerate(shard.parts) if part.stage != "build"]
        return self._await(shard, tasks) or [self._task("build", shard)]

    def _await(self, shard: Shard, tasks: list[Task]) -> list[Task]:
        shard.waiting = len(tasks)
        return tasks

    def _task(self, stage: Stage, shard: Shard, position: int = 0) -> Task:
        if stage == "build":
            cost = sum(part.seconds["build"] for part in shard.pieces)
        elif stage == "recognise":
            cost = self._backlog.costs.recognition(self._choice.n_pages(self._considered(shard.parts[position])))
        else:
            cost = shard.parts[position].seconds[stage]
        pool, rank = self._site.pool_of(stage), STAGES.index(stage)
        return Task(stage, shard.number, position, pool, rank, shard.order, cost)

    def _considered(self, part: Part) -> str:
        """The name of a part that the choice covers; a piece of one that was split is considered when it comes."""
        documents = part.names.documents
        if not self._choice.covers(documents):
            self._choice.make([documents], part.seconds["parse"])
        return documents

    def _submit(self, pool: Pool, task: Task) -> None:
        shard = self._shards[task.shard]
        if task.stage == "build":
            work = self._shard_task(shard, task.copies)
            if work.identity in self._backlog.built:  # the same part failed again
                self._scheduler.ended(task, time.monotonic())
                self._scheduler.succeeded(task, task.cost)
                self._shard_built(shard, self._backlog.built[work.identity])
                return
            call: tuple[Any, ...] = (build_shard, self._root, work, self._settings, self._encoder)
        else:
            call = self._call(task.stage, shard.parts[task.part])
        self._progress.begin(task.stage)
        event = "task_submitted" if task.in_flight == 1 else "task_doubled"
        self._events.write(event, stage=task.stage, shard=task.shard, part=task.part)
        pool.submit((task.stage, self._scheduler, task), Metered(call[0]), *call[1:])

    def _call(self, stage: str, part: Part) -> tuple[Any, ...]:
        """The function of a stage with its arguments."""
        start = (self._root, part.names)
        if stage == "parse":
            return (parse_part, *start, part.inputs, self._settings)
        if stage == "recognise":
            share = self._choice.share_of(self._considered(part))
            return (recognise_part, *start, part.inputs, self._settings, share)
        if stage == "chunk":
            return (chunk_part, *start, self._settings, self._encoder)
        return (encode_part, *start, self._settings, self._encoder, self._site.threads_per_worker)

    def _shard_task(self, shard: Shard, copy: int) -> ShardTask:
        """What `build_shard` makes; each copy in a folder of its own, as readers may have opened the first."""
        parts = shard.pieces
        identity = name_shard([part.names for part in parts], self._ledger.deleted)
        return ShardTask(
            name=f"{shard.number:05d}-{identity[:8]}" + (f"-{copy}" if copy > 1 else ""),
            identity=identity,
            parts=tuple(part.names for part in parts),
            n_inputs=tuple(part.n_inputs for part in parts),
            stored=tuple(part.stored for part in parts),
            deleted=self._ledger.deleted,
        )

    # Results

    def _settle(self, task: Task, future: Future[Any]) -> None:
        where: dict[str, Any] = {"stage": task.stage, "shard": task.shard, "part": task.part}
        try:
            measured: Measured = result_of(future)
        except WorkerLostError as error:
            if not task.in_flight:
                self._events.write("worker_lost", **where, host=place_of(error), message=str(error))
            if not self._scheduler.lost(task, isinstance(error, NodeLostError)):
                self._give_up(task, error)
        except (UserError, OSError) as error:  # not this part's fault: a missing model, a full disk
            if self._scheduler.failed(task):
                raise UserError(f"{task.stage} stopped: {error}; mend it and rerun to resume") from error
        except Exception as error:
            if self._scheduler.failed(task):
                self._give_up(task, error)
        else:
            self._scheduler.succeeded(task, measured.work.finished - measured.work.started)
            self._note(task, measured, where)

    def _note(self, task: Task, measured: Measured, where: dict[str, Any]) -> None:
        shard, outcome, cost = self._shards[task.shard], measured.value, dataclasses.asdict(measured.work)
        if isinstance(outcome, ShardEntry):
            built = {"name": outcome.name, "n_done": outcome.n_passages, "n_tokens": outcome.n_tokens}
            self._events.write("shard_built", shard=task.shard, **built, **cost)
            self._shard_built(shard, outcome)
            return
        part = shard.parts[task.part]
        self.stage_seconds[task.stage] += outcome.seconds
        self._events.write("part_done", **where, n_inputs=part.n_inputs, **dataclasses.asdict(outcome), **cost)
        self._part_done(task, outcome)

    def _part_done(self, task: Task, outcome: Outcome) -> None:
        shard = self._shards[task.shard]
        part = shard.parts[task.part]
        self._progress.advance(task.stage, part.n_inputs, outcome.n_quarantined)
        part.stage = self._stages[self._stages.index(part.stage) + 1]
        if self._surveying:
            self._surveyed.append(part.names.documents)
            self._survey_ended(shard)
        elif part.stage == "build":
            self._piece_ready(shard)
        else:
            self._scheduler.add(self._task(part.stage, shard, task.part))

    def _survey_ended(self, shard: Shard) -> None:
        shard.waiting -= 1
        if not shard.waiting:
            del self._shards[shard.number]

    def _piece_ready(self, shard: Shard) -> None:
        shard.waiting -= 1
        if not shard.waiting:
            self._scheduler.add(self._task("build", shard))

    def _shard_built(self, shard: Shard, entry: ShardEntry) -> None:
        self._ledger.add(shard.number, entry, [part.names for part in shard.parts])
        self._progress.advance("build", 1)
        del self._shards[shard.number]

    # Failures

    def _give_up(self, task: Task, error: Exception) -> None:
        """A stage failed on a part as a whole: find the input that is to blame, and quarantine it alone."""
        shard = self._shards[task.shard]
        part = shard.parts[task.part]
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        where = {"stage": task.stage, "shard": task.shard, "part": task.part, "host": place_of(error)}
        told = where | {"n_inputs": part.n_inputs, "message": reason}
        if task.stage == "build":
            self._events.write("part_failed", **told)
            raise UserError(f"building shard {shard.number} failed ({reason}); rerun to resume")
        if self._surveying:  # it is tried again, and split, when everything else has been read
            self._events.write("part_split", **told, into=[], done={})
            self._survey_ended(shard)
            return
        self._choice.release(part.names.documents)
        pieces = self._backlog.split(part)
        if pieces:
            self._split(shard, part, pieces, told)
        else:
            self._quarantine(shard, part, told)

    def _split(self, shard: Shard, part: Part, pieces: list[Part], told: dict[str, Any]) -> None:
        """Let pieces of a part take its place; what an earlier run did of them is there."""
        first = len(shard.parts)
        shard.parts += pieces
        done: Counter[Stage] = Counter()
        for one, sign in ((part, -1), *((piece, 1) for piece in pieces)):
            for stage in self._stages[: self._stages.index(one.stage)]:
                done[stage] += sign * one.n_inputs
        for stage, change in done.items():
            self._progress.advance(stage, change)
        self._events.write("part_split", **told, into=list(range(first, len(shard.parts))), done=dict(done))
        part.split = True
        shard.waiting += sum(piece.stage != "build" for piece in pieces)
        for number, piece in enumerate(pieces, start=first):
            if piece.stage != "build":
                self._scheduler.add(self._task(piece.stage, shard, number))
        self._piece_ready(shard)

    def _quarantine(self, shard: Shard, part: Part, told: dict[str, Any]) -> None:
        stage, reason = part.stage, told["message"]
        assert stage != "build"
        self._events.write("part_failed", **told)
        entries = [Quarantined(name, stage, "stage_failed", reason) for item in part.inputs for name in _names(item)]
        write_records(self._collection.failed_path(part.names.documents), Quarantined, entries)
        part.names = dataclasses.replace(part.names, failed_stage=stage)
        for skipped in self._stages[self._stages.index(stage) + 1 : -1]:
            self._progress.leave_out(skipped, part.n_inputs)
        self._progress.advance(stage, part.n_inputs, part.n_inputs)
        self._piece_ready(shard)


def _names(item: Input) -> list[str]:
    """An input's documents, as the quarantine names them."""
    if item.kind == "pdf":
        return [item.source]
    return [f"{item.source}:{index + 1}" for index in range(item.start, item.stop)]
