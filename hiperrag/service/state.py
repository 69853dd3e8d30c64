"""The service at work: collections, generator, limits, and the threads in which requests are worked on."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from fastapi import Request

from hiperrag.answering.generators.base import reachable
from hiperrag.errors import UserError
from hiperrag.service.audit import AuditLog
from hiperrag.service.auth import Sessions
from hiperrag.service.errors import ApiError, log
from hiperrag.service.keys import KeyRing
from hiperrag.service.limits import RateLimit, Slots
from hiperrag.service.metrics import Metrics
from hiperrag.service.settings import ServiceSettings

if TYPE_CHECKING:
    from hiperrag.answering.generators.base import Generator
    from hiperrag.records import Passage
    from hiperrag.service.answers import AnswerJob
    from hiperrag.service.serving import ServedCollection

BUSY_RETRY_S = 2.0
LOGINS_PER_MINUTE = 20
REACHED_FOR_S = 5.0
"""How long an answer to whether the generator can be reached is good for."""
_T = TypeVar("_T")


class Service:
    """What routes work with; `app.state.service`.

    Without collections and generator it is starting: it answers that, until `open` gives it both.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        """Raises UserError where the keys or the audit log cannot be used."""
        self.settings = settings
        self.collections: Mapping[str, ServedCollection] = {}
        self.ring = KeyRing(settings.keys_file) if settings.keys_file else None
        self.sessions = Sessions()
        self.audit = AuditLog(settings.audit_log)
        self.limits = RateLimit(settings.requests_per_minute)
        self.logins = RateLimit(LOGINS_PER_MINUTE)
        self.slots = Slots(settings.concurrent_requests)
        self.metrics = Metrics(self)
        self.answering: set[AnswerJob] = set()
        """Answers in the making."""
        self.opened_at = 0
        """When it began to answer, in seconds since 1970."""
        self._generator: Generator | None = None
        self._threads = ThreadPoolExecutor(settings.concurrent_requests, thread_name_prefix="request")
        self._reached: tuple[float, str | None] = (float("-inf"), None)
        self._reaching = threading.Lock()

    def open(self, collections: Mapping[str, ServedCollection], generator: Generator) -> None:
        """Begin to answer."""
        self.collections = collections
        self.opened_at = int(time.time())
        self._generator = generator

    @property
    def starting(self) -> bool:
        """Whether collections and generator are still being loaded."""
        return self._generator is None

    @property
    def generator(self) -> Generator:
        """The one that answers."""
        if self._generator is None:
            raise ApiError(503, "the service is starting", code="starting")
        return self._generator

    def submit(self, work: Callable[[], _T]) -> Future[_T]:
        """Have a thread do `work`; 503 where all are taken. A thread that is done makes room by itself."""
        if not self.slots.take():
            raise ApiError(503, "the service is busy; try again in a moment", code="busy", retry_after_s=BUSY_RETRY_S)
        try:
            future = self._threads.submit(work)
        except RuntimeError:
            self.slots.give_back()
            raise ApiError(503, "the service is stopping", code="stopping") from None
        future.add_done_callback(lambda _: self.slots.give_back())
        return future

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work` gives, done in a thread; 503 where all are taken, 504 where it takes longer than a request may.

        A UserError of it, which may name files, becomes a 503 without details.
        """
        future = asyncio.wrap_future(self.submit(work))
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                return await asyncio.shield(future)
        except TimeoutError:
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise ApiError(504, "this took longer than a request may take") from None

    def generator_problem(self) -> str | None:
        """Why the generator cannot be used, None where it can; asks it at most every few seconds."""
        with self._reaching:
            asked, problem = self._reached
            if time.monotonic() - asked > REACHED_FOR_S:
                try:
                    problem = reachable(self.generator)
                except UserError as error:
                    problem = str(error)
                if problem:
                    log.warning("the generator cannot be reached: %s", problem)
                self._reached = time.monotonic(), problem
            return problem

    def close(self) -> None:
        """Cancel what is being worked on, and let go of collections."""
        for job in list(self.answering):
            job.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for collection in self.collections.values():
            with contextlib.suppress(UserError):
                collection.close()


def passage_url(request: Request, settings: ServiceSettings, collection: str, passage: Passage) -> str:
    """Where the web page shows a passage: `<base>/#/NAME/passages/PASSAGE_ID?page=N`."""
    base = settings.base_url.rstrip("/") or str(request.base_url).rstrip("/")
    page = f"?page={passage.page_start}" if passage.page_start else ""
    return f"{base}/#/{quote(collection)}/passages/{quote(passage.passage_id, safe='')}{page}"


def shown_passage(passage: Passage) -> Passage:
    """A passage as clients see it: without the folders of its file, where that was indexed by an absolute path."""
    path = PurePath(passage.document)
    is_file = bool(passage.page_start)  # ready text has names of its own
    return dataclasses.replace(passage, document=path.name) if is_file and path.is_absolute() else passage


def shown_generator(spec: str) -> str:
    """A generator's spec as clients see it: without folders and addresses."""
    form, separator, rest = spec.partition(":")
    if not separator:
        return spec
    if form == "openai":
        return f"{form}:{rest.partition('#')[2]}"
    return f"{form}:{rest.rstrip('/').rpartition('/')[2]}"
