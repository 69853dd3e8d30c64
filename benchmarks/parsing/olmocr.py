"""The assertions of olmOCR-bench (Poznanski et al. 2025, arXiv 2502.18443, section 5) on Markdown output.

    python -m hiperrag.benchmarks.parsing.olmocr DIR [--parser fast] [--json OUT] [--show]

DIR holds tests.jsonl and the PDFs it names. An assertion says that a text is present or absent, that one text comes
before another, that a cell has a neighbour or a heading, or that an equation is there. Text is compared after
markup and look-alike characters are unified; `max_diffs` edits are allowed. The original compares equations as
rendered pictures; here LaTeX must be the same after spaces, sizes of brackets and needless braces are taken out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hiperrag.benchmarks.parsing.cells import Rows, grid_of, markdown_tables
from hiperrag.benchmarks.parsing.parsers import ours
from hiperrag.errors import UserError
from hiperrag.files import write_text_atomic
from hiperrag.parsing.markdown import to_markdown

_LOOK_ALIKE = str.maketrans(
    {"‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "＿": "_", "–": "-", "—": "-", "‑": "-", "‒": "-"}
    | {"−": "-", "\u00b5": "\u03bc"}
)
_EQUATION = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|\$(.+?)\$", re.S)


@dataclasses.dataclass(slots=True)
class Outcome:
    """One assertion and whether it holds."""

    id: str
    type: str
    passed: bool
    about: str


def plain(markdown: str) -> str:
    """Text without emphasis and line breaks, with plain quotes and dashes, in NFC."""
    text = re.sub(r"<br\s*/?>", " ", markdown)
    text = re.sub(r"</?[bi]>", "", text)
    text = re.sub(r"(\*\*|__|\*|_)(.*?)\1", r"\2", text)
    return unicodedata.normalize("NFC", re.sub(r"\s+", " ", text)).translate(_LOOK_ALIKE)


def holds(test: dict[str, Any], markdown: str) -> bool:
    """Whether an assertion holds for a page's Markdown. Raises UserError for one of an unknown type."""
    checks: dict[str, Callable[[dict[str, Any], str], bool]] = {
        "present": _present,
        "absent": lambda test, text: not _present(test, text),
        "order": _order,
        "table": _table,
        "math": _math,
    }
    if test["type"] not in checks:
        raise UserError(f"assertion {test['id']} is of type {test['type']!r}; known are {', '.join(checks)}")
    return checks[test["type"]](test, markdown)


def _present(test: dict[str, Any], markdown: str) -> bool:
    wanted, text = plain(test["text"]), plain(markdown)
    if not test.get("case_sensitive", True):
        wanted, text = wanted.lower(), text.lower()
    if test.get("first_n") or test.get("last_n"):
        first, last = test.get("first_n") or 0, test.get("last_n") or 0
        text = text[:first] + (text[-last:] if last else "")
    return bool(_places(wanted, text, test.get("max_diffs", 0)))


def _places(wanted: str, text: str, max_diffs: int) -> list[int]:
    """Where a text begins in another; with `max_diffs`, only the best place, if it differs by no more edits."""
    exact = [match.start() for match in re.finditer(re.escape(wanted), text)]
    if exact or not max_diffs or len(text) < len(wanted) - max_diffs:
        return exact
    from rapidfuzz import fuzz

    found = fuzz.partial_ratio_alignment(wanted, text, score_cutoff=100 * (1 - max_diffs / len(wanted)))
    return [found.dest_start] if found else []


def _order(test: dict[str, Any], markdown: str) -> bool:
    text, max_diffs = plain(markdown), test.get("max_diffs", 0)
    before = _places(plain(test["before"]), text, max_diffs)
    after = _places(plain(test["after"]), text, max_diffs)
    return bool(before and after) and min(before) < max(after)


def _table(test: dict[str, Any], markdown: str) -> bool:
    return any(_table_holds(test, rows) for rows in markdown_tables(markdown))


