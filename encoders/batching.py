"""Length-sorted batches under a token budget."""

from __future__ import annotations

from collections.abc import Sequence


def length_sorted_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices of texts, longest first, cut into batches of at most `token_budget` tokens (at least one text).

    Sorting puts texts of equal length side by side, where attention can run over them together.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    used = 0
    for index in order:
        if not batches or used + lengths[index] > token_budget:
            batches.append([])
            used = 0
        batches[-1].append(index)
        used += lengths[index]
    return batches
