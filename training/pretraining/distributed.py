"""The processes of `torchrun`: who we are, and features of all of them with their gradient.

Every process makes the same collective calls in every step, whatever its studies hold: one gather a tensor of features,
of a shape that depends on the configuration alone, and the gradient's own. None is behind a condition on data.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """One process among those that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    @property
    def is_first(self) -> bool:
        """Whether this process writes checkpoints and logs."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()
"""One process on the CPU."""


@contextmanager
def joined(device: str | None = None) -> Iterator[World]:
    """This process's place, as `torchrun` says it in the environment; alone without it.

    `device` "cpu" or "cuda"; None takes a GPU where there is one. NCCL joins GPUs, gloo CPUs.
    """
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.device("cuda", local) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(place)
    if size == 1:
        yield World(device=place)
        return
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """Rows of all processes; backward, the sum over processes of the gradient of our own rows."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, world: World) -> Tensor:
        ctx.world, ctx.rows = world, len(mine)
        everything = mine.new_empty(world.size * len(mine), *mine.shape[1:])
        dist.all_gather_into_tensor(everything, mine.contiguous())
        return everything

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        first = ctx.world.rank * ctx.rows
        return summed[first : first + ctx.rows], None


def gather(mine: Tensor, world: World) -> Tensor:
    """Rows [N, ...] of this process -> those of all, by rank, [W * N, ...]; differentiable.

    Where every process computes the same loss of the gathered rows, the gradient of the own rows is W times that of
    the loss; `DistributedDataParallel`, which divides the sum over processes by W, gives that of the joint batch.
    """
    if world.size == 1:
        return mine
    if mine.dtype == torch.bool:
        return gather(mine.byte(), world).bool()
    return _Gather.apply(mine, world)  # type: ignore[no-any-return,no-untyped-call]
