"""What an encoder is: text in, unit-norm token vectors and one pooled vector per text out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(slots=True)
class Encoded:
    """Vectors of a list of n texts, in the order given.

    tokens: (offsets[-1], dim) float32, unit norm; rows offsets[i]:offsets[i + 1] belong to text i.
    offsets: (n + 1,) int64.
    pooled: (n, pooled_dim) float32, unit norm.
    truncated: (n,) bool, True where the text was longer than the encoder's token limit.
    """

    tokens: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    pooled: npt.NDArray[np.float32]
    truncated: npt.NDArray[np.bool_]

    def token_arrays(self) -> list[npt.NDArray[np.float32]]:
        """The token vectors of each text, (n_tokens, dim), as views."""
        return [self.tokens[start:stop] for start, stop in pairwise(self.offsets)]


class Tokenizer(Protocol):
    """The part of an encoder that chunking needs; loads without torch."""

    max_tokens: int
    """Token limit of one text, special tokens included."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, special tokens included, without truncation."""
        ...


class Encoder(Protocol):
    """A late-interaction encoder. Both forms run the base model once per text."""

    name: str
    identity: str
    """Hash of weights, tokenizer and every setting that changes vectors."""
    dim: int
    pooled_dim: int
    max_tokens: int

    def encode_passages(self, texts: Sequence[str]) -> Encoded:
        """Passage form: vectors of punctuation tokens are dropped from `tokens` (kept in pooling)."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        """Query form: every token is kept."""
        ...
