"""Budgets of time: recognition ends where they do, whatever pages cost, and the most urgent pages come first."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from collection_helpers import InlinePool, index, use_inline_pool

from hiperrag.collection import Collection
from hiperrag.parsing import batch, oreo, router
from hiperrag.parsing.inputs import Input
from hiperrag.parsing.options import ParseOptions
from hiperrag.parsing.purse import Purse
from hiperrag.parsing.reading import load_pymupdf
from hiperrag.parsing.recognition import engines, trial
from hiperrag.parsing.router import Budget, Need
from hiperrag.parsing.sandbox import Sandbox
from hiperrag.parsing.sources import discover
from hiperrag.records import Block, Document, PageRecord, Quarantined, read_documents, write_records
from hiperrag.workflows import recognition, stages
from hiperrag.workflows.choice import ChosenPages, SharedSeconds, Spent, open_choice
from hiperrag.workflows.recognition import recognise_part
from hiperrag.workflows.settings import IndexSettings, ParseSettings, PartSettings
from hiperrag.workflows.stages import PartNames

PAGES = 5
READING = 0.3
"""CPU seconds of reading a file again, before its pages."""


class FakeSandbox:
    """Recognises pages at a known cost on a clock of its own; a file's page `n` has the text of the file and n."""

    cost = 2.0
    quality: Callable[[str, int], float] = staticmethod(lambda source, page: 0.0)
    seconds: ClassVar[list[float]] = []
    read: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, limits: object = None) -> None:
        self.cpu_seconds = 0.0

    def __enter__(self) -> FakeSandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        FakeSandbox.seconds.append(self.cpu_seconds)

    def parse(
        self, item: Input, options: ParseOptions, may_recognise: Callable[[int, int], bool] = lambda *_: True
    ) -> Document:
        document = surveyed(item.source)
        if options.recognise:
            self.cpu_seconds += READING
        for page in options.recognise or ():
            record = document.pages[page - 1]
            if not may_recognise(page, 1):
                record.reason += f"; {router.OVER_BUDGET}"
                continue
            self.cpu_seconds += self.cost
            record.route, record.reason = "ocr", f"{record.reason}; fake"
            FakeSandbox.read.append((item.source, page))
            document.blocks.append(Block(page, "paragraph", (0.0, 0.0, 1.0, 1.0), f"{item.source} {page}"))
        return document


def surveyed(source: str) -> Document:
    qualities = [FakeSandbox.quality(source, page) for page in range(1, PAGES + 1)]
    pages = [PageRecord(n, 600.0, 800.0, "text", "no text layer", quality) for n, quality in enumerate(qualities, 1)]
    return Document(source, source, "", [], PAGES, "auto", "1", 0.0, [], pages)


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> type[FakeSandbox]:
    for name, value in {"cost": 2.0, "quality": staticmethod(lambda *_: 0.0), "seconds": [], "read": []}.items():
        monkeypatch.setattr(FakeSandbox, name, value)
    for module in (batch, recognition):
        monkeypatch.setattr(module, "Sandbox", FakeSandbox)
    return FakeSandbox


def scan(name: str) -> Input:
    row = dict.fromkeys((field.name for field in dataclasses.fields(Input)), 0)
    return Input(**row | {"source": name, "kind": "pdf", "path": name, "member": ""})  # type: ignore[arg-type]


def recognise(budget: str, n: int, workers: int) -> list[Document]:
    """What `hiperrag parse` makes of n scans."""
    inputs = [scan(f"{number:02d}.pdf") for number in range(n)]
    found = batch.parse_many(inputs, ParseOptions(), Budget.parse(budget), workers)
    outcomes = [(item.source, *outcomes) for item, outcomes in found]
    assert [source for source, _ in outcomes] == [item.source for item in inputs]
    return [one for _, one in outcomes if isinstance(one, Document)]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("cost", [0.5, 2.0, 3.0, 6.0])
