"""Whatever happens to a shard's files, a reader says so in one line or answers as if nothing had happened."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from index_helpers import make_shard, passage, topical, unit

from hiperrag.errors import UserError
from hiperrag.index.lexical import LexicalSearcher
from hiperrag.index.search import Searcher
from hiperrag.index.shard import Shard
from hiperrag.index.storage import DESCRIPTION

DIM, LENGTHS = 20, (3, 0, 9, 1, 5, 12, 2, 7, 4, 6, 1, 8)
QUERY = unit(np.random.default_rng(31), 5, DIM)
POOLED = unit(np.random.default_rng(32), 8)
WITH_TEXT, BARE = "with text", "vectors alone"
FLIPS = 30
"""Of single bits, in each file."""


def write(folder: Path, seed: int, text: bool) -> None:
    rng = np.random.default_rng(seed)
    passages = [passage(number + seed) for number in range(len(LENGTHS))] if text else None
    tokens, pooled = topical(rng, LENGTHS, DIM, n_topics=4), unit(rng, len(LENGTHS), 8) if text else None
    make_shard(folder, tokens, LENGTHS, pooled=pooled, passages=passages)


def answers(folder: Path) -> list[object]:
    """All that can be asked of a shard."""
    shard = Shard(folder)
    searcher = Searcher([shard], threads=1)
    found: list[object] = [searcher.search([QUERY], 20, quality) for quality in ("exact", "balanced")]
    if not shard.description.has_text:
        return found
    found.append(searcher.search_pooled(POOLED, 5))
    found.append([shard.passages[row] for row in range(shard.n_passages)])
    names = [*("document", "title", "kind", "page_start", "n_tokens"), *("metadata.year", "metadata.journal")]
    found.append([shard.passages.columns(names).to_pydict(), shard.passages.metadata_names, shard.passages.documents])
    words = LexicalSearcher([shard.lexical]).query("word3 shared1 helices")
    found.append([column.tolist() for column in words.search(5)])
    return found


class Case:
    """A sound shard, another one of the same shape, and what the sound one answers."""

    def __init__(self, folder: Path, text: bool) -> None:
        self.folder, self.other = folder / "sound", folder / "other"
        write(self.folder, 0, text)
        write(self.other, 1, text)
        self.files = {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}
        self.expected = answers(self.folder)
        assert answers(self.other) != self.expected

    def try_with(self, name: str, data: bytes | None) -> bool:
        """Whether a shard with this file is refused; it must answer as the sound one where it is not."""
        path, refusal = self.folder / name, ""
        path.unlink()
        try:
            if data is not None:
                path.write_bytes(data)
            found = answers(self.folder)
        except UserError as error:
            refusal = str(error)
        finally:
            path.unlink(missing_ok=True)
            path.write_bytes(self.files[name])
        if not refusal:
            assert found == self.expected
            return False
        assert len(refusal.splitlines()) == 1
        assert str(self.folder) in refusal
        return True


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, Case]:
    return {kind: Case(tmp_path_factory.mktemp("fuzz"), kind == WITH_TEXT) for kind in (WITH_TEXT, BARE)}


ARRAYS = [
    f"{name}.npy"
    for name in (
        *("codes", "scales", "means", "checks", "lengths", "mean_scales"),
        *("centroids", "centroid_scales", "starts", "postings"),
    )
]
WORDS = [f"lexical_{name}.npy" for name in ("terms", "starts", "rows", "counts", "lengths")]
TEXT = ["pooled.faiss", "passages.jsonl", "rows.npy", "columns.parquet", *WORDS]
FILES = [(WITH_TEXT, name) for name in (DESCRIPTION, *ARRAYS, *TEXT)]
FILES += [(BARE, name) for name in (DESCRIPTION, *ARRAYS)]
every_file = pytest.mark.parametrize(("kind", "name"), FILES)


def test_these_are_all_files(cases):
    for kind, case in cases.items():
        assert sorted(name for of, name in FILES if of == kind) == sorted(case.files)


def zipped(data: bytes) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.npy", data)
    return packed.getvalue()


def saved(array: object) -> bytes:
    stream = BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


FOREIGN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "pdf": lambda data: b"%PDF-1.4 not ours",
    "zip": zipped,
    "broken zip": lambda data: b"PK\x03\x04" + data[4:],
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: np.random.default_rng(33).bytes(len(data)),
    "objects": lambda data: saved(np.array([{"a": 1}], dtype=object)),
    "another array": lambda data: saved(np.arange(6.0)),
    "odd header": lambda data: b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': ((((\n " + data[26:],
    "deep": lambda data: b"[" * 100_000,
    "number": lambda data: b"1",
    "null bytes in text": lambda data: b'{"format": 1, "a": "\x00"}',
    "not utf-8": lambda data: b'{"format": "\xff\xfe"}',
}


@every_file
def test_missing_and_foreign_files_are_refused(cases, kind, name):
    assert cases[kind].try_with(name, None)
    for what, of in FOREIGN.items():
        assert cases[kind].try_with(name, of(cases[kind].files[name])), what


@every_file
def test_truncated_and_extended_files(cases, kind, name):
    case, data = cases[kind], cases[kind].files[name]
    rng = np.random.default_rng(34)
    for size in {len(data) - 1, len(data) // 2, 128, *rng.integers(len(data), size=6).tolist()} - {len(data)}:
        refused = case.try_with(name, data[:size])
        assert refused or not data[size:].strip(), "what is cut off was more than the last line's end"
    for more in (b"\0", b"\n", b"more", bytes(64), data):
        refused = case.try_with(name, data + more)
        assert refused or (name == DESCRIPTION and more == b"\n")


@every_file
def test_files_of_another_shard(cases, kind, name):
    case = cases[kind]
    theirs = (case.other / name).read_bytes()
    assert case.try_with(name, theirs) == (theirs != case.files[name])


@every_file
def test_single_bits(cases, kind, name):
    case, data = cases[kind], cases[kind].files[name]
    rng = np.random.default_rng(35)
    accepted = 0
    for position in rng.integers(8 * len(data), size=FLIPS):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        accepted += not case.try_with(name, bytes(flipped))
    if name not in (*ARRAYS, DESCRIPTION):  # arrays have headers with blanks, JSON too
        assert accepted == 0


@pytest.mark.parametrize("name", [f"{name}.npy" for name in ("codes", "scales", "means", "mean_scales", "postings")])
def test_every_byte_of_the_vectors_is_covered(cases, name):
    case = cases[BARE]
    data = case.files[name]
    for position in np.random.default_rng(36).choice(np.arange(128, len(data)), 40):
        changed = bytearray(data)
        changed[position] ^= 0x55
        assert case.try_with(name, bytes(changed))


def test_one_damaged_passage_leaves_the_others_readable(cases):
    case = cases[BARE]
    path = case.folder / "means.npy"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.unlink()
    path.write_bytes(bytes(damaged))
    try:
        searcher = Searcher([Shard(case.folder)], threads=1)
        mask = np.arange(len(LENGTHS)) < len(LENGTHS) - 1
        assert len(searcher.search([QUERY], 20, "exact", [mask])[0]) == len(LENGTHS) - 2
        for _ in range(2):
            with pytest.raises(UserError, match=f"passage {len(LENGTHS) - 1} have a wrong checksum"):
                searcher.search([QUERY], 20, "exact")
    finally:
        path.unlink()
        path.write_bytes(case.files["means.npy"])


def test_another_format_is_named(tmp_path):
    """A later version describes its shards otherwise, under the same checksum."""
    from hiperrag.index import storage

    write(tmp_path / "s", 0, text=False)
    path = tmp_path / "s" / DESCRIPTION
    data = {"format": storage.FORMAT + 1, "unheard of": [1, 2]}
    path.write_text(json.dumps(data | {"checksum": storage._checksum_of(data)}))
    with pytest.raises(UserError, match=f"shard of format {storage.FORMAT + 1}, this program reads"):
        Shard(tmp_path / "s")


def test_a_folder_that_is_no_shard(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        Shard(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError):
        Shard(tmp_path / "file")
