"""Search and build on a GPU, chosen when there is one: the same shards, the same results to rounding.

Nothing here imports torch before a GPU is likely. `HIPERRAG_DEVICE` decides otherwise: cpu keeps to the processor, cuda
insists on a GPU.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hiperrag.errors import UserError
from hiperrag.index import candidates as on_cpu
from hiperrag.index.codec import Codec, TokenCodes
from hiperrag.index.vectors import CandidateArrays, TokenArrays

if TYPE_CHECKING:
    import torch

    from hiperrag.index.shard import Shard

VARIABLE = "HIPERRAG_DEVICE"
QUERIES_TO_LOAD = 32
"""Starting a GPU takes a second or more, in which the processor answers as many queries."""
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What the drivers of NVIDIA, AMD and Windows' Linux show; without one, torch need not be asked."""
_log = logging.getLogger(__name__)
_loading = threading.Lock()


def devices() -> list[torch.device]:
    """The GPUs to use, as torch counts them; none where HIPERRAG_DEVICE says cpu."""
    wanted = _wanted()
    found: list[torch.device] = []
    if wanted != "cpu" and ("torch" in sys.modules or any(Path(driver).exists() for driver in _DRIVERS)):
        import torch

        if torch.cuda.is_available():
            found = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if wanted == "cuda" and not found:
        raise UserError(f"{VARIABLE}=cuda: torch finds no GPU here; unset it or set it to cpu")
    return found


def pays(n_queries: int) -> bool:
    """Whether so many queries make up for loading the shards, or HIPERRAG_DEVICE wants them there anyway."""
    return _wanted() == "cuda" or n_queries >= QUERIES_TO_LOAD


def _wanted() -> str:
    """HIPERRAG_DEVICE, checked."""
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"{VARIABLE}={wanted}: give auto, cpu or cuda")
    return wanted


def accelerate(shards: Sequence[Shard]) -> int:
    """Load shards onto the GPUs, as many as fit, and return how many are there.

    Each goes to the GPU with the most room and its vectors are checked on the way; the others stay as they are.
    """
    usable = devices()
    if not usable:
        return 0
    import torch

    from hiperrag.index.gpu.shard import DeviceShard, bytes_needed, room

    with _loading:
        for shard in shards:
            device = max(usable, key=room)
            needed = bytes_needed(shard.tokens, shard.lists)
            if shard.on_device is not None:
                continue
            if needed > room(device):
                _log.info("%s stays on the CPU: %d MB do not fit on %s", shard.folder, needed // 10**6, device)
                continue
            shard.check(range(shard.n_passages))
            try:
                shard.on_device = DeviceShard(shard.tokens, shard.lists, device)
            except torch.OutOfMemoryError:  # another process took the room
                _log.info("%s stays on the CPU: %s is full", shard.folder, device)
    return sum(shard.on_device is not None for shard in shards)


def encode(codec: Codec, tokens: npt.NDArray[np.floating[Any]], offsets: npt.NDArray[np.int64]) -> TokenCodes:
    """`codec.encode`, on a GPU where there is one."""
    usable = devices()
    if not usable:
        return codec.encode(tokens, offsets)
    from hiperrag.index.gpu import encoding

    return encoding.encode(codec, tokens, offsets, usable[0])


def build_candidates(tokens: TokenArrays) -> CandidateArrays:
    """`candidates.build_candidates`, on a GPU where there is one."""
    usable = devices()
    if not usable:
        return on_cpu.build_candidates(tokens)
    from hiperrag.index.gpu import lists

    return lists.build_candidates(tokens, usable[0])
