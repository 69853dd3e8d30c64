"""How several jobs share out the shards of one collection: each is built by the job that claims it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator

from hiperrag.claims import Claims
from hiperrag.counted import counted
from hiperrag.workflows.ledger import Ledger

SECONDS_BETWEEN_LOOKS = 5.0


class Shares:
    """The shards that this job may still build, in order; those that others have claimed come last.

    Others either commit what they have claimed, or die, so that it can be claimed.
    """

    def __init__(self, claims: Claims, ledger: Ledger, numbers: Iterable[int]) -> None:
        self._claims, self._ledger = claims, ledger
        self._numbers = deque(numbers)
        self._elsewhere = deque[int]()
        self._departures = self._tried = claims.departures()
        self._look_again = 0.0
        self.found = deque[int]()
        """Shards that others have committed, not yet told of."""

    def __iter__(self) -> Iterator[int]:
        """Shards that have been claimed for this job, until there are none at present."""
        while self._numbers:
            number = self._numbers.popleft()
            if not self._claims.take(claim_of(number)):
                self._elsewhere.append(number)
            elif self._is_missing(number):
                yield number
        if self._elsewhere and time.monotonic() >= self._look_again:
            yield from self._look()
            self._look_again = time.monotonic() + SECONDS_BETWEEN_LOOKS

    def _look(self) -> Iterator[int]:
        """What has become of the shards of others: committed, or free because their job has left or died."""
        self._claims.look_for_dead()
        self._ledger.refresh()
        departures = self._claims.departures()
        for _ in range(len(self._elsewhere)):
            number = self._elsewhere.popleft()
            if self._ledger.has(number):
                self.found.append(number)
            elif departures == self._tried or not self._claims.take(claim_of(number)):
                self._elsewhere.append(number)
            elif self._is_missing(number):
                yield number
        self._tried = departures

    def _is_missing(self, number: int) -> bool:
        """Whether a shard has to be built, although it could be claimed: its owner may have left after it was."""
        departures = self._claims.departures()
        if departures != self._departures:
            self._departures = departures
            self._ledger.refresh()
        if self._ledger.has(number):
            self.found.append(number)
            return False
        return True

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left, here or elsewhere."""
        return not self._numbers and not self._elsewhere

    def elsewhere(self) -> list[str]:
        """The jobs that build the shards that are left, and how many each."""
        found = Counter(str(self._claims.holder(claim_of(number)) or "") for number in self._elsewhere)
        return [f"{counted(n, 'shard')} by {job}" for job, n in sorted(found.items()) if job]


def claim_of(number: int) -> str:
    """The name of the claim on a shard."""
    return f"shard-{number:05d}"
