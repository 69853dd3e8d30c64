"""What words add to late interaction: BM25, pooled vectors, MaxSim and their fusion on data sets of BEIR's form.

    python -m hiperrag.benchmarks.hybrid DATA_DIR... [--split test] [--queries N] [--encoder NAME] [--json OUT]

DATA_DIR holds corpus.jsonl[.gz], queries.jsonl[.gz] and qrels/SPLIT.tsv. Passages are cut and encoded as
`hiperrag index` does, and scored by MaxSim over uncompressed token vectors, so that the figures say what the legs are
worth whatever the index's storage. nDCG@10 comes with 95% bootstrap intervals over queries; differences from late
interaction alone with the p-value of a paired randomisation test, two-sided (Smucker, Allan & Carterette 2007).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hiperrag.benchmarks.retrieval import find_file, read_qrels, read_rows
from hiperrag.cli.search import read_queries
from hiperrag.encoders import load_encoder, load_tokenizer
from hiperrag.encoders.base import Encoder, Tokenizer
from hiperrag.index.fusion import LEXICAL_CANDIDATES, LEXICAL_WEIGHT, fuse
from hiperrag.index.lexical import Lexical, LexicalSearcher, write_lexical
from hiperrag.machine import describe_machine
from hiperrag.models import DEFAULT_ENCODER
from hiperrag.parsing.chunking import ChunkSettings, chunk_document
from hiperrag.parsing.ready_text import document_from_row

RANKINGS = ("BM25", "pooled", "late interaction", "with BM25's candidates", "fused")
ALONE = RANKINGS[2]
POOLED_CANDIDATES = 200
BLOCK = 256
DEPTH = 10
RESAMPLES = 10_000
FloatArray = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--split", default="test")
    parser.add_argument("--queries", type=int, help="a random sample of that many")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    encoder, tokenizer = load_encoder(options.encoder), load_tokenizer(options.encoder)
    values = {data.name: measure(data, options.split, encoder, tokenizer, options.queries) for data in options.data}
    if len(values) > 1:
        values["all queries"] = {name: np.concatenate([found[name] for found in values.values()]) for name in RANKINGS}
    report = {data: summarise(found) for data, found in values.items()}
    for data, rankings in report.items():
        print(_table(data, rankings))
    if options.json:
        settings = {"lexical_weight": LEXICAL_WEIGHT, "lexical_candidates": LEXICAL_CANDIDATES, "split": options.split}
        written = {"data": report, "settings": settings, "encoder": encoder.identity, "machine": describe_machine()}
        options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def measure(
    data: Path, split: str, encoder: Encoder, tokenizer: Tokenizer, n_queries: int | None
) -> dict[str, FloatArray]:
    """nDCG@10 of each judged query of the split under each of RANKINGS: (n_queries,)."""
    qrels = read_qrels(data / "qrels" / f"{split}.tsv")
    queries = [(name, text) for name, text in read_queries(find_file(data, "queries")) if name in qrels]
    if n_queries is not None and n_queries < len(queries):
        chosen = np.random.default_rng(0).choice(len(queries), n_queries, replace=False)
        queries = [queries[i] for i in sorted(chosen)]
    corpus = Corpus.read(find_file(data, "corpus"), encoder, tokenizer)
    encoded = encoder.encode_queries([text for _, text in queries])
    figures: dict[str, list[float]] = {name: [] for name in RANKINGS}
    with tempfile.TemporaryDirectory() as folder:
        write_lexical(Path(folder), corpus.words)
        searcher = LexicalSearcher([Lexical(Path(folder))])
        for (name, text), tokens, pooled in zip(queries, encoded.token_arrays(), encoded.pooled, strict=True):
            for ranking, scores in rank(corpus, searcher, text, tokens, pooled).items():
                figures[ranking].append(ndcg(corpus.ranked(scores), qrels[name]))
    return {ranking: np.array(found, dtype=np.float32) for ranking, found in figures.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Corpus:
    """Passages of a corpus with their vectors, in memory."""

    documents: list[str]
    words: list[str]
    tokens: list[npt.NDArray[np.float16]]
    pooled: FloatArray

    @classmethod
    def read(cls, path: Path, encoder: Encoder, tokenizer: Tokenizer) -> Corpus:
        """Cut and encode the rows of a .jsonl[.gz] file."""
        documents, words = [], []
        for index, row in enumerate(read_rows(path)):
            document = document_from_row(row, str(path), index)
            for passage in chunk_document(document, tokenizer.count, tokenizer.max_tokens, ChunkSettings()):
                documents.append(passage.document)
                words.append(passage.encoder_text())
        blocks = [encoder.encode_passages(words[start : start + BLOCK]) for start in range(0, len(words), BLOCK)]
        tokens = [passage.astype(np.float16) for block in blocks for passage in block.token_arrays()]
        return cls(documents, words, tokens, np.concatenate([block.pooled for block in blocks]))

    def maxsim(self, query: FloatArray, rows: npt.NDArray[np.int64]) -> FloatArray:
        """MaxSim of a query's token vectors (n_query_tokens, dim) with the passages at `rows`."""
        found = [self.tokens[row].astype(np.float32) @ query.T for row in rows]
        return np.array([one.max(axis=0, initial=-np.inf).sum() for one in found], dtype=np.float32)

    def ranked(self, scores: dict[int, float]) -> list[str]:
        """The best documents by their best passage, from the scores of passages; equal scores in order of rows."""
        best = sorted(scores, key=lambda row: (-scores[row], row))
        return list(dict.fromkeys(self.documents[row] for row in best))[:DEPTH]


