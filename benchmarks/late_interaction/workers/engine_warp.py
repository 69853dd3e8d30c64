"""xtr-warp-rs, the Python package of WARP (made for models trained as XTR; these vectors are not)."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from xtr_warp.search import XTRWarp  # type: ignore[import-not-found]


class Engine:
    """The package's own index class, on the CPU, with its own choice of every parameter a setting does not name."""

    version = metadata.version("xtr-warp-rs")

    def __init__(self, threads: int) -> None:
        self.threads = threads
        torch.set_num_threads(threads)

    def build(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> None:
        vectors = torch.from_numpy(tokens.copy()).float()
        passages = list(torch.split(vectors, (offsets[1:] - offsets[:-1]).tolist()))
        XTRWarp(str(index)).create(passages, device="cpu", nbits=options["bits"], show_progress=False)

    def open(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> None:
        del tokens, offsets, options
        self.index = XTRWarp(str(index)).load(device="cpu")

    def search(self, queries: list[Any], k: int, setting: dict[str, Any]) -> list[list[int]]:
        """setting: any of nprobe, bound, t_prime, max_candidates, centroid_score_threshold."""
        ranked = self.index.search(
            [torch.from_numpy(query) for query in queries],
            top_k=k,
            num_threads=self.threads,
            show_progress=False,
            **setting,
        )
        return [[passage for passage, _ in hits] for hits in ranked]
