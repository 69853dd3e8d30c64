"""The driver of a run when things go wrong: with real stages on ready text, in this process, with faults put in."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from collection_helpers import InlinePool, found, index, shards_of, use_inline_pool, write_rows

from hiperrag.answering.retrieval import Retriever
from hiperrag.collection import Collection
from hiperrag.errors import UserError
from hiperrag.parsing.sources import iter_rows
from hiperrag.records import read_documents, read_passages, read_quarantined
from hiperrag.workflows import drive, run
from hiperrag.workflows.maintenance import delete_documents
from hiperrag.workflows.observe import run_folders, status_of
from hiperrag.workflows.pool import WorkerLostError
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.sites import load_site


@pytest.fixture(autouse=True)
def inline(monkeypatch, models):
    use_inline_pool(monkeypatch)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "rows.jsonl"
    write(path, 40)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, models):
    """The collection of the corpus, indexed without disturbance."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder / "rows.jsonl", 40)
    with pytest.MonkeyPatch.context() as patch:
        use_inline_pool(patch)
        index(folder / "rows.jsonl", folder / "c")
    return folder / "c"


def write(path: Path, n: int, word: str = "sample") -> None:
    write_rows(path, [{"_id": f"r{i}", "text": f"The {word} {i} weighs {i} g."} for i in range(n)])


@contextlib.contextmanager
def auditing(note: Callable[[str, tuple], object]) -> Iterator[None]:
    """Python's audit events go to `note`; a hook can be added and never removed."""
    active = True
    sys.addaudithook(lambda event, arguments: note(event, arguments) if active else None)
    yield
    active = False


def texts(root: Path) -> list[tuple[str, str]]:
    collection = Collection(root)
    return [
        (passage.passage_id, passage.text)
        for part in collection.manifest().parts
        if part.passages
        for passage in read_passages(collection.passages_path(part.passages))
    ]


def vectors(root: Path) -> list[dict[str, bytes]]:
    """Every file of every shard."""
    return [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in shards_of(root)]


def test_a_run_that_dies_anywhere_is_resumed_to_the_same_vectors(corpus, tmp_path):
    index(corpus, tmp_path / "whole")
    total = InlinePool.calls
    rng = random.Random(3)
    for number in range(10):
        root, dies_at = tmp_path / f"c{number}", InlinePool.calls + rng.randrange(1, total)

        def fault(name: str, call: int, dies_at: int = dies_at) -> None:
            if call == dies_at:
                raise KeyboardInterrupt

        InlinePool.fault = staticmethod(fault)
        with pytest.raises(KeyboardInterrupt):
            index(corpus, root)
        index(corpus, root)
        assert texts(root) == texts(tmp_path / "whole")
        assert vectors(root) == vectors(tmp_path / "whole")
        assert not list((root / "vectors").iterdir())


def test_lost_workers_cost_another_try_and_nothing_else(corpus, whole, tmp_path):
    rng = random.Random(4)

    def fault(name: str, call: int) -> None:
        if rng.random() < 0.3:
            raise WorkerLostError("worker 1 on host h")

    InlinePool.fault = staticmethod(fault)
    summary = index(corpus, tmp_path / "c")
    assert summary.counts.quarantined == 0
    assert vectors(tmp_path / "c") == vectors(whole)


def poison(monkeypatch, stage: str, text: str, error: Exception) -> list[int]:
    """A stage fails wherever the text is among what it is given; the list gets the number of inputs of each attempt."""
    function, attempts = getattr(drive, f"{stage}_part"), []

    def poisoned(root: str, names, *arguments):
        collection = Collection(root)
        if stage == "parse":
            found = [row["text"] for item in arguments[0] for _, row in iter_rows(item)]
        elif stage == "chunk":
            documents = read_documents(collection.documents_path(names.documents))
            found = [block.text for document in documents for block in document.blocks]
        else:
            found = [passage.text for passage in read_passages(collection.passages_path(names.passages))]
        if any(text in one for one in found):
            attempts.append(len(found))
            raise error
        return function(root, names, *arguments)

    poisoned.__name__ = function.__name__
    monkeypatch.setattr(drive, f"{stage}_part", poisoned)
    return attempts


