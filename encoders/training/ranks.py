"""The processes that train together: who they are, and sums and gathers over them."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hiperrag.errors import UserError


@dataclasses.dataclass(frozen=True, slots=True)
class Ranks:
    """This process among `size` that train one model."""

    rank: int = 0
    size: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def share(self, items: int) -> range:
        """The part of 0..items-1 that is this rank's: consecutive, sizes differ by at most one."""
        return range(items * self.rank // self.size, items * (self.rank + 1) // self.size)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Add up each tensor over the ranks, in place, in one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Rows of all ranks, of which rank r has counts[r], in their order; gradients flow back to their owner."""
        if self.size == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, tuple(counts), self.rank)  # type: ignore[no-untyped-call]
        return gathered

    def wait(self) -> None:
        """Return when all ranks are here."""
        if self.size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass adds up what every rank's loss says of this rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...], rank: int) -> Tensor:
        ctx.counts, ctx.rank = counts, rank
        # Ranks may have different numbers of rows; collectives want equal shapes.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        start = sum(ctx.counts[: ctx.rank])
        return total[start : start + ctx.counts[ctx.rank]], None, None


def join(under_mpi: bool = False, device: str | None = None) -> Ranks:
    """Join the processes that `torchrun`, or with `under_mpi` an MPI launcher, started; alone if there are none.

    With torchrun, and where MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE are set by hand, the environment says all.
    Under MPI rank 0's address is told through mpi4py. `device` is "cpu" or "cuda"; by default a GPU where there is one.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA GPU here")
    if under_mpi:
        _ask_mpi()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    place = torch.device(device)
    if device == "cuda":
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(place)
    if size == 1:
        return Ranks(device=place)
    try:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the {size} processes of this training cannot find each other: {reason}") from error
    return Ranks(dist.get_rank(), dist.get_world_size(), place)


def leave(ranks: Ranks) -> None:
    """Take leave of the other processes."""
    if ranks.size > 1:
        dist.destroy_process_group()


def _ask_mpi() -> None:
    """Fill in the variables that torch reads, as torchrun would."""
    if "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        return
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(f"several MPI processes were started, and mpi4py does not work: {error}") from error
    world = MPI.COMM_WORLD
    here = world.Split_type(MPI.COMM_TYPE_SHARED)
    mine = (socket.gethostname() if here.Get_size() < world.Get_size() else "127.0.0.1", _free_port())
    address, port = world.bcast(mine, root=0)
    os.environ |= {
        "MASTER_ADDR": os.environ.get("MASTER_ADDR", address),
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(port)),
        "RANK": str(world.Get_rank()),
        "WORLD_SIZE": str(world.Get_size()),
        "LOCAL_RANK": str(here.Get_rank()),
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
