"""MaxSim with gradients, the ColTrast loss, and gradient caching, against plain formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from training_helpers import gradients_of, made_pairs, tiny_model, tiny_settings, trainer

from hiperrag.encoders.training.losses import Labels, Vectors, contrastive_loss, late_interaction_loss
from hiperrag.encoders.training.maxsim import maxsim
from hiperrag.encoders.training.sampling import Order

QUERY_LENGTHS = [3, 1, 5, 2]
PASSAGE_LENGTHS = [4, 9, 1, 6, 6]


def _rows(lengths: list[int], dim: int = 8, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    rows = functional.normalize(torch.randn(sum(lengths), dim, generator=draw), dim=1)
    return rows.requires_grad_()


def _plain_maxsim(queries: Tensor, passages: Tensor) -> Tensor:
    rows = []
    for query in queries.split(QUERY_LENGTHS):
        rows.append(torch.stack([(query @ p.T).max(1).values.mean() for p in passages.split(PASSAGE_LENGTHS)]))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "bert")


@pytest.mark.parametrize("chunk_scores", [1, 60, 1 << 20])
def test_maxsim_and_its_gradients_are_those_of_the_plain_formula(chunk_scores: int) -> None:
    queries, passages = _rows(QUERY_LENGTHS), _rows(PASSAGE_LENGTHS, seed=1)
    scores = maxsim(queries, QUERY_LENGTHS, passages, PASSAGE_LENGTHS, chunk_scores)
    weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((scores * weights).sum(), (queries, passages))
    expected_scores = _plain_maxsim(queries, passages)
    expected = torch.autograd.grad((expected_scores * weights).sum(), (queries, passages))
    torch.testing.assert_close(scores, expected_scores, atol=1e-6, rtol=0)
    for mine, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-6, rtol=0)


def test_padding_never_beats_a_negative_similarity() -> None:
    query = torch.tensor([[1.0, 0.0]])
    passages = torch.tensor([[-1.0, 0.0], [-0.5, 0.1], [-0.6, 0.2]])
    assert maxsim(query, [1], passages, [1, 2]).tolist() == [[-1.0, -0.5]]


def test_texts_without_vectors_score_minus_infinity_and_get_no_gradient() -> None:
    queries, passages = _rows([2, 0]), _rows([3, 0, 2])
    scores = maxsim(queries, [2, 0], passages, [3, 0, 2])
    assert scores[0].isfinite().tolist() == [True, False, True]
    assert not scores[1].isfinite().any()
    scores[scores.isfinite()].sum().backward()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()


def _labels(
    queries: list[int], texts: list[int], documents: list[int], hard: dict[int, list[int]] | None = None
) -> Labels:
    rows = torch.tensor([queries, texts, documents]).T
    negatives = [(owner, slot, text) for owner, given in (hard or {}).items() for slot, text in enumerate(given, 1)]
    passages = torch.cat([rows, torch.tensor([[0, text, 0] for _, _, text in negatives], dtype=torch.long).view(-1, 3)])
    owners = torch.tensor([*range(len(rows)), *(owner for owner, _, _ in negatives)])
    slots = torch.tensor([*[0] * len(rows), *(slot for _, slot, _ in negatives)])
    return Labels(rows, passages, owners, slots)


def test_right_answers_are_no_negatives() -> None:
    # Rows 0 and 1 share a document, 0 and 2 a query; a hard negative of row 3 is the positive of row 1.
    labels = _labels([1, 2, 1, 4], [11, 12, 13, 14], [21, 21, 23, 24], {3: [12, 99]})
    forbidden = labels.forbidden(slice(None), torch.arange(6))
    assert [row.nonzero()[:, 0].tolist() for row in forbidden] == [[1, 2], [0, 4], [0], []]


def test_late_loss_is_the_cross_entropy_of_what_is_not_masked() -> None:
    queries, passages = _rows([2, 3]), _rows([4, 2, 3], seed=3)
    labels = _labels([1, 2], [11, 12], [21, 22], {0: [99]})
    loss = late_interaction_loss(
        Vectors(queries, [2, 3], queries), Vectors(passages, [4, 2, 3], passages), labels, torch.tensor(0.1)
    )
    scores = maxsim(queries, [2, 3], passages, [4, 2, 3]) / 0.1
    torch.testing.assert_close(loss, functional.cross_entropy(scores, torch.arange(2), reduction="sum"))


def test_distillation_follows_the_teacher_where_it_spoke() -> None:
    queries, passages = _rows([2, 3]), _rows([4, 2, 3], seed=3)
    labels = _labels([1, 2], [11, 12], [21, 22], {0: [99]})
    teacher = torch.tensor([[3.0, 1.0], [torch.nan, torch.nan]])
    labels = Labels(labels.rows, labels.passages, labels.owners, labels.slots, teacher)
    loss = late_interaction_loss(
        Vectors(queries, [2, 3], queries), Vectors(passages, [4, 2, 3], passages), labels, torch.tensor(0.1), 1.0
    )
    scores = maxsim(queries, [2, 3], passages, [4, 2, 3]) / 0.1
    target, ours = teacher[0].softmax(0), scores[0, [0, 2]].log_softmax(0)
    expected = (target * (target.log() - ours)).sum() + functional.cross_entropy(scores[1:], torch.tensor([1]))
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, queries)
    assert gradient.isfinite().all()


def test_contrastive_loss_takes_n_of_w_positives_and_all_hard_negatives() -> None:
    pooled = functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    queries = functional.normalize(torch.randn(2, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    labels = _labels([1, 2, 3, 4], [11, 12, 13, 14], [21, 22, 23, 24], {0: [97], 1: [98]})
    loss = contrastive_loss(queries, pooled, labels, torch.tensor(0.5), slice(2, 4), samples=3)
    scores = queries @ pooled.T / 0.5
    kept = [[2, 3, 0, 4, 5], [3, 0, 1, 4, 5]]  # the row's own first, those that follow it, hard negatives
    expected = sum(-scores[row, columns].log_softmax(0)[0] for row, columns in enumerate(kept))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("loss", ["coltrast", "contrastive", "late"])
def test_cached_gradients_equal_those_with_kept_activations(bert: Path, tmp_path: Path, loss: str) -> None:
    pairs = made_pairs(24, negatives=2)
    options = {"loss": loss, "learn_temperature": True, "hard_negatives": 2, "distillation": 0.5, "block": 8}
    plain, cached = (
        gradients_of(trainer(tiny_settings(bert, cache_gradients=cache, **options), pairs, tmp_path))
        for cache in (False, True)
    )
    assert plain.keys() == cached.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(cached[name], gradient, atol=1e-6, rtol=0, msg=name)


def test_cached_gradients_draw_the_same_dropout(bert: Path, tmp_path: Path) -> None:
    pairs = made_pairs(16)
    options = {"dropout": 0.3, "chunk_tokens": 10_000}
    plain, cached, dry = (
        gradients_of(trainer(tiny_settings(bert, **given), pairs, tmp_path))
        for given in (
            options | {"cache_gradients": False},
            options | {"cache_gradients": True},
            {"cache_gradients": False},
        )
    )
    for name, gradient in plain.items():
        torch.testing.assert_close(cached[name], gradient, atol=1e-6, rtol=0)
    assert any((plain[name] - dry[name]).abs().max() > 1e-4 for name in plain)


def test_gradients_are_those_of_transformers_with_padding(bert: Path, tmp_path: Path) -> None:
    """The forward pass without padding, chunked and sorted, against the model's own over one padded batch."""
    pairs = made_pairs(8)
    made = trainer(tiny_settings(bert, block=8), pairs, tmp_path)
    found = gradients_of(made)
    rows = made._order.rows(0)
    encoder = made.encoder
    encoder.zero_grad()
    vectors = []
    for texts in (
        made._reader.queries([pairs[row].query for row in rows]),
        made._reader.passages([pairs[row].positive for row in rows]),
    ):
        width = max(len(text.ids) for text in texts)
        ids = torch.stack([functional.pad(text.ids, (0, width - len(text.ids))) for text in texts])
        mask = torch.stack([torch.arange(width) < len(text.ids) for text in texts])
        hidden = encoder.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        pooled = functional.normalize((hidden * mask[..., None]).sum(1) / mask.sum(1)[:, None], dim=1)
        tokens = functional.normalize(hidden @ encoder.projection.T, dim=2)
        vectors.append(([row[: len(text.ids)][text.keep] for row, text in zip(tokens, texts, strict=True)], pooled))
    (query_tokens, query_pooled), (passage_tokens, passage_pooled) = vectors
    late = torch.stack([torch.stack([(q @ p.T).max(1).values.mean() for p in passage_tokens]) for q in query_tokens])
    target = torch.arange(8)
    contrastive = functional.cross_entropy(query_pooled @ passage_pooled.T / 0.05, target)
    ((functional.cross_entropy(late / 0.05, target) + contrastive) / 2).backward()
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, atol=2e-5, rtol=1e-4, msg=name)


def test_order_depends_on_seed_and_step_alone() -> None:
    sources = ["a"] * 30 + ["b"] * 13
    order, again = Order(sources, 8, 4, 3), Order(sources, 8, 4, 3)
    steps = [order.rows(step) for step in range(12)]
    assert all(np.array_equal(again.rows(step), steps[step]) for step in (11, 0, 7))
    epoch = np.concatenate(steps[: order.steps_per_epoch])
    assert len(set(epoch.tolist())) == len(epoch) == 40
    assert not np.array_equal(steps[0], order.rows(order.steps_per_epoch))
    blocks = epoch.reshape(-1, 4)
    mixed = [block for block in blocks.tolist() if len({sources[row] for row in block}) > 1]
    assert len(mixed) <= 1
    assert not np.array_equal(Order(sources, 8, 4, 4).rows(0), steps[0])


def test_fewer_pairs_than_a_batch_still_fill_it() -> None:
    assert len(Order(["a"] * 5, 8, 4, 0).rows(3)) == 8
