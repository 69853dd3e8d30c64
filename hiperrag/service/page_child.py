"""The process that draws one page for `rendering`: limits itself, reads one request, answers it and ends.

PDFs are hostile input, and PyMuPDF is C code that is not safe to use from threads; so a page is drawn in a process
of its own that serves nothing else. The request on standard input is JSON; the reply on standard output is one line
of JSON, then the PNG.
"""

from __future__ import annotations

import ctypes
import hashlib
import html
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any

from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.inputs import Input, read_bytes
from hiperrag.parsing.reading import load_pymupdf

MAX_PIXELS = 6_000
"""Of a picture's height, however long the page is."""
MAX_REPLY = 64 << 20

_PR_SET_PDEATHSIG = 1
_PAPER = (595.0, 842.0)
_MAX_BLOCKS = 400
_TABULAR = ("table", "code")


def main(memory: int, seconds: int, parent: int) -> None:
    """Answer the one request. `memory` in bytes, `seconds` of processor time."""
    _die_with(parent)
    reply = os.fdopen(os.dup(1), "wb")
    _silence()
    pymupdf = load_pymupdf()
    _limit(memory, seconds)
    request = json.loads(sys.stdin.buffer.read())
    reason, png = answer(pymupdf, request)
    reply.write(json.dumps({"reason": reason}).encode() + b"\n" + png)
    reply.flush()


def answer(pymupdf: Any, request: dict[str, Any]) -> tuple[str, bytes]:
    """(reason, PNG) of one page: from the first of `request["inputs"]` whose bytes have the document's hash.

    Where there is none it is drawn from the blocks, and `reason` says why.
    """
    data, reason = _source([Input.from_row(row) for row in request["inputs"]], request["doc_id"])
    if data is not None:
        try:
            with pymupdf.open(stream=data, filetype="pdf") as pdf:
                return "", _drawn(pymupdf, pdf[request["page"] - 1], request["width"])
        except MemoryError:
            raise
        except Exception:  # MuPDF raises many types
            reason = "damaged"
    png = draw_blocks(pymupdf, request["blocks"], request["size"] or _extent(request["blocks"]), request["width"])
    return request["reason"] or reason, png


def _source(inputs: Sequence[Input], doc_id: str) -> tuple[bytes | None, str]:
    """The document's bytes, else why there are none: "gone" or "changed"."""
    reason = "gone"
    for item in inputs:
        try:
            data = read_bytes(item)
        except ParseError as error:
            reason = "changed" if error.error == "changed" else reason
            continue
        if hashlib.sha256(data).hexdigest()[: len(doc_id)] == doc_id:
            return data, ""
        reason = "changed"
    return None, reason


def _drawn(pymupdf: Any, page: Any, width: int) -> bytes:
    scale = min(width / max(page.rect.width, 1.0), MAX_PIXELS / max(page.rect.height, 1.0))
    png: bytes = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False).tobytes("png")
    return png


def draw_blocks(pymupdf: Any, blocks: Sequence[dict[str, Any]], size: Sequence[float], width: int) -> bytes:
    """A page of `size` points with the text of `blocks` where it was read, as PNG; each block's text fits its box."""
    with pymupdf.open() as drawing:
        page = drawing.new_page(width=max(size[0], 10.0), height=max(size[1], 10.0))
        for block in blocks[:_MAX_BLOCKS]:
            box = pymupdf.Rect(*block["bbox"]).normalize() & page.rect
            if box.is_empty or box.width < 2 or box.height < 2:
                continue
            page.draw_rect(box, color=(0.86, 0.86, 0.86), width=0.5)
            # Boxes end at the letters' edges, line spacing does not.
            page.insert_htmlbox(box, _markup(block), css="* {font-family: serif; line-height: 1.1}", scale_low=0)
        return _drawn(pymupdf, page, width)


def _markup(block: dict[str, Any]) -> str:
    text = html.escape(block["text"])
    if block["kind"] in _TABULAR:
        return f"<pre style='font-size:8px; margin:0'>{text}</pre>"
    if block["kind"] in ("title", "heading"):
        return f"<div style='font-size:13px; font-weight:bold'>{text}</div>"
    return f"<div style='font-size:10px'>{text}</div>"


def _extent(blocks: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """A page large enough for all blocks, for a document whose pages' sizes are not known."""
    right = max((block["bbox"][2] for block in blocks), default=0.0)
    bottom = max((block["bbox"][3] for block in blocks), default=0.0)
    return max(_PAPER[0], right), max(_PAPER[1], bottom)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone (Linux; elsewhere end of input does it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(0)


def _silence() -> None:
    """MuPDF prints what it thinks of a file."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _limit(memory: int, seconds: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(usage.ru_utime + usage.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, spent + seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_REPLY, MAX_REPLY))
    # Not RLIMIT_AS: that counts reserved address space too, of which thread arenas and libraries take GBs.
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
