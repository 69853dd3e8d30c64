"""GPUs of this machine, counted without loading a GPU library."""

from __future__ import annotations

import os
from pathlib import Path


def accelerators_here() -> tuple[str, ...]:
    """Names of the GPUs that this process may use, as workers are pinned to them; NVIDIA, else AMD."""
    for variable, count in (("CUDA_VISIBLE_DEVICES", _nvidia), ("ROCR_VISIBLE_DEVICES", _amd)):
        visible = os.environ.get(variable)
        if visible is not None and count():
            return tuple(name for name in visible.split(",") if name and name != "-1")
        if count():
            return tuple(map(str, range(count())))
    return ()


def _nvidia() -> int:
    gpus = Path("/proc/driver/nvidia/gpus")
    devices = len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[6:].isdigit()])
    return devices or (len(list(gpus.iterdir())) if gpus.is_dir() else 0)


def _amd() -> int:
    count = 0
    for node in Path("/sys/class/kfd/kfd/topology/nodes").glob("*/properties"):
        properties = dict(line.split()[:2] for line in node.read_text(encoding="utf-8").splitlines() if " " in line)
        count += int(properties.get("simd_count", "0")) > 0
    return count
