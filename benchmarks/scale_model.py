"""What a collection too large for this machine will take, from figures measured on it.

Models, all linear in their coefficients, which are least squares of relative errors with no coefficient below 0:
  candidates of a shard, CPU-ms   a + b C + c L + d n     C centroids, L postings per centroid, n passages
  MaxSim of a passage, CPU-ms     a + b log2 n            n passages on the node
  cut to the best, ms             a + b m                 m estimates
  lists of a shard, CPU-s         a n + b n sqrt(C)
  peak memory of a build, bytes   a + b n
  postings of a token             a + b log2 C
Bytes grow with tokens and passages.

One rank runs on each node, with a thread for each core. A query alone: shards are searched in parallel, its MaxSim is
one thread's work, and the slowest rank counts. A stream of queries: all cores are busy with whole queries.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hiperrag.index.candidates import number_of_centroids

Floats = npt.NDArray[np.float64]

LINK_LATENCY_S, LINK_BYTES_PER_S = 5e-6, 10e9
"""Of the network between nodes: assumed, not measured."""
COLLECTIVES = 9
"""Steps in which ranks wait for each other in one query; each takes log2(ranks) messages one after the other."""
FOUND_BYTES = 12
"""A passage in a message."""


def fit(features: Floats, values: Sequence[float]) -> Floats:
    """Coefficients >= 0 that make the sum of squared relative errors least: features (n, m), values (n,) -> (m,)."""
    scaled = features / np.asarray(values)[:, None]
    best, least = np.zeros(features.shape[1]), math.inf
    for size in range(1, features.shape[1] + 1):
        for chosen in map(list, itertools.combinations(range(features.shape[1]), size)):
            found, *_ = np.linalg.lstsq(scaled[:, chosen], np.ones(len(scaled)), rcond=None)
            error = float(((scaled[:, chosen] @ found - 1) ** 2).sum())
            if found.min() >= 0 and error < least - 1e-12:
                least, best = error, np.zeros(features.shape[1])
                best[chosen] = found
    return best


@dataclasses.dataclass(frozen=True, slots=True)
class Lists:
    """Candidate lists measured: milliseconds of one thread's CPU per query, median over queries."""

    passages: int
    centroids: int
    postings: int
    candidates_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """A shard measured; maxsim_ms: of `candidates` passages, as in `Lists`."""

    lists: Lists
    tokens: int
    maxsim_ms: float
    candidates: int
    lists_cpu_s: float
    peak_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """What the models rest on: shards, smallest first; stand-ins for larger lists; (estimates, ms to cut them)."""

    points: Sequence[Point]
    stand_ins: Sequence[Lists]
    cuts: Sequence[tuple[int, float]]
    bytes_per_token: float
    bytes_per_passage: float
    encode_ms_per_passage: float
    query_tokens: float
    dim: int
    process_bytes: int
    exchange_ms: float


