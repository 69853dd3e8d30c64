"""The encoder in training: token ids to token and pooled vectors, in chunks, with or without kept activations."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from hiperrag.encoders.batching import length_sorted_batches
from hiperrag.encoders.config import EncoderConfig
from hiperrag.encoders.tokenizing import TextTokenizer
from hiperrag.encoders.training.backbone import Backbone, backbone
from hiperrag.encoders.training.losses import Vectors
from hiperrag.errors import UserError

Ids = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """Token ids of one text, and which of its rows become token vectors."""

    ids: Tensor
    keep: Tensor


class TextReader:
    """Texts to ids, by the rules of the encoder that will use the adapter."""

    def __init__(self, folder: Path, config: EncoderConfig, query_tokens: int, passage_tokens: int) -> None:
        self._tokenizer = TextTokenizer(folder, config)
        self._config = config
        self._limits = query_tokens, passage_tokens
        self._special = self._mask(self._tokenizer.special_ids())
        self._punctuation = self._mask(self._tokenizer.punctuation_ids())

    def queries(self, texts: Sequence[str]) -> list[Text]:
        """Query form: punctuation is kept."""
        return self._read([self._config.query_prefix + text for text in texts], self._limits[0], drop=False)

    def passages(self, texts: Sequence[str]) -> list[Text]:
        """Passage form: no token vectors of punctuation."""
        return self._read([self._config.passage_prefix + text for text in texts], self._limits[1], drop=True)

    def _read(self, texts: list[str], limit: int, drop: bool) -> list[Text]:
        read = []
        for tokenized in self._tokenizer.tokenize(texts, limit):
            ids = torch.from_numpy(tokenized.ids)
            keep = torch.ones(len(ids), dtype=torch.bool)
            if not self._config.keep_special_tokens:
                keep &= ~self._special[ids]
            if drop:
                keep &= ~self._punctuation[ids]
            read.append(Text(ids, keep))
        return read

    def _mask(self, ids: Sequence[int]) -> Tensor:
        mask = torch.zeros(self._tokenizer.vocabulary_size, dtype=torch.bool)
        mask[list(ids)] = True
        return mask


class TrainedEncoder(nn.Module):
    """A transformer with its adapter, the token projection, and the two temperatures."""

    def __init__(
        self, model: nn.Module, pooling: str, projection: Tensor | None, temperatures: tuple[float, float]
    ) -> None:
        super().__init__()
        self.model = model
        self.projection = None if projection is None else nn.Parameter(projection.clone())
        self.log_temperatures = nn.Parameter(torch.log(torch.tensor(temperatures)), requires_grad=False)
        self._pooling = pooling
        self._run: Backbone = backbone(model)

    @property
    def temperatures(self) -> Tensor:
        """Of the late-interaction and the contrastive loss; at least 0.01, as in CLIP (Radford et al. 2021)."""
        return self.log_temperatures.exp().clamp(min=0.01)

    def forward(self, texts: Sequence[Text]) -> tuple[Tensor, Tensor]:
        """Token vectors of the kept rows, end to end, and pooled vectors; all of unit norm, float32."""
        device = self.log_temperatures.device
        lengths = [len(text.ids) for text in texts]
        hidden = self._run(torch.cat([text.ids for text in texts]).to(device), lengths).float()
        keep = torch.cat([text.keep for text in texts]).to(device)
        tokens = hidden[keep]
        if self.projection is not None:
            tokens = functional.linear(tokens, self.projection)
        return functional.normalize(tokens, dim=1), functional.normalize(self._pool(hidden, lengths), dim=1)

    def _pool(self, hidden: Tensor, lengths: list[int]) -> Tensor:
        counts = torch.tensor(lengths, device=hidden.device)
        if self._pooling == "cls":
            return hidden[counts.cumsum(0) - counts]
        if self._pooling == "last":
            return hidden[counts.cumsum(0) - 1]
        owners = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), counts)
        sums = hidden.new_zeros(len(lengths), hidden.shape[1]).index_add(0, owners, hidden)
        return sums / counts[:, None]


class Encoding:
    """Texts encoded chunk by chunk, and the way back from gradients of their vectors to those of the parameters.

    With `cache`, activations are not kept: each chunk is encoded again for its backward pass (Gao et al. 2021,
    "Scaling deep contrastive learning batch size under memory limited setup", algorithm 1), so that memory does not
    depend on the number of texts. Dropout is drawn from `seed` and the chunk, and so is the same both times.
    """

    def __init__(
        self,
        encoder: TrainedEncoder,
        texts: Sequence[Text],
        chunk_tokens: int,
        seed: int,
        precision: torch.dtype,
        cache: bool,
    ) -> None:
        self._encoder, self._texts, self._cache = encoder, texts, cache
        self._seed, self._precision = seed, precision
        self._chunks = length_sorted_batches([len(text.ids) for text in texts], chunk_tokens)
        with torch.no_grad() if cache else contextlib.nullcontext():
            self._outputs = [self._encode(number) for number in range(len(self._chunks))]
        self.vectors = self._collected()

    def backward(self) -> None:
        """Add to the parameters' gradients what `vectors.tokens.grad` and `vectors.pooled.grad` come to."""
        for number, (rows, texts) in enumerate(self._places()):
            outputs = self._encode(number) if self._cache else self._outputs[number]
            gradients = self._gradient(self.vectors.tokens, rows), self._gradient(self.vectors.pooled, texts)
            pairs = [
                (output, gradient)
                for output, gradient in zip(outputs, gradients, strict=True)
                if output.requires_grad and gradient is not None
            ]
            if pairs:
                torch.autograd.backward([output for output, _ in pairs], [gradient for _, gradient in pairs])

    def _encode(self, chunk: int) -> tuple[Tensor, Tensor]:
        device = self._encoder.log_temperatures.device
        torch.manual_seed((self._seed * 1_000_003 + chunk) % 2**63)
        half = self._precision == torch.bfloat16
        with torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext():
            tokens, pooled = self._encoder([self._texts[index] for index in self._chunks[chunk]])
        return tokens, pooled

    def _collected(self) -> Vectors:
        """All vectors in the order of the texts, as leaves that gather the loss's gradients."""
        lengths = [int(text.keep.sum()) for text in self._texts]
        first_tokens, first_pooled = self._outputs[0]
        tokens = first_tokens.new_empty(sum(lengths), first_tokens.shape[1])
        pooled = first_pooled.new_empty(len(self._texts), first_pooled.shape[1])
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        with torch.no_grad():
            for (rows, texts), outputs in zip(self._places(), self._outputs, strict=True):
                tokens[rows], pooled[texts] = outputs
        return Vectors(tokens.requires_grad_(), lengths, pooled.requires_grad_())

    def _places(self) -> Iterator[tuple[Tensor, Tensor]]:
        """For each chunk, which rows of the collected token vectors and which of the pooled ones are its."""
        for chunk in self._chunks:
            rows = np.concatenate([np.arange(self._starts[index], self._starts[index + 1]) for index in chunk])
            yield torch.from_numpy(rows), torch.tensor(chunk)

    @staticmethod
    def _gradient(leaf: Tensor, rows: Tensor) -> Tensor | None:
        return None if leaf.grad is None else leaf.grad[rows.to(leaf.device)]


def starting_projection(encoder: TrainedEncoder, texts: Sequence[Text], dim: int, chunk_tokens: int) -> Tensor:
    """(dim, hidden): the directions in which token vectors of `texts` vary most (uncentred PCA of unit vectors).

    Inner products then start as close to those of the whole vectors as a linear map can keep them.
    """
    moments = torch.zeros(0)
    for chunk in length_sorted_batches([len(text.ids) for text in texts], chunk_tokens):
        with torch.no_grad():
            tokens, _ = encoder([texts[index] for index in chunk])
        product = (tokens.T @ tokens).double()
        moments = moments + product if len(moments) else product
    if dim > len(moments):
        raise UserError(f"--dim {dim}: the base model's token vectors have {len(moments)} dimensions")
    _, vectors = torch.linalg.eigh(moments.cpu())
    leading = vectors.T[-dim:].flip(0)
    # An eigenvector's sign is arbitrary: the largest entry is made positive so that every machine starts alike.
    signs = leading.gather(1, leading.abs().argmax(1, keepdim=True)).sign()
    start: Tensor = (leading * signs).float().contiguous()
    return start
