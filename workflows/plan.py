"""Which input belongs to which part and shard; kept in the collection, so that a rerun cuts the work the same way.

The plan (`inputs.parquet`) is written before the work begins. A rerun after a kill finds the same parts, whose
identities name the files that are already there; files added later get parts and shards of their own. Parts are cut
such that their longest stage takes about a target time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hiperrag.collection import Collection
from hiperrag.errors import UserError
from hiperrag.files import atomic_file
from hiperrag.parsing.inputs import file_name
from hiperrag.parsing.row_files import UNKNOWN
from hiperrag.parsing.sources import Input, KnownFiles, Listing
from hiperrag.workflows.settings import PartSettings

ROWS_PER_GROUP = 4096
PARTS_PER_WORKER = 4
"""So many new parts for each worker, where there is enough to do, so that all end at about the same time."""
LEAST_SECONDS = 2.0
"""Parts are not made smaller than this for the sake of more workers: a task costs 0.1 s beside its work."""
Key = tuple[str, str, int]
"""What makes two listings of an input the same input: path, archive member, first row."""

_SCHEMA = pa.schema(
    [(field.name, pa.int64() if field.type == "int" else pa.string()) for field in dataclasses.fields(Input)]
    + [("shard", pa.int32()), ("part", pa.int32()), ("duplicate_of", pa.string())]
)
_LISTINGS = b"hiperrag:listings"


@dataclasses.dataclass(slots=True)
class Plan:
    """`shards[s][p]` is the list of inputs of part p of shard s; `duplicates` are (left out, kept) inputs."""

    shards: list[list[list[Input]]] = dataclasses.field(default_factory=list)
    duplicates: list[tuple[Input, str]] = dataclasses.field(default_factory=list)
    listings: dict[str, Listing] = dataclasses.field(default_factory=dict)
    """Archives and files of ready text as they were when they were last opened to list their inputs."""

    @property
    def inputs(self) -> list[Input]:
        """All inputs that belong to a part, in order."""
        return [item for shard in self.shards for part in shard for item in part]

    def known_files(self) -> KnownFiles:
        """The listings with the inputs of their files."""
        known: dict[str, tuple[Listing, list[Input]]] = {path: (one, []) for path, one in self.listings.items()}
        for item in [*self.inputs, *(item for item, _ in self.duplicates)] if known else []:
            if item.path in known:
                known[item.path][1].append(item)
        return known


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
        table = pq.read_table(collection.inputs_path)
        rows = table.to_pylist()
        plan.listings = _listings(table.schema)
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


def has_listings(collection: Collection) -> bool:
    """Whether the plan of an earlier run knows what is in some archives or files of ready text."""
    try:
        return bool(_listings(pq.read_schema(collection.inputs_path)))
    except (OSError, pa.ArrowException):
        return False


def _listings(schema: pa.Schema) -> dict[str, Listing]:
    stored = json.loads((schema.metadata or {}).get(_LISTINGS, b"{}"))
    return {
        path: Listing(**{**one, "unreadable": tuple(tuple(entry) for entry in one["unreadable"])})
        for path, one in stored.items()
    }


def save_plan(collection: Collection, plan: Plan) -> None:
    """Write the plan, atomically; row groups hold whole shards, so that one can be read without the others."""
    shards = [
        [
            {**dataclasses.asdict(item), "shard": number, "part": position, "duplicate_of": ""}
            for position, part in enumerate(shard)
            for item in part
        ]
        for number, shard in enumerate(plan.shards)
    ]
    left_out = [
        {**dataclasses.asdict(item), "shard": -1, "part": -1, "duplicate_of": kept} for item, kept in plan.duplicates
    ]
    listings = json.dumps({path: dataclasses.asdict(one) for path, one in plan.listings.items()})
    schema = _SCHEMA.with_metadata({_LISTINGS: listings})
    with (
        atomic_file(collection.inputs_path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        rows: list[dict[str, Any]] = []
        for group in [*shards, left_out]:
            rows += group
            if len(rows) >= ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))


class PlanFile:
    """The shards of a saved plan, read one at a time: in memory are a few bytes a shard and one row group."""

    def __init__(self, collection: Collection) -> None:
        self._file = pq.ParquetFile(collection.inputs_path)
        self._groups: list[int] = []
        """The row group in which each shard begins."""
        for group in range(self._file.num_row_groups):
            shards = self._file.read_row_group(group, columns=["shard"])["shard"].to_numpy()
            last = int(shards.max(initial=-1))
            self._groups += [group] * (last + 1 - len(self._groups))
        self._open: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return len(self._groups)

    def shard(self, number: int) -> list[list[Input]]:
        """The inputs of the parts of a shard."""
        group = self._groups[number]
        if not self._open or self._open[0] != group:
            self._open = None
            self._open = group, self._file.read_row_group(group)
        table = self._open[1]
        numbers = table["shard"].to_numpy()
        rows = np.flatnonzero(numbers == number)
        parts: dict[int, list[Input]] = defaultdict(list)
        for row in table.slice(rows[0], rows[-1] + 1 - rows[0]).to_pylist():
            shard, part = row.pop("shard"), row.pop("part")
            del row["duplicate_of"]
            if shard == number:
                parts[part].append(Input(**row))
        return [parts[part] for part in sorted(parts)]


def extend_plan(
    plan: Plan,
    found: Sequence[Input],
    known: Callable[[Sequence[Input]], bool],
    read: Callable[[Input], bytes],
    settings: PartSettings,
    seconds: Callable[[Input], float],
    n_workers: int = 1,
    shared: bool = False,
) -> Plan:
    """The plan of this run: `plan` brought up to date with the inputs found, new inputs appended.

    Committed shards, all of whose parts are `known`, stay, with changed inputs exchanged in place. Shards that an
    interrupted run left unfinished keep those inputs that were asked for again. `read` gives the bytes of a file, and
    is called only for files whose size equals that of another; `seconds` guesses what an input costs. A plan that is
    `shared` with other jobs keeps all inputs.
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
        done = shared or all(known_pieces(part, known) for part in shard)
        parts = [part for part in (renew(part, done) for part in shard) if part]
        if parts:
            shards.append(parts)
    result = Plan(shards)
    planned = {key(item) for item in result.inputs}
    sources = {item.source for item in result.inputs}
    duplicates = {key(item): (item, kept) for item, kept in plan.duplicates if kept in sources}
    fresh = []
    for item in found:
        twin = duplicates.get(key(item))
        is_known_duplicate = twin is not None and dataclasses.replace(twin[0], source=item.source) == item
        if key(item) not in planned and not is_known_duplicate:
            planned.add(key(item))
            duplicates.pop(key(item), None)
            fresh.append(item)
    fresh, new_duplicates = _without_duplicates(result.inputs, fresh, read)
    result.duplicates = [*duplicates.values(), *new_duplicates]
    parts = _cut(fresh, settings, seconds, n_workers)
    for start in range(0, len(parts), settings.parts_per_shard):
        result.shards.append(parts[start : start + settings.parts_per_shard])
    return result


