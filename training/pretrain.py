"""The pretraining loop: fVLM's anatomy-wise objective, or plain CLIP of the same size as its baseline."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import BertTokenizer

from fvlm.config import ModelConfig
from fvlm.model import FVLM
from fvlm.tokenizer import tokenize
from training.objective import AnatomyPairs, anatomy_losses, clip_loss
from training.phantom_data import PhantomSet, touches_border

Method = Literal["fvlm", "clip"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes."""

    method: Method
    steps: int
    batch: int = 16
    peak_lr: float = 1e-3
    """Reached after `warmup` steps, then cosine to zero."""
    warmup: int = 40
    weight_decay: float = 0.05
    """Of matrices; biases, norms, tables and the temperature have none."""
    max_gradient: float = 1.0
    seed: int = 0


class Clip(nn.Module):
    """Plain CLIP on the same encoders: mean of the final tokens -> one feature of the whole scan."""

    def __init__(self, model: FVLM) -> None:
        super().__init__()
        self.fvlm = model
        self.image_proj = nn.Linear(model.config.width, model.config.embedding)

    def image_features(self, image: Tensor) -> Tensor:
        """[B, 1, D, H, W] -> [B, E] of unit length."""
        pooled = self.fvlm.encode_tokens(image)[-1].mean(1)
        return F.normalize(self.image_proj(pooled), dim=-1)


def build(config: ModelConfig, method: Method, seed: int) -> FVLM | Clip:
    """A fresh model; the seed decides the initial weights."""
    torch.manual_seed(seed)
    model = FVLM(config)
    nn.init.normal_(model.query_tokens, std=0.02)
    return model if method == "fvlm" else Clip(model)


def pretrain(
    data: PhantomSet,
    tokenizer: BertTokenizer,
    config: ModelConfig,
    recipe: Recipe,
    folder: Path,
    progress: Callable[[int, float], None],
) -> FVLM | Clip:
    """Train, or go on from the checkpoint in `folder`; calls `progress(step, loss)`.

    The same folder, data and recipe give the same weights, interrupted or not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = build(config, recipe.method, recipe.seed)
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.peak_lr)
    start = _resume(folder, model, optimizer, recipe)
    model.train()
    for step in range(start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        loss = _loss(model, data, _batch(recipe, len(data.patients), step), tokenizer, recipe, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), recipe.max_gradient)
        optimizer.step()
        core(model).clamp_temperature()
        progress(step + 1, loss.item())
        with (folder / "loss.jsonl").open("a") as log:
            log.write(json.dumps({"step": step + 1, "loss": round(loss.item(), 5)}) + "\n")
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            _save(folder, model, optimizer, recipe, step + 1)
    return model.eval()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine to zero at the last step."""
    if step < recipe.warmup:
        return recipe.peak_lr * (step + 1) / recipe.warmup
    part = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.peak_lr * (1 + math.cos(math.pi * part)) / 2


def core(model: FVLM | Clip) -> FVLM:
    """The two encoders."""
    return model.fvlm if isinstance(model, Clip) else model


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


def _loss(
    model: FVLM | Clip, data: PhantomSet, chosen: list[int], tokenizer: BertTokenizer, recipe: Recipe, step: int
) -> Tensor:
    generator = np.random.default_rng((recipe.seed, 1, step))
    windows = [data.window(index, generator) for index in chosen]
    image = torch.stack([window for window, _ in windows])
    patients = [data.patients[index] for index in chosen]
    encoders = core(model)
    if isinstance(model, Clip):
        texts = _encode(encoders, tokenizer, [patient.report for patient in patients])
        return clip_loss(model.image_features(image), texts, encoders.temp)
    labels = torch.stack([label for _, label in windows])
    features, present = encoders.anatomy_features(image, labels)
    captions = [caption for patient in patients for caption in patient.captions]
    distinct = {text: i for i, text in enumerate(dict.fromkeys(caption.text for caption in captions))}
    number = torch.tensor([distinct[caption.text] for caption in captions]).view(present.shape)
    normal = torch.tensor([caption.normal for caption in captions]).view(present.shape)
    text = _encode(encoders, tokenizer, list(distinct))[number]
    usable = present & ~touches_border(labels, present.shape[1])
    losses = anatomy_losses(AnatomyPairs(features, text, usable, normal, number), encoders.temp)
    return torch.stack([*losses.values(), 0.0 * features.sum()]).sum()


def _encode(model: FVLM, tokenizer: BertTokenizer, texts: list[str]) -> Tensor:
    """Text features [N, E], encoded in groups of like length so that little padding is computed."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    groups = [order[i : i + 32] for i in range(0, len(order), 32)]
    features = [
        model.text_features(*tokenize(tokenizer, [texts[i] for i in group], model.config.text.max_tokens))
        for group in groups
    ]
    inverse = torch.empty(len(order), dtype=torch.long)
    inverse[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(features)[inverse]


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
