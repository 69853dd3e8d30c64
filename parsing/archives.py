"""Members of zip and tar archives: listed, and opened as streams; nothing is ever unpacked to disk."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from hiperrag.parsing.errors import ParseError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
DAMAGE = (
    EOFError,
    NotImplementedError,  # zip: a compression method Python lacks
    RuntimeError,  # zip: member is encrypted
    UnicodeError,
    ValueError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the standard library raises on a damaged archive or compressed file (besides OSError)."""

CHANGED = "the file has changed since it was listed; run again"

_ENCRYPTED = 0x1


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A regular file inside an archive; `offset` is where it begins in the unpacked tar (0 in a zip)."""

    name: str
    size: int
    stamp: str
    offset: int
    encrypted: bool = False


def is_archive(name: str) -> bool:
    """Whether a file name has one of the endings of `SUFFIXES`."""
    return name.lower().endswith(SUFFIXES)


def list_members(path: str) -> Iterator[Member]:
    """Regular files of an archive in the order stored; of several with one name, the last.

    Raises ParseError("damaged") for an archive that cannot be read to its end, after the members before the
    damage, and OSError.
    """
    try:
        if path.lower().endswith(".zip"):
            yield from _zip_members(path)
        else:
            yield from _tar_members(path)
    except DAMAGE as error:
        raise ParseError("damaged", f"the archive cannot be read to its end: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Class and text of an exception on one line."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _zip_members(path: str) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir() and archive.NameToInfo[info.filename] is info:
                encrypted = bool(info.flag_bits & _ENCRYPTED)
                yield Member(info.filename, info.file_size, _zip_stamp(info), 0, encrypted)


def _tar_members(path: str) -> Iterator[Member]:
    modified = Path(path).stat().st_mtime_ns
    found: dict[str, Member] = {}
    damage: Exception | None = None
    with unpacked_stream(path) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for info in archive:
                    if info.isreg() and not info.issparse():
                        name = info.name.encode("utf-8", "replace").decode()
                        found.pop(name, None)
                        stamp = _tar_stamp(modified, info.offset_data)
                        found[name] = Member(name, info.size, stamp, info.offset_data)
                stream.seek(archive.offset)
                # tarfile takes a broken header for the end of the archive.
                if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError("damaged header")
        except (*DAMAGE, OSError) as error:
            damage = error
    yield from found.values()
    if damage:
        raise ParseError(
            "damaged",
            f"the archive is damaged after {len(found)} readable files ({describe(damage)})",
        )


def _zip_stamp(info: zipfile.ZipInfo) -> str:
    return f"{info.CRC:08x}"


def _tar_stamp(modified: int, offset: int) -> str:
    return f"{modified}:{offset}"


def unpacked_name(path: str) -> str:
    """The file name without its compression; "" where nothing has to be unpacked to get at a place in the file."""
    name = Path(path).name
    for packed, plain in (
        (".tgz", ".tar"),
        (".tbz2", ".tar"),
        (".txz", ".tar"),
        (".gz", ""),
        (".bz2", ""),
        (".xz", ""),
    ):
        if name.lower().endswith(packed):
            return name[: -len(packed)] + plain
    return ""


def unpacked_stream(path: str) -> BinaryIO:
    """What a possibly compressed file holds, as a seekable stream (backward seeks start over)."""
    name = path.lower()
    if name.endswith((".gz", ".tgz")):
        return cast(BinaryIO, gzip.open(path))
    if name.endswith((".bz2", ".tbz2")):
        return cast(BinaryIO, bz2.open(path))
    if name.endswith((".xz", ".txz")):
        return cast(BinaryIO, lzma.open(path))
    return open(path, "rb")  # noqa: PTH123


class _Window(io.RawIOBase):
    """Bytes offset..offset + size of a seekable stream, as a stream of their own."""

    def __init__(self, stream: BinaryIO, offset: int, size: int, owned: bool) -> None:
        self._stream, self._offset, self._size, self._owned = stream, offset, size, owned
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))
        self._stream.seek(self._offset + self._position)
        data = self._stream.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        if wanted and not data:
            raise EOFError("the archive ends inside this file")
        return len(data)

    def close(self) -> None:
        if self._owned:
            self._stream.close()
        super().close()


_Archive = zipfile.ZipFile | BinaryIO
_open_archives: OrderedDict[tuple[int, str, int, int], _Archive] = OrderedDict()
_KEPT_OPEN = 2


def _shared_archive(path: str) -> _Archive:
    """The archive, opened once per process and kept while among the last few used.

    The key holds the process id, as a forked process shares file positions with its parent.
    """
    stat = Path(path).stat()
    key = (os.getpid(), path, stat.st_mtime_ns, stat.st_size)
    if key not in _open_archives:
        _open_archives[key] = _open_archive(path)
        if len(_open_archives) > _KEPT_OPEN:
            (owner, *_), archive = _open_archives.popitem(last=False)
            if owner == os.getpid():
                archive.close()
    _open_archives.move_to_end(key)
    return _open_archives[key]


def _open_archive(path: str) -> _Archive:
    return zipfile.ZipFile(path) if path.lower().endswith(".zip") else unpacked_stream(path)


def open_member(path: str, member: Member, shared: bool) -> IO[bytes]:
    """A seekable stream over one member, as listed by `list_members`.

    shared: read through the archive this process keeps open (for many small members, one at a time), rather
    than through a handle of its own (for a member that stays open while others are read).
    Raises ParseError("changed") if the member is another one than was listed; else as `DAMAGE` and OSError.
    """
    is_zip = path.lower().endswith(".zip")
    if not is_zip and member.stamp != _tar_stamp(Path(path).stat().st_mtime_ns, member.offset):
        raise ParseError("changed", CHANGED)
    archive = _shared_archive(path) if shared else _open_archive(path)
    if not isinstance(archive, zipfile.ZipFile):
        return io.BufferedReader(_Window(archive, member.offset, member.size, owned=not shared))
    try:
        info = archive.NameToInfo.get(member.name)
        if info is None or _zip_stamp(info) != member.stamp:
            raise ParseError("changed", CHANGED)
        return archive.open(info)
    finally:
        if not shared:
            archive.close()  # the file itself stays open until the member is closed
