"""From a scan and its anatomy map to the model's windows (arXiv 2501.14548; the public CT-RATE chain).

What is done is said by the release's `PreprocessConfig`; `PROTOCOLS` are those of the public checkpoints.

Voxel i of the model's grid covers [i, i + 1) * spacing from the outer edge of the first voxel of the scan: grids are
aligned at that edge, not at the centre of the first voxel as in `ct.resample`, whose functions have the same names.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from config import Reason
from ct.anatomy import AnatomyMap
from ct.volume import Volume
from fvlm.config import PreprocessConfig, ReleaseConfig, Triple

_SLAB = 8
"""Slices of the model's grid resampled at once, so that what lies between the axes stays in the cache."""
WHOLE_ENOUGH = 0.9
"""Least part of an anatomy's voxels inside a window that is shared with others (as the reference evaluates)."""


@dataclass(frozen=True)
class Protocol:
    """How the images of a family of checkpoints were made."""

    image_shape: Triple
    """Voxels z, y, x of the training window: fixes the position table."""
    preprocess: PreprocessConfig


PROTOCOLS = {
    "chest": Protocol((112, 256, 352), PreprocessConfig(margin=(5, 20, 20))),
    "abdomen": Protocol(
        (96, 256, 384),
        PreprocessConfig(spacing=(5.0, 1.0, 1.0), hu_window=(-300.0, 400.0), window=(96, 256, 384), margin=(5, 20, 20)),
    ),
}
"""1 x 1 x 3 mm, -1150..350 HU (the public CT-RATE chain) and 1 x 1 x 5 mm, -300..400 HU (the paper's abdominal CT)."""


@dataclass(frozen=True)
class Box:
    """Voxels of the model's grid, z, y, x; `start` may be negative and `stop` beyond the scan (padding)."""

    start: Triple
    stop: Triple

    @property
    def shape(self) -> Triple:
        z, y, x = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return z, y, x

    def clip(self, other: "Box") -> "Box":
        """The common part; empty (start = stop) on axes without one."""
        start = _triple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = _triple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Box(start, _triple(max(a, b) for a, b in zip(start, stop, strict=True)))

    def shifted(self, origin: Triple) -> "Box":
        """The same box, counted from `origin`."""
        return Box(
            _triple(a - o for a, o in zip(self.start, origin, strict=True)),
            _triple(a - o for a, o in zip(self.stop, origin, strict=True)),
        )

    def slices(self, origin: Triple) -> tuple[slice, slice, slice]:
        """Index of this box in an array whose first voxel is `origin`."""
        z, y, x = (slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, origin, strict=True))
        return z, y, x


@dataclass(frozen=True)
class Window:
    """One input of the model and the anatomies that are read from it."""

    box: Box
    anatomies: tuple[str, ...]
    filled: Box
    """The part of `box` that shows the scan; the rest is padding."""


@dataclass(frozen=True)
class Prepared:
    """A scan on the model's grid with the windows to read."""

    windows: tuple[Window, ...]
    lost: dict[str, Reason]
    """Wanted anatomies that no window holds, and why."""
    _image: Tensor
    _labels: Tensor
    _region: Box
    _names: tuple[str, ...]

    def tensors(self, window: Window) -> tuple[Tensor, Tensor]:
        """Image float32 [1, 1, D, H, W] in [0, 1] and labels uint8 [1, D, H, W] of `window.anatomies` only.

        Beyond the scan the image is 0, the floor of the HU window.
        """
        common = window.filled.clip(self._region)
        inside, source = common.slices(window.box.start), common.slices(self._region.start)
        image = torch.zeros(window.box.shape)
        image[inside] = self._image[source]
        kept = torch.zeros(256, dtype=torch.uint8)
        for name in window.anatomies:
            label = self._names.index(name) + 1
            kept[label] = label
        labels = torch.zeros(window.box.shape, dtype=torch.uint8)
        labels[inside] = kept[self._labels[source].int()]
        return image[None, None], labels[None]