def test_recognition_ends_where_the_budget_does_whatever_pages_cost(
    cost: float, workers: int, sandbox: type[FakeSandbox]
) -> None:
    sandbox.cost = cost
    documents = recognise("90s", 100, workers)
    assert 90 - 1.5 * cost - READING <= sum(sandbox.seconds) <= 90 + workers * cost
    pages = list(itertools.chain.from_iterable(document.pages for document in documents))
    assert sum(page.route == "ocr" for page in pages) == len(sandbox.read)
    for page in pages:
        assert (page.route == "ocr") == page.reason.endswith("; fake")
        assert (page.route == "text") == page.reason.endswith(f"; {router.OVER_BUDGET}")


def test_a_budget_that_suffices_is_not_used_up(sandbox: type[FakeSandbox]) -> None:
    assert len(recognise("90s", 6, 2)) == 6
    assert len(sandbox.read) == 6 * PAGES


@pytest.mark.parametrize("cost", [1.0, 3.0])
def test_the_most_urgent_pages_come_first(cost: float, sandbox: type[FakeSandbox]) -> None:
    """Of the first files only one page is bad; the last ones are wholly so."""
    sandbox.cost = cost
    sandbox.quality = staticmethod(lambda source, page: 0.0 if source >= "10" or page == 3 else 0.4)
    recognise(f"{45 * cost + 20 * READING}s", 15, 1)
    urgent = [(f"{n:02d}.pdf", 3) for n in range(10)] + [
        (f"{n}.pdf", page) for n in range(10, 15) for page in range(1, 6)
    ]
    assert set(urgent) <= set(sandbox.read)
    assert sandbox.read[0] == ("00.pdf", 3), "the worst page of a document comes first"


def test_a_share_of_the_time_is_of_cpu_time(sandbox: type[FakeSandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    def read(sandbox: FakeSandbox, item: Input, options: ParseOptions) -> list[Document]:
        sandbox.cpu_seconds += 1.0
        return [surveyed(item.source)]

    monkeypatch.setattr(batch, "parse_input", read)
    recognise("time:50%", 30, 2)
    assert sum(sandbox.seconds) == pytest.approx(60, abs=4)


def test_a_page_that_does_not_fit_gives_way_to_none_that_is_less_urgent() -> None:
    now = [0.0, 0.0]
    purse = Purse(7.0, [Need(0.0, "", 0, 1), Need(0.1, "", 1, 1), Need(0.2, "", 0, 2)])
    with purse.account(0, lambda: now[0]) as first:
        assert first.pages == [1, 2]
        assert first.may_recognise(1)
        assert first.may_recognise(1), "the same page is not asked for twice"
        now[0] = 4.0
        assert not first.may_recognise(2), "three seconds are left, and the other page comes first"
        assert not first.may_recognise(99), "nobody asked for that"
    with purse.account(1, lambda: now[1]) as second:
        assert second.may_recognise(1)
    assert (purse.spent, purse.recognised) == (4.0, 2.0)


# The parser process


SPENDER = """
import subprocess, sys, time
from hiperrag.records import Document, PageRecord

def parse(data, source, doc_id, options, on_page):
    pages = []
    for page in range(1, 10):
        if on_page(page, 1) is False:
            break
        code = "import time\\nwhile time.process_time() < 0.15: pass"
        subprocess.run([sys.executable, "-S", "-c", code])
        pages.append(PageRecord(page, 1.0, 1.0, "ocr", "", 0.0))
    on_page(0, 0)
    return Document(doc_id, source, "", [], len(pages), "spender", "1", 1.0, [], pages)
"""


def test_the_seconds_of_a_parser_process_are_known_while_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "spender.py").write_text(SPENDER)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    (tmp_path / "a.pdf").write_text("any")
    [item] = discover([str(tmp_path / "a.pdf")]).inputs
    seen: list[float] = []

    def may_recognise(page: int, n: int) -> bool:
        seen.append(sandbox.cpu_seconds)
        return page < 4

    with Sandbox(parser="spender:parse") as sandbox:
        assert sandbox.cpu_seconds == 0
        document = sandbox.parse(item, None, may_recognise)
        assert [page.page for page in document.pages] == [1, 2, 3]
        assert len(seen) == 4
        assert all(after - before > 0.1 for before, after in itertools.pairwise(seen)), "its own children count"
        before = sandbox.cpu_seconds
        sandbox.close()
        assert sandbox.cpu_seconds >= before
        sandbox.parse(item, None, lambda page, _: page < 2)
        assert sandbox.cpu_seconds > before + 0.1, "processes that have ended count"


class FakeEngine:
    name, on_gpu, dpi = "fake", False, 36.0

    def recognise(self, pictures: list[engines.Picture], seconds: float = 0.0) -> list[engines.Recognised]:
        line = engines.TextLine([engines.Word("word", (10.0, 10.0, 60.0, 20.0), 0.9)])
        return [engines.Recognised([line]) for _ in pictures]


def unreadable(n: int) -> bytes:
    """A PDF of n pages that show something and say nothing."""
    pdf = load_pymupdf().open()
    for _ in range(n):
        pdf.new_page(width=300, height=420).draw_rect((20, 20, 200, 300))
    return bytes(pdf.tobytes())


def test_pages_after_the_end_of_the_budget_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "load", lambda *_: FakeEngine())
    asked: list[int] = []

    def on_page(page: int, n: int) -> bool:
        asked.extend([page] * n)
        return not n or len(asked) < 3

    options = ParseOptions(recognise=(4, 2, 1, 5), pending=True)
    document = oreo.parse_pdf(unreadable(5), "x.pdf", "id", options, on_page)
    assert asked == [4, 2, 1], "in the order given, until the answer is no"
    assert [page.route for page in document.pages] == ["text", "ocr", "text", "ocr", "text"]
    over = [page.page for page in document.pages if page.reason == f"no text layer; {router.OVER_BUDGET}"]
    assert over == [1, 3, 5]


