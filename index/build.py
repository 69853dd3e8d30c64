"""Build a shard from encoded parts or from other shards, in memory bounded by the shard.

Codes are copied as they are; only the candidate lists are made anew.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hiperrag.files import atomic_directory, sha256_file
from hiperrag.index import gpu, kernels
from hiperrag.index.codec import Bits, Codec, FloatArray, TokenCodes
from hiperrag.index.lexical import write_lexical
from hiperrag.index.passages import write_passages
from hiperrag.index.shard import Shard
from hiperrag.index.storage import FORMAT, ArrayWriter, Description, write_description
from hiperrag.index.vectors import TokenArrays
from hiperrag.records import Passage

_COPIED = 65_536
"""Passages copied at a time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Vectors that become consecutive rows of a shard; pooled: (n, pooled_dim), or None where there are none."""

    codec: Codec
    codes: TokenCodes
    pooled: FloatArray | None


def encode_piece(
    tokens: npt.NDArray[np.floating], offsets: npt.NDArray[np.int64], pooled: FloatArray | None, bits: Bits
) -> Piece:
    """Compress token vectors (offsets[-1], dim); rows offsets[i]:offsets[i + 1] belong to passage i."""
    chosen = Codec(tokens.shape[1], bits)
    return Piece(chosen, gpu.encode(chosen, tokens, offsets), pooled)


def select(piece: Piece, rows: npt.NDArray[np.int64]) -> Piece:
    """Some passages of a piece, in the order given."""
    offsets = np.concatenate([[0], np.cumsum(piece.codes.lengths, dtype=np.int64)])
    picked = _token_rows(offsets, rows)
    codes = TokenCodes(
        piece.codes.codes[picked],
        piece.codes.scales[picked],
        piece.codes.lengths[rows],
        piece.codes.means[rows],
        piece.codes.mean_scales[rows],
    )
    return Piece(piece.codec, codes, None if piece.pooled is None else piece.pooled[rows])


def pieces_of(shard: Shard, rows: npt.NDArray[np.int64]) -> Iterator[Piece]:
    """The vectors of some passages of a shard (rows rising), checked, a bounded number at a time."""
    pooled = shard.pooled_vectors() if shard.description.pooled_dim else None
    for start in range(0, len(rows), _COPIED):
        chosen = rows[start : start + _COPIED]
        shard.check(chosen)
        tokens = shard.tokens
        picked = _token_rows(tokens.offsets, chosen)
        codes = TokenCodes(
            tokens.codes[picked],
            tokens.scales[picked],
            np.diff(tokens.offsets)[chosen].astype(np.uint16),
            tokens.means[chosen],
            tokens.mean_scales[chosen],
        )
        yield Piece(shard.codec, codes, None if pooled is None else pooled[chosen])


def _token_rows(offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The tokens of some passages, passage after passage."""
    lengths = offsets[rows + 1] - offsets[rows]
    return np.repeat(offsets[rows] - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def write_shard(
    folder: Path,
    pieces: Iterable[Piece],
    n_passages: int,
    n_tokens: int,
    passages: Callable[[], Iterable[Passage]] | None = None,
) -> dict[str, str]:
    """Write a shard of `n_passages` (more than none) passages and `n_tokens` token vectors; SHA-256 of its files.

    The pieces are of one codec. `passages` gives the passages in the order of the rows, each time it is called; None
    leaves an index of vectors alone.
    """
    remaining = iter(pieces)
    first = next(remaining)
    pooled_dim = 0 if first.pooled is None else first.pooled.shape[1]
    with atomic_directory(folder) as temporary:
        writer = ArrayWriter(temporary)
        tokens, pooled = _write_tokens(writer, itertools.chain([first], remaining), first.codec, n_passages, n_tokens)
        lists = gpu.build_candidates(tokens)
        for field in dataclasses.fields(lists):
            writer.write(field.name, getattr(lists, field.name))
        if pooled:
            _write_pooled(temporary / "pooled.faiss", pooled)
        if passages:
            if write_passages(temporary, passages()) != n_passages:
                raise ValueError(f"the passages are not {n_passages}")
            write_lexical(temporary, (passage.encoder_text() for passage in passages()))
        described = Description(
            format=FORMAT,
            dim=first.codec.dim,
            bits=first.codec.bits,
            pooled_dim=pooled_dim,
            has_text=passages is not None,
            n_passages=n_passages,
            n_tokens=n_tokens,
            arrays=writer.entries,
        )
        write_description(temporary, described)
        return {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}


def _write_tokens(
    writer: ArrayWriter, pieces: Iterable[Piece], chosen: Codec, n_passages: int, n_tokens: int
) -> tuple[TokenArrays, list[FloatArray]]:
    codes = writer.create("codes", np.uint8, (n_tokens, chosen.width))
    scales = writer.create("scales", np.uint8, (n_tokens,))
    means = writer.create("means", np.uint8, (n_passages, chosen.code_dim))
    lengths = np.zeros(n_passages, dtype=np.uint16)
    mean_scales = np.zeros(n_passages, dtype=np.float32)
    pooled: list[FloatArray] = []
    row = token = 0
    for piece in pieces:
        if piece.codec != chosen:
            raise ValueError("pieces of one shard have one codec")
        rows, taken = slice(row, row + len(piece.codes.lengths)), slice(token, token + len(piece.codes.codes))
        codes[taken], scales[taken] = piece.codes.codes, piece.codes.scales
        means[rows], lengths[rows], mean_scales[rows] = (
            piece.codes.means,
            piece.codes.lengths,
            piece.codes.mean_scales,
        )
        if piece.pooled is not None:
            pooled.append(np.asarray(piece.pooled, dtype=np.float32))
        row, token = rows.stop, taken.stop
    if (row, token) != (n_passages, n_tokens):
        raise ValueError(f"{row} passages and {token} token vectors came, not {n_passages} and {n_tokens}")
    writer.write("lengths", lengths)
    writer.write("mean_scales", mean_scales)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    tokens = TokenArrays(chosen, codes, scales, offsets, means, mean_scales)
    writer.write("checks", kernels.passage_checksums(tokens, range(n_passages)))
    return tokens, pooled


def _write_pooled(path: Path, pooled: Sequence[FloatArray]) -> None:
    import faiss

    index = faiss.IndexScalarQuantizer(pooled[0].shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    vectors = np.concatenate(pooled)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(path))
