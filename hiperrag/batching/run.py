"""Answers the requests of a batch through the service's application, many at a time."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from fastapi import FastAPI

from hiperrag.answering.generators.rate import seconds
from hiperrag.batching.deferred import DeferredGenerator
from hiperrag.batching.requests import Line, Requests
from hiperrag.batching.results import PASSING, Results
from hiperrag.errors import UserError

LONGEST_WAIT_S = 3600.0
"""How long one request is asked again where the generator is busy."""
TRIES = 4
"""How often it is asked where the generator fails."""
FIRST_PAUSE_S = 1.0
MOST_FAILURES = 32
"""Requests in a row that fail for reasons outside them; then the batch stops, and the rest is left for another run."""
BUSY = frozenset({"busy", "rate_limit_exceeded"})
"""Codes of errors that pass by waiting."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The service's response to a request."""

    status: int
    body: Any
    retry_after_s: float | None

    @classmethod
    def of(cls, response: httpx.Response) -> Outcome:
        """Its status and JSON."""
        return cls(response.status_code, response.json(), seconds(response.headers.get("retry-after", "")))

    @property
    def error(self) -> dict[str, Any]:
        """What it says went wrong, if anything."""
        found = self.body.get("error") if isinstance(self.body, dict) else None
        return found if isinstance(found, dict) else {}


def answer_all(
    app: FastAPI,
    requests: Requests,
    results: Results,
    *,
    concurrency: int,
    deferred: DeferredGenerator | None,
    advance: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Ask `app` all requests that have no result, `concurrency` at a time; `advance` is called for each result.

    With `deferred`, which is then the app's generator, in rounds: what they need written is collected, written by the
    gateway in one go, and the requests asked again, until nothing is left to write. Raises UserError where one request
    after the other fails for reasons outside it.
    """
    if deferred is None:
        _Round(app, requests, results, concurrency, advance).run()
        return
    while True:
        _Round(app, requests, results, concurrency, advance, patient=False).run()
        if not deferred.write_all(say):
            break
    deferred.forget()


class _Round:
    """The requests that have no result, each asked until it has one.

    `patient`: a request that finds the generator busy is asked again; otherwise it is left without a result.
    """

    def __init__(
        self,
        app: FastAPI,
        requests: Requests,
        results: Results,
        concurrency: int,
        advance: Callable[[], None],
        *,
        patient: bool = True,
    ) -> None:
        self._app, self._requests, self._results = app, requests, results
        self._concurrency, self._advance, self._patient = concurrency, advance, patient
        self._failed_in_a_row = 0

    def run(self) -> None:
        asyncio.run(self._run(iter(self._results.pending(self._requests.lines))))

    async def _run(self, todo: Iterator[Line]) -> None:
        transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:
            workers = [asyncio.create_task(self._work(client, todo)) for _ in range(self._concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, client: httpx.AsyncClient, todo: Iterator[Line]) -> None:
        for line in todo:
            if line.mistake:
                message = f"line {line.number}: {line.mistake}"
                self._results.add(line, None, {"code": "invalid_line", "message": message})
                self._advance()
                continue
            outcome = await self._ask(client, line)
            if outcome is None:
                continue
            request_id = line.id.replace("batch_req_", "req_")
            response = {"status_code": outcome.status, "request_id": request_id, "body": outcome.body}
            self._results.add(line, response, None)
            self._advance()
            self._stop_where_nothing_works(outcome)

    async def _ask(self, client: httpx.AsyncClient, line: Line) -> Outcome | None:
        content = json.dumps(self._requests.body(line)).encode()
        waited, tries = 0.0, 1
        while True:
            response = await client.post(line.url, content=content, headers={"Content-Type": "application/json"})
            outcome = Outcome.of(response)
            if outcome.status not in PASSING:
                return outcome
            if outcome.error.get("code") in BUSY:
                if not self._patient:
                    return None
                pause = outcome.retry_after_s or FIRST_PAUSE_S
                waited += pause
                if waited > LONGEST_WAIT_S:
                    return outcome
            elif tries < TRIES and self._patient:
                pause = FIRST_PAUSE_S * 4.0 ** (tries - 1)
                tries += 1
            else:
                return outcome
            await asyncio.sleep(pause)

    def _stop_where_nothing_works(self, outcome: Outcome) -> None:
        self._failed_in_a_row = self._failed_in_a_row + 1 if outcome.status in PASSING else 0
        if self._failed_in_a_row >= MOST_FAILURES:
            raise UserError(
                f"stopped after {MOST_FAILURES} failures in a row ({outcome.error.get('message', outcome.status)}); "
                "run the same command again to go on"
            )
