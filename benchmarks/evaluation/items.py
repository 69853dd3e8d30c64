"""What every task is made of: multiple-choice items, and the reading of files in their official forms."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hiperrag.errors import UserError
from hiperrag.files import fingerprint

HUB = Path("hub")
"""`--data hub`: ask the Hugging Face hub for the data set."""
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One multiple-choice question."""

    item_id: str
    question: str
    options: tuple[str, ...]
    gold: int
    """Index of the right option."""
    support: str = ""
    """The text that holds the answer, for the oracle arm; empty where there is none."""
    sources: tuple[str, ...] = ()
    """Documents (`_id`s or file names in a collection) known to hold the answer."""
    long_answer: str = ""
    """The answer in a sentence or more, where the data set has one; only leakage checks read it."""

    def reordered(self, order: Sequence[int]) -> Item:
        """The same item with options `order[0]`, `order[1]`, ...; the right one has to stay."""
        options = tuple(self.options[i] for i in order)
        return dataclasses.replace(self, options=options, gold=list(order).index(self.gold))


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A set of questions: where its files are and how they become items."""

    name: str
    files: str
    """What a data folder must hold, as a user is told when it does not."""
    split: str
    """The split when none is named."""
    load: Callable[[Path, str], list[Item]]
    """(data folder or HUB, split) to items in the files' order; raises UserError."""
    labels: tuple[str, ...] = ()
    """The options that every item has, where they are the same for all: then macro-F1 means something."""

    def items(self, data: Path | None, split: str) -> list[Item]:
        """The items of a split; UserError with one line where the files are missing or not as they should be."""
        if data is None or (data != HUB and not data.exists()):
            where = "no --data given" if data is None else f"--data {data}: not there"
            raise UserError(f"{where}; give a folder that holds {self.files}, or `--data hub` to download")
        items = self.load(data, split)
        if not items:
            raise UserError(f"{data}: split {split!r} of {self.name} holds no questions")
        return items


def support_id(text: str) -> str:
    """The `_id` under which a support text is put in a corpus: equal texts are one document."""
    return f"support:{hashlib.sha256(' '.join(text.split()).encode()).hexdigest()[:16]}"


def items_hash(items: Sequence[Item]) -> str:
    """Identity of a list of items, in order."""
    return fingerprint([dataclasses.astuple(item) for item in items])


def find_file(folder: Path, stems: Sequence[str], suffixes: Sequence[str], task_files: str) -> Path:
    """The first of STEM+SUFFIX in `folder` that exists, or `folder` itself where it is a file."""
    if folder.is_file():
        return folder
    for stem in stems:
        for suffix in suffixes:
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    raise UserError(f"{folder}: no {' or '.join(f'{stem}{suffixes[0]}' for stem in stems)} there; put {task_files}")


def read_rows(path: Path) -> list[Row]:
    """Rows of a .json (array), .jsonl, .csv, .tsv or .parquet file (.gz too), read with `datasets`."""
    datasets = _datasets()
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    with tempfile.TemporaryDirectory() as cache:
        try:
            options: dict[str, Any] = {"cache_dir": cache, "keep_in_memory": True}
            if kind in ("csv", "tsv"):
                separator = "\t" if kind == "tsv" else ","
                # Everything is text: an id 007 stays 007, and an option "None" is no missing value.
                texts = datasets.Features({name: datasets.Value("string") for name in _header(path, separator)})
                read = datasets.Dataset.from_csv(
                    str(path), sep=separator, features=texts, keep_default_na=False, **options
                )
            elif kind == "parquet":
                read = datasets.Dataset.from_parquet(str(path), **options)
            elif kind in ("json", "jsonl"):
                read = datasets.Dataset.from_json(str(path), **options)
            else:
                raise UserError(f"{path}: not a .json, .jsonl, .csv, .tsv or .parquet file (or one of them in .gz)")
            rows: list[Row] = read.to_list()
        except UserError:
            raise
        except Exception as error:  # readers of many libraries, each with errors of its own
            cause = error.__cause__ or error
            first = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
            raise UserError(f"{path}: cannot be read ({first[:200]})") from error
    return rows


def _header(path: Path, separator: str) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        return next(csv.reader(stream, delimiter=separator), [])


def read_hub(name: str, config: str | None, split: str) -> list[Row]:
    """Rows of a split of a data set on the hub; asks the network."""
    datasets = _datasets()
    try:
        rows: list[Row] = datasets.load_dataset(name, config, split=split).to_list()
    except Exception as error:  # the hub's client raises errors of whichever HTTP library it was built on
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--data hub: cannot get {name} ({first[:200]}); give a local folder") from error
    return rows


def read_json(path: Path) -> Any:
    """One JSON value of a file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None


def need(row: Row, field: str, where: str) -> str:
    """A field that must be text with something in it."""
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: field {field!r} is missing or not text")
    return value


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError("evaluation reads its data with `datasets`: pip install 'hiperrag[eval]'") from None
    datasets.disable_progress_bars()
    return datasets
