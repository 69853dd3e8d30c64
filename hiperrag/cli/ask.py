"""`hiperrag ask`: an answer from a collection, with citations down to the page."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiperrag.cli.searching import ExactOption, HybridOption, QualityOption, Searching, WhereOption, searching
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.answering.answer import Answer
    from hiperrag.index.ranks import Ranks

KOption = Annotated[int, typer.Option("-k", min=1, max=50, help="Passages the answer may draw on.")]
GeneratorOption = Annotated[
    str, typer.Option(metavar="SPEC", help="default, hf:DIR_OR_NAME, gguf:FILE or openai:BASE_URL#MODEL.")
]


def ask(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION")],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    k: KOption = 5,
    generator: GeneratorOption = "default",
    exact: ExactOption = False,
    quality: QualityOption = None,
    where: WhereOption = None,
    hybrid: HybridOption = False,
    attribute: Annotated[
        bool, typer.Option("--attribute", help="Say for each sentence which passage caused it, and how surely.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer a question from a collection; every sentence of the answer cites the passage that supports it."""
    if not question.strip():
        raise UserError("the question is empty; ask something")
    how = searching(exact, quality, where, hybrid)
    from hiperrag.index import launch

    launch.run(lambda ranks: _ask(collection, question, k, generator, how, attribute, as_json, ranks))


def _ask(
    collection: Path,
    question: str,
    k: int,
    generator: str,
    how: Searching,
    attribute: bool,
    as_json: bool,
    ranks: Ranks | None,
) -> None:
    from hiperrag.answering.answer import answer
    from hiperrag.answering.generators import load_generator
    from hiperrag.answering.retrieval import Retriever
    from hiperrag.cli.answers import attributed, last, show, show_attribution, show_sources

    started = time.perf_counter()
    retriever = Retriever(collection, ranks=ranks)
    loaded_generator = load_generator(generator)
    load_ms = 1000 * (time.perf_counter() - started)
    hits = retriever.search([question], k, **how.options())[0]
    search_ms = retriever.timings_ms
    sentences: list[str] = []
    events = answer(question, hits, loaded_generator, retriever.encoder)
    final = last(events, sentences) if as_json else show(events, sentences)
    timings = {
        "load": round(load_ms, 1),
        **{name: round(value, 1) for name, value in search_ms.items() if name != "total"},
        **{f"answer_{name}": round(value, 1) for name, value in final.timings_ms.items()},
    }
    if not as_json:
        show_sources(final)
    found = attributed(question, hits, sentences, loaded_generator) if attribute and sentences else None
    if as_json:
        caused = {"attribution": found.to_json()} if found else {}
        typer.echo(json.dumps(final.to_json(question, hits) | {"timings_ms": timings} | caused, ensure_ascii=False))
        return
    if found:
        show_attribution(found)
    _show_times(final, timings)


def _show_times(final: Answer, timings: dict[str, float]) -> None:
    seconds = {
        "models": timings["load"],
        "question": timings["encode"],
        "search": timings["search"] + timings["fetch"],
        "answer": timings["answer_total"],
    }
    spent = ", ".join(f"{name} {value / 1000:.2f} s" for name, value in seconds.items())
    print(f"time: {spent}; generator {final.generator}", file=sys.stderr)
