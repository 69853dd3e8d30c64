"""Multiple choice from a file of one's own: LitQA, ProteinInteractionQA, ProteinFunctionQA, or any other.

One object a line (.jsonl), an array (.json) or a table (.csv, .tsv, .parquet), .gz too:

    {"id": "q1", "question": "...", "options": ["a", "b", "c"], "answer": "b", "support": "...", "sources": ["doc1"]}

`answer` is the text of the right option, exactly. A table has columns option_1, option_2, ... in place of `options`
and separates sources with ";". LitQA's own fields `ideal` and `distractors` stand for `answer` and the other options.
`id`, `support` (for the oracle arm) and `sources` (documents that hold the answer) may be left out.
"""

from __future__ import annotations

from pathlib import Path

from hiperrag.benchmarks.evaluation.items import Item, Row, Task, find_file, need, read_rows
from hiperrag.errors import UserError

FILES = "SPLIT.jsonl, .json, .csv, .tsv or .parquet there (fields: docs/evaluation.md), or name the file itself"
_SUFFIXES = tuple(f".{kind}{gz}" for kind in ("jsonl", "json", "csv", "tsv", "parquet") for gz in ("", ".gz"))
MOST_OPTIONS = 26
"""Options are named by letters."""


def load(data: Path, split: str) -> list[Item]:
    """Items of DATA/SPLIT.jsonl, or of DATA where it is a file."""
    path = find_file(data, (split,), _SUFFIXES, FILES)
    items = [_item(row, f"{path}, row {number}", number) for number, row in enumerate(read_rows(path), start=1)]
    if len({item.item_id for item in items}) != len(items):
        raise UserError(f"{path}: an id occurs twice; every question needs its own")
    return items


def _item(row: Row, where: str, number: int) -> Item:
    options, answer = _options(row, where)
    if not 2 <= len(options) <= MOST_OPTIONS or len(set(options)) != len(options):
        raise UserError(f"{where}: needs 2 to {MOST_OPTIONS} options, all different")
    if options.count(answer) != 1:
        raise UserError(f"{where}: the answer {answer!r} is not the text of one of the options")
    sources = row.get("sources") or []
    if isinstance(sources, str):
        sources = [source.strip() for source in sources.split(";") if source.strip()]
    name = row.get("id")
    return Item(
        item_id=str(number) if name in (None, "") else str(name),
        question=need(row, "question", where),
        options=options,
        gold=options.index(answer),
        support=str(row.get("support") or "").strip(),
        sources=tuple(map(str, sources)),
    )


def _options(row: Row, where: str) -> tuple[tuple[str, ...], str]:
    """The options, and the text of the right one."""
    if row.get("distractors") is not None and row.get("ideal") is not None:
        found, answer = [row["ideal"], *row["distractors"]], need(row, "ideal", where)
    else:
        columns = sorted(
            (name for name in row if name.startswith("option_") and name[7:].isdigit()), key=lambda name: int(name[7:])
        )
        found = row.get("options") or [row[name] for name in columns if row[name] not in (None, "")]
        answer = need(row, "answer", where)
    if not isinstance(found, list) or not all(isinstance(option, str) and option.strip() for option in found):
        raise UserError(f"{where}: options must be a list of texts")
    return tuple(found), answer


TASK = Task("choice", FILES, "test", load)
