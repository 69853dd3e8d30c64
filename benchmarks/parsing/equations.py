"""How many displayed equations a parser finds, and how right their LaTeX is, against the MathML of articles' JATS.

    python -m hiperrag.benchmarks.parsing.equations PAIRS_DIR [--half dev|held|all] [--parser fast] [--show]

An equation of the truth is found where an equation block has at least half of its printed signs in their order
(`SAME`); each block counts for one. Similarity is 1 - normalised Levenshtein distance of the sequences of signs
(`formulas`): of all printed signs, and with fractions, roots and scripts. An equation without LaTeX scores 0 there.
Intervals are 95%, from resampling the equations.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiperrag.benchmarks.parsing import formulas
from hiperrag.benchmarks.parsing.parsers import Parse, ours
from hiperrag.benchmarks.parsing.truth import rows_of
from hiperrag.errors import UserError
from hiperrag.files import write_text_atomic
from hiperrag.parsing import matching
from hiperrag.records import Block

SAME = 0.5
SAMPLES = 2000


@dataclasses.dataclass(slots=True)
class Equation:
    """One equation of the truth and what was found of it. Similarities 0..1; None where nothing was found."""

    document: str
    wanted: str
    found: str | None = None
    latex: str = ""
    signs: float = 0.0
    """Similarity of the printed signs of its LaTeX."""
    layout: float = 0.0
    """The same with fractions, roots and scripts."""


def truth_of(jats: bytes) -> list[list[str]]:
    """Signs of every displayed equation of an article that has MathML, in order; equations of one sign are none."""
    article = ElementTree.fromstring(jats)
    found = []
    for display in article.iter("disp-formula"):
        math = [element for element in display.iter() if element.tag.rpartition("}")[2] == "math"]
        signs = [sign for element in math for sign in formulas.of_mathml(element)]
        if len(signs) > 2:
            found.append(_trimmed(signs))
    return found


def _trimmed(signs: Sequence[str]) -> list[str]:
    """Signs without the stop or comma at their end."""
    end = len(signs)
    while end and signs[end - 1] in ".,;":
        end -= 1
    return list(signs[:end])


def similarity(a: Sequence[str], b: Sequence[str]) -> float:
    """1 - normalised Levenshtein distance of two sequences of signs."""
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise UserError("rapidfuzz is missing; install the benchmark extra: pip install 'hiperrag[bench]'") from None
    return 1.0 - float(Levenshtein.normalized_distance(a, b))


def score(document: str, blocks: Sequence[Block], truth: Sequence[Sequence[str]]) -> tuple[list[Equation], int]:
    """The truth's equations with what was found of each, and how many equation blocks match none."""
    given = [block for block in blocks if block.kind == "equation"]
    read = [_trimmed(formulas.of_latex(block.latex)) for block in given]
    shown = [
        formulas.printed(signs) if signs else formulas.plain_signs(block.text)
        for block, signs in zip(given, read, strict=True)
    ]
    printed = [formulas.printed(signs) for signs in truth]
    costs = {
        (i, j): 1 - alike
        for i, signs in enumerate(printed)
        for j, other in enumerate(shown)
        if (alike := similarity(signs, other)) >= SAME
    }
    pairs = matching.cheapest(costs)
    result = []
    for i, signs in enumerate(truth):
        equation = Equation(document, " ".join(signs))
        if i in pairs:
            block, own = given[pairs[i]], read[pairs[i]]
            equation.found, equation.latex = block.text, block.latex
            if block.latex:
                equation.signs = similarity(printed[i], formulas.printed(own))
                equation.layout = similarity(list(signs), own)
        result.append(equation)
    return result, len(given) - len(pairs)


def run(pairs: Path, half: str, parse: Parse) -> tuple[list[Equation], int]:
    """Score every article of a half that has displayed equations in MathML."""
    found: list[Equation] = []
    extra = 0
    for row in rows_of(pairs, half):
        jats = pairs / "gt" / f"{row['id']}.jats.xml.gz"
        truth = truth_of(gzip.decompress(jats.read_bytes())) if jats.is_file() else []
        if truth:
            document = parse((pairs / row["pdf"]).read_bytes(), row["id"], row["id"])
            scored, unmatched = score(row["id"], document.blocks, truth)
            found, extra = found + scored, extra + unmatched
    if not found:
        raise UserError(f"{pairs} has no displayed equations with MathML in its half {half!r}")
    return found, extra


def summarise(found: Sequence[Equation], extra: int) -> dict[str, Any]:
    """Shares and means over all equations of the truth, each with its interval."""
    return {
        "equations": len(found),
        "documents": len({equation.document for equation in found}),
        "blocks_unmatched": extra,
        "found": _mean([equation.found is not None for equation in found]),
        "with_latex": _mean([bool(equation.latex) for equation in found]),
        "signs": _mean([equation.signs for equation in found]),
        "layout": _mean([equation.layout for equation in found]),
        "layout_exact": _mean([equation.layout == 1.0 for equation in found]),
        "signs_of_latex": _mean([equation.signs for equation in found if equation.latex]),
        "layout_of_latex": _mean([equation.layout for equation in found if equation.latex]),
    }


def _mean(values: Sequence[float]) -> dict[str, float] | None:
    """Mean and 95% interval by the bootstrap."""
    if not values:
        return None
    sample = np.array(values, float)
    drawn = np.random.default_rng(0).choice(sample, (SAMPLES, len(sample))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return {"mean": float(sample.mean()), "low": low, "high": high, "n": len(sample)}


def table(summary: dict[str, Any]) -> str:
    """The summary, one figure a line."""
    return "\n".join(
        f"{name:18s}"
        + (f"{v['mean']:.3f} [{v['low']:.3f}, {v['high']:.3f}]  n={v['n']}" if isinstance(v, dict) else f"{v}")
        for name, v in summary.items()
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hiperrag.benchmarks.parsing.equations", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("pairs", type=Path, metavar="PAIRS_DIR", help="folder with pdf/, gt/ and manifest.jsonl")
    parser.add_argument("--half", choices=("dev", "held", "all"), default="dev")
    parser.add_argument("--parser", default="fast", help="fast, auto or oreo (default: fast)")
    parser.add_argument("--show", action="store_true", help="print every equation that is not exact")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every figure to this file")
    given = parser.parse_args(arguments)
    try:
        found, extra = run(given.pairs, given.half, ours(given.parser))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if given.show:
        for equation in (equation for equation in found if equation.layout < 1):
            print(f"{equation.document} {equation.signs:.2f} {equation.layout:.2f}\n  wanted {equation.wanted}")
            print(f"  latex  {equation.latex}\n  text   {equation.found}")
    summary = summarise(found, extra)
    print(table(summary))
    if given.json:
        report = {"half": given.half, "summary": summary, "equations": [dataclasses.asdict(one) for one in found]}
        write_text_atomic(given.json, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
