"""Corpora of ready text for `hiperrag index`, so that evaluations say what they retrieve from.

    python -m hiperrag.benchmarks.evaluation.corpora supports TASK --data DIR [--split S ...] --out F.jsonl.gz
    python -m hiperrag.benchmarks.evaluation.corpora articles IN.jsonl.gz [--abstracts] --out F.jsonl.gz

`supports` writes the gold texts of a task's questions, each once, under the `_id`s that the task's items name as their
sources: index them beside other text for a source corpus, and leave them out for an honest one. PubMedQA's abstracts
come without their conclusions, as the data set has them. `articles` writes a row for each paragraph of full-text
articles ({"id", "title", "abstract", "paragraphs": [[section, text], ...]}), or with --abstracts for each abstract.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hiperrag.benchmarks.evaluation.items import Item
from hiperrag.benchmarks.evaluation.tasks import TASKS
from hiperrag.errors import UserError
from hiperrag.files import atomic_file

Row = dict[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_task = commands.add_parser("supports")
    of_task.add_argument("task", choices=sorted(TASKS))
    of_task.add_argument("--data", type=Path, required=True)
    of_task.add_argument("--split", nargs="+", help="[default: the task's]")
    of_articles = commands.add_parser("articles")
    of_articles.add_argument("file", type=Path)
    of_articles.add_argument("--abstracts", action="store_true", help="abstracts only")
    for command in (of_task, of_articles):
        command.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.command == "supports":
        task = TASKS[options.task]
        rows = supports(item for split in options.split or [task.split] for item in task.items(options.data, split))
    else:
        rows = articles(options.file, options.abstracts)
    print(f"{options.out}: {write(options.out, rows)} rows", file=sys.stderr)


def supports(items: Iterable[Item]) -> Iterator[Row]:
    """A row for each gold text that has one source, each source once."""
    seen: set[str] = set()
    for item in items:
        if item.support.strip() and len(item.sources) == 1 and item.sources[0] not in seen:
            seen.add(item.sources[0])
            yield {"_id": item.sources[0], "text": item.support.strip()}


def articles(path: Path, abstracts: bool) -> Iterator[Row]:
    """A row for each paragraph of the articles (`ID#n`), or for each abstract (`ID#abstract`)."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            article = json.loads(line)
            if abstracts:
                if article.get("abstract"):
                    yield {"_id": f"{article['id']}#abstract", "title": article["title"], "text": article["abstract"]}
                continue
            for number, (_, text) in enumerate(article["paragraphs"]):
                if text.strip():
                    yield {"_id": f"{article['id']}#{number}", "title": article["title"], "text": text}


def write(path: Path, rows: Iterable[Row]) -> int:
    """Write rows, an object a line; compressed where the name ends in .gz. Returns how many."""
    number = 0
    with (
        atomic_file(path) as temporary,
        gzip.open(temporary, "wt", encoding="utf-8")
        if path.suffix == ".gz"
        else temporary.open("w", encoding="utf-8") as out,
    ):
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            number += 1
    return number


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
