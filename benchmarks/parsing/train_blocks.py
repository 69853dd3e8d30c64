"""Train the trees of `hiperrag.parsing.blocks` on PDFs with ground truth, and cross-validate them by document.

    python -m hiperrag.benchmarks.parsing.train_blocks PAIRS_DIR --to blocks.npz [--half dev|held|all] [--folds 5]

Regions are labelled by aligning their text with the ground truth's title, authors, abstract, headings, paragraphs,
captions, cells and references; what repeats in the margins is furniture. Regions of no such text are labelled by
what is drawn under them or where they stand, or left out. Needs LightGBM for training only; the trees are evaluated
in NumPy. In cross-validation no region is scored by trees that have seen its document.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiperrag.benchmarks.parsing import printed
from hiperrag.benchmarks.parsing.texts import cell_key, heading_key, key, words
from hiperrag.benchmarks.parsing.truth import Truth, load, rows_of
from hiperrag.errors import UserError
from hiperrag.files import atomic_file
from hiperrag.parsing import assembly, blocks, reading, structure, typography
from hiperrag.parsing.lines import Page
from hiperrag.parsing.regions import Region
from hiperrag.parsing.typography import Style
from hiperrag.records import BlockKind

SEED = 8
ROUNDS = 60
GRAM = 4
"""Words of the pieces by which texts are compared."""
PARAMETERS = {
    "objective": "multiclass",
    "num_class": len(blocks.CLASSES),
    "learning_rate": 0.1,
    "num_leaves": 15,
    "min_data_in_leaf": 15,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 2.0,
    "max_bin": 127,
    "num_threads": 1,
    "seed": SEED,
    "deterministic": True,
    "verbose": -1,
}


@dataclasses.dataclass(slots=True)
class Examples:
    """Regions of one document: features, class (-1 unknown), what the rules make of them, characters."""

    id: str
    rows: blocks.Features
    labels: list[int]
    rules: list[BlockKind]
    lengths: list[int]
    texts: list[str]


class Labels:
    """The kinds that the ground truth gives the regions of one document."""

    def __init__(self, truth: Truth, lines: printed.Printed, style: Style) -> None:
        self.truth, self.style = truth, style
        self.title, self.authors = key(truth.title), [key(name) for name in truth.authors if len(key(name)) > 4]
        self.headings = {heading_key(heading.text) for heading in truth.headings} | truth.other_titles
        self.abstract = _grams(words(truth.abstract))
        self.body = {gram for text in truth.paragraphs for gram in _grams(words(text))}
        cells = [cell.text for table in truth.floats for row in table.rows for cell in row]
        self.cells = {cell_key(cell) for cell in cells if cell.strip()}
        self.cell_words = {gram for cell in cells for gram in _grams(words(cell))}
        self.marked: dict[int, list[printed.PrintedLine]] = defaultdict(list)
        for line in lines.lines:
            self.marked[line.page].append(line)

    def of(self, region: Region, page: Page) -> str | None:
        """Kind of a region, or None if the truth does not tell."""
        if (seen := self._printed(region, page)) is not None:
            return seen
        text = region.text
        bare, grams = key(text), _grams(words(text))
        heading = heading_key(text)
        if region.page == 1 and len(bare) > 7 and self.title and (bare in self.title or self.title in bare):
            return "title"
        if heading in self.headings and len(text) < 250:
            return "heading"
        if region.page <= 2 and self._is_authors(bare):
            return "authors"
        if _covered(grams, self.abstract) > 0.6 and len(grams) > 3:
            return "abstract"
        if _covered(grams, self.body) > 0.6 and len(grams) > 3:
            return "paragraph"
        tabular = sum(cell_key(line.text) in self.cells for line in region.lines) / len(region.lines)
        if tabular > 0.6 or (len(grams) > 2 and _covered(grams, self.cell_words) > 0.7):
            return "table"
        return self._unmatched(region, page)

    def _printed(self, region: Region, page: Page) -> str | None:
        x0, y0, x1, y1 = page.page_bbox(region.x0, region.y0, region.x1, region.y1)
        inside = [
            line.label
            for line in self.marked[region.page]
            if x0 - 1 < line.centre[0] < x1 + 1 and y0 - 1 < line.centre[1] < y1 + 1
        ]
        label, count = Counter(inside).most_common(1)[0] if inside else ("", 0)
        told = label in ("furniture", "page_number", "caption", "reference") and count > 0.6 * len(inside)
        if not told:
            return None
        return "header" if label in ("furniture", "page_number") else label

    def _is_authors(self, bare: str) -> bool:
        named = sum(len(name) for name in self.authors if name in bare)
        return named > 0.45 * len(bare) and named > 0

    def _unmatched(self, region: Region, page: Page) -> str | None:
        if not self.truth.structured:
            return None
        prose = typography.is_prose(region)
        small = region.size < self.style.size - 0.45
        if structure.is_equation(region, self.style):
            return "equation"
        if region.page == 1 and (small or typography.BOILERPLATE.search(region.text)):
            return "footnote"
        if prose and not small and region.page > 1 and region.lines[0].font in self.style.fonts:
            return "paragraph"
        if prose and small and len(region.text) > 60:
            return "footnote"
        drawn = any(
            a0 < region.x1 and a1 > region.x0 and b0 < region.y1 and b1 > region.y0
            for a0, b0, a1, b1 in (*page.graphics.images, *page.graphics.curves)
        )
        return "figure" if not prose and drawn and region.page > 1 else None


def _grams(given: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(given[i : i + GRAM]) for i in range(len(given) - GRAM + 1)}


def _covered(part: set[tuple[str, ...]], whole: set[tuple[str, ...]]) -> float:
    return len(part & whole) / max(1, len(part))


@dataclasses.dataclass(slots=True)
class Labelled:
    """A pair's pages and layout, with the kind that the ground truth gives each region, or None."""

    pages: list[Page]
    layout: assembly.Layout
    kinds: list[str | None]
    title: str
    """In the file's metadata."""