def rank(
    corpus: Corpus, searcher: LexicalSearcher, text: str, tokens: FloatArray, pooled: FloatArray
) -> dict[str, dict[int, float]]:
    """The scores of passages, by row, that each of RANKINGS gives for one query."""
    query = searcher.query(text)
    lexical = query.search(POOLED_CANDIDATES)
    cosines = corpus.pooled @ pooled
    nearest = np.argsort(-cosines, kind="stable")[:POOLED_CANDIDATES]
    united = np.union1d(nearest, lexical.rows[:LEXICAL_CANDIDATES])
    maxsim = corpus.maxsim(tokens, united)
    fused = fuse(maxsim, len(tokens), query.score(0, united), query.limit)
    near = np.isin(united, nearest)
    found = (
        (lexical.rows, lexical.scores),
        (nearest, cosines[nearest]),
        (united[near], maxsim[near]),
        (united, maxsim),
        (united, fused),
    )
    return {
        name: dict(zip(*map(np.ndarray.tolist, pair), strict=True)) for name, pair in zip(RANKINGS, found, strict=True)
    }


def ndcg(ranked: Sequence[str], judged: dict[str, int]) -> float:
    """nDCG@10 with linear gains (Järvelin & Kekäläinen 2002), as trec_eval computes it."""
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    gains = [max(judged.get(document, 0), 0) for document in ranked]
    ideal = sorted((gain for gain in judged.values() if gain > 0), reverse=True)[:DEPTH]
    return float(discounts[: len(gains)] @ gains / (discounts[: len(ideal)] @ ideal)) if ideal else 0.0


def summarise(values: dict[str, FloatArray]) -> dict[str, dict[str, float]]:
    """Mean and interval of each ranking, and of its difference from late interaction alone."""
    summary = {}
    for name, found in values.items():
        summary[name] = _interval(found)
        if RANKINGS.index(name) > RANKINGS.index(ALONE):
            difference = found - values[ALONE]
            summary[name] |= {f"difference_{key}": value for key, value in _interval(difference).items() if key != "n"}
            summary[name]["p"] = paired_p_value(difference)
    return summary


def paired_p_value(difference: FloatArray) -> float:
    """How often flipping the signs of the queries' differences at random gives a mean as far from 0, or farther."""
    signs = np.random.default_rng(0).choice(np.array([-1, 1], dtype=np.int8), (RESAMPLES, len(difference)))
    means = np.abs(signs @ difference.astype(np.float64))
    return float((1 + np.count_nonzero(means >= abs(difference.sum(dtype=np.float64)) - 1e-9)) / (RESAMPLES + 1))


def _interval(values: FloatArray) -> dict[str, float]:
    chosen = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[chosen].mean(axis=1), [2.5, 97.5])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}


def _table(data: str, rankings: dict[str, dict[str, float]]) -> str:
    lines = [f"{data}: nDCG@10, n={rankings[ALONE]['n']} queries"]
    for name, figures in rankings.items():
        line = f"  {name:<24}{figures['mean']:.4f} [{figures['low']:.4f}, {figures['high']:.4f}]"
        if "p" in figures:
            low, high = figures["difference_low"], figures["difference_high"]
            line += f"   {figures['difference_mean']:+.4f} [{low:+.4f}, {high:+.4f}]  p={figures['p']:.3f}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
