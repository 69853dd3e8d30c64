"""What a generator is: chat messages in, text out in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from hiperrag.errors import UserError

Message = dict[str, str]
"""One chat turn: `{"role": "system" | "user" | "assistant", "content": ...}`."""

FinishReason = Literal["stop", "length"]
"""Why a generator ended: it was done, or it met `max_tokens`."""


class GenerationCutError(UserError):
    """The text broke off before the generator said that it was done."""


class Piece(NamedTuple):
    """A piece of generated text; the last one says why it is the last."""

    text: str
    finish: FinishReason | None = None
    tokens: int = 1


class TokenStream:
    """Pieces of generated text, as they come. Once it is exhausted, `finish` and `n_tokens` are final."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self.finish: FinishReason = "stop"
        self.n_tokens = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for piece in self._pieces:
            self.n_tokens += piece.tokens
            if piece.finish is not None:
                self.finish = piece.finish
            if piece.text:
                return piece.text
        raise StopIteration


class Generator(Protocol):
    """A language model that answers chat messages."""

    spec: str
    """The `--generator` spec that names it; holds no secret."""
    capable: bool
    """Whether its prose can be trusted to follow the instruction to cite."""

    def stream(self, messages: list[Message], max_tokens: int) -> Iterator[str]:
        """Pieces of the answer, as they come; GenerationCutError where it breaks off.

        Where the iterator has an attribute `finish` (see TokenStream), it says at the end why it ended.
        """
        ...


@runtime_checkable
class LikelihoodGenerator(Protocol):
    """A local generator, which can also say how likely a given text is."""

    spec: str
    capable: bool

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
