"""Indexing runs in processes of their own that work on one collection, held and killed where a test says."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collection_helpers import InlinePool

from hiperrag.workflows import run
from hiperrag.workflows.settings import IndexSettings, PartSettings
from hiperrag.workflows.sites import load_site

PARTS = PartSettings(rows_per_part=2, parts_per_shard=1)
"""So small that there is work for several jobs."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["hiperrag.workflows.run", "hiperrag.index.build", "collection_helpers", "faiss"])


class Jobs:
    """Starts jobs; each waits before its first task until as many have been started as `together` says."""

    def __init__(self, together: int) -> None:
        self._barrier = CONTEXT.Barrier(together)
        self._processes: list[Any] = []

    def start(self, sources: Sequence[Path], root: Path, killed_at: int = 0) -> Any:
        """A job on some sources, killed with SIGKILL instead of its task number `killed_at`."""
        arguments = (list(map(str, sources)), str(root), killed_at, self._barrier)
        process = CONTEXT.Process(target=_index, args=arguments)
        process.start()
        self._processes.append(process)
        return process

    def end(self, seconds: float = 120) -> list[int]:
        """Wait for all; their exit statuses."""
        for process in self._processes:
            process.join(seconds)
        return [process.exitcode for process in self._processes]


def _index(sources: list[str], root: str, killed_at: int, barrier: Any) -> None:
    def fault(name: str, call: int) -> None:
        if call == 1:
            barrier.wait(60)
        if call == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    run.Pool = InlinePool  # type: ignore[assignment, misc]
    InlinePool.fault = staticmethod(fault)
    site = load_site("local")
    pool = site.pools["cores"].model_copy(update={"workers": 1})
    run.index_sources(
        sources,
        Path(root),
        site.model_copy(update={"pools": {"cores": pool}}),
        lambda settings: IndexSettings.model_copy(settings, update={"parts": PARTS}),
        quiet=True,
    )
