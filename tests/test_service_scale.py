"""Shards in processes: the same results, and what happens when a process dies, hangs, or cannot read its shards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from collection_helpers import QUESTIONS, SENTENCES, delete
from test_service_serving import POLL_S, WAYS, hits, plain, wait_for

from hiperrag.answering.retrieval import Retriever
from hiperrag.errors import UserError
from hiperrag.service.serving import ServedCollection
from hiperrag.service.shards import processes, searcher
from hiperrag.service.shards.searcher import ShardsUnavailableError


@pytest.fixture(scope="module")
def spread(built, tmp_path_factory, models):
    """A collection of three shards in two processes, which tests leave whole."""
    one = ServedCollection("c", built, processes=2, threads=1, poll_s=POLL_S)
    yield one
    one.close()


def members(one: ServedCollection) -> list[processes.ShardProcess]:
    return one._host.processes


def whole(one: ServedCollection) -> bool:
    return not one.shard_health().missing and not one.search(QUESTIONS[:1], 1).missing


@pytest.mark.parametrize("way", WAYS)
def test_shards_in_processes_give_the_same_to_the_bit(way, spread, built, in_process):
    assert hits(spread, **WAYS[way]) == plain(built, **WAYS[way])


def test_pooled_search_is_the_same_too(spread, built):
    with spread.pinned() as version:
        pooled = version.encoder.encode_queries([QUESTIONS[0]]).pooled[0]
        assert version.shards.search_pooled(pooled, 9) == Retriever(built, threads=1).searcher.search_pooled(pooled, 9)


def test_a_killed_process_is_named_and_comes_back(spread):
    before = hits(spread)
    struck = members(spread)[0]
    died = struck.pid
    os.kill(died, signal.SIGKILL)
    wait_for(lambda: spread.shard_health().missing)
    result = spread.search(QUESTIONS, len(SENTENCES))
    health = spread.shard_health()
    assert set(result.missing) == set(health.missing)
    assert 0 < health.open < health.total
    assert health.ready
    with spread.pinned() as version:
        left = sum(s.n_passages for s in version.shards.shards if s.folder.name not in result.missing)
    assert all(len(each) == left for each in result.hits), "all that the other shards hold"
    wait_for(lambda: whole(spread))
    assert struck.pid != died
    assert hits(spread) == before


@pytest.mark.slow
def test_no_search_fails_while_processes_are_killed(spread):
    before = hits(spread)
    failures: list[BaseException] = []
    ending = threading.Event()

    def ask() -> None:
        while not ending.is_set():
            try:
                spread.search(QUESTIONS, 5)
            except BaseException as error:
                failures.append(error)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        for _ in range(3):
            os.kill(members(spread)[1].pid, signal.SIGKILL)
            wait_for(lambda: spread.shard_health().missing)
            wait_for(lambda: whole(spread))
        ending.set()
    assert not failures
    assert hits(spread) == before


@pytest.mark.slow
def test_a_process_that_hangs_is_killed_and_replaced(spread, monkeypatch):
    monkeypatch.setattr(processes, "SILENT_S", 1.0)
    before = hits(spread)
    hung = members(spread)[0].pid
    os.kill(hung, signal.SIGSTOP)
    result = spread.search(QUESTIONS, 5)
    assert result.missing, "what the other process has"
    wait_for(lambda: not psutil.pid_exists(hung))
    wait_for(lambda: whole(spread))
    assert hits(spread) == before


@pytest.mark.slow
def test_a_process_that_answers_too_late_is_killed_and_replaced(spread, monkeypatch):
    slow = members(spread)[1].pid
    monkeypatch.setattr(searcher, "REPLY_S", 0.0)
    with pytest.raises(ShardsUnavailableError, match="no shard"):
        spread.search(QUESTIONS, 5)
    monkeypatch.undo()
    wait_for(lambda: not psutil.pid_exists(slow))
    wait_for(lambda: whole(spread))


@pytest.mark.slow
def test_without_any_process_a_search_says_that_it_may_be_tried_again(spread):
    for member in members(spread):
        os.kill(member.pid, signal.SIGKILL)
    wait_for(lambda: not spread.shard_health().open)
    assert not spread.shard_health().ready
    with pytest.raises(ShardsUnavailableError, match="try again") as refused:
        spread.search(QUESTIONS, 5)
    assert refused.value.retry_after_s > 0
    wait_for(lambda: whole(spread))


def test_newer_versions_are_opened_by_the_same_processes(root, in_process):
    one = ServedCollection("c", root, processes=2, threads=1, poll_s=POLL_S)
    try:
        pids = [member.pid for member in members(one)]
        gone = one.search(QUESTIONS, 1).hits[0][0].passage.document
        for undo in (False, True, False):
            manifest = one.search(QUESTIONS, 1).manifest
            delete(root, gone, undo=undo)
            wait_for(lambda manifest=manifest: one.search(QUESTIONS, 1).manifest is not manifest)
            assert hits(one) == plain(root)
        os.kill(pids[0], signal.SIGKILL)
        wait_for(lambda: one.shard_health().missing)
        wait_for(lambda: whole(one))
        assert hits(one) == plain(root), "a process that comes back opens the version that is served"
        assert members(one)[1].pid == pids[1]
        assert all(len(member._versions) == 1 for member in members(one)), "older versions were let go"
    finally:
        one.close()
    assert not any(psutil.pid_exists(member.pid) for member in members(one))


@pytest.mark.slow
def test_a_damaged_shard_is_refused_at_the_start(root, in_process):
    next(iter(sorted((root / "shards").iterdir()))).joinpath("lengths.npy").write_bytes(b"not an array")
    before = set(psutil.Process().children())
    with pytest.raises(UserError, match="damaged"):
        ServedCollection("c", root, processes=2, threads=1)
    assert set(psutil.Process().children()) <= before


def test_processes_and_ranks_exclude_each_other(root):
    with pytest.raises(UserError, match="not both"):
        ServedCollection("c", root, processes=2, ranks=object())


@pytest.mark.slow
def test_shard_processes_end_with_their_parent(built):
    """Also when it is killed, and nothing is left to tidy up."""
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from hiperrag.service.shards.searcher import ProcessHost\n"
        "print(*(process.pid for process in ProcessHost('c', 2).processes), flush=True)\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


@pytest.mark.slow
def test_ranks_of_an_mpi_job_give_the_same_and_take_up_newer_versions(root, tmp_path, in_process):
    script = tmp_path / "serve.py"
    script.write_text(
        "import json, sys, threading\n"
        "from pathlib import Path\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from hiperrag.index import launch\n"
        "from hiperrag.service.serving import ServedCollection\n"
        "from hiperrag.workflows.maintenance import delete_documents\n"
        "root, questions = Path(sys.argv[1]), json.loads(sys.argv[2])\n"
        "def ask(one):\n"
        "    with ThreadPoolExecutor(4) as pool:\n"
        "        found = list(pool.map(lambda q: one.search([q], 9, hybrid=True), questions * 5))\n"
        "    return [[(h.passage.passage_id, h.score) for h in f.hits[0]] for f in found][:len(questions)]\n"
        "def run(ranks):\n"
        "    one = ServedCollection('c', root, ranks=ranks, poll_s=0.02)\n"
        "    before, manifest = ask(one), one.search(questions, 1).manifest\n"
        "    delete_documents(root, ['r5'], None, False)\n"
        "    while one.search(questions, 1).manifest is manifest:\n"
        "        threading.Event().wait(0.02)\n"
        "    print(json.dumps([before, ask(one)]), flush=True)\n"
        "    one.close()\n"
        "launch.run(run)\n"
    )

    expected = [plain(root, hybrid=True)]
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if not mpiexec.exists():
        mpiexec = Path(shutil.which("mpiexec") or pytest.skip("no mpiexec"))
    command = [mpiexec, "-n", "3", sys.executable, script, root, json.dumps(QUESTIONS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    expected.append(plain(root, hybrid=True))
    found = json.loads(done.stdout.splitlines()[-1])
    assert [[[tuple(hit) for hit in each] for each in some] for some in found] == expected
