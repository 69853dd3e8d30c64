"""Which pairs make up which step: a function of the seed and the step alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class Order:
    """Rows of every step.

    Blocks hold rows of one source as far as these fill one, so that a source's style cannot tell answers apart. Neither
    the number of ranks nor what was done before matters, so a run can go on anywhere with any number of ranks.
    """

    def __init__(self, sources: Sequence[str], batch: int, block: int, seed: int) -> None:
        self._batch, self._block, self._seed = batch, block, seed
        names = {name: number for number, name in enumerate(sorted(set(sources)))}
        self._sources = np.array([names[source] for source in sources])
        self.steps_per_epoch = max(1, len(sources) // batch)

    def rows(self, step: int) -> npt.NDArray[np.int64]:
        """(batch,) indices of pairs of step 0, 1, ...; consecutive `block` of them are a block."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[within * self._batch : (within + 1) * self._batch]

    @functools.lru_cache(maxsize=1)  # noqa: B019 (an order lives as long as its training)
    def _epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        draw = np.random.default_rng([self._seed, epoch])
        rows = draw.permutation(len(self._sources))
        if len(rows) < self._batch:  # fewer pairs than a batch has: some come twice
            rows = np.resize(rows, self._batch)
        rows = rows[np.argsort(self._sources[rows], kind="stable")]
        whole, left = [], []
        for start, count in zip(
            *np.unique(self._sources[rows], return_index=True, return_counts=True)[1:], strict=True
        ):
            cut = start + count - count % self._block
            whole.append(rows[start:cut].reshape(-1, self._block))
            left.append(rows[cut : start + count])
        rest = draw.permutation(np.concatenate(left))
        whole.append(rest[: len(rest) - len(rest) % self._block].reshape(-1, self._block))
        blocks = np.concatenate(whole)
        return draw.permutation(blocks).reshape(-1)
