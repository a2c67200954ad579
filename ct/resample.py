"""Resampling between regular grids of parallel axes, separable and without torch.

Convention: the centre of voxel [0, 0, 0] stays where it is. Output voxel i lies at i * new spacing from it, so a
coordinate in mm from the first voxel centre means the same point on both grids (no half-voxel shift).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ct.volume import Grid, SourceAxes, Volume

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
Triple = tuple[float, float, float]
AIR_HU = -1024.0
SLAB = 32
"""Output planes worked on at a time when labels go to a finer grid: bounds the memory."""


def resampled_shape(shape: Sequence[int], spacing: Triple, new_spacing: Triple) -> tuple[int, int, int]:
    """Voxels (z, y, x) that cover the same first-to-last voxel centre, to the nearest voxel."""
    z, y, x = (round((n - 1) * old / new) + 1 for n, old, new in zip(shape, spacing, new_spacing, strict=True))
    return z, y, x


def resample_hu(
    hu: npt.NDArray[np.generic], spacing: Triple, new_spacing: Triple, antialias: bool = True
) -> Float32Array:
    """Trilinear resampling of [z, y, x] to `resampled_shape`, float32; edges are repeated.

    Spacings are (z, y, x) in mm. With `antialias`, axes that get coarser are averaged with a triangle as wide as the
    new voxels, so that no structure is skipped.
    """
    steps = _steps(spacing, new_spacing)
    return _resample(hu, (0.0, 0.0, 0.0), steps, resampled_shape(hu.shape, spacing, new_spacing), antialias)


def resample(
    volume: Volume,
    new_spacing: Triple,
    shape: tuple[int, int, int] | None = None,
    centre: Triple | None = None,
    antialias: bool = True,
) -> Volume:
    """The volume on a grid of `new_spacing` (z, y, x in mm), HU rounded to int16, with the affine that belongs to it.

    Without `shape` it covers the volume (edges are repeated). With `shape` the grid is laid around `centre` (z, y, x
    in voxels of the volume; None: its middle), and what lies outside the volume is air. The result has no source
    slices.
    """
    old = volume.grid
    steps = _steps(old.spacing, new_spacing)
    if shape is None:
        shape, start = resampled_shape(old.shape, old.spacing, new_spacing), np.zeros(3)
        hu = _resample(volume.hu, start, steps, shape, antialias)
    else:
        middle = np.array(centre) if centre is not None else (np.array(old.shape) - 1) / 2
        start = middle - (np.array(shape) - 1) / 2 * steps
        hu = _resample(volume.hu, start, steps, shape, antialias)
        for axis in range(3):
            at = start[axis] + np.arange(shape[axis]) * steps[axis]
            outside = (at < -0.5) | (at > old.shape[axis] - 0.5)
            np.moveaxis(hu, axis, 0)[outside] = AIR_HU
    affine = old.affine.copy()
    affine[:3, :3] = old.affine[:3, :3] * steps
    affine[:3, 3] = old.affine[:3, :3] @ start + old.affine[:3, 3]
    grid = Grid(shape, new_spacing, affine, SourceAxes())
    return replace(volume, hu=np.rint(hu).astype(np.int16), grid=grid, sources=())


def resample_labels(
    labels: npt.NDArray[np.generic], spacing: Triple, new_spacing: Triple, shape: tuple[int, int, int] | None = None
) -> npt.NDArray[np.generic]:
    """Nearest neighbour of [z, y, x] labels, same dtype; `shape` None means `resampled_shape`."""
    steps = _steps(spacing, new_spacing)
    shape = shape or resampled_shape(labels.shape, spacing, new_spacing)
    picks = [
        np.clip(np.floor(np.arange(n) * step + 0.5).astype(int), 0, size - 1)
        for n, step, size in zip(shape, steps, labels.shape, strict=True)
    ]
    return labels[np.ix_(*picks)]


def to_grid(labels: UInt8Array, low_spacing: Triple, shape: tuple[int, int, int], spacing: Triple) -> UInt8Array:
    """Labels [z, y, x] of a coarse grid on the finer grid `shape`, `spacing`: smooth borders instead of stairs.

    Each voxel gets the label (0 included) whose trilinearly interpolated indicator is largest; on a tie the smaller.
    """
    return _largest(labels, lambda label, window: labels[window] == label, _steps(low_spacing, spacing), shape)


def scores_to_grid(
    scores: npt.NDArray[np.floating], low_spacing: Triple, shape: tuple[int, int, int], spacing: Triple
) -> UInt8Array:
    """Class with the largest trilinearly interpolated score, uint8 on `shape`; `scores` are [class, z, y, x].

    A class competes inside the box of the coarse voxels where it is the largest; on a tie the smaller class wins.
    The scores never exist on the fine grid.
    """
    coarse = scores.argmax(axis=0).astype(np.uint8)
    return _largest(coarse, lambda label, window: scores[label][window], _steps(low_spacing, spacing), shape)


def _largest(
    coarse: UInt8Array,
    score: Callable[[int, tuple[slice, ...]], npt.NDArray[np.generic]],
    steps: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
) -> UInt8Array:
    """Label with the largest interpolated `score(label, window of the coarse grid)`, slab by slab."""
    boxes = {int(label): _box(coarse == label) for label in np.unique(coarse)}
    out = np.zeros(shape, np.uint8)
    for planes in _slabs(shape[0]):
        slab = out[planes]
        best = np.full(slab.shape, -np.inf, np.float32)
        for label, box in boxes.items():
            inside = _fine_box(box, coarse.shape, steps, shape, planes)
            if inside is None:
                continue
            begin = np.array([inside[0].start + planes.start, inside[1].start, inside[2].start])
            size = tuple(span.stop - span.start for span in inside)
            window = _window(begin, size, steps, coarse.shape)
            start = begin * steps - np.array([span.start for span in window])
            share = _resample(score(label, window), start, steps, size, antialias=False)
            wins = share > best[inside] + 1e-6
            best[inside][wins] = share[wins]
            slab[inside][wins] = label
    return out


def _window(
    begin: npt.NDArray[np.int_], size: tuple[int, ...], steps: npt.NDArray[np.float64], coarse: tuple[int, ...]
) -> tuple[slice, ...]:
    """Coarse voxels that the fine voxels [begin, begin + size) are interpolated from."""
    spans = []
    for first, count, step, n in zip(begin, size, steps, coarse, strict=True):
        low = min(int(first * step), n - 1)
        spans.append(slice(low, max(low + 1, min(int((first + count - 1) * step) + 2, n))))
    return tuple(spans)


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


def _slabs(planes: int) -> Iterator[slice]:
    for first, last in pairwise((*range(0, planes, SLAB), planes)):
        yield slice(first, last)


def _box(mask: npt.NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """First and last voxel of a mask along each axis."""
    found = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple((int(hits[0]), int(hits[-1])) for hits in found)


def _fine_box(
    box: tuple[tuple[int, int], ...],
    coarse: tuple[int, ...],
    steps: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
    planes: slice,
) -> tuple[slice, slice, slice] | None:
    """Where a fine voxel has a corner in a coarse box, in a slab of the fine grid; relative to the slab."""
    spans = []
    for axis, (first, last) in enumerate(box):
        low, high = (planes.start, planes.stop) if axis == 0 else (0, shape[axis])
        begin = max(low, int(np.floor((first - 1) / steps[axis])))
        reach = int(np.ceil((last + 1) / steps[axis])) + 1
        # beyond the last coarse voxel its value is repeated
        end = high if last == coarse[axis] - 1 else min(high, reach)
        spans.append(slice(begin - low, end - low))
    if any(span.stop <= span.start for span in spans):
        return None
    z, y, x = spans
    return z, y, x