def labelled(pairs: Path, row: dict[str, Any]) -> Labelled:
    """The regions of one pair with their kinds; none of a pair whose truth says nothing of structure."""
    data = (pairs / row["pdf"]).read_bytes()
    truth = load(pairs, row)
    lines = printed.read(data)
    printed.label(lines, truth)
    with reading.opened(data) as pdf:
        pages = list(reading.read_pages(pdf, {}, lambda *_: None).pages.values())
        title = str((pdf.metadata or {}).get("title") or "")
    layout = assembly.find_layout(pages)
    by_number = {page.number: page for page in pages}
    labels = Labels(truth, lines, layout.style)
    usable = bool(truth.headings) or truth.structured
    kinds = [
        labels.of(region, by_number[region.page]) if usable and not region.known else None for region in layout.regions
    ]
    return Labelled(pages, layout, kinds, title)


def examples(pairs: Path, row: dict[str, Any]) -> Examples:
    """Labelled regions of one pair, with their features and the kinds by rules."""
    given = labelled(pairs, row)
    regions, style = given.layout.regions, given.layout.style
    structure.rule_kinds(regions, given.pages, style, given.title)
    return Examples(
        row["id"],
        blocks.features(regions, given.pages, style),
        [blocks.CLASSES.index(kind) if kind else -1 for kind in given.kinds],
        [region.kind for region in regions],
        [len(region.text) for region in regions],
        [region.text for region in regions],
    )


def train(given: Iterable[Examples]) -> blocks.Trees:
    """Trees from the labelled regions of documents; rare classes weigh more."""
    try:
        import lightgbm  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise UserError("lightgbm is missing; it is needed to train: pip install lightgbm") from None
    chosen = [(e.rows[i], e.labels[i]) for e in given for i in range(len(e.labels)) if e.labels[i] >= 0]
    x = np.array([row for row, _ in chosen], np.float32)
    y = np.array([label for _, label in chosen])
    counts = np.bincount(y, minlength=len(blocks.CLASSES))
    weight = (len(y) / np.maximum(1, counts[y])) ** 0.3
    model = lightgbm.train(PARAMETERS, lightgbm.Dataset(x, y, weight=weight), num_boost_round=ROUNDS)
    return flat(model.dump_model()["tree_info"])


