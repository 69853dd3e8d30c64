"""From pairs to what a step computes with: texts as ids, and labels of who is right for whom."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hiperrag.encoders.training.losses import Labels, Vectors
from hiperrag.encoders.training.model import Text, TextReader
from hiperrag.encoders.training.pairs import Pair, document_of, text_hash
from hiperrag.encoders.training.ranks import Ranks
from hiperrag.encoders.training.settings import TrainSettings


@dataclasses.dataclass(frozen=True, slots=True)
class _Side:
    """Passages of some rows in the order positives, negatives: their hashes, owners and places."""

    passages: Tensor
    owners: Tensor
    slots: Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """A rank's share of a batch: whole blocks of consecutive rows.

    texts: queries of its rows, then their positives, then hard negatives in the order of rows.
    """

    texts: list[Text]
    rows: range
    """Which rows of the batch these are."""
    block_rows: int
    batch_rows: npt.NDArray[np.int64]
    pairs: list[Pair]
    negatives: list[int]
    """Number of hard negatives of every row of the whole batch."""
    teacher_width: int

    @property
    def n_blocks(self) -> int:
        """Blocks of this rank."""
        return len(self.rows) // self.block_rows

    @property
    def rows_in_batch(self) -> slice:
        """The same rows, as a slice of the batch's."""
        return slice(self.rows.start, self.rows.stop)

    def block(self, number: int, vectors: Vectors) -> tuple[Vectors, Vectors, Labels]:
        """Queries, passages and labels of one block."""
        n = len(self.rows)
        local = range(number * self.block_rows, (number + 1) * self.block_rows)
        counts = [self.negatives[row] for row in self.rows]
        first = 2 * n + sum(counts[: local.start])
        hard = range(first, first + sum(counts[local.start : local.stop]))
        passages = [*range(n + local.start, n + local.stop), *hard]
        inside = range(self.rows.start + local.start, self.rows.start + local.stop)
        return _chosen(vectors, list(local)), _chosen(vectors, passages), self._labels(inside, vectors.pooled.device)

    def gathered(self, pooled: Tensor, ranks: Ranks) -> tuple[Tensor, Labels]:
        """Pooled vectors of all passages of the whole batch, positives first, and their labels."""
        n = len(self.rows)
        everyone = [dataclasses.replace(ranks, rank=rank) for rank in range(ranks.size)]
        rows = [_rows(one, len(self.batch_rows), self.block_rows) for one in everyone]
        positives = ranks.gather(pooled[n : 2 * n], [len(part) for part in rows])
        counts = [sum(self.negatives[row] for row in part) for part in rows]
        parts = [positives]
        if any(counts):
            parts.append(ranks.gather(pooled[2 * n :], counts))
        return torch.cat(parts), self._labels(range(len(self.batch_rows)), pooled.device)

    def _labels(self, rows: range, device: torch.device) -> Labels:
        pairs = [self.pairs[row] for row in rows]
        hashes = [[text_hash(pair.query), text_hash(pair.positive), text_hash(document_of(pair))] for pair in pairs]
        hard = [
            (owner, slot, text_hash(text))
            for owner, (row, pair) in enumerate(zip(rows, pairs, strict=True))
            for slot, text in enumerate(pair.negatives[: self.negatives[row]], start=1)
        ]
        owners = [*range(len(rows)), *(owner for owner, _, _ in hard)]
        slots = [*[0] * len(rows), *(slot for _, slot, _ in hard)]
        return Labels(
            rows=torch.tensor(hashes, device=device),
            passages=torch.tensor([*hashes, *([0, text, 0] for _, _, text in hard)], device=device),
            owners=torch.tensor(owners, device=device),
            slots=torch.tensor(slots, device=device),
            teacher=self._teacher(pairs, device),
        )

    def _teacher(self, pairs: list[Pair], device: torch.device) -> Tensor | None:
        if not self.teacher_width or all(pair.teacher_scores is None for pair in pairs):
            return None
        scores = torch.full((len(pairs), self.teacher_width), torch.nan)
        for row, pair in enumerate(pairs):
            given = (pair.teacher_scores or ())[: self.teacher_width]
            scores[row, : len(given)] = torch.tensor(given)
        return scores.to(device)


class BatchReader:
    """Reads the share of a batch that is a rank's."""

    def __init__(self, pairs: list[Pair], reader: TextReader, settings: TrainSettings) -> None:
        self._pairs, self._reader, self._settings = pairs, reader, settings

    def read(self, batch_rows: npt.NDArray[np.int64], ranks: Ranks) -> Batch:
        """`batch_rows`: indices of the pairs of the whole batch."""
        settings = self._settings
        rows = _rows(ranks, len(batch_rows), settings.block_rows)
        pairs = [self._pairs[row] for row in batch_rows]
        mine = [pairs[row] for row in rows]
        texts = self._reader.queries([pair.query for pair in mine])
        hard = [text for pair in mine for text in pair.negatives[: settings.hard_negatives]]
        texts += self._reader.passages([*(pair.positive for pair in mine), *hard])
        return Batch(
            texts=texts,
            rows=rows,
            block_rows=settings.block_rows,
            batch_rows=batch_rows,
            pairs=pairs,
            negatives=[min(settings.hard_negatives, len(pair.negatives)) for pair in pairs],
            teacher_width=1 + settings.hard_negatives if settings.distillation else 0,
        )


def _rows(ranks: Ranks, batch_rows: int, block_rows: int) -> range:
    """A rank's rows of a batch: whole blocks."""
    share = ranks.share(batch_rows // block_rows)
    return range(share.start * block_rows, share.stop * block_rows)


def _chosen(vectors: Vectors, texts: list[int]) -> Vectors:
    """The vectors of some of the texts."""
    starts = np.concatenate([[0], np.cumsum(vectors.lengths)])
    rows = np.concatenate([np.arange(starts[text], starts[text + 1]) for text in texts])
    index = torch.from_numpy(rows).to(vectors.tokens.device)
    return Vectors(
        vectors.tokens.index_select(0, index),
        [vectors.lengths[text] for text in texts],
        vectors.pooled[torch.tensor(texts, device=vectors.pooled.device)],
    )
