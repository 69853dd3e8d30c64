"""Several jobs on one collection: they share out the work, none of it is done twice, and what dies is taken over."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from collection_helpers import (
    all_but,
    found,
    index,
    living,
    row,
    shards_of,
    stored,
    unnamed,
    vectors,
    write_folder,
    write_rows,
)
from sharing_jobs import PARTS, Jobs

from hiperrag.claims import Claims
from hiperrag.collection import Collection
from hiperrag.errors import UserError
from hiperrag.workflows import ledger, sharing
from hiperrag.workflows.sharing import Shares, claim_of


class Committed:
    """A ledger that knows what others have committed once it has looked."""

    def __init__(self):
        self.there, self._seen = set(), set()

    def refresh(self):
        self._seen = set(self.there)

    def has(self, number):
        return number in self._seen


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "c" / "claims"


def events(root: Path) -> list[dict]:
    """Of all runs."""
    return [json.loads(line) for log in root.glob("runs/*/events.jsonl") for line in log.read_text().splitlines()]


def work_done(root: Path) -> Counter:
    """How often each task was done, over all runs."""
    done = [event for event in events(root) if event["event"] in ("part_done", "shard_built")]
    return Counter((event.get("stage", "build"), event["shard"], event.get("part", 0)) for event in done)


def state(root: Path):
    """The shards, their bytes, and what is found."""
    shards = {folder.name: {path.name: path.read_bytes() for path in folder.iterdir()} for folder in shards_of(root)}
    return list(shards), shards, found(root), found(root, "fast", 5)


def test_each_shard_is_given_to_one_job_and_those_of_the_dead_to_another(folder, monkeypatch):
    monkeypatch.setattr(sharing, "SECONDS_BETWEEN_LOOKS", 0)
    with Claims(folder, "index", "one") as one, Claims(folder, "index", "two") as two:
        one.join()
        two.join()
        committed = Committed()
        first, second = Shares(one, committed, range(5)), Shares(two, committed, range(5))
        assert [next(iter(first)) for _ in range(2)] == [0, 1]
        assert list(second) == [2, 3, 4]
        assert list(second) == list(first) == []
        assert not first.exhausted
        assert second.elsewhere() == [f"2 shards by {one._me}"]
        committed.there |= {0, 2, 3, 4}
        assert list(first) == []
        assert (list(first.found), first.exhausted) == ([2, 3, 4], True)
        assert list(second) == []
        assert (list(second.found), second.exhausted) == ([0], False)
        one.leave()
        assert list(second) == [1]
        assert second.exhausted


def test_what_was_committed_before_its_job_left_is_not_built_again(folder):
    with Claims(folder, "index") as one, Claims(folder, "index") as two:
        one.join()
        two.join()
        committed = Committed()
        shares = Shares(two, committed, range(2))
        assert one.take(claim_of(0))
        committed.there.add(0)
        one.leave()
        assert list(shares) == [1]
        assert list(shares.found) == [0]


@pytest.fixture
def work(tmp_path):
    """36 sentences in 9 files."""
    return write_folder(tmp_path / "in")


@pytest.mark.slow
def test_a_killed_job_is_finished_by_the_one_beside_it(work, tmp_path, models):
    root, jobs = tmp_path / "c", Jobs(together=2)
    jobs.start([work], root, killed_at=5)
    jobs.start([work], root)
    assert jobs.end() == [-9, 0]
    done = work_done(root)
    assert len(done) == 18 * 4
    assert max(done.values()) == 1, "nothing twice"
    assert not unnamed(root)
    assert living(root) == all_but()
    assert len({event["run"] for event in events(root) if event["event"] == "run_started"}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kill", [0, 1, 7])
def test_three_jobs_at_once_end_with_the_undisturbed_collection(kill, work, tmp_path, in_process):
    whole, root, jobs = tmp_path / "whole", tmp_path / "c", Jobs(together=3)
    index(work, whole, parts=PARTS)
    for number in range(3):
        jobs.start([work], root, killed_at=kill if number == 1 else 0)
    assert jobs.end() == [0, -9 if kill else 0, 0]
    assert state(root) == state(whole)
    assert Collection(root).manifest().counts == Collection(whole).manifest().counts
    assert max(work_done(root).values()) == 1
    assert not unnamed(root)


@pytest.mark.slow
def test_jobs_with_other_sources_append_to_the_plan(tmp_path, in_process):
    """As if one had followed the other, in whichever order they came."""
    sources = [write_folder(tmp_path / "a", range(16)), write_folder(tmp_path / "b", range(12, 36))]
    one_by_one = []
    for order in (sources, sources[::-1]):
        whole = tmp_path / f"whole {len(one_by_one)}"
        for source in order:
            index(source, whole, parts=PARTS)
        one_by_one.append(state(whole))
    root, jobs = tmp_path / "c", Jobs(together=2)
    for source in sources:
        jobs.start([source], root)
    assert jobs.end() == [0, 0]
    assert state(root) in one_by_one
    assert max(work_done(root).values()) == 1
    assert not unnamed(root)


def beside(root: Path, like: Path) -> Claims:
    """Another job on a collection, which works as that of a finished one did."""
    manifest = Collection(like).manifest()
    identity = [manifest.settings_hash, manifest.encoder.identity]
    claims = Claims(Collection(root).claims, "index").__enter__()
    claims.join(terms={"settings": manifest.settings, "encoder": manifest.encoder.spec, "identity": identity})
    return claims


def test_a_job_with_other_settings_or_changed_sources_waits_for_the_one_that_is_there(work, tmp_path, in_process):
    root = tmp_path / "c"
    index(work, root)
    manifest = Collection(root).manifest()
    other = beside(root, like=root)
    assert index(work, root).counts.documents == 36
    with pytest.raises(UserError, match=r"`hiperrag index` on .* with other settings; wait for it to end"):
        index(work, root, **stored(bits=2))
    (work / "00.jsonl").write_text((work / "04.jsonl").read_text())
    with pytest.raises(UserError, match=r"sources have changed.*`hiperrag index` on .*wait for it to end"):
        index(work, root)
    assert Collection(root).manifest().shards == manifest.shards
    other.__exit__()
    index(work, root)
    assert Collection(root).manifest().shards != manifest.shards


def test_a_new_collection_takes_the_settings_of_the_job_that_began_it(work, tmp_path, in_process):
    root, whole = tmp_path / "c", tmp_path / "whole"
    index(work, whole, **stored(bits=2))
    other = beside(root, like=whole)
    index(work, root)
    other.__exit__()
    assert vectors(root) == vectors(whole)


def test_what_others_write_is_not_removed(root, tmp_path, in_process):
    other = beside(root, like=root)
    half_written, part = root / "documents" / ".tmp-x-part-1.parquet", root / "documents" / "part-unfinished.parquet"
    half_written.touch()
    part.touch()
    more = write_rows(tmp_path / "more.jsonl", [row(40, "Kelp forests shelter young fish.")])
    plan = (root / "inputs.parquet").stat().st_ino
    assert index(more, root).counts.documents == 37
    assert half_written.exists()
    assert part.exists()
    assert [path.stat().st_ino for path in (root / "claims").glob("plan-*")] == [plan], "the others have it open"
    other.__exit__()
    index(more, root)
    assert not unnamed(root)
    assert not list((root / "claims").glob("plan-*"))


def test_a_job_waits_for_a_shard_of_another_and_takes_it_over_when_that_one_leaves(
    work, tmp_path, built, in_process, monkeypatch
):
    monkeypatch.setattr(sharing, "SECONDS_BETWEEN_LOOKS", 0.1)
    monkeypatch.setattr(ledger, "SHARE_OF_TIME", 1e-9)  # who waits commits all the same, or two would wait for ever
    root = tmp_path / "c"
    other = beside(root, like=built)
    assert other.take(claim_of(1))
    seen = []

    def leave_when_the_rest_is_there() -> None:
        deadline = time.monotonic() + 60
        while len(seen) < 2 and time.monotonic() < deadline:
            seen[:] = Collection(root).manifest().shards if Collection(root).exists() else []
            time.sleep(0.01)
        other.__exit__()

    thread = threading.Thread(target=leave_when_the_rest_is_there)
    thread.start()
    index(work, root)
    thread.join()
    assert [entry.name[:5] for entry in seen] == ["00000", "00002"]
    assert vectors(root) == vectors(built)
    assert [event["others"][0][:11] for event in events(root) if event["event"] == "waiting"] == ["1 shard by "]
