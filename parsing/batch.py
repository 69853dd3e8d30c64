"""Many inputs parsed side by side, and recognition under a budget: read all, choose pages, recognise those."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from hiperrag.parsing import router
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.inputs import Input
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.router import Budget
from hiperrag.parsing.sandbox import Limits, Sandbox, parse_input
from hiperrag.records import Document, Quarantined

WAITING_PER_WORKER = 4
"""Results held at a time, so that memory does not grow with the number of inputs."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def parse_many(
    inputs: Sequence[Input],
    options: ParseOptions,
    budget: Budget,
    workers: int,
    limits: Limits | None = None,
    on_stage: Callable[[str], None] = lambda *_: None,
) -> Iterator[tuple[Input, list[Document | Quarantined]]]:
    """What each input gives, in their order: a document or an entry of the quarantine, one a row of ready text.

    `workers` processes parse at a time. Where not all pages that need it may be recognised, nothing comes before all
    inputs have been read once. `on_stage` is called with "parse" or "recognise" when an input is through that.
    """

    def parse(sandbox: Sandbox, item: Input, asked: ParseOptions) -> list[Document | Quarantined]:
        outcome = parse_input(sandbox, item, asked)
        on_stage("parse")
        return outcome

    with _Workers(workers, limits) as pool:
        if not decides_later(options, budget):
            yield from zip(inputs, pool.map(lambda sandbox, item: parse(sandbox, item, options), inputs), strict=True)
            return
        started = time.perf_counter()
        survey = survey_options(options)
        read = list(pool.map(lambda sandbox, item: parse(sandbox, item, survey), inputs))
        chosen = _choose(read, options, budget, workers * (time.perf_counter() - started))

        def finish(sandbox: Sandbox, number: int) -> list[Document | Quarantined]:
            pages = chosen.get(("", number), [])
            outcomes = [
                finish_survey(sandbox, inputs[number], outcome, pages, options)
                if isinstance(outcome, Document)
                else outcome
                for outcome in read[number]
            ]
            on_stage("recognise")
            return outcomes

        yield from zip(inputs, pool.map(finish, range(len(inputs))), strict=True)


def decides_later(options: ParseOptions, budget: Budget) -> bool:
    """Whether pages are recognised only after all files have been read, because not all may be."""
    return options.parser != "fast" and options.engine != "none" and not budget.is_unlimited


def survey_options(options: ParseOptions) -> ParseOptions:
    """The same without any recognition yet."""
    return dataclasses.replace(options, recognise=(), pending=True)


def finish_survey(
    sandbox: Sandbox, item: Input, survey: Document, pages: Sequence[int], options: ParseOptions
) -> Document | Quarantined:
    """A document that has been read once, with the chosen pages recognised; without text it goes to quarantine."""
    document = survey
    if pages:
        with contextlib.suppress(ParseError):  # what has been read stays better than nothing
            document = sandbox.parse(item, dataclasses.replace(options, recognise=tuple(pages)))
    for page in document.pages:
        if page.page not in pages and router.is_needed(page) and router.OVER_BUDGET not in page.reason:
            page.reason = f"{page.reason}; {router.OVER_BUDGET}"
    if document.blocks or not document.pages:
        return document
    worst = min(document.pages, key=lambda page: page.quality)
    return Quarantined(document.source, "parse", "no_text", f"no text on any page ({worst.reason})")


def _choose(
    read: Sequence[Sequence[Document | Quarantined]], options: ParseOptions, budget: Budget, seconds: float
) -> dict[tuple[str, int], list[int]]:
    records = [(n, one.pages) for n, outcomes in enumerate(read) for one in outcomes if isinstance(one, Document)]
    wanted = list(itertools.chain.from_iterable(router.needs("", number, pages) for number, pages in records))
    if not wanted:
        return {}
    n_pages = sum(len(pages) for _, pages in records)
    return router.choose(wanted, budget.pages(n_pages, router.seconds_per_page(budget, options), seconds))


class _Workers:
    """Threads that each have a sandbox, and so a parser process, of their own."""

    def __init__(self, n: int, limits: Limits | None) -> None:
        self._n = n
        self._limits = limits
        self._threads = ThreadPoolExecutor(n)
        self._local = threading.local()
        self._sandboxes: list[Sandbox] = []

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for sandbox in self._sandboxes:
            sandbox.close()

    def map(self, work: Callable[[Sandbox, _Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """`work` on all items, results in their order, few of them ahead of the reader."""
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(self._threads.submit(lambda item: work(self._sandbox(), item), item))
            if len(waiting) >= WAITING_PER_WORKER * self._n:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _sandbox(self) -> Sandbox:
        if not hasattr(self._local, "sandbox"):
            self._local.sandbox = Sandbox(self._limits)
            self._sandboxes.append(self._local.sandbox)
        sandbox: Sandbox = self._local.sandbox
        return sandbox
