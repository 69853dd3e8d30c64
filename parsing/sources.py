"""What a user names on the command line as a list of inputs."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from hiperrag.errors import UserError
from hiperrag.parsing import archives, row_files
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.inputs import Input, file_name, guarded, iter_rows, open_unpacked, read_bytes
from hiperrag.records import Quarantined

__all__ = ["Discovery", "Input", "KnownFiles", "Listing", "discover", "iter_rows", "read_bytes"]

ROWS_PER_INPUT = 512
SUPPORTED = "a PDF, a folder, a zip or tar archive, or .jsonl, .jsonl.gz or .parquet of ready text"


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """What an archive or a file of ready text gave beside inputs, and when that is still so without opening it."""

    size: int
    modified_ns: int
    rows_per_input: int
    ignored: int
    unreadable: tuple[tuple[str, str, str], ...]
    """What follows the file's own name, class of error, message."""


KnownFiles = Mapping[str, tuple[Listing, Sequence[Input]]]
"""Listings of earlier runs with their inputs, by the file's absolute path."""


@dataclasses.dataclass(slots=True)
class Discovery:
    """What was found under the sources a user named."""

    inputs: list[Input] = dataclasses.field(default_factory=list)
    unreadable: list[Quarantined] = dataclasses.field(default_factory=list)
    """Files that should have given inputs and could not be opened (stage "discover")."""
    ignored: int = 0
    """Files in folders and archives that are of no kind we read (hidden ones not counted)."""
    duplicates: int = 0
    """Files named or linked more than once; the first mention counts."""
    listings: dict[str, Listing] = dataclasses.field(default_factory=dict)
    """Of the archives and files of ready text that gave inputs, by absolute path."""


def discover(
    sources: Sequence[str], rows_per_input: int = ROWS_PER_INPUT, known: KnownFiles | None = None
) -> Discovery:
    """List the inputs under `sources` (files, folders, archives), in the order given and by name within.

    Files that are `known` and have not changed are not opened.
    Raises UserError for a source that does not exist or is of no supported kind, and if nothing is found.
    """
    search = _Search(rows_per_input, known or {})
    for given in sources:
        path = Path(given).expanduser()
        if not path.exists():
            raise UserError(f"{given} does not exist; check the path")
        if path.is_dir():
            search.folder(path)
        elif _kind(path.name):
            search.file(path, os.path.realpath(path), named=True)
        else:
            raise UserError(f"{given} cannot be read; give {SUPPORTED}")
    found = search.found
    if not found.inputs and not found.unreadable:
        named = ", ".join(sources) or "an empty list of sources"
        raise UserError(f"nothing to read in {named} ({found.ignored} other files); give {SUPPORTED}")
    return found


def _kind(name: str) -> Literal["pdf", "rows", "archive", ""]:
    if name.lower().endswith(".pdf"):
        return "pdf"
    if row_files.is_row_file(name):
        return "rows"
    return "archive" if archives.is_archive(name) else ""


def _hidden(name: str) -> bool:
    return any((part[:1] == "." and part not in (".", "..")) or part == "__MACOSX" for part in name.split("/"))


