"""An engine in a process and environment of its own, asked over a line protocol and never waited for forever."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_SERVE = Path(__file__).parent / "workers" / "serve.py"
_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON", "NUMBA")
_START_S = 300


class EngineError(Exception):
    """The engine failed, ended or did not answer in time; the message is for the table."""


class CpuLimitError(EngineError):
    """The engine was ended at its CPU limit."""


class EngineProcess:
    """One worker, run by the script `serve`. `ask` raises EngineError, after which the process is gone."""

    def __init__(self, python: Path, module: str, threads: int, log: Path, serve: Path = _SERVE) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("ab")
        try:
            self._process = subprocess.Popen(
                [str(python), str(serve), module, str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=_environment(threads),
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise EngineError(f"{python} does not start: {error.strerror}") from None
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.version: str = self._answer(_START_S)["version"]

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request and wait for its answer, at most `timeout_s` seconds of wall time."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        return self._answer(timeout_s)

    def close(self) -> None:
        """End the worker and whatever it started."""
        if self._process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate(b'{"do": "quit"}\n', timeout=10)
        self._kill()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self._kill()
            raise EngineError(f"no answer within {timeout_s:.0f} s") from None
        if not line:
            code = self._process.wait()
            self._kill()
            if code == -signal.SIGXCPU:
                raise CpuLimitError("past its CPU limit")
            raise EngineError("killed, perhaps for memory" if code == -signal.SIGKILL else f"ended with {code}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            self.close()
            raise EngineError(answer["error"])
        return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(b"")

    def _kill(self) -> None:
        # The session is the worker's own, so that children of a peer go with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


def peer_python(peers: Path, environment: str) -> Path:
    """Python of a peer's environment; an empty name is this interpreter."""
    return peers.absolute() / environment / "bin" / "python" if environment else Path(sys.executable)


def _environment(threads: int) -> dict[str, str]:
    limits = {f"{name}_NUM_THREADS": str(threads) for name in _THREADS}
    # Peers must find their own packages, not those of a PYTHONPATH that was meant for this process.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, **limits, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
