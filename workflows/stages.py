"""The stages over one part: files in, files out. They know nothing of Parsl.

Each output appears under its final name only when it is whole, and its name is the identity of everything that
shaped it; so a stage whose output exists is done, whoever did it. Two workers may be at the same part: the first one's
output stays, as others may have begun to read it.
"""

from __future__ import annotations

import dataclasses
import operator
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiperrag import encoders, index, parsing
from hiperrag.collection import Collection, EncoderEntry, FailedStage, PartEntry, ShardEntry
from hiperrag.encoders.base import Encoder, Tokenizer
from hiperrag.files import fingerprint
from hiperrag.index.build import Piece, encode_piece, pieces_of, select, write_shard
from hiperrag.index.parts import PartVectors
from hiperrag.index.pooling import pool_tokens
from hiperrag.index.shard import Shard
from hiperrag.parsing.batch import survey_options
from hiperrag.parsing.chunking import chunk_document
from hiperrag.parsing.sandbox import parse_inputs
from hiperrag.parsing.sources import Input
from hiperrag.records import (
    Document,
    Passage,
    Quarantined,
    read_documents,
    read_passages,
    write_records,
)
from hiperrag.warm import warm
from hiperrag.workflows.deletions import deleted_documents
from hiperrag.workflows.settings import IndexSettings, StorageSettings
from hiperrag.workflows.sizes import shard_sizes
from hiperrag.workflows.staging import staged_encoder, staged_inputs

Stage = Literal["parse", "recognise", "chunk", "encode", "build"]
STAGES: tuple[Stage, ...] = ("parse", "recognise", "chunk", "encode", "build")
"""`recognise` exists where not all pages that need it may be recognised, else `parse` does it."""


@dataclasses.dataclass(frozen=True, slots=True)
class PartNames:
    """Identities of a part's outputs, each the hash of its inputs, settings, model and code version."""

    documents: str
    passages: str
    vectors: str
    inputs: str
    failed_stage: FailedStage = ""
    surveyed: bool = False
    """Parsing gives a survey, from which the pages to recognise are chosen."""

    def output(self, collection: Collection, stage: Stage) -> Path:
        """The file or folder whose existence says that `stage` is done."""
        documents = collection.documents_path(self.documents)
        return {
            "parse": collection.survey_path(self.documents) if self.surveyed else documents,
            "recognise": documents,
            "chunk": collection.passages_path(self.passages),
            "encode": collection.vectors / f"part-{self.vectors}",
        }[stage]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished task tells the main process."""

    n_done: int
    n_quarantined: int
    seconds: float
    n_pages: int = 0
    n_tokens: int = 0


class Namer:
    """Gives parts the identities of their outputs under the settings of a run."""

    def __init__(self, settings: IndexSettings, encoder: EncoderEntry) -> None:
        self._parse = (parsing.VERSION, settings.parse.model_dump_json())
        self._chunk = (settings.chunk.model_dump_json(), encoder.tokenizer)
        self._encode = (encoders.VERSION, encoder.identity, (index.CODES_VERSION, settings.storage.model_dump_json()))
        self._surveyed = settings.parse.decides_later

    def __call__(self, inputs: Sequence[Input]) -> PartNames:
        """The identities of a part's outputs."""
        listed = [_values(item) for item in inputs]
        documents = fingerprint("parse", *self._parse, listed)
        passages = fingerprint("chunk", parsing.VERSION, documents, *self._chunk)
        vectors = fingerprint("encode", passages, *self._encode)
        return PartNames(documents, passages, vectors, fingerprint(listed), surveyed=self._surveyed)


_values = operator.attrgetter(*(field.name for field in dataclasses.fields(Input)))
"""An input as a tuple; ten times as fast as `dataclasses.astuple`."""


def name_part(inputs: Sequence[Input], settings: IndexSettings, encoder: EncoderEntry) -> PartNames:
    """The identities of one part's outputs."""
    return Namer(settings, encoder)(inputs)


def stages_of(settings: IndexSettings) -> tuple[Stage, ...]:
    """The stages that a run with these settings has."""
    return tuple(stage for stage in STAGES if stage != "recognise" or settings.parse.decides_later)


