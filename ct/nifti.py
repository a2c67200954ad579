"""NIfTI files as the project's arrays: [z, y, x], growing to Superior, Posterior, Left, whatever order they have."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from ct.volume import Grid, Volume

_SPL = axcodes2ornt(("S", "P", "L"))


class NiftiError(ValueError):
    """The file is no readable NIfTI volume. The text names it."""


def read_volume(
    path: Path,
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    affine_lps: npt.NDArray[np.float64] | None = None,
) -> Volume:
    """A CT of a .nii or .nii.gz file; HU = stored * slope + intercept, rounded.

    `affine_lps` [4, 4] takes stored (i, j, k, 1) to DICOM patient coordinates in mm, where the file's own affine is
    not to be believed. Permuted, flipped and oblique axes are put right; the oblique rest stays in the grid's affine.
    Raises NiftiError.
    """
    stored, affine = _read(path)
    if affine_lps is not None:
        affine = _lps_ras(affine_lps)
    turned, grid = _turned(path, stored, affine)
    hu = np.rint(turned * slope + intercept) if (slope, intercept) != (1.0, 0.0) else np.rint(turned)
    limits = np.iinfo(np.int16)
    return Volume(np.ascontiguousarray(hu.clip(limits.min, limits.max).astype(np.int16)), grid)


def read_labels(path: Path) -> tuple[npt.NDArray[np.uint8], Grid]:
    """A label map of a .nii or .nii.gz file and its grid. Raises NiftiError, also for labels beyond 0..255."""
    stored, affine = _read(path)
    turned, grid = _turned(path, stored, affine)
    labels = np.rint(turned)
    if labels.min() < 0 or labels.max() > 255:
        raise NiftiError(f"{path}: labels are {labels.min():.0f}..{labels.max():.0f} instead of 0..255")
    return np.ascontiguousarray(labels.astype(np.uint8)), grid


def _read(path: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Stored numbers [i, j, k] and the affine to RAS millimetres."""
    try:
        image = nib.load(path)
        stored = np.asanyarray(image.dataobj, dtype=np.float32)
    except FileNotFoundError as error:
        raise NiftiError(f"{path}: no such file") from error
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise NiftiError(f"{path}: not a readable NIfTI file ({type(error).__name__})") from error
    if stored.ndim == 4 and stored.shape[3] == 1:
        stored = stored[..., 0]
    if stored.ndim != 3 or 0 in stored.shape:
        raise NiftiError(f"{path}: {stored.ndim} axes of {stored.shape} instead of one volume")
    return stored, np.asarray(image.affine, dtype=np.float64)


def _turned(
    path: Path, stored: npt.NDArray[np.float32], affine: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], Grid]:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or spacing.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise NiftiError(f"{path}: its affine names no grid in space")
    transform = ornt_transform(io_orientation(affine), _SPL)
    turned = apply_orientation(stored, transform)
    to_lps = _lps_ras(affine @ inv_ornt_aff(transform, stored.shape))
    z, y, x = (float(step) for step in np.linalg.norm(to_lps[:3, :3], axis=0))
    return turned, Grid(turned.shape, (z, y, x), to_lps)


def _lps_ras(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From LPS to RAS millimetres, or back."""
    turned = affine.copy()
    turned[:2] *= -1.0
    return turned
