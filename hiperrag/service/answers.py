"""An answer in the making: a thread that searches and generates, and the events that it sends to the loop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from hiperrag.answering.answer import answer
from hiperrag.answering.attribution import attribute
from hiperrag.answering.conversation import standalone_question
from hiperrag.answering.generators.base import (
    BusyError,
    GenerationCancelledError,
    GenerationCutError,
    Message,
    UnavailableError,
    for_request,
)
from hiperrag.answering.generators.scoring import CannotScoreError
from hiperrag.answering.hits import Hit
from hiperrag.answering.result import Answer, Draft, Sentence
from hiperrag.errors import UserError
from hiperrag.filters import Filter, FilterError
from hiperrag.service.auth import Caller
from hiperrag.service.errors import ApiError, api_error, log
from hiperrag.service.schemas import ChatOptions
from hiperrag.service.state import shown_generator, shown_passage

if TYPE_CHECKING:
    from hiperrag.service.serving import SearchResult, ServedCollection
    from hiperrag.service.state import Service


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A question, what was said before it, and how it is to be answered."""

    question: str
    history: list[Message]
    options: ChatOptions
    where: Filter | None
    max_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """The passages for a question; `question` stands alone."""

    question: str
    result: SearchResult


@dataclasses.dataclass(frozen=True, slots=True)
class Attributed:
    """Which passage caused which sentence, as attribution gives it."""

    attribution: dict[str, Any]


class Heartbeat:
    """Nothing happened for a while."""


Event = Found | Draft | Sentence | Answer | Attributed | Heartbeat


class AnswerJob:
    """Answers one question in a thread of the service; made and read in the event loop."""

    def __init__(self, service: Service, collection: ServedCollection, asked: Asked, caller: Caller) -> None:
        """Begins; ApiError 503 where no thread is free."""
        self._service, self._collection, self._asked, self._caller = service, collection, asked, caller
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event | ApiError | None] = asyncio.Queue()
        self._generator = for_request(service.generator)
        self._began = time.monotonic()
        self._spoke = False
        self._passage_ids: list[str] = []
        service.answering.add(self)
        try:
            service.submit(self._work)
        except ApiError:
            service.answering.discard(self)
            raise

    def cancel(self) -> None:
        """End search and generation, the request behind it included; idempotent, from any thread."""
        self._generator.close()

    async def events(self) -> AsyncIterator[Event]:
        """What happens, as it happens, an Answer at last or nearly so; raises ApiError where it fails.

        However reading ends, the work ends with it.
        """
        settings = self._service.settings
        ends = self._began + settings.request_timeout_s
        try:
            while True:
                left = ends - time.monotonic()
                if left <= 0:
                    raise ApiError(504, "the answer took longer than a request may take")
                try:
                    async with asyncio.timeout(min(left, settings.heartbeat_s)):
                        event = await self._queue.get()
                except TimeoutError:
                    yield Heartbeat()
                    continue
                if event is None:
                    return
                if isinstance(event, ApiError):
                    raise event
                yield event
        finally:
            self.cancel()

    def _work(self) -> None:
        status: int | str = 200
        try:
            end = self._answer()
        except GenerationCancelledError:
            status = end = "cancelled"
            self._put(ApiError(503, "the answer was cancelled", code="cancelled"))
        except Exception as error:
            refused = api_error(error)
            status, end = refused.status, "failed"
            self._put(refused)
        finally:
            self._put(None)
            self._service.answering.discard(self)
        name, ids = self._collection.name, self._passage_ids
        self._service.metrics.answers.labels(name, end).inc()
        self._service.audit.record(self._caller.name, "chat", name, self._asked.question, ids, status)

    def _answer(self) -> str:
        cancellation = self._generator.cancellation
        question = self._standalone()
        cancellation.check()
        result = self._search(question)
        hits = result.hits[0]
        self._passage_ids = [hit.passage.passage_id for hit in hits]
        self._put(Found(question, result))
        cancellation.check()
        final: Answer | None = None
        sentences: list[str] = []
        with _generator_errors():
            for event in answer(question, hits, self._generator, result.encoder, max_tokens=self._asked.max_tokens):
                cancellation.check()
                if isinstance(event, Sentence):
                    self._note_first()
                    sentences.append(event.text)
                if isinstance(event, Answer):
                    final = event
                    self._service.metrics.tokens.inc(event.timings_ms.get("tokens", 0.0))
                self._put(event)
        assert final is not None, "an answer ends with an Answer"
        if self._asked.options.attribute and final.supported:
            self._put(self._attribute(question, hits, sentences))
        return "supported" if final.supported else "refused"

    def _attribute(self, question: str, hits: list[Hit], sentences: list[str]) -> Attributed:
        with _generator_errors():
            try:
                found = attribute(question, hits, sentences, self._generator)
            except CannotScoreError as error:  # the answer stands without
                return Attributed({"unavailable": str(error)})
        return Attributed(found.to_json() | {"generator": shown_generator(found.generator)})

    def _standalone(self) -> str:
        """The question with what it takes from the history."""
        asked, generator = self._asked, self._generator
        with _generator_errors():
            try:
                return standalone_question(asked.history, asked.question, generator)
            except UnavailableError:
                stand_in = getattr(generator, "stand_in", None)
                if stand_in is None:
                    raise
                return standalone_question(asked.history, asked.question, stand_in)

    def _search(self, question: str) -> SearchResult:
        options, began = self._asked.options, time.monotonic()
        result = search(
            self._collection,
            [question],
            options.k,
            quality=options.quality,
            where=self._asked.where,
            hybrid=options.hybrid,
        )
        self._service.metrics.search_seconds.labels(self._collection.name).observe(time.monotonic() - began)
        return result

    def _note_first(self) -> None:
        if not self._spoke:
            self._spoke = True
            seconds = time.monotonic() - self._began
            self._service.metrics.first_sentence_seconds.labels(self._collection.name).observe(seconds)

    def _put(self, event: Event | ApiError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)


def search(collection: ServedCollection, queries: list[str], k: int, **options: Any) -> SearchResult:
    """`ServedCollection.search` as clients may see it.

    Documents have the names that are shown; a collection that cannot be searched is a 503 that says so, without files.
    """
    try:
        result = collection.search(queries, k, **options)
    except FilterError as error:
        raise api_error(error) from None
    except UserError as error:
        log.warning("%s", error)
        raise ApiError(503, f"collection {collection.name!r} cannot be searched at the moment") from None
    hits = [[dataclasses.replace(hit, passage=shown_passage(hit.passage)) for hit in found] for found in result.hits]
    return dataclasses.replace(result, hits=hits)


@contextlib.contextmanager
def _generator_errors() -> Iterator[None]:
    """BusyError as it is; of any other UserError, which may name hosts and files, only that it happened."""
    try:
        yield
    except BusyError:
        raise
    except GenerationCutError as error:
        log.warning("%s", error)
        raise ApiError(503, "the generator broke off", code="generator_cut") from None
    except UserError as error:
        log.warning("%s", error)
        raise ApiError(503, "the generator cannot be used at the moment", code="generator_unavailable") from None
