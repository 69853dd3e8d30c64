"""A whole evaluation: data, models and collection in; a folder of records, results and a report out."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import hiperrag
from hiperrag.answering.generators import load_generator
from hiperrag.answering.generators.local import LocalGenerator
from hiperrag.answering.retrieval import Retriever
from hiperrag.benchmarks.evaluation import ranking
from hiperrag.benchmarks.evaluation.asking import Asker, Asking
from hiperrag.benchmarks.evaluation.calibration import calibrate_arms
from hiperrag.benchmarks.evaluation.fanout import over_site
from hiperrag.benchmarks.evaluation.figures import summarise
from hiperrag.benchmarks.evaluation.folders import RunFolder, default_folder
from hiperrag.benchmarks.evaluation.items import HUB, Item, items_hash
from hiperrag.benchmarks.evaluation.leakage import kept_rows, leakage
from hiperrag.benchmarks.evaluation.prompting import Prompts
from hiperrag.benchmarks.evaluation.protocols import PROTOCOLS, RAG
from hiperrag.benchmarks.evaluation.report import write_report
from hiperrag.benchmarks.evaluation.statistics import mean_interval
from hiperrag.benchmarks.evaluation.tasks import TASKS, beir
from hiperrag.errors import UserError
from hiperrag.files import fingerprint
from hiperrag.machine import describe_machine
from hiperrag.models import weights_hash

RUN_DEPTH = 100
T = TypeVar("T")
Say = Callable[[int, int], None]
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What `hiperrag eval` was asked for."""

    task: str
    data: Path | None = None
    split: str | None = None
    collection: Path | None = None
    generator: str = "default"
    protocol: str = "sound"
    arms: tuple[str, ...] = ()
    """Empty for all of the protocol's that can be had: RAG needs a collection."""
    answering: str | None = None
    n_passages: tuple[int, ...] = (5,)
    best_last: bool = False
    chat: bool = False
    leakage: bool = True
    """Whether to look for the questions in the collection: seconds for each 100,000 passages."""
    prompts: Path | None = None
    limit: int | None = None
    """Ask a seeded random sample of so many questions."""
    seed: int = 0
    out: Path | None = None
    site: str | None = None
    """Spread the questions over this site's workers; None asks them here."""
    search: dict[str, Any] = dataclasses.field(default_factory=dict)

    def anywhere(self) -> Request:
        """The same with absolute paths, for a worker that starts in another folder."""
        paths = {name: getattr(self, name) for name in ("data", "collection", "prompts")}
        known = {name: path.absolute() for name, path in paths.items() if path is not None and path != HUB}
        return dataclasses.replace(self, **known)


class _Choice:
    """Multiple-choice questions, made ready to be asked."""

    def __init__(self, request: Request) -> None:
        self._task, self._request = TASKS[request.task], request
        protocol = PROTOCOLS.get(request.protocol)
        if protocol is None:
            raise UserError(f"no protocol {request.protocol!r}: choose from {', '.join(PROTOCOLS)}")
        arms = request.arms or tuple(arm for arm in protocol.arms if arm != RAG or request.collection)
        answering = protocol.check(self._task.name, request.answering, arms)
        split = request.split or self._task.split
        self._items = sample(self._task.items(request.data, split), request.limit, request.seed)
        self.keys = [item.item_id for item in self._items]
        prompts = Prompts(request.prompts)
        self._retriever = Retriever(request.collection) if RAG in arms and request.collection else None
        generator = load_generator(request.generator)
        n_passages = tuple(sorted(set(request.n_passages)))
        how = Asking(
            protocol,
            answering,
            arms,
            n_passages,
            best_last=request.best_last,
            chat=request.chat,
            seed=request.seed,
            search=request.search,
        )
        self._asker = Asker(how, prompts, generator, self._retriever)
        self._present = _sources_present(self._items, self._retriever)
        self.name = f"{self._task.name}-{protocol.name}"
        self.about = {"task": self._task.name, "split": split, "protocol": protocol.name, "answering": answering}
        self.settings = _settings(request, self._items, self._retriever) | {
            **self.about,
            "arms": list(arms),
            "n_passages": list(n_passages),
            "best_last": request.best_last,
            "chat": request.chat,
            "generator": {"spec": generator.spec, "weights": _weights(generator)},
            "prompts": prompts.hashes(),
        }

    def answer(self, number: int) -> Record:
        """The record of one question."""
        item = self._items[number]
        return self._asker.ask(item) | {"source_present": bool(self._present & set(item.sources))}

    def figures(self, records: Sequence[Record]) -> dict[str, Any]:
        """What the records say."""
        labels = self._task.labels
        return summarise(records, labels) | {
            "calibrated": calibrate_arms(records, labels) if labels else None,
            "leakage": leakage(self._items, self._retriever) if self._retriever and self._request.leakage else None,
        }