class _Search:
    def __init__(self, rows_per_input: int, known: KnownFiles) -> None:
        self.found = Discovery()
        self._rows_per_input, self._known = rows_per_input, known
        self._seen: set[str] = set()

    def folder(self, top: Path) -> None:
        """Every file below `top`, in order of names; a folder reached twice (a link loop) is read once."""
        visited: set[tuple[int, int]] = set()
        pending = [(top, os.path.realpath(top))]
        while pending:
            folder, real = pending.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in visited:
                    continue
                visited.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    listed = sorted((e for e in entries if not _hidden(e.name)), key=lambda e: e.name)
            except OSError as error:
                self._unreadable(str(folder), "unreadable", _reason(error))
                continue
            folders = []
            for entry in listed:
                inside = f"{real}/{entry.name}"
                target = os.path.realpath(inside) if entry.is_symlink() else inside
                if os.path.isdir(target):  # noqa: PTH112 (False for every error, unlike Path and DirEntry)
                    folders.append((folder / entry.name, target))
                elif _kind(entry.name):
                    self.file(folder / entry.name, target, named=False)
                else:
                    self.found.ignored += 1
            pending.extend(reversed(folders))

    def file(self, path: Path, real: str, named: bool) -> None:
        """A file whose name is of a supported kind; `named` by the user rather than found in a folder."""
        source = str(path)
        if real in self._seen:
            self.found.duplicates += 1
            return
        self._seen.add(real)
        problem = _problem(source, real)
        if problem:
            self._unreadable(source.encode("utf-8", "replace").decode(), "unreadable", problem)
        else:
            status = Path(real).stat()
            whole = Input(source, "pdf", real, "", 0, 0, status.st_size, str(status.st_mtime_ns))
            kind = _kind(path.name)
            if kind == "pdf":
                self._add(whole, named)
            elif not self._as_known(source, real, status):
                self._look_into(whole, status, kind == "archive", named)

    def _as_known(self, source: str, path: str, status: os.stat_result) -> bool:
        """List a file as an earlier run did, if it is the same."""
        listing, inputs = self._known.get(path, (None, ()))
        state = (status.st_size, status.st_mtime_ns, self._rows_per_input)
        if not listing or not inputs or state != (listing.size, listing.modified_ns, listing.rows_per_input):
            return False
        for item in inputs:
            name = f"{source}/{item.member}" if item.member else source
            self.found.inputs.append(dataclasses.replace(item, source=name))
        for rest, error, message in listing.unreadable:
            self._unreadable(source + rest, error, message)
        self.found.ignored += listing.ignored
        self.found.listings[path] = listing
        return True

    def _look_into(self, whole: Input, status: os.stat_result, is_archive: bool, named: bool) -> None:
        """Open an archive or a file of ready text, and list what is in it."""
        found = self.found
        n_inputs, n_unreadable, n_ignored = len(found.inputs), len(found.unreadable), found.ignored
        if is_archive:
            self._archive(whole.source, whole.path)
        else:
            self._add(whole, named)
        if len(found.inputs) > n_inputs:
            found.listings[whole.path] = Listing(
                status.st_size,
                status.st_mtime_ns,
                self._rows_per_input,
                found.ignored - n_ignored,
                tuple((q.source[len(whole.source) :], q.error, q.message) for q in found.unreadable[n_unreadable:]),
            )

    def _archive(self, source: str, path: str) -> None:
        try:
            for member in archives.list_members(path):
                name = f"{source}/{member.name}"
                kind = _kind(member.name)
                if _hidden(member.name):
                    continue
                if kind == "":
                    self.found.ignored += 1
                elif kind == "archive":
                    self._unreadable(name, "unsupported", "an archive inside an archive; unpack the outer one")
                elif member.encrypted:
                    self._unreadable(name, "encrypted", "the archive member needs a password")
                else:
                    place = (path, member.name, 0, 0, member.size, member.stamp, member.offset, member.size)
                    self._add(Input(name, "pdf", *place), named=False)
        except ParseError as error:
            self._unreadable(source, error.error, error.message)
        except OSError as error:
            self._unreadable(source, "unreadable", _reason(error))

    def _add(self, whole: Input, named: bool) -> None:
        """A whole file or member: a PDF as it is, ready text cut into ranges of rows."""
        if file_name(whole).endswith(".pdf"):
            self.found.inputs.append(whole)
            return
        try:
            with guarded(), open_unpacked(whole, shared=False) as stream:
                if file_name(whole).endswith(".parquet"):
                    ranges = row_files.parquet_ranges(stream, whole.size, self._rows_per_input)
                else:
                    ranges = row_files.jsonl_ranges(stream, self._rows_per_input)
        except ParseError as error:
            if error.error == row_files.OTHER_DATA and not named:
                self.found.ignored += 1
            else:
                self._unreadable(whole.source, error.error, error.message)
            return
        for r in ranges:
            place = {"start": r.start, "stop": r.stop, "size": r.size, "row_offset": r.offset}
            self.found.inputs.append(dataclasses.replace(whole, kind="rows", **place))  # type: ignore[arg-type]

    def _unreadable(self, source: str, error: str, message: str) -> None:
        self.found.unreadable.append(Quarantined(source, "discover", error, message))


def _problem(source: str, real: str) -> str:
    """Why a file cannot be an input, "" if it can."""
    try:
        (source + real).encode()
        status = Path(real).stat()
    except UnicodeEncodeError:
        return "the file's name is not valid UTF-8; rename it"
    except OSError as error:
        return _reason(error)
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    return "" if os.access(real, os.R_OK) else "permission denied"


def _reason(error: OSError) -> str:
    return (error.strerror or archives.describe(error)).lower()
