"""What a collection holds beyond its index, for people who read it: passages in their documents, sources, facts."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiperrag.collection import Collection, Manifest, PartEntry, ShardEntry
from hiperrag.index.passages import PassageStore
from hiperrag.metadata import COLUMN_PREFIX
from hiperrag.parsing.inputs import Input
from hiperrag.records import Document, Passage, document_from_row, read_quarantined
from hiperrag.workflows.deletions import deleted_mask

MAX_PLACES = 50_000
"""Passages whose place is remembered, so that a page that is opened twice is looked for once."""
MAX_DOCUMENTS = 32
TOP_VALUES = 12
"""Values named for each text field; fields with more are searched by `where`."""
MAX_FIELDS = 40
MAX_QUARANTINED = 50


@dataclass(frozen=True, slots=True)
class Found:
    """A passage and where it is: `row` of the shard numbered `shard`."""

    passage: Passage
    shard: int
    row: int


class Catalogue:
    """One version of a collection, opened for reading; the files it has opened stay readable when they are replaced."""

    def __init__(self, collection: Collection, manifest: Manifest) -> None:
        self.collection = collection
        self.manifest = manifest
        self._entries: list[ShardEntry] = [entry for entry in manifest.shards if entry.n_passages > entry.n_deleted]
        self._stores = [PassageStore(collection.shard_path(e.name), e.n_passages) for e in self._entries]
        self._deleted = [deleted_mask(collection, entry) for entry in self._entries]
        self._places: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, passage_id: str) -> Found | None:
        """The passage of this id, None where there is none."""
        with self._lock:
            place = self._places.get(passage_id)
        place = place or self._look_for(passage_id)
        if place is None:
            return None
        with self._lock:
            self._places[passage_id] = place
            while len(self._places) > MAX_PLACES:
                self._places.popitem(last=False)
        return Found(self._stores[place[0]][place[1]], *place)

    def _look_for(self, passage_id: str) -> tuple[int, int] | None:
        for number, store in enumerate(self._stores):
            row = pc.index(store.columns(["passage_id"])["passage_id"].cast(pa.string()), passage_id).as_py()
            if row >= 0 and not self._is_deleted(number, row):
                return number, row
        return None

    def _is_deleted(self, shard: int, row: int) -> bool:
        mask = self._deleted[shard]
        return mask is not None and bool(mask[row])

    def neighbour(self, found: Found, step: int) -> Passage | None:
        """The passage `step` places further on in the same document, None beyond its ends."""
        row = found.row + step
        if not 0 <= row < self._entries[found.shard].n_passages or self._is_deleted(found.shard, row):
            return None
        passage = self._stores[found.shard][row]
        return passage if passage.doc_id == found.passage.doc_id else None

    def document(self, found: Found) -> Document | None:
        """The document a passage is from, None where its file cannot be read any more."""
        doc_id = found.passage.doc_id
        with self._lock:
            if doc_id in self._documents:
                self._documents.move_to_end(doc_id)
                return self._documents[doc_id]
        path = self.collection.documents_path(self._part(found).documents)
        try:
            rows = pq.read_table(path, filters=[("doc_id", "==", doc_id)]).to_pylist()
        except (OSError, pa.ArrowException):
            return None
        if not rows:
            return None
        document = document_from_row(rows[0])
        with self._lock:
            self._documents[doc_id] = document
            while len(self._documents) > MAX_DOCUMENTS:
                self._documents.popitem(last=False)
        return document

    def _part(self, found: Found) -> PartEntry:
        parts = self._entries[found.shard].parts
        ends = np.cumsum([part.n_rows for part in parts])
        return parts[int(np.searchsorted(ends, found.row, side="right"))]

    def inputs(self, source: str) -> list[Input]:
        """Where the bytes of a document named `source` may be: the file it was read from, then files equal to it."""
        same = (pc.field("source") == source) | (pc.field("duplicate_of") == source)
        try:
            table = pq.read_table(self.collection.inputs_path, filters=same & (pc.field("kind") == "pdf"))
        except (OSError, pa.ArrowException):
            return []
        rows = sorted(table.to_pylist(), key=lambda row: bool(row["duplicate_of"]))
        places = {name for name in table.column_names if name not in ("shard", "part", "duplicate_of")}
        return [Input(**{name: row[name] for name in places}) for row in rows]

    @property
    def n_documents(self) -> int:
        """Documents that can be found."""
        return self.manifest.counts.documents - self.manifest.n_deleted_documents

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What is in the collection: counts, kinds of passages, fields to filter by, the encoder, the quarantine.

        Names files without their folders.
        """
        manifest = self.manifest
        quarantined = read_quarantined(self.collection.quarantine_files(manifest))
        return {
            "documents": self.n_documents,
            "counts": manifest.counts.model_dump(),
            "kinds": self._kinds(),
            "fields": self._fields(),
            "encoder": {
                **manifest.encoder.model_dump(include={"dim", "pooled_dim", "max_tokens"}),
                "name": PurePath(manifest.encoder.spec).name,
            },
            "storage": manifest.settings.get("storage", {}),
            "written_by": f"hiperrag {manifest.hiperrag}",
            "quarantine_by_reason": dict(Counter(entry.error for entry in quarantined).most_common()),
            "quarantine": [
                {"name": PurePath(entry.source).name, "stage": entry.stage, "error": entry.error}
                for entry in quarantined[:MAX_QUARANTINED]
            ],
            "duplicates": len(manifest.duplicates),
        }

    def _kept(self, shard: int, column: pa.ChunkedArray) -> pa.ChunkedArray:
        mask: npt.NDArray[np.bool_] | None = self._deleted[shard]
        return column if mask is None else column.filter(pa.array(~mask))

    def _kinds(self) -> dict[str, int]:
        counted: Counter[str] = Counter()
        for number, store in enumerate(self._stores):
            counted.update(_counts(self._kept(number, store.columns(["kind"])["kind"])))
        return dict(counted.most_common())

    def _fields(self) -> list[dict[str, Any]]:
        names = sorted(set().union(*(store.metadata_names for store in self._stores)))[:MAX_FIELDS]
        return [self._field(name) for name in names]

    def _field(self, name: str) -> dict[str, Any]:
        """One field: in how many passages, its range if it is a number, else its commonest values."""
        columns = []
        for number, store in enumerate(self._stores):
            if name in store.metadata_names:
                columns.append(self._kept(number, store.columns([COLUMN_PREFIX + name])[COLUMN_PREFIX + name]))
        n_passages = sum(len(column) - column.null_count for column in columns)
        if all(pa.types.is_integer(c.type) or pa.types.is_floating(c.type) for c in columns):
            ranges = [pc.min_max(column).as_py() for column in columns if len(column) > column.null_count]
            low = min((r["min"] for r in ranges), default=None)
            high = max((r["max"] for r in ranges), default=None)
            return {"name": name, "type": "number", "passages": n_passages, "min": low, "max": high}
        if all(pa.types.is_boolean(column.type) for column in columns):
            return {"name": name, "type": "boolean", "passages": n_passages}
        counted: Counter[str] = Counter()
        for column in columns:
            counted.update(_counts(column.cast(pa.string())))
        values = [{"value": value, "passages": n} for value, n in counted.most_common(TOP_VALUES)]
        return {"name": name, "type": "text", "passages": n_passages, "values": values, "distinct": len(counted)}


def _counts(column: pa.ChunkedArray) -> Mapping[str, int]:
    counted = pc.value_counts(column.drop_null().combine_chunks())
    return {entry["values"]: entry["counts"] for entry in counted.to_pylist()}
