"""How ours grows: build from a stream of synthetic passages that never exists as a whole, then search."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiperrag.benchmarks.late_interaction.engines import Engine
from hiperrag.benchmarks.late_interaction.growth import grow
from hiperrag.benchmarks.late_interaction.measure import Plan, build, say, search_all
from hiperrag.benchmarks.late_interaction.truth import cached_top


def measure_growth(
    plan: Plan, sizes: Sequence[int], engines: Sequence[Engine], noise: float, seed: int
) -> list[dict[str, Any]]:
    """Build and search grown corpora of every size.

    Returns {"passages", "real_passages", "tokens", "synthetic_in_truth", "engines"} of each; synthetic_in_truth is the
    share of the true top that is not real.
    """
    vectors, sizes = plan.vectors, sorted(sizes)
    what = f"grown {noise} {seed}"
    blocks = grow(vectors, sizes[-1], noise, seed, ends=sizes)
    say(f"exact truth of {sizes[-1]:,} passages")
    truth = cached_top(plan.work / vectors.identity, blocks, vectors, plan.queries, sizes, what)
    corpora = []
    for size in sizes:
        say(f"{size:,} passages, grown")
        corpus = f"grown-{noise:g}-{seed}-{size}"
        rows = [_build(plan, corpus, size, engine, (noise, seed)) for engine in engines]
        search_all(plan, corpus, size, list(zip(engines, rows, strict=True)), truth[size], batches=False)
        synthetic = np.array(truth[size]) >= vectors.n_passages
        corpora.append(
            {
                "passages": size,
                "real_passages": min(size, vectors.n_passages),
                "tokens": next((row["build"]["tokens"] for row in rows if "build" in row), None),
                "synthetic_in_truth": round(float(synthetic.mean()), 3),
                "engines": rows,
            }
        )
    return corpora


def _build(plan: Plan, corpus: str, size: int, engine: Engine, recipe: tuple[float, int]) -> dict[str, Any]:
    """Build while another process makes the passages and writes them into a named pipe."""
    noise, seed = recipe
    with tempfile.TemporaryDirectory() as scratch:
        pipe = Path(scratch) / "passages"
        os.mkfifo(pipe)
        command = [sys.executable, "-m", "hiperrag.benchmarks.late_interaction.growth"]
        arguments = [plan.vectors.folder.absolute(), size, noise, seed, pipe]
        maker = subprocess.Popen([*command, *map(str, arguments)])
        try:
            return build(plan, corpus, size, engine, growth=str(pipe))
        finally:
            maker.kill()
            maker.wait()
