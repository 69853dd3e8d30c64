"""Scores to answers where a model's own favour one label: a small head fitted on one half and scored on the other.

Zero-shot likelihoods of yes, no and maybe say more of the words' frequency than of the question. The head is a
multinomial logistic regression over the labels' log-likelihoods: its bias corrects the prior, its weights the scale.
Each half of the items (seeded, at random) is answered by the head that was fitted on the other half, so no item's
label has touched its own answer. Figures made this way are labelled `calibrated` and stand beside the plain ones.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from hiperrag.benchmarks.evaluation.figures import arm_names
from hiperrag.benchmarks.evaluation.statistics import (
    Floats,
    macro_f1_interval,
    mcnemar,
    mean_interval,
    paired_bootstrap,
)

Record = dict[str, Any]
PENALTY = 1.0
"""On half the squared weights, bias left free; features are standardised."""
FEWEST = 40


def calibrate_arms(records: Sequence[Record], labels: Sequence[str], seed: int = 0) -> dict[str, Any] | None:
    """Calibrated figures of every arm with scores, and these arms against each other; None for too few items."""
    names = [name for name in arm_names(records) if len(_scored(records, name)) >= FEWEST]
    if not names:
        return None
    answers = {name: calibrated_answers(records, name, labels, seed) for name in names}
    gold = {record["item_id"]: labels.index(record["options"][record["gold"]]) for record in records}
    comparisons = []
    for a, b in itertools.combinations(names, 2):
        shared = [item for item in answers[a] if item in answers[b]]
        left, right = ([answers[name][item] == gold[item] for item in shared] for name in (a, b))
        comparisons.append(
            {
                "a": a,
                "b": b,
                "n": len(shared),
                "difference": paired_bootstrap(left, right),
                "mcnemar": mcnemar(left, right),
            }
        )
    return {"arms": {name: calibrate(records, name, labels, seed) for name in names}, "comparisons": comparisons}


def calibrate(records: Sequence[Record], arm: str, labels: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Accuracy and macro-F1 of one arm's calibrated answers, beside its plain accuracy over the same items."""
    scored = _scored(records, arm)
    answers = calibrated_answers(records, arm, labels, seed)
    gold = [labels.index(record["options"][record["gold"]]) for record in scored]
    given = [answers[record["item_id"]] for record in scored]
    return {
        "label": "calibrated",
        "n": len(scored),
        "accuracy": mean_interval([answer == right for answer, right in zip(given, gold, strict=True)]),
        "macro_f1": macro_f1_interval(gold, given, len(labels)),
        "uncalibrated": {"accuracy": mean_interval([record["arms"][arm]["correct"] for record in scored])},
    }


def calibrated_answers(records: Sequence[Record], arm: str, labels: Sequence[str], seed: int = 0) -> dict[str, int]:
    """Label of each item by the head of the other half, by item_id."""
    scored = _scored(records, arm)
    features = np.array([_by_label(record, arm, labels) for record in scored])
    gold = np.array([labels.index(record["options"][record["gold"]]) for record in scored])
    order = list(range(len(scored)))
    random.Random(seed).shuffle(order)
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    answers: dict[str, int] = {}
    for fitted, answered in (halves, halves[::-1]):
        head = _Head(features[fitted], gold[fitted], len(labels))
        for i, answer in zip(answered, head.answers(features[answered]), strict=True):
            answers[scored[i]["item_id"]] = int(answer)
    return answers


def _scored(records: Sequence[Record], arm: str) -> list[Record]:
    return [record for record in records if "scores" in record["arms"].get(arm, {})]


def _by_label(record: Record, arm: str, labels: Sequence[str]) -> list[float]:
    """Log-likelihoods in the order of the labels, however the options were shuffled."""
    scores = dict(zip(record["options"], record["arms"][arm]["scores"], strict=True))
    mean = sum(scores.values()) / len(scores)
    return [scores[label] - mean for label in labels]


class _Head:
    """Multinomial logistic regression with an L2 penalty, fitted by L-BFGS."""

    def __init__(self, features: Floats, gold: Any, n_labels: int) -> None:
        from scipy.optimize import minimize

        self._mean, self._scale = features.mean(axis=0), features.std(axis=0) + 1e-9
        self._shape = (features.shape[1] + 1, n_labels)
        inputs, targets = self._inputs(features), np.eye(n_labels)[gold]

        def loss(flat: Floats) -> tuple[float, Floats]:
            weights = flat.reshape(self._shape)
            logits = inputs @ weights
            logits -= logits.max(axis=1, keepdims=True)
            log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            penalised = weights * (np.arange(len(weights)) < len(weights) - 1)[:, None]
            gradient = inputs.T @ (np.exp(log_p) - targets) + PENALTY * penalised
            return float(-(targets * log_p).sum() + PENALTY / 2 * (penalised**2).sum()), gradient.ravel()

        start = np.zeros(self._shape[0] * n_labels)
        self._weights = minimize(loss, start, jac=True, method="L-BFGS-B").x.reshape(self._shape)

    def _inputs(self, features: Floats) -> Floats:
        return np.column_stack([(features - self._mean) / self._scale, np.ones(len(features))])

    def answers(self, features: Floats) -> Any:
        """The likeliest label of each row."""
        return (self._inputs(features) @ self._weights).argmax(axis=1)
