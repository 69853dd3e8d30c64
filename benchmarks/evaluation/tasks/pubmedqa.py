"""PubMedQA (Jin et al. 2019), the expert-labelled questions: yes, no or maybe, with the abstract that answers.

The official files are ori_pqal.json (1,000 questions by PMID) and test_ground_truth.json (the PMIDs of the 500 test
questions). Splits: `test`, `dev` (the other 500; also as a file of its own, ori_pqal_dev.json) and `all`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hiperrag.benchmarks.evaluation.items import HUB, Item, Task, need, read_hub, read_json
from hiperrag.errors import UserError

FILES = (
    "PubMedQA's ori_pqal.json and test_ground_truth.json (or ori_pqal_dev.json for the 500 others alone) there, "
    "from github.com/pubmedqa/pubmedqa"
)
LABELS = ("yes", "no", "maybe")
SPLITS = ("dev", "test", "all")


def load(data: Path, split: str) -> list[Item]:
    """Items `pubmedqa:PMID`; the abstract of each is the document `pubmed:PMID` of a corpus."""
    return [_item(pmid, entry) for pmid, entry in official_entries(data, split).items()]


def abstract(entry: dict[str, Any]) -> str:
    """The abstract without its conclusion, which the data set keeps apart as the long answer."""
    return "\n".join(entry["CONTEXTS"])


def _item(pmid: str, entry: dict[str, Any]) -> Item:
    where = f"PubMedQA {pmid}"
    decision = need(entry, "final_decision", where)
    contexts = entry.get("CONTEXTS")
    if decision not in LABELS or not isinstance(contexts, list) or not contexts:
        raise UserError(f"{where}: needs CONTEXTS, a list, and final_decision, one of {', '.join(LABELS)}")
    return Item(
        item_id=f"pubmedqa:{pmid}",
        question=need(entry, "QUESTION", where),
        options=LABELS,
        gold=LABELS.index(decision),
        support=abstract(entry),
        sources=(f"pubmed:{pmid}",),
        long_answer=str(entry.get("LONG_ANSWER") or ""),
    )


def official_entries(data: Path, split: str) -> dict[str, dict[str, Any]]:
    """The data set's own entries of a split, by PMID."""
    if split not in SPLITS:
        raise UserError(f"--split {split}: PubMedQA has {', '.join(SPLITS)}")
    if data == HUB and split != "all":
        raise UserError("--data hub: the hub's PubMedQA does not say which questions are the test's; use --split all")
    return _from_hub() if data == HUB else _from_files(data, split)


def _from_files(data: Path, split: str) -> dict[str, dict[str, Any]]:
    whole, dev, truth = data / "ori_pqal.json", data / "ori_pqal_dev.json", data / "test_ground_truth.json"
    if split == "dev" and dev.is_file():
        return _entries(dev)
    if not whole.is_file() or (split != "all" and not truth.is_file()):
        raise UserError(f"{data}: not enough for split {split!r}; put {FILES}")
    entries = _entries(whole)
    if split == "all":
        return entries
    test = _entries(truth)
    return {pmid: entry for pmid, entry in entries.items() if (pmid in test) == (split == "test")}


def _entries(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: not an object of questions by PMID")
    return found


def _from_hub() -> dict[str, dict[str, Any]]:
    return {
        str(row["pubid"]): {
            "QUESTION": row["question"],
            "CONTEXTS": row["context"]["contexts"],
            "LONG_ANSWER": row["long_answer"],
            "final_decision": row["final_decision"],
        }
        for row in read_hub("qiaojin/PubMedQA", "pqa_labeled", "train")
    }


TASK = Task("pubmedqa", FILES, "dev", load, LABELS)
