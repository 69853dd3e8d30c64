"""Parsers on PDFs with ground truth, taking turns: text, reading order, headings, tables, captions, time.

    python -m hiperrag.benchmarks.parsing PAIRS_DIR --out DIR [--parsers fast,auto,plain,pymupdf4llm] [--limit N]
    python -m hiperrag.benchmarks.parsing PAIRS_DIR --out DIR --parsers fast,auto:tesseract --rasterise 150 300 --turn

PAIRS_DIR holds pdf/, gt/ and manifest.jsonl. Peers come from `benchmarks/install_peers.sh parsing`. Each parser runs
in a process of its own with one thread, and every document is given to all of them, in rotating order. --rasterise
adds copies without a text layer, which are kept in --work. Writes parsing.json, parsing.md and pictures to --out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hiperrag.benchmarks.parsing.compare import Plan, compare, summarise
from hiperrag.benchmarks.parsing.parsers import PEERS, ours
from hiperrag.benchmarks.parsing.report import markdown, write_plots
from hiperrag.errors import UserError
from hiperrag.files import write_text_atomic


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; exit code 2 and one line where the arguments are unusable."""
    given = _parser().parse_args(arguments)
    try:
        if given.redraw:
            report = json.loads(given.redraw.read_text(encoding="utf-8"))
            report["summary"] = summarise(report["results"])
        else:
            given.out.mkdir(parents=True, exist_ok=True)
            report = compare(_plan(given), lambda report: write_json(report, given.out))
        write(report, given.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def write(report: dict[str, Any], folder: Path) -> None:
    """Figures, tables and pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(report, folder)
    text = markdown(report)
    write_text_atomic(folder / "parsing.md", text)
    write_plots(report, folder)
    print(text)


def write_json(report: dict[str, Any], folder: Path) -> None:
    """All figures, from which --redraw makes the rest."""
    write_text_atomic(folder / "parsing.json", json.dumps(report, indent=1) + "\n")


def _plan(given: argparse.Namespace) -> Plan:
    parsers = [name for name in given.parsers.split(",") if name]
    for name in parsers:
        if name not in PEERS:
            ours(name)
    if given.pairs is None:
        raise UserError("give the folder of PDFs with ground truth, or --redraw")
    if not parsers:
        raise UserError("--parsers names none")
    return Plan(
        pairs=given.pairs,
        parsers=parsers,
        half=given.half,
        limit=given.limit,
        max_pages=given.max_pages,
        rasterise=given.rasterise,
        turn=given.turn,
        work=given.work,
        peers=given.peers,
        timeout_s=given.timeout,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hiperrag.benchmarks.parsing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pairs", type=Path, nargs="?", metavar="PAIRS_DIR")
    parser.add_argument("--redraw", type=Path, metavar="JSON", help="only write table and pictures of earlier results")
    parser.add_argument("--out", type=Path, required=True, help="results are written here")
    parser.add_argument(
        "--parsers",
        default=",".join(["fast", *(name for name in PEERS if name != "pymupdf4llm-ocr")]),
        help=f"of fast, auto, oreo (an OCR engine may follow a colon), {', '.join(PEERS)} "
        "(default: fast and the peers without OCR)",
    )
    parser.add_argument("--half", choices=("dev", "held", "all"), default="all")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N documents by id")
    parser.add_argument("--max-pages", type=int, metavar="N", help="leave out longer documents")
    parser.add_argument("--rasterise", type=int, nargs="+", default=[], metavar="DPI", help="also copies as pictures")
    parser.add_argument("--turn", action="store_true", help="turn some pages of the copies by 90 degrees")
    parser.add_argument("--work", type=Path, default=Path("parsing-work"), help="copies and logs are kept here")
    parser.add_argument("--peers", type=Path, default=Path(".peers"), help="folder of the peers' environments")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds a document may take")
    return parser


if __name__ == "__main__":
    sys.exit(main())
