"""The driver of a run when things go wrong: with real stages on ready text, in this process, with faults put in."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest
from collection_helpers import InlinePool, index, shards_of, use_inline_pool, write_rows

from hiperrag.answering.retrieval import Retriever
from hiperrag.collection import Collection
from hiperrag.errors import UserError
from hiperrag.records import read_passages, read_quarantined
from hiperrag.workflows import run
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


def write(path: Path, n: int, word: str = "sample") -> None:
    write_rows(path, [{"_id": f"r{i}", "text": f"The {word} {i} weighs {i} g."} for i in range(n)])


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


def test_lost_workers_cost_another_try_and_nothing_else(corpus, tmp_path):
    rng = random.Random(4)

    def fault(name: str, call: int) -> None:
        if rng.random() < 0.3:
            raise WorkerLostError("worker 1 on host h")

    index(corpus, tmp_path / "whole")
    InlinePool.fault = staticmethod(fault)
    summary = index(corpus, tmp_path / "c")
    assert summary.counts.quarantined == 0
    assert vectors(tmp_path / "c") == vectors(tmp_path / "whole")


@pytest.mark.parametrize("stage", ["parse", "chunk", "encode"])
def test_a_part_that_a_stage_cannot_process_is_quarantined_and_tried_again_next_time(stage, corpus, tmp_path):
    seen = []

    def fault(name: str, call: int) -> None:
        if name == f"{stage}_part" and (not seen or seen[0] == call):
            seen.append(call)
            raise ArithmeticError("cosmic ray")

    root = tmp_path / "c"
    InlinePool.fault = staticmethod(fault)
    summary = index(corpus, root)
    counts = summary.counts
    assert (counts.inputs, counts.documents, counts.quarantined) == (40, 36, 4)
    assert len(texts(root)) == 36
    collection = Collection(root)
    entry = read_quarantined(collection.quarantine_files(collection.manifest()))[0]
    assert (entry.stage, entry.error) == (stage, "stage_failed")
    assert "cosmic ray" in entry.message
    InlinePool.fault = staticmethod(lambda name, call: None)
    assert index(corpus, root).counts.documents == 40
    index(corpus, tmp_path / "whole")
    assert texts(root) == texts(tmp_path / "whole")


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


def test_a_second_writer_is_refused(corpus, tmp_path):
    def fault(name: str, call: int) -> None:
        with pytest.raises(UserError, match="another command is writing"):
            index(corpus, tmp_path / "c")

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
