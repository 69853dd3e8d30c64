"""The life of a collection: documents are added and deleted, shards compacted, files verified."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from pathlib import Path

import pytest
from collection_helpers import (
    InlinePool,
    all_but,
    copied,
    delete,
    documents,
    every_way,
    files,
    found,
    index,
    living,
    names,
    row,
    shards_of,
    some,
    stages_run,
    stored,
    unnamed,
    vectors,
    without_claims,
    write_rows,
)
from killing import run_and_kill

from hiperrag.cli import doctor
from hiperrag.collection import Collection
from hiperrag.errors import UserError
from hiperrag.index import storage
from hiperrag.index.shard import Shard
from hiperrag.workflows.maintenance import compact

pytestmark = pytest.mark.usefixtures("in_process")


# Adding


def test_added_files_leave_the_files_of_old_shards_alone(sources, tmp_path):
    folder, root = tmp_path / "in", tmp_path / "c"
    listed = sorted(sources.iterdir())
    folder.mkdir()
    for path in listed[:6]:
        shutil.copy(path, folder)
    index(folder, root)
    before = files(root, "shards")
    for path in listed[6:]:
        shutil.copy(path, folder)
    index(folder, root)
    after = files(root, "shards")
    assert before
    assert {name: after[name] for name in before} == before
    assert stages_run(root).count("encode") == 3
    assert living(root) == all_but()


# Deleting


@pytest.mark.parametrize("how", ["name", "doc_id", "where", "both"])
def test_deleted_documents_are_never_found(how, root):
    gone = all_of(root, lambda passage: passage.document in ("r3", "r4", "r14"))
    before = every_way(root)
    if how == "where":
        deleted = delete(root, where="year in (1993, 1994, 2004)")
    elif how == "both":
        deleted = delete(root, "r3", gone["r4"], where="year == 2004")
    else:
        deleted = delete(root, *(gone if how == "name" else gone.values()))
    assert (deleted.documents, deleted.passages) == (["r14", "r3", "r4"], 3)
    assert documents(root) == 33
    after = every_way(root)
    for way in ("exact", "balanced", "fast"):
        assert after[way] == [[hit for hit in hits if hit[0] not in gone] for hits in before[way]]
    for way, lists in after.items():
        assert not names(lists) & set(gone), way
    assert all(len(hits) == 33 for way in ("exact hybrid", "hybrid", "pooled") for hits in after[way])
    for way, lists in every_way(root, k=5).items():
        assert all(len(hits) == 5 for hits in lists), f"{way}: k results come"
    assert [len(hits) for hits in found(root, "balanced", 5, where="year in (1993, 1994, 1995)")] == [1, 1, 1]


def all_of(root: Path, condition) -> dict[str, str]:
    """document -> doc_id of passages that meet a condition."""
    passages = [passage for folder in shards_of(root) for passage in Shard(folder).passages]
    return {passage.document: passage.doc_id for passage in passages if condition(passage)}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["r99"], "r99"),
        (["r3", "r99"], "r99"),
        (["--where", "colour == 'red'"], "colour"),
        (["r3", "--where", "year > 2000"], "instead"),
        (["--where", "year >"], "year >"),
        ([], "--where"),
    ],
)
def test_a_deletion_that_cannot_be_understood_changes_nothing(arguments, says, root, hiperrag):
    before = without_claims(files(root))
    status, out, errors = hiperrag("delete", root, *arguments)
    assert (status, out, len(errors)) == (2, "", 1)
    assert says in errors[0]
    assert without_claims(files(root)) == before


def test_a_deletion_twice_changes_nothing_the_second_time(root, hiperrag):
    assert hiperrag("delete", root, "r3", "r4")[1].split() == ["r3", "r4"]
    before = Collection(root).manifest()
    status, out, errors = hiperrag("delete", root, "r4", "r3")
    assert (status, out) == (0, "")
    assert "0 documents" in errors[-1]
    assert Collection(root).manifest() == before
    assert hiperrag("delete", root, "r4", "r5")[1].split() == ["r5"]
    assert living(root) == all_but(3, 4, 5)


def test_a_condition_that_nothing_meets_deletes_nothing(root, hiperrag):
    assert hiperrag("delete", root, "--where", "year > 3000")[0] == 0
    assert living(root) == all_but()


def test_undo_brings_documents_back(root, hiperrag):
    before, ways = Collection(root).manifest(), every_way(root)
    hiperrag("delete", root, "--where", "year < 2010")
    assert living(root) == all_but(*range(20))
    assert hiperrag("delete", root, "--undo", "r7", "r30")[1].split() == ["r7"]
    assert living(root) == ["r7", *all_but(*range(20))]
    hiperrag("delete", root, "--undo", "--where", "year < 2010")
    assert Collection(root).manifest() == before
    assert every_way(root) == ways
    assert not unnamed(root)


def test_all_documents_can_be_deleted(root, hiperrag):
    delete(root, where="year > 0")
    assert documents(root) == 0
    status, _, errors = hiperrag("search", root, "whales")
    assert (status, len(errors)) == (2, 1)
    assert "all its passages are deleted" in errors[0]
    delete(root, "r1", undo=True)
    assert living(root) == ["r1"]
    delete(root, "r1")
    compact(root)
    assert not list(shards_of(root))
    assert hiperrag("doctor", root)[0] == 0


def test_a_document_of_two_files_is_deleted_from_both(tmp_path):
    for name in ("a", "b"):
        write_rows(tmp_path / "in" / f"{name}.jsonl", [row(number) for number in range(4)])
    index(tmp_path / "in", tmp_path / "c")
    assert documents(tmp_path / "c") == 8
    delete(tmp_path / "c", "r2")
    assert living(tmp_path / "c") == ["r0", "r0", "r1", "r1", "r3", "r3"]
    assert documents(tmp_path / "c") == 6
    compact(tmp_path / "c")
    assert documents(tmp_path / "c") == 6


# Indexing after deleting


def test_deleted_documents_stay_deleted_when_the_sources_are_indexed_again(own):
    folder, root = own
    delete(root, "r1", "r13", "r30")
    index(folder, root)
    assert stages_run(root) == []
    assert living(root) == all_but(1, 13, 30)
    write_rows(folder / "99.jsonl", [{"_id": "r99", "text": "Bats find moths by echoes.", "year": 2024}])
    index(folder, root)
    assert stages_run(root).count("encode") == 1
    assert living(root) == [*all_but(1, 13, 30), "r99"]
    assert documents(root) == 34


def test_a_changed_file_encodes_its_part_alone_and_leaves_deleted_documents_out(own, hiperrag):
    folder, root = own
    delete(root, "r1", "r5", "r30")
    before = vectors(root)
    write_rows(folder / "04.jsonl", [row(4), row(5), row(6, "Ants farm fungi on cut leaves."), row(7)])
    index(folder, root)
    assert sorted(stages_run(root)) == ["build", "chunk", "encode", "parse"]
    assert living(root) == all_but(1, 5, 30)
    after = vectors(root)
    assert {name for name in after if after[name] != before[name]} == {"r6"}
    assert documents(root) == 33
    assert not unnamed(root)
    assert hiperrag("doctor", root)[0] == 0


def test_a_changed_document_is_another_one_and_found(own):
    folder, root = own
    delete(root, "r5")
    write_rows(folder / "04.jsonl", [row(4), row(5, "Ants farm fungi on cut leaves."), row(6), row(7)])
    index(folder, root)
    assert living(root) == all_but()
    assert documents(root) == 36


@pytest.mark.parametrize("change", [{"bits": 2}, {"bits": 8}, {"token_pooling": 2}])
def test_other_storage_encodes_again_without_parsing(change, own):
    folder, root = own
    delete(root, "r5")
    before = Collection(root).manifest().counts
    index(folder, root, **stored(**change))
    assert set(stages_run(root)) == {"encode", "build"}
    assert stages_run(root).count("encode") == 9
    assert living(root) == all_but(5)
    assert documents(root) == 35
    if "bits" in change:
        assert {Shard(folder).codec.bits for folder in shards_of(root)} == {change["bits"]}
    else:
        assert Collection(root).manifest().counts.tokens < 0.6 * before.tokens
    index(folder, root, **stored(**change))
    assert stages_run(root) == []


def test_a_part_that_fails_again_leaves_the_files_of_its_shard_alone(own):
    folder, root = own
    write_rows(folder / "04.jsonl", [row(4), row(5), row(6), row(7, "Ants farm fungi on cut leaves.")])

    def fault(name: str, call: int) -> None:
        if name == "encode_part":
            raise ArithmeticError("cosmic ray")

    InlinePool.fault = staticmethod(fault)
    index(folder, root)
    assert living(root) == all_but(4, 5, 6, 7)
    before = files(root, "shards")
    index(folder, root)
    assert files(root, "shards") == before
    InlinePool.fault = staticmethod(lambda name, call: None)
    index(folder, root)
    assert living(root) == all_but()


# Compacting


def test_compaction_joins_shards_and_drops_what_was_deleted(root, hiperrag):
    delete(root, "r3", "r4", "r30")
    exact, codes = found(root), vectors(root)
    assert compact(root) == (3, 1)
    manifest = Collection(root).manifest()
    assert (manifest.counts.passages, manifest.counts.deleted) == (33, 0)
    assert documents(root) == 33
    assert found(root) == exact, "the same scores, too"
    assert vectors(root) == {name: codes[name] for name in all_but(3, 4, 30)}
    assert len(list((root / "shards").iterdir())) == 1
    assert not unnamed(root)
    assert hiperrag("doctor", root)[0] == 0
    assert {len(hits) for lists in every_way(root, k=5).values() for hits in lists} == {5}


@pytest.mark.parametrize("bound", [1, 13, 24, 1000])
def test_shards_are_joined_up_to_a_bound_and_compaction_again_does_nothing(bound, root):
    delete(root, "r3")
    exact = found(root)
    compact(root, bound)
    sizes = [entry.n_passages for entry in Collection(root).manifest().shards]
    assert sum(sizes) == 35
    assert len(sizes) == {1: 3, 13: 3, 24: 2, 1000: 1}[bound]
    assert found(root) == exact
    before, shards = Collection(root).manifest(), files(root, "shards")
    compact(root, bound)
    assert (Collection(root).manifest(), files(root, "shards")) == (before, shards)


def test_what_was_compacted_away_cannot_be_undone(root, hiperrag):
    delete(root, "r3")
    compact(root)
    status, _, errors = hiperrag("delete", root, "--undo", "r3")
    assert (status, len(errors)) == (2, 1)
    assert "r3" in errors[0]
    assert living(root) == all_but(3)


def test_indexing_after_compaction_has_nothing_to_do(own):
    folder, root = own
    delete(root, "r3", "r20")
    compact(root)
    before, exact = Collection(root).manifest(), found(root)
    for path in folder.iterdir():  # whoever opened a file would see that
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    InlinePool.calls = 0
    index(folder, root)
    assert InlinePool.calls == 0
    assert Collection(root).manifest().shards == before.shards
    assert found(root) == exact


def test_a_change_after_compaction_encodes_what_changed_and_copies_the_rest(own, hiperrag):
    folder, root = own
    delete(root, "r3", "r20")
    compact(root, 24)
    joined = Collection(root).manifest().shards
    assert [entry.n_passages for entry in joined] == [22, 12]
    codes = vectors(root)
    write_rows(folder / "16.jsonl", [row(16), row(17, "Ants farm fungi on cut leaves."), row(18), row(19)])
    index(folder, root)
    assert sorted(stages_run(root)) == ["build", "build", "chunk", "encode", "parse"]
    assert Collection(root).manifest().shards[-1] == joined[-1]
    assert living(root) == all_but(3, 20)
    after = vectors(root)
    assert {name for name in after if after[name] != codes[name]} == {"r17"}
    assert documents(root) == 34
    assert not unnamed(root)
    compact(root)
    index(folder, root)
    assert stages_run(root) == []
    assert living(root) == all_but(3, 20)
    assert hiperrag("doctor", root)[0] == 0


def test_additions_deletions_and_compactions_in_any_order_leave_what_should_be_there(sources, tmp_path, hiperrag):
    folder, root, rng = tmp_path / "in", tmp_path / "c", random.Random(5)
    folder.mkdir()
    waiting, here = sorted(sources.iterdir()), set[int]()
    gone: set[int] = set()
    for step in range(14):
        kind = "add" if not here else rng.choice(["add", "delete", "compact", "undo"])
        if kind == "add" and waiting:
            path = waiting.pop(rng.randrange(len(waiting)))
            shutil.copy(path, folder)
            here |= {int(json.loads(line)["_id"][1:]) for line in path.read_text().splitlines()}
            index(folder, root)
        elif kind == "delete":
            number = rng.choice(sorted(here - gone))
            delete(root, f"r{number}")
            gone.add(number)
        elif kind == "compact":
            compact(root, rng.choice([10, 20]))
        elif gone:
            back = rng.choice(sorted(gone))
            try:
                delete(root, f"r{back}", undo=True)
                gone.remove(back)
            except UserError:
                assert back not in held_rows(root)
        assert living(root) == some(*sorted(here - gone)), step
        assert documents(root) == len(here - gone)
    assert hiperrag("doctor", root)[0] == 0


def held_rows(root: Path) -> set[int]:
    return {int(name[1:]) for folder in shards_of(root) for name in Shard(folder).passages.documents}


# Verifying


def test_doctor_finds_a_flipped_byte_in_every_file_of_a_shard_and_of_the_deletions(root, hiperrag):
    delete(root, "r3", "r4")
    assert hiperrag("doctor", root)[0] == 0
    kinds = sorted((root / "shards").glob("00000-*/*")) + sorted((root / "deletions").iterdir())
    assert {"shard.json", "codes.npy", "passages.jsonl", "pooled.faiss"} < {path.name for path in kinds}
    assert {path.suffix for path in (root / "deletions").iterdir()} == {".npy", ".parquet"}
    rng = random.Random(8)
    for path in kinds:
        whole = path.read_bytes()
        data = bytearray(whole)
        place = rng.randrange(len(data) - 8, len(data)) if path.suffix == ".npy" else rng.randrange(len(data))
        data[place] ^= 1 << rng.randrange(8)
        for damage in (bytes(data), whole[:-1], b""):
            path.write_bytes(damage)
            status, out, errors = hiperrag("doctor", root)
            assert (status, errors) == (1, []), path.name
            assert [path.name in line for line in out.splitlines() if line.startswith("BAD")] == [True]
        path.unlink()
        status, out, errors = hiperrag("doctor", root)
        assert (status, errors) == (1, [])
        assert [path.name in line for line in out.splitlines() if line.startswith("BAD")] == [True]
        path.write_bytes(whole)
    assert hiperrag("doctor", root)[0] == 0


def test_doctor_finds_missing_parts_and_notes_what_belongs_to_nothing(root, hiperrag):
    for folder in ("documents", "passages"):
        path = min((root / folder).iterdir())
        whole = path.read_bytes()
        path.unlink()
        status, out, _ = hiperrag("doctor", root)
        assert status == 1
        assert path.name in out
        path.write_bytes(whole)
    (root / "shards" / "00007-abcdef01").mkdir()
    (root / "deletions").mkdir()
    (root / "deletions" / ".tmp-0123-rows.npy").touch()
    status, out, _ = hiperrag("doctor", root)
    assert status == 0
    assert "note  2 files" in out
    delete(root, "r3")
    compact(root)
    assert "note" not in hiperrag("doctor", root)[1]


def test_a_damaged_list_of_deleted_documents_is_never_taken_for_another(root):
    delete(root, "r3", "r4", "r30")
    for path in sorted((root / "deletions").iterdir()):
        whole = path.read_bytes()
        for damage in (b"", whole[:-3], whole[:-1] + b"\x07", b"\0" * len(whole)):
            path.write_bytes(damage)
            with pytest.raises(UserError) as caught:
                compact(root) if path.suffix == ".parquet" else living(root)
            assert "\n" not in str(caught.value)
            assert path.name in str(caught.value)
        path.write_bytes(whole)
    assert living(root) == all_but(3, 4, 30)


# Formats


@pytest.mark.parametrize("command", ["search", "info", "delete", "compact", "merge", "doctor", "index"])
@pytest.mark.parametrize("version", [1, 99])
def test_a_collection_of_another_format_is_refused_in_one_line(command, version, root, sources, tmp_path, hiperrag):
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps({**manifest, "format": version}))
    before = without_claims(files(root))
    arguments = {
        "search": ["search", root, "whales"],
        "delete": ["delete", root, "r3"],
        "merge": ["merge", root, "--to", tmp_path / "m"],
        "index": ["index", sources, "--to", root],
    }.get(command, [command, root])
    status, _, errors = hiperrag(*arguments)
    assert (status, len(errors)) == (2, 1), errors
    assert f"format {version}" in errors[0]
    assert "format 2" in errors[0]
    assert "index the sources again" in errors[0]
    assert without_claims(files(root)) == before


@pytest.mark.parametrize("arguments", [["search", "whales"], ["compact"]])
def test_a_shard_of_another_format_is_refused_in_one_line(arguments, root, hiperrag):
    delete(root, "r1")
    folder = next(shards_of(root))
    described = json.loads((folder / "shard.json").read_text())
    del described["checksum"]
    described["format"] = 99
    described["checksum"] = storage._checksum_of(described)
    (folder / "shard.json").write_text(json.dumps(described))
    command, *rest = arguments
    status, _, errors = hiperrag(command, root, *rest)
    assert status == 2
    assert [line for line in errors if line.startswith("hiperrag:")] == errors[-1:]
    assert "shard of format 99" in errors[-1]
    assert f"format {storage.FORMAT}" in errors[-1]


@pytest.mark.parametrize("arguments", [["delete", "r3"], ["compact"]])
def test_two_writers_and_a_full_disk_are_told_in_one_line(arguments, root, hiperrag, monkeypatch):
    delete(root, "r1")
    command, *rest = arguments
    before = found(root)
    with Collection(root).sole_writer("compact"):
        status, _, errors = hiperrag(command, root, *rest)
    assert (status, "another command is writing it" in errors[-1]) == (2, True)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "commit", full)
        status, _, errors = hiperrag(command, root, *rest)
        assert (status, "No space left" in errors[-1]) == (2, True)
        (root.parent / "place").mkdir()
        status, _, errors = hiperrag("merge", root, "--to", root.parent / "place" / "m")
        assert (status, "No space left" in errors[-1]) == (2, True)
        assert not list((root.parent / "place").iterdir())
    assert found(root) == before
    assert hiperrag(command, root, *rest)[0] == 0
    assert not unnamed(root)


# Killed on the way


def moments(root: Path, trial: Path, n: int, function, *arguments) -> list[int]:
    """Moments at which to kill a change: the last ones, and some by chance; `trial` is a copy to find out how many."""
    shutil.copytree(root, trial / root.name, dirs_exist_ok=True)
    total = run_and_kill(trial, None, function, *arguments)
    assert total > n
    return sorted({*random.Random(total).sample(range(total), n), *range(total - 3, total)})


@pytest.mark.parametrize("command", ["delete", "undo", "compact"])
def test_a_change_killed_at_any_moment_is_done_or_not_and_can_be_made_again(command, root, tmp_path, hiperrag):
    delete(root, "r3", "r4", "r30")
    change = {"delete": (delete, "r5", "r17"), "undo": (undo, "r3", "r30"), "compact": (compact, 24)}[command]
    function, *arguments = change
    before, trial = found(root), tmp_path / "trial"
    killed_at = moments(root, trial, 5, function, trial / root.name, *arguments)
    after = found(trial / root.name)
    assert (before == after) == (command == "compact")
    seen = []
    for moment in killed_at:
        killed = copied(root, tmp_path / f"killed {moment}")
        assert run_and_kill(killed, moment, function, killed, *arguments) == -1
        seen.append(found(killed))
        assert seen[-1] in (before, after)
        assert hiperrag("doctor", killed)[0] == 0
        function(killed, *arguments)
        assert found(killed) == after
        assert not unnamed(killed)
        assert documents(killed) == documents(trial / root.name)
        shutil.rmtree(killed)
    assert seen[0] == before
    assert seen[-1] == after


def undo(root: Path, *names: str):
    return delete(root, *names, undo=True)


# Healing


@pytest.mark.parametrize("damage", ["folder", "file", "cut"])
def test_indexing_again_makes_a_damaged_shard_anew(damage, own, hiperrag):
    sources, root = own
    before, folder = vectors(root), next(iter(shards_of(root)))
    codes = folder / "codes.npy"
    if damage == "folder":
        shutil.rmtree(folder)
    elif damage == "file":
        codes.unlink()
    else:
        codes.write_bytes(codes.read_bytes()[: codes.stat().st_size // 2])
    index(sources, root)
    assert not {"parse", "chunk"} & set(stages_run(root))
    assert vectors(root) == before
    assert all(finding.ok is not False for finding in doctor._collection(root))


def test_a_damaged_plan_is_told_in_one_line(own, hiperrag):
    sources, root = own
    (root / "inputs.parquet").write_bytes(b"PAR1 not a plan")
    with pytest.raises(UserError, match=r"inputs\.parquet: damaged"):
        index(sources, root)
    assert any(finding.ok is False for finding in doctor._collection(root))