@pytest.mark.parametrize("stage", ["parse", "chunk", "encode"])
def test_poison_is_found_by_halving_and_quarantined_alone_and_tried_again_next_time(
    stage, corpus, whole, tmp_path, monkeypatch
):
    root = tmp_path / "c"
    with monkeypatch.context() as patch:
        attempts = poison(patch, stage, "sample 17 ", ArithmeticError("cosmic ray"))
        counts = index(corpus, root).counts
        assert attempts == [4, 2, 1]
        assert (counts.inputs, counts.documents, counts.quarantined) == (40, 39, 1)
        assert [text for _, text in texts(root)] == [f"The sample {i} weighs {i} g." for i in range(40) if i != 17]
        collection = Collection(root)
        (entry,) = read_quarantined(collection.quarantine_files(collection.manifest()))
        assert (entry.stage, entry.error) == (stage, "stage_failed")
        assert entry.source.endswith("rows.jsonl:18")
        assert "cosmic ray" in entry.message
        before = collection.manifest().shards
        index(corpus, root)
        assert attempts == [4, 2, 1, 1], "only the culprit is tried again"
        assert collection.manifest().shards == before
    assert index(corpus, root).counts.documents == 40
    assert texts(root) == texts(whole)
    assert found(root) == found(whole)


def test_poison_that_kills_workers_is_found_as_well(corpus, tmp_path, monkeypatch):
    attempts = poison(monkeypatch, "encode", "sample 3 ", WorkerLostError("worker 1 on host h"))
    counts = index(corpus, tmp_path / "c").counts
    assert (counts.documents, counts.quarantined) == (39, 1)
    assert attempts == [4] * 5 + [2] * 5 + [1] * 5
    tally = status_of(run_folders(tmp_path / "c")[-1]).tally
    assert {name: stage.done for name, stage in tally.stages.items()} == {
        "parse": 40, "chunk": 40, "encode": 40, "build": 4
    }  # fmt: skip
    assert (tally.in_flight, tally.failed) == (0, 1)


def test_a_part_that_fails_once_loses_nothing(corpus, whole, tmp_path):
    failed = []

    def fault(name: str, call: int) -> None:
        if name == "chunk_part" and not failed:
            failed.append(call)
            raise ArithmeticError("cosmic ray")

    InlinePool.fault = staticmethod(fault)
    assert index(corpus, tmp_path / "c").counts.quarantined == 0
    assert texts(tmp_path / "c") == texts(whole)
    assert found(tmp_path / "c") == found(whole)


@pytest.mark.parametrize("stage", ["parse", "chunk", "encode"])
def test_a_stage_that_a_second_worker_ends_later_leaves_the_first_ones_output(stage, corpus, tmp_path, monkeypatch):
    function, root = getattr(drive, f"{stage}_part"), tmp_path / "c"
    output = {"parse": "documents", "chunk": "passages", "encode": "vectors"}[stage]
    seen = []

    def doubled(*arguments):
        outcome = function(*arguments)
        before = {path: path.stat().st_ino for path in (root / output).rglob("*")}
        assert dataclasses.replace(function(*arguments), seconds=0) == dataclasses.replace(outcome, seconds=0)
        assert {path: path.stat().st_ino for path in (root / output).rglob("*")} == before
        seen.append(len(before))
        return outcome

    doubled.__name__ = function.__name__
    monkeypatch.setattr(drive, f"{stage}_part", doubled)
    assert index(corpus, root).counts.documents == 40
    assert len(seen) == 10
    assert all(seen)


def test_a_run_that_dies_while_it_looks_for_poison_is_resumed(tmp_path, monkeypatch):
    corpus, root = tmp_path / "rows.jsonl", tmp_path / "c"
    write(corpus, 6)
    poison(monkeypatch, "encode", "sample 2 ", ArithmeticError("cosmic ray"))

    def fault(name: str, call: int) -> None:
        if call == dies_at:
            raise KeyboardInterrupt

    InlinePool.fault, counts, deaths, dies_at = staticmethod(fault), None, 0, 2
    while not counts:
        InlinePool.calls = 0
        try:
            counts = index(corpus, root).counts
        except KeyboardInterrupt:
            deaths, dies_at = deaths + 1, dies_at + 1
    assert deaths > 3
    assert (counts.documents, counts.quarantined) == (5, 1)
    assert [text for _, text in texts(root)] == [f"The sample {i} weighs {i} g." for i in (0, 1, 3, 4, 5)]


