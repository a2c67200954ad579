"""Resampling between regular grids of parallel axes, separable and without torch.

Convention, aligned at the first voxel's centre: the centre of voxel [0, 0, 0] stays where it is. Output voxel i lies at
i * new spacing from it, so a coordinate in mm from the first voxel centre means the same point on both grids (no
half-voxel shift). This is the grid of the segmenters. It is not the grid of the model: `fvlm.preprocess`, whose
functions have the same names, aligns the outer edges of the first voxels, half the difference of the spacings away.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Triple = tuple[float, float, float]


def resampled_shape(shape: Sequence[int], spacing: Triple, new_spacing: Triple) -> tuple[int, int, int]:
    """Voxels (z, y, x) that cover the same first-to-last voxel centre, to the nearest voxel."""
    z, y, x = (round((n - 1) * old / new) + 1 for n, old, new in zip(shape, spacing, new_spacing, strict=True))
    return z, y, x


def resample_hu(
    hu: npt.NDArray[np.generic], spacing: Triple, new_spacing: Triple, antialias: bool = True
) -> Float32Array:
    """Trilinear resampling of [z, y, x] to `resampled_shape`, aligned at the first centre, float32; edges are repeated.

    Spacings are (z, y, x) in mm. With `antialias`, axes that get coarser are averaged with a triangle as wide as the
    new voxels, so that no structure is skipped.
    """
    steps = _steps(spacing, new_spacing)
    return _resample(hu, (0.0, 0.0, 0.0), steps, resampled_shape(hu.shape, spacing, new_spacing), antialias)


def resample_labels(
    labels: npt.NDArray[np.generic], spacing: Triple, new_spacing: Triple, shape: tuple[int, int, int] | None = None
) -> npt.NDArray[np.generic]:
    """Nearest neighbour of [z, y, x] labels, aligned at the first centre, same dtype.

    `shape` None means `resampled_shape`.
    """
    steps = _steps(spacing, new_spacing)
    shape = shape or resampled_shape(labels.shape, spacing, new_spacing)
    picks = [
        np.clip(np.floor(np.arange(n) * step + 0.5).astype(int), 0, size - 1)
        for n, step, size in zip(shape, steps, labels.shape, strict=True)
    ]
    return labels[np.ix_(*picks)]


def _steps(spacing: Triple, new_spacing: Triple) -> npt.NDArray[np.float64]:
    """Source voxels a new voxel, per axis."""
    if min(*spacing, *new_spacing) <= 0:
        raise ValueError(f"spacings must be positive: {spacing}, {new_spacing}")
    steps: npt.NDArray[np.float64] = np.array(new_spacing, float) / np.array(spacing, float)
    return steps


def _resample(
    array: npt.NDArray[np.generic],
    start: Sequence[float] | npt.NDArray[np.float64],
    steps: npt.NDArray[np.float64],
    shape: tuple[int, ...],
    antialias: bool,
) -> Float32Array:
    """Sample at `start + i * steps` (source voxels) along each axis; the axis that shrinks most comes first."""
    out: npt.NDArray[np.generic] = array
    for axis in sorted(range(3), key=lambda a: shape[a] / array.shape[a]):
        at = start[axis] + np.arange(shape[axis]) * steps[axis]
        out = _along(out, axis, at, max(1.0, float(steps[axis])) if antialias else 1.0)
    return out.astype(np.float32, copy=False)


def _along(array: npt.NDArray[np.generic], axis: int, at: npt.NDArray[np.float64], width: float) -> Float32Array:
    """Interpolate one axis at positions `at` with a triangle of half-width `width` voxels (1: linear)."""
    size = array.shape[axis]
    at = np.clip(at, 0, size - 1)
    if width == 1.0 and len(at) == size and np.array_equal(at, np.arange(size)):
        return array.astype(np.float32, copy=False)
    lowest = np.floor(at - width).astype(int) + 1
    taps = lowest[:, None] + np.arange(int(np.ceil(2 * width)))
    weights = np.maximum(0.0, 1.0 - np.abs(taps - at[:, None]) / width)
    weights[(taps < 0) | (taps >= size)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    taps = np.clip(taps, 0, size - 1)
    along = [1] * array.ndim
    along[axis] = len(at)
    out = np.zeros((*array.shape[:axis], len(at), *array.shape[axis + 1 :]), np.float32)
    for tap, weight in zip(taps.T, weights.T.astype(np.float32), strict=True):
        if weight.any():
            part = np.take(array, tap, axis=axis).astype(np.float32, copy=False)
            part *= weight.reshape(along)
            out += part
    return out
