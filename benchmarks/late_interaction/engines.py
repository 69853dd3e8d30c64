"""Which engines are compared, how each is built, and at which settings each is searched."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hiperrag.errors import UserError

Setting = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Engine:
    """One index: an engine with its build options, and the settings it is searched at.

    name: unique; also the folder of its index. family: engines of one family share a colour in plots.
    worker: module in workers/. environment: folder below the peers' folder, empty for this interpreter.
    grows: takes part in the growth measurement.
    """

    name: str
    family: str
    worker: str
    environment: str
    options: dict[str, Any]
    settings: dict[str, Setting]
    grows: bool = False


_PLAID_SETTINGS: dict[str, Setting] = {
    "default": {},
    "probe 4, full 1024": {"n_ivf_probe": 4, "n_full_scores": 1024},
    "probe 2, full 512": {"n_ivf_probe": 2, "n_full_scores": 512},
    "probe 1, full 256": {"n_ivf_probe": 1, "n_full_scores": 256},
}
_WARP_SETTINGS: dict[str, Setting] = {
    "default": {},
    "nprobe 8, bound 256": {"nprobe": 8, "bound": 256},
    "nprobe 32, bound 512": {"nprobe": 32, "bound": 512},
}
_FAISS_SETTINGS: dict[str, Setting] = {
    "nprobe 4, near 64, rerank 64": {"nprobe": 4, "near": 64, "rerank": 64},
    "nprobe 8, near 128, rerank 128": {"nprobe": 8, "near": 128, "rerank": 128},
    "nprobe 16, near 256, rerank 256": {"nprobe": 16, "near": 256, "rerank": 256},
    "nprobe 32, near 512, rerank 512": {"nprobe": 32, "near": 512, "rerank": 512},
}


_OUR_SETTINGS: dict[str, Setting] = {
    "fast": {"quality": "fast"},
    "256": {"quality": 256},
    "balanced": {"quality": "balanced"},
    "2048": {"quality": 2048},
    "exact": {"quality": "exact"},
}
_SHARD_PASSAGES = 1_000_000


def _ours(bits: int) -> Engine:
    options = {"bits": bits, "shard_passages": _SHARD_PASSAGES}
    return Engine(f"hiperrag-{bits}bit", "hiperrag", "engine_ours", "", options, _OUR_SETTINGS, grows=bits == 4)


def _fast_plaid(bits: int) -> Engine:
    name = f"fast-plaid-{bits}bit"
    return Engine(name, "fast-plaid", "engine_fast_plaid", "fast-plaid", {"bits": bits}, _PLAID_SETTINGS)


ENGINES: tuple[Engine, ...] = (
    *(_ours(bits) for bits in (2, 4, 8)),
    Engine("numpy", "NumPy fp32", "engine_numpy", "", {}, {"exact": {}}),
    Engine("faiss", "FAISS IVF-PQ", "engine_faiss", "", {"lists": 4096, "codes": 32}, _FAISS_SETTINGS),
    _fast_plaid(4),
    _fast_plaid(2),
    Engine("pylate-plaid", "PyLate PLAID", "engine_pylate", "pylate", {"bits": 4}, _PLAID_SETTINGS),
    Engine("xtr-warp", "WARP", "engine_warp", "fast-plaid", {"bits": 4}, _WARP_SETTINGS),
)


def choose(names: Sequence[str]) -> list[Engine]:
    """The engines whose name begins with one of `names`, in the order of ENGINES; all where none is given."""
    unknown = [name for name in names if not any(engine.name.startswith(name) for engine in ENGINES)]
    if unknown:
        raise UserError(f"no engine begins with {unknown[0]!r}; there are {', '.join(e.name for e in ENGINES)}")
    return [engine for engine in ENGINES if not names or engine.name.startswith(tuple(names))]
