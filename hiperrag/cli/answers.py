"""How answers, their sources and what caused them are shown in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hiperrag.cli.search import place

if TYPE_CHECKING:
    from hiperrag.answering.answer import Answer, AnswerEvent
    from hiperrag.answering.attribution import Attribution, SentenceAttribution
    from hiperrag.answering.generators.base import Generator
    from hiperrag.answering.hits import Hit

MODES = {
    "quoted": "sentences of the passages, quoted; the generator chose and joined them",
    "written": "written by the generator; every sentence was checked against the passages it cites",
}
_BAR = 24
_LONGEST_SENTENCE = 100


def last(events: Iterator[AnswerEvent], sentences: list[str]) -> Answer:
    """The Answer that the events end with; `sentences` takes the texts of its sentences."""
    from hiperrag.answering.answer import Answer, Sentence

    final = None
    for event in events:
        if isinstance(event, Sentence):
            sentences.append(event.text)
        elif isinstance(event, Answer):
            final = event
    assert final is not None, "an answer ends with an Answer"
    return final


def show(events: Iterator[AnswerEvent], sentences: list[str]) -> Answer:
    """As `last`, and stream the answer by sentences; on a terminal also the draft of the one in the making."""
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
                sentences.append(event.text)
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


def show_sources(final: Answer) -> None:
    """Each citation with its place and its sentence, and what was left out, on standard error."""
    if final.citations:
        print(f"\nSources ({MODES[final.mode]})")
    for citation in final.citations:
        print(f"  [{citation.n}] {citation.title or citation.document}")
        print(f"      {place(citation.document, citation.pages)}")
        print(f"      “{' '.join(citation.text.split())}”")
    for note in final.notes:
        print(f"note: {note}", file=sys.stderr)


def attributed(question: str, hits: Sequence[Hit], sentences: Sequence[str], generator: Generator) -> Attribution:
    """What caused the sentences, with progress on standard error."""
    from hiperrag.answering.attribution import attribute
    from hiperrag.workflows.progress import Progress, StageProgress

    stage = StageProgress("attribute", "contexts", 0)
    with Progress([stage]) as progress:
        progress.begin(stage.name)

        def advance(done: int, total: int) -> None:
            stage.total = total
            progress.advance(stage.name, done - stage.done)

        return attribute(" ".join(question.split()), hits, sentences, generator, advance)


def show_attribution(attribution: Attribution) -> None:
    """For each sentence a bar for each passage, and for passages that say the same."""
    print("\nWhich passage caused it (by how many nats the sentence is likelier with the passage than without)")
    for sentence in attribution.sentences:
        print()
        for line in _lines(sentence):
            print(line)


def _lines(sentence: SentenceAttribution) -> Iterator[str]:
    text = " ".join(sentence.text.split())
    yield text if len(text) <= _LONGEST_SENTENCE else text[: _LONGEST_SENTENCE - 1] + "…"
    listed = [*sentence.passages, *sentence.groups]
    longest = max((one.effect for one in listed), default=0.0)
    top = sentence.causes[0].ns
    width = max(len(_name(one.ns)) for one in listed)
    for one in listed:
        bar = "█" * round(_BAR * max(0.0, one.effect) / longest) if longest > 0 else ""
        mark = "  ← most" if one.ns == top and one.effect > 0 else ""
        yield f"  {_name(one.ns):<{width}}  {bar:<{_BAR}} {one.effect:+8.2f}{mark}"
    gained = sentence.log_p - sentence.log_p_no_context
    unsure = "" if sentence.entropy is None else f"; the generator's uncertainty is {sentence.entropy:.2f} nats a token"
    yield f"  all passages together {gained:+.2f} (log p {sentence.log_p:.2f}){unsure}"


def _name(ns: Sequence[int]) -> str:
    return "".join(f"[{n}]" for n in ns)
