"""What the stages of an input will cost, guessed from its size: how parts are cut, and what is longest.

A PDF's number of pages is guessed from its bytes. To open each would tell it, and cost a read of every file in the main
process; a part holds many, over which the error averages out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from hiperrag.collection import Collection
from hiperrag.errors import UserError
from hiperrag.parsing.sources import Input
from hiperrag.workflows.rates import Rate, Rates, learn, packaged_rates
from hiperrag.workflows.sites import Site

BYTES_PER_PAGE = 64_000
"""Of PDFs from PubMed Central and arXiv; single files differ by a factor of 2 or so."""
BYTES_PER_TOKEN = 4.5
"""Of ready text in English."""
PARSE_SECONDS_PER_BYTE = 1.5e-7
"""Of ready text."""
LEAST_LEARNED = 300.0
"""Seconds of work that earlier runs must have measured of a stage: those of a few small tasks mislead."""


def rates_for(collection: Collection) -> Rates:
    """The rates that come with the program, or those of the collection's own runs where these did enough."""
    base = packaged_rates()
    if not collection.exists():
        return base
    try:
        learned = learn([collection.root], base)
    except UserError:
        return base
    return base.model_copy(
        update={
            "stages": _trusted(learned.stages, base.stages),
            "accelerators": {
                kind: _trusted(stages, base.accelerators[kind]) for kind, stages in learned.accelerators.items()
            },
        }
    )


def _trusted(learned: dict[str, Rate], base: dict[str, Rate]) -> dict[str, Rate]:
    return {
        stage: rate if rate.units * rate.seconds >= LEAST_LEARNED or stage not in base else base[stage]
        for stage, rate in learned.items()
    }


class Costs:
    """Seconds of a worker for each stage of an input, from measured rates."""

    def __init__(self, rates: Rates, site: Site) -> None:
        corpus = rates.corpus
        self._passages_per_page = corpus.passages_per_page.value
        self._tokens_per_passage = corpus.tokens_per_passage.value
        kind = rates.accelerator_of.get(site.name, "")
        self._seconds = {
            stage: rates.of(stage, kind if site.active_pools[site.pool_of(stage)].accelerator_names else "").seconds
            for stage in rates.stages
        }

    def of_part(self, inputs: Iterable[Input]) -> dict[str, float]:
        """Seconds by stage for some inputs together."""
        total: defaultdict[str, float] = defaultdict(float)
        for item in inputs:
            for stage, seconds in self.stages(item).items():
                total[stage] += seconds
        return total

    def recognition(self, n_pages: float) -> float:
        """Seconds for recognising pages, whose number is not known before files have been read."""
        return n_pages * self._seconds["recognise"]

    def longest(self, item: Input) -> float:
        """Seconds of the stage that takes an input longest."""
        return max(self.stages(item).values())

    def stages(self, item: Input) -> dict[str, float]:
        """Seconds by stage."""
        seconds = self._seconds
        if item.kind == "rows":
            tokens = item.size / BYTES_PER_TOKEN
            passages = max(item.stop - item.start, tokens / self._tokens_per_passage)
            parse = item.size * PARSE_SECONDS_PER_BYTE
        else:
            pages = max(1.0, item.size / BYTES_PER_PAGE)
            passages = pages * self._passages_per_page
            tokens = passages * self._tokens_per_passage
            parse = pages * seconds["parse"]
        return {
            "parse": parse,
            "chunk": passages * seconds["chunk"],
            "encode": tokens * seconds["encode"],
            "build": tokens * seconds["build"],
        }
