"""The stages over one part: files in, files out. They know nothing of Parsl.

Each output appears under its final name only when it is whole, and its name is the identity of everything that
shaped it; so a stage whose output exists is done, whoever did it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiperrag import encoders, index, parsing
from hiperrag.collection import Collection, EncoderEntry, FailedStage, PartEntry, ShardEntry
from hiperrag.encoders.base import Encoder, Tokenizer
from hiperrag.files import fingerprint
from hiperrag.index.shard import PartVectors, write_shard
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
from hiperrag.workflows.settings import IndexSettings

Stage = Literal["parse", "chunk", "encode", "build"]
STAGES: tuple[Stage, ...] = ("parse", "chunk", "encode", "build")


@dataclasses.dataclass(frozen=True, slots=True)
class PartNames:
    """Identities of a part's outputs, each the hash of its inputs, settings, model and code version."""

    documents: str
    passages: str
    vectors: str
    failed_stage: FailedStage = ""

    def output(self, collection: Collection, stage: Stage) -> Path:
        """The file or folder whose existence says that `stage` is done."""
        return {
            "parse": collection.documents_path(self.documents),
            "chunk": collection.passages_path(self.passages),
            "encode": collection.vectors / f"part-{self.vectors}",
        }[stage]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished task tells the main process."""

    n_done: int
    n_quarantined: int
    seconds: float


def name_part(inputs: Sequence[Input], settings: IndexSettings, encoder: EncoderEntry) -> PartNames:
    """The identities of a part's outputs."""
    listed = [dataclasses.astuple(item) for item in inputs]
    documents = fingerprint("parse", parsing.VERSION, settings.parse.model_dump_json(), listed)
    passages = fingerprint("chunk", parsing.VERSION, documents, settings.chunk.model_dump_json(), encoder.tokenizer)
    return PartNames(documents, passages, fingerprint("encode", passages, encoders.VERSION, encoder.identity))


def name_shard(parts: Sequence[PartNames]) -> str:
    """The identity of a shard; one with a failed part is never equal to the whole one."""
    return fingerprint("build", index.VERSION, [(part.vectors, part.failed_stage) for part in parts])


def parse_part(root: str, names: PartNames, inputs: Sequence[Input], settings: IndexSettings) -> Outcome:
    """Files or rows -> documents and quarantine."""
    started = time.perf_counter()
    collection = Collection(root)
    documents, quarantined = parse_inputs(
        inputs,
        seconds_per_file=settings.parse.seconds_per_file,
        megabytes_per_file=settings.parse.megabytes_per_file,
    )
    write_records(collection.quarantine_path(names.documents), Quarantined, quarantined)
    write_records(collection.documents_path(names.documents), Document, documents)
    return Outcome(len(documents), len(quarantined), time.perf_counter() - started)


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
    write_records(collection.passages_path(names.passages), Passage, passages)
    return Outcome(len(passages), 0, time.perf_counter() - started)


_tokenizers: dict[str, Tokenizer] = {}


def _tokenizer(spec: str) -> Tokenizer:
    """Kept beside the warm slot, so that a worker that alternates between chunking and encoding reloads nothing."""
    if spec not in _tokenizers:
        _tokenizers[spec] = encoders.load_tokenizer(spec)
    return _tokenizers[spec]


def encode_part(root: str, names: PartNames, encoder: EncoderEntry, threads: int) -> Outcome:
    """Passages -> token vectors and pooled vectors."""
    started = time.perf_counter()
    collection = Collection(root)
    passages = read_passages(collection.passages_path(names.passages))
    loaded: Encoder = warm(encoders.load_encoder, encoder.spec, threads)
    encoded = loaded.encode_passages([passage.encoder_text() for passage in passages])
    PartVectors(names.output(collection, "encode")).write(
        encoded.tokens, encoded.offsets, encoded.pooled, encoded.truncated
    )
    return Outcome(len(passages), 0, time.perf_counter() - started)


@dataclasses.dataclass(frozen=True, slots=True)
class ShardTask:
    """What `build_shard` makes; `n_inputs` counts the documents that each part was given."""

    name: str
    identity: str
    inputs: str
    parts: tuple[PartNames, ...]
    n_inputs: tuple[int, ...]


def build_shard(root: str, task: ShardTask) -> ShardEntry:
    """Encoded parts -> one shard, described for the manifest."""
    collection = Collection(root)
    vectors = [PartVectors(part.output(collection, "encode")) for part in task.parts if not part.failed_stage]
    folder = collection.shard_path(task.name)
    n_passages = sum(len(part.read().pooled) for part in vectors)
    checksums = write_shard(folder, vectors) if n_passages else {}
    parts = [_describe(collection, *part) for part in zip(task.parts, task.n_inputs, strict=True)]
    return ShardEntry(
        name=task.name,
        identity=task.identity,
        inputs=task.inputs,
        parts=parts,
        n_passages=n_passages,
        n_tokens=sum(part.n_tokens for part in parts),
        n_bytes=sum((folder / file).stat().st_size for file in checksums),
        sha256=checksums,
    )


def _describe(collection: Collection, part: PartNames, n_inputs: int) -> PartEntry:
    """Count what a part's files hold."""
    if part.failed_stage:
        return PartEntry(
            documents=part.documents,
            passages="",
            n_inputs=n_inputs,
            n_documents=0,
            n_quarantined=n_inputs,
            n_pages=0,
            n_passages=0,
            n_tokens=0,
            n_truncated=0,
            failed_stage=part.failed_stage,
        )
    pages = pq.read_table(collection.documents_path(part.documents), columns=["n_pages"])["n_pages"]
    stored = PartVectors(part.output(collection, "encode")).read()
    return PartEntry(
        documents=part.documents,
        passages=part.passages,
        n_inputs=n_inputs,
        n_documents=len(pages),
        n_quarantined=pq.read_metadata(collection.quarantine_path(part.documents)).num_rows,
        n_pages=pc.sum(pages).as_py() or 0,
        n_passages=len(stored.pooled),
        n_tokens=len(stored.tokens),
        n_truncated=int(np.count_nonzero(stored.truncated)),
    )
