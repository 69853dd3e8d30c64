"""`hiperrag parse`: PDFs become text that people can read, without indexing them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from hiperrag.cli.counted import counted
from hiperrag.cli.index import Parser


def parse(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="PDFs, folders, zip or tar archives.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder for the results; made if new.")],
    parser: Annotated[Parser, typer.Option(help="How text is taken out.")] = Parser.AUTO,
) -> None:
    """Parse sources without indexing them.

    DIR/NAME.txt holds a document's body text; DIR/documents.parquet all blocks with kinds, pages and boxes.
    """
    del parser  # both names mean the fast text path
    from hiperrag.files import write_text_atomic
    from hiperrag.parsing.body import body_text
    from hiperrag.parsing.sandbox import parse_inputs
    from hiperrag.parsing.sources import discover
    from hiperrag.records import Document, Quarantined, write_records
    from hiperrag.workflows.progress import Progress, StageProgress

    found = discover(sources)
    stage = StageProgress("parse", "inputs", len(found.inputs))
    with Progress([stage]) as progress:
        progress.begin("parse")
        documents, quarantined = parse_inputs(found.inputs, on_done=lambda _: progress.advance("parse", 1))
    quarantined = [*found.unreadable, *quarantined]
    to.mkdir(parents=True, exist_ok=True)
    names: Counter[str] = Counter()
    for document in documents:
        stem = Path(document.source).name.removesuffix(".pdf").removesuffix(".PDF").replace("/", "_")
        names[stem] += 1
        name = stem if names[stem] == 1 else f"{stem}-{names[stem]}"
        write_text_atomic(to / f"{name}.txt", body_text(document) + "\n")
    write_records(to / "documents.parquet", Document, documents)
    write_records(to / "quarantine.parquet", Quarantined, quarantined)
    for entry in quarantined:
        print(f"{entry.source}: {entry.message}", file=sys.stderr)
    print(f"{to}: {counted(len(documents), 'document')}, {len(quarantined)} quarantined", file=sys.stderr)
