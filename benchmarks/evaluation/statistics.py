"""Intervals and paired tests; small enough to read, checked against scikit-learn and SciPy by the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
_BLOCK = 1_000_000
Floats = npt.NDArray[np.float64]


def mean_interval(values: Sequence[float] | Floats, seed: int = 0) -> dict[str, float | int | None]:
    """Mean with its 95% percentile bootstrap interval over items (Efron & Tibshirani 1993, chapter 13)."""
    found = np.asarray(values, dtype=np.float64)
    if not len(found):
        return {"mean": None, "low": None, "high": None, "n": 0}
    low, high = np.percentile(_resampled_means(found, seed), [2.5, 97.5])
    return {"mean": float(found.mean()), "low": float(low), "high": float(high), "n": len(found)}


def resampled_means(values: Floats, seed: int = 0) -> Floats:
    """Means of the columns of `values` (n, m) in every bootstrap sample of its rows: (RESAMPLES, m).

    The columns are resampled together, so differences between them are paired.
    """
    n = len(values)
    rng = np.random.default_rng(seed)
    at_a_time = max(1, _BLOCK // n)
    blocks = []
    for start in range(0, RESAMPLES, at_a_time):
        counts = rng.multinomial(n, np.full(n, 1 / n), min(at_a_time, RESAMPLES - start))
        blocks.append(counts.astype(np.float64) @ values / n)
    return np.concatenate(blocks)


def macro_f1(gold: Sequence[int], answers: Sequence[int | None], n_labels: int) -> float:
    """Mean over labels of F1 (0 for a label never given and never right); no answer is no label's prediction."""
    return float(_macro_f1(_confusion(gold, answers, n_labels)[None])[0])


def macro_f1_interval(
    gold: Sequence[int], answers: Sequence[int | None], n_labels: int, seed: int = 0
) -> dict[str, float | int | None]:
    """Macro-F1 with its 95% bootstrap interval: resampling items is resampling cells of the confusion matrix."""
    if not gold:
        return {"mean": None, "low": None, "high": None, "n": 0}
    counts = _confusion(gold, answers, n_labels)
    draws = np.random.default_rng(seed).multinomial(len(gold), counts.ravel() / len(gold), RESAMPLES)
    low, high = np.percentile(_macro_f1(draws.reshape(-1, *counts.shape)), [2.5, 97.5])
    return {"mean": float(_macro_f1(counts[None])[0]), "low": float(low), "high": float(high), "n": len(gold)}


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> dict[str, float | int]:
    """McNemar's exact test (1947) of two runs on the same items: how many only one got right, and the p-value."""
    from scipy.stats import binomtest

    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": float(p)}


def paired_bootstrap(a: Sequence[float], b: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Mean of b - a over the same items, its 95% interval, and a two-sided p-value.

    The p-value comes from the bootstrap distribution shifted to a mean of 0 (Efron & Tibshirani 1993, section 16.4).
    """
    difference = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    interval = mean_interval(difference, seed)
    if not len(difference):
        return interval | {"p": None}
    centred = _resampled_means(difference - difference.mean(), seed)
    extreme = np.count_nonzero(np.abs(centred) >= abs(difference.mean()) - 1e-12)
    return interval | {"p": float((extreme + 1) / (RESAMPLES + 1))}


def _resampled_means(values: Floats, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    at_a_time = max(1, _BLOCK // len(values))
    blocks = []
    for start in range(0, RESAMPLES, at_a_time):
        rows = min(at_a_time, RESAMPLES - start)
        blocks.append(values[rng.integers(0, len(values), (rows, len(values)))].mean(axis=1))
    return np.concatenate(blocks)


def _confusion(gold: Sequence[int], answers: Sequence[int | None], n_labels: int) -> npt.NDArray[np.int64]:
    """Items by gold label and answer; the last column is for no answer."""
    counts = np.zeros((n_labels, n_labels + 1), dtype=np.int64)
    for right, answer in zip(gold, answers, strict=True):
        counts[right, n_labels if answer is None else answer] += 1
    return counts


def _macro_f1(counts: npt.NDArray[Any]) -> Floats:
    """Macro-F1 of confusion matrices (n, labels, labels + 1)."""
    n_labels = counts.shape[1]
    right = counts[:, range(n_labels), range(n_labels)].astype(np.float64)
    given, wanted = counts[:, :, :n_labels].sum(axis=1), counts.sum(axis=2)
    scores: Floats = (2 * right / np.maximum(given + wanted, 1)).mean(axis=1)
    return scores