def hash_inputs(inputs: Sequence[Input]) -> str:
    """Hash of a part's list of inputs, whatever the settings."""
    return fingerprint([_values(item) for item in inputs])


def name_shard(parts: Sequence[PartNames], deleted: str) -> str:
    """The identity of a shard; one with a failed part, or without deleted documents, never equals the whole one."""
    return fingerprint("build", index.VERSION, [(part.vectors, part.failed_stage) for part in parts], deleted)


def parse_part(root: str, names: PartNames, inputs: Sequence[Input], settings: IndexSettings) -> Outcome:
    """Files or rows -> documents and quarantine."""
    started = time.perf_counter()
    collection = Collection(root)
    options = settings.parse.options()
    if names.surveyed:
        options = survey_options(options)
    with staged_inputs(inputs) as local:
        documents, quarantined = parse_inputs(local, settings.parse.limits(), options)
    output = names.output(collection, "parse")
    if not output.exists() and not collection.documents_path(names.documents).exists():
        write_records(collection.quarantine_path(names.documents), Quarantined, quarantined)
        write_records(output, Document, documents)
    n_pages = sum(document.n_pages for document in documents)
    return Outcome(len(documents), len(quarantined), time.perf_counter() - started, n_pages)


def chunk_part(root: str, names: PartNames, settings: IndexSettings, encoder: EncoderEntry) -> Outcome:
    """Documents -> passages."""
    started = time.perf_counter()
    collection = Collection(root)
    tokenizer = _tokenizer(encoder.spec)
    passages = [
        passage
        for document in read_documents(collection.documents_path(names.documents))
        for passage in chunk_document(document, tokenizer.count, tokenizer.max_tokens, settings.chunk)
    ]
    output = names.output(collection, "chunk")
    if not output.exists():
        write_records(output, Passage, passages)
    return Outcome(len(passages), 0, time.perf_counter() - started)


_tokenizers: dict[str, Tokenizer] = {}


def _tokenizer(spec: str) -> Tokenizer:
    """Kept beside the warm slot, so that a worker that alternates between chunking and encoding reloads nothing."""
    if spec not in _tokenizers:
        _tokenizers[spec] = encoders.load_tokenizer(staged_encoder(spec))
    return _tokenizers[spec]


def encode_part(root: str, names: PartNames, settings: IndexSettings, encoder: EncoderEntry, threads: int) -> Outcome:
    """Passages -> compressed token vectors and pooled vectors."""
    started = time.perf_counter()
    collection = Collection(root)
    passages = read_passages(collection.passages_path(names.passages))
    loaded: Encoder = warm(encoders.load_encoder, staged_encoder(encoder.spec), threads)
    encoded = loaded.encode_passages([passage.encoder_text() for passage in passages])
    tokens, offsets = pool_tokens(encoded.tokens, encoded.offsets, settings.storage.token_pooling)
    piece = encode_piece(tokens, offsets, encoded.pooled, settings.storage.bits)
    output = names.output(collection, "encode")
    if not output.exists():
        PartVectors(output).write(piece, encoded.truncated)
    return Outcome(len(passages), 0, time.perf_counter() - started, n_tokens=int(offsets[-1]))


@dataclasses.dataclass(frozen=True, slots=True)
class StoredPart:
    """Where an earlier shard holds a part's vectors."""

    shard: str
    first: int
    entry: PartEntry


@dataclasses.dataclass(frozen=True, slots=True)
class ShardTask:
    """What `build_shard` makes; `n_inputs` counts the documents that each part was given."""

    name: str
    identity: str
    parts: tuple[PartNames, ...]
    n_inputs: tuple[int, ...]
    stored: tuple[StoredPart | None, ...]
    deleted: str
    """Identity of the list of deleted documents, whose passages are left out."""


@lru_cache(maxsize=2)
def _open_shard(folder: Path) -> tuple[Shard, list[str]]:
    """A shard and the doc_id of each of its rows; its parts come one after the other."""
    shard = Shard(folder)
    return shard, shard.passages.columns(["doc_id"])["doc_id"].to_pylist()