def _table_holds(test: dict[str, Any], rows: Rows) -> bool:
    grid = grid_of(rows)
    texts = [plain(cell.text).strip() for row in rows for cell in row]
    max_diffs = test.get("max_diffs", 0)
    for r, row in enumerate(grid):
        for c, index in enumerate(row):
            if index >= 0 and _alike(test["cell"], texts[index], max_diffs):
                column = [line[c] for line in grid]
                ways = {
                    "up": _next(reversed(column[:r]), index),
                    "down": _next(column[r + 1 :], index),
                    "left": _next(reversed(row[:c]), index),
                    "right": _next(row[c + 1 :], index),
                    "top_heading": column[:r],
                    "left_heading": row[:c],
                }
                wanted = {way: test[way] for way in ways if test.get(way)}
                if all(
                    any(i >= 0 and _alike(text, texts[i], max_diffs) for i in ways[way]) for way, text in wanted.items()
                ):
                    return True
    return False


def _next(cells: Iterable[int], own: int) -> list[int]:
    """The first cell on the way that is another."""
    return next(([index] for index in cells if index not in (own, -1)), [])


def _alike(wanted: str, text: str, max_diffs: int) -> bool:
    from rapidfuzz import fuzz

    wanted = plain(wanted).strip()
    return bool(fuzz.ratio(wanted, text) / 100 >= max(0.5, 1 - max_diffs / max(1, len(wanted))))


def _math(test: dict[str, Any], markdown: str) -> bool:
    wanted = latex_key(test["math"])
    return any(latex_key(next(filter(None, found))) == wanted for found in _EQUATION.findall(markdown))


def latex_key(latex: str) -> str:
    """LaTeX without what does not show: spaces, sizes of brackets, tags, braces around a single sign."""
    sizes = r"\\(?:left|right|[bB]igg?)(?![a-zA-Z])\.?"
    latex = re.sub(sizes + r"|\\(?:tag|label)\{.*?\}|\\(?:display|text|script)style", "", latex)
    latex = re.sub(r"\\(?:[,;:!]|(?:quad|qquad|nonumber)(?![a-zA-Z]))|~", "", latex)
    latex = re.sub(r"\\(?:operatorname\*?|mathrm|text|rm)\{(.*?)\}", r"\\mathrm{\1}", latex).replace(r"\prime", "'")
    # No spaces, but for the one that ends a command's name before a letter.
    latex = re.sub(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])|\s+", lambda match: f"{match[1]} " if match[1] else "", latex)
    while (shorter := re.sub(r"(?<![a-zA-Z}])\{([^{}\\]|\\[a-zA-Z]+)\}", r"\1", latex)) != latex:
        latex = shorter
    return latex.rstrip(".,;")


def run(folder: Path, convert: Callable[[bytes], str]) -> list[Outcome]:
    """Check every assertion of a folder; a PDF that cannot be converted fails all but "absent" of its own."""
    file = folder / "tests.jsonl"
    if not file.is_file():
        raise UserError(f"{folder} has no tests.jsonl; give a folder of olmOCR-bench")
    tests = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    texts: dict[str, str] = {}
    outcomes = []
    for test in tests:
        if test["pdf"] not in texts:
            try:
                texts[test["pdf"]] = convert((folder / test["pdf"]).read_bytes())
            except Exception as error:  # whatever a parser raises is its failure, not the benchmark's
                print(f"{test['pdf']}: {type(error).__name__}: {error}", file=sys.stderr)
                texts[test["pdf"]] = ""
        about = next(str(test[name]) for name in ("text", "before", "cell", "math") if name in test)
        outcomes.append(Outcome(test["id"], test["type"], holds(test, texts[test["pdf"]]), about))
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Passed and all, by type."""
    passed = Counter(outcome.type for outcome in outcomes if outcome.passed)
    every = Counter(outcome.type for outcome in outcomes)
    lines = [f"{name:10s}{passed[name]:4d} of {count}" for name, count in sorted(every.items())]
    return "\n".join([*lines, f"{'all':10s}{passed.total():4d} of {every.total()}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hiperrag.benchmarks.parsing.olmocr", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder with tests.jsonl and its PDFs")
    parser.add_argument(
        "--parser",
        default="fast",
        help="fast, auto or oreo, with an OCR engine after a colon if wanted (default: fast)",
    )
    parser.add_argument("--show", action="store_true", help="print the assertions that fail")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the outcomes to this file")
    given = parser.parse_args(arguments)
    try:
        parse = ours(given.parser)
        outcomes = run(given.folder, lambda data: to_markdown(parse(data, "", "")))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if given.show:
        print("\n".join(f"failed {o.id} ({o.type}): {o.about[:100]}" for o in outcomes if not o.passed))
    print(table(outcomes))
    if given.json:
        write_text_atomic(given.json, json.dumps([dataclasses.asdict(o) for o in outcomes], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
