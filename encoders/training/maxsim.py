"""MaxSim between all queries and all passages of a batch, with gradients, in bounded memory.

scores[i, j] = mean over the tokens of query i of the best inner product with a token of passage j
(Khattab & Zaharia 2020, ColBERT, eq. 3, divided by the number of query tokens).

Inner products are computed for a few passages at a time and thrown away; what is kept for the backward pass is which
token of each passage was best for each query token. Its gradient is sparse, so the backward pass costs
O(query tokens x passages x dim), not as much as the forward pass again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_SCORES = 1 << 22
"""Inner products held at a time: 16 MiB in float32."""
_CHUNK_ROWS = 1 << 15
"""Rows of the gradient added up at a time."""


def maxsim(
    queries: Tensor,
    query_lengths: Sequence[int],
    passages: Tensor,
    passage_lengths: Sequence[int],
    chunk_scores: int = CHUNK_SCORES,
) -> Tensor:
    """Scores (n_queries, n_passages) in float32, differentiable in both kinds of token vectors.

    queries: (sum of query_lengths, dim), the queries' token vectors end to end; passages likewise. A text without
    token vectors scores -inf against everything. At most `chunk_scores` inner products exist at a time, but never fewer
    than those of one passage.

    >>> q, p = torch.eye(3)[:2], torch.eye(3)
    >>> maxsim(q, [2], p, [1, 2])
    tensor([[0.5000, 0.5000]])
    """
    counts = torch.tensor(query_lengths, device=queries.device)
    lengths = tuple(passage_lengths)
    best: Tensor = _BestInnerProducts.apply(queries, passages, lengths, chunk_scores)  # type: ignore[no-untyped-call]
    owners = torch.repeat_interleave(torch.arange(len(query_lengths), device=queries.device), counts)
    sums = best.new_zeros(len(query_lengths), len(passage_lengths)).index_add(0, owners, best)
    scores = sums / counts.clamp(min=1)[:, None]
    if 0 in query_lengths:
        scores = scores.masked_fill(counts[:, None] == 0, -torch.inf)
    return scores


class _BestInnerProducts(torch.autograd.Function):
    """(n_query_tokens, n_passages): for each query token its best inner product with a token of each passage."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, passages: Tensor, lengths: tuple[int, ...], chunk_scores: int) -> Tensor:
        ctx.type = passages.dtype
        queries, passages = queries.float(), passages.float()
        best = queries.new_full((len(queries), len(lengths)), -torch.inf)
        winners = torch.zeros(len(queries), len(lengths), dtype=torch.int32, device=queries.device)
        for rows, columns, empty in _padded_chunks(lengths, max(1, chunk_scores // max(1, len(queries)))):
            index = torch.tensor(rows, device=queries.device)
            block = passages[index.flatten()]
            products = (queries @ block.T).view(len(queries), *index.shape)
            if empty:
                # -inf, never 0: a padded token would beat a negative similarity.
                absent = torch.tensor([[row == -1 for row in text] for text in rows], device=queries.device)
                products = products.masked_fill_(absent, -torch.inf)
            top, place = products.max(dim=2)
            best[:, columns] = top
            winners[:, columns] = index.expand(len(queries), -1, -1).gather(2, place[..., None])[..., 0].int()
        ctx.save_for_backward(queries, passages, winners)
        ctx.empty = [column for column, length in enumerate(lengths) if not length]
        return best

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        queries, passages, winners = ctx.saved_tensors
        (gradient,) = gradients
        if ctx.empty:
            gradient = gradient.clone()
            gradient[:, ctx.empty] = 0
        of_queries = functional.embedding_bag(
            winners.long(), passages, mode="sum", per_sample_weights=gradient.contiguous()
        )
        of_passages = torch.zeros_like(passages)
        step = max(1, _CHUNK_ROWS // max(1, winners.shape[1]))
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            rows = (gradient[part, :, None] * queries[part, None, :]).flatten(0, 1)
            of_passages.index_add_(0, winners[part].flatten().long(), rows)
        return of_queries.to(ctx.type), of_passages.to(ctx.type), None, None


def _padded_chunks(lengths: tuple[int, ...], budget: int) -> Iterator[tuple[list[list[int]], list[int], bool]]:
    """Rows of the token vectors of some passages, padded with -1 to equal length, and which passages these are.

    Passages of similar length come together. A chunk has at most `budget` rows, or one passage.
    """
    starts = [0, *accumulate(lengths)]
    order = sorted((column for column, length in enumerate(lengths) if length), key=lambda column: lengths[column])
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and (last + 1 - first) * lengths[order[last]] <= budget:
            last += 1
        columns = order[first:last]
        width = lengths[columns[-1]]
        rows = [[*range(starts[column], starts[column + 1]), *[-1] * (width - lengths[column])] for column in columns]
        yield rows, columns, any(lengths[column] < width for column in columns)
        first = last
