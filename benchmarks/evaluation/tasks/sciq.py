"""SciQ (Welbl, Liu & Gardner 2017): 13,679 science questions with four options and, mostly, a supporting text.

The official archive holds train.json, valid.json and test.json, arrays of objects; one object a line does as well.
Options are in the order of lm-evaluation-harness (the three distractors, then the right answer): a protocol reorders.
"""

from __future__ import annotations

from pathlib import Path

from hiperrag.benchmarks.evaluation.items import HUB, Item, Row, Task, find_file, need, read_hub, read_rows, support_id

FILES = "SciQ's train.json, valid.json and test.json (or .jsonl, .gz, .parquet) there, from allenai.org/data/sciq"
_HUB_SPLITS = {"valid": "validation"}
_SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".parquet")
_OPTIONS = ("distractor1", "distractor2", "distractor3", "correct_answer")


def load(data: Path, split: str) -> list[Item]:
    """Items `sciq:SPLIT:ROW`; a support's document is known by `support_id`."""
    items = []
    for number, row in enumerate(official_rows(data, split)):
        where = f"SciQ {split}, question {number + 1}"
        support = str(row.get("support") or "").lstrip()
        items.append(
            Item(
                item_id=f"sciq:{split}:{number}",
                question=need(row, "question", where),
                options=tuple(need(row, field, where) for field in _OPTIONS),
                gold=3,
                support=support,
                sources=(support_id(support),) if support else (),
            )
        )
    return items


def official_rows(data: Path, split: str) -> list[Row]:
    """The data set's own rows of a split."""
    if data == HUB:
        return read_hub("allenai/sciq", None, _HUB_SPLITS.get(split, split))
    return read_rows(find_file(data, (split,), _SUFFIXES, FILES))


TASK = Task("sciq", FILES, "valid", load)
