"""A synthetic patient as NIfTI files, or as the project's own `Volume`."""

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import numpy.typing as npt

from ct.phantom.dicom import uid_for
from ct.phantom.patient import PhantomPatient
from ct.phantom.rendering import Rendered, Size, Spacing, UInt8Array, render

if TYPE_CHECKING:
    from ct.volume import Volume


def write_nifti(
    patient: PhantomPatient,
    folder: Path | str,
    *,
    spacing: Spacing = (5.0, 0.78, 0.78),
    shape: Size = (124, 512, 512),
) -> tuple[Path, Path]:
    """Write `ct.nii.gz` (int16, HU) and `labels.nii.gz` (uint8, 0..15).

    Axes are [x, y, z] of the rendered grid; the affine takes them to RAS millimetres as NIfTI wants it.
    The same arguments give the same bytes.

    Returns
    -------
    Paths of the image and of the labels.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rendered = render(patient, spacing, shape)
    image, labels = folder / "ct.nii.gz", folder / "labels.nii.gz"
    for path, array in ((image, rendered.hu), (labels, rendered.labels)):
        path.write_bytes(nifti_bytes(array, rendered))
    return image, labels


def nifti_bytes(array: npt.NDArray[np.generic], rendered: Rendered) -> bytes:
    """A .nii.gz file of [z, y, x] on the grid of `rendered`; the same array gives the same bytes."""
    z, y, x = rendered.origin_mm
    sz, sy, sx = rendered.spacing
    affine = np.array([[-sx, 0, 0, -x], [0, -sy, 0, -y], [0, 0, sz, z], [0, 0, 0, 1]], dtype=np.float64)
    image = nib.Nifti1Image(np.ascontiguousarray(array.transpose(2, 1, 0)), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)


def to_volume(
    patient: PhantomPatient,
    spacing: Spacing = (5.0, 0.78, 0.78),
    shape: Size = (124, 512, 512),
) -> "tuple[Volume, UInt8Array]":
    """A patient as `ct.volume.Volume` and its true labels uint8 [z, y, x], without the way through DICOM."""
    from ct.volume import Grid, Volume

    rendered = render(patient, spacing, shape)
    z, y, x = rendered.origin_mm
    who = (patient.seed, ",".join(sorted(patient.keys)), patient.arms)
    volume = Volume(
        rendered.hu,
        Grid.axis_aligned(shape, spacing, (x, y, z)),
        study_instance_uid=uid_for("study", *who),
        series_instance_uid=uid_for("volume", *who, spacing, shape),
    )
    return volume, rendered.labels
