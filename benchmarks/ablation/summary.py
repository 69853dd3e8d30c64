"""From each query's figures to means, intervals, and paired differences, for each set and over the sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hiperrag.benchmarks.ablation.scoring import CANDIDATES, MEASURES, RANKINGS
from hiperrag.benchmarks.evaluation.statistics import resampled_means

MEAN = "mean of the sets"
FIGURES = [(ranking, measure) for ranking in RANKINGS for measure in MEASURES] + [("pooled", CANDIDATES)]
Floats = npt.NDArray[np.float64]
Evaluations = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What `scoring.evaluate` gave, by variant and set."""


def summarise(evaluations: Evaluations, references: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """For each set, and for the mean over them, each variant's figures and its differences to the references.

    Intervals are of the 95% percentile bootstrap over queries (Efron & Tibshirani 1993, chapter 13), within each set
    where sets are averaged, all variants on the same samples. They do not cover what another training seed would do.
    """
    variants = list(evaluations)
    sets = list(next(iter(evaluations.values())))
    references = [name for name in references if name in evaluations]
    means, samples, counts = [], [], []
    for number, name in enumerate(sets):
        values = _columns([evaluations[variant][name]["figures"] for variant in variants])
        means.append(values.mean(axis=0))
        samples.append(resampled_means(values, seed + number))
        counts.append(len(values))
    found = {
        name: _of_set(variants, references, means[number], samples[number], counts[number])
        for number, name in enumerate(sets)
    }
    if len(sets) > 1:
        found[MEAN] = _of_set(
            variants, references, np.mean(means, axis=0), np.mean(np.stack(samples), axis=0), sum(counts)
        )
    return found


def _columns(figures: Sequence[Mapping[str, Mapping[str, Sequence[float]]]]) -> Floats:
    """(queries, variants x FIGURES)."""
    return np.array([one[ranking][measure] for one in figures for ranking, measure in FIGURES], dtype=np.float64).T


def _of_set(
    variants: Sequence[str], references: Sequence[str], means: Floats, samples: Floats, n: int
) -> dict[str, Any]:
    width = len(FIGURES)
    at = {name: slice(number * width, (number + 1) * width) for number, name in enumerate(variants)}
    found: dict[str, Any] = {}
    for name in variants:
        found[name] = {"n": n, "figures": _intervals(means[at[name]], samples[:, at[name]]), "against": {}}
        for other in references:
            if other != name:
                differences = means[at[name]] - means[at[other]], samples[:, at[name]] - samples[:, at[other]]
                found[name]["against"][other] = _intervals(*differences)
    return found


def _intervals(means: Floats, samples: Floats) -> dict[str, dict[str, dict[str, float]]]:
    low, high = np.percentile(samples, [2.5, 97.5], axis=0)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for number, (ranking, measure) in enumerate(FIGURES):
        values = {"mean": means[number], "low": low[number], "high": high[number]}
        found.setdefault(ranking, {})[measure] = {name: round(float(value), 5) for name, value in values.items()}
    return found
