"""Changes to a collection that read no source again: delete documents, compact shards, merge collections.

Each commits a manifest as its last step (compaction one after each shard), so a reader sees the collection before or
after it, and a killed command leaves the collection as it was at the last commit.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import hiperrag
from hiperrag import index
from hiperrag.collection import (
    FOLDERS,
    Collection,
    Manifest,
    PartEntry,
    ShardEntry,
    count,
    count_deleted_documents,
)
from hiperrag.errors import UserError
from hiperrag.files import TEMPORARY_MARK, fingerprint
from hiperrag.filters import Filter
from hiperrag.index.passages import PassageStore
from hiperrag.records import Quarantined, read_quarantined, write_records
from hiperrag.workflows.deletions import deleted_documents, mark_deleted, write_deleted_documents
from hiperrag.workflows.plan import Plan, key, load_plan, save_plan
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.stages import PartNames, ShardTask, StoredPart, build_shard

PASSAGES_PER_SHARD = 1_000_000
"""What `compact` aims at."""


@dataclasses.dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion (or its undoing) changed: documents, and their passages."""

    documents: list[str]
    passages: int


def delete_documents(root: Path, names: Sequence[str], where: Filter | None, undo: bool = False) -> Deleted:
    """Mark documents as deleted (or, with `undo`, no longer so).

    It is those that are named and those that have a passage that meets `where`. A name is a document as search shows
    it, or a doc_id. UserError when one is unknown; then nothing is changed.
    """
    collection = Collection(root)
    collection.manifest()
    with collection.sole_writer("delete") as claims:
        collection.remove_temporary_files()
        manifest = collection.manifest()
        collection.collect_garbage(manifest, ("deletions",))
        found = _find_documents(collection, manifest, set(names), where)
        known = {*found, *found.values()}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(f"{root}: holds no document {unknown[0]!r}; `hiperrag search` shows documents' names")
        gone = deleted_documents(collection, manifest.deleted)
        changed = {doc_id for doc_id in found if (doc_id in gone) == undo}
        if not changed:
            return Deleted([], 0)
        gone = gone - changed if undo else gone | changed
        shards = [mark_deleted(collection, entry, gone) for entry in manifest.shards]
        before = manifest.counts.deleted
        manifest = _replace(manifest, shards, deleted=write_deleted_documents(collection, gone))
        claims.check()
        collection.commit(manifest)
        collection.collect_garbage(manifest, ("deletions",))
        return Deleted(sorted(found[doc_id] for doc_id in changed), abs(manifest.counts.deleted - before))


def _find_documents(
    collection: Collection, manifest: Manifest, names: set[str], where: Filter | None
) -> dict[str, str]:
    """doc_id -> document of those that are named or have a passage that meets the condition."""
    stores = list(_stores(collection, manifest.shards))
    if where:
        where.check_fields(set().union(*(store.metadata_names for store in stores)))
    found = {}
    for store in stores:
        table = store.columns({"doc_id", "document", *(where.columns if where else ())})
        rows = zip(table["doc_id"].to_pylist(), table["document"].to_pylist(), strict=True)
        met = where.mask(table) if where else None
        for row, (doc_id, document) in enumerate(rows):
            if doc_id in names or document in names or (met is not None and met[row]):
                found[doc_id] = document
    return found


def _stores(collection: Collection, shards: Iterable[ShardEntry]) -> Iterator[PassageStore]:
    for entry in shards:
        if entry.n_passages:
            yield PassageStore(collection.shard_path(entry.name), entry.n_passages)


def compact(
    root: Path, passages_per_shard: int = PASSAGES_PER_SHARD, report: Callable[[int, int], None] = lambda *_: None
) -> tuple[int, int]:
    """Join small shards that follow one another, and remove deleted passages; numbers of shards before and after.

    Codes are copied, candidate lists made anew. `report` is called with the shards done and all there are. Memory is
    bounded by the largest shard written.
    """
    collection = Collection(root)
    collection.manifest()
    with collection.sole_writer("compact") as claims:
        collection.remove_temporary_files()
        manifest = collection.manifest()
        before = len(manifest.shards)
        groups = _group(manifest.shards, passages_per_shard)
        done: list[ShardEntry] = []
        for number, group in enumerate(groups):
            report(number, len(groups))
            if len(group) == 1 and not group[0].n_deleted:
                done += group
                continue
            done.append(_rewrite(collection, manifest, group, number, manifest.deleted))
            rest = [entry for later in groups[number + 1 :] for entry in later]
            claims.check()
            collection.commit(_replace(manifest, [*done, *rest]))
        manifest = _replace(manifest, done)
        claims.check()
        collection.commit(manifest)
        collection.collect_garbage(manifest, ("shards", "deletions"))
        report(len(groups), len(groups))
        return before, len(done)


