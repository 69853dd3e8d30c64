"""What recognition costs on this machine, for budgets of time."""

from __future__ import annotations

from hiperrag.parsing import reading
from hiperrag.parsing.recognition import engines, pages

_WORDS = "The samples were measured twice at each temperature and the means were compared with those of the controls. "
_LETTER_SIZE = (612, 792)


def seconds_per_page(name: engines.Name, language: str) -> float:
    """CPU seconds that an engine takes for a page of 550 words, drawing it included. UserError where it is missing."""
    engine = engines.load(name, language)
    cost = engines.Cost(prior=0.0)
    with reading.load_pymupdf().open() as pdf:
        page = pdf.new_page(width=_LETTER_SIZE[0], height=_LETTER_SIZE[1])
        page.insert_textbox((60, 60, 552, 732), _WORDS * 30, fontsize=10.5, fontname="tiro", lineheight=1.35)
        pages.read_pages(pdf, [1], engine)  # models are loaded with the first page
        with engines.Meter(cost, 1):
            pages.read_pages(pdf, [1], engine)
    return cost.seconds_per_page