def _cut(
    inputs: Sequence[Input], settings: PartSettings, seconds: Callable[[Input], float], n_workers: int
) -> list[list[Input]]:
    """Consecutive inputs of one kind, bounded in number and in seconds."""
    costs = [seconds(item) for item in inputs]
    target = min(settings.target_seconds, max(LEAST_SECONDS, sum(costs) / (PARTS_PER_WORKER * n_workers)))
    parts: list[list[Input]] = []
    room, time_left = 0, 0.0
    for item, cost in zip(inputs, costs, strict=True):
        if not parts or parts[-1][-1].kind != item.kind or weight(item) > room or cost > time_left:
            parts.append([])
            room = settings.rows_per_part if item.kind == "rows" else settings.files_per_part
            time_left = target
        parts[-1].append(item)
        room -= weight(item)
        time_left -= cost
    return parts


# Poison: inputs that make a stage fail


def halves(inputs: Sequence[Input]) -> tuple[list[Input], list[Input]] | None:
    """The two halves of a part, None for a single PDF or row.

    A range of rows that is cut has `row_offset` UNKNOWN where the place in the file would have to be looked for.
    """
    if len(inputs) > 1:
        middle = len(inputs) // 2
        return list(inputs[:middle]), list(inputs[middle:])
    item = inputs[0]
    if weight(item) == 1:
        return None
    middle = (item.start + item.stop) // 2
    place = item.row_offset if file_name(item).endswith(".parquet") else UNKNOWN
    second = item.size * (item.stop - middle) // weight(item)
    return (
        [dataclasses.replace(item, stop=middle, size=item.size - second)],
        [dataclasses.replace(item, start=middle, size=second, row_offset=place)],
    )


def known_pieces(part: Sequence[Input], known: Callable[[Sequence[Input]], bool]) -> list[list[Input]]:
    """The part itself if it is known, or the pieces into which an earlier run split it; empty if it is unknown."""
    if known(part):
        return [list(part)]
    pair = halves(part)
    first = known_pieces(pair[0], known) if pair else []
    second = known_pieces(pair[1], known) if pair and first else []
    return first + second if second else []


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
