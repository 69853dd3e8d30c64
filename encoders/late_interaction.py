"""The late-interaction encoder: token vectors (Khattab & Zaharia 2020, ColBERT) and a pooled vector at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hiperrag.encoders.base import Encoded
from hiperrag.encoders.batching import length_sorted_batches
from hiperrag.encoders.config import EncoderConfig
from hiperrag.encoders.measuring import build, token_budget
from hiperrag.encoders.precision import Precision, vectors_identity
from hiperrag.encoders.projecting import load_projection
from hiperrag.encoders.tokenizing import TextTokenizer, Tokenized
from hiperrag.errors import UserError


class LateInteractionEncoder:
    """Encodes passages and queries with one transformer; implements `hiperrag.encoders.base.Encoder`."""

    def __init__(self, folder: Path, name: str, config: EncoderConfig, precision: Precision) -> None:
        self.name = name
        self.config = config
        self.tokenizer = TextTokenizer(folder, config)
        self.precision = precision
        self._forward = build(folder, config, precision)
        limit = self._forward.shape.positions
        if max(config.query_max_tokens, config.passage_max_tokens) > limit:
            raise UserError(f"{folder}: the model has {limit} positions; lower its token limits")
        self._projection = load_projection(folder, config)
        self.pooled_dim = self._forward.shape.hidden
        self.dim = self.pooled_dim if self._projection is None else self._projection.shape[0]
        self.max_tokens = config.passage_max_tokens
        self.identity = vectors_identity(folder, config, precision)
        self._is_special = self._mask(self.tokenizer.special_ids())
        self._is_punctuation = self._mask(self.tokenizer.punctuation_ids())

    def encode_passages(self, texts: Sequence[str]) -> Encoded:
        """Passage form: vectors of punctuation tokens are left out of `tokens` and kept in pooling."""
        prefixed = [self.config.passage_prefix + text for text in texts]
        return self._encode(prefixed, self.config.passage_max_tokens, drop_punctuation=True)

    def encode_queries(self, texts: Sequence[str]) -> Encoded:
        """Query form: punctuation is kept."""
        prefixed = [self.config.query_prefix + text for text in texts]
        return self._encode(prefixed, self.config.query_max_tokens, drop_punctuation=False)

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str], max_tokens: int, drop_punctuation: bool) -> Encoded:
        tokenized = self.tokenizer.tokenize(texts, max_tokens)
        lengths = [len(text.ids) for text in tokenized]
        rows: list[Tensor] = [torch.empty(0)] * len(texts)
        pooled = torch.empty(len(texts), self.pooled_dim)
        for batch in length_sorted_batches(lengths, token_budget()):
            batch_lengths = [lengths[index] for index in batch]
            ids = torch.from_numpy(np.concatenate([tokenized[index].ids for index in batch]))
            hidden = self._forward(ids, batch_lengths).float()
            pooled[batch] = self._pool(hidden, batch_lengths)
            keep = self._kept(ids, drop_punctuation)
            vectors = self._token_vectors(hidden[keep])
            for index, part in zip(batch, torch.split(vectors, _counts(keep, batch_lengths)), strict=True):
                rows[index] = part
        return _collect(rows, pooled, tokenized, self.dim)

    def _pool(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        texts = torch.split(hidden, list(lengths))
        if self.config.pooling == "cls":
            summed = torch.stack([text[0] for text in texts])
        elif self.config.pooling == "last":
            summed = torch.stack([text[-1] for text in texts])
        else:
            summed = torch.stack([text.mean(0) for text in texts])
        return functional.normalize(summed, dim=1)

    def _token_vectors(self, hidden: Tensor) -> Tensor:
        if self._projection is not None:
            hidden = functional.linear(hidden, self._projection)
        return functional.normalize(hidden, dim=1)

    def _kept(self, ids: Tensor, drop_punctuation: bool) -> Tensor:
        keep = torch.ones(ids.shape[0], dtype=torch.bool)
        if not self.config.keep_special_tokens:
            keep &= ~self._is_special[ids]
        if drop_punctuation:
            keep &= ~self._is_punctuation[ids]
        return keep

    def _mask(self, ids: Sequence[int]) -> Tensor:
        mask = torch.zeros(self.tokenizer.vocabulary_size, dtype=torch.bool)
        mask[list(ids)] = True
        return mask


def _counts(keep: Tensor, lengths: Sequence[int]) -> list[int]:
    return [int(part.sum()) for part in torch.split(keep, list(lengths))]


def _collect(rows: list[Tensor], pooled: Tensor, tokenized: list[Tokenized], dim: int) -> Encoded:
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([row.shape[0] for row in rows], out=offsets[1:])
    tokens = torch.cat(rows) if rows else torch.empty(0, dim)
    truncated = np.array([text.truncated for text in tokenized], dtype=np.bool_)
    return Encoded(tokens.numpy(), offsets, pooled.numpy(), truncated)
