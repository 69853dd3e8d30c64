"""The measurements behind `index_scale`: bytes, build time, memory, a query's time, searches over real ranks."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hiperrag.benchmarks.late_interaction.growth import grow
from hiperrag.benchmarks.late_interaction.texts import read_texts
from hiperrag.benchmarks.late_interaction.vectors import TokenVectors, read_vectors
from hiperrag.benchmarks.scale_model import Lists, Point
from hiperrag.files import write_text_atomic
from hiperrag.index import kernels
from hiperrag.index.build import Piece, encode_piece, pieces_of, write_shard
from hiperrag.index.codec import Bits, FloatArray
from hiperrag.index.distributed import DistributedSearcher
from hiperrag.index.kernels import Effort
from hiperrag.index.lexical import write_lexical
from hiperrag.index.passages import write_passages
from hiperrag.index.portion import Source
from hiperrag.index.ranks import Ranks, world
from hiperrag.index.search import Found, Match, Searcher, effort_of
from hiperrag.index.shard import Shard
from hiperrag.index.vectors import BLOCK_ROWS, CandidateArrays, TokenArrays
from hiperrag.records import Passage

BITS: Bits = 4
N_PARTS = 4
"""Shards that together hold the passages of the largest one; ranks search them."""
K = 10
RANKS = (1, 2, 4)
ROUNDS = 5
TIMES = (3, 10)
"""How often the largest shard's passages are repeated in stand-ins for larger ones."""
_PIECE = 5_000
_TEXTS = 5_000
_PER_TOKEN = ("codes", "scales", "postings", "centroids", "centroid_scales", "starts")
_T = TypeVar("_T")


# Token vectors.


