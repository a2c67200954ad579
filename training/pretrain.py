"""The training loop of every learner: deterministic, resumable, readable from top to bottom."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn


class Trainee(nn.Module):
    """What the loop trains: a module that knows its data."""

    def loss(self, chosen: Sequence[int], generator: np.random.Generator) -> Tensor:
        """The loss on some patients, a scalar; `generator` decides the augmentation."""
        raise NotImplementedError

    def finish(self) -> None:
        """Called once after the last step."""
        self.eval()


AnyTrainee = TypeVar("AnyTrainee", bound=Trainee)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes."""

    name: str
    steps: int
    batch: int = 16
    peak_lr: float = 2e-3
    """Reached after `warmup` steps, then cosine to zero."""
    warmup: int = 30
    weight_decay: float = 0.05
    """Of matrices; biases, norms, tables and the temperature have none."""
    max_gradient: float = 1.0
    seed: int = 0


def fit(
    learner: AnyTrainee, patients: int, recipe: Recipe, folder: Path, progress: Callable[[int, float], None]
) -> AnyTrainee:
    """Train a learner, or go on from the checkpoint in `folder`; calls `progress(step, loss)`.

    The same learner, folder and recipe give the same weights, interrupted or not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(_groups(learner, recipe.weight_decay), lr=recipe.peak_lr)
    start = _resume(folder, learner, optimizer, recipe)
    learner.train()
    for step in range(start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout, the same after a resume
        generator = np.random.default_rng((recipe.seed, 1, step))
        loss = learner.loss(_batch(recipe, patients, step), generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learner.parameters(), recipe.max_gradient)
        optimizer.step()
        progress(step + 1, loss.item())
        with (folder / "loss.jsonl").open("a") as log:
            log.write(json.dumps({"step": step + 1, "loss": round(loss.item(), 5)}) + "\n")
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            _save(folder, learner, optimizer, recipe, step + 1)
    learner.finish()
    return learner


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine to zero at the last step."""
    if step < recipe.warmup:
        return recipe.peak_lr * (step + 1) / recipe.warmup
    part = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.peak_lr * (1 + math.cos(math.pi * part)) / 2


def _groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Matrices with weight decay, everything else without."""
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim > 1 and "embeddings.w" not in name and "position" not in name and "query" not in name
        (decayed if matrix else plain).append(parameter)
    return [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]


def _batch(recipe: Recipe, patients: int, step: int) -> list[int]:
    """Indices of a step: every epoch visits each patient once, in its own order."""
    per_epoch = patients // recipe.batch
    epoch, at = divmod(step, per_epoch)
    order = np.random.default_rng((recipe.seed, epoch)).permutation(patients)
    return [int(i) for i in order[at * recipe.batch : (at + 1) * recipe.batch]]


def _save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    """Replace the checkpoint in one move."""
    partial = folder / "checkpoint.part"
    state = {"recipe": asdict(recipe), "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, partial)
    partial.replace(folder / "checkpoint.pt")


def _resume(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe) -> int:
    """Steps already done; 0 without a checkpoint. ValueError if it belongs to another recipe."""
    file = folder / "checkpoint.pt"
    if not file.is_file():
        return 0
    state = torch.load(file, weights_only=True)
    if state["recipe"] != asdict(recipe):
        raise ValueError(f"{file} belongs to another recipe: {state['recipe']}; choose another folder or remove it")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
