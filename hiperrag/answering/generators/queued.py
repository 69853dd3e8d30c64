"""A local generator behind a bounded queue: one request at a time, in the order of their arrival."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

from hiperrag.answering.generators.base import (
    BusyError,
    Cancellation,
    LikelihoodGenerator,
    Message,
    Piece,
    RequestGenerator,
    TokenStream,
    close_stream,
    pieces_of,
)
from hiperrag.answering.generators.scoring import TokenScore, scorer

PLACES = 64
"""Requests that one generator serves or lets wait; the next is refused with the time to come back."""
_REMEMBERED = 32
"""Requests on whose times the estimate of a wait rests."""
_FIRST_GUESS_S = 2.0


class Line:
    """Who is next. A request has a place from its arrival to its end, and takes turns at the model.

    Turns go by order of arrival, so that a request which needs several (quotes are joined by likelihoods) is not
    overtaken between them, and once admitted it is not refused halfway.
    """

    def __init__(self, places: int = PLACES, clock: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._clock = clock
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._admitted: dict[int, float] = {}
        """Seconds each admitted request has had the model."""
        self._waiting: set[int] = set()
        self._running: int | None = None
        self._refused = 0
        """Requests told to come back for places yet to become free."""
        self._spent: deque[float] = deque(maxlen=_REMEMBERED)

    @property
    def n_admitted(self) -> int:
        """Requests that have a place."""
        return len(self._admitted)

    @property
    def n_waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    def enter(self) -> int:
        """A place; BusyError where there is none, with the time at which one should be free.

        The n-th request refused in a row is told the time of n served requests, so that they do not all come back
        for the same place.
        """
        with self._changed:
            if len(self._admitted) >= self._places:
                self._refused += 1
                each = fmean(self._spent) if self._spent else _FIRST_GUESS_S
                raise BusyError(
                    f"the generator already has {self._places} requests; ask again later",
                    max(1.0, self._refused * each),
                )
            number = next(self._numbers)
            self._admitted[number] = 0.0
            return number

    def leave(self, number: int) -> None:
        """Give the place back; idempotent."""
        with self._changed:
            spent = self._admitted.pop(number, None)
            if spent is None:
                return
            self._refused = max(0, self._refused - 1)
            if spent:
                self._spent.append(spent)

    @contextlib.contextmanager
    def turn(self, number: int, cancellation: Cancellation) -> Iterator[None]:
        """The model to itself for the time of the `with`; GenerationCancelledError where that comes first."""
        cancellation.on_cancel(self._wake)
        with self._changed:
            self._waiting.add(number)
            try:
                while not cancellation.cancelled and not (self._running is None and min(self._waiting) == number):
                    self._changed.wait()
                cancellation.check()
                self._running = number
            finally:
                self._waiting.discard(number)
                self._changed.notify_all()
        began = self._clock()
        try:
            yield
        finally:
            with self._changed:
                self._running = None
                if number in self._admitted:
                    self._admitted[number] += self._clock() - began
                self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class QueuedGenerator:
    """A local generator that many threads may use; BusyError where its queue is full.

    `for_request` holds one place for everything that a request asks of the model; the generator's own methods take
    a place for each call.
    """

    def __init__(self, generator: LikelihoodGenerator, line: Line | None = None) -> None:
        self._generator = generator
        self.line = line or Line()
        self.spec = generator.spec
        self.capable = generator.capable

    def for_request(self) -> QueuedRequest:
        """A place in the queue; BusyError where there is none. Its `close` gives the place back."""
        return QueuedRequest(self._generator, self.line)

    def stream(self, messages: list[Message], max_tokens: int) -> TokenStream:
        """Pieces of the answer, once it is this call's turn."""
        cancellation = Cancellation()
        return TokenStream(self._pieces(messages, max_tokens, cancellation), self.spec, cancellation)

    def _pieces(self, messages: list[Message], max_tokens: int, cancellation: Cancellation) -> Iterator[Piece]:
        with self.for_request() as request:
            cancellation.on_cancel(request.close)
            yield from pieces_of(request.stream(messages, max_tokens))

    def prompt(self, messages: list[Message]) -> str:
        return self._generator.prompt(messages)

    def log_likelihood(self, prompt: str, continuations: Sequence[str]) -> list[float]:
        return self.log_likelihoods([(prompt, continuation) for continuation in continuations])

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        with self.for_request() as request:
            return request.log_likelihoods(pairs)

    def score_answers(
        self, conversations: Sequence[list[Message]], answer: str
    ) -> Iterator[tuple[int, list[TokenScore]]]:
        """As ScoringGenerator.score_answers."""
        with self.for_request() as request:
            yield from request.score_answers(conversations, answer)


class QueuedRequest(RequestGenerator):
    """One request's place in the queue. All that it asks of the model waits for its turn."""

    def __init__(self, generator: LikelihoodGenerator, line: Line) -> None:
        super().__init__(generator)
        self._local = generator
        self._line = line
        number = self._number = line.enter()
        self.cancellation.on_cancel(lambda: line.leave(number))
        weakref.finalize(self, line.leave, number)

    @contextlib.contextmanager
    def turn(self) -> Iterator[LikelihoodGenerator]:
        """The local generator, for this request alone until the `with` ends."""
        with self._line.turn(self._number, self.cancellation):
            yield self._local

    def stream(self, messages: list[Message], max_tokens: int) -> TokenStream:
        cancellation = self.cancellation.child()
        return TokenStream(self._pieces(messages, max_tokens, cancellation), self.spec, cancellation)

    def _pieces(self, messages: list[Message], max_tokens: int, cancellation: Cancellation) -> Iterator[Piece]:
        with self.turn() as local:
            stream = local.stream(messages, max_tokens)
            cancellation.on_cancel(lambda: close_stream(stream))
            yield from pieces_of(stream)

    def prompt(self, messages: list[Message]) -> str:
        return self._local.prompt(messages)

    def log_likelihood(self, prompt: str, continuations: Sequence[str]) -> list[float]:
        return self.log_likelihoods([(prompt, continuation) for continuation in continuations])

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        with self.turn() as local:
            scores = local.log_likelihoods(pairs)
        self.cancellation.check()
        return scores

    def score_answers(
        self, conversations: Sequence[list[Message]], answer: str
    ) -> Iterator[tuple[int, list[TokenScore]]]:
        """A turn for each conversation."""
        scores = scorer(self._local).score_answers(conversations, answer)
        while True:
            with self.turn():
                found = next(scores, None)
            self.cancellation.check()
            if found is None:
                return
            yield found
