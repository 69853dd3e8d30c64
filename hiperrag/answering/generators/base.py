"""What a generator is: chat messages in, text out in pieces, ended from outside at any time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, Self, runtime_checkable

from hiperrag.answering.generators.scoring import TokenScore, scorer
from hiperrag.errors import UserError

Message = dict[str, str]
"""One chat turn: `{"role": "system" | "user" | "assistant", "content": ...}`."""

FinishReason = Literal["stop", "length"]
"""Why a generator ended: it was done, or it met `max_tokens`."""


class UnavailableError(UserError):
    """The generator cannot be used; another endpoint may well be."""


class GenerationCutError(UnavailableError):
    """The text broke off before the generator said that it was done."""


class BusyError(UnavailableError):
    """The generator has more to do than it takes; `retry_after_s` is its estimate of when to ask again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class WarmingUpError(BusyError):
    """The model is being loaded; it takes minutes, not moments."""


class GenerationCancelledError(Exception):
    """Somebody closed the stream while it was being read; never an error of the generator."""


class Cancellation:
    """Ends work in other threads: those who can be ended register how."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._happened = threading.Event()
        self._callbacks: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        return self._happened.is_set()

    def check(self) -> None:
        """Raise GenerationCancelledError once cancelled."""
        if self.cancelled:
            raise GenerationCancelledError("the request was cancelled")

    def sleep(self, seconds: float) -> None:
        """Sleep, unless cancelled: that raises GenerationCancelledError at once."""
        self._happened.wait(seconds)
        self.check()

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Call `callback` when cancelled, in the cancelling thread; at once where that has happened."""
        with self._lock:
            if not self.cancelled:
                self._callbacks.append(callback)
                return
        callback()

    def child(self) -> Cancellation:
        """One that ends with this one, and can end before it."""
        child = Cancellation()
        self.on_cancel(child.cancel)
        return child

    def cancel(self) -> None:
        """Idempotent, from any thread; does not wait for what it ends."""
        with self._lock:
            if self.cancelled:
                return
            self._happened.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Piece(NamedTuple):
    """A piece of generated text; the last one says why it is the last."""

    text: str
    finish: FinishReason | None = None
    tokens: int = 1


class TokenStream:
    """Pieces of generated text, as they come. Once it is exhausted, `finish` and `n_tokens` are final.

    `spec` is that of the generator that wrote it. Reading raises GenerationCancelledError after `close`.
    """

    def __init__(self, pieces: Iterator[Piece], spec: str, cancellation: Cancellation | None = None) -> None:
        self._pieces = pieces
        self._cancellation = cancellation or Cancellation()
        self.spec = spec
        self.finish: FinishReason = "stop"
        self.n_tokens = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._cancellation.check()
        for piece in self._pieces:
            self.n_tokens += piece.tokens
            if piece.finish is not None:
                self.finish = piece.finish
            if piece.text:
                return piece.text
        self._cancellation.check()
        raise StopIteration

    def close(self) -> None:
        """End the generation, the request behind it included; idempotent, from any thread, without waiting."""
        self._cancellation.cancel()


class Generator(Protocol):
    """A language model that answers chat messages."""

    spec: str
    """The `--generator` spec that names it; holds no secret."""

    @property
    def capable(self) -> bool:
        """Whether its prose can be trusted to follow the instruction to cite."""
        ...

    def stream(self, messages: list[Message], max_tokens: int) -> Iterator[str]:
        """Pieces of the answer, as they come; GenerationCutError where it breaks off, BusyError where it is full.

        Where the iterator has an attribute `finish` (see TokenStream), it says at the end why it ended.
        """
        ...


@runtime_checkable
class LikelihoodGenerator(Protocol):
    """A local generator, which can also say how likely a given text is."""

    spec: str

    @property
    def capable(self) -> bool:
        """As Generator.capable."""
        ...

    def stream(self, messages: list[Message], max_tokens: int) -> Iterator[str]:
        """As Generator.stream."""
        ...

    def prompt(self, messages: list[Message]) -> str:
        """The messages in the model's own chat form, up to where its answer begins."""
        ...

    def log_likelihood(self, prompt: str, continuations: Sequence[str]) -> list[float]:
        """Sum of natural-log probabilities of the tokens of each continuation after `prompt` (plain text)."""
        ...

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The same for (prompt, continuation) pairs, in one batched forward pass."""
        ...


class RequestGenerator:
    """A generator as one request sees it: `close` ends whatever the request has started, from any thread.

    Also a context manager that closes it.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.cancellation = Cancellation()
        self.spec = generator.spec

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def capable(self) -> bool:
        return self._generator.capable

    def stream(self, messages: list[Message], max_tokens: int) -> Iterator[str]:
        self.cancellation.check()
        stream = self._generator.stream(messages, max_tokens)
        self.cancellation.on_cancel(lambda: close_stream(stream))
        return stream

    def score_answers(
        self, conversations: Sequence[list[Message]], answer: str
    ) -> Iterator[tuple[int, list[TokenScore]]]:
        """As ScoringGenerator.score_answers."""
        for found in scorer(self._generator).score_answers(conversations, answer):
            self.cancellation.check()
            yield found

    def close(self) -> None:
        """Idempotent; readers meet GenerationCancelledError."""
        self.cancellation.cancel()


def for_request(generator: Generator) -> RequestGenerator:
    """What a service gives `answer` for one request, so that it can `close()` it when the client leaves."""
    own: Callable[[], RequestGenerator] | None = getattr(generator, "for_request", None)
    if own is not None:
        return own()
    if isinstance(generator, LikelihoodGenerator):
        from hiperrag.answering.generators.queued import QueuedGenerator  # which is built on this module

        return QueuedGenerator(generator).for_request()
    return RequestGenerator(generator)


def reachable(generator: Generator) -> str | None:
    """Why the generator cannot be used at this moment; None where it can. May take a few seconds."""
    own: Callable[[], str | None] | None = getattr(generator, "reachable", None)
    return own() if own is not None else None


def pieces_of(stream: Iterator[str]) -> Iterator[Piece]:
    """The pieces of any generator's stream, its end included."""
    if not isinstance(stream, TokenStream):
        yield from (Piece(text) for text in stream)
        return
    yield from (Piece(text, tokens=0) for text in stream)
    yield Piece("", stream.finish, stream.n_tokens)


def close_stream(stream: Iterator[str]) -> None:
    """Close any generator's stream, as far as it can be closed from another thread."""
    close: Callable[[], object] | None = getattr(stream, "close", None)
    if close is not None:
        with contextlib.suppress(ValueError):  # a plain Python generator that its reader is executing
            close()
