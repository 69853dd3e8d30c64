"""Retrieval quality on a BEIR-form data set, through the command line's own path.

    python -m hiperrag.benchmarks.retrieval DATA_DIR [--split test] [--collection DIR] [--json OUT]

DATA_DIR holds corpus.jsonl[.gz], queries.jsonl[.gz] and qrels/SPLIT.tsv. The corpus is indexed (or reused), and
rankings are scored by nDCG@10 and recall@100 with 95% bootstrap intervals over queries: pooled vectors alone, search at
each quality, exact MaxSim, and the default with BM25 added.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hiperrag.answering.hits import Hit
from hiperrag.answering.retrieval import Retriever
from hiperrag.benchmarks.evaluation.ranking import ndcg, recall
from hiperrag.benchmarks.evaluation.statistics import mean_interval
from hiperrag.cli.search import read_queries
from hiperrag.errors import UserError
from hiperrag.machine import describe_machine
from hiperrag.workflows.run import index_sources
from hiperrag.workflows.sites import load_site

DEPTH = 100
Run = dict[str, list[str]]
"""The documents found for each query, best first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--collection", type=Path, help="where to build (or find) the collection")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        collection = options.collection or Path(scratch) / "collection"
        report = measure(options.data, options.split, collection)
    print(f"{options.data.name} {options.split}: n={report['n_queries']} queries, {report['documents']} documents")
    for name, figures in report["rankings"].items():
        values = (f"{measure} {v['mean']:.4f} [{v['low']:.4f}, {v['high']:.4f}]" for measure, v in figures.items())
        print(f"  {name:<10}", "   ".join(values))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(data: Path, split: str, root: Path) -> dict[str, Any]:
    """Index the corpus and score the rankings of the split's queries."""
    qrels = read_qrels(data / "qrels" / f"{split}.tsv")
    queries = {name: text for name, text in read_queries(find_file(data, "queries")) if name in qrels}
    index_sources([str(find_file(data, "corpus"))], root, load_site("local"))
    retriever = Retriever(root)
    names, texts = list(queries), list(queries.values())
    runs = {
        "pooled": _as_run(names, retriever.search_pooled(texts, DEPTH)),
        **{name: _hits_as_run(names, retriever, texts, quality=name) for name in ("fast", "balanced", "exact")},
        "hybrid": _hits_as_run(names, retriever, texts, hybrid=True),
    }
    return {
        "data": data.name,
        "split": split,
        "n_queries": len(queries),
        "documents": retriever.manifest.counts.documents,
        "passages": retriever.manifest.counts.passages,
        "encoder": retriever.manifest.encoder.model_dump(),
        "rankings": {name: _score(run, qrels) for name, run in runs.items()},
        "machine": describe_machine(),
    }


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Judgements by query and document, from BEIR's three-column file with a header."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; a BEIR folder has qrels/SPLIT.tsv")
    judged: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            judged.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return judged


def find_file(data: Path, stem: str) -> Path:
    """STEM.jsonl or STEM.jsonl.gz in a BEIR folder; UserError where there is neither."""
    for suffix in (".jsonl", ".jsonl.gz"):
        if (data / f"{stem}{suffix}").is_file():
            return data / f"{stem}{suffix}"
    raise UserError(f"{data}: holds no {stem}.jsonl or {stem}.jsonl.gz")


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl or .jsonl.gz file."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.strip():
                yield json.loads(line)


def _as_run(names: list[str], results: Iterable[list[Hit]]) -> Run:
    return {name: [hit.passage.document for hit in hits] for name, hits in zip(names, results, strict=True)}


def _hits_as_run(names: list[str], retriever: Retriever, texts: list[str], **options: Any) -> Run:
    return _as_run(names, retriever.search(texts, DEPTH, per_document=True, **options))


def _score(run: Run, qrels: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Any]]:
    return {
        "nDCG@10": mean_interval([ndcg(ranked, qrels[name], 10) for name, ranked in run.items()]),
        f"R@{DEPTH}": mean_interval([recall(ranked, qrels[name], DEPTH) for name, ranked in run.items()]),
    }


if __name__ == "__main__":
    main()
