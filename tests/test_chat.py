"""`hiperrag chat`: through a pipe, in a real terminal, and its commands."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chat_helpers import TEXTS, Retriever, Storyteller

from hiperrag.answering import generators, retrieval
from hiperrag.cli import pages

Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, hiperrag) -> Run:
    """The command, its lines given through a pipe: exit status, output, errors."""
    monkeypatch.setattr(retrieval, "Retriever", Retriever)
    monkeypatch.setattr(generators, "load_generator", lambda spec: Storyteller())
    monkeypatch.setattr(pages.PageViewer, "show", lambda self, passage: f"a picture of {passage.document}")

    def run(lines: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        status, output, errors = hiperrag("chat", "papers")
        return status, output, "\n".join(errors)

    return run


def test_a_piped_conversation(chat: Run, tmp_path: Path) -> None:
    saved = tmp_path / "talk.md"
    status, output, errors = chat(
        "What do whales do?\n\nFor how long?\n/sources\n/open 2\n/save " + str(saved) + "\n/quit\nnever asked\n"
    )
    assert status == 0
    assert output.count("Male humpback whales sing for hours [2].") == 2
    assert "asked as: For how long of the whales?" in errors
    assert "  [2] paper2.pdf, page 2" in output
    assert f"“{TEXTS[1]}”" in output
    assert "Also found\n  [1] paper1.pdf, page 1\n  [3] paper3.pdf, page 3" in output
    assert "a picture of paper2.pdf" in output
    assert "never asked" not in output
    assert saved.read_text().startswith(
        "**What do whales do?**\n\nMale humpback whales sing for hours [2].\n\n- [2] paper2.pdf, page 2\n\n"
    )


def test_a_new_conversation_forgets(chat: Run) -> None:
    status, output, errors = chat("What do whales do?\n/new\nFor how long?\n")
    assert status == 0
    assert "asked as" not in errors
    assert output.count("Quokkas on the island feed on leaves [1].") == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/sources", "there is no answer yet"),
        ("/open 1", "there is no answer yet"),
        ("/why", "there is no answer yet"),
        ("/save", "/save takes the name of a file"),
        ("/dance", "/dance is no command; /help lists them"),
        ("What do whales do?\n/open 7", "/open takes the number of a passage, 1 to 3"),
        ("What do whales do?\n/why", "gives no log-probabilities"),
        ("What do whales do?\n/save /dev/null/talk.md", "/dev/null/talk.md: cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_conversation_goes_on(chat: Run, line: str, says: str) -> None:
    status, output, errors = chat(f"{line}\n/new\nWhat do quokkas do?\n")
    assert says in errors
    assert "Quokkas on the island feed on leaves [1]." in output
    assert status == 2


def test_help_lists_the_commands(chat: Run) -> None:
    status, output, _ = chat("/help\n")
    assert status == 0
    for name in ("/sources", "/open N", "/why", "/new", "/save FILE", "/quit"):
        assert f"  {name}" in output


class Terminal:
    """A process that has a terminal to itself."""

    def __init__(self, command: list[str]) -> None:
        self._ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=environment,
            preexec_fn=lambda: os.login_tty(0) if hasattr(os, "login_tty") else _own_terminal(),
        )
        os.close(theirs)
        self._read = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, text: str, seconds: float = 60.0) -> str:
        """All that is written up to `text`, after the last such place."""
        ends = time.monotonic() + seconds
        while text not in self._read:
            left = ends - time.monotonic()
            assert left > 0, f"{text!r} did not come in {self._read!r}"
            if select.select([self._ours], [], [], left)[0]:
                self._read += os.read(self._ours, 4096).decode(errors="replace")
        before, _, self._read = self._read.partition(text)
        return before

    def press_until(self, key: str, text: str) -> None:
        """Press `key` again each second until `text` is there.

        Python loses a Ctrl-C that comes while readline handles a key; who presses it presses it again.
        """
        for _ in range(60):
            self.type(key)
            with contextlib.suppress(AssertionError):
                self.wait_for(text, seconds=1.0)
                return
        raise AssertionError(f"{text!r} did not come in {self._read!r}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def _own_terminal() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C reaches this process."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_conversation_in_a_terminal() -> None:
    script = Path(__file__).with_name("chat_in_terminal.py")
    terminal = Terminal([sys.executable, str(script)])
    try:
        terminal.wait_for("3 passages; ask a question, or /help")
        terminal.wait_for("> ")
        terminal.type("What do whales sing?\r")
        terminal.wait_for("Male humpback whales sing for hours [2].")
        terminal.wait_for("> ")
        terminal.type("Do whales go on forever?\r")
        terminal.wait_for("on and on")
        terminal.type("\x03")
        terminal.wait_for("stopped")
        terminal.wait_for("> ")
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.press_until("\x03", "> ")
        terminal.type("\x1b[A\x1b[A\r")  # two lines up in the history
        terminal.wait_for("What do whales sing?")
        terminal.wait_for("Male humpback whales sing for hours [2].")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(timeout=60) == 0
    finally:
        terminal.close()


@pytest.mark.slow
def test_the_page_of_a_cited_passage_is_drawn(examples: Path, tmp_path: Path, hiperrag, in_process) -> None:
    from collection_helpers import index

    index(examples / "lichen-growth.pdf", tmp_path / "c")
    found = retrieval.Retriever(tmp_path / "c")
    [[hit]] = found.search(["At which rate did map lichens grow?"], 1)
    with pages.PageViewer(found.collection, found.manifest, start=False) as viewer:
        said = viewer.show(hit.passage)
    path = Path(said.removeprefix(f"page {hit.passage.page_start}: "))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "drawn from the text" not in said
