"""The token vectors that every engine gets: a folder of .npy files, made from text or taken as it is.

Files of a vectors folder:
  tokens.npy         (n_tokens, dim) float16, unit norm, passage after passage
  offsets.npy        (n_passages + 1,) int64; rows offsets[i]:offsets[i + 1] of tokens.npy belong to passage i
  queries.npy        (n_query_tokens, dim) float32, unit norm
  query_offsets.npy  (n_queries + 1,) int64
  about.json         where the vectors come from

Passages lie in random order, so that the first n are a sample and smaller corpora are prefixes of larger ones.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hiperrag.benchmarks.late_interaction.texts import read_texts
from hiperrag.errors import UserError
from hiperrag.files import atomic_directory, fingerprint
from hiperrag.models import DEFAULT_ENCODER

Float32 = npt.NDArray[np.float32]
Float16 = npt.NDArray[np.float16]
Int64 = npt.NDArray[np.int64]

QUERY_TOKENS = 20
"""Mean length that queries are brought down to by leaving out the longest."""
_SAMPLE = 200_000
"""Tokens the rotation is fitted on."""
_BLOCK = 65_536
_BATCH = 256


@dataclasses.dataclass(frozen=True, slots=True)
class TokenVectors:
    """An open vectors folder; passage tokens stay on disk and are paged in as they are needed."""

    folder: Path
    tokens: Float16
    offsets: Int64
    queries: Float32
    query_offsets: Int64
    about: dict[str, Any]

    @property
    def n_passages(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_queries(self) -> int:
        return len(self.query_offsets) - 1

    @property
    def dim(self) -> int:
        return int(self.tokens.shape[1])

    @property
    def identity(self) -> str:
        """Hash of sizes, offsets and a sample of the vectors: results of other vectors are never taken for these."""
        rows = self.tokens[:: max(1, len(self.tokens) // 997)]
        return fingerprint(
            self.tokens.shape,
            self.offsets.tobytes(),
            rows.tobytes(),
            self.queries.tobytes(),
            self.query_offsets.tobytes(),
        )[:12]

    def query(self, number: int) -> Float32:
        """Token vectors of one query, (n_query_tokens, dim)."""
        return self.queries[self.query_offsets[number] : self.query_offsets[number + 1]]

    def sample_queries(self, n: int, seed: int = 0) -> list[int]:
        """Numbers of `n` queries drawn at random, ascending; all of them where there are fewer."""
        return sorted(random.Random(seed).sample(range(self.n_queries), min(n, self.n_queries)))


def read_vectors(folder: Path) -> TokenVectors:
    """Open a vectors folder; UserError where a file is missing or the files disagree."""
    try:
        tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        offsets, queries, query_offsets = (
            np.load(folder / f"{name}.npy") for name in ("offsets", "queries", "query_offsets")
        )
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder}: not a vectors folder ({str(error).splitlines()[0][:120]})") from None
    about_file = folder / "about.json"
    recorded = json.loads(about_file.read_text(encoding="utf-8")) if about_file.is_file() else {}
    about = {"data": folder.name, "encoder": "not recorded", "encoder_dim": "?", "dim": tokens.shape[-1], **recorded}
    vectors = TokenVectors(folder, tokens, offsets, queries.astype(np.float32, copy=False), query_offsets, about)
    _check(vectors)
    return vectors


def _check(vectors: TokenVectors) -> None:
    tokens, queries = vectors.tokens, vectors.queries
    if tokens.dtype != np.float16 or tokens.ndim != 2 or queries.ndim != 2 or queries.shape[1] != tokens.shape[1]:
        raise UserError(f"{vectors.folder}: tokens.npy must be (n, dim) float16 and queries.npy (m, dim)")
    for name, offsets, rows in (
        ("offsets.npy", vectors.offsets, len(tokens)),
        ("query_offsets.npy", vectors.query_offsets, len(queries)),
    ):
        if (
            offsets.ndim != 1
            or len(offsets) < 2
            or offsets[0] != 0
            or offsets[-1] != rows
            or np.any(np.diff(offsets) < 1)
        ):
            raise UserError(f"{vectors.folder}: {name} does not fit its vectors: it must rise from 0 to {rows}")
    norms = np.linalg.norm(tokens[:256].astype(np.float32), axis=1)
    if np.any(np.abs(norms - 1) > 0.01):
        raise UserError(f"{vectors.folder}: token vectors must have unit norm")


def make_vectors(
    folder: Path,
    data: Path,
    encoder_name: str = DEFAULT_ENCODER,
    dim: int = 128,
    limit: int | None = None,
    seed: int = 0,
) -> TokenVectors:
    """Encode the passages and queries of `data`, rotate to `dim` dimensions, and write a vectors folder.

    limit: at most this many passages and as many queries. Passages are shuffled by `seed`.
    """
    from hiperrag.encoders import load_encoder

    passages, queries, sources = read_texts(data)
    random.Random(seed).shuffle(passages)
    random.Random(seed).shuffle(queries)
    encoder = load_encoder(encoder_name, 2)
    blocks, lengths = [], []
    for texts in _batches(passages[:limit]):
        encoded = encoder.encode_passages(texts)
        blocks.append(encoded.tokens.astype(np.float16))
        lengths.append(np.diff(encoded.offsets))
    asked = encoder.encode_queries(queries[:limit])
    about = {"data": ", ".join(sources), "encoder": encoder_name, "encoder_dim": encoder.dim, "seed": seed}
    return write_vectors(
        folder,
        np.concatenate(blocks),
        np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64),
        asked.tokens,
        np.asarray(asked.offsets, dtype=np.int64),
        dim,
        about,
    )


def _batches(texts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _BATCH):
        yield texts[start : start + _BATCH]


def write_vectors(
    folder: Path,
    tokens: Float16,
    offsets: Int64,
    queries: Float32,
    query_offsets: Int64,
    dim: int,
    about: dict[str, Any],
) -> TokenVectors:
    """Rotate the encoder's vectors to `dim` dimensions and write them as a vectors folder.

    Passages and queries without tokens are left out, and the longest queries until the mean is QUERY_TOKENS.
    """
    rng = np.random.default_rng(0)
    sample = tokens[np.sort(rng.choice(len(tokens), min(_SAMPLE, len(tokens)), replace=False))]
    rotation, kept = fit_rotation(sample.astype(np.float32), dim)
    queries, query_offsets = _shorten(queries, query_offsets)
    filled = np.diff(offsets) > 0
    offsets = np.concatenate([[0], np.cumsum(np.diff(offsets)[filled])]).astype(np.int64)
    about = {**about, "dim": dim, "variance_kept": round(kept, 4), "rotation": "uncentred PCA"}
    with atomic_directory(folder) as temporary:
        stored = np.lib.format.open_memmap(
            temporary / "tokens.npy", mode="w+", dtype=np.float16, shape=(len(tokens), dim)
        )
        for start in range(0, len(tokens), _BLOCK):
            stored[start : start + _BLOCK] = rotate(tokens[start : start + _BLOCK].astype(np.float32), rotation)
        stored.flush()
        del stored
        np.save(temporary / "offsets.npy", offsets)
        np.save(temporary / "queries.npy", rotate(queries, rotation))
        np.save(temporary / "query_offsets.npy", query_offsets)
        (temporary / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return read_vectors(folder)


def fit_rotation(sample: Float32, dim: int) -> tuple[Float32, float]:
    """The `dim` leading right singular vectors of `sample` (not centred, so that cosines are kept best).

    sample: (n, d). Returns (d, min(dim, d)) with orthonormal columns, and the share of squared norm it keeps.
    """
    values, vectors = np.linalg.eigh(sample.T.astype(np.float64) @ sample)
    order = np.argsort(values)[::-1][:dim]
    return np.ascontiguousarray(vectors[:, order], dtype=np.float32), float(values[order].sum() / values.sum())


def rotate(vectors: Float32, rotation: Float32) -> Float32:
    """Project (n, d) on the rotation's columns and bring every row back to unit norm."""
    rotated = vectors @ rotation
    rotated /= np.linalg.norm(rotated, axis=1, keepdims=True)
    return rotated


def _shorten(queries: Float32, offsets: Int64) -> tuple[Float32, Int64]:
    lengths = np.diff(offsets)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    means = np.cumsum(lengths[order]) / np.arange(1, len(order) + 1)
    kept = np.sort(order[: max(1, int(np.searchsorted(means, QUERY_TOKENS, side="right")))])
    rows = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in kept])
    return queries[rows], np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64)
