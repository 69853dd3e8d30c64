"""From the records of a run to its figures, each with a 95% interval."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hiperrag.benchmarks.evaluation import ranking
from hiperrag.benchmarks.evaluation.asking import DEPTH
from hiperrag.benchmarks.evaluation.statistics import (
    macro_f1_interval,
    mcnemar,
    mean_interval,
    paired_bootstrap,
)

Record = dict[str, Any]
_COSTS = ("wall_s", "cpu_s", "gpu_s", "joules")


def arm_names(records: Sequence[Record]) -> list[str]:
    """The arms of a run, in order; an arm may lack items that it cannot ask."""
    return list(dict.fromkeys(name for record in records for name in record["arms"]))


def summarise(records: Sequence[Record], labels: Sequence[str]) -> dict[str, Any]:
    """Figures by arm, retrieval of sources, and arms against each other; `labels` as in Task."""
    names = arm_names(records)
    return {
        "n_items": len(records),
        "majority": _majority(records, labels) if labels else None,
        "arms": {name: _arm(records, name, labels) for name in names},
        "retrieval": _retrieval(records),
        "hit_and_answer": {name: by_hit(records, name) for name in names if "@" in name},
        "comparisons": [compare_arms(records, a, records, b) for a, b in itertools.combinations(names, 2)],
    }


def _arm(records: Sequence[Record], name: str, labels: Sequence[str]) -> dict[str, Any]:
    asked = [record for record in records if name in record["arms"]]
    arms = [record["arms"][name] for record in asked]
    found: dict[str, Any] = {
        "n": len(arms),
        "accuracy": mean_interval([arm["correct"] for arm in arms]),
        "unparsable": sum(arm["answer"] is None for arm in arms),
        "truncated": sum(bool(arm.get("truncated")) for arm in arms),
        "passages": _mean([arm["n_passages"] for arm in arms]),
        "cost_per_question": _cost(arms),
    }
    if arms and "correct_norm" in arms[0]:
        found["acc_norm"] = mean_interval([arm["correct_norm"] for arm in arms])
    if labels:
        # Options are shuffled for each item; a label is its text.
        gold = [labels.index(record["options"][record["gold"]]) for record in asked]
        answers = [_label(record, arm, labels) for record, arm in zip(asked, arms, strict=True)]
        found["macro_f1"] = macro_f1_interval(gold, answers, len(labels))
    return found


def _label(record: Record, arm: Record, labels: Sequence[str]) -> int | None:
    return None if arm["answer"] is None else labels.index(record["options"][arm["answer"]])


def _majority(records: Sequence[Record], labels: Sequence[str]) -> dict[str, Any]:
    """What always giving the commonest label would score."""
    counts = Counter(record["options"][record["gold"]] for record in records)
    label = max(labels, key=lambda name: counts[name])
    return {"label": label, "accuracy": counts[label] / len(records)}


def _retrieval(records: Sequence[Record]) -> dict[str, Any] | None:
    """Was the source retrieved: over the questions whose source is in the collection."""
    if not records or "hits" not in records[0]:
        return None
    known = [record for record in records if record["source_present"]]
    ranked = [[hit["document"] for hit in record["hits"]] for record in known]
    judged = [dict.fromkeys(record["sources"], 1) for record in known]
    pairs = list(zip(ranked, judged, strict=True))
    found: dict[str, Any] = {
        "n_with_source": len(known),
        "corpus": f"holds the source of {len(known)} of {len(records)} questions",
    }
    for k in (1, 3, 5, DEPTH):
        found[f"source@{k}"] = mean_interval([any(d in gold for d in documents[:k]) for documents, gold in pairs])
    found["mrr"] = mean_interval([ranking.reciprocal_rank(documents, gold) for documents, gold in pairs])
    return found


def by_hit(records: Sequence[Record], name: str) -> dict[str, Any]:
    """Accuracy of a RAG arm where the source was among its passages, and where it was not."""
    right: dict[bool, list[bool]] = {True: [], False: []}
    for record in records:
        if record["source_present"] and name in record["arms"]:
            arm = record["arms"][name]
            shown = {hit["document"] for hit in record["hits"][: arm["n_passages"]]}
            right[bool(shown & set(record["sources"]))].append(arm["correct"])
    return {"source_shown": mean_interval(right[True]), "source_not_shown": mean_interval(right[False])}


def compare_arms(a_records: Sequence[Record], a: str, b_records: Sequence[Record], b: str) -> dict[str, Any]:
    """Arm `b` against arm `a` (of another run, or of the same) over the items both have."""
    of_a = {record["item_id"]: record["arms"][a]["correct"] for record in a_records if a in record["arms"]}
    of_b = {record["item_id"]: record["arms"][b]["correct"] for record in b_records if b in record["arms"]}
    shared = [name for name in of_a if name in of_b]
    left, right = [of_a[name] for name in shared], [of_b[name] for name in shared]
    return {
        "a": a,
        "b": b,
        "n": len(shared),
        "accuracy_a": _mean(left),
        "accuracy_b": _mean(right),
        "difference": paired_bootstrap(left, right),
        "mcnemar": mcnemar(left, right),
    }


def compare_figure(a_records: Sequence[Record], b_records: Sequence[Record], figure: str) -> dict[str, Any]:
    """Run B's retrieval figure against run A's over the queries both have."""
    of_b = {record["item_id"]: record["figures"][figure] for record in b_records}
    pairs = [(record["figures"][figure], of_b[record["item_id"]]) for record in a_records if record["item_id"] in of_b]
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    return {"figure": figure, "n": len(pairs), "a": _mean(left), "b": _mean(right)} | {
        "difference": paired_bootstrap(left, right)
    }


def _cost(arms: Sequence[Record]) -> dict[str, float | None]:
    """Means over the questions; null where nothing measured it."""
    found = {name: _mean([arm[name] for arm in arms if arm[name] is not None]) for name in ("n_tokens", "n_generated")}
    for name in _COSTS:
        found[name] = _mean([arm["cost"][name] for arm in arms if arm["cost"][name] is not None])
    return found


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
