"""Parsing on its own: sources become files for people, in as many processes as asked for, and can be resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from hiperrag import parsing
from hiperrag.errors import UserError
from hiperrag.files import fingerprint
from hiperrag.parsing import export
from hiperrag.parsing.batch import decides_later, parse_many
from hiperrag.parsing.sources import Input, discover
from hiperrag.records import Document, Quarantined, write_records
from hiperrag.workflows.progress import Progress, StageProgress
from hiperrag.workflows.settings import ParseSettings

Outcome = Document | Quarantined


@dataclasses.dataclass(slots=True)
class ParseSummary:
    """What came of all sources; `routes` counts pages."""

    n_documents: int = 0
    routes: Counter[str] = dataclasses.field(default_factory=Counter)
    quarantined: list[Quarantined] = dataclasses.field(default_factory=list)


def parse_sources(
    sources: Sequence[str],
    settings: ParseSettings,
    workers: int,
    to: Path | None,
    figures: bool = True,
    pages: Path | None = None,
    show: Callable[[Document], None] = lambda _: None,
) -> ParseSummary:
    """Parse sources, `show` each document, write its files to `to` and drawings of its pages to `pages`.

    What `to` holds already of the same inputs and settings is not parsed again.
    """
    for folder in (to, pages):
        if folder and folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: exists and is not a folder; name another")
    found = discover(list(sources))
    log = _Log(to, fingerprint(parsing.VERSION, settings.model_dump_json()))
    todo = [item for item in found.inputs if not log.has(item)]
    stages = [StageProgress("parse", "inputs", len(found.inputs), len(found.inputs) - len(todo))]
    stages[0].cached = stages[0].done
    if decides_later(settings.options(), settings.budget):
        stages.append(StageProgress("recognise", "inputs", len(todo)))
    summary = ParseSummary()

    def settle(outcome: Outcome) -> None:
        if isinstance(outcome, Document):
            summary.n_documents += 1
            summary.routes.update(page.route for page in outcome.pages)
            show(outcome)
        else:
            summary.quarantined.append(outcome)

    with Progress(stages) as progress, _Painters(workers) as painters:

        def advance(stage: str) -> None:
            progress.begin(stage)
            progress.advance(stage, 1)

        progress.begin("parse")
        options, limits = settings.options(), settings.limits()
        for item, outcomes in parse_many(todo, options, settings.budget, workers, limits, advance):
            names = log.add(item, outcomes)
            for outcome, name in zip(outcomes, names, strict=True):
                settle(outcome)
                if isinstance(outcome, Document) and item.kind == "pdf":
                    painters.paint(item, outcome, to / name if to and figures else None, pages)
    for entry in found.unreadable:
        settle(entry)
    for item in set(found.inputs) - set(todo):
        for outcome in log.outcomes(item):
            settle(outcome)
    log.write_tables(found.inputs, found.unreadable)
    return summary


class _Log:
    """What a folder holds: DIR/parsed.jsonl has a line for each input that is done, appended after its files."""

    def __init__(self, folder: Path | None, settings: str) -> None:
        self._folder = folder
        self._settings = settings
        self._names: Counter[str] = Counter()
        self._done: dict[str, list[str | dict[str, str]]] = {}
        if folder and (folder / "parsed.jsonl").is_file():
            text = (folder / "parsed.jsonl").read_text(encoding="utf-8")
            for line in text.splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # the line that a killed command was writing
                    continue
                self._names.update(name for name in entry["outcomes"] if isinstance(name, str))
                self._done[entry["input"]] = entry["outcomes"]
            if not text.endswith("\n"):
                with (folder / "parsed.jsonl").open("a", encoding="utf-8") as stream:
                    stream.write("\n")

    def _key(self, item: Input) -> str:
        return fingerprint(self._settings, dataclasses.astuple(item))

    def has(self, item: Input) -> bool:
        """Whether an input is done, and its files still there."""
        names = self._done.get(self._key(item))
        assert self._folder or names is None
        return names is not None and all(
            (self._folder / f"{name}.json").is_file() for name in names if isinstance(name, str) and self._folder
        )

    def add(self, item: Input, outcomes: Sequence[Outcome]) -> list[str]:
        """Write the documents' files and the line; the name of each document's files."""
        if not self._folder:
            return [""] * len(outcomes)
        self._folder.mkdir(parents=True, exist_ok=True)
        names = []
        for outcome in outcomes:
            names.append("")
            if isinstance(outcome, Document):
                names[-1] = self._new_name(export.file_name(outcome.source))
                export.write_texts(outcome, self._folder, names[-1])
        listed = [name or dataclasses.asdict(outcome) for name, outcome in zip(names, outcomes, strict=True)]
        with (self._folder / "parsed.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"input": self._key(item), "outcomes": listed}, ensure_ascii=False) + "\n")
        self._done[self._key(item)] = listed
        return names

    def _new_name(self, stem: str) -> str:
        number, name = 1, stem
        while self._names[name]:
            number += 1
            name = f"{stem}-{number}"
        self._names[name] += 1
        return name

    def outcomes(self, item: Input) -> list[Outcome]:
        """What an input gave."""
        assert self._folder
        return [
            export.read_json(self._folder / f"{one}.json") if isinstance(one, str) else Quarantined(**one)
            for one in self._done[self._key(item)]
        ]

    def write_tables(self, inputs: Sequence[Input], unreadable: Sequence[Quarantined]) -> None:
        """documents.parquet and quarantine.parquet of these inputs."""
        if not self._folder:
            return
        outcomes = (outcome for item in inputs for outcome in self.outcomes(item))
        quarantined = list(unreadable)

        def documents() -> Iterator[Document]:
            for outcome in outcomes:
                if isinstance(outcome, Document):
                    yield outcome
                else:
                    quarantined.append(outcome)

        self._folder.mkdir(parents=True, exist_ok=True)
        write_records(self._folder / "documents.parquet", Document, documents())
        write_records(self._folder / "quarantine.parquet", Quarantined, quarantined)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold interrupts back while a process is started, which would print a traceback if that were broken off.

    The process inherits that SIGINT is blocked, so that Ctrl-C is for the main process alone, which then ends it.
    """
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


class _Painters:
    """Processes that draw; a page that costs one its life costs its document the pictures and nothing else."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._pool: ProcessPoolExecutor | None = None
        self._drawing: list[Future[None]] = []

    def paint(self, item: Input, document: Document, crops: Path | None, pages: Path | None) -> None:
        """Have a document's pictures drawn."""
        if not crops and not pages:
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._n, multiprocessing.get_context("spawn"))
        try:
            with _uninterrupted():
                self._drawing.append(self._pool.submit(export.write_pictures, item, document, crops, pages))
        except BrokenProcessPool:
            self._pool = None
            self.paint(item, document, crops, pages)

    def __enter__(self) -> _Painters:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=kind is not None)
