"""`Volume`: a CT in Hounsfield units on a known grid in patient space."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

Int16Array = npt.NDArray[np.int16]
FloatArray = npt.NDArray[np.float64]
SAME_PLACE_MM = 0.01
"""Points no further apart along any axis are the same: headers give positions as decimal texts."""


@dataclass(frozen=True)
class SourceAxes:
    """How the stored slices [slice, row, column] were turned into [z, y, x]: a permutation, then flips.

    `order[i]` is the source axis that became axis i; `flipped[i]` says whether axis i was reversed afterwards.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    def to_patient(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """View of [slice, row, column] as [z, y, x]."""
        turned = array.transpose(self.order)
        return turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flipped)]

    def to_source(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """View of [z, y, x] as [slice, row, column]; the inverse of `to_patient`."""
        unflipped = array[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flipped)]
        inverse = tuple(int(axis) for axis in np.argsort(self.order))
        return unflipped.transpose(inverse)


@dataclass(frozen=True)
class Grid:
    """Voxel grid in patient space. Axes [z, y, x] grow to Superior, Posterior, Left (LPS voxel order)."""

    shape: tuple[int, int, int]
    """Voxels along z, y, x."""
    spacing: tuple[float, float, float]
    """mm along z, y, x."""
    affine: FloatArray
    """[4, 4]: (z, y, x, 1) in voxels -> (x, y, z, 1) in DICOM patient coordinates (LPS), mm; voxel centres."""
    source_axes: SourceAxes = SourceAxes()

    @classmethod
    def axis_aligned(
        cls, shape: tuple[int, int, int], spacing: tuple[float, float, float], origin: tuple[float, float, float]
    ) -> Self:
        """Grid without rotation; `origin` is the (x, y, z) patient position of voxel [0, 0, 0] in mm."""
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2] = spacing
        affine[:3, 3] = origin
        affine[3, 3] = 1.0
        return cls(shape, spacing, affine)

    def coincides(self, other: "Grid") -> bool:
        """Whether both have the same voxels: the same shape, and each corner within SAME_PLACE_MM of the other's."""
        if self.shape != other.shape:
            return False
        ends = [(0, size - 1) for size in self.shape]
        corners = np.array([(z, y, x, 1) for z in ends[0] for y in ends[1] for x in ends[2]], float)
        apart = corners @ (self.affine - other.affine).T
        return bool(np.abs(apart).max() <= SAME_PLACE_MM)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(np.prod(self.spacing)) / 1000.0


@dataclass(frozen=True)
class SourceSlice:
    """One stored instance of the series: where its bytes are and what it is called."""

    sop_instance_uid: str
    path: Path
    """Part 10 file, or the spool segment that holds it."""
    offset: int = 0
    """Start of the Part 10 stream in `path`, bytes."""
    length: int | None = None
    """Length of the Part 10 stream, bytes; None for a whole file."""


@dataclass(frozen=True)
class Volume:
    """A vetted CT series.

    `hu` is int16 [z, y, x] in Hounsfield units; `sources` are the instances in the order of the source slices
    (axis 0 of `grid.source_axes.to_source(hu)`).
    """

    hu: Int16Array
    grid: Grid
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sources: tuple[SourceSlice, ...] = ()

    def __post_init__(self) -> None:
        if self.hu.dtype != np.int16 or self.hu.shape != self.grid.shape:
            raise ValueError(f"hu must be int16 of shape {self.grid.shape}, is {self.hu.dtype} {self.hu.shape}")

    @property
    def spacing(self) -> tuple[float, float, float]:
        return self.grid.spacing
