"""Queries and passages a second of the index on a GPU and on the CPU, over the same synthetic passages in one run.

    python -m hiperrag.benchmarks.index_gpu [--passages 100000 1000000] [--out index_gpu.json]

Passages are random token vectors around shared topics, made on the GPU; their sizes and the arithmetic are those of
real ones, their neighbourhoods are not, so the figures say how fast search is, not how well it finds. Queries resemble
one passage each. Every timing is the median of `--rounds` after a warm-up, with the results on the host. The CPU's
searches use all cores; its build, one block of passages.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hiperrag.index import gpu, kernels
from hiperrag.index.candidates import build_candidates
from hiperrag.index.codec import BITS, Codec, QueryCodes
from hiperrag.index.search import EFFORTS
from hiperrag.index.vectors import CandidateArrays, TokenArrays
from hiperrag.machine import describe_machine

if TYPE_CHECKING:
    import torch

    from hiperrag.index.gpu.shard import DeviceShard

TOPICS = 4_096
LENGTHS = (40, 142)
"""Tokens of a passage: evenly spread, 91 on average, as in scientific text."""
BLOCK = 20_000
"""Passages made and encoded at a time."""
K = 10
CPU_QUERIES = 8
Rows = npt.NDArray[np.int64]
_Found = list[tuple[Rows, npt.NDArray[np.float32]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Corpus:
    """Encoded passages, queries, and how fast both encoders were, in passages a second."""

    tokens: TokenArrays
    queries: list[QueryCodes]
    encoded_on_gpu: float
    encoded_on_cpu: float


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, print a line per figure, and write them to `--out`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--passages", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--bits", type=int, choices=BITS, default=4)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--query-tokens", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("index_gpu.json"))
    given = parser.parse_args(arguments)
    usable = gpu.devices()
    if not usable:
        parser.exit(2, f"index_gpu: no GPU to measure (torch finds none, or {gpu.VARIABLE}=cpu)\n")
    codec = Codec(given.dim, given.bits)
    figures = []
    for n_passages in given.passages:
        corpus = make_corpus(codec, n_passages, given.queries, given.query_tokens, usable[0])
        figures.append({"passages": n_passages, **measure(corpus, usable[0], given.rounds)})
        print(json.dumps(figures[-1], indent=1))
    settings = {key: value for key, value in vars(given).items() if key != "out"}
    report = {"figures": figures, "settings": settings, "machine": describe_machine() | describe_gpu(usable[0])}
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def describe_gpu(device: torch.device) -> dict[str, Any]:
    """Name, memory, and the version of what drives it."""
    import torch

    from hiperrag.index.gpu.maxsim import fused

    properties = torch.cuda.get_device_properties(device)
    described = {"gpu": properties.name, "gpu_memory_gb": round(properties.total_memory / 1e9, 1)}
    if fused(device):
        import triton

        described["triton"] = triton.__version__
    return described | {"cuda": torch.version.cuda}


def make_corpus(codec: Codec, n_passages: int, n_queries: int, query_tokens: int, device: torch.device) -> Corpus:
    """Random passages, encoded on the GPU; the first block also on the CPU."""
    import torch

    from hiperrag.index.gpu import encoding

    generator = torch.Generator(device).manual_seed(1)
    topics = torch.randn((TOPICS, codec.dim), generator=generator, device=device)
    lengths = np.random.default_rng(1).integers(*LENGTHS, n_passages)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    codes, scales = np.empty((offsets[-1], codec.width), np.uint8), np.empty(offsets[-1], np.uint8)
    means, mean_scales = np.empty((n_passages, codec.code_dim), np.uint8), np.empty(n_passages, np.float32)
    seconds, on_cpu, queries = 0.0, 0.0, list[QueryCodes]()
    for first in range(0, n_passages, BLOCK):
        last = min(first + BLOCK, n_passages)
        part, own = slice(offsets[first], offsets[last]), offsets[first : last + 1] - offsets[first]
        vectors = _vectors(topics, lengths[first:last], generator)
        if not first:
            encoding.encode(codec, vectors[: own[8]], own[:9], device)  # warm-up
            few = min(2_000, last)
            on_cpu = few / _timed(functools.partial(codec.encode, vectors[: own[few]], own[: few + 1]))
            queries = _queries(codec, vectors, own, n_queries, query_tokens)
        start = time.perf_counter()
        block = encoding.encode(codec, vectors, own, device)
        seconds += time.perf_counter() - start
        codes[part], scales[part] = block.codes, block.scales
        means[first:last], mean_scales[first:last] = block.means, block.mean_scales
    tokens = TokenArrays(codec, codes, scales, offsets, means, mean_scales)
    return Corpus(tokens, queries, n_passages / seconds, on_cpu)


def _vectors(topics: torch.Tensor, lengths: Rows, generator: torch.Generator) -> npt.NDArray[np.float16]:
    import torch

    device, n = topics.device, int(lengths.sum())
    owners = torch.repeat_interleave(torch.arange(len(lengths)), torch.from_numpy(lengths)).to(device)
    subjects = torch.randint(TOPICS, (len(lengths),), generator=generator, device=device)
    words = torch.randint(TOPICS, (n,), generator=generator, device=device)
    vectors = topics[subjects][owners] + topics[words]
    vectors += 0.7 * torch.randn(vectors.shape, generator=generator, device=device)
    vectors /= torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    array: npt.NDArray[np.float16] = vectors.half().cpu().numpy()
    return array


def _queries(codec: Codec, vectors: npt.NDArray[np.float16], offsets: Rows, n: int, n_tokens: int) -> list[QueryCodes]:
    rng, queries = np.random.default_rng(2), []
    for row in rng.integers(0, len(offsets) - 1, n):
        near = vectors[offsets[row] : offsets[row] + n_tokens] + 0.05 * rng.standard_normal((n_tokens, codec.dim))
        queries.append(codec.encode_query((near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)))
    return queries


def measure(corpus: Corpus, device: torch.device, rounds: int) -> dict[str, Any]:
    """Rates of both, and how far their results agree."""
    from hiperrag.index.gpu import lists
    from hiperrag.index.gpu.shard import DeviceShard, bytes_needed

    tokens, queries = corpus.tokens, corpus.queries
    n_passages = len(tokens.mean_scales)
    start = time.perf_counter()
    made = lists.build_candidates(tokens, device)
    clustered = time.perf_counter() - start
    start = time.perf_counter()
    loaded = DeviceShard(tokens, made, device)
    uploaded = time.perf_counter() - start
    few = _first(tokens, BLOCK)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        asked = queries[:CPU_QUERIES]
        exact, two_stage = cpu_exact(tokens, asked, pool), cpu_two_stage(tokens, made, queries, pool)
        on_gpu = loaded.best(asked, K, None)
        rates = {
            "exact_gpu": len(queries) / _median(lambda: loaded.best(queries, K, None), rounds),
            "exact_gpu_one_by_one": 1 / _median(lambda: loaded.best(queries[:1], K, None), rounds),
            "exact_cpu": len(asked) / _median(lambda: cpu_exact(tokens, asked, pool), rounds),
            "two_stage_gpu": len(queries) / _median(lambda: gpu_two_stage(loaded, queries), rounds),
            "two_stage_gpu_one_by_one": 1 / _median(lambda: gpu_two_stage(loaded, queries[:1]), rounds),
            "two_stage_cpu": len(queries) / _median(lambda: cpu_two_stage(tokens, made, queries, pool), rounds),
        }
    return {
        "queries_per_second": rates,
        "same_top_10": {"exact": _same(exact, on_gpu), "two_stage": _same(two_stage, gpu_two_stage(loaded, queries))},
        "encoded_passages_per_second": {"gpu": corpus.encoded_on_gpu, "cpu": corpus.encoded_on_cpu},
        "listed_passages_per_second": {
            "gpu": n_passages / clustered,
            "cpu": len(few.mean_scales) / _timed(lambda: build_candidates(few)),
        },
        "upload_seconds": uploaded,
        "gpu_bytes": bytes_needed(tokens, made),
        "tokens": len(tokens.codes),
    }


def gpu_two_stage(loaded: DeviceShard, queries: Sequence[QueryCodes]) -> _Found:
    """The K best of each query among its candidates."""
    rows = [np.sort(found) for found, _ in loaded.candidates(queries, None, EFFORTS["balanced"])]
    return [_top(listed, scores) for listed, scores in zip(rows, loaded.maxsim_of_each(queries, rows), strict=True)]


def cpu_two_stage(
    tokens: TokenArrays, made: CandidateArrays, queries: Sequence[QueryCodes], pool: ThreadPoolExecutor
) -> _Found:
    """The same on the CPU, parallel over queries."""

    def one(query: QueryCodes) -> tuple[Rows, npt.NDArray[np.float32]]:
        rows = np.sort(kernels.candidates(tokens, made, query, None, EFFORTS["balanced"])[0])
        return _top(rows, kernels.maxsim(tokens, [query], rows)[0])

    return list(pool.map(one, queries))


def cpu_exact(tokens: TokenArrays, queries: Sequence[QueryCodes], pool: ThreadPoolExecutor) -> _Found:
    """The K best of all passages, parallel over passages."""
    n_passages = len(tokens.mean_scales)
    parts = [range(start, min(start + 2_048, n_passages)) for start in range(0, n_passages, 2_048)]
    scores = np.concatenate(list(pool.map(lambda part: kernels.maxsim(tokens, queries, part), parts)), axis=1)
    rows = np.arange(n_passages)
    return [_top(rows, line) for line in scores]


def _top(rows: Rows, scores: npt.NDArray[np.float32]) -> tuple[Rows, npt.NDArray[np.float32]]:
    near = np.flatnonzero(scores >= np.partition(scores, -K)[-K]) if len(scores) > K else np.arange(len(scores))
    near = near[np.lexsort((rows[near], -scores[near]))[:K]]
    return rows[near], scores[near]


def _first(tokens: TokenArrays, n: int) -> TokenArrays:
    n = min(n, len(tokens.mean_scales))
    stop = int(tokens.offsets[n])
    return TokenArrays(
        tokens.codec,
        tokens.codes[:stop],
        tokens.scales[:stop],
        tokens.offsets[: n + 1],
        tokens.means[:n],
        tokens.mean_scales[:n],
    )


def _same(one: _Found, other: _Found) -> float:
    """Share of queries with the same passages in the same order."""
    return float(np.mean([np.array_equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True)]))


def _timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _median(act: Callable[[], object], rounds: int) -> float:
    act()
    return statistics.median(_timed(act) for _ in range(rounds))


if __name__ == "__main__":
    raise SystemExit(main())
