"""Small token vectors, passages and shards for the tests of the index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from hiperrag.index import kernels
from hiperrag.index.build import encode_piece, write_shard
from hiperrag.index.codec import Bits, Codec
from hiperrag.index.shard import Shard
from hiperrag.index.vectors import TokenArrays
from hiperrag.records import Box, Passage

_LIBRARY = kernels._library()
KERNELS = ("numpy", *(kernels.NAMES[: _LIBRARY.hr_best_path() + 1] if _LIBRARY else ()))
"""All that this machine can run, the plainest first."""


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Run with these kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "kernel", lambda: name)
        yield


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random unit vectors."""
    return normal(rng.standard_normal(shape))


def normal(vectors: np.ndarray) -> np.ndarray:
    """Vectors brought to length 1, float32."""
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each passage's tokens begin, and the end."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def topical(rng: np.random.Generator, lengths: Sequence[int] | np.ndarray, dim: int, n_topics: int = 40) -> np.ndarray:
    """Token vectors as an encoder gives them: words drawn from the passage's topic, coloured by the passage."""
    words = unit(rng, n_topics, 12, dim)
    tokens = []
    for length in lengths:
        topic, passage = rng.integers(n_topics), unit(rng, dim)
        drawn = words[topic, rng.integers(12, size=length)]
        tokens.append(drawn + 0.3 * passage + 0.3 * unit(rng, length, dim))
    return normal(np.concatenate(tokens)) if tokens else np.empty((0, dim), np.float32)


def queries_from(rng: np.random.Generator, tokens: np.ndarray, lengths: Sequence[int], n: int) -> list[np.ndarray]:
    """Queries of 6 tokens, each near tokens of one passage."""
    offsets, found = offsets_of(lengths), []
    for row in rng.choice(np.flatnonzero(np.asarray(lengths) > 0), n):
        picked = rng.integers(offsets[row], offsets[row + 1], size=6)
        found.append(normal(tokens[picked] + 0.4 * unit(rng, 6, tokens.shape[1])))
    return found


def token_arrays(tokens: np.ndarray, lengths: Sequence[int] | np.ndarray, bits: Bits) -> TokenArrays:
    """Compressed, in memory."""
    codec, offsets = Codec(tokens.shape[1], bits), offsets_of(lengths)
    codes = codec.encode(tokens, offsets)
    return TokenArrays(codec, codes.codes, codes.scales, offsets, codes.means, codes.mean_scales)


def passage(number: int) -> Passage:
    """A record of passage `number`; two passages make a document."""
    document = number // 2
    return Passage(
        passage_id=f"p{number}",
        doc_id=f"d{document}",
        document=f"paper-{document}.pdf",
        title=f"Title {document}",
        ordinal=number % 2,
        kind="table" if number % 3 == 0 else "paragraph",
        section="Methods > Größe",
        text=f"word{number} shared{number % 4} measured in α-helices",
        page_start=number,
        page_end=number + 1,
        boxes=[Box(1, 0.0, 1.5, 2.0, float(number))],
        n_tokens=number + 3,
        metadata={"year": 1990 + number} if number % 5 else {"journal": "J. Tests"},
    )


def make_shard(
    folder: Path,
    tokens: np.ndarray,
    lengths: Sequence[int] | np.ndarray,
    bits: Bits = 4,
    pooled: np.ndarray | None = None,
    passages: Sequence[Passage] | None = None,
) -> Shard:
    """Write a shard and open it."""
    offsets = offsets_of(lengths)
    piece = encode_piece(tokens, offsets, pooled, bits)
    texts = None if passages is None else (lambda: passages)
    write_shard(folder, [piece], len(lengths), int(offsets[-1]), texts)
    return Shard(folder)
