"""Which route a page takes, and which pages get their characters recognised when a run may not recognise all.

After AdaParse (Siebenschuh et al. 2025): everything is read the cheap way first, a check of the text's quality says
where that failed, and the costly way is kept for those pages, at most a given share of them. The choice is made over
all pages of a run and not batch by batch, so the budget goes where the text is worst.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from hiperrag.errors import UserError
from hiperrag.records import PageRecord

GOOD_TEXT = 0.5
"""A text layer of lower quality is not good enough: the page's characters have to be recognised."""
SURE = 0.9
"""Where the kinds of a page's blocks are less sure, the layout model is asked."""
OVER_BUDGET = "over the OCR budget"
IN_PART = "in part of the page"
"""In the reason of a page of which only a part, of the share 1 - `quality`, has to be recognised."""

_SHARE = re.compile(r"(?P<time>time:)?(?P<number>\d+(?:\.\d+)?)(?P<percent>%?)")
_TIME = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """How much recognition a run may do: `amount` is a share of its pages ("pages"), a share of its parsing time
    ("time"), or CPU seconds over all workers ("seconds")."""

    of: Literal["pages", "time", "seconds"] = "pages"
    amount: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Budget of `--ocr-budget`: all, none, 5%, 0.05, time:25%, 30m. Raises UserError for anything else."""
        text = text.strip().lower()
        if text in ("all", "none"):
            return cls("pages", float(text == "all"))
        if match := _TIME.fullmatch(text):
            return cls("seconds", float(match["number"]) * _SECONDS[match["unit"]])
        match = _SHARE.fullmatch(text)
        share = float(match["number"]) / (100 if match["percent"] else 1) if match else 2.0
        if match is None or share > 1 or (match["time"] and share >= 1):
            raise UserError(
                f"--ocr-budget {text}: give all, none, a share of the pages (5% or 0.05), of the parsing time "
                "(time:25%), or CPU time (90s, 30m, 2h)"
            )
        return cls("time" if match["time"] else "pages", share)

    @property
    def is_unlimited(self) -> bool:
        """Whether every page that needs it may be recognised."""
        return self.of == "pages" and self.amount >= 1

    def pages(self, n_pages: int) -> int:
        """How many of `n_pages` may be recognised, where it is a share of them."""
        assert self.of == "pages"
        return int(self.amount * n_pages + 1e-9)

    def seconds(self, seconds_spent: float) -> float:
        """CPU seconds that recognition may take after a first reading of all pages that took `seconds_spent`, where it
        is one of time."""
        assert self.of != "pages"
        return self.amount if self.of == "seconds" else self.amount / (1 - self.amount) * seconds_spent


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Need:
    """A page whose text layer is not good enough. Needs are ordered by urgency: the worst text first."""

    quality: float
    part: str
    """The part and the document within it, as the caller names them."""
    document: int
    page: int
    share: float = 1.0
    """Of the page's text to recognise."""


def is_needed(record: PageRecord) -> bool:
    """Whether a page that has been read still needs its characters recognised."""
    return record.route == "text" and (record.quality < GOOD_TEXT or IN_PART in record.reason)


def needs(part: str, document: int, records: Sequence[PageRecord]) -> list[Need]:
    """The needs of one document."""
    return [
        Need(record.quality, part, document, record.page, 1.0 if record.quality < GOOD_TEXT else 1 - record.quality)
        for record in records
        if is_needed(record)
    ]


def choose(wanted: Sequence[Need], n: int) -> dict[tuple[str, int], list[int]]:
    """The pages of each (part, document) to recognise: the n most urgent of all, and no document's pages torn apart
    for the sake of a tie: equal needs are taken in the order of parts, documents and pages. Pages of which only a
    part is recognised count as that share of a page; one that is too much for what is left is passed over."""
    chosen: dict[tuple[str, int], list[int]] = {}
    left = n + 1e-9
    for need in sorted(wanted):
        if need.share <= left:
            left -= need.share
            chosen.setdefault((need.part, need.document), []).append(need.page)
    return {document: sorted(pages) for document, pages in chosen.items()}
