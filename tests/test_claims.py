"""Claims on a collection: one winner of each, death seen here at once and elsewhere after the lease, turns in order."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from hiperrag import claims as module
from hiperrag.claims import LEASE_SECONDS, Claims
from hiperrag.collection import Collection
from hiperrag.errors import UserError

CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "c" / "claims"


def joined(folder: Path, command: str = "index", run: str = "", exclusive: bool = False) -> Claims:
    claims = Claims(folder, command, run).__enter__()
    claims.join(exclusive)
    return claims


def elsewhere(folder: Path, *runs: str) -> None:
    """Make jobs those of another machine."""
    for run in runs:
        path = folder / f"job-{run}"
        fields = json.loads(path.read_text()) | {"host": "node7", "machine": "another"}
        path.write_text(json.dumps(fields))


def silent(*paths: Path, seconds: float = LEASE_SECONDS + 5) -> None:
    """Let files be touched so long ago."""
    for path in paths:
        os.utime(path, times=(time.time() - seconds, time.time() - seconds))


def remains(folder: Path) -> set[str]:
    return {path.name.split("-")[0] for path in folder.iterdir()}


def test_what_one_has_another_does_not_get_until_it_is_given_back(folder):
    one, two = joined(folder, run="one"), joined(folder, run="two")
    assert one.take("shard-1")
    assert one.take("shard-1"), "it has it already"
    assert not two.take("shard-1")
    assert two.take("shard-2")
    assert str(two.holder("shard-1")).startswith("`hiperrag index` on ")
    assert two.holder("shard-3") is None
    with one.turn():
        one.release("shard-1")
    assert two.take("shard-1")
    for claims in (one, two):
        claims.__exit__()
    assert remains(folder) == {"turn", "left"}


def test_a_sole_writer_keeps_all_others_away_and_is_named(tmp_path):
    collection = Collection(tmp_path / "c")
    with collection.sole_writer("compact"):
        for exclusive in (True, False):
            with Claims(collection.claims, "index") as other, pytest.raises(UserError) as refused:
                other.join(exclusive)
            assert "another command is writing it: `hiperrag compact` on" in str(refused.value)
            assert f"process {os.getpid()}" in str(refused.value)
    with Claims(collection.claims, "index") as job:
        job.join()
        with pytest.raises(UserError, match="`hiperrag index` on"), collection.sole_writer("delete"):
            raise AssertionError
        with Claims(collection.claims, "index") as second:
            second.join()
            with second.turn():
                assert [other.run for other in second.others()] == [job.run]
    with collection.sole_writer("delete"):
        pass


def die(folder: Path, where: str) -> None:
    """Work on a collection in this process and be killed."""
    claims = joined(folder, run="victim")
    claims.take("shard-1")
    with claims.turn():
        if where == "in its turn":
            os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("where", ["at work", "in its turn"])
def test_a_killed_job_of_this_machine_is_dead_at_once(folder, where):
    process = CONTEXT.Process(target=die, args=(folder, where))
    process.start()
    process.join()
    assert (folder / "job-victim").exists()
    began = time.monotonic()
    with Claims(folder, "index") as claims:
        claims.join()
        assert not (folder / "job-victim").exists()
        assert claims.take("shard-1")
        with claims.turn():
            assert claims.others() == []
    assert time.monotonic() - began < 5
    assert remains(folder) == {"turn", "left"}


def test_a_job_elsewhere_lives_until_its_lease_ends(folder):
    away = joined(folder, run="away")
    assert away.take("shard-1")
    elsewhere(folder, "away")
    here = joined(folder, run="here")
    assert not here.take("shard-1")
    assert here.holder("shard-1").host == "node7"
    silent(folder / "job-away", seconds=LEASE_SECONDS / 2)
    assert not here.take("shard-1")
    departed = here.departures()
    silent(folder / "job-away")
    assert here.holder("shard-1") is None
    assert here.take("shard-1")
    assert here.departures() != departed
    with pytest.raises(UserError, match="gave no sign of life"):
        away.check()
    here.check()
    away.__exit__()
    assert not away.take("shard-1")
    assert (folder / "claim-shard-1").read_text() == "here", "who was taken for dead gives nothing back"
    here.__exit__()


def test_a_turn_of_one_that_died_elsewhere_is_followed_by_one_winner(folder):
    away = joined(folder, run="away")
    assert away._try_turn()
    turn = next(folder.glob("turn-*"))
    fields = json.loads(turn.read_text()) | {"machine": "another"}
    turn.write_text(json.dumps(fields))
    others = [Claims(folder, "index", run=f"r{number}").__enter__() for number in range(3)]
    assert not any(claims._try_turn() for claims in others)
    silent(turn)
    assert [claims._try_turn() for claims in others] == [True, False, False]
    with others[1].turn(patience=0) as mine:
        assert not mine
    away._turn = None
    for claims in (*others[:1], away):
        claims._turn = None
    assert [path.name for path in folder.glob("turn-*")] == [f"turn-{int(turn.name[5:]) + 1:010d}"]


def test_one_who_looked_long_ago_gets_no_turn(folder, monkeypatch):
    """Between its look and its try the next turns have come and gone."""
    slow, fast = Claims(folder, "index").__enter__(), Claims(folder, "index").__enter__()
    with fast.turn():
        pass
    create = Claims._create

    def late(self: Claims, path: Path, text: str) -> bool:
        if self is slow:
            for _ in range(3):
                with fast.turn():
                    pass
        return create(self, path, text)

    monkeypatch.setattr(Claims, "_create", late)
    assert not slow._try_turn()
    monkeypatch.setattr(Claims, "_create", create)
    assert slow._try_turn()
    assert not fast._try_turn()
    slow._turn = None


def test_a_copied_collection_is_nobodys(folder, tmp_path):
    with Claims(folder, "index", run="one") as claims:
        claims.join()
        copy = tmp_path / "copy"
        copy.mkdir()
        (copy / "job-one").write_text((folder / "job-one").read_text())
        with Claims(copy, "delete") as other:
            other.join(exclusive=True)


def test_where_there_are_no_links_files_are_made_exclusively(folder, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    one, two = joined(folder), joined(folder)
    assert one.take("shard-1")
    assert not two.take("shard-1")
    (folder / "claim-shard-2").touch()  # made, and not yet written
    assert not two.take("shard-2")
    silent(folder / "claim-shard-2")
    assert two.take("shard-2")
    for claims in (one, two):
        claims.__exit__()
    assert remains(folder) == {"turn", "left"}


def add_up(folder: Path, counter: Path, n: int, barrier) -> None:
    with Claims(folder, "index") as claims:
        barrier.wait()
        claims.join()
        for number in range(n):
            with claims.turn():
                value = int(counter.read_text())
                time.sleep(0.001)
                counter.write_text(str(value + 1))
            if claims.take(f"shard-{number}"):
                with (counter.parent / f"taken-{number}").open("a") as stream:
                    stream.write("x")
        barrier.wait()


def test_turns_of_several_processes_lose_no_change_and_each_claim_has_one_owner(folder, tmp_path):
    counter, n = tmp_path / "counter", 30
    counter.write_text("0")
    barrier = CONTEXT.Barrier(4)
    processes = [CONTEXT.Process(target=add_up, args=(folder, counter, n, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert counter.read_text() == str(4 * n)
    assert [(tmp_path / f"taken-{number}").read_text() for number in range(n)] == ["x"] * n
    assert remains(folder) == {"turn", "left"}


def test_a_job_that_works_says_that_it_lives(folder, monkeypatch):
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 0.01)
    with Claims(folder, "index", run="one") as claims:
        claims.join()
        silent(folder / "job-one")
        deadline = time.monotonic() + 10
        while time.time() - (folder / "job-one").stat().st_mtime > LEASE_SECONDS:
            assert time.monotonic() < deadline
            time.sleep(0.01)
