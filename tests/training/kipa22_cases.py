"""Boxes of one HU each in the place of the renal structures, no mirror image of themselves, as KiPA22's folders."""

from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import yaml

from training.kipa22.config import SegmenterConfig

SHAPE, SPACING = (28, 28, 32), (3.0, 3.0, 3.0)
"""[z, y, x]; z grows to Superior, y to Posterior, x to Left."""
STRUCTURES = {
    1: (220, (slice(17, 21), slice(6, 10), slice(4, 15))),
    2: (140, (slice(6, 21), slice(8, 22), slice(14, 28))),
    3: (420, (slice(10, 14), slice(12, 16), slice(2, 14))),
    4: (60, (slice(8, 14), slice(16, 22), slice(22, 28))),
}
"""Label -> HU and box, in the order they are drawn; the kidney has 65 ml and more without its tumour."""
CONFIG = SegmenterConfig(
    name="Boxes",
    spacing=(3.0, 3.0, 3.0),
    patch=(24, 24, 24),
    window=(-200.0, 500.0),
    filters=(8, 8, 16),
    deep_supervision=1,
    batch=1,
    steps=4,
    optimizer={"kind": "adamw", "peak_lr": 0.02, "weight_decay": 0.0},
    augmentation={"rotate_degrees": 5, "scale": 0.05, "intensity": 0.02},
    checkpoint_every=2,
)
SMALL = CONFIG.model_copy(
    update={"network": "unet", "deep_supervision": 0, "filters": (16, 32, 32), "steps": 100, "checkpoint_every": 100}
)
"""Enough to learn the boxes."""
OBLIQUE = np.array(
    [[0.9397, -0.3420, 0.0, 31.0], [0.3214, 0.8830, -0.3420, -52.5], [0.1170, 0.3214, 0.9397, -410.0], [0, 0, 0, 1]]
)
"""Turned by 20 degrees about x and about z: LPS mm of unit steps along x, y, z."""


def boxes(seed: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """HU and labels [z, y, x]; each case lies a little elsewhere."""
    rng = np.random.default_rng(seed)
    hu, labels = np.full(SHAPE, -110, np.int16), np.zeros(SHAPE, np.uint8)
    hu[:3], hu[:, :3] = -1000, -1000
    for label, (value, box) in STRUCTURES.items():
        hu[box], labels[box] = value, label
    shift = rng.integers(-2, 3, 3)
    hu, labels = np.roll(hu, shift, (0, 1, 2)), np.roll(labels, shift, (0, 1, 2))
    return (hu + rng.normal(0, 5, SHAPE)).astype(np.int16), labels


def write_case(
    folder: Path,
    name: str,
    hu: npt.NDArray[np.generic],
    labels: npt.NDArray[np.generic],
    to_lps: npt.NDArray[np.float64] | None = None,
    stored: tuple[int, int, int] = (1, 1, 1),
) -> None:
    """image/NAME.nii.gz and label/NAME.nii.gz from [z, y, x]; `stored` -1 stores that axis (x, y, z) backwards."""
    z, y, x = SPACING
    affine = (np.eye(4) if to_lps is None else to_lps) @ np.diag([x, y, z, 1.0])
    for part, array in (("image", hu), ("label", labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        turned, placed = array.transpose(2, 1, 0), affine.copy()
        for axis, way in enumerate(stored):
            if way < 0:
                turned = np.flip(turned, axis)
                placed[:, 3] += placed[:, axis] * (turned.shape[axis] - 1)
                placed[:, axis] *= -1
        ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ placed
        nib.save(nib.Nifti1Image(np.ascontiguousarray(turned), ras), folder / part / f"{name}.nii.gz")


def write_data(folder: Path, count: int = 5) -> Path:
    for seed in range(count):
        write_case(folder / "train", str(seed), *boxes(seed))
    return folder


def write_config(file: Path, config: SegmenterConfig) -> Path:
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return file
