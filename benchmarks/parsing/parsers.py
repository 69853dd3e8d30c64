"""Our parsers by name, and the peers'."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from hiperrag.benchmarks.late_interaction.process import EngineProcess, peer_python
from hiperrag.errors import UserError
from hiperrag.parsing.options import EngineName, ParseOptions, ParserName
from hiperrag.records import Document

Parse = Callable[[bytes, str, str], Document]

ENVIRONMENT = "parsing"
"""Name of the peers' environment below .peers."""
_SERVE = Path(__file__).parent / "workers" / "serve.py"


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """A parser of others: what it is, and whether its output is Markdown."""

    about: str
    markdown: bool = False


PEERS = {
    "plain": Peer("PyMuPDF get_text"),
    "pymupdf4llm": Peer("pymupdf4llm with pymupdf-layout, no OCR", markdown=True),
    "pymupdf4llm-ocr": Peer("pymupdf4llm with pymupdf-layout, its default use of OCR", markdown=True),
    "pymupdf4llm-rules": Peer("pymupdf4llm without pymupdf-layout", markdown=True),
    "kreuzberg": Peer("kreuzberg, Markdown", markdown=True),
    "opendataloader": Peer("opendataloader-pdf, Markdown (Java)", markdown=True),
    "markitdown": Peer("markitdown", markdown=True),
    "pdfplumber": Peer("pdfplumber extract_text"),
    "pdfminer": Peer("pdfminer.six extract_text"),
    "pypdf": Peer("pypdf extract_text"),
}
LEFT_OUT = (
    "docling, marker and MinerU get their models from a hub at run time, which these measurements could not reach."
)


def ours(name: str) -> Parse:
    """A parser of ours: "fast", "auto" or "oreo"; an OCR engine may follow a colon ("auto:tesseract")."""
    parser, _, engine = name.partition(":")
    if parser not in get_args(ParserName) or (engine or "auto") not in get_args(EngineName):
        raise UserError(f"no parser {name!r}; ours are {', '.join(get_args(ParserName))}, peers {', '.join(PEERS)}")
    options = ParseOptions(parser=parser, engine=engine or "auto")  # type: ignore[arg-type]
    from hiperrag.parsing.oreo import parse_pdf

    return lambda data, source, doc_id: parse_pdf(data, source, doc_id, options)


def is_ours(name: str) -> bool:
    """Whether a parser's name is one of ours."""
    return name.partition(":")[0] in get_args(ParserName)


def start(name: str, peers: Path, logs: Path) -> EngineProcess:
    """A worker process of a parser, with one thread. Raises EngineError where it does not start."""
    if not is_ours(name) and name not in PEERS:
        ours(name)
    python = peer_python(peers, "" if is_ours(name) else ENVIRONMENT)
    return EngineProcess(python, name, 1, logs / f"{name.replace(':', '_')}.log", _SERVE)
