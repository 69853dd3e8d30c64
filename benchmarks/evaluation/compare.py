"""Two runs on the same questions, paired: `hiperrag eval --compare A B`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hiperrag.benchmarks.evaluation.figures import arm_names, compare_arms, compare_figure
from hiperrag.benchmarks.evaluation.folders import read_run
from hiperrag.errors import UserError


def compare(a: Path, b: Path) -> dict[str, Any]:
    """B against A for every arm (or retrieval figure) that both have, over the questions both asked.

    Raises UserError where the runs are of different tasks, or share no question or no arm.
    """
    (results_a, records_a), (results_b, records_b) = read_run(a), read_run(b)
    if results_a["task"] != results_b["task"]:
        raise UserError(f"{a} is of task {results_a['task']} and {b} of {results_b['task']}: nothing to compare")
    if not {record["item_id"] for record in records_a} & {record["item_id"] for record in records_b}:
        raise UserError(f"{a} and {b} have no question in common")
    found: dict[str, Any] = {"a": str(a), "b": str(b), "task": results_a["task"]}
    if "figures" in results_a:
        figures = [name for name in results_a["figures"] if name in results_b["figures"]]
        return found | {"comparisons": [compare_figure(records_a, records_b, name) for name in figures]}
    arms = [name for name in arm_names(records_a) if name in arm_names(records_b)]
    if not arms:
        raise UserError(f"{a} and {b} have no arm in common")
    return found | {"comparisons": [compare_arms(records_a, name, records_b, name) for name in arms]}
