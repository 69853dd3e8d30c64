"""One encoder on one set: how its pooled vectors, its token vectors, and search in our index rank.

Passages are cut as for a collection and encoded once. Pooled vectors and MaxSim are compared as the encoder gives them;
the two-stage search runs in a shard of compressed vectors, as a collection has it. A document stands where its best
passage does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from hiperrag import encoders, index, parsing
from hiperrag.benchmarks.ablation.sets import EvaluationSet
from hiperrag.benchmarks.evaluation.ranking import ndcg, recall, reciprocal_rank
from hiperrag.benchmarks.late_interaction.truth import Block, maxsim_scores
from hiperrag.encoders.base import Encoded, Encoder, Tokenizer
from hiperrag.files import fingerprint
from hiperrag.index.build import Piece, encode_piece, write_shard
from hiperrag.index.codec import FloatArray
from hiperrag.index.pooling import pool_tokens
from hiperrag.index.search import EFFORTS, Searcher
from hiperrag.index.shard import open_shards
from hiperrag.parsing.chunking import ChunkSettings, chunk_document
from hiperrag.parsing.ready_text import document_from_row
from hiperrag.workflows.settings import StorageSettings

RANKINGS = ("pooled", "maxsim", "two-stage")
MEASURES = ("mrr@10", "ndcg@10", "recall@20")
CANDIDATES = "candidates@100"
"""Share of exact MaxSim's ten best documents among the hundred best by pooled vectors."""
QUALITY: Final = "balanced"
_DEPTH = 100
_PASSAGES = 1_000
"""Passages of a ranking that documents are looked for in."""
_BATCH = 256
_QUERIES_TOGETHER = 200
Rankings = dict[str, list[list[str]]]


def identity(encoder: str, data: EvaluationSet) -> str:
    """Hash of all that decides the figures; encoder: its identity."""
    versions = encoders.VERSION, index.VERSION, index.CODES_VERSION, parsing.VERSION
    settings = ChunkSettings().model_dump_json(), StorageSettings().model_dump_json(), repr(EFFORTS[QUALITY]), _PASSAGES
    return fingerprint(encoder, data.identity, versions, settings)


def evaluate(
    encoder: Encoder, tokenizer: Tokenizer, data: EvaluationSet, scratch: Path, threads: int
) -> dict[str, Any]:
    """Each query's figures under each of RANKINGS, and what there was to search; `scratch` is for the shard."""
    cpu = time.process_time()
    documents, texts = _passages(data, tokenizer)
    queries = encoder.encode_queries(list(data.queries.values()))
    storage = StorageSettings()
    pieces: list[Piece] = []
    n_tokens = 0
    maxsim = np.empty((len(data.queries), len(texts)), dtype=np.float32)
    pooled = np.empty_like(maxsim)
    for start in range(0, len(texts), _BATCH):
        encoded = encoder.encode_passages(texts[start : start + _BATCH])
        here = slice(start, start + len(encoded.pooled))
        pooled[:, here] = queries.pooled @ encoded.pooled.T
        maxsim[:, here] = _maxsim(queries, encoded)
        tokens, offsets = pool_tokens(encoded.tokens, encoded.offsets, storage.token_pooling)
        pieces.append(encode_piece(tokens, offsets, encoded.pooled, storage.bits))
        n_tokens += int(offsets[-1])
    write_shard(scratch / "shard", pieces, len(texts), n_tokens)
    searcher = Searcher(open_shards([scratch / "shard"]), threads)
    # As many passages as do not make the search look at more candidates than it does by default.
    found = searcher.search(queries.token_arrays(), EFFORTS[QUALITY].n // 2, QUALITY)
    ranked: dict[str, list[list[int]]] = {
        "pooled": [_best(scores) for scores in pooled],
        "maxsim": [_best(scores) for scores in maxsim],
        "two-stage": [[match.row for match in matches] for matches in found],
    }
    names = list(data.queries)
    beside = [data.beside.get(query, set()) for query in names]
    lists = {
        name: [_documents(rows, documents, without) for rows, without in zip(of_each, beside, strict=True)]
        for name, of_each in ranked.items()
    }
    return {
        "queries": names,
        "figures": figures(lists, [data.judged[query] for query in names]),
        "documents": len(data.rows),
        "passages": len(texts),
        "tokens": n_tokens,
        "dim": encoder.dim,
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def figures(ranked: Rankings, judged: Sequence[dict[str, int]]) -> dict[str, dict[str, list[float]]]:
    """By ranking and measure, the value of each query."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, lists in ranked.items():
        pairs = list(zip(lists, judged, strict=True))
        found[name] = {
            "mrr@10": [reciprocal_rank(documents[:10], gold) for documents, gold in pairs],
            "ndcg@10": [ndcg(documents, gold, 10) for documents, gold in pairs],
            "recall@20": [recall(documents, gold, 20) for documents, gold in pairs],
        }
    found["pooled"][CANDIDATES] = [
        recall(candidates, dict.fromkeys(best[:10], 1), _DEPTH)
        for candidates, best in zip(ranked["pooled"], ranked["maxsim"], strict=True)
    ]
    return found


def _passages(data: EvaluationSet, tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """The document and the encoder's text of each passage."""
    documents, texts = [], []
    for number, row in enumerate(data.rows):
        document = document_from_row(row, data.name, number)
        for passage in chunk_document(document, tokenizer.count, tokenizer.max_tokens, ChunkSettings()):
            documents.append(row["_id"])
            texts.append(passage.encoder_text())
    return documents, texts


def _maxsim(queries: Encoded, passages: Encoded) -> FloatArray:
    """MaxSim in float32, (n_queries, n_passages), some queries at a time."""
    block = Block(passages.tokens, np.diff(passages.offsets))
    arrays = queries.token_arrays()
    scores = []
    for start in range(0, len(arrays), _QUERIES_TOGETHER):
        some = arrays[start : start + _QUERIES_TOGETHER]
        starts = np.cumsum([0, *(len(query) for query in some[:-1])])
        scores.append(maxsim_scores(block, np.ascontiguousarray(np.concatenate(some).T), starts))
    return np.concatenate(scores)


def _best(scores: FloatArray) -> list[int]:
    best: list[int] = np.argsort(-scores, kind="stable")[:_PASSAGES].tolist()
    return best


def _documents(rows: Iterable[int], documents: Sequence[str], beside: set[str]) -> list[str]:
    """The documents of ranked passages, each once, without those that do not count."""
    ranked = dict.fromkeys(documents[row] for row in rows)
    return [document for document in ranked if document not in beside][:_DEPTH]
