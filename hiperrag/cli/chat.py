"""`hiperrag chat`: a conversation with a collection in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hiperrag.cli.ask import GeneratorOption, KOption
from hiperrag.cli.searching import ExactOption, HybridOption, QualityOption, Searching, WhereOption, searching
from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.answering.answer import Answer
    from hiperrag.answering.generators.base import Generator, Message
    from hiperrag.answering.hits import Hit
    from hiperrag.answering.retrieval import Retriever
    from hiperrag.cli.pages import PageViewer

PROMPT = "> "
HELP = """\
  /sources     the passages of the last answer, and the sentences it cites
  /open N      the page of passage [N], as a picture
  /why         which passage caused which sentence of the last answer
  /new         forget the conversation
  /save FILE   write the conversation to a file (Markdown)
  /help        this list
  /quit        end (also Ctrl-D); Ctrl-C stops an answer"""


def chat(
    collection: Annotated[Path, typer.Argument(metavar="COLLECTION")],
    k: KOption = 5,
    generator: GeneratorOption = "default",
    exact: ExactOption = False,
    quality: QualityOption = None,
    where: WhereOption = None,
    hybrid: HybridOption = False,
    no_viewer: Annotated[
        bool, typer.Option("--no-viewer", help="/open prints the path of the page's picture, and starts no viewer.")
    ] = False,
) -> None:
    """Talk with a collection; follow-up questions are understood from what was said. Also reads from a pipe."""
    how = searching(exact, quality, where, hybrid)
    from hiperrag.answering.generators import load_generator
    from hiperrag.answering.retrieval import Retriever
    from hiperrag.cli.pages import PageViewer

    retriever = Retriever(collection)
    interactive = sys.stdin.isatty()
    with PageViewer(retriever.collection, retriever.manifest, start=interactive and not no_viewer) as viewer:
        conversation = Chat(retriever, load_generator(generator), k, how, viewer)
        if interactive:
            counts = retriever.manifest.counts
            print(f"{collection}: {counts.passages} passages; ask a question, or /help", file=sys.stderr)
        for line in _typed() if interactive else _piped():
            if not conversation.take(line):
                break
    if conversation.failed and not interactive:
        raise typer.Exit(2)


def _typed() -> Iterator[str]:
    """Lines with editing and history, until Ctrl-D; Ctrl-C begins the line anew."""
    with contextlib.suppress(ImportError):  # absent from some builds of Python
        import readline  # noqa: F401
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            print()
        except EOFError:
            print()
            return


def _piped() -> Iterator[str]:
    for line in sys.stdin:
        print(f"{PROMPT}{line.strip()}", flush=True)
        yield line


class Chat:
    """The conversation so far, and what its last answer was made from."""

    def __init__(self, retriever: Retriever, generator: Generator, k: int, how: Searching, viewer: PageViewer) -> None:
        self._retriever, self._generator, self._viewer = retriever, generator, viewer
        self._k, self._how = k, how
        self.failed = False
        """Whether a line could not be done."""
        self._forget()

    def _forget(self) -> None:
        self._history: list[Message] = []
        self._transcript: list[str] = []
        self._question = ""
        self._answer: Answer | None = None
        self._sentences: list[str] = []
        self._hits: list[Hit] = []

    def take(self, line: str) -> bool:
        """Do what a line says; False where it ends the conversation. An error leaves the conversation as it was."""
        line = line.strip()
        name, _, rest = line.partition(" ")
        if name in ("/quit", "/exit"):
            return False
        try:
            if line.startswith("/"):
                self._command(name, rest.strip())
            elif line:
                self._ask(line)
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
        except UserError as error:
            self.failed = True
            print(f"hiperrag: {error}", file=sys.stderr)
        return True

    def _command(self, name: str, rest: str) -> None:
        match name:
            case "/sources":
                self._show_sources()
            case "/open":
                self._open(rest)
            case "/why":
                self._why()
            case "/new":
                self._forget()
                print("a new conversation", file=sys.stderr)
            case "/save":
                self._save(rest)
            case "/help":
                print(HELP)
            case _:
                raise UserError(f"{name} is no command; /help lists them")

    def _ask(self, question: str) -> None:
        from hiperrag.answering.answer import answer
        from hiperrag.answering.conversation import standalone_question
        from hiperrag.answering.generators.base import for_request
        from hiperrag.cli.answers import show

        sentences: list[str] = []
        with for_request(self._generator) as generator:
            asked = standalone_question(self._history, question, generator)
            if asked != " ".join(question.split()):
                print(f"asked as: {asked}", file=sys.stderr)
            hits = self._retriever.search([asked], self._k, **self._how.options())[0]
            final = show(answer(asked, hits, generator, self._retriever.encoder), sentences)
        self._question, self._answer, self._sentences, self._hits = asked, final, sentences, hits
        self._history += [{"role": "user", "content": question}, {"role": "assistant", "content": final.text}]
        listed = [f"  {place}" for place in self._places({citation.n for citation in final.citations})]
        if listed:
            print("\n".join(listed))
        self._transcript.append(
            "\n".join([f"**{question}**", "", final.text, "", *(f"- {one.strip()}" for one in listed)])
        )

    def _places(self, ns: set[int]) -> list[str]:
        """`[n] document, page` for the passages `ns` of the last answer."""
        from hiperrag.cli.search import place

        return [f"[{n}] {place(hit.passage.document, hit.passage.pages)}" for n, hit in self._numbered() if n in ns]

    def _numbered(self) -> list[tuple[int, Hit]]:
        return list(enumerate(self._hits, start=1))

    def _last(self) -> Answer:
        if self._answer is None:
            raise UserError("there is no answer yet; ask a question first")
        return self._answer

    def _show_sources(self) -> None:
        from hiperrag.cli.answers import show_sources

        final = self._last()
        show_sources(final)
        others = {n for n, _ in self._numbered()} - {citation.n for citation in final.citations}
        if others:
            print("\nAlso found\n" + "\n".join(f"  {place}" for place in self._places(others)))

    def _why(self) -> None:
        from hiperrag.cli.answers import attributed, show_attribution

        self._last()
        show_attribution(attributed(self._question, self._hits, self._sentences, self._generator))

    def _open(self, number: str) -> None:
        self._last()
        if not number.isdecimal() or not 1 <= int(number) <= len(self._hits):
            raise UserError(f"/open takes the number of a passage, 1 to {len(self._hits)}")
        print(*self._places({int(number)}))
        print(self._viewer.show(self._hits[int(number) - 1].passage))

    def _save(self, name: str) -> None:
        from hiperrag.files import write_text_atomic

        if not name:
            raise UserError("/save takes the name of a file")
        if not self._transcript:
            raise UserError("there is nothing to save yet")
        path = Path(name).expanduser()
        try:
            write_text_atomic(path, "\n\n".join(self._transcript) + "\n")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
        print(f"{path}: {len(self._transcript)} questions and answers")
