"""Parsing of inputs such that no PDF can stop, hang or exhaust the run.

PDFs are parsed in one child process at a time (`sandbox_child`), which has a memory and a time limit and is
replaced when a file costs it its life. The child is not trusted: its answers are bounded in size and validated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import psutil
from pydantic import TypeAdapter, ValidationError

import hiperrag
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.inputs import MAX_BYTES, Input, iter_rows
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.ready_text import document_from_row as ready_document
from hiperrag.records import Document, Quarantined

PARSER = "hiperrag.parsing.oreo:parse_pdf"
SECONDS_PER_FILE = 120.0
SECONDS_PER_PAGE = 60.0
MEGABYTES_PER_FILE = 4096

_START_SECONDS = 300.0  # importing from a busy parallel file system can take minutes
_STARTS = 3  # a child may be killed from outside while it starts
_MAX_LOST_PAGES = 5
_FILES_PER_CHILD = 500  # bounds what leaks in a C library can add up to
_MAX_REPLY = 512 << 20
_HEADER = 8
_WATCH_SECONDS = 0.1

MayRecognise = Callable[[int, int], bool]
"""Whether some pages may be recognised, by the first of them and their number; asked before each."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What one file may cost."""

    seconds: float = SECONDS_PER_FILE
    """Wall-clock time, without that of recognising characters."""
    page_seconds: float = SECONDS_PER_PAGE
    """Wall-clock time of one page, recognition included."""
    megabytes: int = MEGABYTES_PER_FILE
    """Memory of the child process (data segment: heap, stacks, private mappings)."""
    max_bytes: int = MAX_BYTES
    """Size of the file itself."""


