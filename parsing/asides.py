"""Tables set sideways on upright pages: read upright, and put in their place on the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hiperrag.parsing import captions, figures, mend, tables
from hiperrag.parsing.columns import in_rows
from hiperrag.parsing.lines import Line, Page
from hiperrag.parsing.typography import Style
from hiperrag.records import BlockKind


def turned_tables(page: Page, style: Style, leading: float) -> tuple[list[Line], list[Line]]:
    """Lines of kind "table", "caption" and "footnote" for the tables that run in another direction than the page's
    text, in the page's coordinates; and the page's `sideways` lines that are no part of them.

    A table is one only with a caption that runs as it does: many labels of a plot's axes do, too.
    """
    found: list[Line] = []
    for aside in page.asides:
        upright = dataclasses.replace(aside, turn=(page.turn + aside.turn) % 4, graphics=page.graphics)
        found += [_placed(line, upright, page) for line in _tables(upright, style, leading)]
    left = [line for line in page.sideways if not any(_covers(table, line) for table in found)]
    return found, left


def _tables(page: Page, style: Style, leading: float) -> list[Line]:
    """Tables, their captions and notes of a page of nothing else; nothing where no table has a caption."""
    labels = [label for label in captions.labels(page.lines, style, leading) if label.kind == "table"]
    if not labels:
        return []
    lines = tables.gather(page, page.lines, style, leading)
    found = [line for line in lines if line.kind == "table"]
    if not found:
        return []
    titles = [_joined(label.lines, "caption") for label in labels]
    of_title = {id(line) for label in labels for line in label.lines}
    rest = [line for line in lines if line.kind is None and id(line) not in of_title]
    return [*titles, *found, *([_joined(in_rows(rest), "footnote")] if rest else [])]


def _joined(lines: Sequence[Line], kind: BlockKind) -> Line:
    return dataclasses.replace(
        lines[0],
        x0=min(line.x0 for line in lines),
        y0=min(line.y0 for line in lines),
        x1=max(line.x1 for line in lines),
        y1=max(line.y1 for line in lines),
        text=mend.join_all([line.text for line in lines], {}),
        kind=kind,
        parts=(),
    )


def _placed(line: Line, own: Page, page: Page) -> Line:
    """A line of a page that is turned otherwise, with its box on `page`."""
    box = own.page_bbox(line.x0, line.y0, line.x1, line.y1)
    x0, y0, x1, y1 = figures.upright(page, np.array([box]))[0].tolist()
    return dataclasses.replace(line, x0=x0, y0=y0, x1=x1, y1=y1, baseline=y1)


def _covers(whole: Line, line: Line) -> bool:
    x, y = line.centre, (line.y0 + line.y1) / 2
    return whole.x0 - 2 <= x <= whole.x1 + 2 and whole.y0 - 2 <= y <= whole.y1 + 2
