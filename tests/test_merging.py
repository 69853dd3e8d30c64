"""Merging collections: what the new one holds, how it lives on, what is refused, and being killed on the way."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from collection_helpers import (
    all_but,
    copied,
    delete,
    documents,
    every_way,
    files,
    found,
    index,
    living,
    row,
    some,
    stages_run,
    stored,
    unnamed,
    use_inline_pool,
    without_claims,
    write_folder,
    write_rows,
)
from killing import run_and_kill

from hiperrag.collection import Collection
from hiperrag.workflows.maintenance import compact, merge

pytestmark = pytest.mark.usefixtures("in_process")


def merged(to: Path, *roots: Path) -> Path:
    merge(roots, to)
    return to


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory, models):
    """Folders of sources with overlaps, and their collections: r0..r15, r8..r23, r20..r35."""
    folder = tmp_path_factory.mktemp("overlapping")
    with pytest.MonkeyPatch.context() as patch:
        use_inline_pool(patch)
        for name, numbers in (("a", range(16)), ("b", range(8, 24)), ("c", range(20, 36))):
            index(write_folder(folder / name / "in", numbers), folder / name / "c")
    return folder


@pytest.fixture
def three(overlapping, tmp_path):
    return [copied(overlapping / name / "c", tmp_path / name) for name in "abc"]


def test_a_merged_collection_holds_the_documents_of_all_once(three, tmp_path, built, hiperrag):
    before = [files(root) for root in three]
    status, _, errors = hiperrag("merge", *three, "--to", tmp_path / "m")
    assert status == 0, errors
    assert "36 documents, 36 passages" in errors[-1]
    assert living(tmp_path / "m") == all_but()
    assert documents(tmp_path / "m") == 36
    whole = every_way(built)
    assert [dict(hits) for hits in found(tmp_path / "m")] == [dict(hits) for hits in whole["exact"]]
    assert [dict(hits) for hits in every_way(tmp_path / "m")["hybrid"]] == [dict(hits) for hits in whole["hybrid"]]
    assert [without_claims(files(root)) for root in three] == [without_claims(one) for one in before]
    assert hiperrag("doctor", tmp_path / "m")[0] == 0
    assert not unnamed(tmp_path / "m")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_merged_collection_lives_on(three, overlapping, tmp_path, hiperrag):
    root = merged(tmp_path / "m", *three)
    delete(root, "r9", "r30")
    assert living(root) == all_but(9, 30)
    exact = found(root)
    compact(root)
    assert found(root) == exact
    folders = [overlapping / name / "in" for name in "abc"]
    index(folders, root)
    assert stages_run(root) == []
    assert living(root) == all_but(9, 30)
    more = write_folder(tmp_path / "more", [0])
    write_rows(more / "00.jsonl", [{"_id": "r99", "text": "Bats find moths by echoes.", "year": 2024}])
    index([*folders, more], root)
    assert stages_run(root).count("encode") == 1
    assert living(root) == [*all_but(9, 30), "r99"]
    assert documents(root) == 35
    assert hiperrag("doctor", root)[0] == 0
    assert living(three[0]) == some(*range(16)), "the sources are as they were"


def test_deleted_documents_stay_deleted_unless_another_collection_holds_them(three, tmp_path):
    a, b, c = three
    delete(a, "r3", "r9")
    delete(b, "r9", "r10", "r17", "r21")
    root = merged(tmp_path / "m", a, b, c)
    assert living(root) == all_but(3, 9, 17), "c holds r21, a holds r10"
    assert documents(root) == 33
    assert living(merged(tmp_path / "n", c, b, a)) == living(merged(tmp_path / "o", b, a, c)) == all_but(3, 9, 17)


def test_collections_of_the_same_sources_merge_to_one(own, tmp_path):
    folder, a = own
    b, c = copied(a, tmp_path / "b"), tmp_path / "d"
    index([folder / "32.jsonl", folder], c)  # the same parts in other shards
    root = merged(tmp_path / "m", a, b, c)
    assert living(root) == all_but()
    assert documents(root) == 36
    index(folder, root)
    assert stages_run(root) == []
    assert living(root) == all_but()
    compact(root)
    index(folder, root)
    assert stages_run(root) == []
    assert living(root) == all_but()


@pytest.mark.parametrize("compacted", [False, True])
def test_what_one_copy_deleted_is_taken_from_the_other(compacted, own, tmp_path):
    folder, a = own
    b = copied(a, tmp_path / "b")
    delete(a, "r2", "r20")
    delete(b, "r3", "r20")
    if compacted:
        compact(a)
        compact(b, 24)
    root = merged(tmp_path / "m", a, b)
    for again in (False, True):
        if again:
            index(folder, root)
        assert living(root) == all_but(20)
        assert documents(root) == 35
        assert not unnamed(root)


def test_a_changed_file_is_exchanged_in_a_merged_collection(tmp_path, hiperrag):
    folders = [
        write_folder(tmp_path / "in" / name, numbers) for name, numbers in (("a", range(8)), ("b", range(8, 16)))
    ]
    index(folders[0], tmp_path / "a")
    index(folders, tmp_path / "b")
    root = merged(tmp_path / "m", tmp_path / "a", tmp_path / "b")
    write_rows(folders[1] / "12.jsonl", [row(12), row(13, "Ants farm fungi on cut leaves."), row(14)])
    index(folders, root)
    assert stages_run(root).count("encode") == 1
    assert living(root) == some(*range(15))
    assert documents(root) == 15
    assert hiperrag("doctor", root)[0] == 0


def test_collections_that_cannot_be_merged_are_refused_in_one_line(three, overlapping, tmp_path, models, hiperrag):
    (tmp_path / "encoder").symlink_to(models["minilm"])
    other_bits, full, empty = tmp_path / "bits", tmp_path / "full", tmp_path / "empty"
    index(overlapping / "a" / "in", other_bits, **stored(bits=2))
    full.mkdir()
    (full / "thesis.doc").write_text("precious")
    for arguments, says in (
        ([three[0], other_bits, "--to", tmp_path / "m"], "settings"),
        ([*three, "--to", full], "exists"),
        ([*three, "--to", full / "thesis.doc"], "exists"),
        ([*three, "--to", three[0]], "exists"),
        ([three[0], tmp_path / "nowhere", "--to", tmp_path / "m"], "no such collection"),
        ([three[0], empty.parent / "encoder", "--to", tmp_path / "m"], "not a collection"),
    ):
        status, _, errors = hiperrag("merge", *arguments)
        assert (status, len(errors)) == (2, 1), errors
        assert says in errors[0]
    other = json.loads((three[1] / "manifest.json").read_text())
    other["encoder"]["identity"] = "0" * 16
    (three[1] / "manifest.json").write_text(json.dumps(other))
    status, _, errors = hiperrag("merge", *three, "--to", tmp_path / "m")
    assert (status, len(errors)) == (2, 1)
    assert "encoder" in errors[0]
    assert not (tmp_path / "m").exists()
    assert [path.name for path in full.iterdir()] == ["thesis.doc"]
    empty.mkdir()
    assert hiperrag("merge", three[0], three[2], "--to", empty)[0] == 0


def test_a_merge_killed_at_any_moment_leaves_nothing_or_all_and_can_be_made_again(three, tmp_path, hiperrag):
    delete(three[0], "r3", "r9")
    place = tmp_path / "place"
    place.mkdir()
    total = run_and_kill(place, None, merge, three, place / "m")
    expected = found(place / "m")
    shutil.rmtree(place / "m")
    before, whole = [without_claims(files(root)) for root in three], []
    for moment in sorted({*random.Random(2).sample(range(total), 5), total - 2, total - 1}):
        assert run_and_kill(place, moment, merge, three, place / "m") == -1
        whole.append((place / "m").exists())
        if not whole[-1]:
            merge(three, place / "m")
        assert found(place / "m") == expected
        assert hiperrag("doctor", place / "m")[0] == 0
        assert not unnamed(place / "m")
        assert [path.name for path in place.iterdir()] == ["m"]
        with Collection(place / "m").sole_writer("delete"):
            pass  # whoever was killed has no claim on it
        shutil.rmtree(place / "m")
    assert (whole[0], whole[-1]) == (False, True), "the folder appears when all but the claims is done"
    assert [without_claims(files(root)) for root in three] == before