def random_vectors(n_passages: int = 4_000, dim: int = 128, seed: int = 0) -> TokenVectors:
    """Unit vectors near a topic of their passage and one of 2,000 words; queries near tokens of some passage."""
    rng = np.random.default_rng(seed)
    topics, words = (rng.standard_normal((n, dim), dtype=np.float32) for n in (200, 2_000))
    lengths = rng.integers(40, 150, n_passages)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    owners = np.repeat(rng.integers(0, len(topics), n_passages), lengths)
    tokens = topics[owners] + words[rng.zipf(1.3, len(owners)) % len(words)]
    tokens += 0.5 * rng.standard_normal(tokens.shape, dtype=np.float32)
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    asked = rng.integers(0, n_passages, 400)
    picked = np.concatenate([rng.integers(offsets[row], offsets[row + 1], 20) for row in asked])
    queries = tokens[picked] + 0.05 * rng.standard_normal((len(picked), dim), dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    query_offsets = np.arange(0, len(picked) + 1, 20)
    about = {"data": "random vectors around random topics", "encoder": "none", "dim": dim}
    return TokenVectors(Path("random"), tokens.astype(np.float16), offsets, queries, query_offsets, about)


# Building, in processes of their own, so that their memory can be told.


def alone(function: Callable[..., _T], *arguments: object) -> _T:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def once(folder: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What `build` returned when it made the folder."""
    record = folder / "build.json"
    if not record.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        write_text_atomic(record, json.dumps(build(folder)) + "\n")
    figures: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return figures


def build_parts(vectors: Path | None, n: int, folder: Path) -> dict[str, Any]:
    source = read_vectors(vectors) if vectors else random_vectors()
    ends = [n * (part + 1) // N_PARTS for part in range(N_PARTS)]
    encode_s = 0.0
    pieces: list[Piece] = []
    done = 0
    for block in grow(source, n, ends=ends):
        offsets = np.concatenate([[0], np.cumsum(block.lengths)])
        piece, seconds = _timed(partial(encode_piece, block.tokens, offsets, None, BITS))
        encode_s += seconds
        pieces.append(piece)
        done += len(block.lengths)
        if done in ends:
            _write(folder / str(ends.index(done)), pieces)
            pieces = []
    return {"passages": n, "encode_cpu_s": encode_s, "peak_bytes": peak_bytes()}


def build_shard(parts: Path, n: int, folder: Path) -> dict[str, Any]:
    def prefix() -> Iterator[Piece]:
        left = n
        for part in range(N_PARTS):
            shard = Shard(parts / str(part))
            rows = np.arange(min(left, shard.n_passages))
            for start in range(0, len(rows), _PIECE):
                yield from pieces_of(shard, rows[start : start + _PIECE])
            left -= len(rows)

    n_tokens, left = 0, n
    for part in range(N_PARTS):
        shard = Shard(parts / str(part))
        taken = min(left, shard.n_passages)
        n_tokens += int(shard.tokens.offsets[taken])
        left -= taken
    _, seconds = _timed(lambda: write_shard(folder / "shard", prefix(), n, n_tokens))
    return {"passages": n, "tokens": n_tokens, "lists_cpu_s": seconds, "peak_bytes": peak_bytes()}


def _write(folder: Path, pieces: Sequence[Piece]) -> None:
    n_passages, n_tokens = (sum(len(getattr(piece.codes, name)) for piece in pieces) for name in ("lengths", "codes"))
    write_shard(folder, pieces, n_passages, n_tokens)


def _timed(function: Callable[[], _T]) -> tuple[_T, float]:
    """The result, and the CPU seconds of this process."""
    began = time.process_time()
    result = function()
    return result, time.process_time() - began


def peak_bytes() -> int:
    """Most memory that this process has had, in bytes, mapped files included (not ru_maxrss, which a parent leaves)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


# Measuring.


def default_effort() -> Effort:
    """The effort of a query at the default quality."""
    effort = effort_of("balanced", K)
    assert effort is not None
    return effort


def measure_queries(
    folder: Path, sizes: Sequence[int], builds: Sequence[dict[str, Any]], queries: Sequence[FloatArray]
) -> tuple[list[Point], list[Lists]]:
    """Shards of all sizes, and larger stand-ins for the lists of the largest.

    Each in turn, over again ROUNDS times; a query counts with its best time, the first round is for warming up.
    """
    shards = [Shard(folder / str(size) / "shard") for size in sizes]
    searchers = [Searcher([shard], threads=1) for shard in shards]
    stand_ins = [repeated_lists(shards[-1], times) for times in TIMES]
    codes, effort = searchers[-1].encode(queries), default_effort()
    times = np.full((ROUNDS, len(shards), 2, len(codes)), np.inf)
    stand_in_times = np.full((ROUNDS, len(stand_ins), len(codes)), np.inf)
    for round_ in range(ROUNDS):
        for place, searcher in enumerate(searchers):
            for number, query in enumerate(codes):
                began = time.thread_time()
                found = searcher.candidates(query, effort, [None]).best(effort.n)
                between = time.thread_time()
                searcher.score(query, found).matches(K)
                times[round_, place, :, number] = between - began, time.thread_time() - between
        for place, (tokens, lists) in enumerate(stand_ins):
            for number, query in enumerate(codes):
                began = time.thread_time()
                kernels.candidates(tokens, lists, query, None, effort)
                stand_in_times[round_, place, number] = time.thread_time() - began
    medians = 1000 * np.median(times[1:].min(axis=0), axis=-1)
    points = [
        Point(
            Lists(size, len(shard.lists.centroids), len(shard.lists.postings), float(candidates_ms)),
            build["tokens"],
            float(maxsim_ms),
            effort.n,
            build["lists_cpu_s"],
            build["peak_bytes"],
        )
        for size, shard, build, (candidates_ms, maxsim_ms) in zip(sizes, shards, builds, medians, strict=True)
    ]
    larger = [
        Lists(len(tokens.mean_scales), len(lists.centroids), len(lists.postings), float(milliseconds))
        for (tokens, lists), milliseconds in zip(
            stand_ins, 1000 * np.median(stand_in_times[1:].min(axis=0), axis=-1), strict=True
        )
    ]
    return points, larger


def repeated_lists(shard: Shard, times: int) -> tuple[TokenArrays, CandidateArrays]:
    """What candidates are found by, with all passages of the shard `times` times over; there are no codes."""
    tokens, lists = shard.tokens, shard.lists
    n_centroids, n = len(lists.centroids), shard.n_passages
    counts = np.diff(lists.starts.astype(np.int64), axis=1)
    centroids = np.concatenate([np.repeat(np.arange(n_centroids), block) for block in counts])
    rows = lists.postings + np.repeat(np.arange(len(counts)) * BLOCK_ROWS, counts.sum(axis=1))
    starts, postings, total = [], [], 0
    for first in range(0, n * times, BLOCK_ROWS):
        last = min(first + BLOCK_ROWS, n * times)
        keys = []
        for copy in range(first // n, -(-last // n)):
            here = (rows + copy * n >= first) & (rows + copy * n < last)
            keys.append(centroids[here] * BLOCK_ROWS + rows[here] + copy * n - first)
        listed = np.sort(np.concatenate(keys))
        starts.append(np.searchsorted(listed, np.arange(n_centroids + 1) * BLOCK_ROWS) + total)
        postings.append((listed % BLOCK_ROWS).astype(np.uint16))
        total += len(listed)
    lengths = np.tile(np.diff(tokens.offsets), times)
    grown = TokenArrays(
        tokens.codec,
        tokens.codes[:0],
        tokens.scales[:0],
        np.concatenate([[0], np.cumsum(lengths)]),
        np.tile(tokens.means, (times, 1)),
        np.tile(tokens.mean_scales, times),
    )
    return grown, CandidateArrays(
        lists.centroids, lists.centroid_scales, np.stack(starts).astype(np.uint64), np.concatenate(postings)
    )


def measure_cuts(n: int) -> list[tuple[int, float]]:
    """Milliseconds to keep the best n of as many estimates as 4, 16, 64 and 256 shards give."""
    rng = np.random.default_rng(0)
    figures = []
    for shards in (4, 16, 64, 256):
        values = np.sort(rng.standard_normal((shards, n)).astype(np.float32), axis=1)[:, ::-1].reshape(-1)
        found = Found(np.repeat(np.arange(shards), n), np.tile(np.arange(n), shards), values)
        cut = partial(found.best, n)
        figures.append((len(values), 1000 * statistics.median(_timed(cut)[1] for _ in range(15))))
    return figures


def bytes_of(folder: Path) -> tuple[float, float]:
    """Bytes on disk for each token, and for each passage besides."""
    described = Shard(folder / "shard").description
    files = {path.stem: path.stat().st_size for path in (folder / "shard").glob("*.npy")}
    of_tokens = sum(files[name] for name in _PER_TOKEN)
    return of_tokens / described.n_tokens, (sum(files.values()) - of_tokens) / described.n_passages


def text_bytes(data: Path) -> dict[str, float]:
    """Bytes on disk of a passage's text and of its words."""
    texts = read_texts(data).passages[:_TEXTS]
    passages = [
        Passage(f"{row:024x}", f"{row:024x}", f"{row}.pdf", "", row, "paragraph", "", text, 1, 1, [], len(text) // 5)
        for row, text in enumerate(texts)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        write_passages(Path(scratch), passages)
        text_size = sum(path.stat().st_size for path in Path(scratch).iterdir())
        write_lexical(Path(scratch), texts)
        words_size = sum(path.stat().st_size for path in Path(scratch).iterdir()) - text_size
    return {"text": round(text_size / len(texts), 1), "words": round(words_size / len(texts), 1)}


# Real ranks.


def measure_ranks(parts: Path, queries: Sequence[FloatArray]) -> list[dict[str, Any]]:
    """Search the parts over MPI ranks of this machine; [] where there is no mpiexec."""
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if mpiexec is None:
        _say("no mpiexec: the ranks are left out (pip install mpi4py mpich)")
        return []
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        np.savez(Path(scratch) / "queries.npz", *queries)
        for n in RANKS:
            _say(f"searching over {n} ranks")
            out = Path(scratch) / f"{n}.json"
            command = [mpiexec, "-n", str(n), sys.executable, "-m", "hiperrag.benchmarks.scale_measure"]
            subprocess.run([*command, str(parts), str(out)], check=True)
            found = json.loads(out.read_text(encoding="utf-8"))
            figures.append({"ranks": n} | found)
    return figures


def search_over_ranks(ranks: Ranks, parts: Path, out: Path) -> None:
    with np.load(out.with_name("queries.npz")) as stored:
        queries = [stored[name] for name in stored.files]
    folders = [parts / str(part) for part in range(N_PARTS)]
    shards = [Shard(folder) for folder in folders]
    alone = Searcher(shards, threads=ranks.call(_Threads()))
    spread = DistributedSearcher(ranks, [Source(shard.folder, shard.description.n_tokens) for shard in shards])
    expected, alone_ms, alone_cpu_ms = _one_by_one(lambda query: alone.search([query], K)[0], queries)
    found, spread_ms, spread_cpu_ms = _one_by_one(lambda query: spread.search([query], K)[0], queries)
    began = time.perf_counter()
    batch = spread.search(queries, K)
    batch_s = time.perf_counter() - began
    figures = {
        "queries": len(queries),
        "same_as_one_process": found == expected == batch,
        "wall_ms_p50": round(spread_ms, 3),
        "one_process_wall_ms_p50": round(alone_ms, 3),
        "cpu_ms_p50": round(spread_cpu_ms, 3),
        "one_process_cpu_ms_p50": round(alone_cpu_ms, 3),
        "batch_queries_per_s": round(len(queries) / batch_s, 1),
    }
    write_text_atomic(out, json.dumps(figures) + "\n")


class _Threads:
    """The threads that each rank uses."""

    def __call__(self, ranks: Ranks) -> int:
        return ranks.threads()


def _one_by_one(
    search: Callable[[FloatArray], list[Match]], queries: Sequence[FloatArray]
) -> tuple[list[list[Match]], float, float]:
    """The results, and the medians of a query's wall and CPU milliseconds, the second time through."""
    for _ in range(2):
        walls, cpus, found = [], [], []
        for query in queries:
            cpu, wall = time.process_time(), time.perf_counter()
            found.append(search(query))
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
    return found, 1000 * statistics.median(walls), 1000 * statistics.median(cpus)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    _ranks = Ranks(world())
    _ranks.run(lambda: search_over_ranks(_ranks, Path(sys.argv[1]), Path(sys.argv[2])))
