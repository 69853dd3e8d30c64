"""The process that reads and parses PDFs for `sandbox.Sandbox`: limits itself, then answers requests.

Messages on standard input and output are 8 bytes of length (big-endian) and JSON: a request holds an id,
an input and the limit on its size; a reply the id and {"document": ...} or {"error": ..., "message": ...}. Before it
recognises a page, the child says so and is answered {"go": ...}.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import importlib
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from typing import IO, Any

from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.inputs import Input, read_bytes
from hiperrag.parsing.options import OnPage, ParseOptions
from hiperrag.records import Document

_PR_SET_PDEATHSIG = 1
_HEADER = 8
_OUT_OF_MEMORY = re.compile(r"(m|c|re)alloc.*fail|bad_alloc|out of memory|cannot (allocate|map)", re.IGNORECASE)

_Parser = Callable[[bytes, str, str, ParseOptions, OnPage], Document]


def main(parser: str, memory: int, seconds: float, parent: int) -> None:
    """Serve requests until standard input ends. `memory` in bytes."""
    _die_with(parent)
    requests, replies = _private_pipes()
    parse = _load(parser)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Not RLIMIT_AS: that counts reserved address space too, of which thread arenas and libraries take GBs.
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    _silence(1, 2)
    _send(replies, {})
    while request := _receive(requests):
        _limit_processor_time(seconds)
        asked = json.loads(request)
        steps = _Steps(requests, replies, asked["id"], seconds)
        _send(replies, {"id": asked["id"], **_answer(parse, asked, steps), "at": steps.page})


class _Steps:
    """Tells the parent which page work begins on, and asks it before one is recognised."""

    def __init__(self, requests: IO[bytes], replies: IO[bytes], number: int, seconds: float) -> None:
        self._requests, self._replies, self._number, self._seconds = requests, replies, number, seconds
        self.page = 0

    def __call__(self, page: int, recognise: int) -> bool:
        self.page = page
        _send(self._replies, {"id": self._number, "page": page, "recognise": recognise})
        if not recognise:
            return True
        _limit_processor_time(self._seconds)
        return bool(json.loads(_receive(self._requests))["go"])


def _answer(parse: _Parser, request: dict[str, Any], on_page: OnPage) -> dict[str, Any]:
    try:
        item = Input.from_row(request["input"])
        data = read_bytes(item, request["max_bytes"])
        options = ParseOptions.from_row(request["options"])
        document = parse(data, item.source, hashlib.sha256(data).hexdigest()[:32], options, on_page)
        return {"document": dataclasses.asdict(document)}
    except MemoryError:
        return {"error": "memory", "message": "parsing needs more memory than the limit"}
    except ParseError as error:
        if _OUT_OF_MEMORY.search(error.message):
            return {"error": "memory", "message": "parsing needs more memory than the limit"}
        return {"error": error.error, "message": error.message}
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        if _OUT_OF_MEMORY.search(text):
            return {"error": "memory", "message": text}
        return {"error": "unavailable" if isinstance(error, ImportError) else "damaged", "message": text}


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone (Linux; elsewhere end of input does it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(0)


def _private_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output, moved to where no C library prints to or reads from."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _silence(0)
    os.dup2(2, 1)
    return requests, replies


def _silence(*descriptors: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)


def _limit_processor_time(seconds: float) -> None:
    """A second line of defence: the parent's clock normally ends a file first."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = usage.ru_utime + usage.ru_stime
    limit = int(spent + (os.cpu_count() or 1) * seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _load(parser: str) -> _Parser:
    """The function named "module:function"; its module's `prepare()`, if any, does slow imports ahead of limits."""
    name, _, function = parser.partition(":")
    module = importlib.import_module(name)
    getattr(module, "prepare", lambda: None)()
    loaded: _Parser = getattr(module, function)
    return loaded


def _receive(stream: IO[bytes]) -> bytes:
    header = stream.read(_HEADER)
    return stream.read(int.from_bytes(header, "big")) if len(header) == _HEADER else b""


def _send(stream: IO[bytes], message: dict[str, Any]) -> None:
    # "replace": a lone surrogate from a broken font table would otherwise fail here and in every file.
    payload = json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")
    stream.write(len(payload).to_bytes(_HEADER, "big") + payload)
    stream.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
