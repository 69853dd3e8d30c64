"""Retrieval quality on a BEIR-form data set, through the command line's own path.

    python -m hiperrag.benchmarks.retrieval DATA_DIR [--split test] [--collection DIR] [--json OUT]

DATA_DIR holds corpus.jsonl[.gz], queries.jsonl[.gz] and qrels/SPLIT.tsv. The corpus is indexed (or reused), and
rankings are scored by nDCG@10 and recall@100 with 95% bootstrap intervals over queries: pooled vectors alone, search at
each quality, exact MaxSim, and the default with BM25 added.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hiperrag.answering.retrieval import Retriever
from hiperrag.cli.search import read_queries
from hiperrag.errors import UserError
from hiperrag.machine import describe_machine
from hiperrag.workflows.run import index_sources
from hiperrag.workflows.sites import load_site

DEPTH = 100
RESAMPLES = 10_000
Run = dict[str, dict[str, float]]


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
    queries = {name: text for name, text in read_queries(_find(data, "queries")) if name in qrels}
    index_sources([str(_find(data, "corpus"))], root, load_site("local"))
    retriever = Retriever(root)
    names, texts = list(queries), list(queries.values())
    runs = {
        "pooled": _as_run(names, pooled_ranking(retriever, texts)),
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


def _find(data: Path, stem: str) -> Path:
    for suffix in (".jsonl", ".jsonl.gz"):
        if (data / f"{stem}{suffix}").is_file():
            return data / f"{stem}{suffix}"
    raise UserError(f"{data}: holds no {stem}.jsonl or {stem}.jsonl.gz")


def pooled_ranking(retriever: Retriever, queries: list[str]) -> Iterable[dict[str, float]]:
    """Documents by the pooled cosine of their best passage, without MaxSim."""
    for hits in retriever.search_pooled(queries, k=DEPTH):
        yield {hit.passage.document: hit.score for hit in hits}


def _as_run(names: list[str], rankings: Iterable[dict[str, float]]) -> Run:
    return dict(zip(names, rankings, strict=True))


def _hits_as_run(names: list[str], retriever: Retriever, texts: list[str], **options: Any) -> Run:
    results = retriever.search(texts, DEPTH, per_document=True, **options)
    return _as_run(names, ({hit.passage.document: hit.score for hit in hits} for hits in results))


def _score(run: Run, qrels: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    import ir_measures
    from ir_measures import R, nDCG

    measures = [nDCG @ 10, R @ DEPTH]
    values: dict[str, list[float]] = {str(measure): [] for measure in measures}
    for metric in ir_measures.iter_calc(measures, qrels, run):
        values[str(metric.measure)].append(metric.value)
    return {name: _interval(np.array(scores)) for name, scores in values.items()}


def _interval(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}


if __name__ == "__main__":
    main()
