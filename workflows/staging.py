"""Copies of models on each node's own file system, made once a node, so that workers do not all read the shared one.

On 256 nodes the paper's runs spent six minutes loading their model (section Workflow). A site names the node's file
system as `node_local`; workers find it in HIPERRAG_NODE_LOCAL.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from hiperrag.encoders import encoder_folder
from hiperrag.encoders.precision import split_spec
from hiperrag.files import atomic_directory, fingerprint

VARIABLE = "HIPERRAG_NODE_LOCAL"


def staged(source: Path) -> Path:
    """A copy of a file or folder on this node's own file system; `source` itself where the site names none.

    The first worker that asks copies and the others wait for it. A copy is known by the source's path, sizes and time
    stamps, so a changed source is copied anew. `source` is also returned when it is there already, or does not fit.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return source
    root, source = Path(os.path.expandvars(named)) / "hiperrag-staged", source.resolve()
    if source.is_relative_to(Path(os.path.expandvars(named)).resolve()):
        return source
    listed = _list(source)
    copy = root / fingerprint(str(source), listed) / source.name
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{copy.parent.name}.lock").open("w") as lock:  # the lock is on the node, where locks are sound
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.exists():
                _copy(source, copy, sum(size for _, size, _ in listed))
    except OSError:  # a missing or full disk of the node costs time, not the run
        return source
    return copy


def staged_encoder(spec: str) -> str:
    """The spec of an encoder with its folder staged; its precision is kept."""
    if VARIABLE not in os.environ:
        return spec
    folder, (_, precision) = staged(encoder_folder(spec)), split_spec(spec)
    return f"{folder}:{precision}" if precision else str(folder)


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
