"""Many inputs parsed side by side, and recognition under a budget: read all, choose pages, recognise those."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from hiperrag.parsing import router
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.inputs import Input
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.purse import Purse
from hiperrag.parsing.router import Budget
from hiperrag.parsing.sandbox import Limits, MayRecognise, Sandbox, parse_input
from hiperrag.records import Document, Quarantined

WAITING_PER_WORKER = 4
"""Results held at a time, so that memory does not grow with the number of inputs."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Chosen = Mapping[int, Sequence[int]] | Purse
"""The pages to recognise by the number of their document, or seconds for the most urgent ones."""


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
        survey = survey_options(options)
        read = list(pool.map(lambda sandbox, item: parse(sandbox, item, survey), inputs))
        chosen = _choose(read, budget, pool.cpu_seconds)

        def finish(sandbox: Sandbox, number: int) -> list[Document | Quarantined]:
            outcomes = [
                finish_survey(sandbox, inputs[number], outcome, number, chosen, options)
                if isinstance(outcome, Document)
                else outcome
                for outcome in read[number]
            ]
            on_stage("recognise")
            return outcomes

        done = {number: pool.submit(finish, number) for number in in_order(len(read), chosen)}
        for number, item in enumerate(inputs):
            yield item, done.pop(number).result()


def decides_later(options: ParseOptions, budget: Budget) -> bool:
    """Whether pages are recognised only after all files have been read, because not all may be."""
    return options.parser != "fast" and options.engine != "none" and not budget.is_unlimited


def survey_options(options: ParseOptions) -> ParseOptions:
    """The same without any recognition yet."""
    return dataclasses.replace(options, recognise=(), pending=True)


def in_order(n: int, chosen: Chosen) -> list[int]:
    """The numbers of n documents, those whose pages spend a purse last, the most urgent of them first."""
    spending = chosen.documents if isinstance(chosen, Purse) else []
    return [*sorted(set(range(n)).difference(spending)), *spending]


def finish_survey(
    sandbox: Sandbox, item: Input, survey: Document, number: int, chosen: Chosen, options: ParseOptions
) -> Document | Quarantined:
    """A document that has been read once, with its chosen pages recognised; without text it goes to quarantine."""
    if isinstance(chosen, Purse) and any(map(router.is_needed, survey.pages)):
        with chosen.account(number, lambda: sandbox.cpu_seconds) as account:
            may_any = account.may_recognise(account.pages[0])
            return _finish(sandbox, item, survey, account.pages if may_any else (), options, account.may_recognise)
    return _finish(sandbox, item, survey, () if isinstance(chosen, Purse) else chosen.get(number, ()), options)


def _finish(
    sandbox: Sandbox,
    item: Input,
    survey: Document,
    pages: Sequence[int],
    options: ParseOptions,
    may_recognise: MayRecognise = lambda *_: True,
) -> Document | Quarantined:
    document = survey
    if pages:
        asked = dataclasses.replace(options, recognise=tuple(pages), pending=True)
        try:
            document = sandbox.parse(item, asked, may_recognise)
        except ParseError as error:  # what has been read stays better than nothing
            for page in (page for page in document.pages if page.page in pages):
                page.reason = f"{page.reason}; {error.message}"
    for page in document.pages:
        if page.page not in pages and router.is_needed(page) and router.OVER_BUDGET not in page.reason:
            page.reason = f"{page.reason}; {router.OVER_BUDGET}"
    if document.blocks or not document.pages:
        return document
    worst = min(document.pages, key=lambda page: page.quality)
    return Quarantined(document.source, "parse", "no_text", f"no text on any page ({worst.reason})")


def _choose(read: Sequence[Sequence[Document | Quarantined]], budget: Budget, seconds: float) -> Chosen:
    """What is recognised after a first reading that took CPU `seconds`."""
    records = [(n, one.pages) for n, outcomes in enumerate(read) for one in outcomes if isinstance(one, Document)]
    wanted = list(itertools.chain.from_iterable(router.needs("", number, pages) for number, pages in records))
    if budget.of != "pages":
        return Purse(budget.seconds(seconds), wanted)
    n_pages = budget.pages(sum(len(pages) for _, pages in records))
    return {number: pages for (_, number), pages in router.choose(wanted, n_pages).items()}


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

    @property
    def cpu_seconds(self) -> float:
        """Of all parser processes so far."""
        return sum(sandbox.cpu_seconds for sandbox in self._sandboxes)

    def submit(self, work: Callable[[Sandbox, _Item], _Result], item: _Item) -> Future[_Result]:
        """`work` on an item as soon as a worker is free."""
        return self._threads.submit(lambda: work(self._sandbox(), item))

    def map(self, work: Callable[[Sandbox, _Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """`work` on all items, results in their order, few of them ahead of the reader."""
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(self.submit(work, item))
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
