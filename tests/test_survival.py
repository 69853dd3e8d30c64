"""Runs that are killed, or run out of disk, at random instants: a handful of the benchmark's trials."""

from __future__ import annotations

import json

import pytest

from hiperrag.benchmarks.survival.__main__ import main
from hiperrag.benchmarks.survival.state import State
from hiperrag.benchmarks.survival.strikes import STRUCK, Disk


@pytest.mark.slow
def test_no_strike_changes_the_collection(tmp_path, models):
    assert main(["--kills", "4", "--seed", "2", "--to", str(tmp_path)]) == 0
    assert main(["--kills", "5", "--seed", "2", "--to", str(tmp_path), "--go-on"]) == 0
    trials = json.loads((tmp_path / "survival.json").read_text())["trials"]
    kinds = [kind for kind in STRUCK if kind != "disk" or Disk.is_permitted(tmp_path / "disk")]
    assert [trial["kind"] for trial in trials] == [kinds[number % len(kinds)] for number in range(5)]
    assert all(trial["at"] > 0 and trial["ended"] for trial in trials)
    assert "| 5 | main |" in (tmp_path / "survival.md").read_text()


def test_a_full_disk_takes_nothing_until_it_is_freed(tmp_path):
    if not Disk.is_permitted(tmp_path / "try"):
        pytest.skip("this process may not mount a file system")
    with Disk(tmp_path / "disk", megabytes=1) as disk:
        (disk.folder / "small").write_bytes(b"x" * 5000)
        disk.fill()
        with pytest.raises(OSError, match="No space left"), (disk.folder / "more").open("wb") as stream:
            stream.write(b"x" * 8192)
        (disk.folder / "small").unlink()
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "more").write_bytes(b"x" * 8192)
        disk.free()
        (disk.folder / "more").write_bytes(b"x" * 8192)
    assert not (tmp_path / "disk").exists()


def test_every_difference_is_seen():
    state = State(
        [{"passage_id": "a"}], [[("a", 1.0)]], [("00000", {"codes": "1f"})], {"shards/x": 5, "manifest.json": 1}
    )
    assert not state.differences(State(state.passages, state.found, state.shards, state.files | {"manifest.json": 2}))
    others = {
        "passages": State([{"passage_id": "b"}], state.found, state.shards, state.files),
        "found": State(state.passages, [[("a", 1.1)]], state.shards, state.files),
        "shards": State(state.passages, state.found, [("00000", {"codes": "2f"})], state.files),
        "file shards/x": State(state.passages, state.found, state.shards, state.files | {"shards/x": 6}),
        "file vectors/y": State(state.passages, state.found, state.shards, state.files | {"vectors/y": 6}),
    }
    for what, other in others.items():
        assert state.differences(other) == [what]
    assert State(2 * state.passages, [], [], {}).twice() == ["a"]