class _PartSource:
    """The vectors and passages of one part, without those of deleted documents."""

    def __init__(self, collection: Collection, names: PartNames, stored: StoredPart | None, gone: set[str]) -> None:
        self.collection, self.names, self.stored = collection, names, stored
        if stored:
            self.shard, doc_ids = _open_shard(collection.shard_path(stored.shard))
            rows = range(stored.first, stored.first + stored.entry.n_rows)
            lengths = np.diff(self.shard.tokens.offsets)
        else:
            table = pq.read_table(collection.passages_path(names.passages), columns=["doc_id"])
            doc_ids = table["doc_id"].to_pylist()
            rows = range(len(doc_ids))
            self.vectors = PartVectors(names.output(collection, "encode"))
            lengths = np.load(self.vectors.folder / "lengths.npy")
        self.rows = np.array([row for row in rows if doc_ids[row] not in gone], dtype=np.int64)
        self.n_left_out = len(gone.intersection(doc_ids[row] for row in rows))
        self.n_tokens = int(lengths[self.rows].sum(dtype=np.int64))

    def pieces(self, dim: int, settings: StorageSettings) -> Iterator[Piece]:
        if not len(self.rows):
            return
        if self.stored:
            yield from pieces_of(self.shard, self.rows)
        else:
            yield select(self.vectors.read(dim, settings.bits), self.rows)

    def passages(self) -> Iterator[Passage]:
        if self.stored:
            yield from (self.shard.passages[row] for row in self.rows)
        else:
            passages = read_passages(self.collection.passages_path(self.names.passages))
            yield from (passages[row] for row in self.rows)


def build_shard(root: str, task: ShardTask, settings: IndexSettings, encoder: EncoderEntry) -> ShardEntry:
    """Encoded parts -> one shard, described for the manifest."""
    collection = Collection(root)
    folder = collection.shard_path(task.name)
    gone = deleted_documents(collection, task.deleted)
    sources = [
        None if names.failed_stage else _PartSource(collection, names, stored, gone)
        for names, stored in zip(task.parts, task.stored, strict=True)
    ]
    present = [source for source in sources if source]
    n_passages, n_tokens = sum(len(source.rows) for source in present), sum(source.n_tokens for source in present)
    checksums = {}
    if n_passages:
        pieces = (piece for source in present for piece in source.pieces(encoder.dim, settings.storage))
        checksums = write_shard(
            folder,
            pieces,
            n_passages,
            n_tokens,
            lambda: (passage for source in present for passage in source.passages()),
        )
    n_bytes, n_text_bytes = shard_sizes(folder, checksums)
    return ShardEntry(
        name=task.name,
        identity=task.identity,
        parts=[
            _describe(collection, names, n_inputs, source)
            for names, n_inputs, source in zip(task.parts, task.n_inputs, sources, strict=True)
        ],
        n_passages=n_passages,
        n_tokens=n_tokens,
        n_bytes=n_bytes,
        n_text_bytes=n_text_bytes,
        sha256=checksums,
    )


def _describe(collection: Collection, names: PartNames, n_inputs: int, source: _PartSource | None) -> PartEntry:
    """Count what a part's files hold."""
    if source is None:
        return PartEntry(
            documents=names.documents,
            passages="",
            vectors="",
            inputs=names.inputs,
            n_rows=0,
            n_inputs=n_inputs,
            n_documents=0,
            n_quarantined=n_inputs,
            n_pages=0,
            n_passages=0,
            n_tokens=0,
            n_truncated=0,
            failed_stage=names.failed_stage,
        )
    if source.stored:
        n_left_out = source.stored.entry.n_left_out + source.n_left_out
        return source.stored.entry.model_copy(update={"n_rows": len(source.rows), "n_left_out": n_left_out})
    pages = pq.read_table(collection.documents_path(names.documents), columns=["n_pages"])["n_pages"]
    n_passages, n_tokens, n_truncated = source.vectors.counts()
    return PartEntry(
        documents=names.documents,
        passages=names.passages,
        vectors=names.vectors,
        inputs=names.inputs,
        n_rows=len(source.rows),
        n_inputs=n_inputs,
        n_documents=len(pages),
        n_quarantined=pq.read_metadata(collection.quarantine_path(names.documents)).num_rows,
        n_pages=pc.sum(pages).as_py() or 0,
        n_passages=n_passages,
        n_tokens=n_tokens,
        n_truncated=n_truncated,
        n_left_out=source.n_left_out,
    )
