"""Copies on the node: what every worker would read as a whole is unpacked there once; the rest is read at its place."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from hiperrag.parsing.sources import Input, discover, iter_rows, read_bytes
from hiperrag.workflows import staging
from hiperrag.workflows.staging import VARIABLE, staged_inputs

CONTEXT = multiprocessing.get_context("fork")


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A disk of the node."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "node"))
    monkeypatch.setattr(staging, "is_in_memory", lambda folder: False)
    return tmp_path / "node" / "hiperrag-staged" / "inputs"


@pytest.fixture
def members():
    """Files that do not compress."""
    rng = random.Random(1)
    return {f"{number}.pdf": rng.randbytes(100_000) for number in range(12)}


def write_tar(path: Path, members: dict[str, bytes], mode: str) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def pdfs(path: Path) -> list[Input]:
    return discover([str(path)]).inputs


def read_share(inputs: list[Input], share: int, queue) -> None:
    """One of two workers reads every other part of three files; the bytes that it asked the system for."""

    def asked() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before, data = asked(), {}
    for start in range(3 * share, len(inputs), 6):
        with staged_inputs(inputs[start : start + 3]) as local:
            data |= {item.source: read_bytes(item) for item in local}
    queue.put((asked() - before, data))


def read_by_two(inputs: list[Input]) -> tuple[int, dict[str, bytes]]:
    queue = CONTEXT.Queue()
    workers = [CONTEXT.Process(target=read_share, args=(inputs, share, queue)) for share in range(2)]
    for worker in workers:
        worker.start()
    answers = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    return sum(n_bytes for n_bytes, _ in answers), answers[0][1] | answers[1][1]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_two_workers_read_an_archive_once_between_them(kind, tmp_path, members, node):
    path = tmp_path / f"papers.{kind}"
    write_zip(path, members) if kind == "zip" else write_tar(path, members, "w")
    n_bytes, data = read_by_two(pdfs(path))
    assert data == {f"{path}/{name}": content for name, content in members.items()}
    assert n_bytes < 1.1 * path.stat().st_size
    assert not node.exists()


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_a_compressed_tar_is_unpacked_once_a_node(mode, tmp_path, members, node, monkeypatch):
    path = write_tar(tmp_path / f"papers.tar.{mode[2:]}", members, mode)
    inputs = pdfs(path)
    _, data = read_by_two(inputs)
    assert data == {f"{path}/{name}": content for name, content in members.items()}
    assert len(list(node.glob("*/papers.tar"))) == 1
    n_bytes, again = read_by_two(inputs)
    assert again == data
    assert n_bytes < 1.1 * path.stat().st_size, "each its share of the copy"
    monkeypatch.setattr(staging, "unpacked_stream", lambda path: pytest.fail("there is a copy"))
    with staged_inputs(inputs) as local:
        assert {item.source for item in local} == {item.source for item in inputs}
        assert all(item.path != str(path) for item in local)


def test_compressed_rows_are_unpacked_and_read_from_where_they_begin(tmp_path, node):
    path = tmp_path / "rows.jsonl.gz"
    rows = [{"_id": f"r{number}", "text": f"Sentence {number}."} for number in range(50)]
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    inputs = discover([str(path)], rows_per_input=20).inputs
    with staged_inputs(inputs) as local:
        assert [Path(item.path).name for item in local] == ["rows.jsonl"] * 3
        assert [row for item in reversed(local) for _, row in iter_rows(item)] == rows[40:] + rows[20:40] + rows[:20]


def test_nothing_is_staged_where_the_site_names_no_disk(tmp_path, members, monkeypatch):
    inputs = pdfs(write_tar(tmp_path / "papers.tgz", members, "w:gz"))
    monkeypatch.delenv(VARIABLE, raising=False)
    with staged_inputs(inputs) as local:
        assert local == inputs
    monkeypatch.setenv(VARIABLE, "/dev/shm")
    assert staging.is_in_memory(Path("/dev/shm"))
    with staged_inputs(inputs) as local:
        assert local == inputs, "that is the node's memory"


def test_unused_copies_make_room_and_used_ones_stay(tmp_path, members, node, monkeypatch):
    archives = [write_tar(tmp_path / f"{number}.tgz", members, "w:gz") for number in range(3)]
    free = 5 * archives[0].stat().st_size

    def usage(folder: Path):
        used = sum(path.stat().st_size for path in node.rglob("*") if path.is_file())
        return type("Usage", (), {"free": free - used})

    monkeypatch.setattr(staging.shutil, "disk_usage", usage)
    first, second, third = map(pdfs, archives)
    with staged_inputs(first) as local:
        assert all(item.path != str(archives[0]) for item in local)
        with staged_inputs(second) as other:
            assert other == second, "no room while the first is in use"
        assert read_bytes(local[0]) == members["0.pdf"]
    with staged_inputs(third) as local:
        assert {Path(item.path).name for item in local} == {"2.tar"}
    assert {path.name for path in node.rglob("*.tar")} == {"2.tar"}


@pytest.mark.parametrize("how", ["bomb", "damaged"])
def test_what_cannot_be_unpacked_is_read_where_it_lies_and_not_tried_again(how, tmp_path, members, node, monkeypatch):
    path = tmp_path / "papers.tgz"
    if how == "bomb":
        write_tar(path, {"zeros.pdf": b"0" * 5_000_000}, "w:gz")
        monkeypatch.setattr(staging.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1_000_000}))
    inputs = pdfs(path) if how == "bomb" else pdfs(write_tar(path, members, "w:gz"))
    if how == "damaged":
        path.write_bytes(path.read_bytes()[:-100_000])
    with staged_inputs(inputs) as local:
        assert local == inputs
    assert not list(node.rglob("*.tar"))
    monkeypatch.setattr(staging, "_unpack", lambda path, copy: pytest.fail("it was tried"))
    with staged_inputs(inputs) as local:
        assert local == inputs
