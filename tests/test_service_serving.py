"""A served collection: what it finds, how it encodes, how it takes up newer versions."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from collection_helpers import QUESTIONS, copied, delete

from hiperrag.answering.checking import check
from hiperrag.answering.evidence import Evidence
from hiperrag.answering.retrieval import Retriever
from hiperrag.collection import Collection
from hiperrag.encoders import load_encoder
from hiperrag.encoders.base import Encoded
from hiperrag.errors import UserError
from hiperrag.filters import Filter
from hiperrag.service import encoding
from hiperrag.service.encoder_process import EncoderProcess
from hiperrag.service.encoding import SharedEncoder
from hiperrag.service.serving import ServedCollection

POLL_S = 0.02


class Letters:
    """An encoder of one token a letter; notes its calls, and waits while `gate` is shut."""

    name, identity, dim, pooled_dim, max_tokens = "letters", "1", 2, 2, 99

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def encode_passages(self, texts) -> Encoded:
        return self._encode("passages", texts)

    def encode_queries(self, texts) -> Encoded:
        return self._encode("queries", texts)

    def _encode(self, kind, texts) -> Encoded:
        self.calls.append((kind, list(texts)))
        assert self.gate.wait(30)
        if "bad" in texts:
            raise UserError("cannot be encoded")
        tokens = np.array([[ord(letter), len(text)] for text in texts for letter in text], dtype=np.float32)
        offsets = np.cumsum([0, *map(len, texts)])
        pooled = np.array([[len(text), 0] for text in texts], dtype=np.float32)
        return Encoded(tokens.reshape(-1, 2), offsets, pooled, np.zeros(len(texts), dtype=np.bool_))


def same(one: Encoded, other: Encoded) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("tokens", "offsets", "pooled", "truncated")
    )


def wait_for(condition) -> None:
    """Poll until something is so; a watcher's thread makes it so."""
    pause = threading.Event()
    for _ in range(3_000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come about")


@pytest.fixture
def served(root, in_process, monkeypatch):
    monkeypatch.setattr(encoding, "_shared", {})
    one = ServedCollection("c", root, threads=1, poll_s=POLL_S)
    yield one
    one.close()


def hits(one: ServedCollection, **options) -> list[list[tuple[str, float]]]:
    found = one.search(QUESTIONS, 9, **options)
    return [[(hit.passage.passage_id, hit.score) for hit in each] for each in found.hits]


def plain(root: Path, **options) -> list[list[tuple[str, float]]]:
    found = Retriever(root, threads=1).search(QUESTIONS, 9, **options)
    return [[(hit.passage.passage_id, hit.score) for hit in each] for each in found]


WAYS = {
    "balanced": {},
    "exact": {"quality": "exact"},
    "hybrid": {"hybrid": True},
    "filtered": {"where": Filter.parse("year >= 1994")},
    "by document": {"per_document": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_served_collection_finds_what_a_retriever_finds(way, served, root):
    assert hits(served, **WAYS[way]) == plain(root, **WAYS[way])


def test_searches_of_many_threads_do_not_mix(served):
    alone = {question: served.search([question], 5).hits[0] for question in QUESTIONS}
    asked = list(QUESTIONS) * 20
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda question: served.search([question], 5), asked))
    for question, result in zip(asked, together, strict=True):
        assert [hit.passage for hit in result.hits[0]] == [hit.passage for hit in alone[question]]
        assert result.missing == []
        assert set(result.timings_ms) == {"encode", "search", "fetch", "total"}


def test_an_encoder_of_many_threads_encodes_as_the_one_it_has():
    inner, shared = Letters(), SharedEncoder(Letters())
    texts = ["some", "texts", "", "some", "x" * 3_000]
    assert same(shared.encode_passages(texts), inner.encode_passages(texts))
    for _ in range(2):
        assert same(shared.encode_passages(texts), inner.encode_passages(texts)), "from the cache at last"
    assert same(shared.encode_queries(texts), inner.encode_queries(texts))
    assert same(shared.encode_passages([]), shared.encode_queries([]))
    assert shared.encode_passages([]).tokens.shape == (0, 2)


def test_queries_are_taken_together_and_wait_for_no_passages():
    inner = Letters()
    shared = SharedEncoder(inner)
    inner.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(shared.encode_queries, ["first"])
        wait_for(lambda: len(inner.calls) == 1)
        long = pool.submit(shared.encode_passages, ["a" * 1_000, "b" * 1_000])
        wait_for(lambda: len(inner.calls) == 2)
        others = [pool.submit(shared.encode_queries, [f"query {number}"]) for number in range(5)]
        wait_for(lambda: len(shared._queries.waiting) == 5)
        inner.gate.set()
        assert all(future.result(30) for future in [first, long, *others])
    assert inner.calls[:2] == [("queries", ["first"]), ("passages", ["a" * 1_000])], "a lone call waits for nothing"
    rest = dict(inner.calls[2:])
    assert sorted(rest["queries"]) == [f"query {number}" for number in range(5)]
    assert rest["passages"] == ["b" * 1_000]


def test_short_texts_of_several_callers_are_encoded_in_one_call():
    inner = Letters()
    shared = SharedEncoder(inner)
    inner.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(shared.encode_passages, ["first"])
        wait_for(lambda: inner.calls)
        others = [pool.submit(shared.encode_passages, [f"statement {number}"]) for number in range(5)]
        wait_for(lambda: len(shared._passages.waiting) == 5)
        inner.gate.set()
        lengths = {len(future.result(30).tokens) for future in others}
        first.result(30)
    assert [len(texts) for _, texts in inner.calls] == [1, 5]
    assert lengths == {len("statement 0")}


def test_a_text_that_cannot_be_encoded_is_nothing_to_the_others():
    inner = Letters()
    shared = SharedEncoder(inner)
    inner.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(shared.encode_queries, ["first"])
        wait_for(lambda: inner.calls)
        bad, good = (pool.submit(shared.encode_queries, [text]) for text in ("bad", "good"))
        wait_for(lambda: len(shared._queries.waiting) == 2)
        inner.gate.set()
        assert len(good.result(30).tokens) == len("good")
        with pytest.raises(UserError, match="cannot be encoded"):
            bad.result(30)
        first.result(30)


def test_the_cache_keeps_what_was_used_last_within_its_bytes():
    inner = Letters()
    shared = SharedEncoder(inner, cache_bytes=4 * 30 + 8 * 3)
    for letter in "aabbccaddab":
        shared.encode_passages([letter * 10])
        assert shared.cached_bytes <= 4 * 30 + 8 * 3
    assert "".join(texts[0][0] for _, texts in inner.calls) == "aabbccddb", "kept from the second time on"


def test_only_passages_that_are_cited_or_may_be_are_encoded(root, in_process):
    retriever = Retriever(root, threads=1)
    found = retriever.search(["Which whales sing in the breeding season?"], 6)[0]

    class Noting:
        def __init__(self):
            self.texts: list[str] = []

        def encode_passages(self, texts):
            self.texts += texts
            return retriever.encoder.encode_passages(texts)

    encoder = Noting()
    evidence = Evidence(found, encoder)
    claim = f"{found[0].passage.text.rstrip('.')} [1]."
    assert check(claim, evidence).sentence
    assert set(encoder.texts) == {found[0].passage.text}, "which is the claim as well"
    encoder.texts.clear()
    attributed = check(claim.replace(" [1]", ""), evidence)
    assert attributed.attributed
    assert attributed.sentence
    assert [citation.n for citation in attributed.sentence.citations] == [1]
    unlike = {one.n for one in evidence.wording(claim) if one.coverage < 0.05}
    assert unlike
    assert not {found[n - 1].passage.text for n in unlike} & set(encoder.texts), "no similarity can make up for that"


def test_a_newer_version_is_taken_up_while_searches_go_on(served, root):
    before = hits(served)
    failures: list[Exception] = []
    ending = threading.Event()

    def ask() -> None:
        while not ending.is_set():
            try:
                assert len(served.search(QUESTIONS, 9).hits) == len(QUESTIONS)
            except Exception as error:
                failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    gone = served.search(QUESTIONS, 1).hits[0][0].passage.document
    with served.pinned() as pinned:
        delete(root, gone)
        wait_for(lambda: served.search(QUESTIONS, 1).manifest is not pinned.manifest)
        held = pinned.retriever.search(QUESTIONS, 9)
        assert [[(hit.passage.passage_id, hit.score) for hit in each] for each in held] == before
    assert all(hit.passage.document != gone for hit in served.search(QUESTIONS, 36).hits[0])
    delete(root, gone, undo=True)
    wait_for(lambda: hits(served) == before)
    ending.set()
    asking.join()
    assert not failures


def test_a_broken_version_leaves_the_old_one_serving_and_is_said(served, root, caplog):
    before = hits(served)
    path = Collection(root).manifest_path
    good = path.read_text()
    path.write_text("{ broken")
    wait_for(lambda: served.shard_health().problem)
    health = served.shard_health()
    assert hits(served) == before
    assert health.ready
    assert str(root) not in health.problem
    assert "cannot be opened" in caplog.text
    path.write_text(good)
    wait_for(lambda: not served.shard_health().problem)
    assert hits(served) == before


@pytest.mark.slow
def test_memory_and_files_do_not_grow_over_50_versions(served, root):
    sizes, maps, open_files, threads = [], [], [], []
    for swap in range(50):
        served.search(QUESTIONS, 3, hybrid=True)
        before = weakref.ref(served._newest)
        delete(root, "r5", undo=bool(swap % 2))
        wait_for(lambda before=before: gc.collect() >= 0 and before() is None)
        status = Path("/proc/self/status").read_text()
        sizes.append(int(re.search(r"RssAnon:\s*(\d+)", status)[1]))
        maps.append(Path("/proc/self/maps").read_text().count(str(root)))
        open_files.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208
        threads.append(threading.active_count())
    assert max(maps[10:]) <= max(maps[:10])
    assert max(open_files[10:]) <= max(open_files[:10])
    assert max(threads[10:]) <= max(threads[:10])
    assert sizes[-1] - sizes[9] < 4_096, "kB"


def test_a_collection_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such collection"):
        ServedCollection("c", tmp_path / "absent")


def test_a_collection_whose_folder_goes_is_served_on(root, in_process, monkeypatch):
    monkeypatch.setattr(encoding, "_shared", {})
    one = ServedCollection("c", root, threads=1, poll_s=POLL_S)
    before = hits(one)
    elsewhere = copied(root, root.parent / "elsewhere")
    shutil.rmtree(root)
    wait_for(lambda: one.shard_health().problem)
    assert hits(one) == before
    shutil.move(elsewhere, root)
    wait_for(lambda: not one.shard_health().problem)
    assert hits(one) == before
    one.close()


@pytest.mark.parametrize("kind", ["queries", "passages"])
def test_what_waits_is_encoded_in_a_process_of_its_own_which_comes_back(kind):
    texts = [f"Quokkas number {number} feed on leaves." for number in range(100)]
    process = EncoderProcess(kind, "minilm:float32", 1)
    inner = load_encoder("minilm:float32", 1)
    shared = SharedEncoder(inner, cache_bytes=0, **{kind: process})
    tokens = getattr(inner, f"encode_{kind}")(texts).tokens

    def encoded(by: SharedEncoder) -> bool:
        return np.allclose(getattr(by, f"encode_{kind}")(texts).tokens, tokens, atol=2e-3)

    getattr(shared, f"encode_{kind}")(texts[:1])
    assert process.pid is None, "a lone call needs no help"
    pids = set()
    for _ in range(2):
        ends = time.monotonic() + 120
        while not process.ready:
            assert encoded(shared)
            assert time.monotonic() < ends
        assert encoded(shared)
        pids.add(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        assert encoded(shared), "nothing is lost with the process"
    assert len(pids) == 2
    assert encoded(shared)
    pid = process.pid
    del shared
    gc.collect()
    assert pid
    assert not psutil.pid_exists(pid)