class _ChildLostError(Exception):
    """The child died or was killed; `kind` is "timeout", "memory", "crashed" or "killed" (from outside).

    `page` is the one it was at, 0 if none is to blame; `together`: or one of those recognised together with it.
    """

    def __init__(self, kind: str, message: str, page: int = 0, together: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.page = page
        self.together = together


class Sandbox:
    """Parses PDF inputs in a reusable child process; a context manager.

    `parser` names a function `(data, source, doc_id, options, on_page) -> Document` as "module:function". Use from
    one thread: the child dies with the thread that started it.
    """

    def __init__(self, limits: Limits | None = None, parser: str = PARSER) -> None:
        self._limits = limits or Limits()
        self._parser = parser
        self._child: _Child | None = None
        self._lost: _ChildLostError | None = None
        self._ended_seconds = 0.0

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> _Child:
        reason = ""
        for _ in range(_STARTS):
            try:
                return _Child(self._parser, self._limits)
            except _ChildLostError as lost:
                reason = lost.message
                if lost.kind != "killed":
                    break
        raise RuntimeError(f"the parser process for {self._parser} cannot start: {reason}")

    def close(self) -> None:
        """End the child process."""
        if self._child:
            self._child.kill()
            self._ended_seconds += self._child.cpu_seconds
            self._child = None

    @property
    def cpu_seconds(self) -> float:
        """What the child processes have used so far, those that these started included."""
        return self._ended_seconds + (self._child.cpu_seconds if self._child else 0.0)

    def parse(
        self, item: Input, options: ParseOptions | None = None, may_recognise: MayRecognise = lambda *_: True
    ) -> Document:
        """The document of a PDF input, without the pages that cost a child its life.

        Raises ParseError: the parser's own errors and those of `read_bytes`; "damaged" for any other
        exception in the parser, "unavailable" if it lacks a module; "timeout"; "memory" and "crashed" if it
        cost two children their life, the second one fresh, so that what an earlier file or a stranger's kill
        left behind is not held against this one. Raises RuntimeError if no child can be started.
        """
        options = options or ParseOptions()
        while True:
            self._lost = None
            try:
                return self._parse(item, options, may_recognise)
            except ParseError as error:
                lost = self._lost
                if not lost or not lost.page or len(options.skip) >= _MAX_LOST_PAGES or lost.page in options.skip:
                    raise
                if lost.together:
                    options = dataclasses.replace(options, batch=1)
                else:
                    options = dataclasses.replace(options, skip={**options.skip, lost.page: error.message})

    def _parse(self, item: Input, options: ParseOptions, may_recognise: MayRecognise) -> Document:
        for fresh in (False, True):
            if self._child and (fresh or self._child.n_files >= _FILES_PER_CHILD):
                self.close()
            child = self._child = self._child or self._start()
            reused = child.n_files > 0
            try:
                reply = child.ask(item, options, self._limits, may_recognise)
            except _ChildLostError as lost:
                self.close()
                if fresh or lost.kind == "timeout" or (lost.kind == "memory" and not reused):
                    self._lost = lost
                    raise ParseError("crashed" if lost.kind == "killed" else lost.kind, lost.message) from None
                continue
            if reply.document:
                return reply.document
            if reply.error == "memory":
                self.close()  # its heap may be too fragmented for the next file
                if reused and not fresh:
                    continue
                self._lost = _ChildLostError("memory", reply.message, reply.at)
            raise ParseError(reply.error, reply.message)
        raise AssertionError("the second attempt returns or raises")


@dataclasses.dataclass(slots=True)
class _Reply:
    id: int
    document: Document | None = None
    error: str = ""
    message: str = ""
    page: int = -1
    """The page that work begins on; the answer itself has none."""
    recognise: int = 0
    at: int = 0
    """The page that work was on when the answer was ready, 0 for none."""


_REPLY = TypeAdapter(_Reply)


class _Clock:
    """When a file, or the page it is at, has had its time. Recognition is on the page's time alone."""

    def __init__(self, limits: Limits) -> None:
        self._page_seconds = limits.page_seconds
        self._file = time.monotonic() + limits.seconds
        self._page, self._recognise, self._since = 0, 0, time.monotonic()

    def turn(self, page: int, recognise: int) -> None:
        """Work on a page (or several that are recognised together) begins, and ends on the one before."""
        now = time.monotonic()
        if self._recognise:
            self._file += now - self._since
        self._page, self._recognise, self._since = page, recognise, now

    @property
    def deadline(self) -> float:
        page = self._since + self._page_seconds * max(1, self._recognise)
        if self._recognise:
            return page
        return min(self._file, page) if self._page else self._file

    def blamed(self, lost: _ChildLostError) -> _ChildLostError:
        """The loss with the page it is due to, if one is: not where the file as a whole took too long."""
        whole = lost.kind == "timeout" and time.monotonic() >= self._file and not self._recognise
        if not self._page or whole:
            return lost
        return _ChildLostError(lost.kind, f"page {self._page}: {lost.message}", self._page, self._recognise > 1)


class _Child:
    """One running child process."""

    def __init__(self, parser: str, limits: Limits) -> None:
        self.n_files = 0
        self._cpu_seconds = 0.0
        self._received = bytearray()
        self._limit = limits.megabytes << 20
        root = str(Path(hiperrag.__file__).resolve().parents[1])
        search_path = os.pathsep.join(dict.fromkeys([*(p for p in sys.path if p), root]))
        arguments = [parser, str(self._limit), str(limits.seconds), str(os.getpid())]
        # -P: a file in the user's working directory must not shadow a module of ours.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hiperrag.parsing.sandbox_child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": search_path},
            start_new_session=True,
        )
        try:
            self._receive(time.monotonic() + _START_SECONDS)
        except _ChildLostError as lost:
            detail = self._pipe(self._process.stderr).read().decode(errors="replace").strip().splitlines()
            self._close_pipes()
            raise _ChildLostError(lost.kind, detail[-1] if detail else lost.message) from None
        except BaseException:
            self.kill()
            raise

    @property
    def cpu_seconds(self) -> float:
        """Of the child and of what it started and saw end."""
        self._note_seconds()
        return self._cpu_seconds

    def _note_seconds(self) -> None:
        if self._process.returncode is None:  # its number may be another's later
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(self._process.pid).cpu_times()
                self._cpu_seconds = times.user + times.system + times.children_user + times.children_system

    def ask(self, item: Input, options: ParseOptions, limits: Limits, may_recognise: MayRecognise) -> _Reply:
        """Send a request, wait for the reply. Raises _ChildLostError; the child is dead then."""
        self.n_files += 1
        asked = {"id": self.n_files, "input": item.to_row(), "max_bytes": limits.max_bytes, "options": options.to_row()}
        clock = _Clock(limits)
        self._send(asked)
        while True:
            try:
                reply = _REPLY.validate_json(self._receive(clock.deadline), strict=True)
            except ValidationError:
                self._kill_group()
                raise _ChildLostError("crashed", "the parser process gave an answer that is none") from None
            except _ChildLostError as lost:
                raise clock.blamed(lost) from None
            if reply.id != self.n_files:
                self._kill_group()
                raise _ChildLostError("crashed", "the parser process answered what was not asked")
            if reply.page < 0:
                return reply
            clock.turn(reply.page, reply.recognise)
            if reply.recognise:
                go = may_recognise(reply.page, reply.recognise)
                clock.turn(reply.page, reply.recognise)  # nobody's time until now
                self._send({"go": go})

    def _send(self, message: dict[str, Any]) -> None:
        payload = json.dumps(message).encode()
        stdin = self._pipe(self._process.stdin)
        try:
            stdin.write(len(payload).to_bytes(_HEADER, "big") + payload)
            stdin.flush()
        except BrokenPipeError:
            raise self._death(0) from None

    def kill(self) -> None:
        """End the child and close its pipes."""
        self._kill_group()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _kill_group(self) -> None:
        self._note_seconds()
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self._process.kill()
        self._process.wait()

    def _receive(self, deadline: float) -> bytes:
        """The next message."""
        peak = 0
        while True:
            length = int.from_bytes(self._received[:_HEADER], "big") if len(self._received) >= _HEADER else None
            if length is not None and length > _MAX_REPLY:
                self._kill_group()
                raise _ChildLostError("memory", f"the parsed document is larger than {_MAX_REPLY} bytes")
            if length is not None and len(self._received) >= _HEADER + length:
                message = bytes(self._received[_HEADER : _HEADER + length])
                del self._received[: _HEADER + length]
                return message
            left = deadline - time.monotonic()
            if left <= 0:
                self._kill_group()
                raise _ChildLostError("timeout", "parsing took longer than the time limit")
            if not self._readable(min(left, _WATCH_SECONDS)):
                peak = max(peak, self._peak_memory())
                continue
            data = os.read(self._pipe(self._process.stdout).fileno(), 1 << 20)
            if not data:
                raise self._death(peak)
            self._received += data

    def _readable(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._pipe(self._process.stdout), select.POLLIN)
        return bool(poll.poll(1000 * seconds))

    def _peak_memory(self) -> int:
        """Bytes of data segment at their peak so far, 0 if unknown (not Linux, process gone)."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return 0
        sizes = [line.split()[1] for line in status.splitlines() if line.startswith(("VmHWM:", "VmData:"))]
        return 1024 * max(map(int, sizes), default=0)

    def _death(self, peak: int) -> _ChildLostError:
        self._note_seconds()
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._kill_group()
            return _ChildLostError("crashed", "the parser process closed its output")
        if code == -signal.SIGXCPU:
            return _ChildLostError("timeout", "parsing took more processor time than the time limit")
        cause = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        if peak > 0.8 * self._limit:
            return _ChildLostError("memory", f"the parser process {cause} at its memory limit")
        kind = "killed" if code == -signal.SIGKILL else "crashed"
        return _ChildLostError(kind, f"the parser process {cause}")

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


def parse_inputs(
    inputs: Sequence[Input],
    limits: Limits | None = None,
    options: ParseOptions | None = None,
    on_done: Callable[[int], None] | None = None,
    parser: str = PARSER,
) -> tuple[list[Document], list[Quarantined]]:
    """Parse inputs of both kinds, in the order given; whatever fails is quarantined (stage "parse").

    Every PDF and every row gives one document or one entry of the quarantine; where a range of rows cannot
    be read any further, one entry per remaining row. `on_done` is called with the number of inputs finished
    so far. Ready text is parsed in this process, PDFs in a sandbox.
    """
    documents: list[Document] = []
    quarantined: list[Quarantined] = []
    with Sandbox(limits, parser) as sandbox:
        for done, item in enumerate(inputs, start=1):
            for outcome in parse_input(sandbox, item, options):
                if isinstance(outcome, Document):
                    documents.append(outcome)
                else:
                    quarantined.append(outcome)
            if on_done:
                on_done(done)
    return documents, quarantined


def parse_input(sandbox: Sandbox, item: Input, options: ParseOptions | None = None) -> list[Document | Quarantined]:
    """The document of a PDF, or of each row of ready text; an entry of the quarantine for what cannot be parsed."""
    if item.kind == "rows":
        return list(_parse_rows(item))
    try:
        return [sandbox.parse(item, options)]
    except ParseError as error:
        return [Quarantined(item.source, "parse", error.error, error.message)]


def _parse_rows(item: Input) -> Iterator[Document | Quarantined]:
    following = item.start
    try:
        for index, row in iter_rows(item):
            following = index + 1
            try:
                if isinstance(row, ParseError):
                    raise row
                yield ready_document(row, item.source, index)
            except ParseError as error:
                yield Quarantined(f"{item.source}:{index + 1}", "parse", error.error, error.message)
    except ParseError as error:
        for index in range(following, item.stop):
            yield Quarantined(f"{item.source}:{index + 1}", "parse", error.error, error.message)
