"""Small collections of real sentences, made in this process, for the tests of runs and of what follows them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

from hiperrag import cli
from hiperrag.answering.retrieval import Retriever
from hiperrag.cli.info import describe
from hiperrag.collection import Collection
from hiperrag.filters import Filter
from hiperrag.index.search import Quality
from hiperrag.index.shard import Shard
from hiperrag.workflows import run
from hiperrag.workflows.maintenance import delete_documents
from hiperrag.workflows.settings import IndexSettings, PartSettings
from hiperrag.workflows.sites import load_site

PARTS = PartSettings(rows_per_part=4, parts_per_shard=3)

SENTENCES = (
    "Quokkas on the island feed on leaves and swamp peppermint.",
    "Male humpback whales sing for hours in the breeding season.",
    "The arctic tern migrates from pole to pole every year.",
    "Octopuses solve mazes and open jars to reach a crab.",
    "Honeybees tell their nest mates where flowers are by a waggle dance.",
    "Naked mole rats hardly ever develop cancer.",
    "Lithium plating shortens the life of batteries that are charged in the cold.",
    "Perovskite solar cells degrade when moisture enters the film.",
    "Graphene conducts heat better than copper does.",
    "Aerogels insulate because their pores trap air.",
    "Superconductors expel magnetic fields below a critical temperature.",
    "Steel becomes brittle when hydrogen diffuses into it.",
    "Glaciers in the Alps have lost half of their volume since 1900.",
    "Monsoon rains depend on the temperature of the Indian Ocean.",
    "Coral reefs bleach when the water stays warm for weeks.",
    "Dust from the Sahara fertilises the Amazon forest.",
    "Permafrost releases methane as it thaws.",
    "Sea level rises faster near the equator than at the poles.",
    "Neutron stars spin hundreds of times a second.",
    "Exoplanets are found when they dim the light of their star.",
    "The cosmic microwave background is older than any galaxy.",
    "Gravitational waves were first measured from two merging black holes.",
    "Comets lose dust and gas when they come near the sun.",
    "Europa hides a salty ocean under a shell of ice.",
    "Vaccines train memory cells to recognise a virus.",
    "Aspirin lowers the risk of a second heart attack.",
    "Sleep removes waste proteins from the brain.",
    "Gut bacteria make vitamin K for their host.",
    "Insulin lets muscle cells take up sugar from the blood.",
    "Antibiotic resistance spreads between bacteria on plasmids.",
    "Medieval monks copied Greek texts from Arabic translations.",
    "The printing press made pamphlets cheap in the sixteenth century.",
    "Roman concrete hardens further in sea water.",
    "Silk was traded along caravan routes across central Asia.",
    "The Maya predicted eclipses from tables of the moon.",
    "Vikings reached Newfoundland five centuries before Columbus.",
)
QUESTIONS = ("Which animals sing or dance?", "What happens to ice when it gets warm?", "bacteria in the blood")


class InlinePool:
    """Runs each task when its result is asked for; `fault(stage function name, call number)` may raise first."""

    fault = staticmethod(lambda name, call: None)
    calls = 0

    def __init__(self, site, run_dir, n_tasks):
        self.tasks = []

    @property
    def in_flight(self):
        return len(self.tasks)

    def submit(self, tag, function, *arguments):
        self.tasks.append((tag, function, arguments))

    def finished(self, timeout):
        if not self.tasks:
            time.sleep(min(timeout, 0.02))
            return
        tag, function, arguments = self.tasks.pop(0)
        future: Future[object] = Future()
        try:
            InlinePool.calls += 1
            InlinePool.fault(function.__name__, InlinePool.calls)
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        yield tag, future

    def close(self):
        self.tasks.clear()


def use_inline_pool(monkeypatch) -> None:
    """Runs of this test work in this process, without faults."""
    monkeypatch.setattr(run, "Pool", InlinePool)
    InlinePool.fault = staticmethod(lambda name, call: None)
    InlinePool.calls = 0


def row(number: int, text: str = "") -> dict[str, object]:
    """Row r<number> of ready text: one of the sentences, unless another text is given."""
    return {"_id": f"r{number}", "text": text or SENTENCES[number], "year": 1990 + number}


def write_rows(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def write_folder(folder: Path, numbers: Sequence[int] = range(len(SENTENCES)), per_file: int = 4) -> Path:
    """The sentences as files of a few rows, so that a file is a part."""
    for start in range(0, len(numbers), per_file):
        some = numbers[start : start + per_file]
        write_rows(folder / f"{some[0]:02d}.jsonl", [row(number) for number in some])
    return folder


def index(source: Path | Sequence[Path], to: Path, **changes) -> run.Summary:
    """Index in this process; `changes` are groups of settings."""
    settings = {"parts": PARTS} | changes

    def override(old: IndexSettings) -> IndexSettings:
        return old.model_copy(update=settings)

    sources = [source] if isinstance(source, Path) else source
    return run.index_sources([str(one) for one in sources], to, load_site("local"), override, quiet=True)


def stored(**changes) -> dict[str, object]:
    """Settings of the storage, for `index`."""
    return {"storage": IndexSettings().storage.model_copy(update=changes)}


def stages_run(root: Path) -> list[str]:
    """The stages of the last run that had work, one entry a part or shard."""
    log = max(root.glob("runs/*/events.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [one.get("stage", "build") for one in events if one["event"] in ("part_done", "shard_built")]


def found(
    root: Path | Retriever,
    quality: Quality = "exact",
    k: int = len(SENTENCES),
    where: str = "",
    hybrid: bool = False,
) -> list[list[tuple[str, float]]]:
    """(document, score) of the k best for each question, best first."""
    retriever = root if isinstance(root, Retriever) else Retriever(root)
    condition = Filter.parse(where) if where else None
    lists = retriever.search(QUESTIONS, k, quality=quality, where=condition, hybrid=hybrid)
    return [[(hit.passage.document, hit.score) for hit in hits] for hits in lists]


def found_pooled(root: Path | Retriever, k: int = len(SENTENCES)) -> list[list[tuple[str, float]]]:
    """The same by pooled vectors."""
    retriever = root if isinstance(root, Retriever) else Retriever(root)
    return [[(hit.passage.document, hit.score) for hit in hits] for hits in retriever.search_pooled(QUESTIONS, k)]


def every_way(root: Path | Retriever, k: int = len(SENTENCES)) -> dict[str, list[list[tuple[str, float]]]]:
    """What every kind of search finds."""
    retriever = root if isinstance(root, Retriever) else Retriever(root)
    ways = {str(quality): found(retriever, quality, k) for quality in ("fast", "balanced", "exact", 5)}
    ways["hybrid"] = found(retriever, "balanced", k, hybrid=True)
    ways["exact hybrid"] = found(retriever, "exact", k, hybrid=True)
    ways["filtered"] = found(retriever, "balanced", k, where="year >= 1994")
    ways["pooled"] = found_pooled(retriever, k)
    return ways


def names(lists: Sequence[Sequence[tuple[str, float]]]) -> set[str]:
    """All documents of some lists of results."""
    return {document for hits in lists for document, _ in hits}


def living(root: Path) -> list[str]:
    """Documents that an exhaustive search finds, each as often as it has passages, sorted."""
    return sorted((document for document, _ in found(root)[0]), key=lambda name: (len(name), name))


def some(*numbers: int) -> list[str]:
    """Documents by number."""
    return [f"r{number}" for number in numbers]


def all_but(*numbers: int) -> list[str]:
    """The documents of all other sentences."""
    return [f"r{number}" for number in range(len(SENTENCES)) if number not in numbers]


def files(root: Path, folder: str = "") -> dict[str, tuple[int, bytes]]:
    """Inode and bytes of every file, by its path."""
    paths = sorted(path for path in (root / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(root)): (path.stat().st_ino, path.read_bytes()) for path in paths}


def unnamed(root: Path) -> list[Path]:
    """Files that no manifest names."""
    collection = Collection(root)
    return [*collection.temporary_files(), *collection.unnamed_files(collection.manifest())]


def copied(root: Path, to: Path) -> Path:
    shutil.copytree(root, to)
    return to


class Command:
    """`hiperrag` in this process: exit status, standard output, lines on standard error."""

    def __init__(self, monkeypatch, capsys):
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, list[str]]:
        self._monkeypatch.setattr("sys.argv", ["hiperrag", *map(str, arguments)])
        self._capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        output = self._capsys.readouterr()
        return status, output.out, output.err.strip().splitlines()


def shards_of(root: Path) -> Iterator[Path]:
    """Folders of the shards that the manifest names."""
    collection = Collection(root)
    for entry in collection.manifest().shards:
        if entry.n_passages:
            yield collection.shard_path(entry.name)


def delete(root: Path, *documents: str, where: str = "", undo: bool = False):
    return delete_documents(root, documents, Filter.parse(where) if where else None, undo)


def documents(root: Path) -> int:
    return describe(root)["documents"]


def vectors(root: Path) -> dict[str, tuple[bytes, ...]]:
    """The codes of each document that can be found."""
    by_document = {}
    for folder in shards_of(root):
        shard = Shard(folder)
        for number, document in enumerate(shard.passages.documents):
            span = slice(*shard.tokens.offsets[number : number + 2])
            by_document[document] = (
                shard.tokens.codes[span].tobytes(),
                shard.tokens.scales[span].tobytes(),
                shard.tokens.means[number].tobytes(),
            )
    return by_document


def without_claims(listed: dict[str, object]) -> dict[str, object]:
    return {name: content for name, content in listed.items() if not name.startswith("claims/")}
