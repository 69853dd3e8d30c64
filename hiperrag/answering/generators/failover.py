"""Several generators as one: the preferred one answers, the others step in until it is back."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from hiperrag.answering.generators.base import (
    BusyError,
    Cancellation,
    Generator,
    LikelihoodGenerator,
    Message,
    Piece,
    RequestGenerator,
    TokenStream,
    UnavailableError,
    WarmingUpError,
    close_stream,
    for_request,
    pieces_of,
    reachable,
)
from hiperrag.answering.generators.scoring import NO_LOG_PROBABILITIES, CannotScoreError, TokenScore

FIRST_REST_S = 1.0
LONGEST_REST_S = 30.0
"""Seconds for which an endpoint that failed is left alone; doubled with each failure from the first to the longest."""
WAIT_S = 60.0
WARM_UP_S = 600.0
"""The most seconds that a request waits in all where every endpoint is busy, or loading its model."""
WAIT_BESIDE_STAND_IN_S = 5.0
"""The same where a stand-in can quote at once."""


class _Circuit:
    """Whether to try one endpoint: closed, open for a time after a failure, then open to one trial at a time."""

    def __init__(self, generator: Generator, clock: Callable[[], float]) -> None:
        self.generator = generator
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._rests_until = float("-inf")
        self._on_trial = False
        self.error: UnavailableError | None = None
        """Why it was not used the last time it was tried."""

    @property
    def rest_s(self) -> float:
        """Seconds until it may be tried."""
        return max(0.0, self._rests_until - self._clock())

    @contextlib.contextmanager
    def attempt(self) -> Iterator[bool]:
        """Whether to try it; the caller reports how that went before the `with` ends."""
        with self._lock:
            trial = self._failures > 0
            may = self.rest_s == 0 and not (trial and self._on_trial)
            self._on_trial = self._on_trial or (may and trial)
        try:
            yield may
        finally:
            if may and trial:
                self._on_trial = False

    def succeeded(self) -> None:
        with self._lock:
            self._failures, self._rests_until, self.error = 0, float("-inf"), None

    def failed(self, error: UnavailableError) -> None:
        """Busy: left alone for the time that it names. Else: for a time that grows with every failure."""
        with self._lock:
            self.error = error
            if isinstance(error, BusyError):
                rest = error.retry_after_s
            else:
                self._failures += self.rest_s == 0  # requests that fail together count once
                rest = min(LONGEST_REST_S, FIRST_REST_S * 2.0 ** (self._failures - 1))
            self._rests_until = max(self._rests_until, self._clock() + rest)


class FailoverGenerator:
    """Generators that write, in order of preference; no switch once an answer's first text has come.

    `stand_in`, a local generator that can only quote, is for whoever asked to use where none of them answers.
    """

    capable = True

    def __init__(
        self,
        generators: Sequence[Generator],
        stand_in: LikelihoodGenerator | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._circuits = [_Circuit(generator, clock) for generator in generators]
        self._clock = clock
        self.stand_in = stand_in
        self.spec = generators[0].spec

    def for_request(self) -> FailoverRequest:
        """One request's view, with its own view of the stand-in."""
        return FailoverRequest(self)

    def stream(self, messages: list[Message], max_tokens: int) -> TokenStream:
        """Pieces of one generator's answer; `spec` says whose. UnavailableError where none can be used.

        Waits while all that work are busy, within bounds; then BusyError.
        """
        cancellation = Cancellation()

        def written_by(spec: str) -> None:
            stream.spec = spec

        pieces = self._pieces(messages, max_tokens, cancellation, written_by)
        stream = TokenStream(pieces, self.spec, cancellation)
        return stream

    def _pieces(
        self, messages: list[Message], max_tokens: int, cancellation: Cancellation, written_by: Callable[[str], None]
    ) -> Iterator[Piece]:
        began = self._clock()
        while True:
            for circuit in self._circuits:
                with circuit.attempt() as may:
                    if not may:
                        continue
                    started = False
                    try:
                        stream = circuit.generator.stream(messages, max_tokens)
                        cancellation.on_cancel(_closer(stream))
                        for piece in pieces_of(stream):
                            if not started:
                                started = True
                                written_by(getattr(stream, "spec", circuit.generator.spec))
                                circuit.succeeded()
                            yield piece
                        return
                    except UnavailableError as error:
                        circuit.failed(error)
                        if started:
                            raise
            self._wait(began, cancellation)

    def _wait(self, began: float, cancellation: Cancellation) -> None:
        """Until the first busy endpoint may be asked again; raises where that is too long, or none is merely busy."""
        busy = [circuit for circuit in self._circuits if isinstance(circuit.error, BusyError)]
        if not busy:
            raise self._nobody()
        first = min(busy, key=lambda circuit: circuit.rest_s)
        bound = WARM_UP_S if isinstance(first.error, WarmingUpError) else WAIT_S
        bound = bound if self.stand_in is None else WAIT_BESIDE_STAND_IN_S
        if self._clock() - began + first.rest_s > bound:
            raise BusyError(str(first.error), first.rest_s)
        if isinstance(first.error, WarmingUpError):
            print(f"{first.error}; waiting up to {bound:g} seconds for it", file=sys.stderr, flush=True)
        cancellation.sleep(max(0.05, first.rest_s))

    def _nobody(self) -> UnavailableError:
        errors = list(dict.fromkeys(str(circuit.error) for circuit in self._circuits if circuit.error))
        soonest = min(circuit.rest_s for circuit in self._circuits)
        return BusyError("no generator can be used: " + "; ".join(errors), max(FIRST_REST_S, soonest))

    @property
    def members(self) -> list[Generator]:
        """All generators, in order of preference, the stand-in last."""
        return [circuit.generator for circuit in self._circuits] + ([self.stand_in] if self.stand_in else [])

    def reachable(self) -> str | None:
        """None where one of the generators can be used."""
        reasons = []
        for generator in self.members:
            reason = reachable(generator)
            if reason is None:
                return None
            reasons.append(reason)
        return "; ".join(reasons)

    def score_answers(
        self, conversations: Sequence[list[Message]], answer: str
    ) -> Iterator[tuple[int, list[TokenScore]]]:
        """As ScoringGenerator.score_answers, by the first that can."""
        with self.for_request() as request:
            yield from request.score_answers(conversations, answer)


