"""Readers of a collection that changes: what is opened stays as it was, what is opened anew is old or new."""

from __future__ import annotations

import resource
import shutil
import threading
from pathlib import Path

import pytest
from collection_helpers import (
    PARTS,
    InlinePool,
    all_but,
    copied,
    every_way,
    found,
    index,
    living,
    row,
    some,
    stored,
    use_inline_pool,
    write_folder,
    write_rows,
)

from hiperrag.answering import retrieval
from hiperrag.answering.retrieval import Retriever
from hiperrag.collection import Collection
from hiperrag.encoders import load_encoder
from hiperrag.errors import UserError
from hiperrag.workflows.maintenance import compact, delete_documents, merge

_encoders: dict[str, object] = {}


@pytest.fixture(autouse=True)
def in_process(monkeypatch, models):
    def load(spec: str, threads: int | None = None) -> object:
        if spec not in _encoders:
            _encoders[spec] = load_encoder(spec, 1)
        return _encoders[spec]

    use_inline_pool(monkeypatch)
    monkeypatch.setattr(retrieval, "load_encoder", load)


@pytest.fixture(scope="module")
def built(tmp_path_factory, models):
    """Sources (36 sentences, 9 parts) and their collection of 3 shards, r3 and r30 deleted."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        use_inline_pool(patch)
        index(write_folder(folder / "in"), folder / "c")
    delete_documents(folder / "c", ["r3", "r30"], None)
    return folder / "in", folder / "c"


@pytest.fixture
def root(built, tmp_path):
    return copied(built[1], tmp_path / "c")


def delete(root: Path, *names: str, undo: bool = False) -> None:
    delete_documents(root, names, None, undo)


def delete_and_compact(root: Path, sources: Path) -> None:
    delete(root, "r5", "r17")
    compact(root)


def undo_all(root: Path, sources: Path) -> None:
    delete(root, "r3", "r30", undo=True)


def other_bits(root: Path, sources: Path) -> None:
    index(sources, root, **stored(bits=2))


def other_sources(root: Path, sources: Path) -> None:
    changed = shutil.copytree(sources, root.parent / "changed")
    write_rows(changed / "04.jsonl", [row(4), row(5, "Ants farm fungi on cut leaves.")])
    index(changed, root)
    compact(root)
    shutil.rmtree(root)


@pytest.mark.parametrize("change", [delete_and_compact, undo_all, other_bits, other_sources])
@pytest.mark.parametrize("is_used_before", [False, True])
def test_an_opened_collection_goes_on_answering_as_before(change, is_used_before, built, root):
    sources, _ = built
    control = every_way(built[1])
    opened = Retriever(root)
    if is_used_before:
        assert every_way(opened) == control
    shards = set((root / "shards").iterdir())
    change(root, sources)
    if change is not undo_all:
        assert not any(path.exists() for path in shards), "the files are gone"
    assert every_way(opened) == control
    assert opened.manifest.counts.passages == 34


def test_an_opened_collection_answers_while_others_work_on_it(built, root, tmp_path):
    """At every stage of a run that replaces all shards, and at every shard that is compacted."""
    sources, _ = built
    opened, before = Retriever(root), found(root)
    seen = []

    def look(name: str = "", call: int = 0) -> None:
        seen.append(found(opened) == before == found(root))

    InlinePool.fault = staticmethod(look)
    index(sources, root, **stored(bits=8))
    assert len(seen) == 9 + 3
    assert all(seen), "a fresh reader sees the old collection until the new one is whole"
    assert found(root) != before
    after, seen = found(root), []
    delete(root, "r7")
    after = [[hit for hit in hits if hit[0] != "r7"] for hits in after]
    compact(root, 24, lambda done, total: seen.append((found(opened), found(root)) == (before, after)))
    assert seen == [True] * 3
    merge([root], tmp_path / "m")
    assert found(tmp_path / "m") == found(root) == after


def test_fresh_readers_see_old_or_new_and_never_a_mixture(root):
    """A thread opens the collection again and again while documents are deleted, brought back and compacted away."""
    ranking = found(root)
    states = [{"r3", "r30"}]
    candidates = all_but(3, 30)
    reading, done = threading.Event(), threading.Event()
    wrong: list[object] = []
    n_read = 0

    def read() -> None:
        nonlocal n_read
        while not done.is_set():
            first = len(states) - 2  # the last but one may not be committed away yet
            try:
                seen = found(root)
            except Exception as error:
                wrong.append(error)
                return
            possible = [visible(ranking, gone) for gone in states[max(0, first) :]]
            if seen not in possible:
                wrong.append((seen, states[max(0, first) :]))
            n_read += 1
            reading.set()

    def begin(gone: set[str]) -> None:
        states.append(gone)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for cycle in range(40):
            name = candidates[3 * (cycle // 4) + cycle % 4 % 3]
            gone = states[-1]
            begin(gone | {name})
            delete(root, name)
            if cycle % 4 == 3:
                compact(root, (12, 100)[cycle // 4 % 2])
            else:
                begin(gone)
                delete(root, name, undo=True)
            reading.wait(10)
            reading.clear()
    finally:
        done.set()
        reader.join()
    assert not wrong, wrong[:1]
    assert n_read >= 40
    assert living(root) == all_but(*(int(name[1:]) for name in states[-1]))


def visible(ranking: list[list[tuple[str, float]]], gone: set[str]) -> list[list[tuple[str, float]]]:
    return [[hit for hit in hits if hit[0] not in gone] for hits in ranking]


def test_a_reader_that_opens_files_while_they_are_replaced_takes_the_next_state(root, monkeypatch):
    """Each attempt to open the shards is overtaken by a commit."""
    delete(root, "r3", "r30", undo=True)
    opening, bounds = retrieval.open_shards, iter([13, 25, 100])
    tries = []

    def overtaken(*arguments: object) -> object:
        tries.append(arguments)
        if bound := next(bounds, 0):
            delete(root, f"r{len(tries)}")
            compact(root, bound)
        return opening(*arguments)

    monkeypatch.setattr(retrieval, "open_shards", overtaken)
    assert living(root) == all_but(1, 2, 3)
    assert len(tries) == 4


def test_a_manifest_that_comes_back_is_not_taken_for_damage(root, monkeypatch):
    """The list of deleted rows is removed and written again between two looks at equal manifests."""
    masked, swaps = retrieval.deleted_mask, iter([True])

    def swapped(collection: Collection, entry: object) -> object:
        if next(swaps, False):
            delete(root, "r3", "r30", undo=True)
            try:
                return masked(collection, entry)
            finally:
                delete(root, "r3", "r30")
        return masked(collection, entry)

    monkeypatch.setattr(retrieval, "deleted_mask", swapped)
    assert living(root) == all_but(3, 30)


def test_damage_is_told_at_once_and_not_tried_again(root, monkeypatch):
    for path in (root / "shards").glob("*/codes.npy"):
        path.unlink()
    tries = []
    opening = retrieval.open_shards

    def counted(*arguments: object) -> object:
        tries.append(arguments)
        return opening(*arguments)

    monkeypatch.setattr(retrieval, "open_shards", counted)
    with pytest.raises(UserError, match=r"codes\.npy"):
        Retriever(root)
    assert len(tries) == 1


def test_a_collection_of_many_shards_is_opened_where_few_files_may_be_open(tmp_path):
    parts = PARTS.model_copy(update={"parts_per_shard": 1})
    index(write_folder(tmp_path / "in"), tmp_path / "c", parts=parts)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 40, hard))
    try:
        assert living(tmp_path / "c") == all_but()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_interrupted_index_is_invisible_to_readers(tmp_path, monkeypatch):
    """A run that replaces a shard dies before each of its tasks, and before its commit."""
    sources, root = write_folder(tmp_path / "in", range(12)), tmp_path / "c"
    index(sources, root)
    before = found(root)
    write_rows(sources / "04.jsonl", [row(4), row(5, "Ants farm fungi on cut leaves."), row(6), row(7)])

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    for stage in ("parse_part", "chunk_part", "encode_part", "build_shard", ""):
        InlinePool.fault = staticmethod(lambda name, call, stage=stage: die() if name == stage else None)
        with monkeypatch.context() as patch:
            patch.setattr(Collection, "commit", die)
            with pytest.raises(KeyboardInterrupt):
                index(sources, root)
        assert found(root) == before
    InlinePool.fault = staticmethod(lambda name, call: None)
    index(sources, root)
    assert found(root) != before
    assert living(root) == some(*range(12))
