"""Parsing quality and speed: the fast text path beside PyMuPDF's plain text, on PDFs with ground truth.

    python -m hiperrag.benchmarks.parse_quality PAIRS_DIR [--json OUT]

PAIRS_DIR holds pdf/ID.pdf, gt/ID.txt (title, abstract, headings and paragraphs in reading order) and
manifest.jsonl with one object a line: id, gt_text (path of the truth), columns (1 or 2). Both parsers run in
the same process, document by document, in alternating order; times are CPU milliseconds a page.

Character similarity is 1 - normalised Levenshtein distance of the whole texts after NFKC, lower case and single
spaces; BLEU-4 is sacrebleu's sentence BLEU on the same strings.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import re
import statistics
import sys
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hiperrag import parsing
from hiperrag.errors import UserError
from hiperrag.files import write_text_atomic
from hiperrag.parsing import oreo, reading
from hiperrag.parsing.body import body_text
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.options import ParseOptions

PARSERS = ("fast", "plain")


@dataclasses.dataclass(slots=True)
class Result:
    """One document with one parser. `similarity` 0..1, `bleu` 0..100, `milliseconds` of CPU for the document."""

    id: str
    parser: str
    columns: int | None
    pages: int
    similarity: float
    bleu: float
    milliseconds: float
    error: str = ""


def normalise(text: str) -> str:
    """Text as it is compared: NFKC, no Markdown marks, single spaces, lower case."""
    text = re.sub(r"[*_#`|]+", " ", unicodedata.normalize("NFKC", text))
    return re.sub(r"\s+", " ", text).strip().lower()


def load_metrics() -> Callable[[str, str], tuple[float, float]]:
    """A function of (text, truth), both normalised, that returns character similarity and BLEU-4."""
    try:
        import sacrebleu
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise UserError(
            f"{error.name} is missing; install the benchmark extra: pip install 'hiperrag[bench]'"
        ) from None

    def score(text: str, truth: str) -> tuple[float, float]:
        similarity = 1.0 - Levenshtein.normalized_distance(text, truth)
        return float(similarity), float(sacrebleu.sentence_bleu(text, [truth]).score)

    return score


def plain_text(data: bytes) -> str:
    """All pages' text in PyMuPDF's own order."""
    with reading.load_pymupdf().open(stream=data, filetype="pdf") as pdf:
        return "\n".join(page.get_text() for page in pdf)


def _fast_text(data: bytes) -> str:
    return body_text(oreo.parse_pdf(data, "", "", ParseOptions(parser="fast")))


def run(pairs: Path, ids: Sequence[str] | None = None) -> list[Result]:
    """Parse and score every pair (or those named) with both parsers."""
    score = load_metrics()
    manifest = pairs / "manifest.jsonl"
    if not manifest.is_file():
        raise UserError(f"{pairs} has no manifest.jsonl; give the folder of PDFs with ground truth")
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    parsers: dict[str, Callable[[bytes], str]] = {"fast": _fast_text, "plain": plain_text}
    results: list[Result] = []
    for index, row in enumerate(row for row in rows if ids is None or row["id"] in ids):
        data = (pairs / "pdf" / f"{row['id']}.pdf").read_bytes()
        truth = normalise((pairs / row["gt_text"]).read_text(encoding="utf-8"))
        with reading.load_pymupdf().open(stream=data, filetype="pdf") as pdf:
            n_pages = len(pdf)
        for name in PARSERS if index % 2 == 0 else PARSERS[::-1]:
            error, text = "", ""
            start = time.process_time()
            try:
                text = parsers[name](data)
            except ParseError as failure:
                error = str(failure)
            milliseconds = 1000 * (time.process_time() - start)
            similarity, bleu = score(normalise(text), truth)
            results.append(Result(row["id"], name, row.get("columns"), n_pages, similarity, bleu, milliseconds, error))
    return results


def summarise(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Figures by parser and number of columns: medians, worst decile, CPU milliseconds a page."""
    rows: list[dict[str, Any]] = []
    for parser in PARSERS:
        for stratum, columns in (("all", None), ("1 column", 1), ("2 columns", 2)):
            chosen = [r for r in results if r.parser == parser and columns in (None, r.columns)]
            if not chosen:
                continue
            similarities = sorted(r.similarity for r in chosen)
            rows.append(
                {
                    "parser": parser,
                    "stratum": stratum,
                    "documents": len(chosen),
                    "failed": sum(bool(r.error) for r in chosen),
                    "similarity_median": statistics.median(similarities),
                    "similarity_p10": similarities[len(similarities) // 10],
                    "bleu_median": statistics.median(r.bleu for r in chosen),
                    "ms_per_page": sum(r.milliseconds for r in chosen) / sum(r.pages for r in chosen),
                    "ms_per_page_median": statistics.median(r.milliseconds / r.pages for r in chosen),
                }
            )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The summary as aligned text."""
    lines = [
        f"{'parser':8s}{'stratum':11s}{'n':>4s}{'failed':>8s}{'similarity':>12s}{'p10':>7s}{'BLEU-4':>8s}{'ms/page':>9s}"
    ]
    lines += [
        f"{r['parser']:8s}{r['stratum']:11s}{r['documents']:4d}{r['failed']:8d}{r['similarity_median']:12.3f}"
        f"{r['similarity_p10']:7.3f}{r['bleu_median']:8.1f}{r['ms_per_page']:9.1f}"
        for r in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hiperrag.benchmarks.parse_quality", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("pairs", type=Path, metavar="PAIRS_DIR", help="folder with pdf/, gt/ and manifest.jsonl")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every figure to this file")
    options = parser.parse_args(arguments)
    try:
        results = run(options.pairs)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    summary = summarise(results)
    print(table(summary))
    if options.json:
        report = {
            "versions": {
                "python": platform.python_version(),
                "pymupdf": reading.load_pymupdf().__version__,
                "parser": f"fast {parsing.VERSION}",
            },
            "machine": {"system": platform.platform(), "processor": platform.machine()},
            "summary": summary,
            "documents": [dataclasses.asdict(result) for result in results],
        }
        write_text_atomic(options.json, json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
