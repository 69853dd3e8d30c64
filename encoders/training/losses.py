"""The ColTrast loss: L = (L_LI + L_C) / 2 (HiPerRAG, arXiv 2505.04846, section on encoder fine-tuning).

L_LI is the cross-entropy of the right passage among those of the local batch, by MaxSim (Khattab & Zaharia 2020,
ColBERT). L_C is that among passages gathered over the ranks, by the cosine of pooled vectors (as in Gao, Yao & Chen
2021, SimCSE).

Rows that compete in L_LI form a **block**. Blocks are cut from the global batch, so the loss depends neither on the
number of ranks nor on which rank holds a row. Columns that are right answers too (the same text, the same query, a
passage of the same document) are masked by -inf.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from hiperrag.encoders.training.maxsim import maxsim


@dataclasses.dataclass(frozen=True, slots=True)
class Labels:
    """What decides which passage is right for which row. Row i's own positive is passage i; negatives follow.

    rows: (n_rows, 3) int64 hashes of each row's query, positive text and document.
    passages: (n_passages, 3) the same of the row a positive belongs to; of a hard negative (0, its text, 0).
    owners, slots: (n_passages,) the row that a passage was given for, and its place there: 0 is the positive.
    teacher: (n_rows, k) the teacher's scores of a row's positive and its k - 1 negatives, nan where it gave none.
    """

    rows: Tensor
    passages: Tensor
    owners: Tensor
    slots: Tensor
    teacher: Tensor | None = None

    def forbidden(self, rows: slice, columns: Tensor) -> Tensor:
        """(n, m) True where column j holds another right answer of row i; `columns` are passages' indices."""
        n_rows = len(self.rows)
        mine, theirs = self.rows[rows], self.passages[columns]
        same_text = mine[:, None, 1] == theirs[None, :, 1]
        positive = columns[None, :] < n_rows
        related = (mine[:, None, 0] == theirs[None, :, 0]) | (mine[:, None, 2] == theirs[None, :, 2])
        own = torch.arange(n_rows, device=columns.device)[rows][:, None] == columns[None, :]
        return (same_text | (positive & related)) & ~own


@dataclasses.dataclass(slots=True)
class Vectors:
    """Encoded texts, end to end: tokens (sum of lengths, dim), lengths, pooled (n_texts, pooled_dim)."""

    tokens: Tensor
    lengths: list[int]
    pooled: Tensor


def late_interaction_loss(
    queries: Vectors, passages: Vectors, labels: Labels, temperature: Tensor, distillation: float = 0.0
) -> Tensor:
    """Sum over the block's rows of the cross-entropy by MaxSim over `temperature`.

    With `distillation` > 0, that share of the loss is the KL divergence from the teacher's softmax over a row's own
    passages to ours, where the teacher gave scores.
    """
    scores = maxsim(queries.tokens, queries.lengths, passages.tokens, passages.lengths) / temperature
    columns = torch.arange(len(labels.passages), device=scores.device)
    masked = scores.masked_fill(labels.forbidden(slice(None), columns), -torch.inf)
    targets = torch.arange(len(labels.rows), device=scores.device)
    losses = functional.cross_entropy(masked, targets, reduction="none")
    if distillation and labels.teacher is not None:
        taught, divergence = _divergence(scores, labels)
        losses = torch.where(taught, (1 - distillation) * losses + distillation * divergence, losses)
    return losses.sum()


def contrastive_loss(
    queries: Tensor, passages: Tensor, labels: Labels, temperature: Tensor, rows: slice, samples: int | None = None
) -> Tensor:
    """Sum over `rows` of the cross-entropy of pooled cosines over `temperature`.

    queries: (rows, dim) of these rows; passages: (W + hard negatives, dim) of all ranks, whose labels `labels` has.
    Each row is compared with min(`samples`, W) positives (its own, and those that follow it in the global batch) and
    with all hard negatives.
    """
    n_rows = len(labels.rows)
    columns = torch.arange(len(labels.passages), device=queries.device)
    scores = queries @ passages.T / temperature
    excluded = labels.forbidden(rows, columns)
    targets = torch.arange(n_rows, device=queries.device)[rows]
    if samples is not None and samples < n_rows:
        distance = (columns[None, :] - targets[:, None]) % n_rows
        excluded = excluded | ((columns[None, :] < n_rows) & (distance >= samples))
    return functional.cross_entropy(scores.masked_fill(excluded, -torch.inf), targets, reduction="sum")


def _divergence(scores: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """Which rows have a teacher's scores, and KL(teacher || ours) over the row's own passages: two of (n_rows,)."""
    teacher = labels.teacher
    assert teacher is not None
    columns = torch.arange(len(labels.passages), device=scores.device)
    given = labels.slots < teacher.shape[1]
    places = labels.owners[given], labels.slots[given]
    ours = torch.full_like(teacher, -torch.inf).index_put(places, scores[labels.owners[given], columns[given]])
    known = ~teacher.isnan() & ours.isfinite()
    taught = known.sum(1) > 1
    # Rows that were not taught get equal scores, so that their divergence, which nobody reads, has a gradient of 0.
    ours = torch.where(taught[:, None], ours.masked_fill(~known, -torch.inf), 0.0).log_softmax(1)
    target = torch.where(taught[:, None], teacher.masked_fill(~known, -torch.inf), 0.0).log_softmax(1)
    terms = target.exp() * (target - ours)
    return taught, terms.masked_fill(taught[:, None] & ~known, 0.0).sum(1)
