"""Which input belongs to which part and shard; kept in the collection, so that a rerun cuts the work the same way.

The plan (`inputs.parquet`) is written before the work begins. A rerun after a kill finds the same parts, whose
identities name the files that are already there; files added later get parts and shards of their own.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from hiperrag.collection import Collection
from hiperrag.errors import UserError
from hiperrag.files import atomic_file
from hiperrag.parsing.sources import Input
from hiperrag.workflows.settings import PartSettings

Key = tuple[str, str, int]
"""What makes two listings of an input the same input: path, archive member, first row."""


@dataclasses.dataclass(slots=True)
class Plan:
    """`shards[s][p]` is the list of inputs of part p of shard s; `duplicates` are (left out, kept) inputs."""

    shards: list[list[list[Input]]] = dataclasses.field(default_factory=list)
    duplicates: list[tuple[Input, str]] = dataclasses.field(default_factory=list)

    @property
    def inputs(self) -> list[Input]:
        """All inputs that belong to a part, in order."""
        return [item for shard in self.shards for part in shard for item in part]


def key(item: Input) -> Key:
    """The input's key."""
    return item.path, item.member, item.start


def weight(item: Input) -> int:
    """Documents the input stands for: rows of ready text, or one file."""
    return item.stop - item.start if item.kind == "rows" else 1


def load_plan(collection: Collection) -> Plan:
    """The plan of an earlier run; empty when there is none."""
    plan = Plan()
    if not collection.inputs_path.is_file():
        return plan
    parts: dict[tuple[int, int], list[Input]] = defaultdict(list)
    try:
        rows = pq.read_table(collection.inputs_path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{collection.inputs_path}: damaged ({reason}); restore it, or index the sources into a new folder"
        ) from None
    for row in rows:
        shard, part, duplicate_of = row.pop("shard"), row.pop("part"), row.pop("duplicate_of")
        item = Input(**row)
        if duplicate_of:
            plan.duplicates.append((item, duplicate_of))
        else:
            parts[shard, part].append(item)
    for shard, part in sorted(parts):
        while len(plan.shards) <= shard:
            plan.shards.append([])
        plan.shards[shard].append(parts[shard, part])
    return plan


def save_plan(collection: Collection, plan: Plan) -> None:
    """Write the plan, atomically."""
    rows = [
        {**dataclasses.asdict(item), "shard": s, "part": p, "duplicate_of": ""}
        for s, shard in enumerate(plan.shards)
        for p, part in enumerate(shard)
        for item in part
    ]
    rows += [
        {**dataclasses.asdict(item), "shard": -1, "part": -1, "duplicate_of": kept} for item, kept in plan.duplicates
    ]
    schema = pa.schema(
        [(field.name, pa.int64() if field.type == "int" else pa.string()) for field in dataclasses.fields(Input)]
        + [("shard", pa.int32()), ("part", pa.int32()), ("duplicate_of", pa.string())]
    )
    with atomic_file(collection.inputs_path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")


def extend_plan(
    plan: Plan,
    found: Sequence[Input],
    committed: Callable[[list[list[Input]]], bool],
    read: Callable[[Input], bytes],
    settings: PartSettings,
) -> Plan:
    """The plan of this run: `plan` brought up to date with the inputs found, new inputs appended.

    Committed shards stay, with changed inputs exchanged in place. Shards that an interrupted run left unfinished
    keep those inputs that were asked for again. `committed(shard)` tells which is which; `read` gives the bytes
    of a file, and is called only for files whose size equals that of another.
    """
    current = {key(item): item for item in found}
    row_files = {(item.path, item.member) for item in found if item.kind == "rows"}

    def renew(part: list[Input], keep_missing: bool) -> list[Input]:
        kept = []
        for item in part:
            gone = item.kind == "rows" and (item.path, item.member) in row_files
            if key(item) in current:
                kept.append(dataclasses.replace(current[key(item)], source=item.source))
            elif keep_missing and not gone:
                kept.append(item)
        return kept

    shards = []
    for shard in plan.shards:
        done = committed(shard)
        parts = [part for part in (renew(part, done) for part in shard) if part]
        if parts:
            shards.append(parts)
    result = Plan(shards)
    planned = {key(item) for item in result.inputs}
    duplicates = {key(item): (item, kept) for item, kept in plan.duplicates}
    fresh = []
    for item in found:
        known = duplicates.get(key(item))
        is_known_duplicate = known is not None and dataclasses.replace(known[0], source=item.source) == item
        if key(item) not in planned and not is_known_duplicate:
            planned.add(key(item))
            duplicates.pop(key(item), None)
            fresh.append(item)
    fresh, new_duplicates = _without_duplicates(result.inputs, fresh, read)
    result.duplicates = [*duplicates.values(), *new_duplicates]
    parts = _cut(fresh, settings)
    for start in range(0, len(parts), settings.parts_per_shard):
        result.shards.append(parts[start : start + settings.parts_per_shard])
    return result


def _cut(inputs: Sequence[Input], settings: PartSettings) -> list[list[Input]]:
    """Consecutive inputs of one kind, bounded in number."""
    parts: list[list[Input]] = []
    room = 0
    for item in inputs:
        limit = settings.rows_per_part if item.kind == "rows" else settings.files_per_part
        if not parts or parts[-1][-1].kind != item.kind or weight(item) > room:
            parts.append([])
            room = limit
        parts[-1].append(item)
        room -= weight(item)
    return parts


def _without_duplicates(
    known: Sequence[Input], fresh: Sequence[Input], read: Callable[[Input], bytes]
) -> tuple[list[Input], list[tuple[Input, str]]]:
    """Drop PDF inputs whose bytes equal those of an earlier input."""
    by_size: dict[int, list[Input]] = defaultdict(list)
    for item in known:
        if item.kind == "pdf":
            by_size[item.size].append(item)
    digests: dict[Key, bytes | None] = {}

    def digest(item: Input) -> bytes | None:
        if key(item) not in digests:
            try:
                digests[key(item)] = hashlib.sha256(read(item)).digest()
            except Exception:  # an unreadable file has no equal; parsing will say what is wrong with it
                digests[key(item)] = None
        return digests[key(item)]

    unique, duplicates = [], []
    for item in fresh:
        equals = by_size[item.size] if item.kind == "pdf" else []
        twin = next((other for other in equals if digest(other) and digest(other) == digest(item)), None)
        if twin:
            duplicates.append((item, twin.source))
            continue
        unique.append(item)
        if item.kind == "pdf":
            equals.append(item)
    return unique, duplicates
