"""Synthetic growth: any number of passages from real token vectors, block by block, in bounded memory.

    python -m hiperrag.benchmarks.late_interaction.growth VECTORS_DIR PASSAGES NOISE SEED STREAM

The real passages come first. Each further one takes the token vectors of a random real passage, exchanges about half
of them for tokens of another random real passage, adds noise of norm NOISE spread over dimensions as the real vectors
are, and brings the vectors back to unit norm. Block b depends on the seed and b alone, so a smaller corpus is a
prefix of a larger one.

Stream: the lengths of all passages as int32, then all token vectors as float16, passage after passage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hiperrag.benchmarks.late_interaction.truth import Block
from hiperrag.benchmarks.late_interaction.vectors import Float16, Float32, Int64, TokenVectors, read_vectors

BLOCK_PASSAGES = 2_000
NOISE = 0.4
_POOL = 32_768
"""Noise vectors drawn once per corpus; tokens take them at random."""


def grow(
    vectors: TokenVectors, n: int, noise: float = NOISE, seed: int = 0, ends: Sequence[int] = ()
) -> Iterator[Block]:
    """The first n passages of the grown corpus, in blocks of at most BLOCK_PASSAGES that also end at `ends`."""
    pool = _noise_pool(vectors, noise, seed)
    for start in range(0, n, BLOCK_PASSAGES):
        block = _block(vectors, start, pool, seed)
        stop = min(start + BLOCK_PASSAGES, n)
        rows = np.concatenate([[0], np.cumsum(block.lengths)])
        cuts = [0, *(end - start for end in sorted(ends) if start < end < stop), stop - start]
        for first, last in pairwise(cuts):
            yield Block(block.tokens[rows[first] : rows[last]], block.lengths[first:last])


def _noise_pool(vectors: TokenVectors, noise: float, seed: int) -> Float32:
    sample = vectors.tokens[:: max(1, len(vectors.tokens) // 20_000)].astype(np.float32)
    spread = sample.std(axis=0)
    pool = np.random.default_rng(seed).standard_normal((_POOL, vectors.dim), dtype=np.float32) * spread
    scaled: Float32 = pool * (noise / np.linalg.norm(pool, axis=1, keepdims=True))
    return scaled


def grown_lengths(vectors: TokenVectors, n: int, seed: int = 0) -> Int64:
    """How many token vectors each of the first n passages of the grown corpus has."""
    blocks = [_Recipe(vectors, start, seed).lengths for start in range(0, n, BLOCK_PASSAGES)]
    return np.concatenate(blocks)[:n]


class _Recipe:
    """What a block is made of: its real passages, then the two real passages that each further one is mixed from."""

    def __init__(self, vectors: TokenVectors, start: int, seed: int) -> None:
        self.rng = np.random.default_rng([seed, start])
        self.real = slice(min(start, vectors.n_passages), min(start + BLOCK_PASSAGES, vectors.n_passages))
        n = BLOCK_PASSAGES - (self.real.stop - self.real.start)
        self.first, self.second = self.rng.integers(0, vectors.n_passages, (2, n))
        lengths = np.diff(vectors.offsets)
        self.lengths: Int64 = np.concatenate([lengths[self.real], lengths[self.first]])


def _block(vectors: TokenVectors, start: int, pool: Float32, seed: int) -> Block:
    recipe = _Recipe(vectors, start, seed)
    rng, first = recipe.rng, recipe.first
    lengths = np.diff(vectors.offsets)
    rows = _rows(vectors.offsets[first], lengths[first])
    others = np.repeat(recipe.second, lengths[first])
    exchanged = rng.random(len(rows), dtype=np.float32) < 0.5
    chosen = (rng.random(len(rows), dtype=np.float32) * lengths[others]).astype(np.int64)
    rows[exchanged] = (vectors.offsets[others] + chosen)[exchanged]
    tokens = vectors.tokens[rows].astype(np.float32)
    tokens += pool[rng.integers(0, _POOL, len(rows))]
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    before = vectors.tokens[vectors.offsets[recipe.real.start] : vectors.offsets[recipe.real.stop]]
    return Block(np.concatenate([before, tokens.astype(np.float16)]), recipe.lengths)


def _rows(starts: Int64, lengths: Int64) -> Int64:
    """starts[i], starts[i] + 1, … of lengths[i] rows each, one after the other."""
    before = np.cumsum(lengths) - lengths
    rows: Int64 = np.repeat(starts - before, lengths) + np.arange(lengths.sum())
    return rows


def write_stream(lengths: Int64, blocks: Iterable[Block], stream: BinaryIO) -> None:
    """Write passages in the stream's form."""
    stream.write(lengths.astype(np.int32).tobytes())
    for block in blocks:
        stream.write(np.ascontiguousarray(block.tokens).data)


def read_lengths(stream: BinaryIO, n: int) -> Int64:
    """The lengths of the n passages of a stream, which come first; EOFError where it ends before."""
    return np.frombuffer(_exactly(stream, 4 * n), dtype=np.int32).astype(np.int64)


def read_tokens(stream: BinaryIO, n: int, dim: int) -> Float16:
    """The next n token vectors, (n, dim); EOFError where the stream ends before."""
    return np.frombuffer(_exactly(stream, 2 * n * dim), dtype=np.float16).reshape(n, dim)


def _exactly(stream: BinaryIO, n: int) -> bytes:
    data = stream.read(n)
    if len(data) != n:
        raise EOFError("the stream of passages ended too soon")
    return data


def _main(folder: str, passages: str, noise: str, seed: str, target: str) -> None:
    vectors, n = read_vectors(Path(folder)), int(passages)
    with Path(target).open("wb") as stream:
        write_stream(grown_lengths(vectors, n, int(seed)), grow(vectors, n, float(noise), int(seed)), stream)


if __name__ == "__main__":
    _main(*sys.argv[1:])
