"""fast-plaid: centroids, residuals in 4 or 2 bits, searched by Rust over libtorch."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from fast_plaid import search  # type: ignore[import-not-found]


class Engine:
    """The package's own index class, on the CPU, with its defaults wherever a setting names none."""

    version = metadata.version("fast-plaid")

    def __init__(self, threads: int) -> None:
        self.threads = threads
        torch.set_num_threads(threads)

    def build(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> None:
        vectors = torch.from_numpy(tokens.copy())
        passages = list(torch.split(vectors, (offsets[1:] - offsets[:-1]).tolist()))
        search.FastPlaid(index=str(index), device="cpu").create(documents_embeddings=passages, nbits=options["bits"])

    def open(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> None:
        del tokens, offsets, options
        self.index = search.FastPlaid(index=str(index), device="cpu")

    def search(self, queries: list[Any], k: int, setting: dict[str, Any]) -> list[list[int]]:
        """setting: n_ivf_probe and n_full_scores. Batches are spread over threads, each with one thread of libtorch."""
        together = len(queries) > 1
        torch.set_num_threads(1 if together else self.threads)
        ranked = self.index.search(
            [torch.from_numpy(query) for query in queries],
            top_k=k,
            show_progress=False,
            n_processes=self.threads if together else 1,
            **setting,
        )
        return [[passage for passage, _ in hits] for hits in ranked]