class FailoverRequest(RequestGenerator):
    """One request's view of several generators. Once answers were scored, `spec` is that of the one that did it."""

    def __init__(self, generator: FailoverGenerator) -> None:
        super().__init__(generator)
        self._failover = generator
        self._stand_in: RequestGenerator | None = None

    @property
    def stand_in(self) -> RequestGenerator | None:
        """The generator that quotes, with a place in its queue for this request; BusyError where that is full."""
        if self._stand_in is None and self._failover.stand_in is not None:
            self._stand_in = for_request(self._failover.stand_in)
            self.cancellation.on_cancel(self._stand_in.close)
        return self._stand_in

    def score_answers(
        self, conversations: Sequence[list[Message]], answer: str
    ) -> Iterator[tuple[int, list[TokenScore]]]:
        """As ScoringGenerator.score_answers, by the first that can; the stand-in is the last."""
        for generator in self._failover.members:
            begun = False
            with for_request(generator) as request:
                self.cancellation.on_cancel(request.close)
                try:
                    for found in request.score_answers(conversations, answer):
                        begun, self.spec = True, request.spec
                        yield found
                    return
                except (CannotScoreError, UnavailableError):
                    if begun:
                        raise
        raise CannotScoreError(NO_LOG_PROBABILITIES)


def _closer(stream: Iterator[str]) -> Callable[[], None]:
    return lambda: close_stream(stream)
