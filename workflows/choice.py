"""Which pages of a run are recognised under a budget.

The first stage reads all files and leaves a survey of each part; when the last one is there, the pages to recognise are
chosen among those of all parts, or the seconds shared out over them. What has been decided and what has been spent is
kept until the run ends, so that a resumed run goes on with it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hiperrag.collection import Collection
from hiperrag.files import fingerprint, write_text_atomic
from hiperrag.parsing import router
from hiperrag.parsing.purse import SECONDS_PER_PAGE
from hiperrag.parsing.recognition import trial
from hiperrag.parsing.router import Need
from hiperrag.records import PageRecord
from hiperrag.workflows.settings import ParseSettings

Pages = dict[int, list[int]]
"""Positions of documents within their part -> their pages to recognise."""


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """What may be recognised of a part: these pages, or the most urgent ones for as long as CPU `seconds` last."""

    pages: Pages
    seconds: float | None = None
    seconds_per_page: float = SECONDS_PER_PAGE


class Choice(ABC):
    """What a run may recognise of each part, named by its documents: decided over all parts, and stored."""

    def __init__(self, collection: Collection, settings: ParseSettings) -> None:
        self._collection = collection
        self._settings = settings

    @abstractmethod
    def covers(self, part: str) -> bool:
        """Whether a part has been considered."""

    @abstractmethod
    def make(self, parts: Sequence[str], seconds: float) -> None:
        """Consider these parts, of which all have a survey that took `seconds` in all."""

    @abstractmethod
    def n_pages(self, part: str) -> float:
        """How many pages of a part will probably be recognised."""

    @abstractmethod
    def share_of(self, part: str) -> Share:
        """What may be recognised of a part that is to be worked on at once; the same each time."""

    @abstractmethod
    def release(self, part: str) -> None:
        """A part failed as a whole: its pieces, which are considered when they come, have what it had."""

    def forget(self) -> None:
        """The run is over."""
        shutil.rmtree(self._collection.surveys, ignore_errors=True)

    def _documents(self, part: str) -> Iterator[tuple[int, str, list[PageRecord]]]:
        """Position, source and pages of the documents in a survey."""
        rows = pq.read_table(self._collection.survey_path(part), columns=["source", "pages"]).to_pylist()
        for position, row in enumerate(rows):
            yield position, row["source"], [PageRecord(**page) for page in row["pages"]]


def open_choice(collection: Collection, settings: ParseSettings) -> Choice:
    """The choice of a run under these settings, as far as an interrupted one made it."""
    kind = ChosenPages if settings.budget.of == "pages" else SharedSeconds
    return kind(collection, settings)


class ChosenPages(Choice):
    """Under a budget of pages: chosen once over all parts."""

    def __init__(self, collection: Collection, settings: ParseSettings) -> None:
        super().__init__(collection, settings)
        self._path = collection.surveys / "choice.json"
        self._chosen: dict[str, Pages] = {}
        self._inherited: dict[str, list[int]] = {}
        """Chosen pages of documents whose part was split, by source."""
        if self._path.is_file():
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            self._chosen = {part: {int(n): pages for n, pages in found.items()} for part, found in stored.items()}

    def covers(self, part: str) -> bool:
        return part in self._chosen

    def make(self, parts: Sequence[str], seconds: float) -> None:
        del seconds
        n_pages, wanted = 0, list[Need]()
        for part in parts:
            self._chosen[part] = {}
            for position, source, pages in self._documents(part):
                if source in self._inherited:
                    self._chosen[part][position] = self._inherited[source]
                    continue
                n_pages += len(pages)
                wanted += router.needs(part, position, pages)
        for (part, position), chosen in router.choose(wanted, self._settings.budget.pages(n_pages)).items():
            self._chosen[part][position] = chosen
        write_text_atomic(self._path, json.dumps(self._chosen) + "\n")

    def n_pages(self, part: str) -> float:
        return sum(map(len, self._chosen[part].values()))

    def share_of(self, part: str) -> Share:
        return Share(self._chosen[part])

    def release(self, part: str) -> None:
        if part in self._chosen and self._collection.survey_path(part).exists():
            for position, source, _ in self._documents(part):
                self._inherited[source] = self._chosen[part].get(position, [])


@dataclasses.dataclass(frozen=True, slots=True)
class Spent:
    """What the recognition of a part took: CPU seconds, and the pages for them."""

    seconds: float
    pages: float

    def add(self, collection: Collection, part: str) -> None:
        """Add it to what others have spent on the part; to be done before the part's documents are there."""
        before = Spent.read(collection, part) or Spent(0.0, 0.0)
        total = {"seconds": before.seconds + self.seconds, "pages": before.pages + self.pages}
        path = _path(collection, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, json.dumps(total) + "\n")

    @classmethod
    def read(cls, collection: Collection, part: str) -> Spent | None:
        """None where it is not there."""
        path = _path(collection, part)
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _path(collection: Collection, part: str) -> Path:
    return collection.spent / f"{part}.json"


