"""The look of the benchmarks' pictures, and their writing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

_STYLE: Any = {
    "figure.dpi": 150,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def write(figures: Callable[[], Iterator[tuple[str, Figure]]], folder: Path) -> list[Path]:
    """Draw named figures and write each to `folder`/NAME.png; their paths."""
    mpl.use("Agg")
    written = []
    with mpl.rc_context(_STYLE):
        for name, figure in figures():
            path = folder / f"{name}.png"
            figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
            plt.close(figure)
            written.append(path)
    return written