def prepare(
    volume: Volume, anatomy_map: AnatomyMap, config: ReleaseConfig, wanted: Collection[str] | None = None
) -> Prepared:
    """Bring a scan onto the model's grid and place the windows for the `wanted` anatomies (default: all).

    Raises ValueError if the anatomy map lies on another grid than the volume.
    """
    if not anatomy_map.grid.coincides(volume.grid):
        shapes = f"{anatomy_map.grid.shape} and {volume.grid.shape}"
        raise ValueError(f"the anatomy map lies on another grid than the volume (shapes {shapes})")
    names, settings = config.model.anatomies, config.preprocess
    asked = [name for name in names if wanted is None or name in wanted]
    labels = resample_labels(relabel(anatomy_map, names), volume.spacing, settings.spacing)
    grid = Box((0, 0, 0), _triple(labels.shape))
    boxes = anatomy_boxes(labels, names)
    lost = {name: Reason.ANATOMY_TOO_SMALL for name in asked if name not in boxes}
    region, windows = grid.clip(Box((0, 0, 0), (0, 0, 0))), []
    if boxes:
        union = union_of(boxes.values())
        region = body_region(union, grid, settings)
        if settings.windows == "whole":
            window = centred(union, settings.window)
            region = region.clip(window)
            total = np.bincount(labels.numpy().ravel(), minlength=len(names) + 1)
            inside = np.bincount(labels[region.slices((0, 0, 0))].numpy().ravel(), minlength=len(names) + 1)
            for label, name in enumerate(names, start=1):
                if name in asked and name in boxes and inside[label] < WHOLE_ENOUGH * total[label]:
                    lost[name] = Reason.ANATOMY_CUT_OFF
            windows = [Window(window, tuple(name for name in asked if name not in lost), window)]
        else:
            scan = padded(region, config.model.image_shape)
            shared: dict[Box, list[str]] = {}  # by the part of the scan, which fixes the padding
            for name in asked:
                if name in boxes:
                    shared.setdefault(_around(boxes[name], scan, settings.window), []).append(name)
            windows = [
                Window(_whole_patches(filled, config.model.patch), tuple(together), filled)
                for filled, together in shared.items()
            ]
    image = resample_hu(volume.hu, volume.spacing, settings, region)
    return Prepared(tuple(windows), lost, image, labels[region.slices((0, 0, 0))], region, names)


def anatomy_boxes(labels: Tensor, names: Sequence[str]) -> dict[str, Box]:
    """The box of each anatomy that labels uint8 [z, y, x] have; label i + 1 is `names[i]`."""
    from scipy import ndimage  # late: a third of a second that a worker's start need not take

    found = ndimage.find_objects(labels.numpy(), max_label=len(names))
    return {
        name: Box(_triple(s.start for s in at), _triple(s.stop for s in at))
        for name, at in zip(names, found, strict=True)
        if at is not None
    }


def union_of(boxes: Collection[Box]) -> Box:
    """The least box that holds some boxes, at least one."""
    return Box(
        _triple(min(column) for column in zip(*(b.start for b in boxes), strict=True)),
        _triple(max(column) for column in zip(*(b.stop for b in boxes), strict=True)),
    )


def body_region(union: Box, grid: Box, settings: PreprocessConfig) -> Box:
    """The part of the scan that is kept: `settings.margin` around the box of all anatomies, or all of the grid."""
    return grid if settings.margin is None else _with_margin(union, settings.margin).clip(grid)


def resample_labels(
    labels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    spacing: tuple[float, float, float],
    new_spacing: tuple[float, float, float],
) -> Tensor:
    """Labels uint8 [z, y, x] on the model's grid, nearest voxel; size int(n * spacing / new), at least 1."""
    nearest = []
    for old, new, length in zip(spacing, new_spacing, labels.shape, strict=True):
        at = ((torch.arange(grid_size(length, old, new), dtype=torch.float64) + 0.5) * (new / old)).floor().long()
        nearest.append(at.clamp_(0, length - 1))
    out = torch.from_numpy(labels[nearest[0].numpy()])  # a copy of the slices that count, whatever the array is
    return out.index_select(1, nearest[1]).index_select(2, nearest[2])


def resample_hu(
    hu: np.ndarray[tuple[int, ...], np.dtype[np.int16]],
    spacing: tuple[float, float, float],
    settings: PreprocessConfig,
    region: Box,
) -> Tensor:
    """HU int16 [z, y, x] -> voxels `region` of the model's grid (aligned at the edge), trilinear, float32 in [0, 1]."""
    low, high = settings.hu_window
    return hu_on_grid(hu, spacing, settings, region).sub_(low).div_(high - low).clamp_(0.0, 1.0)


def hu_on_grid(
    hu: np.ndarray[tuple[int, ...], np.dtype[np.int16]],
    spacing: tuple[float, float, float],
    settings: PreprocessConfig,
    region: Box,
) -> Tensor:
    """HU int16 [z, y, x] -> voxels `region` of the model's grid (aligned at the edge), trilinear, float32 in HU.

    With `settings.antialias` the triangle kernel widens by the down-sampling factor, as in `F.interpolate`.
    """
    taps = [
        _taps(size, new / old, start, stop, settings.antialias)
        for size, old, new, start, stop in zip(
            hu.shape, spacing, settings.spacing, region.start, region.stop, strict=True
        )
    ]
    if 0 in region.shape:
        return torch.zeros(region.shape)
    order = sorted(range(3), key=lambda axis: region.shape[axis] / (int(taps[axis][0].max() - taps[axis][0].min()) + 1))
    out = torch.empty(region.shape)
    for first in range(0, region.shape[0], _SLAB):
        slab = slice(first, first + _SLAB)
        out[slab] = _mixed(hu, [(taps[0][0][:, slab], taps[0][1][:, slab]), *taps[1:]], order)
    return out


