"""How much room a shard takes, and for what."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hiperrag.index import lexical, passages

TEXT_FILES = {*passages.FILES, *lexical.FILES}


def shard_sizes(folder: Path, files: Iterable[str]) -> tuple[int, int]:
    """Bytes of the vectors, and of the passages' text and words, among a shard's files."""
    sizes = {name: (folder / name).stat().st_size for name in files}
    text = sum(size for name, size in sizes.items() if name in TEXT_FILES)
    return sum(sizes.values()) - text, text