class Model:
    """Predictions for shards and nodes of any size."""

    def __init__(self, measured: Measured) -> None:
        self.measured = measured
        points = measured.points
        last = points[-1]
        self.tokens_per_passage = last.tokens / last.lists.passages
        self.candidates = last.candidates
        sizes = np.array([point.lists.passages for point in points], dtype=float)
        ones = np.ones(len(points))
        centroids = np.array([point.lists.centroids for point in points], dtype=float)
        listed = [*(point.lists for point in points), *measured.stand_ins]
        self._candidates = _fit_lists(listed)
        self._maxsim = fit(np.stack([ones, np.log2(sizes)], 1), [point.maxsim_ms / self.candidates for point in points])
        self._cut = fit(np.array([[1, m] for m, _ in measured.cuts], dtype=float), [ms for _, ms in measured.cuts])
        self._lists = fit(np.stack([sizes, sizes * np.sqrt(centroids)], 1), [point.lists_cpu_s for point in points])
        self._peak = fit(np.stack([ones, sizes], 1), [point.peak_bytes for point in points])
        self._postings = fit(
            np.stack([ones, np.log2(centroids)], 1), [point.lists.postings / point.tokens for point in points]
        )

    def candidates_ms(self, n: int) -> float:
        """CPU time of the candidates of a shard of n passages."""
        return float(self._terms(n) @ self._candidates)

    def maxsim_ms(self, n: int) -> float:
        """CPU time of the MaxSim of one of n passages."""
        return float(np.array([1, math.log2(n)]) @ self._maxsim)

    def cut_ms(self, m: int) -> float:
        """Time to keep the best of m estimates."""
        return float(np.array([1, m]) @ self._cut) if m > self.candidates else 0.0

    def build_cpu_s(self, n: int) -> float:
        """CPU time to build a shard of n passages from token vectors."""
        return n * self.measured.encode_ms_per_passage / 1000 + float(
            np.array([n, n * math.sqrt(self._centroids(n))]) @ self._lists
        )

    def peak_bytes(self, n: int) -> float:
        """Memory of a process that builds a shard of n passages."""
        return float(np.array([1, n]) @ self._peak)

    def total_bytes(self, n: int) -> float:
        """Bytes on disk, and in memory when all of it is cached."""
        return n * (self.tokens_per_passage * self.measured.bytes_per_token + self.measured.bytes_per_passage)

    def coefficients(self) -> dict[str, list[float]]:
        """Of each model, in the order of its terms."""
        named = {
            "candidates_ms": self._candidates,
            "maxsim_ms": self._maxsim,
            "cut_ms": self._cut,
            "lists_cpu_s": self._lists,
            "peak_bytes": self._peak,
            "postings_per_token": self._postings,
        }
        return {name: [float(f"{value:.6g}") for value in found] for name, found in named.items()}

    def held_out_errors(self) -> list[float]:
        """Relative error of each measured candidate time when the model does not know it."""
        listed = [*(point.lists for point in self.measured.points), *self.measured.stand_ins]
        errors = []
        for left_out in listed:
            known = _fit_lists([one for one in listed if one is not left_out])
            errors.append(round(float(_list_terms([left_out])[0] @ known) / left_out.candidates_ms - 1, 4))
        return errors

    def predict(self, n_passages: int, shard_passages: int, nodes: int, cores: int, k: int = 10) -> dict[str, Any]:
        """A row of the table."""
        n_shards = math.ceil(n_passages / shard_passages)
        active = min(nodes, n_shards)
        per_node = math.ceil(n_shards / nodes)
        share = self._share(active)
        candidates = self.candidates_ms(shard_passages)
        cuts = self.cut_ms(per_node * self.candidates) + self.cut_ms(active * self.candidates)
        maxsim = share * self.maxsim_ms(min(per_node * shard_passages, n_passages))
        received = (nodes - 1) * (self.candidates * FOUND_BYTES)
        asked = self.measured.query_tokens * (self.measured.dim + 4)
        exchange = self._exchange_ms(nodes, received + asked) if nodes > 1 else 0.0
        node_cpu = per_node * candidates + cuts + maxsim + exchange
        memory = self.total_bytes(n_passages) / n_shards * per_node + self.measured.process_bytes
        return {
            "nodes": nodes,
            "shard_passages": shard_passages,
            "shards": n_shards,
            "shards_on_busiest_node": per_node,
            "memory_gb_per_node": round(memory / 1e9, 2),
            "disk_gb": round(self.total_bytes(n_passages) / 1e9, 1),
            "latency_ms_p50": round(math.ceil(per_node / cores) * candidates + cuts + maxsim + exchange, 2),
            "of_which_candidates_ms": round(math.ceil(per_node / cores) * candidates, 2),
            "of_which_maxsim_ms": round(maxsim, 2),
            "of_which_cut_and_exchange_ms": round(cuts + exchange, 2),
            "cpu_ms_on_busiest_node": round(node_cpu, 2),
            "message_kb_received_by_a_rank": round((received + asked) / 1e3, 1) if nodes > 1 else 0.0,
            "message_kb_received_by_rank_0": round((received + (nodes - 1) * k * FOUND_BYTES) / 1e3, 1),
            "queries_per_s": round(cores / node_cpu * 1000, 1),
            "build_cpu_hours": round(n_shards * self.build_cpu_s(shard_passages) / 3600, 2),
            "build_peak_gb": round(self.peak_bytes(shard_passages) / 1e9, 2),
        }

    def _share(self, ranks: int) -> float:
        """Candidates that the busiest of so many ranks scores, where each candidate lies on any with equal chance."""
        mean = self.candidates / ranks
        return min(self.candidates, mean + math.sqrt(2 * math.log(ranks) * mean))

    def _exchange_ms(self, nodes: int, received: float) -> float:
        network = COLLECTIVES * math.ceil(math.log2(nodes)) * LINK_LATENCY_S + received / LINK_BYTES_PER_S
        return self.measured.exchange_ms + 1000 * network

    def _centroids(self, n: int) -> int:
        return number_of_centroids(round(n * self.tokens_per_passage))

    def _terms(self, n: int) -> Floats:
        centroids = self._centroids(n)
        per_token = min(1.0, float(np.array([1, math.log2(centroids)]) @ self._postings))
        return np.array([1, centroids, n * self.tokens_per_passage * per_token / centroids, n])


def _fit_lists(listed: Sequence[Lists]) -> Floats:
    return fit(_list_terms(listed), [one.candidates_ms for one in listed])


def _list_terms(listed: Sequence[Lists]) -> Floats:
    return np.array([[1, one.centroids, one.postings / one.centroids, one.passages] for one in listed], dtype=float)
