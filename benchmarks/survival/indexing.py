"""The run that is struck: `python -m hiperrag.benchmarks.survival.indexing SITE COLLECTION SOURCE...`.

`hiperrag index`, but for parts and shards so small that a short run has many of them.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from hiperrag.errors import UserError
from hiperrag.workflows.run import index_sources
from hiperrag.workflows.settings import IndexSettings, PartSettings
from hiperrag.workflows.sites import load_site

PARTS = PartSettings(files_per_part=1, rows_per_part=30, parts_per_shard=3)


def main() -> int:
    """Index; exit status 2 with one line for what cannot be."""
    site, to, *sources = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        index_sources(sources, Path(to), load_site(site), _small, quiet=True)
    except UserError as error:
        print(f"hiperrag: {error}", file=sys.stderr)
        return 2
    return 0


def _small(settings: IndexSettings) -> IndexSettings:
    return settings.model_copy(update={"parts": PARTS})


if __name__ == "__main__":
    sys.exit(main())
