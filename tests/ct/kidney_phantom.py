"""A liver and two kidneys as boxes of one HU each, and where a network that looks aside puts them; no mirror image."""

import numpy as np
import numpy.typing as npt
from tiny_nnunet import LEVELS

from ct.volume import Grid, Volume

SHAPE = (28, 64, 50)
BOXES = {
    "liver": (slice(4, 20), slice(4, 30), slice(4, 18)),
    "kidney_left": (slice(6, 18), slice(40, 56), slice(34, 46)),
    "kidney_right": (slice(8, 22), slice(40, 56), slice(4, 14)),
}
"""[z, y, x]; x grows to the patient's left."""


def phantom(spacing: tuple[float, float, float] = (3.0, 3.0, 3.0)) -> Volume:
    hu = np.full(SHAPE, -1000, dtype=np.int16)
    for name, box in BOXES.items():
        hu[box] = 100 * (LEVELS.index(name) + 1)
    return Volume(hu, Grid.axis_aligned(SHAPE, spacing, (-37.0, 12.0, -400.0)))


def expected(step: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Labels of kidney (1) and liver (2) by a network that looks `step` voxels on: each box, moved the other way."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for name, box in BOXES.items():
        moved = tuple(slice(s.start - d, s.stop - d) for s, d in zip(box, step, strict=True))
        labels[moved] = 2 if name == "liver" else 1
    return labels
