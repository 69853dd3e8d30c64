"""`hiperrag search`: passages for a question, or a TREC run for a file of questions."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiperrag.cli.searching import (
    ExactOption,
    HybridOption,
    QualityOption,
    Searching,
    WhereOption,
    searching,
)
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.answering.retrieval import Retriever
    from hiperrag.index.ranks import Ranks

BATCH = 64
RUN_DEPTH = 100
"""Documents per query in a TREC run unless -k says otherwise."""


def search(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION")],
    query: Annotated[str | None, typer.Argument(metavar="QUERY")] = None,
    k: Annotated[
        int | None,
        typer.Option(
            "-k",
            min=1,
            help=f"Passages to show [default: 10], or documents per query of a run [default: {RUN_DEPTH}].",
        ),
    ] = None,
    exact: ExactOption = False,
    quality: QualityOption = None,
    where: WhereOption = None,
    hybrid: HybridOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    queries: Annotated[
        Path | None,
        typer.Option(metavar="Q.jsonl", help="File of queries, one object with _id and text a line."),
    ] = None,
    run: Annotated[Path | None, typer.Option(metavar="OUT.trec", help="Write a TREC run of these queries.")] = None,
) -> None:
    """Search a collection."""
    if (query is None) == (queries is None):
        raise UserError("give either a QUERY or --queries FILE")
    if (queries is None) != (run is None):
        raise UserError("--queries and --run go together")
    if queries and as_json:
        raise UserError("--json prints the hits of one QUERY; a run of --queries is written to --run")
    if run and not run.absolute().parent.is_dir():
        raise UserError(f"{run}: its folder does not exist")
    if run and (run.is_dir() or not os.access(run.absolute().parent, os.W_OK)):
        raise UserError(f"{run}: cannot be written; name a file in a folder of yours")
    if query is not None and not query.strip():
        raise UserError("the query is empty; ask something")
    how = searching(exact, quality, where, hybrid)
    listed = read_queries(queries) if queries else []
    from hiperrag.index import launch

    def on_ranks(ranks: Ranks | None) -> None:
        if query is None:
            assert run is not None
            _write_run(_open(collection, ranks)[0], listed, run, k or RUN_DEPTH, how)
        else:
            _answer(query, *_open(collection, ranks), k or 10, how, as_json)

    launch.run(on_ranks)


def _open(collection: Path, ranks: Ranks | None) -> tuple[Retriever, float]:
    """The retriever, and how many milliseconds it took to load."""
    from hiperrag.answering.retrieval import Retriever

    loading = time.perf_counter()
    retriever = Retriever(collection, ranks=ranks)
    return retriever, round(1000 * (time.perf_counter() - loading), 3)


def _answer(query: str, retriever: Retriever, load_ms: float, k: int, how: Searching, as_json: bool) -> None:
    hits = retriever.search([query], k, **how.options())[0]
    if as_json:
        timings = {"load": load_ms, **retriever.timings_ms}
        typer.echo(
            json.dumps(
                {"query": query, "hits": [hit.to_json() for hit in hits], "timings_ms": timings},
                ensure_ascii=False,
            )
        )
        return
    if not hits:
        print("note: no passage meets the condition", file=sys.stderr)
    for hit in hits:
        passage = hit.passage
        typer.echo(f"{hit.rank:3d}  {hit.score:.3f}  {place(passage.document, passage.pages)}  {passage.title}")
        if passage.section:
            typer.echo(f"     {passage.section}")
        typer.echo("     " + " ".join(passage.text.split())[:300] + "\n")


def place(document: str, pages: list[int]) -> str:
    """Document and pages as a reader wants them: "a.pdf, pages 3-4"."""
    if not pages:
        return document
    return f"{document}, page {pages[0]}" if len(pages) == 1 else f"{document}, pages {pages[0]}-{pages[-1]}"


def read_queries(path: Path) -> list[tuple[str, str]]:
    """(_id, text) of each line of a .jsonl or .jsonl.gz file."""
    import gzip

    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = str(row["_id"]), str(row["text"])
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f'{path}, line {number}: not an object like {{"_id": "q1", "text": "a question"}}'
            ) from None
        if not text.strip() or name != "".join(name.split()):
            raise UserError(f"{path}, line {number}: a query needs text, and an _id without white space")
        found.append((name, text))
    if not found:
        raise UserError(f"{path}: holds no queries")
    if len({name for name, _ in found}) != len(found):
        raise UserError(f"{path}: an _id occurs twice; every query needs its own")
    return found


def _write_run(retriever: Retriever, queries: list[tuple[str, str]], run: Path, k: int, how: Searching) -> None:
    from hiperrag.files import atomic_file
    from hiperrag.workflows.progress import Progress, StageProgress

    stage = StageProgress("search", "queries", len(queries))
    with (
        atomic_file(run) as temporary,
        temporary.open("w", encoding="utf-8") as out,
        Progress([stage]) as progress,
    ):
        progress.begin("search")
        for start in range(0, len(queries), BATCH):
            batch = queries[start : start + BATCH]
            results = retriever.search([text for _, text in batch], k, per_document=True, **how.options())
            for (name, _), hits in zip(batch, results, strict=True):
                for hit in hits:
                    document = "_".join(hit.passage.document.split())  # columns are separated by white space
                    out.write(f"{name} Q0 {document} {hit.rank} {hit.score:.6f} hiperrag\n")
            progress.advance("search", len(batch))
    print(f"{run}: {len(queries)} queries", file=sys.stderr)
