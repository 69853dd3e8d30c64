"""Evaluation: figures agree with scikit-learn, SciPy and ir-measures, and with values worked out by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy import stats

from hiperrag.benchmarks.evaluation import ranking
from hiperrag.benchmarks.evaluation.calibration import calibrate
from hiperrag.benchmarks.evaluation.figures import compare_arms, summarise
from hiperrag.benchmarks.evaluation.harness import agrees, compared
from hiperrag.benchmarks.evaluation.items import Item
from hiperrag.benchmarks.evaluation.leakage import check
from hiperrag.benchmarks.evaluation.statistics import (
    macro_f1,
    macro_f1_interval,
    mcnemar,
    mean_interval,
    paired_bootstrap,
)
from hiperrag.records import Passage

SKLEARN = [(60, 3, 0.23911564625850343), (25, 4, 0.10714285714285714)]
"""Questions, labels, macro-F1."""


def passage(text: str, document: str = "d") -> Passage:
    return Passage("p", "d", document, "", 0, "paragraph", "", text, 0, 0, [], 5)


def record(name: int, *, correct: dict[str, bool | None], hits: str = "", source: str = "s", gold: int = 0):
    """An item with options yes, no, maybe: arms right, wrong or (None) without an answer."""
    answers = {True: gold, False: (gold + 1) % 3, None: None}
    cost = {"wall_s": 1.0, "cpu_s": 2.0, "gpu_s": None, "joules": None}
    arms = {
        arm: {
            "correct": bool(right),
            "answer": answers[right],
            "n_passages": len(hits) if arm.startswith("rag") else 0,
            "n_tokens": 10,
            "n_generated": 1,
            "cost": cost,
        }
        for arm, right in correct.items()
    }
    return {
        "item_id": f"q{name}",
        "options": ["yes", "no", "maybe"],
        "gold": gold,
        "sources": [source] if source else [],
        "source_present": bool(source),
        "hits": [{"document": document} for document in hits],
        "arms": arms,
    }


class TestStatistics:
    @pytest.mark.parametrize(("n", "labels", "reference"), SKLEARN)
    def test_macro_f1_is_scikit_learns(self, n, labels, reference):
        """References: sklearn 1.9.1, f1_score(average="macro", labels=range(labels), zero_division=0)."""
        draw = random.Random(5)
        for wanted_n, wanted_labels, _ in SKLEARN:  # the same draws in the same order as for the reference
            gold = [draw.randrange(wanted_labels - 1) for _ in range(wanted_n)]
            answers = [draw.choice([*range(wanted_labels), None]) for _ in range(wanted_n)]
            if wanted_n == n:
                assert macro_f1(gold, answers, labels) == pytest.approx(reference, abs=1e-12)
                interval = macro_f1_interval(gold, answers, labels)
                assert interval["mean"] == pytest.approx(reference)
                assert interval["low"] < reference < interval["high"]

    def test_interval_of_a_mean_is_scipys(self):
        values = np.random.default_rng(1).normal(3, 2, 80)
        found = mean_interval(values)
        theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=2).confidence_interval
        assert found["mean"] == pytest.approx(values.mean())
        assert found["low"] == pytest.approx(theirs.low, abs=0.03)
        assert found["high"] == pytest.approx(theirs.high, abs=0.03)
        assert mean_interval([])["mean"] is None

    def test_interval_covers_as_often_as_it_says(self):
        draw = np.random.default_rng(3)
        covered = 0
        for seed in range(60):
            found = mean_interval(draw.random(60) < 0.7, seed)
            covered += found["low"] <= 0.7 <= found["high"]
        assert 50 <= covered <= 60  # 57 expected; 50 is four standard deviations off

    def test_mcnemar_by_hand(self):
        a = [True] * 9 + [False] * 1 + [True] * 5
        b = [False] * 9 + [True] * 1 + [True] * 5
        assert mcnemar(a, b) == {"only_a": 9, "only_b": 1, "p": pytest.approx(22 / 1024)}
        assert mcnemar(a, a)["p"] == 1.0

    def test_paired_bootstrap(self):
        draw = np.random.default_rng(4)
        a = draw.random(200)
        same, better = a + draw.normal(0, 0.1, 200), a + 0.1 + draw.normal(0, 0.1, 200)
        found = paired_bootstrap(a, better)
        assert found["low"] < 0.1 < found["high"]
        assert found["low"] > 0.05
        assert found["p"] < 0.001
        theirs = stats.ttest_rel(a, same).pvalue
        assert paired_bootstrap(a, same)["p"] == pytest.approx(theirs, abs=0.03)


class TestRanking:
    def test_agrees_with_ir_measures(self):
        ir_measures = pytest.importorskip("ir_measures")
        draw = random.Random(2)
        documents = [f"d{n}" for n in range(30)]
        qrels = {f"q{q}": {d: draw.choice([0, 1, 2]) for d in draw.sample(documents, 12)} for q in range(40)}
        runs = {q: {d: 30.0 - n for n, d in enumerate(draw.sample(documents, 20))} for q in qrels}
        names = {
            "nDCG@10": lambda r, j: ranking.ndcg(r, j, 10),
            "RR": ranking.reciprocal_rank,
            "R@5": lambda r, j: ranking.recall(r, j, 5),
        }
        measures = [ir_measures.parse_measure(name) for name in names]
        compared_ones = 0
        for found in ir_measures.iter_calc(measures, qrels, runs):
            ours = names[str(found.measure)](list(runs[found.query_id]), qrels[found.query_id])
            assert ours == pytest.approx(found.value, abs=1e-4)
            compared_ones += 1
        assert compared_ones == 120

    def test_nothing_relevant_is_zero(self):
        assert ranking.ndcg(["a"], {"a": 0}, 10) == ranking.recall(["a"], {}, 5) == 0
        assert ranking.reciprocal_rank(["a"], {"b": 1}) == 0


RECORDS = [
    record(0, correct={"closed-book": True, "rag@2": True}, hits="sx"),
    record(1, correct={"closed-book": False, "rag@2": True}, hits="xs"),
    record(2, correct={"closed-book": None, "rag@2": False}, hits="xy", gold=1),
    record(3, correct={"closed-book": False}, hits="xy", source=""),
]


class TestSummary:
    def test_figures_by_hand(self):
        found = summarise(RECORDS, ("yes", "no", "maybe"))
        closed, rag = found["arms"]["closed-book"], found["arms"]["rag@2"]
        assert (closed["n"], closed["accuracy"]["mean"], closed["unparsable"]) == (4, 0.25, 1)
        assert (rag["n"], rag["accuracy"]["mean"], rag["unparsable"]) == (3, pytest.approx(2 / 3), 0)
        assert closed["macro_f1"]["mean"] == pytest.approx((2 * 1 / (1 + 3)) / 3)
        assert closed["cost_per_question"] == {
            "n_tokens": 10,
            "n_generated": 1,
            "wall_s": 1.0,
            "cpu_s": 2.0,
            "gpu_s": None,
            "joules": None,
        }
        assert found["majority"] == {"label": "yes", "accuracy": 0.75}

    def test_retrieval_is_over_questions_with_a_source(self):
        found = summarise(RECORDS, ())["retrieval"]
        assert found["n_with_source"] == 3
        assert found["source@1"]["mean"] == pytest.approx(1 / 3)
        assert found["source@3"]["mean"] == pytest.approx(2 / 3)
        assert found["mrr"]["mean"] == pytest.approx(0.5)

    def test_hit_and_answer(self):
        found = summarise(RECORDS, ())["hit_and_answer"]["rag@2"]
        assert (found["source_shown"]["mean"], found["source_shown"]["n"]) == (1.0, 2)
        assert (found["source_not_shown"]["mean"], found["source_not_shown"]["n"]) == (0.0, 1)

    def test_arms_are_paired_by_item(self):
        found = compare_arms(RECORDS, "closed-book", RECORDS[::-1], "rag@2")
        assert (found["n"], found["accuracy_a"], found["accuracy_b"]) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3))
        assert found["mcnemar"]["only_b"] == 1


ITEMS = [
    Item("a", "Which animals live on the island of the quokkas?", ("cats", "quokkas"), 1),
    Item("b", "Who wrote the very first book about bees and honey?", ("Bo", "Al"), 1),
    Item("c", "Short one?", ("x", "y"), 0, "A support of more than five words.", (), "It was shown to be so."),
]


class TestLeakage:
    def test_finds_questions_long_answers_and_supports(self):
        corpus = [
            passage("Quiz: which animals live on the island of the quokkas? Cats do.", "quiz"),
            passage("Bees and honey were the subject of the very first book, which Al wrote."),
            passage("It was  shown, to be SO. A support of more than five words."),
        ]
        found = check(ITEMS, corpus)
        assert found["questions"]["checked"] == 2
        assert found["questions"]["contained"] == 1
        (example,) = found["questions"]["examples"]
        assert (example["item_id"], example["document"], example["share"]) == ("a", "quiz", 1.0)
        assert example["holds_answer"] is True  # "quokkas" is in the question itself
        assert found["long_answers"]["contained"] == found["supports"]["contained"] == 1

    def test_pieces_in_several_passages_are_no_leak(self):
        halves = [passage("which animals live on the"), passage("on the island of the quokkas")]
        assert check(ITEMS, halves)["questions"]["contained"] == 0


class TestCalibration:
    def test_learns_a_bias_on_one_half_and_is_scored_on_the_other(self):
        """Scores favour option 0 by 5 nats, and the signal is 1: plain, every answer is 0; the best rule is known."""
        draw, prior, bias, noise = np.random.default_rng(0), np.array([0.5, 0.3, 0.2]), np.array([5.0, 0.0, 0.0]), 0.6
        records, best = [], 0
        for n in range(300):
            gold = int(draw.choice(3, p=prior))
            scores = draw.normal(0, noise, 3) + bias + np.eye(3)[gold]
            best += int(np.argmax(np.log(prior) + (scores - bias) / noise**2)) == gold
            entry = record(n, correct={"oracle": False}, gold=gold)
            entry["arms"]["oracle"] |= {"scores": scores.tolist(), "answer": 0, "correct": gold == 0}
            records.append(entry)
        found = calibrate(records, "oracle", ("yes", "no", "maybe"))
        assert found["label"] == "calibrated"
        assert found["n"] == 300
        assert found["accuracy"]["mean"] > found["uncalibrated"]["accuracy"]["mean"] + 0.2
        assert found["accuracy"]["mean"] == pytest.approx(best / 300, abs=0.04)

    def test_noise_gains_nothing(self):
        draw = np.random.default_rng(1)
        records = []
        for n in range(300):
            gold = int(draw.choice(3, p=[0.55, 0.34, 0.11]))
            entry = record(n, correct={"oracle": False}, gold=gold)
            entry["arms"]["oracle"] |= {"scores": draw.normal(0, 1, 3).tolist(), "answer": 0, "correct": gold == 0}
            records.append(entry)
        assert calibrate(records, "oracle", ("yes", "no", "maybe"))["accuracy"]["mean"] < 0.62


def test_agreement_notices_any_difference():
    ours = [{"correct": True, "correct_norm": False, "scores": [-1.0, -2.0]}]
    same = [{"acc": 1.0, "acc_norm": 0.0, "scores": [-1.00001, -2.0]}]
    assert agrees(compared(ours, same))
    assert not agrees(compared(ours, [same[0] | {"acc": 0.0}]))
    assert not agrees(compared(ours, [same[0] | {"acc_norm": 1.0}]))
    assert not agrees(compared(ours, [same[0] | {"scores": [-1.0, -2.01]}]))
    assert agrees(compared(ours, [same[0] | {"acc_norm": None}]))
