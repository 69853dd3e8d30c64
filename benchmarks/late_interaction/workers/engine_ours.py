"""HiPerRAG's index: shards of compressed token vectors, searched by the same classes as a collection."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import hiperrag
from hiperrag.benchmarks.late_interaction.growth import read_lengths, read_tokens
from hiperrag.index.build import encode_piece, write_shard
from hiperrag.index.kernels import kernel
from hiperrag.index.search import Searcher
from hiperrag.index.shard import open_shards

_PIECE = 2_000
"""Passages encoded at a time."""


class Engine:
    """An index without text or pooled vectors: what late interaction alone needs."""

    version = f"{hiperrag.__version__} ({kernel()} kernels)"

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def build(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> None:
        """options: bits a dimension, and passages in a shard."""
        _write(index, offsets, lambda first, last: tokens[offsets[first] : offsets[last]], options)

    def build_growth(self, pipe: Path, passages: int, dim: int, index: Path, options: dict[str, Any]) -> int:
        """Build from a stream of passages; returns the number of token vectors."""
        with pipe.open("rb") as stream:
            offsets = np.concatenate([[0], np.cumsum(read_lengths(stream, passages))])
            _write(index, offsets, lambda a, b: read_tokens(stream, int(offsets[b] - offsets[a]), dim), options)
        return int(offsets[-1])

    def open(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> None:
        del tokens, offsets, options
        shards = open_shards(sorted(path for path in index.iterdir() if path.is_dir()))
        self.first_rows = np.concatenate([[0], np.cumsum([shard.n_passages for shard in shards])])
        self.searcher = Searcher(shards, self.threads)

    def search(self, queries: list[Any], k: int, setting: dict[str, Any]) -> list[list[int]]:
        """setting: quality, as on the command line."""
        ranked = self.searcher.search(queries, k, setting["quality"])
        return [[int(self.first_rows[match.shard]) + match.row for match in matches] for matches in ranked]


def _write(index: Path, offsets: Any, read: Callable[[int, int], Any], options: dict[str, Any]) -> None:
    """Write shards; read(first, last) gives the token vectors of these passages, and is called in their order."""
    bits, size, n = options["bits"], options["shard_passages"], len(offsets) - 1
    for number, start in enumerate(range(0, n, size)):
        stop = min(start + size, n)
        pieces = (
            encode_piece(read(first, last), offsets[first : last + 1] - offsets[first], None, bits)
            for first, last in pairwise([*range(start, stop, _PIECE), stop])
        )
        write_shard(index / f"{number:05d}", pieces, stop - start, int(offsets[stop] - offsets[start]))
