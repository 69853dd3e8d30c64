"""A run whose first encoding task waits for what a test does to its worker: `held_stage.py SITE TO HELD SOURCE...`.

The worker writes its job, node and process id into the file HELD and waits until it is killed, or the file is removed.
Whoever is given the task next finds that it has been held before, and does it.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

from hiperrag.workflows import drive, run, schedule, stages
from hiperrag.workflows.settings import IndexSettings, PartSettings
from hiperrag.workflows.sites import load_site

PARTS = PartSettings(rows_per_part=4, files_per_part=1, parts_per_shard=3)
HELD = "HIPERRAG_TEST_HELD"


def encode_part(*arguments):
    """Encode, but let the first of all such tasks wait."""
    held = Path(os.environ[HELD])
    with held.with_suffix(".lock").open("a") as once:
        first = once.tell() == 0
        once.write("x")
    if first:
        where = (os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURMD_NODENAME", ""), str(os.getpid()))
        held.with_suffix(".tmp").write_text(" ".join(where))
        held.with_suffix(".tmp").rename(held)
        while held.exists():
            time.sleep(0.1)
    return stages.encode_part(*arguments)


def main() -> None:
    """Index; with HELD empty nothing waits."""
    site, to, held, *sources = sys.argv[1:]
    if held:
        import held_stage

        os.environ[HELD] = held
        drive.encode_part = held_stage.encode_part
        schedule.LEAST_STRAGGLE = math.inf  # else another worker is given the task that waits
    run.index_sources(
        sources,
        Path(to),
        load_site(site),
        lambda settings: IndexSettings.model_copy(settings, update={"parts": PARTS}),
        quiet=True,
    )


if __name__ == "__main__":
    main()
