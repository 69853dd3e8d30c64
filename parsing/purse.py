"""A budget of CPU time while it is spent: page by page, the most urgent first, until it is used up.

Nothing is known of a page's cost beforehand but a guess. What recognition really takes is charged as it goes on and
corrects the guess, so that the seconds decide where recognition ends and not a number of pages.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hiperrag.parsing.router import Need

SECONDS_PER_PAGE = 2.0
"""Guessed CPU seconds of a page."""
RESERVE = 1.1
"""Times what they will probably cost that is kept for more urgent pages."""


class Purse:
    """CPU seconds that documents, of which several may be at work at a time, spend on the pages they need recognised.

    A page may begin if, at what pages have cost so far, it fits into what is left beside those that have begun and
    the more urgent ones that have not. While pages are being recognised their costs may still turn out lower, so a
    page that does not fit waits for them; once it cannot fit, its document has had its share. The needs are those of
    one part.
    """

    def __init__(self, seconds: float, wanted: Sequence[Need], seconds_per_page: float = SECONDS_PER_PAGE) -> None:
        ranked = sorted(wanted)
        self._left = seconds
        self._guess = seconds_per_page
        self._spent = self._recognised = 0.0
        self._shares = np.array([need.share for need in ranked])
        self._waiting = self._shares.copy()
        """Of pages that may still begin, by rank; 0 for all others."""
        self._accounts: list[Account] = []
        self._ranks: dict[int, dict[int, int]] = {}
        for rank, need in enumerate(ranked):
            self._ranks.setdefault(need.document, {})[need.page] = rank
        self._changed = threading.Condition()

    @property
    def documents(self) -> list[int]:
        """Those with pages that need recognition, in the order of their most urgent page."""
        return list(self._ranks)

    @property
    def spent(self) -> float:
        """CPU seconds charged so far."""
        return self._spent

    @property
    def recognised(self) -> float:
        """Pages that were recognised for them, parts of pages as their share."""
        return self._recognised

    @property
    def seconds_per_page(self) -> float:
        """What a page costs: the guess counts as much as one page."""
        return (self._guess + self._spent) / (1 + self._recognised)

    @contextlib.contextmanager
    def account(self, document: int, clock: Callable[[], float]) -> Iterator[Account]:
        """What one document spends, by a clock of the CPU seconds of its process. It has had its turn afterwards."""
        account = Account(self, self._ranks.get(document, {}), clock)
        with self._changed:
            self._accounts.append(account)
        try:
            yield account
        finally:
            with self._changed:
                self._charge(account, ended=True)
                self._accounts.remove(account)
                self._forgo(account)

    def _begin(self, account: Account, pages: Sequence[int], again: bool) -> bool:
        ranks = [account.ranks[page] for page in pages]
        amount, first = float(self._shares[ranks].sum()), min(ranks)
        with self._changed:
            self._charge(account, ended=not again)
            while not self._affords(amount, first):
                if not any(other.begun for other in self._accounts if other is not account):
                    self._forgo(account)
                    return False
                self._changed.wait()
            self._waiting[ranks] = 0.0
            account.begun = amount
            return True

    def _affords(self, amount: float, rank: int) -> bool:
        """Whether some pages can begin; the last one may go beyond the end by half of what it costs."""
        before = sum(account.begun for account in self._accounts) + RESERVE * float(self._waiting[:rank].sum())
        return (before + amount / 2) * self.seconds_per_page <= self._left

    def _charge(self, account: Account, ended: bool) -> None:
        """Take what an account has used; what it had begun has ended, or begins once more."""
        seconds = account.used()
        self._left -= seconds
        self._spent += seconds
        if ended:
            self._recognised += account.begun
        account.begun = 0.0
        self._changed.notify_all()

    def _forgo(self, account: Account) -> None:
        self._waiting[list(account.ranks.values())] = 0.0
        self._changed.notify_all()


class Account:
    """What one document spends from a purse; `pages` are those it needs recognised, the most urgent first."""

    def __init__(self, purse: Purse, ranks: dict[int, int], clock: Callable[[], float]) -> None:
        self._purse = purse
        self.ranks = ranks
        self.pages = list(ranks)
        self.begun = 0.0
        self._granted: list[int] = []
        self._clock, self._seen = clock, clock()

    def used(self) -> float:
        """CPU seconds since this was last asked."""
        seen, self._seen = self._seen, self._clock()
        return self._seen - seen

    def may_recognise(self, page: int, n: int = 1) -> bool:
        """Whether `n` of the pages, from `page` on in their order, may begin; what was begun before has ended.

        May wait for what other documents have begun. Pages that have just been granted are not asked for twice.
        """
        if page not in self.ranks:
            return False
        start = self.pages.index(page)
        pages = self.pages[start : start + max(1, n)]
        if pages == self._granted:
            return True
        if not self._purse._begin(self, pages, again=self._granted[:1] == [page]):
            return False
        self._granted = pages
        return True
