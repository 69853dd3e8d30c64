"""Many conversations with a generator, as many at a time as it takes, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator as Yielding
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from hiperrag.answering.generators import (
    FinishReason,
    Generator,
    LikelihoodGenerator,
    Message,
    RequestGenerator,
    for_request,
)


class Reply(NamedTuple):
    """What a generator said, and why it ended."""

    text: str
    finish: FinishReason


def replies(
    generator: Generator, conversations: Iterable[list[Message]], max_tokens: int, concurrency: int
) -> Yielding[Reply, None, None]:
    """The reply of each conversation, in order; `concurrency` at a time, or one where the generator runs here.

    Closing the iterator, or an exception in it, ends what the generator is writing. Errors as of Generator.stream.
    """
    n_threads = 1 if isinstance(generator, LikelihoodGenerator) else concurrency
    asking = _Asking(generator, max_tokens)
    pool = ThreadPoolExecutor(n_threads)
    pending: deque[Future[Reply]] = deque()
    try:
        for messages in conversations:
            pending.append(pool.submit(asking, messages))
            if len(pending) > 2 * n_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        asking.close()
        pool.shutdown()


class _Asking:
    """Asks from several threads; `close` ends them all."""

    def __init__(self, generator: Generator, max_tokens: int) -> None:
        self._generator, self._max_tokens = generator, max_tokens
        self._requests: set[RequestGenerator] = set()

    def __call__(self, messages: list[Message]) -> Reply:
        with for_request(self._generator) as request:
            self._requests.add(request)
            try:
                stream = request.stream(messages, self._max_tokens)
                text = "".join(stream)
                return Reply(text, getattr(stream, "finish", "stop"))
            finally:
                self._requests.discard(request)

    def close(self) -> None:
        for request in list(self._requests):
            request.close()