def test_a_full_disk_stops_the_run_in_one_line_and_the_rest_is_kept(corpus, tmp_path):
    def fault(name: str, call: int) -> None:
        if call > 12:
            raise OSError(errno.ENOSPC, "No space left on device")

    InlinePool.fault = staticmethod(fault)
    with pytest.raises(UserError, match="No space left"):
        index(corpus, tmp_path / "c")
    InlinePool.fault = staticmethod(lambda name, call: None)
    before = InlinePool.calls
    assert index(corpus, tmp_path / "c").counts.documents == 40
    again = InlinePool.calls - before
    index(corpus, tmp_path / "whole")
    assert again < InlinePool.calls - before - again


def test_a_changed_setting_redoes_what_it_touches_and_readers_see_old_or_new(corpus, tmp_path):
    root = tmp_path / "c"
    index(corpus, root)
    collection = Collection(root)
    old = collection.manifest()
    stages, seen = [], []

    def fault(name: str, call: int) -> None:
        stages.append(name)
        seen.append(collection.manifest() == old)

    InlinePool.fault = staticmethod(fault)
    chunk = IndexSettings().chunk.model_copy(update={"target_tokens": 64})
    index(corpus, root, chunk=chunk)
    assert "parse_part" not in stages
    assert "chunk_part" in stages
    assert all(seen), "the old collection is whole until the new one is"
    assert {part.documents for part in collection.manifest().parts} == {part.documents for part in old.parts}
    assert not {shard.name for shard in collection.manifest().shards} & {shard.name for shard in old.shards}


def test_settings_stay_with_the_collection(corpus, tmp_path):
    index(corpus, tmp_path / "c")
    other = tmp_path / "more.jsonl"
    write(other, 5, "other")
    run.index_sources([str(other)], tmp_path / "c", load_site("local"), quiet=True)
    manifest = Collection(tmp_path / "c").manifest()
    assert manifest.settings["parts"]["rows_per_part"] == 4
    assert manifest.counts.documents == 45


def test_a_changed_file_replaces_its_documents(corpus, tmp_path):
    index(corpus, tmp_path / "c")
    write(corpus, 38, "changed")
    index(corpus, tmp_path / "c")
    assert len(texts(tmp_path / "c")) == 38
    assert all("changed" in text for _, text in texts(tmp_path / "c"))


def test_a_rerun_opens_no_input_and_a_changed_one_is_read(corpus, tmp_path):
    opened = []
    index(corpus, tmp_path / "c")
    with auditing(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None):
        index(corpus, tmp_path / "c")
        assert str(corpus) not in opened
        write(corpus, 41)
        index(corpus, tmp_path / "c")
        assert str(corpus) in opened
    assert len(texts(tmp_path / "c")) == 41


def test_a_change_to_a_collection_that_is_being_indexed_is_refused(corpus, tmp_path):
    index(corpus, tmp_path / "c")
    write(corpus, 44)

    def fault(name: str, call: int) -> None:
        with pytest.raises(UserError, match="another command is writing it: `hiperrag index` on"):
            delete_documents(tmp_path / "c", ["r1"], None)

    InlinePool.fault = staticmethod(fault)
    index(corpus, tmp_path / "c")


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_foreign_manifest_is_refused_in_one_line(corpus, tmp_path, damage):
    index(corpus, tmp_path / "c")
    (tmp_path / "c" / "manifest.json").write_text(damage)
    with pytest.raises(UserError) as caught:
        Collection(tmp_path / "c").manifest()
    assert "\n" not in str(caught.value)


def test_an_encoder_named_by_a_relative_folder_is_found_from_elsewhere(corpus, tmp_path, models, monkeypatch):
    (tmp_path / "encoder").symlink_to(models["minilm"])
    monkeypatch.chdir(tmp_path)
    encode = IndexSettings().encode.model_copy(update={"encoder": "./encoder"})
    index(corpus, tmp_path / "c", encode=encode)
    monkeypatch.chdir("/")
    assert Retriever(tmp_path / "c").search(["What weighs 7 g?"], k=1)[0][0].passage.document == "r7"
