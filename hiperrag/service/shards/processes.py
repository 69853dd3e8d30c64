"""Processes of our own that search shards, each a share of them: started, watched, and started again when they die."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from hiperrag.errors import UserError
from hiperrag.service.shards import child
from hiperrag.service.shards.messages import BEAT, BEAT_S, Opening, Reply, Request

SILENT_S = 5.0
"""A process that has said nothing for so long hangs, and is killed."""
START_S = 120.0
"""The same for one that has never said anything: on a machine that is busy, programs take their time to start."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 30.0
"""Before a process that died is started again; the pause doubles while it keeps dying."""
STEADY_S = 30.0
"""A process that lived so long died of something else than the one before it."""
REOPEN_S = 10.0
"""Between tries to open a version that a process could not open."""
_log = logging.getLogger(__name__)


class ProcessLostError(Exception):
    """The process that was asked died, hung, or was not there."""


class ShardProcess:
    """One process, in one life after another; `name` is for messages. Thread-safe."""

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        self._threads = threads
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._versions: dict[int, Opening] = {}
        """What the process is to have open, by version."""
        self._opening: set[int] = set()
        self._open: set[int] = set()
        self._waiting: dict[int, Future[Any]] = {}
        self._asked = 0
        self._connection: Connection | None = None
        self._ending = threading.Event()
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, name=f"keeper of {name}", daemon=True)
        self._keeper.start()

    @property
    def pid(self) -> int:
        """Of this life."""
        return self._process.pid

    def has(self, version: int) -> bool:
        """Whether a version can be searched here at the moment."""
        return version in self._open

    def open(self, opening: Opening) -> Future[Any]:
        """Open a version, in all lives to come as well, until it is closed."""
        with self._lock:
            self._versions[opening.version] = opening
        return self._open_in_this_life(opening)

    def close(self, version: int) -> None:
        """Let go of a version."""
        with self._lock:
            self._versions.pop(version, None)
            self._open.discard(version)
        self.ask("close", version)

    def ask(self, operation: str, *arguments: Any) -> Future[Any]:
        """What the operation of `ShardServer` gives: its UserError, ProcessLostError, RuntimeError for what it logs."""
        future: Future[Any] = Future()
        with self._lock:
            if self._connection is None:
                future.set_exception(ProcessLostError(self.name))
                return future
            self._asked += 1
            number = self._asked
            self._waiting[number] = future
        try:
            with self._sending:
                if self._connection:
                    self._connection.send(Request(number, operation, arguments))
        except OSError:
            self.kill()
        return future

    def kill(self) -> None:
        """End this life; the next one begins by itself."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def end(self) -> None:
        """End it for good."""
        self._ending.set()
        self.kill()
        self._keeper.join()

    def _start(self) -> subprocess.Popen[bytes]:
        ours, theirs = socket.socketpair()
        with theirs:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # a process may stop in the middle of a message
                ours.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(SILENT_S), 0))
            arguments = [theirs.fileno(), os.getpid(), self._threads]
            process = subprocess.Popen(
                [sys.executable, "-m", child.__name__, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        with self._lock:
            self._connection = Connection(ours.detach())
        return process

    def _keep(self) -> None:
        """Listen to the process; start it again when it is gone."""
        pause = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            reason = self._listen()
            self._bury()
            if self._ending.is_set():
                return
            pause = FIRST_PAUSE_S if time.monotonic() - began > STEADY_S else min(2 * pause, LONGEST_PAUSE_S)
            _log.warning("%s (pid %d) %s; it is started again in %.1f s", self.name, self.pid, reason, pause)
            if self._ending.wait(pause):
                return
            try:
                self._process = self._start()
            except OSError as error:
                _log.warning("%s cannot be started: %s", self.name, error)
                continue
            self._open_again()

    def _listen(self) -> str:
        """Until the process is gone or hangs; which of them."""
        connection = self._connection
        heard = reopened = time.monotonic()
        patience = START_S
        try:
            while connection:
                if connection.poll(BEAT_S):
                    heard, patience = time.monotonic(), SILENT_S
                    message = connection.recv()
                    if message != BEAT:
                        self._settle(message)
                elif time.monotonic() - heard > patience:
                    return f"has said nothing for {patience:.0f} s"
                if time.monotonic() - reopened > REOPEN_S:
                    reopened = time.monotonic()
                    self._open_again()
        except (EOFError, OSError):
            pass
        return "is gone"

    def _bury(self) -> None:
        self.kill()
        self._process.wait()
        with self._lock:
            connection, self._connection = self._connection, None
            lost = list(self._waiting.values())
            self._waiting.clear()
            self._open.clear()
        for future in lost:
            future.set_exception(ProcessLostError(self.name))
        with self._sending:
            if connection:
                connection.close()

    def _settle(self, reply: Reply) -> None:
        with self._lock:
            future = self._waiting.pop(reply.number)
        if reply.failure is None:
            future.set_result(reply.result)
        else:
            kind = UserError if reply.failure.expected else RuntimeError
            future.set_exception(kind(reply.failure.message))

    def _open_again(self) -> None:
        """The versions that are to be open and are not; one whose files are gone stays closed until it is let go."""
        with self._lock:
            closed = [
                opening for version, opening in self._versions.items() if version not in self._open | self._opening
            ]
        for opening in closed:
            self._open_in_this_life(opening)

    def _open_in_this_life(self, opening: Opening) -> Future[Any]:
        with self._lock:
            self._opening.add(opening.version)
        opened = self.ask("open", opening)

        def note(done: Future[Any]) -> None:
            error = done.exception()
            with self._lock:
                self._opening.discard(opening.version)
                if error is None and opening.version in self._versions:
                    self._open.add(opening.version)
            if isinstance(error, UserError):
                _log.warning("%s: %s", self.name, error)

        opened.add_done_callback(note)
        return opened
