"""One indexing run: plan the parts, drive their stages over a site, commit shards as they are built."""

from __future__ import annotations

import dataclasses
import datetime
import heapq
import json
import os
import shutil
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import hiperrag
from hiperrag import encoders
from hiperrag.collection import (
    FORMAT_VERSION,
    Collection,
    Counts,
    EncoderEntry,
    Manifest,
    ShardEntry,
    count,
    count_deleted_documents,
)
from hiperrag.errors import UserError
from hiperrag.events import EventLog
from hiperrag.files import fingerprint, write_text_atomic
from hiperrag.index.shard import Shard as OpenShard
from hiperrag.machine import describe_machine
from hiperrag.parsing.sources import Discovery, Input, discover, read_bytes
from hiperrag.records import Quarantined, read_quarantined, write_records
from hiperrag.workflows.metering import Measured, Metered, place_of
from hiperrag.workflows.plan import Plan, extend_plan, load_plan, save_plan, weight
from hiperrag.workflows.pool import NodeLostError, Pool, WorkerLostError, result_of
from hiperrag.workflows.progress import Progress, StageProgress
from hiperrag.workflows.recognition import Choice, recognise_part
from hiperrag.workflows.report import write_report
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.sites import Site
from hiperrag.workflows.stages import (
    STAGES,
    PartNames,
    ShardTask,
    Stage,
    StoredPart,
    build_shard,
    chunk_part,
    encode_part,
    hash_inputs,
    name_part,
    name_shard,
    parse_part,
    stages_of,
)

LOST_WORKERS_ALLOWED = 5
"""How often a task may lose its worker before the task itself is taken to be the cause."""
LOST_NODES_ALLOWED = 50
"""The same for all workers of its node at once, which jobs that end or are cancelled do to any task."""
TASKS_PER_WORKER = 3
"""Tasks submitted at a time: enough to keep workers busy, few enough to hold no long list of futures."""


@dataclasses.dataclass(slots=True)
class Part:
    """A part on its way through the stages; `stored` where a shard that has to be replaced holds its vectors."""

    inputs: list[Input]
    names: PartNames
    shard: int
    n_inputs: int
    stored: StoredPart | None = None
    attempts: int = 0
    lost_nodes: int = 0


@dataclasses.dataclass(slots=True)
class Shard:
    """A shard that waits for its parts."""

    name: str
    parts: list[Part]
    waiting: int
    attempts: int = 0
    lost_nodes: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended."""

    run: str
    counts: Counts
    new_documents: int
    duplicates: int
    ignored: int
    quarantined: dict[str, int]
    """Quarantined inputs of the whole collection by reason."""
    seconds: float
    stage_seconds: dict[str, float]
    """Worker seconds spent in each stage by this run."""


def index_sources(
    sources: Sequence[str],
    to: Path,
    site: Site,
    override: Callable[[IndexSettings], IndexSettings] = lambda settings: settings,
    quiet: bool = False,
) -> Summary:
    """Bring the collection at `to` up to date with `sources`.

    `override` turns the collection's settings (defaults for a new one) into those of this run. UserError for
    unusable sources or a folder that is something else; KeyboardInterrupt passes through with everything that
    was finished kept.
    """
    collection = Collection(to)
    if to.exists() and not (to.is_dir() and (collection.exists() or _is_resumable(to))):
        raise UserError(f"{to}: exists and is not a collection; name a new folder")
    manifest = collection.manifest() if collection.exists() else None
    try:
        settings = override(IndexSettings.model_validate(manifest.settings) if manifest else IndexSettings())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{collection.manifest_path}: damaged at settings.{where} ({first['msg']})") from None
    found = discover(sources, rows_per_input=settings.parts.rows_per_part)
    encoder = encoders.describe(_encoder_spec(manifest, settings))
    collection.root.mkdir(parents=True, exist_ok=True)
    with collection.sole_writer():
        collection.remove_temporary_files()
        return _Run(collection, manifest, settings, encoder, site, quiet).index(found)


def _encoder_spec(manifest: Manifest | None, settings: IndexSettings) -> str:
    """The encoder of this run: the collection's own, precision included, unless the settings name another."""
    if manifest and IndexSettings.model_validate(manifest.settings).encode == settings.encode:
        return manifest.encoder.spec
    return settings.encode.encoder


