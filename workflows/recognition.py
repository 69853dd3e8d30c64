"""Recognition under a budget: which pages of a run it is spent on, and the stage that spends it.

The first stage reads all files and leaves a survey of each part; when the last one is there, the pages to recognise are
chosen among those of all parts. The choice is kept until the run ends, so that a resumed run makes the same.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence

import pyarrow.parquet as pq

from hiperrag.collection import Collection
from hiperrag.files import write_text_atomic
from hiperrag.parsing import router
from hiperrag.parsing.batch import finish_survey
from hiperrag.parsing.router import Need
from hiperrag.parsing.sandbox import Sandbox
from hiperrag.parsing.sources import Input
from hiperrag.records import Document, PageRecord, Quarantined, read_documents, read_quarantined, write_records
from hiperrag.workflows.settings import IndexSettings, ParseSettings
from hiperrag.workflows.stages import Outcome, PartNames
from hiperrag.workflows.staging import staged_inputs

Pages = dict[int, list[int]]
"""Positions of documents within their part -> their pages to recognise."""


class Choice:
    """The pages of a run to recognise, by part: chosen once over all parts, and stored."""

    def __init__(self, collection: Collection, settings: ParseSettings) -> None:
        self._collection = collection
        self._settings = settings
        self._path = collection.surveys / "choice.json"
        self._chosen: dict[str, Pages] = {}
        if self._path.is_file():
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            self._chosen = {part: {int(n): pages for n, pages in found.items()} for part, found in stored.items()}

    def covers(self, part: str) -> bool:
        """Whether the choice has been made for a part, named by its documents."""
        return part in self._chosen

    def pages_of(self, part: str) -> Pages:
        """The pages of a part to recognise."""
        return self._chosen[part]

    def make(self, parts: Sequence[str], seconds: float) -> None:
        """Choose among the pages of these parts, of which all have a survey that took `seconds` in all."""
        n_pages, wanted = 0, list[Need]()
        for part in parts:
            documents = pq.read_table(self._collection.survey_path(part), columns=["pages"])["pages"].to_pylist()
            for position, rows in enumerate(documents):
                n_pages += len(rows)
                wanted += router.needs(part, position, [PageRecord(**row) for row in rows])
        seconds_per_page = router.seconds_per_page(self._settings.budget, self._settings.options()) if wanted else 0.0
        allowed = self._settings.budget.pages(n_pages, seconds_per_page, seconds) if wanted else 0
        self._chosen |= {part: {} for part in parts}
        for (part, position), pages in router.choose(wanted, allowed).items():
            self._chosen[part][position] = pages
        write_text_atomic(self._path, json.dumps(self._chosen) + "\n")

    def forget(self) -> None:
        """The run is over."""
        shutil.rmtree(self._collection.surveys, ignore_errors=True)


def recognise_part(
    root: str, names: PartNames, inputs: Sequence[Input], settings: IndexSettings, chosen: Pages
) -> Outcome:
    """A survey -> documents and quarantine, the chosen pages recognised."""
    started = time.perf_counter()
    collection = Collection(root)
    survey = read_documents(names.output(collection, "parse"))
    surveyed = {document.source for document in survey}
    earlier = read_quarantined([collection.quarantine_path(names.documents)])
    quarantined = [entry for entry in earlier if entry.source not in surveyed]  # a killed attempt may have added some
    documents: list[Document] = []
    with staged_inputs(inputs) as local, Sandbox(settings.parse.limits()) as sandbox:
        by_source = {item.source: item for item in local}
        for position, read in enumerate(survey):
            item = by_source.get(read.source)  # rows of ready text have none, and no pages either
            pages = chosen.get(position, [])
            outcome = finish_survey(sandbox, item, read, pages, settings.parse.options()) if item else read
            if isinstance(outcome, Document):
                documents.append(outcome)
            else:
                quarantined.append(outcome)
    output = collection.documents_path(names.documents)
    if not output.exists():  # else another worker that was given the same part was first
        write_records(collection.quarantine_path(names.documents), Quarantined, quarantined)
        write_records(output, Document, documents)
    names.output(collection, "parse").unlink(missing_ok=True)
    n_pages = sum(map(len, chosen.values()))
    return Outcome(len(documents), len(quarantined), time.perf_counter() - started, n_pages=n_pages)
