"""What each mask measures on the scan."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from config import load_vocabulary
from ct.anatomy import AnatomyMeasure, BoolArray, Box, UInt8Array
from ct.quality import allowed_border_mm2, judge
from ct.volume import Volume

PIECE_SHARE = 0.1
"""Smaller pieces of a mask, over its largest piece, do not make an anatomy cut off. A kidney is no small piece."""
_MOST_CELLS = 1_000_000
"""The box of an anatomy is thinned to so many voxels before its pieces are counted: lungs to about 3 mm."""
_CORNERS_TOO = np.ones((3, 3, 3), dtype=np.bool_)
"""What touches by a corner is one piece: an oblique vessel in thick slices does not touch otherwise."""


def measure(volume: Volume, labels: UInt8Array, names: tuple[str, ...]) -> dict[str, AnatomyMeasure]:
    """Measure every anatomy of `labels` (uint8 [z, y, x]; label i + 1 is `names[i]`) on the volume.

    Volume in ml, mean attenuation in HU, whether the border of the scan cuts it, how far it is in pieces, and the
    doubt by `ct.quality`.
    """
    bins = len(names) + 1
    counts, sums = _counts(volume, labels, bins)
    border = _border_areas(labels, bins, volume.spacing)
    boxes = ndimage.find_objects(labels, max_label=len(names))
    vocabulary = load_vocabulary()
    measures = {}
    for label, name in enumerate(names, start=1):
        anatomy = vocabulary.anatomy(name)
        voxels = int(counts[label])
        found = AnatomyMeasure(0, 0.0, float("nan"))
        if voxels:
            volume_ml, box = voxels * volume.grid.voxel_ml, boxes[label - 1]
            found = AnatomyMeasure(
                voxels,
                volume_ml,
                mean_hu=float(sums[label] / voxels),
                cut=border[label] > allowed_border_mm2(volume_ml)
                and _main_border(labels[box] == label, box, volume) > allowed_border_mm2(volume_ml),
                main_share=_main_share(labels, label, box, volume.spacing, anatomy.most_pieces),
            )
        measures[name] = replace(found, doubt=judge(anatomy, found))
    return measures


def _counts(volume: Volume, labels: UInt8Array, bins: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Voxels of each label and the sum of their HU."""
    counts, sums = np.zeros(bins, dtype=np.int64), np.zeros(bins, dtype=np.float64)
    for label_slice, hu_slice in zip(labels, volume.hu, strict=True):
        inside = label_slice != 0
        kept = label_slice[inside]
        counts += np.bincount(kept, minlength=bins)[:bins]
        sums += np.bincount(kept, weights=hu_slice[inside], minlength=bins)[:bins]
    return counts, sums


def _border_areas(labels: UInt8Array, bins: int, spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Area of each label on the six faces of the scan, mm2; `spacing` is mm along z, y, x."""
    areas = np.zeros(bins, dtype=np.float64)
    for axis, pixel in enumerate(_pixels_mm2(spacing)):
        for end in (0, -1):
            areas += pixel * np.bincount(labels.take(end, axis).ravel(), minlength=bins)[:bins]
    return areas


def _main_border(mask: BoolArray, box: Box, volume: Volume) -> float:
    """Area on the faces of the scan, mm2, of the pieces of a mask [z, y, x] of the box that are no strays."""
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    main = (sizes >= PIECE_SHARE * sizes.max())[pieces] & mask
    area = 0.0
    for axis, pixel in enumerate(_pixels_mm2(volume.spacing)):
        ends = ((0, box[axis].start == 0), (-1, box[axis].stop == volume.grid.shape[axis]))
        area += sum(pixel * np.count_nonzero(main.take(end, axis)) for end, on_face in ends if on_face)
    return area


def _pixels_mm2(spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """Area of a voxel's face across each axis."""
    z, y, x = spacing
    return y * x, z * x, z * y


def _main_share(
    labels: UInt8Array, label: int, box: Box, spacing: tuple[float, float, float], most_pieces: int
) -> float:
    """Share of an anatomy in its `most_pieces` largest connected pieces; 1 if it is in no more."""
    shape = [part.stop - part.start for part in box]
    steps = [1, 1, 1]
    while np.prod([-(-size // step) for size, step in zip(shape, steps, strict=True)]) > _MOST_CELLS:
        steps[int(np.argmin([mm * step for mm, step in zip(spacing, steps, strict=True)]))] += 1
    thin = labels[tuple(slice(part.start, part.stop, step) for part, step in zip(box, steps, strict=True))]
    pieces, count = ndimage.label(thin == label, structure=_CORNERS_TOO)
    if count <= most_pieces:
        return 1.0
    sizes = np.sort(np.bincount(pieces.ravel())[1:])
    return float(sizes[-most_pieces:].sum() / sizes.sum())
