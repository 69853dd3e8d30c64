"""`hiperrag index` as people use it: real PDFs, real worker processes, interrupted in every way."""

from __future__ import annotations

import errno
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import psutil
import pytest

from hiperrag import cli
from hiperrag.cli.info import describe
from hiperrag.collection import Collection
from hiperrag.records import read_passages, read_quarantined

COMMAND = [sys.executable, "-c", "from hiperrag.cli import main; main()"]
QUESTIONS = ["Which salt was dissolved in the electrolyte?", "How many birds were tagged?", "period of the planet"]


def hiperrag(*arguments: object, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=600, cwd=cwd)
    assert "Traceback" not in done.stderr, done.stderr
    if check:
        assert done.returncode == 0, done.stderr
    return done


def contents(collection: Path) -> tuple[list[tuple], list[list[tuple]]]:
    """All passages in shard order, and what a search finds."""
    opened = Collection(collection)
    passages = [
        (p.passage_id, p.document, p.kind, p.section, p.text, p.page_start, p.page_end, tuple(map(str, p.boxes)))
        for part in opened.manifest().parts
        for p in read_passages(opened.passages_path(part.passages))
    ]
    found = []
    for question in QUESTIONS:
        hits = json.loads(hiperrag("search", collection, question, "--json").stdout)["hits"]
        found.append([(hit["passage_id"], hit["score"]) for hit in hits])
    return passages, found


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if str(process.pid) in (p.info["cmdline"] or [])]


@pytest.fixture(scope="module")
def reference(tmp_path_factory, examples, models):
    """The sample papers indexed without disturbance."""
    path = tmp_path_factory.mktemp("reference") / "collection"
    summary = hiperrag("index", examples, "--to", path).stderr
    return path, contents(path), summary


def test_every_paper_becomes_a_document_and_the_counts_add_up(reference, examples):
    path, (passages, found), summary = reference
    facts = json.loads(hiperrag("info", path, "--json").stdout)
    counts = facts["counts"]
    papers = list(examples.glob("*.pdf"))
    assert counts["inputs"] == counts["documents"] == facts["documents"] == len(papers)
    assert counts["quarantined"] == counts["truncated"] == 0
    assert counts["passages"] == len(passages)
    assert f"{len(papers)} documents" in summary
    assert all(hits for hits in found)
    assert hiperrag("doctor", path).stdout.count("BAD") == 0


def test_rerun_of_a_finished_run_opens_no_input(tmp_path, examples, models):
    paper, collection = tmp_path / "paper.pdf", tmp_path / "collection"
    shutil.copy(sorted(examples.glob("*.pdf"))[0], paper)
    hiperrag("index", paper, "--to", collection)
    before, status = Collection(collection).manifest(), paper.stat()
    paper.write_bytes(b"x" * status.st_size)
    os.utime(paper, ns=(status.st_atime_ns, status.st_mtime_ns))
    hiperrag("index", paper, "--to", collection)
    assert Collection(collection).manifest().shards == before.shards, "nobody looked at the bytes"
    assert len(list(collection.glob("runs/*/parsl"))) == 1, "the second run starts no workers"
    os.utime(paper)
    hiperrag("index", paper, "--to", collection)
    assert Collection(collection).manifest().counts.quarantined == 1, "a changed file is read again"


def test_files_added_later_are_indexed_alone(tmp_path, examples, models):
    papers = sorted(examples.glob("*.pdf"))
    folder, collection = tmp_path / "in", tmp_path / "collection"
    folder.mkdir()
    for paper in papers[:3]:
        shutil.copy(paper, folder)
    hiperrag("index", folder, "--to", collection)
    first = Collection(collection).manifest()
    for paper in papers[3:5]:
        shutil.copy(paper, folder)
    shutil.copy(papers[0], folder / "copy of the first.pdf")
    summary = hiperrag("index", folder, "--to", collection).stderr
    second = Collection(collection).manifest()
    assert second.shards[: len(first.shards)] == first.shards
    assert second.counts.documents == 5
    assert "left out: 1 file whose" in summary
    assert [Path(left_out).name for left_out, _ in second.duplicates] == ["copy of the first.pdf"]