def _mixed(
    hu: np.ndarray[tuple[int, ...], np.dtype[np.int16]], taps: Sequence[tuple[Tensor, Tensor]], order: Sequence[int]
) -> Tensor:
    """HU [z, y, x] summed by the indices and weights of each axis, axis after axis in `order`: float32."""
    rows = torch.unique(taps[0][0])
    starts = [0, *(int(index.min()) for index, _ in taps[1:])]
    stops = [len(hu), *(int(index.max()) + 1 for index, _ in taps[1:])]
    cropped = hu[tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))]
    out = torch.from_numpy(cropped[rows.numpy()].astype(np.float32))
    for axis in order:
        index, weight = taps[axis]
        at = torch.searchsorted(rows, index.contiguous()) if axis == 0 else index - starts[axis]
        column = [1, 1, 1]
        column[axis] = -1
        mixed = torch.zeros(())
        for one, share in zip(at, weight, strict=True):
            mixed = mixed + out.index_select(axis, one).mul_(share.view(column))
        out = mixed
    return out


def grid_size(size: int, spacing: float, new_spacing: float) -> int:
    """Whole voxels of `new_spacing` in `size` voxels of `spacing`, at least 1."""
    return max(1, int(size * spacing / new_spacing + 1e-6))


def _taps(size: int, ratio: float, start: int, stop: int, antialias: bool) -> tuple[Tensor, Tensor]:
    """Source indices and weights [taps, stop - start] of a triangle kernel; weights of a voxel sum to 1."""
    centre = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * ratio - 0.5
    centre = centre.clamp_(-0.5, size - 0.5)
    support = max(ratio, 1.0) if antialias else 1.0
    first = (centre - support).floor() + 1
    index = first + torch.arange(int(np.ceil(2 * support)))[:, None]
    weight = (1 - (index - centre).abs() / support).clamp_(min=0.0)
    weight[(index < 0) | (index > size - 1)] = 0.0
    return index.clamp_(0, size - 1).long(), (weight / weight.sum(0)).float()


def relabel(anatomy_map: AnatomyMap, names: tuple[str, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Labels of the map as labels of the release; what the release does not know becomes background."""
    table = np.zeros(256, dtype=np.uint8)
    for label, name in enumerate(anatomy_map.names, start=1):
        table[label] = names.index(name) + 1 if name in names else 0
    if np.array_equal(table[: len(names) + 1], np.arange(len(names) + 1)) and not table[len(names) + 1 :].any():
        return anatomy_map.labels
    return table[anatomy_map.labels]


def _with_margin(box: Box, margin: Triple) -> Box:
    """The reference's crop: `margin` voxels below, one less above."""
    return Box(
        _triple(a - m for a, m in zip(box.start, margin, strict=True)),
        _triple(max(b, b + m - 1) for b, m in zip(box.stop, margin, strict=True)),
    )


def centred(box: Box, shape: Triple) -> Box:
    """A box of `shape` around the middle of another."""
    start = _triple((a + b - n) // 2 for a, b, n in zip(box.start, box.stop, shape, strict=True))
    return Box(start, _triple(a + n for a, n in zip(start, shape, strict=True)))


def padded(box: Box, least: Triple) -> Box:
    """The box grown on both sides, the odd voxel above, to at least `least`."""
    before = _triple(max(0, n - size) // 2 for n, size in zip(least, box.shape, strict=True))
    start = _triple(a - n for a, n in zip(box.start, before, strict=True))
    return Box(start, _triple(a + max(n, s) for a, n, s in zip(start, least, box.shape, strict=True)))


def _around(organ: Box, scan: Box, least: Triple) -> Box:
    """The reference's window: centred on the organ, at least `least`, shifted into the scan."""
    starts, stops = [], []
    for axis in range(3):
        low, high = scan.start[axis], scan.stop[axis]
        size = min(max(least[axis], organ.shape[axis]), high - low)
        start = (organ.start[axis] + organ.stop[axis]) // 2 - size // 2
        start = min(max(start, low), high - size)
        starts.append(start)
        stops.append(start + size)
    return Box(_triple(starts), _triple(stops))


def _whole_patches(box: Box, patch: Triple) -> Box:
    """The box padded at the end to multiples of the patch."""
    return Box(box.start, _triple(a - (-n // p) * p for a, n, p in zip(box.start, box.shape, patch, strict=True)))


def _triple(values: Iterable[int]) -> Triple:
    z, y, x = values
    return int(z), int(y), int(x)
