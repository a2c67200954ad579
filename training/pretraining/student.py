"""One model in training with all that belongs to it: its optimiser, its average, its order of studies, its teacher."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from training.pretraining.batches import Batch, Batches, Order, stream
from training.pretraining.config import RecipeConfig
from training.pretraining.distributed import World
from training.pretraining.schedule import learning_rate
from training.pretraining.step import Pass, backward
from training.pretraining.trainees import Trainee

_TABLES = ("word_embeddings.weight", "position_embeddings.weight", "position_embeddings", "query_tokens")
"""Ends of the names of matrices that are looked up, not multiplied with: they have no decay."""


@dataclass(frozen=True)
class Learnt:
    """What one step of a student gave, for the log."""

    loss: float
    parts: dict[str, float]
    gradient: float
    """Norm before clipping."""
    lr: float


class Student:
    """A trainee on its way; `number` tells the students of a run apart: other order, augmentation and dropout."""

    def __init__(
        self,
        trainee: Trainee,
        recipe: RecipeConfig,
        steps: int,
        world: World,
        number: int = 0,
        momentum: float | None = None,
    ) -> None:
        """`steps` of the whole run. With `momentum` it has a slow average of itself as teacher."""
        self.trainee = trainee.to(world.device).train()
        self.teacher: Trainee | None = None
        """Gives soft targets; set from outside where it is another student's trainee."""
        self._momentum = _average(trainee, momentum)
        if self._momentum is not None:
            self.teacher = cast(Trainee, self._momentum.module)
        self._average = _average(trainee, recipe.ema)
        if recipe.recompute:
            recompute_blocks(trainee)
        self._recipe, self._steps, self._world, self._number = recipe, steps, world, number
        self._how = Pass(world, recipe.precision)
        self._parallel = _parallel(trainee, world)
        optimizer = recipe.optimizer
        self.optimizer = torch.optim.AdamW(
            decay_groups(trainee, optimizer.weight_decay),
            lr=optimizer.peak_lr,
            betas=optimizer.betas,
            fused=True,
        )

    def order(self, studies: int) -> Order:
        """The studies of this process."""
        batch, world = self._recipe.batch, self._world
        batch.accumulate(world.size)
        return Order(studies, batch.size, batch.micro, self._recipe.seed + self._number, world.rank, world.size)

    def batches(self, data: Batches, first: int, workers: int) -> Iterator[list[Batch]]:
        """The micro-batches of each step from `first` on."""
        return stream(data, self.order(len(data)), first, self._steps, workers, self._world.device.type == "cuda")

    def learn(self, batches: Sequence[Batch], step: int, ramp: float) -> Learnt:
        """One step on the micro-batches of this process."""
        lr = learning_rate(self._recipe.optimizer, self._recipe.schedule, step, self._steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        self.trainee.begin_step()
        here = [batch.to(self._world.device) for batch in batches]
        losses = backward(
            self.trainee, here, self._seeds(step, len(here)), self._how, self.teacher, ramp, self._parallel
        )
        limit = self._recipe.optimizer.max_gradient
        norm = nn.utils.clip_grad_norm_(self.trainee.parameters(), limit if limit is not None else float("inf"))
        self.optimizer.step()
        for average in (self._average, self._momentum):
            if average is not None:
                average.update_parameters(self.trainee)
        parts = {name: float(part) for name, part in losses.parts.items()}
        return Learnt(float(losses.total.detach()), parts, float(norm), lr)

    @property
    def best(self) -> Trainee:
        """The average of the weights, or the last ones without `ema`."""
        return self.trainee if self._average is None else cast(Trainee, self._average.module)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, for a checkpoint."""
        averages = {"average": self._average, "momentum": self._momentum}
        return {
            "weights": self.trainee.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{name: average.state_dict() for name, average in averages.items() if average is not None},
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a `state`."""
        self.trainee.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, average in {"average": self._average, "momentum": self._momentum}.items():
            if average is not None:
                average.load_state_dict(state[name])

    def _seeds(self, step: int, count: int) -> list[int]:
        """Of each micro-batch's dropout: the same whichever process computes it."""
        first = (self._recipe.seed + self._number) * 1_000_003 + step
        return [first * 8191 + self._world.rank * count + index for index in range(count)]


def decay_groups(module: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels with weight decay; biases, norms, tables, queries and scalars without."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if p.ndim > 1 and not name.endswith(_TABLES)]
    plain = [p for name, p in trained if p.ndim < 2 or name.endswith(_TABLES)]
    return [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]


def recompute_blocks(trainee: Trainee) -> None:
    """Let each transformer block of both encoders keep its input only (`recipe.recompute`); names stay as they are."""
    blocks: list[nn.Module] = list(trainee.model.visual_encoder.blocks)
    if trainee.model.has_text_encoder:
        blocks += list(trainee.model.text_encoder.encoder.layer)
    for block in blocks:
        setattr(block, "forward", partial(checkpoint, block.forward, use_reentrant=False))  # noqa: B010


def _average(trainee: Trainee, decay: float | None) -> AveragedModel | None:
    if decay is None:
        return None
    average = AveragedModel(trainee, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    return average.requires_grad_(False).eval()


def _parallel(trainee: Trainee, world: World) -> DistributedDataParallel | None:
    if world.size == 1:
        return None
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(trainee, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)
