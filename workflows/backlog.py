"""What a run has to do: found out once, kept in a few bytes a part, and opened shard by shard as work goes on."""

from __future__ import annotations

import dataclasses
import functools
import math
from array import array
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hiperrag.collection import Collection, EncoderEntry, Manifest, ShardEntry
from hiperrag.parsing.sources import Input
from hiperrag.workflows.costs import Costs
from hiperrag.workflows.plan import PlanFile, halves, known_pieces, weight
from hiperrag.workflows.progress import StageProgress
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.stages import Namer, PartNames, Stage, StoredPart, hash_inputs, stages_of


@dataclasses.dataclass(slots=True)
class Part:
    """A part on its way through the stages; `stored` where a shard that has to be replaced holds its vectors."""

    inputs: list[Input]
    names: PartNames
    place: tuple[int, ...]
    """Parts of a shard are in this order; a piece of a part comes where the part would."""
    stored: StoredPart | None = None
    stage: Stage = "parse"
    """The next to do."""
    n_inputs: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    """What its stages are predicted to cost."""
    split: bool = False
    """Pieces of it stand for it."""


@dataclasses.dataclass(slots=True)
class Shard:
    """A shard that waits for its parts; those that were split stay in the list."""

    number: int
    order: int
    parts: list[Part]
    waiting: int = 0

    @property
    def pieces(self) -> list[Part]:
        """What the shard consists of, in order."""
        return sorted((part for part in self.parts if not part.split), key=lambda part: part.place)