class _Ranking:
    """Queries of a retrieval task: rankings of 100 documents, without a generator."""

    name = beir.NAME

    def __init__(self, request: Request) -> None:
        if request.collection is None:
            raise UserError(
                "task beir needs --collection; make it with `hiperrag index DATA/corpus.jsonl --to COLLECTION`"
            )
        split = request.split or beir.SPLIT
        self._queries = sample(beir.load(request.data, split), request.limit, request.seed)
        if not self._queries:
            raise UserError(f"{request.data}: split {split!r} has no judged queries")
        self.keys = [query.query_id for query in self._queries]
        self._retriever, self._search = Retriever(request.collection), request.search
        self.about = {"task": beir.NAME, "split": split}
        self.settings = _settings(request, self._queries, self._retriever) | self.about

    def answer(self, number: int) -> Record:
        """The record of one query."""
        query = self._queries[number]
        hits = self._retriever.search([query.text], RUN_DEPTH, per_document=True, **self._search)[0]
        ranked = [hit.passage.document for hit in hits]
        return {
            "item_id": query.query_id,
            "question": query.text,
            "judged": query.judged,
            "ranking": [[hit.passage.document, hit.score] for hit in hits],
            "figures": {
                "ndcg@10": ranking.ndcg(ranked, query.judged, 10),
                "mrr": ranking.reciprocal_rank(ranked, query.judged),
                **{f"recall@{k}": ranking.recall(ranked, query.judged, k) for k in (5, 10, RUN_DEPTH)},
            },
            "timings_ms": self._retriever.timings_ms,
        }

    def figures(self, records: Sequence[Record]) -> dict[str, Any]:
        """What the records say."""
        names = records[0]["figures"]
        means = {name: mean_interval([record["figures"][name] for record in records]) for name in names}
        return {"n_items": len(records), "figures": means}


def evaluate(request: Request, say: Say = lambda *_: None) -> tuple[Path, dict[str, Any]]:
    """Run (or finish) an evaluation; its folder and results. Raises UserError for what cannot be."""
    questions = _questions(request)
    folder = RunFolder(request.out or default_folder(questions.name, questions.settings), questions.settings)

    def ask(numbers: range) -> Iterable[Record]:
        if request.site is None:
            return map(questions.answer, numbers)
        return over_site(request.site, folder.path / "parsl", answering_of, request.anywhere(), numbers)

    records = folder.ask_all(questions.keys, ask, say)
    machine = describe_machine()
    machine["versions"]["datasets"] = metadata.version("datasets")
    results = questions.about | questions.figures(records)
    results |= {"settings": questions.settings, "machine": machine | {"gpu": _gpu(), "site": request.site}}
    folder.write_results(results)
    write_report(folder.path, results, records)
    return folder.path, results


def answering_of(request: Request) -> Callable[[int], Record]:
    """What answers the questions of a request, on whatever machine this runs."""
    return _questions(request).answer


def _questions(request: Request) -> _Choice | _Ranking:
    if request.task == beir.NAME:
        return _Ranking(request)
    if request.task not in TASKS:
        raise UserError(f"no task {request.task!r}: choose from {', '.join([*TASKS, beir.NAME])}")
    return _Choice(request)


def sample(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """All items, or a random sample in the files' order: official files may be sorted by label."""
    if limit is None or limit >= len(items):
        return list(items)
    chosen = sorted(random.Random(seed).sample(range(len(items)), limit))
    return [items[i] for i in chosen]


def _settings(request: Request, items: Sequence[Any], retriever: Retriever | None) -> dict[str, Any]:
    """What decides the records, by value or by hash; equal settings resume, and other settings are another run."""
    found: dict[str, Any] = {
        "task": request.task,
        "items": items_hash(items),
        "n_items": len(items),
        "limit": request.limit,
        "seed": request.seed,
        "hiperrag": hiperrag.__version__,
        "collection": None,
        "encoder": None,
        "search": {name: repr(value) for name, value in request.search.items()},
    }
    if retriever is not None:
        manifest = retriever.manifest
        found["collection"] = {
            "name": retriever.collection.root.name,
            "identity": fingerprint([(shard.identity, shard.deleted) for shard in manifest.shards]),
            "documents": manifest.counts.documents,
            "passages": manifest.counts.passages,
        }
        found["encoder"] = {"spec": manifest.encoder.spec, "identity": manifest.encoder.identity}
    return found


def _weights(generator: Any) -> str | None:
    """Hash of the weights of a local folder, or the commit of a hub's model; null for a server's."""
    if not isinstance(generator, LocalGenerator):
        return None
    config = generator.model.config
    folder = Path(config._name_or_path)
    return weights_hash(folder) if folder.is_dir() else getattr(config, "_commit_hash", None)


def _sources_present(items: Sequence[Item], retriever: Retriever | None) -> set[str]:
    """Documents of the collection that are known to hold an answer."""
    if retriever is None:
        return set()
    wanted = {source for item in items for source in item.sources}
    present: set[str] = set()
    for shard in retriever.searcher.shards:
        documents = shard.passages.documents
        present |= wanted.intersection(documents[row] for row in kept_rows(shard))
    return present


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