# Runs


def write_surveys(collection: Collection, sizes: dict[str, int]) -> None:
    for part, n in sizes.items():
        write_records(collection.survey_path(part), Document, [surveyed(f"{part}{number}.pdf") for number in range(n)])


@pytest.fixture
def cheap_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "recognise", lambda _: trial.Trial(2.0, 4.0))


@pytest.mark.usefixtures("cheap_trial", "sandbox")
def test_seconds_are_shared_out_and_what_is_left_of_them_goes_on(tmp_path: Path) -> None:
    collection, settings = Collection(tmp_path), ParseSettings(ocr_budget="64s")
    write_surveys(collection, {"a": 2, "b": 2, "c": 2, "d": 2})
    choice = open_choice(collection, settings)
    assert isinstance(choice, SharedSeconds)
    choice.make(["a", "b", "c", "d"], 1.0)
    assert [choice.n_pages(part) for part in "abcd"] == [10, 10, 10, 0], "60 s are left after the trial"
    assert [choice.share_of(part).seconds for part in "ab"] == [20, 20]
    assert choice.share_of("a").seconds == 20, "a lost task gets the same again"
    Spent(10.0, 10.0).add(collection, "a")
    write_records(collection.documents_path("a"), Document, [])
    third = choice.share_of("c")
    assert third.seconds_per_page == pytest.approx(12 / 11), "what pages really cost counts"
    assert third.seconds == pytest.approx(30 / 2, abs=1), "the rest, shared with d"
    Spent(15.0, 9.0).add(collection, "b")
    Spent(5.0, 1.0).add(collection, "b")
    write_records(collection.documents_path("b"), Document, [])

    resumed = open_choice(collection, settings)
    assert all(map(resumed.covers, "abcd"))
    assert sum(resumed.share_of(part).seconds or 0.0 for part in "cd") == pytest.approx(30)
    assert not open_choice(collection, ParseSettings(ocr_budget="65s")).covers("a"), "another budget is another run"


