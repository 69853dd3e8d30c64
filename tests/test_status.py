"""`hiperrag status` on logs of runs that go on, ended, or were killed; and what events cost and carry."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pymupdf
import pytest
from collection_helpers import InlinePool, index, use_inline_pool, write_rows
from run_logs import BEGIN, PlantedRun, ordinary_run

from hiperrag.collection import Collection
from hiperrag.errors import UserError
from hiperrag.events import EventLog, Tally
from hiperrag.workflows import observe
from hiperrag.workflows.observe import SILENT_SECONDS, current_runs, read_events, read_tail, status_of
from hiperrag.workflows.rates import learn, packaged_rates
from hiperrag.workflows.settings import IndexSettings
from hiperrag.workflows.tasklog import read_tasks


def running(parts: int = 10, done: int = 4) -> PlantedRun:
    """A run on another host with so many of its parts parsed, one every ten seconds."""
    every = 10.0
    planted = PlantedRun(2, parts)
    for part in range(done):
        planted.task("parse", part, "n0:0.0", every * part, every, n_pages=20)
    planted.submit(every * done, "parse", done)
    return planted


def test_counts_rates_and_time_left(tmp_path):
    folder = running().write(tmp_path)
    status = status_of(folder, BEGIN + 40)
    parse = status.stages[0]
    assert (status.state, status.workers, status.tally.in_flight) == ("running", 2, 1)
    assert (parse.tally.done, parse.tally.total, parse.tally.pages) == (32, 80, 80)
    assert parse.rate == pytest.approx(32 / 40)
    assert parse.seconds_left == pytest.approx(48 / (32 / 40))
    assert status.seconds_left() is None, "nothing was encoded yet, so nobody knows"


def test_what_earlier_runs_did_is_done_but_gives_no_rate(tmp_path):
    planted = running()
    planted.events[1]["stages"]["parse"]["cached"] = 16
    parse = status_of(planted.write(tmp_path), BEGIN + 40).stages[0]
    assert (parse.tally.done, parse.tally.cached) == (48, 16)
    assert parse.rate == pytest.approx(32 / 40)


def test_a_failed_part_is_waited_for_by_no_stage(tmp_path):
    planted = running(parts=5, done=4)
    planted.trouble(41, "part_failed", "chunk", 0, "n0")
    stages = {stage.name: stage.tally for stage in status_of(planted.write(tmp_path), BEGIN + 45).stages}
    assert (stages["chunk"].done, stages["encode"].done, stages["build"].done) == (8, 0, 0)
    assert (stages["chunk"].total, stages["encode"].total, stages["build"].total) == (40, 32, 1)
    assert (stages["chunk"].quarantined, stages["encode"].quarantined) == (8, 0)


def test_a_run_elsewhere_is_dead_when_its_heart_stops(tmp_path):
    folder = running().write(tmp_path)
    last = BEGIN + 40
    assert status_of(folder, last + SILENT_SECONDS - 1).state == "running"
    status = status_of(folder, last + SILENT_SECONDS + 1)
    assert status.state == "killed"
    assert "no heartbeat" in status.why


def test_a_run_here_is_dead_as_soon_as_its_process_is_gone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with EventLog(tmp_path / "runs" / "R" / "events.jsonl") as log:
        log.write("run_started", run="R", host=socket.gethostname(), pid=process.pid, workers=1)
        assert status_of(tmp_path / "runs" / "R").state == "running"
        process.kill()
        process.wait()
        status = status_of(tmp_path / "runs" / "R")
    assert status.state == "killed"
    assert str(process.pid) in status.why


def test_another_process_by_the_same_number_is_not_taken_for_the_run(tmp_path):
    planted = PlantedRun(1, 1, host=socket.gethostname())
    planted.events[0]["pid"] = os.getpid()  # younger than the run by years
    assert status_of(planted.write(tmp_path), BEGIN + 1).state == "killed"


def test_the_end_of_a_long_log_tells_what_the_whole_does(tmp_path, monkeypatch):
    planted, tally = ordinary_run(parts=200), Tally()
    lines = sorted(planted.events, key=lambda event: event["time"])
    with_beats = []
    for number, line in enumerate(lines):
        tally.add(line)
        with_beats.append(line)
        if number % 20 == 0:
            beat = json.loads(json.dumps(tally.to_json()))
            with_beats.append({"time": line["time"], "event": "heartbeat", "tally": beat})
    planted.events = with_beats
    folder = planted.write(tmp_path)
    whole = status_of(folder)
    monkeypatch.setattr(observe, "TAIL_BYTES", 20_000)
    assert len(read_tail(folder / "events.jsonl")) < len(with_beats) / 5
    end = status_of(folder)
    assert end.tally == whole.tally == tally
    assert end.last_event == whole.last_event


def test_heartbeats_go_on_while_nothing_else_does(tmp_path):
    path = tmp_path / "events.jsonl"
    beaten = threading.Event()

    class Watched(EventLog):
        def _append(self, event: str, fields: dict) -> None:
            super()._append(event, fields)
            if event == "heartbeat":
                beaten.set()

    with Watched(path, heartbeat_seconds=0.01) as log:
        log.write("task_submitted", stage="parse", shard=0, part=0)
        log.note(waiting=3)
        beaten.clear()
        assert beaten.wait(30)
        beaten.clear()
        assert beaten.wait(30)
    last = [event for event in read_events(path) if event["event"] == "heartbeat"][-1]
    assert last["waiting"] == 3
    assert Tally.from_json(last["tally"]).in_flight == 1


def test_a_run_that_stops_leaves_its_reason(tmp_path):
    log = EventLog(tmp_path / "runs" / "R" / "events.jsonl")
    log.write("run_started", run="R", host="elsewhere", pid=1, workers=1)
    log.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    status = status_of(tmp_path / "runs" / "R")
    assert (status.state, status.why) == ("stopped", "KeyboardInterrupt:")


def test_a_full_disk_is_not_the_logs_to_complain_of():
    with EventLog(Path("/dev/full"), heartbeat_seconds=0.001) as log:
        for part in range(100):
            log.write("task_submitted", stage="parse", shard=0, part=part)
    assert log.tally.in_flight == 100


def test_all_runs_at_work_are_shown_else_the_last(tmp_path):
    now = time.time()
    for name, pid in (("A", os.getpid()), ("B", os.getpid()), ("C", 2**22 + 1)):
        log = EventLog(tmp_path / "runs" / name / "events.jsonl")
        log.write("run_started", run=name, host=socket.gethostname(), pid=pid, workers=1)
        log.__exit__(None, None, None)
    assert [one.run for one in current_runs(tmp_path, now)] == ["A", "B"]
    for name in "AB":
        with EventLog(tmp_path / "runs" / name / "events.jsonl") as log:
            log.write("run_finished", run=name)
    assert [(one.run, one.state) for one in current_runs(tmp_path, time.time())] == [("C", "killed")]


def test_folders_without_runs_are_refused_in_one_line(tmp_path, hiperrag):
    for path in (tmp_path, tmp_path / "nothing"):
        status, _, errors = hiperrag("status", path)
        assert status == 2
        assert len(errors) == 1


def test_status_reads_and_locks_nothing(tmp_path, hiperrag):
    folder = running().write(tmp_path / "c")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")}
    for path in (tmp_path / "c", folder):
        status, output, _ = hiperrag("status", path)
        assert status == 0
        assert "32 of 80 documents" in output
        assert "run the same command again to resume" in output
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")} == before


def write_papers(folder: Path, number: int, pages: int) -> Path:
    folder.mkdir()
    for paper in range(number):
        with pymupdf.open() as pdf:
            for page in range(pages):
                text = f"Sample {paper} of page {page} was weighed and measured in the laboratory. " * 20
                pdf.new_page().insert_textbox((72, 72, 520, 770), text, fontsize=11)
            pdf.save(folder / f"paper{paper}.pdf")
    return folder


def test_a_real_run_is_seen_from_inside_and_after_and_teaches_rates(tmp_path, monkeypatch, models, hiperrag):
    use_inline_pool(monkeypatch)
    root, seen = tmp_path / "c", []
    InlinePool.fault = staticmethod(lambda name, call: seen.extend(current_runs(root, time.time())))
    fast = IndexSettings().parse.model_copy(update={"parser": "fast"})
    rows = [{"_id": f"r{i}", "text": f"The sample {i} weighs {i} g."} for i in range(12)]
    index([write_papers(tmp_path / "in", 3, 2), write_rows(tmp_path / "rows.jsonl", rows)], root, parse=fast)
    assert {one.state for one in seen} == {"running"}
    done = [one.stages[0].tally.done for one in seen]
    assert done == sorted(done)
    assert max(one.tally.in_flight for one in seen) >= 1
    found = json.loads(hiperrag("status", root, "--json")[1])["runs"][0]
    assert found["state"] == "finished"
    assert found["stages"]["encode"]["done"] == found["stages"]["encode"]["total"] == 15
    assert found["stages"]["parse"]["pages"] == 6
    status, output, _ = hiperrag("status", root, "--watch")
    assert (status, "finished" in output) == (0, True), "it ends with the run"
    assert (root / "runs" / found["run"] / "report.html").is_file()
    log = read_tasks(root / "runs" / found["run"])
    assert [int(log.of_stage(stage).sum()) for stage in log.stages] == [4, 4, 4, 2], "four parts in two shards"
    assert set(log.hosts) == {socket.gethostname()}
    assert (log.columns["cpu_seconds"] > 0).all()
    learned, counts = learn([root], packaged_rates()), Collection(root).manifest().counts
    assert learned.corpus.pages_per_document.value == 2
    assert learned.stages["encode"].units == counts.tokens
    documents = sum(path.stat().st_size for path in (root / "documents").iterdir())
    assert learned.storage.documents_per_page == pytest.approx(documents / 6, rel=0.01)
    assert learned.storage.vectors_per_token == pytest.approx(counts.bytes / counts.tokens, rel=0.01)
    assert learned.storage.files_per_part == 3
    files = sum(len(list((root / folder).iterdir())) for folder in ("documents", "passages", "quarantine"))
    assert files == 3 * counts.parts


@pytest.mark.slow
def test_a_killed_run_is_told_and_then_resumed(tmp_path, models, hiperrag):
    rows = [{"_id": f"r{i}", "text": f"The sample {i} weighs {i} g."} for i in range(3000)]
    root, source = tmp_path / "c", write_rows(tmp_path / "rows.jsonl", rows)
    code = "from hiperrag.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "index", source, "--to", root, "--quiet"])
    try:
        for _ in range(1200):
            logs = list(root.glob("runs/*/events.jsonl"))
            if (logs and '"part_done"' in logs[0].read_text()) or process.poll() is not None:
                break
            time.sleep(0.1)
        alive = json.loads(hiperrag("status", root, "--json")[1])["runs"][0]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (alive["state"], alive["workers"]) == ("running", len(os.sched_getaffinity(0)))
    status, output, _ = hiperrag("status", root)
    assert (status, "killed (its process" in output) == (0, True)
    assert hiperrag("doctor", root / "runs" / alive["run"])[0] == 1


def test_a_run_killed_before_its_first_word_hides_no_other(tmp_path):
    running().write(tmp_path)
    (tmp_path / "runs" / "R2").mkdir()
    (tmp_path / "runs" / "R2" / "events.jsonl").touch()
    assert [one.run for one in current_runs(tmp_path, BEGIN + 40)] == ["R1"]


def test_a_log_that_is_none_is_refused(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('nonsense\n[]\n{"time": 1, "event": "part_done"}\n')
    with pytest.raises(UserError, match="does not begin"):
        status_of(tmp_path)
