"""A process of its own that encodes: `python -m hiperrag.service.encoder_process SOCKET PID KIND THREADS SPEC`.

Encoding holds Python's lock hundreds of times a call; beside hundreds of streams it would wait for it each time, and
they for it. SOCKET is the number of a descriptor whose other end the parent alone holds, so messages are pickled
without further ado. PID is the parent's: the process ends when that does.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Literal

from hiperrag.encoders.base import Encoded, Encoder
from hiperrag.workflows.tethered import end_with

Kind = Literal["queries", "passages"]
SILENT_S = 30.0
"""A call that takes longer is given up, and the process with it."""
NICENESS: dict[Kind, int] = {"queries": 0, "passages": 10}
"""The sentences of an answer may wait, a search may not."""


class EncoderProcessLostError(Exception):
    """The process died or hung."""


class EncoderProcess:
    """The process, in one life after another; for one thread. Nothing runs before `start`."""

    def __init__(self, kind: Kind, spec: str, threads: int) -> None:
        self._arguments = [kind, str(threads), spec]
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._loaded = False

    @property
    def pid(self) -> int | None:
        """Of this life, where there is one."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Begin to load the encoder, unless that was begun before."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(os.getpid()), *self._arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._connection = Connection(ours.detach())

    @property
    def ready(self) -> bool:
        """Whether it has loaded the encoder."""
        if self._connection and not self._loaded:
            try:
                self._loaded = self._connection.poll() and bool(self._connection.recv())
            except (EOFError, OSError):
                self.end()
        return self._loaded

    def encode(self, texts: Sequence[str]) -> Encoded:
        """See `Encoder`; EncoderProcessLostError where there is no answer. Only when `ready`."""
        assert self._connection
        try:
            self._connection.send(list(texts))
            if self._connection.poll(SILENT_S):
                found: Encoded | None = self._connection.recv()
                if found is not None:
                    return found
        except (EOFError, OSError):
            pass
        self.end()
        raise EncoderProcessLostError(self._arguments)

    def end(self) -> None:
        """End this life; `start` begins another."""
        if self._process:
            self._process.kill()
            self._process.wait()
        if self._connection:
            self._connection.close()
        self._process = self._connection = None
        self._loaded = False


def main() -> None:
    """What the module does when it is run."""
    for ignored in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which answers what it has begun
        signal.signal(ignored, signal.SIG_IGN)
    descriptor, parent = map(int, sys.argv[1:3])
    kind: Kind = "queries" if sys.argv[3] == "queries" else "passages"
    end_with(parent)
    os.nice(NICENESS[kind])
    from hiperrag.encoders import load_encoder

    encoder = load_encoder(sys.argv[5], int(sys.argv[4]))
    connection = Connection(descriptor)
    _encoded(encoder, kind, ["the first run takes longer"])
    try:
        connection.send(True)
        while True:
            connection.send(_encoded(encoder, kind, connection.recv()))
    except (EOFError, OSError):
        os._exit(0)


def _encoded(encoder: Encoder, kind: Kind, texts: Sequence[str]) -> Encoded | None:
    """None where they cannot be encoded: the parent finds out which of them, and why."""
    try:
        return encoder.encode_queries(texts) if kind == "queries" else encoder.encode_passages(texts)
    except Exception:
        return None


if __name__ == "__main__":
    main()
