"""What recognition costs on this machine, as far as one page tells."""

from __future__ import annotations

import dataclasses

from hiperrag.parsing import reading
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.recognition import engines, pages

_WORDS = "The samples were measured twice at each temperature and the means were compared with those of the controls. "
_LETTER_SIZE = (612, 792)
_ARTICLE = 1.2
"""What a page of an article costs over the one below, its layout and kinds included: 24 pages of 12 articles at 150 dpi
took 1.1 times as long to recognise, and the rest a tenth of that."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """CPU seconds that a page of an article takes, drawing it included, and those that were needed to find out."""

    seconds_per_page: float
    seconds: float


def recognise(options: ParseOptions) -> Trial:
    """Recognise a page twice, as models are loaded with the first. UserError where the engine is missing."""
    assert options.engine != "none", "without an engine there is nothing to try"
    loaded, cost = engines.Cost(prior=0.0), engines.Cost(prior=0.0)
    with reading.load_pymupdf().open() as pdf:
        page = pdf.new_page(width=_LETTER_SIZE[0], height=_LETTER_SIZE[1])
        page.insert_textbox((60, 60, 552, 732), _WORDS * 30, fontsize=10.5, fontname="tiro", lineheight=1.35)
        with engines.Meter(loaded, 1):
            engine = engines.load(options.engine, options.language)
            pages.read_pages(pdf, [1], engine)
        with engines.Meter(cost, 1):
            pages.read_pages(pdf, [1], engine)
    return Trial(_ARTICLE * cost.seconds_per_page, loaded.seconds_per_page + cost.seconds_per_page)