def _group(shards: Sequence[ShardEntry], passages: int) -> list[list[ShardEntry]]:
    """Neighbours that together hold at most `passages`."""
    groups: list[list[ShardEntry]] = []
    room = 0
    for entry in shards:
        size = entry.n_passages - entry.n_deleted
        if not groups or size > room:
            groups.append([])
            room = passages
        groups[-1].append(entry)
        room -= size
    return groups


def _rewrite(
    collection: Collection, manifest: Manifest, group: Sequence[ShardEntry], number: int, deleted: str
) -> ShardEntry:
    """One shard with the passages of several, but for those of deleted documents."""
    settings = IndexSettings.model_validate(manifest.settings)
    names: list[PartNames] = []
    stored: list[StoredPart | None] = []
    entries: list[PartEntry] = []
    for shard in group:
        first = 0
        for part in shard.parts:
            names.append(PartNames(part.documents, part.passages, part.vectors, part.inputs, part.failed_stage))
            stored.append(None if part.failed_stage else StoredPart(shard.name, first, part))
            entries.append(part)
            first += part.n_rows
    identity = fingerprint("compact", index.VERSION, [(part.vectors, part.n_rows) for part in entries], deleted)
    task = ShardTask(
        name=f"{number:05d}-{identity[:8]}",
        identity=identity,
        parts=tuple(names),
        n_inputs=tuple(part.n_inputs for part in entries),
        stored=tuple(stored),
        deleted=deleted,
    )
    return build_shard(str(collection.root.absolute()), task, settings, manifest.encoder)


def _replace(manifest: Manifest, shards: Sequence[ShardEntry], **changes: object) -> Manifest:
    """The manifest with other shards; its run stays that of the last indexing."""
    return manifest.model_copy(
        update={
            "hiperrag": hiperrag.__version__,
            "shards": list(shards),
            "n_deleted_documents": count_deleted_documents(shards),
            "counts": count(shards, manifest.n_unreadable),
            **changes,
        }
    )


