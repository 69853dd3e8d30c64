"""Serve one parser over standard input and output, one JSON object a line. Peers need nothing of ours.

    python serve.py PARSER THREADS

{"pdf": PATH} is answered by {"text", "body", "cpu_s"}: the whole output, and the text of the body where the
parser tells it apart (else null). CPU time is user and system time of all threads
and of children that have ended. The first line, before any request, is {"version": ...}. A request that fails is
answered with an empty text and the reason in "failed".
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Parse = Callable[[str], str]


def main(name: str) -> None:
    """Answer requests until "quit" or the end of input."""
    # Libraries print on standard output; the answers get a channel of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    version, convert = _loaded(name)
    _answer(answers, {"version": version})
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("do") == "quit":
            return
        begin = cpu_s()
        try:
            answer = convert(request["pdf"])
        except Exception as error:  # whatever a parser raises belongs in the table, not in a dead benchmark
            message = (str(error).strip() or "no message").splitlines()[0]
            answer = {"text": "", "body": None, "failed": f"{type(error).__name__}: {message}"[:300]}
        _answer(answers, {**answer, "cpu_s": cpu_s() - begin})


def _answer(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def cpu_s() -> float:
    """CPU-seconds of this process and its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _loaded(name: str) -> tuple[str, Callable[[str], dict[str, Any]]]:
    """Version of a parser, and a function from a path to its answer."""
    if name in _PEERS:
        package, load = _PEERS[name]
        parse = load()
        return f"{package} {importlib.metadata.version(package)}", lambda path: {"text": parse(path), "body": None}
    return _ours(name)


def _ours(name: str) -> tuple[str, Callable[[str], dict[str, Any]]]:
    parsers = importlib.import_module("hiperrag.benchmarks.parsing.parsers")
    parse = parsers.ours(name)
    to_markdown = importlib.import_module("hiperrag.parsing.markdown").to_markdown
    body_text = importlib.import_module("hiperrag.parsing.body").body_text

    def convert(path: str) -> dict[str, Any]:
        document = parse(Path(path).read_bytes(), path, path)
        return {"text": to_markdown(document), "body": body_text(document)}

    return f"hiperrag {importlib.metadata.version('hiperrag')}", convert


def _plain() -> Parse:
    pymupdf = importlib.import_module("pymupdf")

    def parse(path: str) -> str:
        with pymupdf.open(path) as pdf:
            return "\n".join(page.get_text() for page in pdf)

    return parse


def _pymupdf4llm(use_ocr: bool) -> Parse:
    importlib.import_module("pymupdf.layout")
    to_markdown = importlib.import_module("pymupdf4llm").to_markdown
    return lambda path: str(to_markdown(path, show_progress=False, use_ocr=use_ocr))


def _pymupdf4llm_rules() -> Parse:
    # Without its layout package it falls back on its rules.
    sys.modules["pymupdf.layout"] = None  # type: ignore[assignment]
    module = importlib.import_module("pymupdf4llm")
    if hasattr(module, "use_layout"):
        module.use_layout(False)
    return lambda path: str(module.to_markdown(path, show_progress=False))


def _kreuzberg() -> Parse:
    module = importlib.import_module("kreuzberg")
    config = module.ExtractionConfig(output_format="markdown")
    return lambda path: str(module.extract_file_sync(path, config=config).content)


def _opendataloader() -> Parse:
    module = importlib.import_module("opendataloader_pdf")

    def parse(path: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            module.convert(input_path=[path], output_dir=folder, format="markdown", quiet=True)
            return next(Path(folder).glob("*.md")).read_text(encoding="utf-8")

    return parse


def _markitdown() -> Parse:
    converter = importlib.import_module("markitdown").MarkItDown()
    return lambda path: str(converter.convert(path).markdown)


def _pdfplumber() -> Parse:
    module = importlib.import_module("pdfplumber")

    def parse(path: str) -> str:
        with module.open(path) as pdf:
            return "\n".join(page.extract_text() or "" for page in pdf.pages)

    return parse


def _pdfminer() -> Parse:
    extract_text = importlib.import_module("pdfminer.high_level").extract_text
    return lambda path: str(extract_text(path))


def _pypdf() -> Parse:
    reader = importlib.import_module("pypdf").PdfReader
    return lambda path: "\n".join(page.extract_text() for page in reader(path).pages)


_PEERS: dict[str, tuple[str, Callable[[], Parse]]] = {
    "plain": ("pymupdf", _plain),
    "pymupdf4llm": ("pymupdf4llm", lambda: _pymupdf4llm(use_ocr=False)),
    "pymupdf4llm-ocr": ("pymupdf4llm", lambda: _pymupdf4llm(use_ocr=True)),
    "pymupdf4llm-rules": ("pymupdf4llm", _pymupdf4llm_rules),
    "kreuzberg": ("kreuzberg", _kreuzberg),
    "opendataloader": ("opendataloader-pdf", _opendataloader),
    "markitdown": ("markitdown", _markitdown),
    "pdfplumber": ("pdfplumber", _pdfplumber),
    "pdfminer": ("pdfminer.six", _pdfminer),
    "pypdf": ("pypdf", _pypdf),
}

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1])
