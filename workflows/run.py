"""One indexing run: plan the parts, drive their stages over a site, commit shards as they are built."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

import hiperrag
from hiperrag import encoders
from hiperrag.claims import Claims, Holder
from hiperrag.collection import Collection, Counts, Manifest, ShardEntry
from hiperrag.errors import UserError, first_mistake
from hiperrag.events import EventLog
from hiperrag.files import TEMPORARY_MARK, write_text_atomic
from hiperrag.index.shard import Shard as OpenShard
from hiperrag.machine import describe_machine
from hiperrag.parsing.sources import Discovery, discover, read_bytes
from hiperrag.records import read_quarantined
from hiperrag.workflows.allocation import current_allocation
from hiperrag.workflows.backlog import Backlog
from hiperrag.workflows.choice import Choice, open_choice
from hiperrag.workflows.costs import Costs, rates_for
from hiperrag.workflows.drive import Drive
from hiperrag.workflows.ledger import Ledger
from hiperrag.workflows.plan import extend_plan, has_listings, load_plan, save_plan
from hiperrag.workflows.pool import Pool
from hiperrag.workflows.progress import Progress
from hiperrag.workflows.report import write_report
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.sites import Site
from hiperrag.workflows.stages import hash_inputs

SECONDS_TO_CLOSE = 15.0
"""What stopping the workers and committing may take of the walltime."""


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
    n_planned: int
    """Shards that there have to be."""
    n_there: int
    """Shards that there are of these."""
    stopped: bool
    """Whether the walltime came before the end."""


def index_sources(
    sources: Sequence[str],
    to: Path,
    site: Site,
    override: Callable[[IndexSettings], IndexSettings] = lambda settings: settings,
    quiet: bool = False,
    walltime: float | None = None,
) -> Summary:
    """Bring the collection at `to` up to date with `sources`, beside other jobs that do the same.

    `override` turns the collection's settings (defaults for a new one) into those of this run, which ends within
    `walltime` seconds. UserError for unusable sources, a folder that is something else, or another command in the way;
    KeyboardInterrupt passes through with everything that was finished kept.
    """
    deadline = None if walltime is None else time.monotonic() + walltime - SECONDS_TO_CLOSE
    collection = Collection(to)
    if to.exists() and not (to.is_dir() and (collection.exists() or _is_resumable(to))):
        raise UserError(f"{to}: exists and is not a collection; name a new folder")
    rows_per_input = _settings(collection, [], override).parts.rows_per_input
    known = load_plan(collection).known_files() if has_listings(collection) else {}
    found = discover(sources, rows_per_input, known)
    job = current_allocation()
    now = datetime.datetime.now(datetime.UTC)
    run = f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    with Claims(collection.claims, "index", run, job.job if job else "") as claims:
        return _Run(collection, claims, override, site, quiet, deadline).index(found)


def _settings(
    collection: Collection, others: Sequence[Holder], override: Callable[[IndexSettings], IndexSettings]
) -> IndexSettings:
    """The collection's settings, or those of the jobs that make it, with what this run changes."""
    try:
        if collection.exists():
            return override(IndexSettings.model_validate(collection.manifest().settings))
        return override(IndexSettings.model_validate(others[0].terms["settings"]) if others else IndexSettings())
    except ValidationError as error:
        raise UserError(f"{collection.manifest_path}: damaged at settings.{first_mistake(error)}") from None


def encoder_spec(manifest: Manifest | None, settings: IndexSettings, others: Sequence[Holder] = ()) -> str:
    """The encoder of a run: the collection's own, precision included, unless the settings name another."""
    if manifest and IndexSettings.model_validate(manifest.settings).encode == settings.encode:
        return manifest.encoder.spec
    if not manifest and others and IndexSettings.model_validate(others[0].terms["settings"]).encode == settings.encode:
        return str(others[0].terms["encoder"])
    return settings.encode.encoder