def _is_resumable(folder: Path) -> bool:
    return (folder / "inputs.parquet").is_file() or not any(entry.name != ".lock" for entry in folder.iterdir())


class _Run:
    def __init__(
        self,
        collection: Collection,
        manifest: Manifest | None,
        settings: IndexSettings,
        encoder: EncoderEntry,
        site: Site,
        quiet: bool,
    ) -> None:
        self.collection = collection
        self.root = str(collection.root.absolute())
        self.manifest = manifest
        self.settings = settings
        self.encoder = encoder
        self.site = site
        self.quiet = quiet
        self.started = time.monotonic()
        now = datetime.datetime.now(datetime.UTC)
        self.id = f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.folder = collection.runs / self.id
        self.committed = {entry.name: entry for entry in manifest.shards} if manifest else {}
        self.entries: dict[int, ShardEntry] = {}
        """By the number of the (first) planned shard that each holds."""
        self.shards: dict[int, Shard] = {}
        self.ready: dict[str, list[tuple[int, int, int]]] = {name: [] for name in site.active_pools}
        """By the pool of workers that does it."""
        self.in_flight: Counter[str] = Counter()
        self.stage_seconds: Counter[str] = Counter()
        self.unreadable: list[Quarantined] = []
        self.stages = stages_of(settings)
        self.choice = Choice(collection, settings.parse)
        self.surveyed: list[tuple[int, int]] = []
        """Parts (shard, position) that wait for the choice of the pages to recognise."""
        self.unsurveyed = 0
        """Parts that have to be read before that choice can be made."""

    def index(self, found: Discovery) -> Summary:
        plan = self._plan(found)
        self.folder.mkdir(parents=True)
        write_text_atomic(self.folder / "settings.yaml", self.settings.to_yaml())
        with EventLog(self.folder / "events.jsonl") as self.events:
            self.events.write(
                "run_started",
                run=self.id,
                version=hiperrag.__version__,
                site=self.site.name,
                host=socket.gethostname(),
                pid=os.getpid(),
                workers=self.site.n_workers,
            )
            before = self.manifest.counts.documents if self.manifest else 0
            progress = self._queue_work(plan)
            totals = {one.name: {"unit": one.unit, "total": one.total, "cached": one.cached} for one in progress}
            self.events.write("planned", stages=totals)
            self._choose_pages()
            if self.shards:
                with Progress(progress, self.quiet) as self.progress:
                    self._drive()
            manifest = self._commit()
            self.collection.collect_garbage(manifest)
            self.choice.forget()
            summary = self._summary(manifest, before, found.ignored)
            result = dataclasses.asdict(summary) | {"counts": summary.counts.model_dump()}
            self.events.write("run_finished", **result)
        report = result | {"settings_hash": self.settings.identity(), "machine": describe_machine()}
        write_text_atomic(self.folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        write_report(self.folder)
        return summary

    # Planning

    def _plan(self, found: Discovery) -> Plan:
        known = {part.inputs for part in self.manifest.parts} if self.manifest else set()
        plan = extend_plan(
            load_plan(self.collection),
            found.inputs,
            committed=lambda shard: all(hash_inputs(part) in known for part in shard),
            read=read_bytes,
            settings=self.settings.parts,
        )
        save_plan(self.collection, plan)
        self.duplicates = [(item.source, kept) for item, kept in plan.duplicates]
        self._note_unreadable(found, plan)
        return plan

    def _note_unreadable(self, found: Discovery, plan: Plan) -> None:
        """Keep earlier unreadable sources in mind until they can be read."""
        earlier = []
        if self.manifest and self.manifest.unreadable:
            earlier = read_quarantined([self.collection.unreadable_path(self.manifest.unreadable)])
        readable = {item.source for item in plan.inputs} | {item.path for item in plan.inputs}
        listed = {entry.source: entry for entry in [*earlier, *found.unreadable] if entry.source not in readable}
        self.unreadable = [listed[source] for source in sorted(listed)]

    def _queue_work(self, plan: Plan) -> list[StageProgress]:
        """Find out what is there already, queue the rest; return the stages' totals."""
        planned = [
            [
                Part(inputs, name_part(inputs, self.settings, self.encoder), number, sum(map(weight, inputs)))
                for inputs in shard
            ]
            for number, shard in enumerate(plan.shards)
        ]
        covered = self._keep_shards(planned)
        stored = self._stored_parts()
        stages = {name: StageProgress(name, "shards" if name == "build" else "documents", 0) for name in self.stages}
        for number, parts in enumerate(planned):
            done = number in covered
            stages["build"].total += 1
            stages["build"].cached += done
            if not done:
                self.shards[number] = Shard(f"{number:05d}", parts, 0)
            for position, part in enumerate(parts):
                part.stored = None if done else stored.get(part.names.vectors)
                stage: Stage = "build" if done else self._next_stage(part)
                for name in self.stages[:-1]:
                    stages[name].total += part.n_inputs
                    if STAGES.index(name) < STAGES.index(stage):
                        stages[name].cached += part.n_inputs
                if not done and stage != "build":
                    self._enter(stage, number, position)
                    self.unsurveyed += stage == "parse" and part.names.surveyed
                    self.shards[number].waiting += 1
            if not done and not self.shards[number].waiting:
                self._push("build", number, 0)
        for progress in stages.values():
            progress.done = progress.cached
        return list(stages.values())

    def _keep_shards(self, planned: list[list[Part]]) -> set[int]:
        """Keep the committed shards that hold just whole planned shards; the numbers of those planned shards.

        A shard written by `hiperrag compact` holds several. One that cannot be opened is made again.
        """
        number_of = {part.names.vectors: number for number, parts in enumerate(planned) for part in parts}
        covered: set[int] = set()
        entries = self.manifest.shards if self.manifest else []
        self.damaged = {entry.name for entry in entries if not self._can_open(entry)}
        for entry in entries:
            if entry.name in self.damaged:
                continue
            numbers = {number_of.get(part.vectors, -1) for part in entry.parts}
            held = [part.names.vectors for number in sorted(numbers - {-1}) for part in planned[number]]
            if held and -1 not in numbers and sorted(held) == sorted(part.vectors for part in entry.parts):
                self.entries[min(numbers)] = entry
                covered |= numbers
        self.replaces = len(self.entries) < len(entries)
        return covered

    def _can_open(self, entry: ShardEntry) -> bool:
        try:
            return not entry.n_passages or bool(OpenShard(self.collection.shard_path(entry.name)))
        except UserError as error:
            self.events.write("shard_damaged", shard=entry.name, message=str(error))
            return False

    def _stored_parts(self) -> dict[str, StoredPart]:
        """Parts whose vectors are in shards that cannot be kept as they are."""
        kept = {entry.name for entry in self.entries.values()}
        stored = {}
        for entry in self.manifest.shards if self.manifest else []:
            first = 0
            for part in entry.parts:
                if entry.name not in kept | self.damaged and part.vectors:
                    stored[part.vectors] = StoredPart(entry.name, first, part)
                first += part.n_rows
        return stored

    def _next_stage(self, part: Part) -> Stage:
        if part.stored:
            return "build"
        for stage in reversed(self.stages[:-1]):
            if part.names.output(self.collection, stage).exists():
                return self._after(stage)
        return self.stages[0]

    def _after(self, stage: Stage) -> Stage:
        return self.stages[self.stages.index(stage) + 1]

    def _enter(self, stage: Stage, shard: int, part: int) -> None:
        """Queue a part's next stage; recognition only when it is known which of its pages."""
        if stage == "recognise" and not self.choice.covers(self.shards[shard].parts[part].names.documents):
            self.surveyed.append((shard, part))
        else:
            self._push(stage, shard, part)

    def _choose_pages(self) -> None:
        """Once all parts have been read, choose the pages to recognise and let the parts go on."""
        if self.unsurveyed or not self.surveyed:
            return
        waiting, self.surveyed = self.surveyed, []
        self.choice.make(
            [self.shards[shard].parts[part].names.documents for shard, part in waiting], self.stage_seconds["parse"]
        )
        for shard, part in waiting:
            self._push("recognise", shard, part)

    def _push(self, stage: Stage, shard: int, part: int) -> None:
        """Later stages first, so that shards are committed early and little waits half-done."""
        heapq.heappush(self.ready[self.site.pool_of(stage)], (-STAGES.index(stage), shard, part))

    # Working

    def _drive(self) -> None:
        pool = Pool(self.site, self.folder / "parsl", sum(len(shard.parts) for shard in self.shards.values()))
        try:
            while any(self.ready.values()) or pool.in_flight:
                for name, ready in self.ready.items():
                    n_workers = self.site.workers_per_node(name) * self.site.nodes(name)
                    while ready and self.in_flight[name] < TASKS_PER_WORKER * n_workers:
                        stage, shard, part = heapq.heappop(ready)
                        self._submit(pool, STAGES[-stage], shard, part)
                for (stage, shard, part), future in pool.finished(timeout=0.5):
                    self.in_flight[self.site.pool_of(stage)] -= 1
                    self._settle(stage, shard, part, future)
                self.progress.refresh()
        finally:
            pool.close()

    def _submit(self, pool: Pool, stage: Stage, shard: int, position: int) -> None:
        self.progress.begin(stage)
        tag: tuple[Stage, int, int] = (stage, shard, position)
        if stage == "build":
            task = self._shard_task(shard)
            if task.name in self.committed and task.name not in self.damaged:  # the same part failed again
                self._shard_built(shard, self.committed[task.name])
            else:
                self._start(pool, tag, build_shard, self.root, task, self.settings, self.encoder)
            return
        part = self.shards[shard].parts[position]
        if stage == "parse":
            self._start(pool, tag, parse_part, self.root, part.names, part.inputs, self.settings)
        elif stage == "recognise":
            pages = self.choice.pages_of(part.names.documents)
            self._start(pool, tag, recognise_part, self.root, part.names, part.inputs, self.settings, pages)
        elif stage == "chunk":
            self._start(pool, tag, chunk_part, self.root, part.names, self.settings, self.encoder)
        else:
            threads = self.site.threads_per_worker
            self._start(pool, tag, encode_part, self.root, part.names, self.settings, self.encoder, threads)

    def _start(self, pool: Pool, tag: tuple[Stage, int, int], function: Callable[..., Any], *args: Any) -> None:
        stage, shard, part = tag
        self.events.write("task_submitted", stage=stage, shard=shard, part=part)
        self.in_flight[self.site.pool_of(stage)] += 1
        pool.submit(tag, Metered(function), *args)

    def _shard_task(self, number: int) -> ShardTask:
        shard = self.shards[number]
        deleted = self.manifest.deleted if self.manifest else ""
        identity = name_shard([part.names for part in shard.parts], deleted)
        return ShardTask(
            name=f"{shard.name}-{identity[:8]}",
            identity=identity,
            parts=tuple(part.names for part in shard.parts),
            n_inputs=tuple(part.n_inputs for part in shard.parts),
            stored=tuple(part.stored for part in shard.parts),
            deleted=deleted,
        )

    def _settle(self, stage: Stage, number: int, position: int, future: Future[Any]) -> None:
        shard = self.shards[number]
        work = shard if stage == "build" else shard.parts[position]
        try:
            measured: Measured = result_of(future)
        except WorkerLostError as error:
            work.attempts += not isinstance(error, NodeLostError)
            work.lost_nodes += isinstance(error, NodeLostError)
            where = {"stage": stage, "shard": number, "part": position, "host": place_of(error)}
            self.events.write("worker_lost", **where, message=str(error))
            if work.attempts < LOST_WORKERS_ALLOWED and work.lost_nodes < LOST_NODES_ALLOWED:
                self._push(stage, number, position)
            else:
                self._give_up(stage, number, position, error)
            return
        except (UserError, OSError) as error:  # not this part's fault: a missing model, a full disk
            raise UserError(f"{stage} stopped: {error}; mend it and rerun to resume") from error
        except Exception as error:
            self._give_up(stage, number, position, error)
            return
        outcome, cost = measured.value, dataclasses.asdict(measured.work)
        if isinstance(outcome, ShardEntry):
            built = {"name": outcome.name, "n_done": outcome.n_passages, "n_tokens": outcome.n_tokens}
            self.events.write("shard_built", shard=number, **built, **cost)
            self._shard_built(number, outcome)
            return
        part = shard.parts[position]
        part.attempts = 0
        self.stage_seconds[stage] += outcome.seconds
        done = {"n_inputs": part.n_inputs, **dataclasses.asdict(outcome), **cost}
        self.events.write("part_done", stage=stage, shard=number, part=position, **done)
        self.progress.advance(stage, part.n_inputs, outcome.n_quarantined)
        following = self._after(stage)
        if following != "build":
            self._enter(following, number, position)
        else:
            self._part_ready(number)
        self._survey_ended(stage, part)

    def _shard_built(self, number: int, entry: ShardEntry) -> None:
        self.entries[number] = entry
        if not self.replaces:
            self._commit()
            self._drop_vectors(self.shards[number])
        self.progress.advance("build", 1)

    def _part_ready(self, number: int) -> None:
        self.shards[number].waiting -= 1
        if not self.shards[number].waiting:
            self._push("build", number, 0)

    def _give_up(self, stage: Stage, number: int, position: int, error: Exception) -> None:
        """Quarantine all of a part's inputs: a stage failed on it as a whole."""
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        part = self.shards[number].parts[position]
        where = {"stage": stage, "shard": number, "part": position, "host": place_of(error)}
        self.events.write("part_failed", **where, n_inputs=part.n_inputs, message=reason)
        if stage == "build":
            raise UserError(f"building shard {number} failed ({reason}); rerun to resume")
        write_records(
            self.collection.failed_path(part.names.documents),
            Quarantined,
            [Quarantined(item.source, stage, "stage_failed", reason) for item in part.inputs],
        )
        part.names = dataclasses.replace(part.names, failed_stage=stage)
        for skipped in self.stages[self.stages.index(stage) : -1]:
            self.progress.begin(skipped)
            self.progress.advance(skipped, part.n_inputs, part.n_inputs if skipped == stage else 0)
        self._part_ready(number)
        self._survey_ended(stage, part)

    def _survey_ended(self, stage: Stage, part: Part) -> None:
        if stage == "parse" and part.names.surveyed:
            self.unsurveyed -= 1
            self._choose_pages()

    def _drop_vectors(self, shard: Shard) -> None:
        for part in shard.parts:
            shutil.rmtree(part.names.output(self.collection, "encode"), ignore_errors=True)

    # Committing

    def _commit(self) -> Manifest:
        """Make everything built so far visible, in plan order."""
        shards = [entry for _, entry in sorted(self.entries.items())]
        unreadable = fingerprint(self.unreadable) if self.unreadable else ""
        if unreadable:
            write_records(self.collection.unreadable_path(unreadable), Quarantined, self.unreadable)
        manifest = Manifest(
            format=FORMAT_VERSION,
            hiperrag=hiperrag.__version__,
            encoder=self.encoder,
            settings=self.settings.model_dump(mode="json"),
            settings_hash=self.settings.identity(),
            run=self.id,
            duplicates=self.duplicates,
            unreadable=unreadable,
            n_unreadable=len(self.unreadable),
            deleted=self.manifest.deleted if self.manifest else "",
            n_deleted_documents=count_deleted_documents(shards),
            shards=shards,
            counts=count(shards, len(self.unreadable)),
        )
        self.collection.commit(manifest)
        return manifest

    def _summary(self, manifest: Manifest, documents_before: int, ignored: int) -> Summary:
        reasons = Counter(entry.error for entry in read_quarantined(self.collection.quarantine_files(manifest)))
        return Summary(
            run=self.id,
            counts=manifest.counts,
            new_documents=manifest.counts.documents - documents_before,
            duplicates=len(manifest.duplicates),
            ignored=ignored,
            quarantined=dict(reasons.most_common()),
            seconds=time.monotonic() - self.started,
            stage_seconds=dict(self.stage_seconds),
        )
