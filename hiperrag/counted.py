"""Numbers of things, as people write them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """ "1 shard", "2 shards"; `noun` is singular and takes an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sized(n_bytes: int) -> str:
    """ "0.4 kB", "3.1 MB", "2.0 GB", in powers of 1000."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 1e3:.1f} kB"
