"""A chest CT in memory and a release of the public fVLM's size, both made here: what the inference benchmark reads."""

from pathlib import Path

import numpy as np
import torch

from config import load_vocabulary
from ct.anatomy import AlgorithmIdentity, AnatomyMap
from ct.measure import measure
from ct.volume import Grid, Volume
from fvlm import FVLM, import_official
from fvlm.config import ModelConfig

PRESET = "ct-rate"
SPACING = (0.92, 0.76, 0.76)
"""mm z, y, x of the scan. No voxel of the model's grid lies half-way between two of it: the nearest one is certain."""
_Ellipsoid = tuple[tuple[float, float, float], tuple[float, float, float]]


def chest_scan(lung_mm: float, slices: int = 400, matrix: int = 512, seed: int = 0) -> tuple[Volume, AnatomyMap]:
    """A body with the four organs of CT-RATE, ellipsoids of usual sizes in noise; lungs `lung_mm` tall.

    With lungs of 270 mm all four windows of the public model coincide; with 345 mm each organ has its own.
    """
    grid = Grid.axis_aligned((slices, matrix, matrix), SPACING, (0.0, 0.0, 0.0))
    half = lung_mm / 2
    organs: dict[str, tuple[float, list[_Ellipsoid]]] = {  # HU; centre and half axes in mm from the middle of the scan
        "lung": (-820.0, [((0, 0, -75), (half, 95, 62)), ((0, 0, 75), (half, 95, 62))]),
        "heart": (45.0, [((-30, -35, 15), (55, 50, 58))]),
        "esophagus": (20.0, [((10, 55, 2), (120, 9, 9))]),
        "aorta": (180.0, [((20, 70, 18), (130, 13, 13))]),
    }
    z, y, x = (
        (np.arange(n, dtype=np.float32)[(slice(None), *[None] * (2 - axis))] - (n - 1) / 2) * np.float32(SPACING[axis])
        for axis, n in enumerate(grid.shape)
    )
    random = np.random.default_rng(seed)
    body = (y / 125) ** 2 + (x / 175) ** 2 < 1
    hu = np.where(body, np.int16(40), np.int16(-1000)) + np.zeros(grid.shape, np.int16)
    labels = np.zeros(grid.shape, np.uint8)
    for label, (value, ellipsoids) in enumerate(organs.values(), start=1):
        for centre, radii in ellipsoids:
            parts = (((at - c) / r) ** 2 for at, c, r in zip((z, y, x), centre, radii, strict=True))
            inside = sum(parts, np.float32(0)) < 1
            hu[inside], labels[inside] = value, label
    hu += random.integers(-40, 41, grid.shape, dtype=np.int16)
    volume = Volume(hu, grid)
    made = AlgorithmIdentity("ellipsoids", "1", "0" * 64)
    return volume, AnatomyMap(labels, grid, tuple(organs), made, measure(volume, labels, tuple(organs)))


def official_release(folder: Path, seed: int = 0) -> Path:
    """Random weights in the layout of the public checkpoint, imported as a release under `folder`."""
    preset = load_vocabulary().preset(PRESET)
    torch.manual_seed(seed)
    model = FVLM(ModelConfig(anatomies=preset.anatomies))
    torch.nn.init.trunc_normal_(model.query_tokens, std=0.02)
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    prompts = " ".join(text for prompt in preset.prompts for text in (prompt.negative, prompt.positive))
    words = sorted(set(prompts.lower().replace(".", " . ").split()))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    words += [f"[unused{n}]" for n in range(model.config.text.vocab_size - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    import_official(folder / "model.pth", folder, folder / "release", PRESET)
    (folder / "model.pth").unlink()
    return folder / "release"