def flat(trees: Sequence[dict[str, Any]]) -> blocks.Trees:
    """LightGBM's trees as arrays."""
    feature: list[int] = []
    threshold: list[float] = []
    child: list[int] = []
    value: list[float] = []
    roots: list[int] = []
    deepest = 0

    def fill(place: int, node: dict[str, Any], depth: int) -> None:
        nonlocal deepest
        deepest = max(deepest, depth)
        if "leaf_value" in node:
            feature[place], threshold[place], child[place], value[place] = 0, np.inf, place, node["leaf_value"]
            return
        first = reserve(2)
        feature[place], threshold[place], child[place] = node["split_feature"], node["threshold"], first
        fill(first, node["left_child"], depth + 1)
        fill(first + 1, node["right_child"], depth + 1)

    def reserve(count: int) -> int:
        start = len(feature)
        feature.extend([0] * count)
        threshold.extend([0.0] * count)
        child.extend([0] * count)
        value.extend([0.0] * count)
        return start

    for tree in trees:
        roots.append(reserve(1))
        fill(roots[-1], tree["tree_structure"], 0)
    return blocks.Trees(
        np.array(feature, np.int16),
        np.array(threshold, np.float32),
        np.array(child, np.int32),
        np.array(value, np.float32),
        np.array(roots, np.int32),
        deepest,
    )


def save(trees: blocks.Trees, path: Path) -> None:
    """Write the trees as `blocks.trained` reads them."""
    with atomic_file(path) as temporary, temporary.open("wb") as out:
        arrays: dict[str, Any] = {f.name: np.asarray(getattr(trees, f.name)) for f in dataclasses.fields(trees)}
        np.savez_compressed(out, **arrays)


def folds(given: Sequence[Examples], count: int) -> list[tuple[list[Examples], list[Examples]]]:
    """(training, test) documents of each fold."""
    order = np.random.default_rng(SEED).permutation(len(given))
    parts = [set(order[i::count].tolist()) for i in range(count)]
    return [
        ([e for i, e in enumerate(given) if i not in part], [e for i, e in enumerate(given) if i in part])
        for part in parts
    ]


def report(tested: Sequence[tuple[Examples, blocks.Features]]) -> dict[str, Any]:
    """Accuracy of trees and rules by class, of regions whose class is known."""
    rows: list[tuple[int, int, BlockKind, int]] = []
    for example, probabilities in tested:
        best = probabilities.argmax(axis=1)
        rows += [
            (label, int(best[i]), example.rules[i], example.lengths[i])
            for i, label in enumerate(example.labels)
            if label >= 0
        ]
    result: dict[str, Any] = {"regions": len(rows), "documents": len(tested)}
    for index, name in enumerate(blocks.CLASSES):
        truth = [row for row in rows if row[0] == index]
        found = [row for row in rows if row[1] == index]
        by_rule = [row for row in rows if blocks.coarse(row[2]) == name]
        hits = sum(row[1] == index for row in truth)
        rule_hits = sum(blocks.coarse(row[2]) == name for row in truth)
        result[name] = {
            "n": len(truth),
            "trees_recall": hits / max(1, len(truth)),
            "trees_precision": hits / max(1, len(found)),
            "rules_recall": rule_hits / max(1, len(truth)),
            "rules_precision": rule_hits / max(1, len(by_rule)),
        }
    result["trees_accuracy"] = sum(row[0] == row[1] for row in rows) / max(1, len(rows))
    result["rules_accuracy"] = sum(blocks.CLASSES[row[0]] == blocks.coarse(row[2]) for row in rows) / max(1, len(rows))
    return result


def table(figures: dict[str, Any]) -> str:
    """The report as aligned text."""
    lines = [f"{'class':10s}{'n':>6s}{'trees R':>9s}{'P':>7s}{'rules R':>9s}{'P':>7s}"]
    for name in blocks.CLASSES:
        f = figures[name]
        lines.append(
            f"{name:10s}{f['n']:6d}{f['trees_recall']:9.3f}{f['trees_precision']:7.3f}"
            f"{f['rules_recall']:9.3f}{f['rules_precision']:7.3f}"
        )
    lines.append(
        f"{figures['regions']} regions of {figures['documents']} documents: "
        f"trees {figures['trees_accuracy']:.3f}, rules {figures['rules_accuracy']:.3f}"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hiperrag.benchmarks.parsing.train_blocks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("pairs", type=Path, metavar="PAIRS_DIR", help="folder with pdf/, gt/ and manifest.jsonl")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write the trees to this file")
    parser.add_argument("--half", choices=["dev", "held", "all"], default="all")
    parser.add_argument("--folds", type=int, default=5, help="0: no cross-validation")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        given = [examples(options.pairs, row) for row in rows_of(options.pairs, options.half)]
        if options.folds:
            tested = [
                (example, trees.probabilities(example.rows))
                for training, test in folds(given, options.folds)
                for trees in [train(training)]
                for example in test
            ]
            figures = report(tested)
            print(table(figures))
            if options.json:
                options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        if options.to:
            save(train(given), options.to)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
