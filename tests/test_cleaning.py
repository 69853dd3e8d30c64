"""`hiperrag doctor COLLECTION --clean`: what it removes, what it keeps for a rerun, and when it refuses."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from collection_helpers import InlinePool, every_way, index, shards_of, unnamed, write_folder

from hiperrag.collection import Collection
from hiperrag.workflows.cleaning import find_leftovers

TASKS, DIES_AT = 30, 24
"""Of a run over `sources`: nine parts through three stages, and three shards."""

ORPHANS = (
    "shards/.tmp-0123456789ab-00001-abcdef01/codes",
    "shards/00001-abcdef01/codes",
    "runs/20000101T000000-abcdef/codes",
    "documents/.tmp-0123456789ab-part.parquet",
    "passages/part-ff.parquet",
    "vectors/stray",
)


def interrupt(sources: Path, root: Path, at: int) -> None:
    """A run that dies with its task number `at`."""
    before = InlinePool.calls

    def fault(name: str, call: int) -> None:
        if call - before == at:
            raise KeyboardInterrupt

    InlinePool.fault = staticmethod(fault)
    with pytest.raises(KeyboardInterrupt):
        index(sources, root)
    InlinePool.fault = staticmethod(lambda name, call: None)


@pytest.fixture
def interrupted(sources, tmp_path, in_process) -> Path:
    """A collection whose first run was killed on its way, with what kills and full disks leave."""
    root = tmp_path / "c"
    interrupt(sources, root, DIES_AT)
    for file in ORPHANS:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x" * 1000)
    return root


def test_it_removes_what_belongs_to_nothing_and_keeps_what_a_rerun_takes_up(interrupted, sources, built, hiperrag):
    unfinished = find_leftovers(Collection(interrupted)).unfinished
    assert {"documents", "quarantine"} <= {path.parent.name for path in unfinished}
    status, output, errors = hiperrag("doctor", interrupted)
    assert (status, errors) == (0, [])
    assert f"{len(unfinished)} outputs of an interrupted run" in output
    assert "6 files that belong to nothing (6.0 kB)" in output
    status, output, _ = hiperrag("doctor", interrupted, "--clean")
    assert status == 0
    assert "6 leftovers removed, 6.0 kB" in output
    assert f"kept: {len(unfinished)} outputs" in output
    assert not any((interrupted / file).exists() for file in ORPHANS)
    assert all(path.exists() for path in unfinished)
    assert "nothing to remove" in hiperrag("doctor", interrupted, "--clean")[1]
    calls = InlinePool.calls
    index(sources, interrupted)
    assert InlinePool.calls - calls == TASKS - (DIES_AT - 1), "what was finished is not done again"
    assert every_way(interrupted) == every_way(built)
    assert not unnamed(interrupted)
    assert "nothing to remove" in hiperrag("doctor", interrupted, "--clean")[1]


def test_it_gives_up_unfinished_work_only_if_told(interrupted, sources, built, hiperrag):
    status, output, _ = hiperrag("doctor", interrupted, "--clean-all")
    assert status == 0
    assert "kept" not in output
    assert not unnamed(interrupted)
    index(sources, interrupted)
    assert every_way(interrupted) == every_way(built)
    assert [folder.name for folder in shards_of(interrupted)] == [folder.name for folder in shards_of(built)]


def test_parts_that_no_rerun_would_take_up_are_not_kept(interrupted, tmp_path, hiperrag):
    collection = Collection(interrupted)
    earlier = find_leftovers(collection).unfinished
    interrupt(write_folder(tmp_path / "other", range(0, 36, 6)), interrupted, at=2)
    later = find_leftovers(collection)
    assert later.unfinished
    assert set(earlier) <= set(later.orphans), "they belong to inputs that the last command did not name"
    hiperrag("doctor", interrupted, "--clean")
    assert find_leftovers(collection).unfinished == later.unfinished


def test_a_run_that_ended_before_all_was_done_is_resumable_too(interrupted):
    unfinished = find_leftovers(Collection(interrupted)).unfinished
    [log] = interrupted.glob("runs/*/events.jsonl")
    with log.open("a") as stream:  # as with --walltime, or where another job died over its share
        stream.write(json.dumps({"time": time.time(), "event": "run_finished"}) + "\n")
    assert find_leftovers(Collection(interrupted)).unfinished == unfinished


def test_it_refuses_while_another_command_writes(root, hiperrag):
    stray = root / "passages" / "part-ff.parquet"
    stray.write_bytes(b"x")
    with Collection(root).sole_writer("compact"):
        status, _, errors = hiperrag("doctor", root, "--clean")
    assert (status, "another command is writing it" in errors[-1]) == (2, True)
    assert stray.exists()


def test_folders_of_others_are_not_touched(tmp_path, hiperrag):
    precious = tmp_path / "documents" / "thesis.doc"
    precious.parent.mkdir()
    precious.write_text("precious")
    for folder in (tmp_path, tmp_path / "nothing"):
        status, _, errors = hiperrag("doctor", folder, "--clean")
        assert (status, len(errors)) == (2, 1)
    assert hiperrag("doctor", "--clean")[0] == 2
    assert precious.exists()
