"""What each mask measures on the scan, and the physiologic guard: whether it may be read at all."""

import numpy as np
import numpy.typing as npt

from config import Anatomy, Reason, load_vocabulary
from ct.anatomy import AnatomyMeasure, UInt8Array
from ct.volume import Volume

BORDER_FRACTION = 0.002
"""Share of an anatomy's voxels that may lie on the faces of the scan before it counts as cut off."""


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
    border = _border_counts(labels, bins)
    vocabulary = load_vocabulary()
    measures = {}
    for label, name in enumerate(names, start=1):
        voxels = int(counts[label])
        volume_ml = voxels * volume.grid.voxel_ml
        mean_hu = float(sums[label] / voxels) if voxels else float("nan")
        cut = border[label] > BORDER_FRACTION * voxels
        doubt = _doubt(vocabulary.anatomy(name), volume_ml, mean_hu, cut=bool(cut))
        measures[name] = AnatomyMeasure(voxels, volume_ml, mean_hu, doubt)
    return measures


def _border_counts(labels: UInt8Array, bins: int) -> npt.NDArray[np.int64]:
    """Voxels of each label on the six faces of the scan."""
    faces = (labels[0], labels[-1], labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1])
    return np.sum([np.bincount(face.ravel(), minlength=bins)[:bins] for face in faces], axis=0)  # type: ignore[no-any-return]


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
