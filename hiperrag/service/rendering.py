"""Pictures of cited pages: drawn in limited processes of their own, a few at once, and kept in bounded memory."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import hiperrag
from hiperrag.parsing.inputs import Input
from hiperrag.records import Block
from hiperrag.service.page_child import MAX_REPLY

WIDTHS = (400, 800, 1200, 1600, 2000)
"""Pixels; a wish is rounded up to one of these, so that a page has few pictures to keep."""
WORKERS = 2
MAX_WAITING = 64
CACHE_BYTES = 96 << 20
SECONDS = 60.0
"""Wall-clock time of one page, the start of a process on a busy file system included."""
PROCESSOR_SECONDS = 20
MEGABYTES = 2048

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "TMPDIR", "HOME")
"""Of the environment: a process that reads hostile files is told no secrets."""
_PNG = b"\x89PNG\r\n\x1a\n"

Reason = Literal["", "gone", "changed", "damaged", "too_costly"]


class _TooCostlyError(Exception):
    """A page took more time than it may."""


class BusyError(Exception):
    """More pages are waiting to be drawn than the service lets wait."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Page `page` (from 1) of a document, wanted `width` pixels wide.

    `inputs` is where its bytes may be; `blocks` and `size` (points, None if unknown) are what to draw it from where
    they are not.
    """

    doc_id: str
    page: int
    width: int
    inputs: Sequence[Input] = field(default=(), compare=False)
    blocks: Sequence[Block] = field(default=(), compare=False)
    size: tuple[float, float] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Picture:
    """A page as PNG; `reason` is "" for a page of the source itself, else why it was drawn from the text read."""

    png: bytes
    reason: Reason


def nearest_width(wanted: int) -> int:
    """The least of WIDTHS that is enough, or the largest."""
    return next((width for width in WIDTHS if width >= wanted), WIDTHS[-1])


class PageRenderer:
    """Draws pages. Calls for a page that is being drawn share the result; thread-safe."""

    def __init__(self, workers: int = WORKERS, cache_bytes: int = CACHE_BYTES, max_waiting: int = MAX_WAITING) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="page")
        self._spares: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._pictures = PictureCache(cache_bytes)
        self._drawing: dict[PageRequest, Future[Picture]] = {}
        self._lock = threading.Lock()
        self._max_waiting = max_waiting
        self._closed = False

    def draw(self, request: PageRequest) -> Future[Picture]:
        """The picture of a page, once it is drawn. Raises BusyError where too many wait."""
        with self._lock:
            known = self._pictures.get(request)
            if known is not None:
                done: Future[Picture] = Future()
                done.set_result(known)
                return done
            if request in self._drawing:
                return self._drawing[request]
            if len(self._drawing) >= self._max_waiting:
                raise BusyError
            future = self._drawing[request] = self._pool.submit(self._draw, request)
        future.add_done_callback(lambda done: self._keep(request, done))
        return future

    def _keep(self, request: PageRequest, done: Future[Picture]) -> None:
        with self._lock:
            self._drawing.pop(request, None)
            if not done.cancelled() and done.exception() is None and done.result().reason in ("", "too_costly"):
                self._pictures.put(request, done.result())  # a file that is gone may come back

    def _draw(self, request: PageRequest) -> Picture:
        """From the source, again if the process died (of a stranger's kill, maybe); then from the blocks alone."""
        with contextlib.suppress(_TooCostlyError):
            for _ in range(2):
                picture = self._asked(request, request.inputs, "")
                if picture:
                    return picture
        picture = self._asked(request, (), "too_costly")
        if picture is None:
            raise RuntimeError("the process that draws pages cannot be started, or fails on its own drawing")
        return picture

    def _asked(self, request: PageRequest, inputs: Sequence[Input], reason: Reason) -> Picture | None:
        try:
            child = self._spares.get_nowait()
        except queue.Empty:
            child = _Child()
        try:
            return child.ask(request, inputs, reason)
        finally:
            if not self._closed:
                self._spares.put(_Child())  # started ahead, as the imports take longer than a page

    def forget(self) -> None:
        """Drop the pictures kept."""
        with self._lock:
            self._pictures.clear()

    def close(self) -> None:
        """End all processes; pages that wait are given up."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        while True:
            try:
                self._spares.get_nowait().kill()
            except queue.Empty:
                return


class PictureCache:
    """The pictures used last, up to a number of bytes. Not thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[PageRequest, Picture] = OrderedDict()
        self.n_bytes = 0

    def get(self, request: PageRequest) -> Picture | None:
        """The picture if it is kept."""
        if request in self._kept:
            self._kept.move_to_end(request)
        return self._kept.get(request)

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self.n_bytes = 0

    def put(self, request: PageRequest, picture: Picture) -> None:
        """Keep a picture; the least recently used ones go."""
        key = PageRequest(request.doc_id, request.page, request.width)  # without the blocks
        if key in self._kept:
            self.n_bytes -= len(self._kept.pop(key).png)
        self._kept[key] = picture
        self.n_bytes += len(picture.png)
        while self.n_bytes > self._max_bytes:
            _, old = self._kept.popitem(last=False)
            self.n_bytes -= len(old.png)


class _Child:
    """A process that draws one page."""

    def __init__(self) -> None:
        root = str(Path(hiperrag.__file__).resolve().parents[1])
        search_path = os.pathsep.join(dict.fromkeys([*(p for p in sys.path if p), root]))
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        # A file rather than a pipe: the kernel bounds its size.
        self._reply: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
        arguments = [str(MEGABYTES << 20), str(PROCESSOR_SECONDS), str(os.getpid())]
        # -P: a file in the user's working directory must not shadow a module of ours.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hiperrag.service.page_child", *arguments],
            stdin=subprocess.PIPE,
            stdout=self._reply,
            stderr=subprocess.DEVNULL,
            env={**passed_on, "PYTHONPATH": search_path},
            start_new_session=True,
        )

    def ask(self, request: PageRequest, inputs: Sequence[Input], reason: Reason) -> Picture | None:
        """The picture, None where the process dies or answers what is no picture. Raises _TooCostlyError."""
        asked: dict[str, Any] = {
            "doc_id": request.doc_id,
            "page": request.page,
            "width": request.width,
            "inputs": [item.to_row() for item in inputs],
            "blocks": [asdict(block) for block in request.blocks],
            "size": request.size,
            "reason": reason,
        }
        try:
            self._process.communicate(json.dumps(asked).encode(), timeout=SECONDS)
            if self._process.returncode == -signal.SIGXCPU:
                raise _TooCostlyError
            return self._picture() if self._process.returncode == 0 else None
        except subprocess.TimeoutExpired:
            raise _TooCostlyError from None
        finally:
            self._end()
            self._reply.close()

    def _picture(self) -> Picture | None:
        self._reply.seek(0)
        header, _, png = self._reply.read(MAX_REPLY).partition(b"\n")
        try:
            said = json.loads(header)["reason"]
        except (ValueError, KeyError, TypeError):
            return None
        reasons: tuple[Reason, ...] = ("", "gone", "changed", "damaged", "too_costly")
        reason = next((known for known in reasons if known == said), None)
        return None if reason is None or not png.startswith(_PNG) else Picture(png, reason)

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End a process that was not asked anything."""
        self._end()
        if self._process.stdin:
            self._process.stdin.close()
        self._reply.close()