class Backlog:
    """The planned shards that no committed shard stands for.

    A committed shard is kept if it holds just whole planned shards; one written by `hiperrag compact` holds several.
    `damaged` names those that cannot be opened, which are made again; `costs` is asked only if there is work.
    """

    def __init__(
        self,
        collection: Collection,
        manifest: Manifest | None,
        settings: IndexSettings,
        encoder: EncoderEntry,
        costs: Callable[[], Costs],
        damaged: set[str],
    ) -> None:
        self._collection, self._plan, self._find_costs = collection, PlanFile(collection), costs
        self._name = Namer(settings, encoder)
        self._stages, self._target = stages_of(settings), settings.parts.target_seconds
        self._entries = [entry for entry in manifest.shards if entry.name not in damaged] if manifest else []
        self.built = {entry.identity: entry for entry in self._entries}
        """Committed shards by their identity: where the same part fails again, one need not be built again."""
        self._known = {part.inputs for part in manifest.parts} if manifest else set()
        self._n_opened = 0
        self._survey()
        self.replaces = len(self.kept) < (len(manifest.shards) if manifest else 0)
        """Whether committed shards have to be replaced."""
        kept = {entry.name for entry in self.kept.values()}
        self._stored = dict(_stored_parts([entry for entry in self._entries if entry.name not in kept]))

    @functools.cached_property
    def costs(self) -> Costs:
        """What stages cost."""
        return self._find_costs()

    # Finding out

    def _survey(self) -> None:
        """Look at every part once, without touching a file of its own."""
        there = {folder: self._identities(folder) for folder in ("surveys", "documents", "passages", "vectors")}
        holder = {part.vectors: n for n, entry in enumerate(self._entries) for part in entry.parts if part.vectors}
        held: dict[int, list[int]] = {}
        n_held: dict[int, int] = {}
        self._n_parts, self._longest = array("i"), array("f")
        self._n_inputs, self._next, in_shard = array("i"), bytearray(), bytearray()
        for number in range(len(self._plan)):
            parts = self._pieces(number)
            holders: set[int] = set()
            for inputs in parts:
                names = self._name(inputs)
                holders.add(holder.get(names.vectors, -1))
                self._n_inputs.append(sum(map(weight, inputs)))
                self._next.append(_next_stage(names, self._stages, there))
                in_shard.append(names.vectors in holder)
            self._n_parts.append(len(parts))
            if len(holders) > 1 or -1 in holders:
                self._longest.append(max(sum(map(self.costs.longest, inputs)) for inputs in parts))
            else:
                self._longest.append(0.0)
                (one,) = holders
                held.setdefault(one, []).append(number)
                n_held[one] = n_held.get(one, 0) + len(parts)
        whole = {one: numbers for one, numbers in held.items() if n_held[one] == len(self._entries[one].parts)}
        self.kept: dict[int, ShardEntry] = {numbers[0]: self._entries[one] for one, numbers in whole.items()}
        """The committed shards that stay, by the number of the first planned shard that each holds."""
        self._covered = np.zeros(len(self._plan), dtype=bool)
        self._covered[[number for numbers in whole.values() for number in numbers]] = True
        build = len(self._stages) - 1
        stages = np.frombuffer(self._next, dtype=np.uint8).copy()
        stages[np.frombuffer(in_shard, dtype=bool) | np.repeat(self._covered, self._n_parts)] = build
        self._progress = self._totals(stages)

    def _identities(self, folder: str) -> set[str]:
        paths = (self._collection.root / folder).glob("part-*")
        return {path.name.removeprefix("part-").removesuffix(".parquet") for path in paths}

    def _totals(self, stages: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> list[StageProgress]:
        n_inputs = np.array(self._n_inputs, dtype=np.int64)
        found = []
        for rank, name in enumerate(self._stages[:-1]):
            cached = int(n_inputs[stages > rank].sum())
            found.append(StageProgress(name, "documents", int(n_inputs.sum()), done=cached, cached=cached))
        n_covered = int(self._covered.sum())
        found.append(StageProgress("build", "shards", len(self._covered), done=n_covered, cached=n_covered))
        return found

    def progress(self) -> list[StageProgress]:
        """How far each stage is before the run begins."""
        return self._progress

    @property
    def n_parts(self) -> int:
        """Parts of the shards that are not there."""
        return int(np.array(self._n_parts, dtype=np.int64)[~self._covered].sum())

    def left(self, number: int) -> dict[Stage, int]:
        """Inputs of a shard that each stage had before it when the run began."""
        end = int(np.cumsum(self._n_parts)[number])
        left = dict.fromkeys(self._stages[:-1], 0)
        for part in range(end - self._n_parts[number], end):
            for stage in self._stages[self._next[part] : -1]:
                left[stage] += self._n_inputs[part]
        return left

    def numbers(self, first: int = 0) -> list[int]:
        """The shards that are not there, in the order to open them: from `first` on, then those before it.

        Among these, shards with far too long a part come first.
        """

        def excess(number: int) -> int:
            return max(0, math.floor(math.log2(max(self._longest[number], 1e-9) / self._target)))

        return sorted(map(int, np.flatnonzero(~self._covered)), key=lambda number: (number < first, -excess(number)))

    # Opening

    def open(self, number: int) -> Shard:
        """A shard with its parts, each at the stage that its files say."""
        self._n_opened += 1
        parts = [self._part(inputs, (place,)) for place, inputs in enumerate(self._pieces(number))]
        return Shard(number, self._n_opened, parts)

    def split(self, part: Part) -> list[Part]:
        """The halves of a part; none for a single PDF or row."""
        pair = halves(part.inputs) or ()
        return [self._part(inputs, (*part.place, n)) for n, inputs in enumerate(pair)]

    def _pieces(self, number: int) -> list[list[Input]]:
        """The inputs of each part of a shard, or of the pieces into which an earlier run split it."""
        parts = self._plan.shard(number)
        if not self._known:
            return parts
        return [piece for part in parts for piece in known_pieces(part, self._is_known) or [part]]

    def _is_known(self, inputs: Sequence[Input]) -> bool:
        return hash_inputs(inputs) in self._known

    def _part(self, inputs: list[Input], place: tuple[int, ...]) -> Part:
        names = self._name(inputs)
        stored = self._stored.get(names.vectors)
        part = Part(inputs, names, place, stored, n_inputs=sum(map(weight, inputs)))
        part.seconds = self.costs.of_part(inputs)
        part.stage = "build" if stored else self._next_on_disk(names)
        return part

    def _next_on_disk(self, names: PartNames) -> Stage:
        for rank in reversed(range(len(self._stages) - 1)):
            if names.output(self._collection, self._stages[rank]).exists():
                return self._stages[rank + 1]
        return self._stages[0]


def _next_stage(names: PartNames, stages: Sequence[Stage], there: dict[str, set[str]]) -> int:
    """The number of the first stage whose output, and that of none after it, is there."""
    outputs = {
        "parse": (names.documents, "surveys" if names.surveyed else "documents"),
        "recognise": (names.documents, "documents"),
        "chunk": (names.passages, "passages"),
        "encode": (names.vectors, "vectors"),
    }
    for rank in reversed(range(len(stages) - 1)):
        identity, folder = outputs[stages[rank]]
        if identity in there[folder]:
            return rank + 1
    return 0


def _stored_parts(entries: Sequence[ShardEntry]) -> Iterator[tuple[str, StoredPart]]:
    """Parts whose vectors are in shards that cannot be kept as they are."""
    for entry in entries:
        first = 0
        for part in entry.parts:
            if part.vectors:
                yield part.vectors, StoredPart(entry.name, first, part)
            first += part.n_rows
