"""Does protocol `lm-eval` agree with lm-evaluation-harness, item by item, for the same model and rows?

    benchmarks/install_peers.sh evaluation
    python -m hiperrag.benchmarks.evaluation.harness sciq|pubmedqa --data DIR [--generator SPEC] [--limit 50]
        [--peers .peers/evaluation/bin/python] [--json OUT]

Both score the same questions with the same weights in the same precision. Exits with 1 where any item's accuracy
differs or a log-likelihood is off by more than `TOLERANCE`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiperrag.answering.generators import load_generator
from hiperrag.answering.generators.local import LocalGenerator
from hiperrag.benchmarks.evaluation.evaluate import Request, evaluate
from hiperrag.benchmarks.evaluation.folders import read_run
from hiperrag.benchmarks.evaluation.tasks import TASKS, pubmedqa, sciq
from hiperrag.errors import UserError
from hiperrag.machine import describe_machine

TOLERANCE = 1e-3
"""Nats: float32 sums in another order differ by about 1e-5."""
WORKER = Path(__file__).with_name("workers") / "lm_eval_worker.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["sciq", "pubmedqa"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split")
    parser.add_argument("--generator", default="default")
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--peers", type=Path, default=Path(".peers/evaluation/bin/python"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = agreement(options, Path(scratch))
    text = json.dumps(report, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if agrees(report) else 1)


def agreement(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run both and compare."""
    if not options.peers.is_file():
        raise UserError(f"{options.peers}: no such Python; run benchmarks/install_peers.sh evaluation")
    split = options.split or TASKS[options.task].split
    request = Request(
        options.task,
        data=options.data,
        split=split,
        generator=options.generator,
        protocol="lm-eval",
        limit=options.limit,
        out=scratch / "ours",
    )
    folder, results = evaluate(request)
    records = read_run(folder)[1]
    rows = official_rows(options.task, options.data, split, [record["item_id"] for record in records])
    (scratch / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    theirs = _run_harness(options, scratch)
    return {
        "task": options.task,
        "split": split,
        "generator": results["settings"]["generator"],
        "lm_eval": theirs["version"],
        **compared([record["arms"]["oracle"] for record in records], theirs["items"]),
        "machine": describe_machine(),
    }


def official_rows(task: str, data: Path, split: str, item_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The data set's own rows of these items, untouched by our reading of them."""
    names = [item_id.rpartition(":")[2] for item_id in item_ids]
    if task == "sciq":
        rows = sciq.official_rows(data, split)
        return [rows[int(name)] for name in names]
    entries = pubmedqa.official_entries(data, split)
    return [{name: entries[pmid][name] for name in ("QUESTION", "CONTEXTS", "final_decision")} for pmid in names]


def _run_harness(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    generator = load_generator(options.generator)
    if not isinstance(generator, LocalGenerator):
        raise UserError("--generator: the harness needs a local model")
    model, dtype = generator.model.config._name_or_path, str(generator.model.dtype).removeprefix("torch.")
    command = [options.peers, WORKER, model, options.task, scratch / "rows.jsonl", dtype, scratch / "theirs.json"]
    environment = os.environ | {"HF_HOME": str(scratch / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the harness failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    found: dict[str, Any] = json.loads((scratch / "theirs.json").read_text(encoding="utf-8"))
    return found


def compared(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How far apart two lists of scored items are."""
    pairs = list(zip(ours, theirs, strict=True))
    normed = [(a, b) for a, b in pairs if b["acc_norm"] is not None]
    return {
        "n": len(pairs),
        "acc": {"ours": _share([a["correct"] for a, _ in pairs]), "theirs": _share([b["acc"] for _, b in pairs])},
        "acc_differs": sum(bool(a["correct"]) != bool(b["acc"]) for a, b in pairs),
        "acc_norm": {
            "ours": _share([a["correct_norm"] for a, _ in normed]),
            "theirs": _share([b["acc_norm"] for _, b in normed]),
        },
        "acc_norm_differs": sum(bool(a["correct_norm"]) != bool(b["acc_norm"]) for a, b in normed),
        "largest_difference_nats": max(
            abs(x - y) for a, b in pairs for x, y in zip(a["scores"], b["scores"], strict=True)
        ),
    }


def agrees(report: dict[str, Any]) -> bool:
    """Whether no item is judged otherwise and all likelihoods are the same but for rounding."""
    differing: int = report["acc_differs"] + report["acc_norm_differs"]
    largest: float = report["largest_difference_nats"]
    return not differing and largest <= TOLERANCE


def _share(values: Sequence[Any]) -> float | None:
    return sum(map(bool, values)) / len(values) if values else None


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
