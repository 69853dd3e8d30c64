"""Deleted documents: a list for the whole collection, and the rows of each shard that hold their passages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hiperrag.collection import Collection, ShardEntry
from hiperrag.errors import UserError
from hiperrag.files import atomic_file, fingerprint
from hiperrag.index.passages import PassageStore


def deleted_documents(collection: Collection, identity: str) -> set[str]:
    """The doc_ids that count as deleted; UserError when their list is damaged."""
    if not identity:
        return set()
    path = collection.deleted_documents_path(identity)
    try:
        listed = pq.read_table(path)["doc_id"].to_pylist()
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
        raise _damaged(path, error) from None
    if fingerprint("deleted", listed) != identity:
        raise _damaged(path, "its checksum is wrong")
    return set(listed)


def write_deleted_documents(collection: Collection, doc_ids: Iterable[str]) -> str:
    """Store the doc_ids; returns their identity, empty for none."""
    listed = sorted(doc_ids)
    if not listed:
        return ""
    identity = fingerprint("deleted", listed)
    with atomic_file(collection.deleted_documents_path(identity)) as temporary:
        pq.write_table(pa.table({"doc_id": listed}), temporary)
    return identity


def mark_deleted(collection: Collection, entry: ShardEntry, doc_ids: set[str]) -> ShardEntry:
    """The entry of the same shard with just the passages of these documents deleted."""
    if not entry.n_passages:
        return entry
    store = PassageStore(collection.shard_path(entry.name), entry.n_passages)
    column = store.columns(["doc_id"])["doc_id"].to_pylist()
    rows = np.array([row for row, doc_id in enumerate(column) if doc_id in doc_ids], dtype=np.int64)
    if not len(rows):
        return entry.model_copy(update={"deleted": "", "n_deleted": 0, "n_deleted_documents": 0})
    ends = np.cumsum([part.n_rows for part in entry.parts])
    parts = [column[end - part.n_rows : end] for part, end in zip(entry.parts, ends, strict=True)]
    n_documents = sum(len(doc_ids.intersection(part)) for part in parts)
    identity = fingerprint("rows", entry.name, rows.tolist())
    with atomic_file(collection.deleted_rows_path(identity)) as temporary, temporary.open("wb") as stream:
        np.save(stream, rows)
    return entry.model_copy(update={"deleted": identity, "n_deleted": len(rows), "n_deleted_documents": n_documents})


def deleted_mask(collection: Collection, entry: ShardEntry) -> npt.NDArray[np.bool_] | None:
    """(n_passages,) True where a passage is deleted; None when none is."""
    if not entry.deleted:
        return None
    path = collection.deleted_rows_path(entry.deleted)
    try:
        with path.open("rb") as stream:
            rows = np.lib.format.read_array(stream)
        matches = fingerprint("rows", entry.name, rows.tolist()) == entry.deleted
        mask = np.zeros(entry.n_passages, dtype=bool)
        mask[rows] = True
    except Exception as error:  # NumPy reads headers as Python, which raises anything
        raise _damaged(path, error) from None
    if not matches or np.count_nonzero(mask) != entry.n_deleted:
        raise _damaged(path, "its checksum is wrong")
    return mask


def _damaged(path: Path, reason: object) -> UserError:
    said = " ".join(str(reason).split())[:200] or type(reason).__name__
    return UserError(f"{path}: damaged list of deleted documents ({said}); restore it, or index again")