def test_a_deleted_paper_is_found_no_more_whatever_comes_after(tmp_path, examples, reference):
    path, (_, found), _ = reference
    collection, merged = tmp_path / "collection", tmp_path / "merged"
    shutil.copytree(path, collection)
    best = json.loads(hiperrag("search", collection, QUESTIONS[0], "-k", "1", "--json").stdout)["hits"][0]["document"]
    assert hiperrag("delete", collection, best).stdout.split("\n") == [best, ""]

    def assert_gone(root: Path) -> None:
        facts = json.loads(hiperrag("info", root, "--json").stdout)
        assert facts["documents"] == len(list(examples.glob("*.pdf"))) - 1
        for way in (["--exact"], ["--quality", "fast", "--hybrid"]):
            hits = json.loads(hiperrag("search", root, QUESTIONS[0], *way, "--json").stdout)["hits"]
            assert len(hits) == len(found[0])
            assert best not in {hit["document"] for hit in hits}

    assert_gone(collection)
    hiperrag("compact", collection)
    shards = Collection(collection).manifest().shards
    hiperrag("index", examples, "--to", collection)
    assert Collection(collection).manifest().shards == shards, "nothing is indexed again"
    hiperrag("merge", collection, "--to", merged)
    assert_gone(merged)
    assert hiperrag("doctor", merged).stdout.count("BAD") == 0


def test_archives_ready_text_and_folders_mix(tmp_path, examples, models):
    papers = sorted(examples.glob("*.pdf"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(papers[0], "inner/one.pdf")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        archive.add(papers[1], "two.pdf")
    rows = [
        {"_id": "r1", "title": "Quokkas", "text": "Quokkas on the island eat 40 grams of leaves a day."},
        {"_id": "r2", "title": "", "text": "Glaciers in the valley retreat by 12 metres a year."},
    ]
    lines = [json.dumps(rows[0]), "not json", json.dumps(rows[1])]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    collection = tmp_path / "collection"
    done = hiperrag("index", tmp_path / "a.zip", tmp_path / "b.tar.gz", tmp_path / "rows.jsonl", "--to", collection)
    counts = json.loads(hiperrag("info", collection, "--json").stdout)["counts"]
    assert (counts["inputs"], counts["documents"], counts["quarantined"]) == (5, 4, 1), done.stderr
    (tmp_path / "q.jsonl").write_text('{"_id": "q1", "text": "how much do quokkas eat"}\n')
    hiperrag("search", collection, "--queries", tmp_path / "q.jsonl", "--run", tmp_path / "out.trec", "-k", "4")
    first, *rest = (tmp_path / "out.trec").read_text().splitlines()
    assert first.split()[:4] == ["q1", "Q0", "r1", "1"]
    documents = [line.split()[2] for line in (first, *rest)]
    assert len(documents) == len(set(documents)) == 4, "each document once"
    strict = hiperrag("index", tmp_path / "a.zip", "--to", collection, "--strict", check=False)
    assert strict.returncode == 3


@pytest.mark.parametrize("how", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow), "SIGKILL"])
def test_an_interrupted_run_is_resumed_to_the_same_collection(how, tmp_path, examples, models, reference):
    collection = tmp_path / "collection"
    command = [*COMMAND, "index", examples, "--to", collection]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it, and so
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # would its children
    signal.signal(signal.SIGINT, before)
    wait_until(lambda: list(collection.glob("documents/part-*.parquet")) or run.poll() is not None)
    children = workers_of(run)
    run.send_signal(getattr(signal, how))
    _, errors = run.communicate(timeout=60)
    assert "Traceback" not in errors
    if how != "SIGKILL":
        assert run.returncode == 128 + getattr(signal, how)
        assert "resume" in errors
    assert children, "workers carry the main process's id"
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "nothing works on after the main process has ended"
    hiperrag("index", examples, "--to", collection)
    assert contents(collection) == reference[1]


