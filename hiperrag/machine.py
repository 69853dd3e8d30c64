"""What every result file says of the machine and the versions it was made with."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import hiperrag

LIBRARIES = ("torch", "transformers", "numpy", "faiss-cpu", "faiss-gpu", "pymupdf", "parsl", "pyarrow")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, Python and library versions."""
    versions = {"hiperrag": hiperrag.__version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "platform": platform.platform(),
        "versions": versions,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