@pytest.mark.usefixtures("cheap_trial", "sandbox")
def test_pieces_of_a_part_have_no_budget_of_their_own(tmp_path: Path) -> None:
    collection = Collection(tmp_path)
    write_surveys(collection, {"a": 2, "b": 2})
    choice = open_choice(collection, ParseSettings(ocr_budget="24s"))
    choice.make(["a", "b"], 1.0)
    assert (choice.share_of("a").seconds, choice.share_of("b").seconds) == (20, 0)
    choice.release("a")
    write_surveys(collection, {"a1": 1, "a2": 1})
    for piece in ("a1", "a2"):
        choice.make([piece], 1.0)
    assert sum(choice.share_of(piece).seconds or 0.0 for piece in ("a1", "a2")) == pytest.approx(20)

    chosen = open_choice(collection, ParseSettings(ocr_budget="25%"))
    assert isinstance(chosen, ChosenPages)
    write_surveys(collection, {"p": 4})
    write_records(collection.survey_path("p1"), Document, [surveyed("p0.pdf"), surveyed("p1.pdf")])
    write_records(collection.survey_path("p2"), Document, [surveyed("p2.pdf"), surveyed("p3.pdf")])
    chosen.make(["p"], 1.0)
    assert chosen.share_of("p").pages == {0: [1, 2, 3, 4, 5]}
    chosen.release("p")
    for piece in ("p1", "p2"):
        chosen.make([piece], 1.0)
    assert [chosen.n_pages(piece) for piece in ("p1", "p2")] == [5, 0], "the pages of the whole part, and no others"


@pytest.mark.usefixtures("cheap_trial")
@pytest.mark.parametrize("cost", [1.2, 2.0, 3.0])
def test_parts_together_spend_what_the_budget_says(cost: float, tmp_path: Path, sandbox: type[FakeSandbox]) -> None:
    """Sixteen parts of two scans for 94 s, four at work at a time, the run begun again after six."""
    sandbox.cost = cost
    collection, settings = Collection(tmp_path), IndexSettings(parse=ParseSettings(ocr_budget="94s"))
    sizes = {f"{number:02d}": 2 for number in range(16)}
    write_surveys(collection, sizes)
    for part in sizes:
        write_records(collection.quarantine_path(part), Quarantined, [])
    choice = open_choice(collection, settings.parse)
    choice.make(list(sizes), 1.0)

    def work(parts: list[str]) -> None:
        shares = {part: choice.share_of(part) for part in parts[:4]}
        for number, part in enumerate(parts):
            inputs = [scan(f"{part}{number}.pdf") for number in range(2)]
            recognise_part(str(tmp_path), PartNames(part, "", "", "", surveyed=True), inputs, settings, shares[part])
            shares |= {part: choice.share_of(part) for part in parts[number + 4 : number + 5]}

    work(list(sizes)[:6])
    choice = open_choice(collection, settings.parse)
    work(list(sizes)[6:])
    assert len(set(sandbox.read)) == len(sandbox.read)
    assert 0.85 * 90 <= sum(sandbox.seconds) <= 90 + 4 * cost
    assert not list(collection.surveys.glob("*.parquet"))


@pytest.mark.slow
@pytest.mark.usefixtures("in_process", "cheap_trial")
def test_a_run_that_is_killed_goes_on_with_what_is_left(
    tmp_path: Path, sandbox: type[FakeSandbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four scans of five pages, at half as much again as the trial says; 34 s are for 10 of 20."""
    sandbox.cost = 3.0
    folder, root = tmp_path / "in", tmp_path / "c"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.pdf").write_text(f"scan {number}")
    monkeypatch.setattr(stages, "parse_inputs", lambda items, *_: ([surveyed(item.source) for item in items], []))
    settings = {"parse": ParseSettings(ocr_budget="34s"), "parts": PartSettings(files_per_part=1)}
    begun: list[str] = []

    def interrupt(name: str, call: int) -> None:
        begun.append(name)
        if begun.count("recognise_part") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(InlinePool, "fault", staticmethod(interrupt))
    with pytest.raises(KeyboardInterrupt):
        index(folder, root, **settings)
    [spent] = [json.loads(path.read_text()) for path in Collection(root).spent.glob("*.json") if path.stem != "terms"]
    assert spent["pages"] == len(sandbox.read)
    use_inline_pool(monkeypatch)
    index(folder, root, **settings)
    assert len(set(sandbox.read)) == len(sandbox.read), "nothing is recognised twice"
    assert 30 - 2 * 3 <= sum(sandbox.seconds) <= 30 + 3
    assert not Collection(root).surveys.exists()
    parts = [Collection(root).documents_path(part.documents) for part in Collection(root).manifest().parts]
    stored = [page for part in parts for one in read_documents(part) for page in one.pages]
    assert sum(page.route == "ocr" for page in stored) == len(sandbox.read)
