"""Copies on each node's own file system, made once a node, so that workers do not all read the shared one.

On 256 nodes the paper's runs spent six minutes loading their model (section Workflow). A site names the node's file
system as `node_local`; workers find it in HIPERRAG_NODE_LOCAL.

Staged are models, and those inputs of which every worker would read all to get at its share: compressed tar archives
and compressed rows, which are unpacked on the way. From the others each worker reads its share at its place, once, so a
copy for every node would cost more than it saves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from hiperrag.encoders import encoder_folder
from hiperrag.encoders.precision import split_spec
from hiperrag.files import atomic_directory, fingerprint
from hiperrag.parsing.archives import DAMAGE, unpacked_name, unpacked_stream
from hiperrag.parsing.sources import Input

VARIABLE = "HIPERRAG_NODE_LOCAL"
IN_MEMORY = ("tmpfs", "ramfs")
"""File systems that take the memory of the node: room for a model, not for inputs."""
_CHUNK = 16 << 20


def staged(source: Path) -> Path:
    """A copy of a file or folder on this node's own file system; `source` itself where the site names none.

    The first worker that asks copies and the others wait for it. A copy is known by the source's path, sizes and time
    stamps, so a changed source is copied anew. `source` is also returned when it is there already, or does not fit.
    """
    node, source = _node_local(), source.resolve()
    if not node or source.is_relative_to(node.parent.resolve()):
        return source
    listed = _list(source)
    copy = node / "models" / fingerprint(str(source), listed) / source.name
    try:
        with _made(copy, lambda: _copy(source, copy, sum(size for _, size, _ in listed))):
            return copy
    except OSError:  # a missing or full disk of the node costs time, not the run
        return source


def staged_encoder(spec: str) -> str:
    """The spec of an encoder with its folder staged; its precision is kept."""
    if VARIABLE not in os.environ:
        return spec
    folder, (_, precision) = staged(encoder_folder(spec)), split_spec(spec)
    return f"{folder}:{precision}" if precision else str(folder)


@contextlib.contextmanager
def staged_inputs(inputs: Sequence[Input]) -> Iterator[list[Input]]:
    """The same inputs, read from unpacked copies on this node where that pays; the copies stay while this lasts.

    Nothing but where the bytes lie differs. Copies that nobody uses make room for others.
    """
    node = _node_local()
    packed = sorted({item.path for item in inputs if unpacked_name(item.path)})
    with contextlib.ExitStack() as stack:
        places = {path: stack.enter_context(_unpacked(node / "inputs", path)) for path in packed} if node else {}
        yield [dataclasses.replace(item, path=places.get(item.path, item.path)) for item in inputs]


def _node_local() -> Path | None:
    named = os.environ.get(VARIABLE)
    return Path(os.path.expandvars(named)) / "hiperrag-staged" if named else None


@contextlib.contextmanager
def _unpacked(root: Path, path: str) -> Iterator[str]:
    """The path of an unpacked copy, which is kept until the end; `path` itself if there can be none."""
    with contextlib.ExitStack() as stack:
        place = path
        with contextlib.suppress(OSError):
            status = Path(path).stat()
            copy = root / fingerprint(path, status.st_size, status.st_mtime_ns, "unpacked") / unpacked_name(path)
            if not copy.with_name("refused").exists() and not is_in_memory(root):
                stack.enter_context(_made(copy, lambda: _unpack(path, copy)))
                place = str(copy)
        yield place


@contextlib.contextmanager
def _made(copy: Path, make: Callable[[], None]) -> Iterator[None]:
    """The copy is there, and stays until the end; made first if need be. Its lock is on the node, where it is sound."""
    copy.parent.parent.mkdir(parents=True, exist_ok=True)
    with _lock_of(copy.parent).open("w") as lock:
        if not copy.exists():
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists():
                make()
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not copy.exists():
            raise OSError("removed to make room for another")
        os.utime(copy.parent)
        yield


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _list(source: Path) -> list[tuple[str, int, int]]:
    """Path, size in bytes and time stamp of each file."""
    files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    stats = [(str(path.relative_to(source)), path.stat()) for path in files]
    return [(path, status.st_size, status.st_mtime_ns) for path, status in stats]


def _copy(source: Path, copy: Path, n_bytes: int) -> None:
    if shutil.disk_usage(copy.parent.parent).free < 2 * n_bytes:
        raise OSError("no room")
    with atomic_directory(copy.parent) as folder:
        if source.is_dir():
            shutil.copytree(source, folder / source.name)
        else:
            shutil.copy2(source, folder / source.name)


def _unpack(path: str, copy: Path) -> None:
    """Write what a compressed file holds; if that is more than half of the room there is, it is not tried again."""
    status = Path(path).stat()
    _make_room(copy, 4 * status.st_size)
    try:
        with (
            atomic_directory(copy.parent) as folder,
            unpacked_stream(path) as stream,
            (folder / copy.name).open("wb") as to,
        ):
            _pour(stream, to, shutil.disk_usage(folder).free // 2)
            to.flush()
            os.utime(folder / copy.name, ns=(status.st_atime_ns, status.st_mtime_ns))  # listings tell files by it
    except (*DAMAGE, OSError) as error:  # a damaged one is read where it lies, as far as it goes
        copy.parent.mkdir(exist_ok=True)
        copy.with_name("refused").touch()
        raise OSError("cannot be unpacked here") from error


def _pour(stream: IO[bytes], to: IO[bytes], room: int) -> None:
    while data := stream.read(_CHUNK):
        room -= len(data)
        if room < 0:
            raise OSError("no room")
        to.write(data)


def _make_room(copy: Path, n_bytes: int) -> None:
    """Remove copies that no worker uses, longest unused first, until so much is free; OSError if it never is."""
    root = copy.parent.parent
    others = [path for path in root.iterdir() if path.is_dir() and path != copy.parent]
    for folder in sorted(others, key=lambda path: path.stat().st_mtime):
        if shutil.disk_usage(root).free >= n_bytes:
            return
        with contextlib.suppress(OSError), _lock_of(folder).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    if shutil.disk_usage(root).free < n_bytes:
        raise OSError("no room")


def is_in_memory(folder: Path) -> bool:
    """Whether the folder's file system is one in memory."""
    mounted = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    place = folder.resolve()
    at = [(len(where), kind) for where, kind in mounted if place.is_relative_to(where)]
    return max(at, default=(0, ""))[1] in IN_MEMORY