@dataclasses.dataclass(slots=True)
class _Terms:
    settings: str
    """Hash of the settings that the rest belongs to."""
    seconds: float | None = None
    """The budget without what the trial took; None before anything has been considered."""
    seconds_per_page: float = SECONDS_PER_PAGE
    """By the trial."""
    parts: list[str] = dataclasses.field(default_factory=list)


class SharedSeconds(Choice):
    """Under a budget of time: each part gets seconds when its turn comes, by its part in the most urgent pages that are
    left and by what pages have cost so far; what it leaves of them is there for others.

    What attempts that were killed have spent is not known.
    """

    def __init__(self, collection: Collection, settings: ParseSettings) -> None:
        super().__init__(collection, settings)
        self._path = collection.spent / "terms.json"
        self._terms = _Terms(fingerprint(settings.model_dump_json()))
        self._numbers: dict[str, int] = {}
        """Of the parts that have been considered."""
        self._spent: dict[str, Spent] = {}
        self._granted: dict[str, float] = {}
        """Seconds of parts that are being worked on."""
        self._needs: list[Need] = []
        self._served: set[str] = set()
        """Parts that have had their turn."""
        if self._path.is_file():
            stored = _Terms(**json.loads(self._path.read_text(encoding="utf-8")))
            if stored.settings == self._terms.settings:
                self._terms = stored
        done = {part for part in self._terms.parts if not self._is_waiting(part)}
        for part in done:
            self._collect(part)
        self._consider(self._terms.parts, done)

    def covers(self, part: str) -> bool:
        return part in self._numbers

    def make(self, parts: Sequence[str], seconds: float) -> None:
        self._consider(parts)
        terms = self._terms
        if terms.seconds is None:
            terms.seconds = self._settings.budget.seconds(seconds)
            if self._needs:
                tried = trial.recognise(self._settings.options())
                terms.seconds -= tried.seconds
                terms.seconds_per_page = tried.seconds_per_page
        terms.parts = list(self._numbers)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(self._path, json.dumps(dataclasses.asdict(terms)) + "\n")

    def n_pages(self, part: str) -> float:
        return self._amounts(part)[0]

    def share_of(self, part: str) -> Share:
        for other in self._granted.keys() - self._spent.keys():
            self._collect(other)
        if part not in self._granted:
            amount, total = self._amounts(part)
            self._granted[part] = self._left * amount / total if amount else 0.0
            self._served.add(part)
            self._waiting[self._part_of == self._numbers[part]] = 0.0
        return Share({}, self._granted[part], self._seconds_per_page)

    def release(self, part: str) -> None:
        self._granted.pop(part, None)

    def _is_waiting(self, part: str) -> bool:
        done = self._collection.documents_path(part).exists()
        return not done and self._collection.survey_path(part).exists()

    def _collect(self, part: str) -> None:
        if spent := Spent.read(self._collection, part):
            self._spent[part] = spent

    def _consider(self, parts: Sequence[str], done: Container[str] = ()) -> None:
        for part in parts:
            self._numbers[part] = len(self._numbers)
            if part not in done:
                for position, _, pages in self._documents(part):
                    self._needs += router.needs(part, position, pages)
        self._needs = sorted(need for need in self._needs if need.part not in self._served)
        self._part_of = np.array([self._numbers[need.part] for need in self._needs], dtype=np.int64)
        self._waiting = np.array([need.share for need in self._needs], dtype=np.float64)
        """Pages, the most urgent first; 0 for those of parts that have had their turn."""

    @property
    def _left(self) -> float:
        granted = sum(seconds for part, seconds in self._granted.items() if part not in self._spent)
        spent = sum(one.seconds for one in self._spent.values())
        return max(0.0, (self._terms.seconds or 0.0) - granted - spent)

    @property
    def _seconds_per_page(self) -> float:
        """The trial counts as much as one page."""
        seconds = sum(one.seconds for one in self._spent.values())
        return (self._terms.seconds_per_page + seconds) / (1 + sum(one.pages for one in self._spent.values()))

    def _amounts(self, part: str) -> tuple[float, float]:
        """Pages of a part, and of all, among the most urgent ones that can probably be afforded."""
        affordable = np.cumsum(self._waiting) <= self._left / self._seconds_per_page + 0.5
        mine = affordable & (self._part_of == self._numbers[part])
        return float(self._waiting[mine].sum()), float(self._waiting[affordable].sum())