def _is_resumable(folder: Path) -> bool:
    """Whether a run has begun, or is about to begin, to make a collection of this folder; or the folder is empty."""
    names = {entry.name for entry in folder.iterdir()}
    return "inputs.parquet" in names or all(name == "claims" or name.startswith(TEMPORARY_MARK) for name in names)


class _Run:
    def __init__(
        self,
        collection: Collection,
        claims: Claims,
        override: Callable[[IndexSettings], IndexSettings],
        site: Site,
        quiet: bool,
        deadline: float | None,
    ) -> None:
        self.collection, self.claims, self.override = collection, claims, override
        self.site, self.quiet, self.deadline = site, quiet, deadline
        self.started = time.monotonic()
        self.folder = collection.runs / claims.run
        self.damaged: dict[str, str] = {}

    def _join(self, found: Discovery) -> None:
        """Agree with the jobs that are there on what is to be done; in one's turn."""
        collection = self.collection
        others = self.claims.others()
        if any(other.exclusive for other in others):
            self.claims.join()  # refuses, and says who it is
        if not others:
            collection.remove_temporary_files()
        self.manifest = collection.manifest() if collection.exists() else None
        self.settings = _settings(collection, others, self.override)
        self.encoder = encoders.describe(encoder_spec(self.manifest, self.settings, others))
        terms = {
            "settings": self.settings.model_dump(mode="json"),
            "encoder": self.encoder.spec,
            "identity": [self.settings.identity(), self.encoder.identity],
        }
        for other in others:
            if other.terms["identity"] != terms["identity"]:
                raise UserError(f"{collection.root}: {other} writes it with other settings; wait for it to end")
        self.ledger = Ledger(collection, self.manifest, self.settings, self.encoder, self.claims)
        self._plan(found, others)
        entries = self.manifest.shards if self.manifest else []
        self.damaged = {entry.name: problem for entry in entries if (problem := self._problem(entry))}
        self.backlog = Backlog(
            collection, self.manifest, self.settings, self.encoder, lambda: self.costs, set(self.damaged)
        )
        self.ledger.entries, self.ledger.replaces = dict(self.backlog.kept), self.backlog.replaces
        alone = self.backlog.replaces or (self.settings.parse.decides_later and self.backlog.n_parts > 0)
        self.claims.join(alone, terms)

    def index(self, found: Discovery) -> Summary:
        with self.claims.turn():
            self._join(found)
        ignored = found.ignored
        found.inputs.clear()  # that would be a list of all inputs for the whole run
        self.folder.mkdir(parents=True)
        write_text_atomic(self.folder / "settings.yaml", self.settings.to_yaml())
        with EventLog(self.folder / "events.jsonl") as self.events:
            self.events.write(
                "run_started",
                run=self.claims.run,
                version=hiperrag.__version__,
                site=self.site.name,
                host=socket.gethostname(),
                pid=os.getpid(),
                workers=self.site.n_workers,
            )
            for name, problem in self.damaged.items():
                self.events.write("shard_damaged", shard=name, message=problem)
            choice = open_choice(self.collection, self.settings.parse)
            stage_seconds, stopped = self._work(choice)
            manifest = self._end(choice, stopped)
            summary = self._summary(manifest, ignored, stage_seconds, stopped)
            result = dataclasses.asdict(summary) | {"counts": summary.counts.model_dump()}
            if stopped:
                self.events.write("run_stopped", reason=f"walltime: {summary.n_there} of {summary.n_planned} shards")
            else:
                self.events.write("run_finished", **result)
        report = result | {"settings_hash": self.settings.identity(), "machine": describe_machine()}
        write_text_atomic(self.folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        write_report(self.folder)
        return summary

    def _end(self, choice: Choice, stopped: bool) -> Manifest:
        """Commit, and leave; the last job to leave clears up when nothing is left to do."""
        with self.claims.turn():
            unready = stopped and self.ledger.replaces
            manifest = self.collection.manifest() if unready else self.ledger.commit()
            if not stopped and not self.claims.others():
                self.collection.collect_garbage(manifest)
                self._forget_plans()
                choice.forget()
            self.claims.leave()
        return manifest

    @functools.cached_property
    def costs(self) -> Costs:
        """Needed where there is something to do."""
        return Costs(rates_for(self.collection), self.site)

    def _plan(self, found: Discovery, others: Sequence[Holder]) -> None:
        known = {part.inputs for part in self.manifest.parts} if self.manifest else set()
        before = load_plan(self.collection)
        plan = extend_plan(
            before,
            found.inputs,
            known=lambda part: hash_inputs(part) in known,
            read=read_bytes,
            settings=self.settings.parts,
            seconds=lambda item: self.costs.longest(item),
            n_workers=self.site.n_workers,
            shared=bool(others),
        )
        paths = {item.path for item in plan.inputs}
        plan.listings = {path: one for path, one in (before.listings | found.listings).items() if path in paths}
        self.first = len(before.shards) if others else 0
        if others and plan.shards[: self.first] != before.shards:
            raise UserError(
                f"{self.collection.root}: sources have changed, and another command is writing it: {others[0]}; wait "
                "for it to end"
            )
        if plan != before or not self.collection.inputs_path.is_file():
            if others:
                self._keep_plan()
            save_plan(self.collection, plan)
        self.ledger.note_sources(found, plan)

    def _keep_plan(self) -> None:
        """Leave a name to the plan that the other jobs have open: NFS takes files without one away from other hosts."""
        with contextlib.suppress(OSError):
            os.link(self.collection.inputs_path, self.collection.claims / f"plan-before-{self.claims.run}")

    def _forget_plans(self) -> None:
        for path in self.collection.claims.glob("plan-before-*"):
            path.unlink(missing_ok=True)

    def _work(self, choice: Choice) -> tuple[dict[str, float], bool]:
        """Do what is not there yet; worker seconds by stage, and whether the deadline came first."""
        stages = self.backlog.progress()
        totals = {one.name: {"unit": one.unit, "total": one.total, "cached": one.cached} for one in stages}
        self.events.write("planned", stages=totals)
        if not self.backlog.n_parts:
            return {}, False
        with Progress(stages, self.quiet) as progress:
            drive = Drive(
                self.collection,
                self.settings,
                self.encoder,
                self.site,
                self.backlog,
                self.ledger,
                self.claims,
                choice,
                self.events,
                progress,
                self.first,
                self.deadline,
            )
            pool = Pool(self.site, self.folder / "parsl", self.backlog.n_parts)
            try:
                drive.work(pool)
            except BaseException:
                with contextlib.suppress(OSError):
                    self.ledger.commit_what_is_built()
                raise
            finally:
                pool.close()
        return dict(drive.stage_seconds), drive.stopped

    def _problem(self, entry: ShardEntry) -> str:
        """Why a shard cannot be opened; "" if it can."""
        try:
            if entry.n_passages:
                OpenShard(self.collection.shard_path(entry.name))
        except UserError as error:
            return str(error)
        return ""

    def _summary(self, manifest: Manifest, ignored: int, stage_seconds: dict[str, float], stopped: bool) -> Summary:
        numbers = self.backlog.numbers()
        n_built = 0 if stopped and self.ledger.replaces else sum(map(self.ledger.has, numbers))
        reasons = Counter(entry.error for entry in read_quarantined(self.collection.quarantine_files(manifest)))
        before = self.manifest.counts.documents if self.manifest else 0
        return Summary(
            run=self.claims.run,
            counts=manifest.counts,
            new_documents=manifest.counts.documents - before,
            duplicates=len(manifest.duplicates),
            ignored=ignored,
            quarantined=dict(reasons.most_common()),
            seconds=time.monotonic() - self.started,
            stage_seconds=stage_seconds,
            n_planned=len(self.backlog.kept) + len(numbers),
            n_there=len(self.backlog.kept) + n_built,
            stopped=stopped,
        )
