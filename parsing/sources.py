"""What a user names on the command line as a list of inputs."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hiperrag.errors import UserError
from hiperrag.parsing import archives, row_files
from hiperrag.parsing.errors import ParseError
from hiperrag.parsing.inputs import Input, file_name, guarded, iter_rows, open_unpacked, read_bytes
from hiperrag.records import Quarantined

__all__ = ["Discovery", "Input", "discover", "iter_rows", "read_bytes"]

ROWS_PER_INPUT = 512
SUPPORTED = "a PDF, a folder, a zip or tar archive, or .jsonl, .jsonl.gz or .parquet of ready text"


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


def discover(sources: Sequence[str], rows_per_input: int = ROWS_PER_INPUT) -> Discovery:
    """List the inputs under `sources` (files, folders, archives), in the order given and by name within.

    Raises UserError for a source that does not exist or is of no supported kind, and if nothing is found.
    """
    search = _Search(rows_per_input)
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
    def __init__(self, rows_per_input: int) -> None:
        self.found = Discovery()
        self._rows_per_input = rows_per_input
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
        elif _kind(path.name) == "archive":
            self._archive(source, real)
        else:
            status = Path(real).stat()
            self._add(Input(source, "pdf", real, "", 0, 0, status.st_size, str(status.st_mtime_ns)), named)

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
