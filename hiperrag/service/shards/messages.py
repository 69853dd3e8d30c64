"""What the front end and a shard process say to each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hiperrag.index.codec import QueryCodes
from hiperrag.index.kernels import Effort
from hiperrag.index.portion import Source
from hiperrag.index.search import Found

BEAT_S = 0.5
"""How often a shard process says that it is alive."""
BEAT = "alive"


class Request(NamedTuple):
    """An operation of `ShardServer` to perform."""

    number: int
    operation: str
    arguments: tuple[Any, ...]


class Failure(NamedTuple):
    """Why an operation failed; `expected`: by a UserError, of which this is the message."""

    message: str
    expected: bool


class Reply(NamedTuple):
    """What came of the request of this number."""

    number: int
    result: Any
    failure: Failure | None


@dataclasses.dataclass(frozen=True, slots=True)
class Opening:
    """A version to open: the shards `numbers` of all its `sources`, of `sizes` passages each."""

    version: int
    numbers: Sequence[int]
    sources: Sequence[Source]
    sizes: Sequence[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """Queries to a version; see `Searcher.search` for `k` and `texts`, `pack_masks` for `masked` and `bits`.

    effort: None for an exact search.
    """

    version: int
    codes: Sequence[QueryCodes]
    k: int
    effort: Effort | None
    masked: Sequence[bool]
    bits: npt.NDArray[np.uint8]
    texts: Sequence[str] | None


class Proposal(NamedTuple):
    """Candidates for one query by their estimates, and by words where it has any."""

    candidates: Found
    by_words: Found | None
