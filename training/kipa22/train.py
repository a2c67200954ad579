"""The loop: patches in, a checkpoint now and then, a bundle at the end."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from training.kipa22.config import SegmenterConfig
from training.kipa22.examples import Example, Patches
from training.kipa22.network import SupervisedLoss, build, learning_rate, optimizer_of
from training.pretraining import checkpoints

_KEPT = 2
_GREATEST_GRADIENT = 12.0
"""Norm of the gradient above which it is shortened, as in nnU-Net."""

Progress = Callable[[int, int, float | None], None]


class SegmenterTrainingError(ValueError):
    """A run cannot go on. The text names the cure."""


def train(
    examples: list[Example],
    names: list[str],
    config: SegmenterConfig,
    folder: Path,
    device: str,
    progress: Progress,
) -> nn.Module:
    """Train, or go on from the newest checkpoint in `folder`, with the same result; returns the network.

    `names` are those of the cases, in the order of `examples`. Raises SegmenterTrainingError, and PretrainError for a
    damaged checkpoint.
    """
    torch.manual_seed(config.seed)
    network = build(config, config.deep_supervision).to(device).train()
    optimizer, loss_of = optimizer_of(network, config), SupervisedLoss()
    known = {"config": config.model_dump(mode="json", exclude={"workers", "checkpoint_every"}), "cases": names}
    start = _resume(folder, network, optimizer, known)
    steps = range(start, config.steps)
    patches = DataLoader(Patches(examples, config), batch_size=None, sampler=steps, num_workers=config.workers)
    for step, batch in zip(steps, patches, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        images, shares = (tensor.to(device) for tensor in batch)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            heads = network(images)
        loss = loss_of(heads, shares)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        value = loss.item()
        norm = float(nn.utils.clip_grad_norm_(network.parameters(), _GREATEST_GRADIENT))
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise SegmenterTrainingError(
                f"step {step + 1}: the loss or its gradient is not finite; lower optimizer.peak_lr or set precision: "
                "float32, and begin in another folder"
            )
        optimizer.step()
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            state = {"known": known, "model": network.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoints.save(folder, step + 1, state, _KEPT)
        progress(step + 1, config.steps, value)
    return network


def _resume(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, known: dict[str, Any]) -> int:
    """Steps already done; 0 without a checkpoint."""
    files = checkpoints.saved(folder)
    if not files:
        return 0
    state = checkpoints.load(files[-1])
    if state["known"] != known:
        before, now = state["known"]["config"], known["config"]
        differing = [f"{key} was {before.get(key)}, is {now[key]}" for key in now if before.get(key) != now[key]]
        raise SegmenterTrainingError(
            f"{files[-1]}: belongs to another run, {'; '.join(differing) or 'with other cases'}; put it back, or "
            "choose another --out"
        )
    network.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
