"""A collection on disk: its folders, and the manifest that says which of its files count.

Every file is written under a temporary name and renamed; the manifest is the commit point. A reader loads the
manifest once and opens only what it names, so it sees the collection before or after a commit, never between.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hiperrag.claims import Claims
from hiperrag.errors import UserError, first_mistake
from hiperrag.files import TEMPORARY_MARK, write_text_atomic

FORMAT_VERSION = 2

FOLDERS = ("documents", "passages", "quarantine", "shards", "vectors", "deletions")
"""Those whose files count only if the manifest names them."""

FailedStage = Literal["", "parse", "recognise", "chunk", "encode"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncoderEntry(_Record):
    """The one encoder whose vectors a collection holds."""

    spec: str
    identity: str
    tokenizer: str
    """Identity of what decides where passages end: the tokenizer and the token limit."""
    dim: int
    pooled_dim: int
    max_tokens: int


class PartEntry(_Record):
    """One part: the unit of work of the parse, chunk and encode stages, and the files it left.

    `documents` and `passages` are the identities in the names of the part's Parquet files, `vectors` that of its
    vectors, which are `n_rows` consecutive rows of the shard: one a passage, but for those deleted before it was built.
    inputs = n_documents + n_quarantined, where ready text counts rows.
    """

    documents: str
    passages: str
    vectors: str
    inputs: str
    """Hash of the list of inputs, whatever the settings: finds the part in the plan again."""
    n_rows: int
    n_inputs: int
    n_documents: int
    n_quarantined: int
    n_pages: int
    n_passages: int
    n_tokens: int
    n_truncated: int
    n_left_out: int = 0
    """Documents whose passages were not taken into the shard: deleted, or held by another part as well."""
    failed_stage: FailedStage = ""
    """Set when a stage could not process the part at all; a rerun tries it again."""


class ShardEntry(_Record):
    """One searchable shard, holding the passages of `parts` in order.

    `deleted` is the identity of deletions/*.npy, the rows that count as gone; empty when there are none.
    """

    name: str
    identity: str
    parts: list[PartEntry]
    n_passages: int
    n_tokens: int
    n_bytes: int
    """Of the vectors."""
    n_text_bytes: int
    """Of the passages' text and words."""
    sha256: dict[str, str]
    """Checksum of each file in the shard's folder; empty for a shard without passages (no folder)."""
    deleted: str = ""
    n_deleted: int = 0
    n_deleted_documents: int = 0


class Counts(_Record):
    """Totals over all shards."""

    inputs: int = 0
    documents: int = 0
    quarantined: int = 0
    pages: int = 0
    passages: int = 0
    tokens: int = 0
    truncated: int = 0
    parts: int = 0
    shards: int = 0
    deleted: int = 0
    """Passages that are deleted and still take up room."""
    bytes: int = 0
    """Of the vectors."""
    text_bytes: int = 0
    """Of the passages' text and words in the shards."""


class Manifest(_Record):
    """What a collection consists of."""

    format: int
    hiperrag: str
    """Version of the program that wrote the manifest."""
    encoder: EncoderEntry
    settings: dict[str, Any]
    settings_hash: str
    run: str
    duplicates: list[tuple[str, str]] = []
    """Files left out because their bytes equal those of another: (file, the one that was kept)."""
    unreadable: str = ""
    """Identity of quarantine/discover-*.parquet: sources that could not be opened at all."""
    n_unreadable: int = 0
    deleted: str = ""
    """Identity of deletions/documents-*.parquet, the documents that were deleted."""
    n_deleted_documents: int = 0
    """Documents of the parts that are not to be found: deleted, or held twice before collections were merged."""
    shards: list[ShardEntry]
    counts: Counts

    @property
    def parts(self) -> list[PartEntry]:
        """All parts, in shard order."""
        return [part for shard in self.shards for part in shard.parts]


def count(shards: Iterable[ShardEntry], n_unreadable: int = 0) -> Counts:
    """Add up what shards hold."""
    shards = list(shards)
    parts = [part for shard in shards for part in shard.parts]
    return Counts(
        inputs=sum(part.n_inputs for part in parts) + n_unreadable,
        documents=sum(part.n_documents for part in parts),
        quarantined=sum(part.n_quarantined for part in parts) + n_unreadable,
        pages=sum(part.n_pages for part in parts),
        passages=sum(shard.n_passages - shard.n_deleted for shard in shards),
        tokens=sum(shard.n_tokens for shard in shards),
        truncated=sum(part.n_truncated for part in parts),
        parts=len(parts),
        shards=len(shards),
        deleted=sum(shard.n_deleted for shard in shards),
        bytes=sum(shard.n_bytes for shard in shards),
        text_bytes=sum(shard.n_text_bytes for shard in shards),
    )


def count_deleted_documents(shards: Iterable[ShardEntry]) -> int:
    """Documents of the parts that are not to be found."""
    return sum(shard.n_deleted_documents + sum(part.n_left_out for part in shard.parts) for shard in shards)


class Collection:
    """Paths of a collection and access to its manifest."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.manifest_path = self.root / "manifest.json"
        self.inputs_path = self.root / "inputs.parquet"
        self.runs = self.root / "runs"
        self.vectors = self.root / "vectors"
        """Encoded parts waiting for their shard; empty between runs."""
        self.claims = self.root / "claims"
        """Who works on the collection."""
        self.surveys = self.root / "surveys"
        """Parts read once, waiting for the choice of the pages to recognise; gone between runs."""
        self.spent = self.surveys / "spent"
        """Under a budget of time: what the recognition of each part took."""

    def documents_path(self, identity: str) -> Path:
        """Documents of one part."""
        return self.root / "documents" / f"part-{identity}.parquet"

    def survey_path(self, identity: str) -> Path:
        """Documents of one part before recognition."""
        return self.surveys / f"part-{identity}.parquet"

    def passages_path(self, identity: str) -> Path:
        """Passages of one part."""
        return self.root / "passages" / f"part-{identity}.parquet"

    def quarantine_path(self, identity: str) -> Path:
        """Quarantined inputs of one part; exists even when there are none."""
        return self.root / "quarantine" / f"part-{identity}.parquet"

    def failed_path(self, identity: str) -> Path:
        """Inputs of a part that a stage could not process at all."""
        return self.root / "quarantine" / f"failed-{identity}.parquet"

    def unreadable_path(self, identity: str) -> Path:
        """Sources that could not be opened when inputs were listed."""
        return self.root / "quarantine" / f"discover-{identity}.parquet"

    def shard_path(self, name: str) -> Path:
        """Folder of one shard."""
        return self.root / "shards" / name

    def deleted_rows_path(self, identity: str) -> Path:
        """Rows of one shard that are deleted."""
        return self.root / "deletions" / f"rows-{identity}.npy"

    def deleted_documents_path(self, identity: str) -> Path:
        """All documents that were deleted."""
        return self.root / "deletions" / f"documents-{identity}.parquet"

    def exists(self) -> bool:
        """Whether anything has been committed."""
        return self.manifest_path.is_file()

    def manifest(self) -> Manifest:
        """Load the manifest; UserError when there is none or it cannot be used."""
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such collection; make one with `hiperrag index SOURCE --to {self.root}`")
        try:
            data = json.loads(self.manifest_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"{self.root}: not a collection (no manifest.json); if its first indexing run was interrupted, "
                "rerun that command to resume it"
            ) from None
        except (ValueError, OSError) as error:
            raise UserError(
                f"{self.manifest_path}: unreadable ({error}); restore it, or index the sources into a new folder"
            ) from None
        version = data.get("format") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise UserError(
                f"{self.root}: written in collection format {version}, this program reads format {FORMAT_VERSION}; "
                "index the sources again or use the matching version"
            )
        try:
            return Manifest.model_validate(data)
        except ValidationError as error:
            raise UserError(
                f"{self.manifest_path}: damaged at {first_mistake(error)}; "
                "restore it, or index the sources into a new folder"
            ) from None

    def state(self) -> tuple[int, ...]:
        """Differs after every commit, also after one that brings an earlier manifest back."""
        try:
            status = self.manifest_path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_ino

    def commit(self, manifest: Manifest) -> None:
        """Make `manifest` the state that readers see."""
        write_text_atomic(self.manifest_path, manifest.model_dump_json(indent=1) + "\n")

    def quarantine_files(self, manifest: Manifest) -> list[Path]:
        """Files that list the quarantined inputs of a manifest."""
        files = [
            self.failed_path(part.documents) if part.failed_stage else self.quarantine_path(part.documents)
            for part in manifest.parts
            if part.n_quarantined
        ]
        if manifest.n_unreadable:
            files.append(self.unreadable_path(manifest.unreadable))
        return files

    def collect_garbage(self, manifest: Manifest, folders: Sequence[str] = FOLDERS) -> None:
        """Delete files and shards in these folders that the manifest does not name.

        Call only while no other run works on the collection. Readers that have opened the previous state keep it:
        their files are mapped. One that is about to open it starts again with the manifest that is there now.
        """
        for path in self.unnamed_files(manifest, folders):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def unnamed_files(self, manifest: Manifest, folders: Sequence[str] = FOLDERS) -> list[Path]:
        """Files and shards in these folders that the manifest does not name."""
        wanted = {self.shard_path(shard.name) for shard in manifest.shards}
        for part in manifest.parts:
            wanted |= {
                self.documents_path(part.documents),
                self.quarantine_path(part.documents),
                self.passages_path(part.passages),
            }
            if part.failed_stage:
                wanted.add(self.failed_path(part.documents))
        if manifest.unreadable:
            wanted.add(self.unreadable_path(manifest.unreadable))
        if manifest.deleted:
            wanted.add(self.deleted_documents_path(manifest.deleted))
        wanted |= {self.deleted_rows_path(shard.deleted) for shard in manifest.shards if shard.deleted}
        return [path for folder in folders for path in sorted((self.root / folder).glob("*")) if path not in wanted]

    @contextlib.contextmanager
    def sole_writer(self, command: str) -> Iterator[Claims]:
        """Keep all other commands that write the collection away; UserError that names one that does already."""
        with Claims(self.claims, command) as claims:
            claims.join(exclusive=True)
            yield claims

    def temporary_files(self) -> list[Path]:
        """What is being written, or was when a command was killed."""
        return sorted(path for path in self.root.glob(f"**/{TEMPORARY_MARK}*") if path.parent != self.claims)

    def remove_all(self) -> None:
        """Delete everything but the claims."""
        for path in self.root.iterdir():
            if path != self.claims:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def remove_temporary_files(self) -> None:
        """Delete what a killed command left half-written."""
        for path in self.temporary_files():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
