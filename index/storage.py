"""The files of a shard on disk: a description with their checksums, and plain .npy files, memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from hiperrag.errors import UserError
from hiperrag.files import write_text_atomic
from hiperrag.index import kernels

FORMAT = 1
"""Version of the files of a shard."""
DESCRIPTION = "shard.json"
LINES = "passages.jsonl"
"""The file that has a checksum for each of its lines instead of one of its own (see `passages.py`)."""
_CHECKSUM = "checksum"


class ArrayEntry(BaseModel):
    """One array; `checksum` is of all its bytes, None where each passage has its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: str
    shape: tuple[int, ...]
    checksum: int | None


class FileEntry(BaseModel):
    """One file that is not an array, or read as a whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    """Bytes."""
    checksum: int


class Description(BaseModel):
    """What a shard's folder holds. On disk, `checksum` beside these fields is that of the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    dim: int
    bits: int
    pooled_dim: int
    """0 where there are no pooled vectors."""
    has_text: bool
    """Whether the passages themselves are here, and their words."""
    n_passages: int
    n_tokens: int
    arrays: dict[str, ArrayEntry]
    files: dict[str, FileEntry] = {}
    """The other files, but for `LINES`."""


class ArrayWriter:
    """Writes the arrays of a folder; `entries` describes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, ArrayEntry] = {}

    def write(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write a whole array."""
        np.save(self.folder / f"{name}.npy", array)
        self.entries[name] = ArrayEntry(dtype=array.dtype.str, shape=array.shape, checksum=kernels.checksum(array))

    def create(self, name: str, dtype: type[np.generic], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """A large array to fill piece by piece, without a checksum of its own."""
        shape = tuple(map(int, shape))  # NumPy writes its own integers in a form that it cannot read
        self.entries[name] = ArrayEntry(dtype=np.dtype(dtype).str, shape=shape, checksum=None)
        return np.lib.format.open_memmap(self.folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)


def write_description(folder: Path, description: Description) -> None:
    """The last file of a shard's folder: lists, with their checksums, the files there that are not listed yet."""
    listed = {LINES, *(f"{name}.npy" for name in description.arrays)}
    files = {path.name: _entry_of(_map(path)) for path in sorted(folder.iterdir()) if path.name not in listed}
    data = description.model_copy(update={"files": files}).model_dump(mode="json")
    write_text_atomic(folder / DESCRIPTION, json.dumps(data | {_CHECKSUM: _checksum_of(data)}, indent=1) + "\n")


def read_description(folder: Path) -> Description:
    """UserError when it is missing, damaged, or of another format."""
    path = folder / DESCRIPTION
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise damaged(folder, f"{DESCRIPTION} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, first_line(error)) from None
    if not isinstance(data, dict) or data.pop(_CHECKSUM, None) != _checksum_of(data):
        raise damaged(path, "its checksum is wrong")
    if data.get("format") != FORMAT:
        raise UserError(
            f"{folder}: shard of format {data.get('format')}, this program reads format {FORMAT}; "
            "index the sources again or use the matching version"
        )
    try:
        return Description.model_validate(data)
    except ValueError as error:
        raise damaged(path, first_line(error)) from None


class Files:
    """The files of a description, mapped when it is opened and compared with their checksums when it is asked to."""

    def __init__(self, folder: Path, description: Description) -> None:
        self._folder, self._entries = folder, description.files
        self._unchecked = {name: self._map(name) for name in description.files}

    def check(self, names: Iterable[str]) -> None:
        """UserError if one of these files is not as it was written; each is read once."""
        for name in names:
            data = self._unchecked.get(name)
            if data is not None and _entry_of(data) != self._entries[name]:
                raise damaged(self._folder / name, "its checksum is wrong")
            self._unchecked.pop(name, None)

    def _map(self, name: str) -> npt.NDArray[np.uint8]:
        try:
            return _map(self._folder / name)
        except FileNotFoundError:
            raise damaged(self._folder / name, "it is missing") from None
        except (OSError, ValueError) as error:
            raise damaged(self._folder / name, first_line(error)) from None


def open_array(folder: Path, name: str, entry: ArrayEntry) -> npt.NDArray[Any]:
    """Memory-map an array after checking that it is what the description says; UserError if not."""
    path = folder / f"{name}.npy"
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
        excess = path.stat().st_size - mapped.offset - mapped.nbytes
    except FileNotFoundError:
        raise damaged(path, "it is missing") from None
    except Exception as error:  # NumPy reads headers as Python, which raises anything
        raise damaged(path, first_line(error)) from None
    array = mapped.view(np.ndarray)
    if excess:
        raise damaged(path, "it is longer than its array")
    if array.dtype.str != entry.dtype or array.shape != entry.shape or not array.flags.c_contiguous:
        raise damaged(path, f"it holds {array.shape} {array.dtype}, not {entry.shape} {entry.dtype}")
    if entry.checksum is not None and kernels.checksum(array) != entry.checksum:
        raise damaged(path, "its checksum is wrong")
    return array


def _map(path: Path) -> npt.NDArray[np.uint8]:
    size = path.stat().st_size
    return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray) if size else np.empty(0, dtype=np.uint8)


def _entry_of(data: npt.NDArray[np.uint8]) -> FileEntry:
    return FileEntry(size=len(data), checksum=kernels.checksum(data))


def _checksum_of(data: dict[str, Any]) -> int:
    return kernels.checksum(np.frombuffer(json.dumps(data, sort_keys=True).encode(), dtype=np.uint8))


def first_line(error: Exception) -> str:
    """What an error says, short enough for a message of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def damaged(path: Path, reason: str) -> UserError:
    """The error for a file that is not as it was written."""
    return UserError(f"{path}: damaged shard ({reason}); run `hiperrag doctor COLLECTION`")
