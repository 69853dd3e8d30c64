"""Search over shards: pooled candidates from FAISS, MaxSim over stored token vectors, one ranking."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hiperrag.index.shard import FloatArray, Shard

DEFAULT_CANDIDATES = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """A passage found: its shard (position in the list searched), its row there, its MaxSim."""

    shard: int
    row: int
    score: float


def search(
    shards: Sequence[Shard],
    query_tokens: FloatArray,
    query_pooled: FloatArray,
    k: int,
    *,
    n_candidates: int = DEFAULT_CANDIDATES,
) -> list[Match]:
    """The k passages with the highest MaxSim for one query among its candidates, best first.

    query_tokens: (n_query_tokens, dim); query_pooled: (pooled_dim,). Candidates are the `n_candidates` passages (at
    least k) with the best pooled cosine over all shards. Equal scores come in shard and row order.
    """
    candidates = search_pooled(shards, query_pooled, max(k, n_candidates))
    numbers, rows, scores = [], [], []
    for number, shard_rows in _by_shard(candidates):
        rows.append(shard_rows)
        numbers.append(np.full(len(shard_rows), number))
        scores.append(shards[number].maxsim(query_tokens, shard_rows))
    return _best(scores, numbers, rows, k)


def search_exact(shards: Sequence[Shard], queries: Sequence[FloatArray], k: int) -> list[list[Match]]:
    """The k passages with the highest MaxSim over all passages, for each query; equal scores in shard and row order.

    queries: token vectors (n_query_tokens, dim) of each query.
    """
    numbers = [np.full(shard.n_passages, number) for number, shard in enumerate(shards)]
    rows = [np.arange(shard.n_passages) for shard in shards]
    scores = [shard.maxsim_all(queries) for shard in shards]
    return [_best([found[q] for found in scores], numbers, rows, k) for q in range(len(queries))]


def search_pooled(shards: Sequence[Shard], pooled: FloatArray, k: int) -> list[Match]:
    """The k passages with the highest pooled cosine over all shards; equal scores in shard and row order.

    pooled: (pooled_dim,), of one query.
    """
    scores, numbers, rows = [], [], []
    for number, shard in enumerate(shards):
        shard_scores, shard_rows = shard.candidates(pooled[None], k)
        scores.append(shard_scores[0])
        rows.append(shard_rows[0])
        numbers.append(np.full(len(shard_rows[0]), number))
    return _best(scores, numbers, rows, k)


def _best(
    scores: Sequence[FloatArray],
    numbers: Sequence[npt.NDArray[np.int64]],
    rows: Sequence[npt.NDArray[np.int64]],
    k: int,
) -> list[Match]:
    """The k highest scores over shards, without passages that have no tokens; equal scores in shard and row order."""
    if not scores:
        return []
    all_scores, all_numbers, all_rows = np.concatenate(scores), np.concatenate(numbers), np.concatenate(rows)
    best = np.lexsort((all_rows, all_numbers, -all_scores))[:k]
    return [Match(int(all_numbers[i]), int(all_rows[i]), float(all_scores[i])) for i in best if all_scores[i] > -np.inf]


def _by_shard(matches: Sequence[Match]) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """The rows of each shard that has any, in order."""
    rows: dict[int, list[int]] = {}
    for match in matches:
        rows.setdefault(match.shard, []).append(match.row)
    return [(shard, np.array(sorted(found))) for shard, found in sorted(rows.items())]
