"""What each mask measures on the scan, and the physiologic guard: whether it may be read at all."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from config import Anatomy, Reason, load_vocabulary
from ct.anatomy import AnatomyMeasure, UInt8Array
from ct.volume import Volume

BORDER_SHARE = 0.02
"""Area of an anatomy on the faces of the scan, over its volume to the power 2/3, above which it counts as cut off.

Both are areas in mm2, so slice thickness does not matter. A ball cut through its middle has 1.9; a liver of 1.5 l may
show 2.6 cm2.
"""
PIECE_SHARE = 0.1
"""Smaller pieces of a mask, over its largest piece, do not make an anatomy cut off. A kidney is no small piece."""


def measure(volume: Volume, labels: UInt8Array, names: tuple[str, ...]) -> dict[str, AnatomyMeasure]:
    """Measure every anatomy of `labels` (uint8 [z, y, x]; label i + 1 is `names[i]`) on the volume.

    Volume in ml, mean attenuation in HU, and the doubt by the vocabulary's plausible ranges.
    """
    bins = len(names) + 1
    counts = np.zeros(bins, dtype=np.int64)
    sums = np.zeros(bins, dtype=np.float64)
    for label_slice, hu_slice in zip(labels, volume.hu, strict=True):
        flat = label_slice.ravel()
        counts += np.bincount(flat, minlength=bins)[:bins]
        sums += np.bincount(flat, weights=hu_slice.ravel(), minlength=bins)[:bins]
    border = _border_areas(labels, bins, volume.grid.spacing)
    vocabulary = load_vocabulary()
    measures = {}
    for label, name in enumerate(names, start=1):
        voxels = int(counts[label])
        volume_ml = voxels * volume.grid.voxel_ml
        mean_hu = float(sums[label] / voxels) if voxels else float("nan")
        allowed = BORDER_SHARE * (volume_ml * 1000.0) ** (2 / 3)
        cut = border[label] > allowed
        if cut:  # is it the anatomy, or a stray piece of its mask?
            cut = _border_areas(_main_pieces(labels == label), 2, volume.grid.spacing)[1] > allowed
        doubt = _doubt(vocabulary.anatomy(name), volume_ml, mean_hu, cut=bool(cut))
        measures[name] = AnatomyMeasure(voxels, volume_ml, mean_hu, doubt)
    return measures


def _main_pieces(mask: npt.NDArray[np.bool_]) -> UInt8Array:
    """1 in the connected pieces of a mask that have at least `PIECE_SHARE` of the largest one's voxels."""
    box = ndimage.find_objects(mask.view(np.uint8))[0]
    pieces, _ = ndimage.label(mask[box])
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept = np.zeros(mask.shape, dtype=np.uint8)
    kept[box] = (sizes >= PIECE_SHARE * sizes.max())[pieces] & (pieces > 0)
    return kept


def _border_areas(labels: UInt8Array, bins: int, spacing: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Area of each label on the six faces of the scan, mm2; `spacing` is mm along z, y, x."""
    z, y, x = spacing
    areas = np.zeros(bins, dtype=np.float64)
    for axis, pixel in enumerate((y * x, z * x, z * y)):
        for end in (0, -1):
            areas += pixel * np.bincount(labels.take(end, axis).ravel(), minlength=bins)[:bins]
    return areas


def _doubt(anatomy: Anatomy, volume_ml: float, mean_hu: float, *, cut: bool) -> Reason | None:
    smallest, largest = anatomy.volume_ml
    if volume_ml == 0.0:
        return Reason.ANATOMY_ABSENT
    if cut and not anatomy.may_be_cut:
        return Reason.ANATOMY_CUT_OFF
    if volume_ml < smallest:
        return Reason.ANATOMY_TOO_SMALL
    if volume_ml > largest:
        return Reason.ANATOMY_TOO_LARGE
    if not anatomy.mean_hu[0] <= mean_hu <= anatomy.mean_hu[1]:
        return Reason.ANATOMY_IMPLAUSIBLE_HU
    return None
