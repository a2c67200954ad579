"""The gradient of one step: contrast over the whole batch, though a process holds few studies at a time.

With several micro-batches, the features of all of them are computed once without a graph; the loss of all features
gives each feature its gradient; then each micro-batch is computed again with a graph and its features' gradients are
sent back through it. That is the gradient of one pass over everything, with the memory of one micro-batch.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from training.pretraining.batches import Batch
from training.pretraining.config import Precision
from training.pretraining.distributed import ALONE, World, gather
from training.pretraining.trainees import Features, Losses, Trainee


@dataclass(frozen=True)
class Pass:
    """How micro-batches are computed."""

    world: World = ALONE
    precision: Precision = "float32"

    def features(self, module: Trainee | DistributedDataParallel, batch: Batch, seed: int) -> Features:
        """The features of a micro-batch. The seed decides the dropout: the same again, the same features."""
        torch.manual_seed(seed)
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return module(batch)  # type: ignore[no-any-return]


def backward(
    trainee: Trainee,
    batches: Sequence[Batch],
    seeds: Sequence[int],
    how: Pass,
    teacher: Trainee | None = None,
    ramp: float = 0.0,
    parallel: DistributedDataParallel | None = None,
) -> Losses:
    """Add the gradient of the loss over the micro-batches of all processes to `.grad`; returns that loss.

    Arguments: `batches` of this process, each with the seed of its dropout; `teacher` gives soft targets from the same
    studies; `parallel` is the trainee wrapped, where there are several processes.
    """
    forward = parallel or trainee
    once = len(batches) == 1
    with torch.set_grad_enabled(once):
        passes = [
            how.features(forward if once else trainee, batch, seed) for batch, seed in zip(batches, seeds, strict=True)
        ]
    leaves = {name: rows.detach().requires_grad_() for name, rows in _joined([f.learned for f in passes]).items()}
    everything = _gathered(Features(leaves, _joined([f.known for f in passes])), how.world)
    losses = trainee.loss(everything, _taught(teacher, batches, seeds, how), ramp)
    total = losses.total + sum(
        0.0 * rows.sum() for rows in everything.learned.values()
    )  # so that all ranks gather back
    own = trainee.loss_parameters()
    gradients = torch.autograd.grad(total, [*leaves.values(), *own], materialize_grads=True)
    of_leaves = dict(zip(leaves, gradients, strict=False))
    first = 0
    for index, (batch, seed) in enumerate(zip(batches, seeds, strict=True)):
        is_last = index == len(batches) - 1
        with nullcontext() if is_last or parallel is None else parallel.no_sync():
            features = passes[index] if once else how.features(forward, batch, seed)
            roots = list(features.learned.values())
            sent = [of_leaves[name][first : first + len(batch)] for name in features.learned]
            if is_last:
                roots, sent = [*roots, *own], [*sent, *gradients[len(leaves) :]]
            torch.autograd.backward(roots, sent)
        first += len(batch)
    return losses


@torch.no_grad()
def _taught(teacher: Trainee | None, batches: Sequence[Batch], seeds: Sequence[int], how: Pass) -> Features | None:
    """What the teacher makes of the same studies, without dropout."""
    if teacher is None:
        return None
    training = teacher.training
    teacher.eval()
    passes = [how.features(teacher, batch, seed) for batch, seed in zip(batches, seeds, strict=True)]
    teacher.train(training)
    joined = Features(_joined([f.learned for f in passes]), _joined([f.known for f in passes]))
    return _gathered(joined, how.world)


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all micro-batches."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _gathered(features: Features, world: World) -> Features:
    """The rows of all processes."""
    return Features(
        {name: gather(rows, world) for name, rows in features.learned.items()},
        {name: gather(rows, world) for name, rows in features.known.items()},
    )
