"""`hiperrag ask`: an answer from a collection, with citations down to the page."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiperrag.cli.search import place
from hiperrag.cli.searching import ExactOption, HybridOption, QualityOption, Searching, WhereOption, searching
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.answering.answer import Answer, AnswerEvent
    from hiperrag.index.ranks import Ranks

MODES = {
    "quoted": "sentences of the passages, quoted; the generator chose and joined them",
    "written": "written by the generator; every sentence was checked against the passages it cites",
}


def ask(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION")],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="Passages the answer may draw on.")] = 5,
    generator: Annotated[
        str,
        typer.Option(metavar="SPEC", help="default, hf:DIR_OR_NAME, gguf:FILE or openai:BASE_URL#MODEL."),
    ] = "default",
    exact: ExactOption = False,
    quality: QualityOption = None,
    where: WhereOption = None,
    hybrid: HybridOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer a question from a collection; every sentence of the answer cites the passage that supports it."""
    if not question.strip():
        raise UserError("the question is empty; ask something")
    how = searching(exact, quality, where, hybrid)
    from hiperrag.index import launch

    launch.run(lambda ranks: _ask(collection, question, k, generator, how, as_json, ranks))


def _ask(
    collection: Path, question: str, k: int, generator: str, how: Searching, as_json: bool, ranks: Ranks | None
) -> None:
    from hiperrag.answering.answer import answer
    from hiperrag.answering.generators import load_generator
    from hiperrag.answering.retrieval import Retriever

    started = time.perf_counter()
    retriever = Retriever(collection, ranks=ranks)
    loaded_generator = load_generator(generator)
    load_ms = 1000 * (time.perf_counter() - started)
    hits = retriever.search([question], k, **how.options())[0]
    search_ms = retriever.timings_ms
    events = answer(question, hits, loaded_generator, retriever.encoder)
    final = _last(events) if as_json else _show(events)
    timings = {
        "load": round(load_ms, 1),
        **{name: round(value, 1) for name, value in search_ms.items() if name != "total"},
        **{f"answer_{name}": round(value, 1) for name, value in final.timings_ms.items()},
    }
    if as_json:
        typer.echo(json.dumps(final.to_json(question, hits) | {"timings_ms": timings}, ensure_ascii=False))
        return
    _show_sources(final, timings)


def _last(events: Iterator[AnswerEvent]) -> Answer:
    from hiperrag.answering.answer import Answer

    final = None
    for event in events:
        if isinstance(event, Answer):
            final = event
    assert final is not None, "an answer ends with an Answer"
    return final


def _show(events: Iterator[AnswerEvent]) -> Answer:
    """Stream the answer: sentence by sentence, and on a terminal also the draft of the one being written."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from hiperrag.answering.answer import Answer, Draft, Sentence

    console = Console(highlight=False)
    checked, draft, final = "", "", None
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    if live:
        live.start()
    try:
        for event in events:
            if isinstance(event, Draft):
                draft += event.text
            elif isinstance(event, Sentence):
                if not live:
                    print(f" {event.text}" if checked else event.text, end="", flush=True)
                checked, draft = f"{checked} {event.text}".strip(), ""
            elif isinstance(event, Answer):
                final, draft = event, ""
                if not live:
                    print("" if checked else event.text, flush=True)
                checked = event.text
            if live:
                live.update(Text.assemble(checked, " " if checked and draft else "", (draft, "dim")), refresh=True)
    finally:
        if live:
            live.stop()
    assert final is not None, "an answer ends with an Answer"
    return final


def _show_sources(final: Answer, timings: dict[str, float]) -> None:
    if final.citations:
        print(f"\nSources ({MODES[final.mode]})")
    for citation in final.citations:
        print(f"  [{citation.n}] {citation.title or citation.document}")
        print(f"      {place(citation.document, citation.pages)}")
        print(f"      “{' '.join(citation.text.split())}”")
    for note in final.notes:
        print(f"note: {note}", file=sys.stderr)
    seconds = {
        "models": timings["load"],
        "question": timings["encode"],
        "search": timings["search"] + timings["fetch"],
        "answer": timings["answer_total"],
    }
    spent = ", ".join(f"{name} {value / 1000:.2f} s" for name, value in seconds.items())
    print(f"time: {spent}; generator {final.generator}", file=sys.stderr)
