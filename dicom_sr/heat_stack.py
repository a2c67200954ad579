"""The heat of a finding on pixels of the CT's own slices, and the slices that it names."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ct.anatomy import AnatomyMap
from ct.volume import FloatArray, Grid
from fvlm.heat import Heat
from fvlm.reading import Finding

FINEST_MM = 2.0
"""Distance of the values along each axis, unless the CT is coarser: the tokens they come from are coarser still."""
MOST_VALUES = 4_000_000
"""In one stack; a larger anatomy is sampled more coarsely."""
_MOST_SLICES = 3
_APART_MM = 25.0
_WORTH = 0.6
"""A further slice is named from this share of the best one's heat on."""


@dataclass(frozen=True)
class HeatStack:
    """Values on every `step`-th slice, row and column of the source images, in the box around one anatomy."""

    values: npt.NDArray[np.float32]
    """[slice, row, column]: the log-odds that the place adds to the finding; NaN outside the anatomy."""
    start: tuple[int, int, int]
    """Source slice (0 is the first of `Volume.sources`), row and column of the first value."""
    step: tuple[int, int, int]
    affine: FloatArray
    """[4, 4]: (slice, row, column, 1) of `values` -> patient coordinates (x, y, z, 1), mm."""

    @property
    def slices(self) -> range:
        """Indices of the source slices that the values lie on."""
        first, step = self.start[0], self.step[0]
        return range(first, first + step * self.values.shape[0], step)


def source_affine(grid: Grid) -> FloatArray:
    """[4, 4]: (slice, row, column, 1) as stored -> patient coordinates (x, y, z, 1), mm."""
    turned = np.zeros((4, 4))
    turned[3, 3] = 1.0
    for axis, (source, flipped) in enumerate(zip(grid.source_axes.order, grid.source_axes.flipped, strict=True)):
        turned[axis, source] = -1.0 if flipped else 1.0
        turned[axis, 3] = grid.shape[axis] - 1 if flipped else 0.0
    return grid.affine @ turned


def source_spacing(grid: Grid) -> tuple[float, float, float]:
    """mm between stored slices, rows and columns."""
    of_axis = dict(zip(grid.source_axes.order, grid.spacing, strict=True))
    return of_axis[0], of_axis[1], of_axis[2]


def heat_stack(heat: Heat, anatomy_map: AnatomyMap, anatomy: str) -> HeatStack | None:
    """The heat inside the mask of its anatomy; None if the mask is empty.

    Resampled (`Heat.on`) at voxel centres of the CT, at least FINEST_MM apart, at most MOST_VALUES of them.
    """
    grid, label = anatomy_map.grid, anatomy_map.label(anatomy)
    labels = grid.source_axes.to_source(anatomy_map.labels)
    found = ndimage.find_objects(labels, max_label=label)
    box = found[label - 1] if len(found) >= label else None
    if box is None:
        return None
    spacing = source_spacing(grid)
    sizes = [side.stop - side.start for side in box]
    finest = FINEST_MM
    while True:
        steps = [min(size, max(1, math.ceil(finest / mm - 1e-6))) for size, mm in zip(sizes, spacing, strict=True)]
        starts = [side.start + (size - 1) % step // 2 for side, size, step in zip(box, sizes, steps, strict=True)]
        counts = [-(-(side.stop - start) // step) for side, start, step in zip(box, starts, steps, strict=True)]
        if math.prod(counts) <= MOST_VALUES:
            break
        finest *= 1.25
    places = tuple(slice(start, side.stop, step) for start, side, step in zip(starts, box, steps, strict=True))
    mask = np.ascontiguousarray(labels[places] == label)
    to_source = np.diag([*map(float, steps), 1.0])
    to_source[:3, 3] = starts
    affine = source_affine(grid) @ to_source
    z, y, x = (mm * step for mm, step in zip(spacing, steps, strict=True))
    values = heat.on(Grid((mask.shape[0], mask.shape[1], mask.shape[2]), (z, y, x), affine), mask)
    return HeatStack(
        values.astype(np.float32), (starts[0], starts[1], starts[2]), (steps[0], steps[1], steps[2]), affine
    )


def key_slices(finding: Finding, anatomy_map: AnatomyMap, stack: HeatStack | None) -> list[int]:
    """Source slices to look at for a finding, the best first; empty if its anatomy has no mask.

    The slice with the most heat, and up to two more that are far from it and nearly as hot. Where no heat speaks for
    the finding, the slice in which its anatomy is largest.
    """
    if finding.anatomy not in anatomy_map.names:
        return []
    if stack is not None:
        heat = np.clip(np.nan_to_num(stack.values, nan=0.0), 0.0, None).sum(axis=(1, 2), dtype=np.float64)
        if heat.max() > 0.0:
            return _spread(heat, stack.slices, source_spacing(anatomy_map.grid)[0])
    labels = anatomy_map.grid.source_axes.to_source(anatomy_map.labels)
    areas = np.count_nonzero(labels == anatomy_map.label(finding.anatomy), axis=(1, 2))
    return [int(areas.argmax())] if areas.any() else []


def _spread(heat: npt.NDArray[np.float64], slices: range, slice_mm: float) -> list[int]:
    chosen: list[int] = []
    for index in np.argsort(-heat, kind="stable"):
        if heat[index] < _WORTH * heat.max() or len(chosen) == _MOST_SLICES:
            break
        if all(abs(slices[index] - other) * slice_mm >= _APART_MM for other in chosen):
            chosen.append(slices[index])
    return chosen
