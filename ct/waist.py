"""Two organs whose masks touch, cut where they touch: at the waist of the mask."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ct.anatomy import BoolArray
from ct.measure import PIECE_SHARE

_CELL_MM = 3.0
"""The waist is looked for on a grid this coarse: it is where the cut lies that may be off by so much."""
_CORES_MM = (2.0, 4.0, 7.0, 10.0, 14.0, 18.0, 23.0, 28.0)
"""The mask is worn away by these depths in turn, until it falls apart."""
_SURELY = 0.9
"""A core lies on a side with this share of its voxels."""


def cut_in_two(
    mask: BoolArray, spacing: tuple[float, float, float], first_left: npt.NDArray[np.int64]
) -> BoolArray | None:
    """The left part of a mask [z, y, x] that is left and right in one piece; None if it does not fall apart.

    `first_left[z]` is the first column left of the midline. The mask is worn away from outside until what is left are
    cores of which each lies on one side and both sides have one; then every voxel goes to the nearest core.
    """
    steps = tuple(max(1, int(_CELL_MM // mm)) for mm in spacing)
    coarse = mask[tuple(slice(None, None, step) for step in steps)]
    columns = np.arange(coarse.shape[2])[None, :] * steps[2] >= first_left[:: steps[0], None]
    cell = [mm * step for mm, step in zip(spacing, steps, strict=True)]
    depth = ndimage.distance_transform_edt(np.pad(coarse, 1), sampling=cell)[1:-1, 1:-1, 1:-1]
    for core in _CORES_MM:
        sides = _cores(depth > core, columns)
        if sides is not None:
            break
    else:
        return None
    nearest = ndimage.distance_transform_edt(sides == 0, sampling=cell, return_distances=False, return_indices=True)
    left = sides[tuple(nearest)] == _LEFT
    z, y, x = (
        np.minimum((np.arange(size) + step // 2) // step, end - 1)
        for size, step, end in zip(mask.shape, steps, left.shape, strict=True)
    )
    fine: BoolArray = left[np.ix_(z, y, x)]
    fine &= mask
    return fine


_RIGHT, _LEFT = 1, 2


def _cores(worn: BoolArray, left_of: BoolArray) -> npt.NDArray[np.int8] | None:
    """The cores as _RIGHT and _LEFT, if each larger one lies on one side, and both sides have one."""
    pieces, count = ndimage.label(worn)
    if count < 2:
        return None
    sizes, lefts = np.zeros(count + 1, dtype=np.int64), np.zeros(count + 1, dtype=np.int64)
    for plane, columns in zip(pieces, left_of, strict=True):
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
        lefts += np.bincount(plane[:, columns].ravel(), minlength=count + 1)
    sizes[0] = 0
    main = sizes >= PIECE_SHARE * sizes.max()
    share = lefts / np.maximum(sizes, 1)
    sides = np.zeros(count + 1, dtype=np.int8)
    sides[main & (share >= _SURELY)] = _LEFT
    sides[main & (share <= 1 - _SURELY)] = _RIGHT
    if (sides[main] == 0).any() or set(sides[main].tolist()) != {_LEFT, _RIGHT}:
        return None
    cores: npt.NDArray[np.int8] = sides[pieces]
    return cores