def merge(roots: Sequence[Path], to: Path) -> Manifest:
    """A new collection with all that several hold; a document that more than one holds is taken from the first.

    Files are linked where the file system can, else copied; the collections stay as they are. The new one appears when
    it is whole. UserError when they were not made with the same encoder and settings.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to}: exists; name a new folder")
    sources = [Collection(root) for root in roots]
    manifests = [source.manifest() for source in sources]
    for root, manifest in zip(roots[1:], manifests[1:], strict=True):
        if manifest.encoder.identity != manifests[0].encoder.identity:
            raise UserError(f"{root}: has encoder {manifest.encoder.spec}, {roots[0]} has {manifests[0].encoder.spec}")
        if manifest.settings_hash != manifests[0].settings_hash:
            raise UserError(f"{root}: was made with other settings than {roots[0]}; index its sources with the same")
    to = to.absolute()
    target = Collection(to.with_name(f"{TEMPORARY_MARK}merge-{to.name}"))
    target.root.mkdir(parents=True, exist_ok=True)
    with target.sole_writer("merge") as claims:
        target.remove_all()  # what a killed merge left
        try:
            merged = _merge_into(target, sources, manifests)
            target.root.replace(to)
            claims.moved(Collection(to).claims)
        except BaseException:
            shutil.rmtree(target.root, ignore_errors=True)
            raise
    return merged


def _merge_into(target: Collection, sources: Sequence[Collection], manifests: Sequence[Manifest]) -> Manifest:
    plan = Plan()
    shards: list[ShardEntry] = []
    living, gone = set[str](), set[str]()
    for source, manifest in zip(sources, manifests, strict=True):
        _link_files(source, manifest, target)
        names = {entry.name for entry in shards}
        fresh = [entry for entry in manifest.shards if entry.name not in names]
        dead = deleted_documents(source, manifest.deleted)
        shards += _without(target, manifest, fresh, _documents_of(target, fresh) & (living | dead), len(shards))
        living |= _documents_of(target, manifest.shards) - dead
        gone |= dead
        _add_plan(plan, load_plan(source))
    gone -= living
    shards = [mark_deleted(target, entry, gone) for entry in _tell_apart(shards)]
    unreadable = _unreadable(sources, manifests)
    identity = fingerprint(unreadable) if unreadable else ""
    if identity:
        write_records(target.unreadable_path(identity), Quarantined, unreadable)
    merged = manifests[0].model_copy(update={"unreadable": identity, "n_unreadable": len(unreadable)})
    duplicates = dict.fromkeys(pair for manifest in manifests for pair in manifest.duplicates)
    merged = _replace(merged, shards, duplicates=list(duplicates), deleted=write_deleted_documents(target, gone))
    save_plan(target, plan)
    target.commit(merged)
    target.collect_garbage(merged)
    return merged


def _tell_apart(shards: Sequence[ShardEntry]) -> list[ShardEntry]:
    """The shards, each part in one of them.

    Where a part is in several, those that hold none of its rows lose it. If its rows are still spread over several,
    the part gets another name in each, so that the next indexing encodes it as a whole.
    """
    holders = Counter(part.vectors for shard in shards for part in shard.parts if part.n_rows)
    seen: set[str] = set()
    told = []
    for number, shard in enumerate(shards):
        parts = []
        for part in shard.parts:
            if part.vectors and not part.n_rows and (holders[part.vectors] or part.vectors in seen):
                continue
            seen.add(part.vectors)
            if holders[part.vectors] > 1:
                part = part.model_copy(update={"vectors": fingerprint("piece", number, part.vectors)})
            parts.append(part)
        if parts:
            told.append(shard.model_copy(update={"parts": parts}))
    return told


def _unreadable(sources: Sequence[Collection], manifests: Sequence[Manifest]) -> list[Quarantined]:
    """What could not be opened when any of the collections was made."""
    paths = [
        source.unreadable_path(manifest.unreadable)
        for source, manifest in zip(sources, manifests, strict=True)
        if manifest.unreadable
    ]
    return list({entry.source: entry for entry in read_quarantined(paths)}.values())


def _documents_of(collection: Collection, shards: Iterable[ShardEntry]) -> set[str]:
    found: set[str] = set()
    for store in _stores(collection, shards):
        found.update(store.columns(["doc_id"])["doc_id"].unique().to_pylist())
    return found


def _without(
    collection: Collection, manifest: Manifest, shards: Sequence[ShardEntry], left_out: set[str], first: int
) -> list[ShardEntry]:
    """The same shards, those that hold any of these documents written anew without them."""
    listed = write_deleted_documents(collection, left_out)
    kept = []
    for number, entry in enumerate(shards, start=first):
        n_left_out = mark_deleted(collection, entry, left_out).n_deleted
        if n_left_out:
            entry = _rewrite(collection, manifest, [entry], number, listed)
        kept.append(entry)
    return kept


def _add_plan(plan: Plan, other: Plan) -> None:
    """Append another plan, without inputs that are planned already."""
    planned = {key(item) for item in plan.inputs}
    for shard in other.shards:
        parts = [[item for item in part if key(item) not in planned] for part in shard]
        if any(parts):
            plan.shards.append([part for part in parts if part])
    plan.duplicates += [pair for pair in other.duplicates if key(pair[0]) not in planned]


def _link_files(source: Collection, manifest: Manifest, target: Collection) -> None:
    unnamed = set(source.unnamed_files(manifest))
    for path in (path for folder in FOLDERS for path in sorted((source.root / folder).glob("*"))):
        if path in unnamed:
            continue
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            to = target.root / file.relative_to(source.root)
            if not to.exists():
                to.parent.mkdir(parents=True, exist_ok=True)
                _link(file, to)


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except FileNotFoundError:
        raise UserError(f"{file}: went away; its collection changed meanwhile, so run the command again") from None
    except OSError:
        shutil.copyfile(file, to)
