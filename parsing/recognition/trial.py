"""What recognition costs on this machine, for budgets of time."""

from __future__ import annotations

import statistics

from hiperrag.parsing import reading
from hiperrag.parsing.recognition import engines, pages

_WORDS = "The samples were measured twice at each temperature and the means were compared with those of the controls. "
_LETTER_SIZE = (612, 792)
_ARTICLE = 1.2
"""What a page of an article costs over the one below, its layout and kinds included: 24 pages of 12 articles at 150 dpi
took 1.1 times as long to recognise, and the rest a tenth of that."""
_ROUNDS = 3
"""On shared cores the same work takes up to half as much again from one time to the next."""


def seconds_per_page(name: engines.Name, language: str) -> float:
    """CPU seconds that an engine takes for a page of an article, drawing it included. UserError where it is missing."""
    engine = engines.load(name, language)
    costs = [engines.Cost(prior=0.0) for _ in range(_ROUNDS)]
    with reading.load_pymupdf().open() as pdf:
        page = pdf.new_page(width=_LETTER_SIZE[0], height=_LETTER_SIZE[1])
        page.insert_textbox((60, 60, 552, 732), _WORDS * 30, fontsize=10.5, fontname="tiro", lineheight=1.35)
        pages.read_pages(pdf, [1], engine)  # models are loaded with the first page
        for cost in costs:
            with engines.Meter(cost, 1):
                pages.read_pages(pdf, [1], engine)
    return _ARTICLE * statistics.median(cost.seconds_per_page for cost in costs)
