"""The pretraining loop: fVLM's anatomy-wise objective, or plain CLIP of the same size as its baseline."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BertTokenizer

from fvlm.config import ModelConfig
from training.learner import Learner, Method, build
from training.phantom_data import PhantomSet


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes."""

    method: Method
    steps: int
    batch: int = 16
    peak_lr: float = 1.5e-3
    """Reached after `warmup` steps, then cosine to zero."""
    warmup: int = 30
    weight_decay: float = 0.05
    """Of matrices; biases, norms, tables and the temperature have none."""
    max_gradient: float = 1.0
    seed: int = 0


def pretrain(
    data: PhantomSet,
    tokenizer: BertTokenizer,
    config: ModelConfig,
    recipe: Recipe,
    folder: Path,
    progress: Callable[[int, float], None],
) -> Learner:
    """Train, or go on from the checkpoint in `folder`; calls `progress(step, loss)`.

    The same folder, data and recipe give the same weights, interrupted or not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    learner = build(config, tokenizer, recipe.method, recipe.seed)
    optimizer = torch.optim.AdamW(_groups(learner, recipe.weight_decay), lr=recipe.peak_lr)
    start = _resume(folder, learner, optimizer, recipe)
    learner.train()
    for step in range(start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        generator = np.random.default_rng((recipe.seed, 1, step))
        chosen = _batch(recipe, len(data.patients), step)
        images, labels = zip(*(data.window(index, generator) for index in chosen), strict=True)
        loss = learner.loss(torch.stack(images), torch.stack(labels), [data.patients[index] for index in chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learner.parameters(), recipe.max_gradient)
        optimizer.step()
        learner.model.clamp_temperature()
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
