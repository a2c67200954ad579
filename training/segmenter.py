"""Training of the bundled phantom segmenter: one fresh phantom a step, a random part of it at a time."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ct.bundled import SPACING, build_network, to_network_input
from ct.phantom import ANATOMIES
from ct.resample import resample_hu, resample_labels
from training.phantom_data import scan
from training.pretrain import Recipe, learning_rate

FIRST_SEED = 1_000_000
"""Each step takes a fresh phantom, beginning with this seed."""
CROP = (96, 80, 96)
"""Voxels of the part that a step looks at."""
SMALL = ("esophagus", "gallbladder", "pancreas", "adrenal_gland", "portal_vein")
"""Anatomies that every second part is centred on."""
CLASSES = len(ANATOMIES) + 1
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def train_segmenter(folder: Path, steps: int, progress: Callable[[int, int, float | None], None]) -> Path:
    """Train, or go on from the checkpoint in `folder`; returns the weights. Calls `progress(step, steps, loss)`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = build_network(CLASSES)
    recipe = Recipe("segmenter", steps, peak_lr=3e-3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.peak_lr, weight_decay=1e-4)
    file, start = folder / "checkpoint.pt", 0
    if file.is_file():
        state = torch.load(file, weights_only=True)
        if state["recipe"] != asdict(recipe):
            raise ValueError(f"{file} belongs to another recipe: {state['recipe']}; choose another folder or remove it")
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        image, labels = part(FIRST_SEED + step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(image[None])[0]
        loss = dice_and_cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, steps, loss.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            state = {"model": network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "recipe": asdict(recipe), "step": step + 1}, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
    weights = folder / "phantom_segmenter.safetensors"
    save_segmenter(network, weights)
    return weights


def dice_and_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Soft Dice over the anatomies that are there, plus cross-entropy: logits [C, D, H, W], labels int64 [D, H, W]."""
    classes = len(logits)
    logs = logits.flatten(1).log_softmax(0)
    target = labels.flatten()
    own = logs.gather(0, target[None])[0]
    count = torch.bincount(target, minlength=classes).float()
    hit = torch.zeros(classes).index_add(0, target, own.exp())
    overlap = (2 * hit + 1) / (logs.exp().sum(1) + count + 1)
    return 1 - overlap[1:][count[1:] > 0].mean() - own.mean()


def part(seed: int) -> tuple[Tensor, Tensor]:
    """A random part of one phantom: image [1, D, H, W] in [0, 1] and labels int64 [D, H, W], of the size `CROP`.

    HU are scaled and shifted a little; beyond the scan there is air.
    """
    _, volume, labels = scan(seed)
    generator = np.random.default_rng((1, seed))
    hu = resample_hu(volume.hu, volume.spacing, SPACING)
    coarse = resample_labels(labels, volume.spacing, SPACING).astype(np.uint8)
    start = _corner(coarse, generator)
    hu = hu * generator.uniform(0.95, 1.05) + generator.uniform(-25, 25)
    image, target = np.full(CROP, -1000.0, np.float32), np.zeros(CROP, np.int64)
    _paste(hu, image, start)
    _paste(coarse, target, start)
    return to_network_input(image)[0], torch.from_numpy(target)


def _corner(labels: Bytes, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """First voxel of a part: around a voxel of a small anatomy, or anywhere."""
    if generator.random() < 0.5:
        wanted = [ANATOMIES.index(name) + 1 for name in SMALL]
        places = np.argwhere(labels == generator.choice(wanted))
        if len(places):
            return np.asarray(places[generator.integers(len(places))] - generator.integers(np.array(CROP)))
    slack = np.array(labels.shape) - np.array(CROP)
    return np.asarray(generator.integers(np.minimum(slack, 0) - 4, np.maximum(slack, 0) + 5))


def _paste(source: npt.NDArray[np.generic], target: npt.NDArray[np.generic], start: npt.NDArray[np.int64]) -> None:
    """Fill `target` with the part of `source` that begins at `start` (may be negative), as far as it reaches."""
    along = zip(start, target.shape, source.shape, strict=True)
    have = tuple(slice(max(s, 0), max(0, min(s + n, size))) for s, n, size in along)
    target[tuple(slice(a.start - s, a.stop - s) for a, s in zip(have, start, strict=True))] = source[have]


def save_segmenter(network: nn.Module, weights: Path) -> None:
    """Weights as float16 safetensors and, beside them, the anatomies in label order."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in network.state_dict().items()}, weights)
    weights.with_suffix(".json").write_text(json.dumps({"anatomies": list(ANATOMIES)}, indent=1) + "\n")


def dice(predicted: Bytes, truth: Bytes, labels: int) -> npt.NDArray[np.float64]:
    """Dice of labels 1..`labels`, NaN where both are empty."""
    scores = np.full(labels, np.nan)
    for label in range(1, labels + 1):
        a, b = predicted == label, truth == label
        total = int(a.sum()) + int(b.sum())
        if total:
            scores[label - 1] = 2.0 * int((a & b).sum()) / total
    return scores