def test_a_killed_worker_or_pool_costs_nothing(tmp_path, examples, models, reference):
    collection = tmp_path / "collection"
    run = subprocess.Popen([*COMMAND, "index", examples, "--to", collection], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: list(collection.glob("documents/part-*.parquet")) or run.poll() is not None)
    pool = next(p for p in workers_of(run) if any("process_worker_pool" in word for word in p.cmdline()))
    worker = next(p for p in pool.children() if "--multiprocessing-fork" in p.cmdline())
    worker.kill()
    time.sleep(1)
    started = pool.children(recursive=True)
    pool.kill()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive, "nothing of a pool works on after it"
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert contents(collection) == reference[1]


@pytest.mark.slow
def test_ten_kills_at_random_moments(tmp_path, examples, models, reference):
    collection, rng = tmp_path / "collection", random.Random(10)
    for _ in range(10):
        run = subprocess.Popen([*COMMAND, "index", examples, "--to", collection], stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 15))
        run.kill()
        run.wait()
    hiperrag("index", examples, "--to", collection)
    assert contents(collection) == reference[1]
    assert not list(collection.glob("**/.tmp-*"))
    assert not list((collection / "vectors").glob("*"))


@pytest.mark.slow
def test_malformed_files_are_quarantined_with_a_reason(shared, tmp_path, models):
    folder = shared / "data" / "pdfs" / "malformed"
    hiperrag("index", folder, "--to", tmp_path / "collection")
    collection = Collection(tmp_path / "collection")
    manifest = collection.manifest()
    listed = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    reasons = {Path(q.source).name: q for q in read_quarantined(collection.quarantine_files(manifest))}
    counts = manifest.counts
    assert counts.inputs == counts.documents + counts.quarantined
    for entry in listed:
        if entry["category"] == "password_required":
            assert reasons[entry["file"]].error == "encrypted"
        if entry["category"] == "empty":
            assert reasons[entry["file"]].error == "empty"
    left_out = {Path(source).name for source, _ in manifest.duplicates}
    pdfs = {entry["file"] for entry in listed}
    assert counts.inputs + len(left_out & pdfs) - sum(name not in pdfs for name in reasons) == len(pdfs)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["index", "nowhere.pdf", "--to", "c"], "nowhere.pdf"),
        (["index", ".", "--to", "c"], "nothing to read"),
        (["index", "a.txt", "--to", "c"], "a.txt"),
        (["index", "--to", "c"], "SOURCE"),
        (["index", "p.pdf", "--to", "full"], "not a collection"),
        (["index", "p.pdf", "--to", "c", "--site", "summit"], "summit"),
        (["index", "p.pdf", "--to", "c", "--encoder", "gpt"], "gpt"),
        (["search", "c", "q"], "no such collection"),
        (["search", "c"], "QUERY"),
        (["search", "c", "--queries", "q.jsonl"], "--run"),
        (["info", "c"], "no such collection"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_bad_arguments_end_in_one_line_and_exit_2(arguments, says, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("precious")
    (tmp_path / "a.txt").write_text("text")
    if "p.pdf" in arguments:
        (tmp_path / "p.pdf").write_bytes(b"%PDF-1.4")
    done = hiperrag(*arguments, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""
    assert (tmp_path / "full" / "thesis.doc").read_text() == "precious"


def test_a_folder_called_hiperrag_where_the_user_stands_is_not_taken_for_the_package(tmp_path, models):
    (tmp_path / "hiperrag" / "workflows").mkdir(parents=True)
    (tmp_path / "rows.jsonl").write_text('{"text": "Quokkas feed on leaves."}\n{"text": "Terns migrate far."}\n')
    script = str(Path(sys.executable).parent / "hiperrag")
    subprocess.run([script, "index", "rows.jsonl", "--to", "c"], cwd=tmp_path, check=True, capture_output=True)
    assert describe(tmp_path / "c")["documents"] == 2


def wait_until(condition, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_full_disk_is_told_in_one_line_wherever_it_is_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/scratch/c/server.key")

    monkeypatch.setattr(importlib.import_module("hiperrag.cli.app"), "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "hiperrag: /scratch/c/server.key: no space left on device; make room and run the same command again"
    ]
