"""Training of the bundled phantom segmenter."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from monai.losses import DiceCELoss
from safetensors.torch import save_file
from torch import Tensor, nn

from ct.bundled import SPACING, build_network, to_network_input
from ct.phantom import ANATOMIES
from ct.resample import resample_hu, resample_labels
from training.phantom_data import scan
from training.pretrain import Recipe, learning_rate

FIRST_SEED = 1_000_000
"""Each step takes a fresh phantom, beginning with this seed."""


def train_segmenter(folder: Path, steps: int, progress: Callable[[int, float], None]) -> nn.Module:
    """Train on one fresh phantom a step, or go on from the checkpoint in `folder`; calls `progress(step, loss)`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = build_network(len(ANATOMIES) + 1)
    recipe = Recipe("segmenter", steps, peak_lr=4e-3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.peak_lr, weight_decay=1e-4)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, weight=_class_weights())
    file, start = folder / "checkpoint.pt", 0
    if file.is_file():
        state = torch.load(file, weights_only=True)
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        image, label = _vary(*sample(FIRST_SEED + step), np.random.default_rng((1, step)))
        loss = loss_of(network(image[None]), label[None])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, loss.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            state = {
                "model": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
            }
            torch.save(state, file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
    return network.eval()


def _class_weights() -> Tensor:
    """Weights of background and anatomies in the cross-entropy: by the root of their rarity in a few phantoms."""
    labels = torch.cat([sample(seed)[1].flatten() for seed in range(4)])
    counts = torch.bincount(labels.int(), minlength=len(ANATOMIES) + 1).float()
    weights = (counts[1:].max() / counts).sqrt()
    weights[0] = 0.5
    return weights


def sample(seed: int) -> tuple[Tensor, Tensor]:
    """One phantom on the network's grid: image [1, D, H, W] and labels uint8 [1, D, H, W], padded alike."""
    _, volume, labels = scan(seed)
    image = to_network_input(resample_hu(volume.hu, volume.spacing, SPACING))[0]
    coarse = resample_labels(labels, volume.spacing, SPACING)
    padding = [
        p for have, want in zip(reversed(coarse.shape), reversed(image.shape), strict=False) for p in (0, want - have)
    ]
    return image, F.pad(torch.from_numpy(coarse.astype(np.uint8))[None], padding)


def _vary(image: Tensor, label: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random HU scale and shift, and a random shift in space (wrapped around)."""
    scale, shift = generator.uniform(0.95, 1.05), generator.uniform(-0.02, 0.02)
    moves = tuple(int(n) for n in generator.integers(-5, 6, size=3))
    axes = (1, 2, 3)
    return (image * scale + shift).clamp(0.0, 1.0).roll(moves, axes), label.roll(moves, axes)


def save_segmenter(network: nn.Module, weights: Path) -> None:
    """Weights as float16 safetensors and, beside them, the anatomies in label order."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in network.state_dict().items()}, weights)
    weights.with_suffix(".json").write_text(json.dumps({"anatomies": list(ANATOMIES)}, indent=1) + "\n")


def dice(predicted: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8], labels: int) -> npt.NDArray[np.float64]:
    """Dice of labels 1..`labels`, NaN where both are empty."""
    scores = np.full(labels, np.nan)
    for label in range(1, labels + 1):
        a, b = predicted == label, truth == label
        total = int(a.sum()) + int(b.sum())
        if total:
            scores[label - 1] = 2.0 * int((a & b).sum()) / total
    return scores
