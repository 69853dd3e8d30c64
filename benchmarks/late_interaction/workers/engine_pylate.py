"""PyLate's PLAID index (over the release of fast-plaid that PyLate pins)."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pylate import indexes  # type: ignore[import-not-found]


class Engine:
    """The package's own index class, on the CPU, with its defaults wherever a setting names none."""

    version = f"{metadata.version('pylate')} (fast-plaid {metadata.version('fast-plaid')})"

    def __init__(self, threads: int) -> None:
        self.threads = threads
        torch.set_num_threads(threads)

    def build(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> None:
        vectors = torch.from_numpy(tokens.copy())
        passages = list(torch.split(vectors, (offsets[1:] - offsets[:-1]).tolist()))
        names = [str(passage) for passage in range(len(passages))]
        self._index(index, options, override=True).add_documents(documents_ids=names, documents_embeddings=passages)

    def open(self, tokens: Any, offsets: Any, index: Path, options: dict[str, Any]) -> None:
        del tokens, offsets
        self.plaid = self._index(index, options, override=False)._index
        self.defaults = {name: getattr(self.plaid, name) for name in ("n_ivf_probe", "n_full_scores")}

    def search(self, queries: list[Any], k: int, setting: dict[str, Any]) -> list[list[int]]:
        """setting: n_ivf_probe and n_full_scores, which the class takes when it is made and reads at every search."""
        for name, value in {**self.defaults, **setting}.items():
            setattr(self.plaid, name, value)
        together = len(queries) > 1
        self.plaid.num_threads = self.threads if together else 1
        torch.set_num_threads(1 if together else self.threads)
        return [[int(hit["id"]) for hit in hits] for hits in self.plaid(queries, k=k)]

    @staticmethod
    def _index(index: Path, options: dict[str, Any], override: bool) -> Any:
        return indexes.PLAID(
            index_folder=str(index),
            index_name="plaid",
            override=override,
            nbits=options["bits"],
            show_progress=False,
            device="cpu",
        )
