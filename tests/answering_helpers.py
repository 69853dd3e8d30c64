"""Stand-ins that the answering tests share."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from hiperrag.answering.hits import Hit
from hiperrag.encoders.base import Encoded
from hiperrag.records import Passage


class WordEncoder:
    """One random but fixed vector a word: MaxSim is then the share of words in common."""

    name = identity = "words"
    dim = pooled_dim = 64
    max_tokens = 256

    def encode_passages(self, texts: Sequence[str]) -> Encoded:
        rows = [[self._vector(word) for word in re.findall(r"\w+", text.lower())] for text in texts]
        flat = [vector for row in rows for vector in row]
        tokens = np.array(flat, dtype=np.float32).reshape(-1, self.dim)
        offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
        pooled = np.zeros((len(texts), self.dim), np.float32)
        return Encoded(tokens, offsets, pooled, np.zeros(len(texts), np.bool_))

    encode_queries = encode_passages

    def _vector(self, word: str) -> np.ndarray:
        vector = np.random.default_rng(list(word.encode())).normal(size=self.dim)
        return vector / np.linalg.norm(vector)


def make_hits(texts: Sequence[str]) -> list[Hit]:
    return [
        Hit(
            rank=n,
            score=10.0 - n,
            passage=Passage(f"p{n}", f"d{n}", f"paper{n}.pdf", f"Paper {n}", 0, "paragraph", "", text, n, n, [], 30),
        )
        for n, text in enumerate(texts, start=1)
    ]
