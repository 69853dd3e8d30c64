"""A parser's output as text or Markdown against the truth: what any parser can be asked for."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence

from hiperrag.benchmarks.parse_quality import normalise
from hiperrag.benchmarks.parsing import cells, metrics
from hiperrag.benchmarks.parsing.cells import Rows
from hiperrag.benchmarks.parsing.printed import Printed
from hiperrag.benchmarks.parsing.texts import key, mean
from hiperrag.benchmarks.parsing.truth import Truth

PROBE = 40
"""Letters of a paragraph by which it is looked for in the output."""
CAPTION_PROBE = 60


@dataclasses.dataclass(slots=True)
class OutputScore:
    """Of one document. None where the truth, or plain text, says nothing."""

    similarity: float
    bleu: float
    paragraphs: float | None
    """Share of the truth's paragraphs that are in the output."""
    order: float | None
    """Kendall's tau of the order of those."""
    headings: float | None
    """Share of printed headings that are Markdown headings of the output."""
    paths: float | None
    """The same with the right ancestors."""
    captions: float | None
    """Share of printed captions whose first letters are in the output."""
    cells: float | None
    """Mean F1 of cells over tables with rows."""
    adjacency: float | None


def score_output(
    text: str,
    body: str | None,
    truth: Truth,
    printed: Printed,
    text_score: Callable[[str, str], tuple[float, float]],
    markdown: bool,
) -> OutputScore:
    """Score an output. Similarity and BLEU are those of `body` where the parser tells it apart, else of everything."""
    similarity, bleu = text_score(normalise(text if body is None else body), normalise(truth.text))
    letters, pages = key(text), key(printed.text)
    paragraphs, order = reading_order(letters, truth.paragraphs)
    captions = [key(item.caption)[:CAPTION_PROBE] for item in truth.floats if len(key(item.caption)) >= 8]
    captions = [caption for caption in captions if caption[:30] in pages]
    score = OutputScore(similarity, bleu, paragraphs, order, None, None, None, None, None)
    score.captions = mean([float(caption in letters) for caption in captions])
    if markdown:
        found = metrics.score_headings(markdown_paths(text, truth.title), truth, printed)
        if found.wanted:
            score.headings, score.paths = found.found / found.wanted, found.right_path / found.wanted
        tables = score_tables(cells.markdown_tables(text), [item.rows for item in truth.floats if item.rows])
        score.cells, score.adjacency = mean([t.cells for t in tables]), mean([t.adjacency for t in tables])
    return score


def reading_order(letters: str, paragraphs: Sequence[str]) -> tuple[float | None, float | None]:
    """Share of paragraphs found in `letters` (an output's `key`), and Kendall's tau of their order there.

    A paragraph is found where the letters of its beginning, or of its middle, are.
    """
    long = [probe for paragraph in paragraphs if len(probe := key(paragraph)) >= PROBE]
    places = []
    for probe in long:
        middle = len(probe) // 2
        at = next(
            (at for part in (probe[:PROBE], probe[middle : middle + PROBE]) if (at := letters.find(part)) >= 0), -1
        )
        places.append(at)
    found = [at for at in places if at >= 0]
    share = len(found) / len(long) if long else None
    return share, kendall_tau(found)


def kendall_tau(places: Sequence[int]) -> float | None:
    """Kendall's tau between a sequence and its sorted order: 1 in order, -1 reversed; None of fewer than two."""
    pairs = list(itertools.combinations(places, 2))
    return sum((a < b) - (a > b) for a, b in pairs) / len(pairs) if pairs else None


def markdown_paths(markdown: str, title: str) -> list[tuple[str, ...]]:
    """Paths of the headings of a Markdown text, outermost first.

    The document's title is neither heading nor ancestor: a heading with its words, or the only one of level 1.
    """
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.S | re.M)
    found = [(len(m[1]), plain_heading(m[2])) for m in re.finditer(r"^(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$", text, re.M)]
    highest = sum(level == 1 for level, _ in found)
    above: list[tuple[int, str]] = []
    paths = []
    for level, heading in found:
        named = bool(title) and metrics.similarity(heading, title) >= metrics.SAME_HEADING
        if not named and not (level == 1 and highest == 1):
            above = [*(h for h in above if h[0] < level), (level, heading)]
            paths.append(tuple(name for _, name in above))
    return paths


def plain_heading(text: str) -> str:
    """A heading without Markdown's emphasis and escapes."""
    return re.sub(r"<[^>]+>|[*_`]+|\\(?=[^\w\s])", "", text).strip()


def score_tables(found: Sequence[Rows], wanted: Sequence[Rows]) -> list[cells.TableScore]:
    """Each table of the truth against those of the output with most of its cells; each of the output counts once."""
    contents = [cells.contents(rows) for rows in wanted]
    parts: list[list[Rows]] = [[] for _ in wanted]
    for rows in found:
        shares = [cells.overlap(cells.contents(rows), content) for content in contents]
        if shares and max(shares) >= metrics.SAME_TABLE:
            parts[shares.index(max(shares))].append(rows)
    return [cells.compare(cells.merge(part), rows) for part, rows in zip(parts, wanted, strict=True)]
