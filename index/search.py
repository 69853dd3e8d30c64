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
    exact: bool = False,
) -> list[Match]:
    """The k passages with the highest MaxSim for one query, best first; equal scores in shard and row order.

    query_tokens: (n_query_tokens, dim); query_pooled: (pooled_dim,). With `exact`, every passage is scored;
    otherwise the `n_candidates` passages (at least k) with the best pooled cosine over all shards.
    """
    if exact:
        pairs = [(number, np.arange(shard.n_passages)) for number, shard in enumerate(shards)]
        scores = [shard.maxsim_all(query_tokens) for shard in shards]
    else:
        pairs = _by_shard(search_pooled(shards, query_pooled, max(k, n_candidates)))
        scores = [shards[number].maxsim(query_tokens, rows) for number, rows in pairs]
    if not pairs:
        return []
    all_scores = np.concatenate(scores)
    all_shards = np.concatenate([np.full(len(rows), number) for number, rows in pairs])
    all_rows = np.concatenate([rows for _, rows in pairs])
    best = np.lexsort((all_rows, all_shards, -all_scores))[:k]
    return [Match(int(all_shards[i]), int(all_rows[i]), float(all_scores[i])) for i in best]


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
    if not scores:
        return []
    all_scores, all_numbers, all_rows = np.concatenate(scores), np.concatenate(numbers), np.concatenate(rows)
    best = np.lexsort((all_rows, all_numbers, -all_scores))[:k]
    return [Match(int(all_numbers[i]), int(all_rows[i]), float(all_scores[i])) for i in best]


def _by_shard(matches: Sequence[Match]) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """The rows of each shard that has any, in order."""
    rows: dict[int, list[int]] = {}
    for match in matches:
        rows.setdefault(match.shard, []).append(match.row)
    return [(shard, np.array(sorted(found))) for shard, found in sorted(rows.items())]
