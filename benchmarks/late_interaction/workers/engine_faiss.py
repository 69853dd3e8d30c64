"""Plain FAISS: IVF-PQ over all token vectors finds candidate passages, float16 vectors rerank them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np


class Engine:
    """IVF{lists},PQ{codes} over tokens; the passages of the nearest tokens are scored on their float16 vectors."""

    version = faiss.__version__

    def __init__(self, threads: int) -> None:
        faiss.omp_set_num_threads(threads)

    def build(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> int:
        """Train on 40 tokens a list, add all tokens; returns bytes of index, float16 vectors and offsets."""
        rng = np.random.default_rng(0)
        sample = np.sort(rng.choice(len(tokens), min(len(tokens), 40 * options["lists"]), replace=False))
        quantizer = f"IVF{options['lists']},PQ{options['codes']}"
        ivf = faiss.index_factory(tokens.shape[1], quantizer, faiss.METRIC_INNER_PRODUCT)
        ivf.train(tokens[sample].astype(np.float32))
        for start in range(0, len(tokens), 65_536):
            ivf.add(tokens[start : start + 65_536].astype(np.float32))
        faiss.write_index(ivf, str(index / "tokens.faiss"))
        return int((index / "tokens.faiss").stat().st_size + tokens.size * 2 + offsets.nbytes)

    def open(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> None:
        del options
        self.ivf: Any = faiss.read_index(str(index / "tokens.faiss"))
        self.tokens, self.offsets = np.array(tokens), offsets
        self.passage = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))

    def search(self, queries: list[Any], k: int, setting: dict[str, Any]) -> list[list[int]]:
        """setting: nprobe lists and `near` tokens for each query token; the best `rerank` passages are rescored."""
        self.ivf.nprobe = setting["nprobe"]
        similarities, rows = self.ivf.search(np.concatenate(queries), setting["near"])
        found, start = [], 0
        for query in queries:
            stop = start + len(query)
            found.append(self._rerank(query, similarities[start:stop], rows[start:stop], k, setting["rerank"]))
            start = stop
        return found

    def _rerank(self, query: Any, similarities: Any, rows: Any, k: int, rerank: int) -> list[int]:
        passages = np.where(rows >= 0, self.passage[rows], -1)
        candidates, where = np.unique(passages, return_inverse=True)
        best = np.zeros((len(query), len(candidates)), dtype=np.float32)
        np.maximum.at(best, (np.arange(len(query))[:, None], where.reshape(passages.shape)), similarities)
        estimates = np.where(candidates >= 0, best.sum(axis=0), -np.inf)
        chosen = np.sort(candidates[np.argsort(-estimates, kind="stable")[:rerank]])
        chosen = chosen[chosen >= 0]
        spans = [self.tokens[self.offsets[i] : self.offsets[i + 1]] for i in chosen]
        starts = np.cumsum([0, *(len(span) for span in spans[:-1])])
        products = np.concatenate(spans).astype(np.float32) @ query.T
        scores = np.maximum.reduceat(products, starts, axis=0).sum(axis=1)
        order = np.lexsort((chosen, -scores))[:k]
        return [int(chosen[i]) for i in order]
