"""A program for `torchrun`: gradients of two processes, each with its half of a batch, into a file.

torchrun --nproc-per-node 2 tests/training/ranks.py OUT.pt
"""

import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.training.toy_archive import ToyArchive, toy_model, without_text_dropout
from training.pretraining.batches import Batch, Order
from training.pretraining.config import BatchConfig, CheckpointConfig, CorrectionConfig, RecipeConfig, ScheduleConfig
from training.pretraining.distributed import World, gather, joined
from training.pretraining.loop import fit
from training.pretraining.step import Pass, backward
from training.pretraining.trainees import ClipTrainee, FVLMTrainee, SupervisedTrainee, Trainee

BATCH = 8


def trainees(archive: ToyArchive) -> dict[str, Trainee]:
    """Each with the same weights in every process."""
    tokenizer = archive.tokenizer()
    config = toy_model(len(tokenizer))
    made: dict[str, Trainee] = {}
    for name in ("fvlm", "clip", "supervised", "no anatomy here"):
        torch.manual_seed(0)
        if name == "clip":
            made[name] = ClipTrainee(config, tokenizer)
        elif name == "supervised":
            made[name] = SupervisedTrainee(config, archive.findings)
        else:
            made[name] = FVLMTrainee(config, tokenizer)
            nn.init.normal_(made[name].model.query_tokens, std=0.1)
        without_text_dropout(made[name])
    return made


def batches(name: str, archive: ToyArchive, micro: int, world: World) -> list[Batch]:
    """Those of this process. In "no anatomy here" the second half of the joint batch shows no anatomy at all."""
    order = Order(len(archive), BATCH, micro, 0, world.rank, world.size)
    found = []
    for place, chosen in enumerate(order.step(0, 0)):
        batch = archive.batch(chosen, (0, 0))
        first = (world.rank * order.accumulate + place) * micro
        if name == "no anatomy here":
            batch.labels[max(BATCH // 2 - first, 0) :] = 0
        found.append(batch)
    return found


def gradients(trainee: Trainee, parts: list[Batch], world: World, parallel: bool) -> dict[str, Tensor]:
    """Of one step, by the parameters' names, and the loss."""
    trainee.train().zero_grad()
    wrapped = DistributedDataParallel(trainee, broadcast_buffers=False) if parallel else None
    losses = backward(trainee, parts, list(range(len(parts))), Pass(world), parallel=wrapped)
    found = {name: p.grad.clone() for name, p in trainee.named_parameters() if p.grad is not None}
    return {**found, "loss": losses.total.detach()}


def run(folder: Path, world: World) -> None:
    """Two models that teach each other, over two epochs of two steps, stopped after three and resumed."""

    class Cut(Exception):  # noqa: N818
        pass

    def stop(done: int, *_: object) -> None:
        if done == 3:
            raise Cut

    recipe = RecipeConfig(
        schedule=ScheduleConfig(epochs=2, warmup_steps=1),
        batch=BatchConfig(size=BATCH, micro=BATCH // 4),
        checkpoints=CheckpointConfig(every_steps=2, keep=9),
        ema=0.5,
    )
    correction = CorrectionConfig(abnormal="co-teaching")
    archive = ToyArchive(2 * BATCH)
    tokenizer = archive.tokenizer()
    for progress in (stop, lambda *_: None):
        taught: list[Trainee] = []
        for seed in range(2):
            torch.manual_seed(seed)
            taught.append(FVLMTrainee(toy_model(len(tokenizer)), tokenizer, correction))
            without_text_dropout(taught[-1])
        with suppress(Cut):
            fit(taught, archive, recipe, folder, world, correction, progress=progress)


def main() -> None:
    torch.set_num_threads(1)
    archive, found = ToyArchive(), {}
    with joined("cpu") as world:
        for micro in (BATCH // 2, BATCH // 4):  # one pass each, and two
            for name, trainee in trainees(archive).items():
                found[name, micro] = gradients(trainee, batches(name, archive, micro, world), world, parallel=True)
        rows = torch.full((1, 2), float(world.rank + 1), requires_grad=True)
        (gather(rows, world).sum(0) ** 2 * (world.rank + 1)).sum().backward()  # another loss in each process
        found["gathered", 0] = {"rows": rows.grad}
        out = Path(sys.argv[1])
        run(out / "run", world)
        torch.save(found, out / f"rank{world.rank}.pt")


if __name__ == "__main__":
    main()
