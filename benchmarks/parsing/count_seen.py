"""Count what the layout model sees where the ground truth tells the kind: the weights of `hiperrag.parsing.evidence`.

    python -m hiperrag.benchmarks.parsing.count_seen PAIRS_DIR [--half dev|held|all]

Prints `evidence.SEEN` anew: of the regions of each kind, the share in which the model sees each of its classes, or
nothing. Kinds with fewer than `MIN_REGIONS` regions keep the shares that stand there. Labels are those the trees are
trained on (`train_blocks`).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from hiperrag.benchmarks.parsing.train_blocks import labelled
from hiperrag.benchmarks.parsing.truth import rows_of
from hiperrag.errors import UserError
from hiperrag.parsing import evidence, reading, vision

MIN_REGIONS = 40
LEAST = 0.01
"""Share of what was never seen: it may be."""


def counts(pairs: Path, half: str) -> dict[str, Counter[int]]:
    """By kind, how many regions the model sees as each of `vision.KINDS`, or (the last index) as nothing."""
    if not vision.is_installed():
        raise UserError(vision.MISSING)
    model = vision.load()
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for row in rows_of(pairs, half):
        given = labelled(pairs, row)
        wanted = {region.page for region, kind in zip(given.layout.regions, given.kinds, strict=True) if kind}
        pages = {page.number: page for page in given.pages if page.number in wanted}
        with reading.opened((pairs / row["pdf"]).read_bytes()) as pdf:
            seen = model.detect_pages([pdf[number - 1] for number in pages], [page.turn for page in pages.values()])
        detections = dict(zip(pages, seen, strict=True))
        for region, kind in zip(given.layout.regions, given.kinds, strict=True):
            if kind:
                box = pages[region.page].page_bbox(region.x0, region.y0, region.x1, region.y1)
                found[kind][evidence.seen_as(box, detections[region.page])] += 1
    return found


def shares(count: Mapping[int, int]) -> list[float]:
    """Shares of each class, none below `LEAST`, to two places."""
    total = sum(count.values())
    return [max(LEAST, round(count.get(index, 0) / total, 2)) for index in range(len(vision.KINDS) + 1)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hiperrag.benchmarks.parsing.count_seen", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("pairs", type=Path, metavar="PAIRS_DIR", help="folder with pdf/, gt/ and manifest.jsonl")
    parser.add_argument("--half", choices=("dev", "held", "all"), default="dev")
    given = parser.parse_args(arguments)
    try:
        found = counts(given.pairs, given.half)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for kind, stands in evidence.SEEN.items():
        n = found[kind].total()
        row = shares(found[kind]) if n >= MIN_REGIONS else stands
        print(f'    "{kind}": ({", ".join(f"{share:.2f}" for share in row)}),  # {n} regions')
    return 0


if __name__ == "__main__":
    sys.exit(main())
