"""The run that is struck: `python -m hiperrag.benchmarks.survival.indexing SITE COLLECTION SOURCE...`.

`hiperrag index`, but for parts and shards so small that a short run has many of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hiperrag.cli import run
from hiperrag.cli.stopping import heed_sigterm
from hiperrag.workflows.run import index_sources
from hiperrag.workflows.settings import IndexSettings, PartSettings
from hiperrag.workflows.sites import load_site

PARTS = PartSettings(files_per_part=1, rows_per_part=30, parts_per_shard=3)


def main() -> None:
    """Index, and end as `hiperrag index` does."""
    site, to, *sources = sys.argv[1:]
    heed_sigterm()

    def index() -> None:
        index_sources(sources, Path(to), load_site(site), _small, quiet=True)

    run(index)


def _small(settings: IndexSettings) -> IndexSettings:
    return settings.model_copy(update={"parts": PARTS})


if __name__ == "__main__":
    main()
