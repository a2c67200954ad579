"""Where the middle of the body lies between left and right: the spine, found in the bones of the scan."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ct.anatomy import UInt8Array
from ct.volume import FloatArray, Volume

BONE_HU = 130
"""Voxels above it that no soft anatomy claims count as bone."""
BAND_MM = 36.0
"""Width of the column that is looked for: a vertebral body."""
MAX_LEAN_DEG = 15.0
"""A body lies askew in the scan, or the scan in the body, by so much at most."""
_LEAN_STEP_DEG = 1.0
_CELL_MM = 4.0
_MAX_DEPTH_MM = 100.0
"""Bone behind bone counts up to here: a spine with a breastbone; not the metal of a hip."""
_LEAST_BONE_MM3 = 20_000.0
"""With less bone in the column there is no spine in the scan (a vertebral body has 30 ml)."""


@dataclass(frozen=True)
class Midline:
    """A line in the coronal plane: x = at + lean * z, mm from the first voxel along the axes of the grid."""

    at: float
    lean: float

    def x_mm(self, z_mm: FloatArray) -> FloatArray:
        """Where the line crosses at heights `z_mm`, mm."""
        return self.at + self.lean * z_mm


def find_midline(volume: Volume, labels: UInt8Array, bones: tuple[int, ...]) -> Midline | None:
    """The column, BAND_MM wide and nearly upright, that gathers the most bone; None without a spine in the scan.

    `labels` are uint8 [z, y, x] on the volume; `bones` the labels of anatomies that are bone (voxels of all other
    anatomies, such as vessels full of contrast, are not looked at).
    """
    projection, cell = _bone_projection(volume, labels, bones)
    if not projection.any():
        return None
    heights = np.arange(projection.shape[0]) * cell[0]
    band = max(1, round(BAND_MM / cell[1]))
    best: tuple[float, Midline] = (0.0, Midline(0.0, 0.0))
    for degrees in sorted(np.arange(-MAX_LEAN_DEG, MAX_LEAN_DEG + 0.5, _LEAN_STEP_DEG), key=abs):
        lean = float(np.tan(np.radians(degrees)))
        column, first = _sheared(projection, lean * (heights - heights[-1] / 2) / cell[1])
        gathered = np.convolve(column, np.ones(band), mode="same")
        peak = float(gathered.max())
        if peak > best[0] * 1.01:
            # the middle of the bone within the band, not of the band
            at = int(gathered.argmax())
            low, high = max(0, at - band // 2), at + band // 2 + 1
            centre = float(np.average(np.arange(low, min(high, len(column))), weights=column[low:high]))
            best = peak, Midline((centre + first) * cell[1] - lean * float(heights[-1]) / 2, lean)
    return best[1] if best[0] >= _LEAST_BONE_MM3 else None


def _bone_projection(
    volume: Volume, labels: UInt8Array, bones: tuple[int, ...]
) -> tuple[FloatArray, tuple[float, float]]:
    """Bone seen from the front, mm3 a cell [z, x], and the size of the cells, mm."""
    steps = [max(1, int(_CELL_MM // mm)) for mm in volume.spacing]
    thin = tuple(slice(None, None, step) for step in steps)
    soft = np.ones(256, dtype=np.bool_)
    soft[[0, *bones]] = False
    bone: npt.NDArray[np.bool_] = (volume.hu[thin] > BONE_HU) & ~soft[labels[thin]]
    dz, dy, dx = (mm * step for mm, step in zip(volume.spacing, steps, strict=True))
    depth = np.minimum(bone.sum(axis=1) * dy, _MAX_DEPTH_MM)
    return depth * (dz * dx), (dz, dx)


def _sheared(projection: FloatArray, shift: FloatArray) -> tuple[FloatArray, int]:
    """The sum of all rows, each moved back by `shift` cells, and the index of its first cell."""
    width = projection.shape[1]
    margin = int(np.ceil(np.abs(shift).max())) + 1
    columns = np.arange(width)[None, :] - np.rint(shift).astype(np.int64)[:, None] + margin
    column = np.bincount(columns.ravel(), weights=projection.ravel(), minlength=width + 2 * margin)
    return column.astype(np.float64), -margin
