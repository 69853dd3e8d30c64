"""Score rows with lm-evaluation-harness's own task: run by the peers' Python, needs nothing of ours.

    python lm_eval_worker.py MODEL_DIR TASK ROWS.jsonl DTYPE OUT.json

The task's YAML is the harness's; only where its data come from is replaced. OUT holds a list, one object a row, of
log-likelihoods of the options, acc and (for SciQ) acc_norm, and the harness's version.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import tempfile
from pathlib import Path


def main(model: str, task: str, rows: str, dtype: str, out: str) -> None:
    """Write what the harness finds."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    official = Path(lm_eval.__file__).parent / "tasks" / task
    with tempfile.TemporaryDirectory() as folder:
        for file in official.glob("*"):
            if file.suffix in (".yaml", ".py"):
                shutil.copy(file, folder)
        (Path(folder) / "local.yaml").write_text(
            f"include: {task}.yaml\ntask: local_rows\ndataset_path: json\ndataset_name: null\n"
            f"dataset_kwargs: {{data_files: {{test: {json.dumps(rows)}}}}}\n"
            "training_split: null\nvalidation_split: null\ntest_split: test\n"
        )
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": model, "dtype": dtype, "device": "cpu"},
            tasks=["local_rows"],
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            batch_size=4,
            log_samples=True,
            bootstrap_iters=0,
        )
    samples = sorted(found["samples"]["local_rows"], key=lambda sample: sample["doc_id"])
    answers = [
        {
            "scores": [float(response[0]) for response in sample["filtered_resps"]],
            "acc": sample["acc"],
            "acc_norm": sample.get("acc_norm"),
        }
        for sample in samples
    ]
    version = importlib.metadata.version("lm_eval")
    Path(out).write_text(json.dumps({"version": version, "items": answers}))


if __name__ == "__main__":
    main(*sys.argv[1:])
