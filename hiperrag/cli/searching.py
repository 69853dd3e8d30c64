"""Options that say how to search, shared by the commands that do."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hiperrag.errors import UserError

if TYPE_CHECKING:
    from hiperrag.filters import Filter
    from hiperrag.index.search import Quality

ExactOption = Annotated[
    bool, typer.Option("--exact", help="Score every passage by MaxSim: the same as --quality exact.")
]
QualityOption = Annotated[
    str | None,
    typer.Option(
        metavar="fast|balanced|exact|N",
        help="How many passages get their MaxSim: few, some, all, or the N best candidates [default: balanced].",
    ),
]
WhereOption = Annotated[
    str | None,
    typer.Option(
        metavar="CONDITION",
        help="Only passages that meet a condition, such as: year >= 2015 and kind == 'table'",
    ),
]
HybridOption = Annotated[bool, typer.Option("--hybrid", help="Add the passages' words (BM25) to MaxSim.")]


@dataclasses.dataclass(frozen=True, slots=True)
class Searching:
    """How to search, checked."""

    quality: Quality
    where: Filter | None
    hybrid: bool

    def options(self) -> dict[str, Any]:
        """Arguments of `Retriever.search`."""
        return {"quality": self.quality, "where": self.where, "hybrid": self.hybrid}


def searching(exact: bool, quality: str | None, where: str | None, hybrid: bool) -> Searching:
    """What the options mean; UserError for those that cannot be."""
    from hiperrag.filters import Filter
    from hiperrag.index.search import parse_quality

    if exact and quality not in (None, "exact"):
        raise UserError(f"--exact and --quality {quality} contradict each other; give one of them")
    chosen = "exact" if exact else "balanced" if quality is None else quality
    return Searching(parse_quality(chosen), None if where is None else Filter.parse(where), hybrid)
