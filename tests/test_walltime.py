"""Runs that have to end in time: what does not fit is not begun, what was done is kept, and a rerun does the rest."""

from __future__ import annotations

import os
import shlex
import signal
import time
from types import SimpleNamespace

import pytest
from collection_helpers import PARTS, InlinePool, found, index, stages_run, vectors, write_folder

from hiperrag.collection import Collection
from hiperrag.errors import UserError
from hiperrag.workflows import drive, run
from hiperrag.workflows.observe import run_folders, status_of
from hiperrag.workflows.sites import load_site


@pytest.fixture
def work(tmp_path):
    return write_folder(tmp_path / "in")


def index_until(work, root, walltime: float) -> run.Summary:
    sized = lambda old: old.model_copy(update={"parts": PARTS})  # noqa: E731
    return run.index_sources([str(work)], root, load_site("local"), sized, quiet=True, walltime=walltime)


def test_a_walltime_too_short_for_anything_leaves_a_plan_and_a_collection_to_add_to(work, tmp_path, built, in_process):
    root = tmp_path / "c"
    summary = index_until(work, root, 0)
    assert (summary.stopped, summary.n_there, summary.n_planned) == (True, 0, 3)
    assert InlinePool.calls == 0
    assert status_of(run_folders(root)[-1]).state == "stopped"
    with pytest.raises(UserError, match="holds no passages"):
        found(root)
    assert index(work, root).stopped is False
    assert vectors(root) == vectors(built)


def test_when_time_is_up_what_was_done_is_kept_and_nothing_is_done_twice(
    work, tmp_path, built, in_process, monkeypatch
):
    root, late, done_at = tmp_path / "c", [], 9 * 3 - 3

    def fault(name: str, call: int) -> None:
        if call == done_at:
            late.append(call)

    InlinePool.fault = staticmethod(fault)
    with monkeypatch.context() as patch:
        patch.setattr(drive, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 1e6 * len(late)))
        summary = index_until(work, root, 1e5)
    assert summary.stopped
    assert 0 < summary.n_there < summary.n_planned == 3
    assert summary.n_there == len(Collection(root).manifest().shards)
    assert InlinePool.calls == len(stages_run(root)) == done_at
    InlinePool.fault = staticmethod(lambda name, call: None)
    assert index(work, root).stopped is False
    assert len(stages_run(root)) == 9 * 3 + 3 - done_at
    assert vectors(root) == vectors(built)


def test_a_walltime_that_is_long_enough_changes_nothing(work, tmp_path, built, in_process):
    assert index_until(work, tmp_path / "c", 1e5).stopped is False
    assert vectors(tmp_path / "c") == vectors(built)


def test_the_last_line_says_how_far_it_came_and_the_command_that_resumes(work, tmp_path, in_process, hiperrag):
    arguments = ["index", work, "--to", tmp_path / "my c", "--walltime", "1s", "--quiet"]
    status, _, errors = hiperrag(*arguments)
    command = shlex.join(["hiperrag", *map(str, arguments)])
    assert status == 0
    assert errors[-1] == f"stopped for --walltime with 0 of 1 shard; resume with `{command}`"
    status, _, errors = hiperrag("index", work, "--to", tmp_path / "c", "--walltime", "soon")
    assert (status, "--walltime soon" in errors[-1]) == (2, True)


def test_inside_a_batch_job_its_end_is_the_walltime(work, tmp_path, in_process, hiperrag, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 30))
    status, _, errors = hiperrag("index", work, "--to", tmp_path / "c", "--quiet")
    assert (status, errors[-1].startswith("stopped for the end of the batch job with 0 of 1 shard")) == (0, True)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 10**5))
    assert "stopped" not in hiperrag("index", work, "--to", tmp_path / "c", "--quiet")[2][-1]


def test_sigterm_keeps_what_was_finished(work, tmp_path, built, in_process, hiperrag):
    root, before = tmp_path / "c", signal.getsignal(signal.SIGTERM)
    index_until(work, root, 0)

    def fault(name: str, call: int) -> None:
        if call == 9 * 3 + 2:
            os.kill(os.getpid(), signal.SIGTERM)

    InlinePool.fault = staticmethod(fault)
    try:
        status, _, errors = hiperrag("index", work, "--to", root, "--quiet")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert status == 128 + signal.SIGTERM
    assert errors[-1].startswith("hiperrag: interrupted; what was finished is kept, resume with `hiperrag index ")
    assert len(Collection(root).manifest().shards) > 0
    assert not list(Collection(root).claims.glob("job-*"))
    InlinePool.fault = staticmethod(lambda name, call: None)
    assert hiperrag("index", work, "--to", root, "--quiet")[0] == 0
    assert vectors(root) == vectors(built)
