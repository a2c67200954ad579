"""NIfTI in: every axis order and flip gives the same volume; what is no volume is told."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ct.nifti import NiftiError, read_labels, read_volume
from ct.phantom import PhantomPatient, to_volume, write_nifti

SPACING, SHAPE = (20.0, 9.0, 9.0), (31, 44, 46)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, PhantomPatient]:
    patient = PhantomPatient.draw(5)
    return (*write_nifti(patient, tmp_path_factory.mktemp("nifti"), spacing=SPACING, shape=SHAPE), patient)


def test_a_phantom_comes_back_as_it_was(phantom: tuple[Path, Path, PhantomPatient]) -> None:
    image, labels, patient = phantom
    expected, truth = to_volume(patient, SPACING, SHAPE)
    volume = read_volume(image)
    assert np.array_equal(volume.hu, expected.hu)
    assert volume.grid.spacing == pytest.approx(expected.grid.spacing)
    assert volume.grid.affine == pytest.approx(expected.grid.affine)
    found, grid = read_labels(labels)
    assert np.array_equal(found, truth)
    assert grid.shape == SHAPE


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_any_order_of_axes_gives_the_same_volume(
    phantom: tuple[Path, Path, PhantomPatient], tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    stored = nib.load(phantom[0])
    array, affine = np.asanyarray(stored.dataobj).transpose(order), stored.affine[:, [*order, 3]].copy()
    for axis in flips:
        affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
        affine[:, axis] *= -1
        array = np.flip(array, axis)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array), affine), tmp_path / "x.nii.gz")
    turned, plain = read_volume(tmp_path / "x.nii.gz"), read_volume(phantom[0])
    assert np.array_equal(turned.hu, plain.hu)
    assert turned.grid.spacing == pytest.approx(plain.grid.spacing, rel=1e-6)
    assert turned.grid.affine == pytest.approx(plain.grid.affine, abs=1e-3)


def test_an_oblique_grid_keeps_its_true_spacing(tmp_path: Path) -> None:
    """Tilted by 25 degrees; the diagonal of the affine would tell 0.91 of it."""
    angle = np.radians(25)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.7, -0.8, 5.0])
    nib.save(nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), affine), tmp_path / "x.nii")
    volume = read_volume(tmp_path / "x.nii")
    assert volume.hu.shape == (4, 5, 6)
    assert volume.spacing == pytest.approx((5.0, 0.8, 0.7))
    corner = volume.grid.affine @ [3, 4, 5, 1]
    assert corner[:3] == pytest.approx((affine @ [5, 4, 3, 1])[:3] * [-1, -1, 1])


def test_another_scale_and_affine_than_the_files_own(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nib.save(nib.Nifti1Image(stored, np.eye(4)), tmp_path / "x.nii.gz")
    affine = np.diag([0.5, 0.6, 2.0, 1.0])
    affine[:3, 3] = (10, 20, 30)
    volume = read_volume(tmp_path / "x.nii.gz", slope=2.0, intercept=-1024.0, affine_lps=affine)
    assert np.array_equal(volume.hu, 2 * stored.transpose(2, 1, 0) - 1024)
    assert volume.spacing == pytest.approx((2.0, 0.6, 0.5))
    assert volume.grid.affine @ [0, 0, 0, 1] == pytest.approx([10, 20, 30, 1])


def test_what_is_no_volume_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.nii.gz"
    with pytest.raises(NiftiError, match="no such file"):
        read_volume(path)
    for content in (b"", b"hello", b"\x1f\x8b\x08\x00" + bytes(40)):
        path.write_bytes(content)
        with pytest.raises(NiftiError, match="not a readable NIfTI"):
            read_volume(path)
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), np.eye(4)), path)
    with pytest.raises(NiftiError, match="instead of one volume"):
        read_volume(path)
    nib.save(nib.Nifti1Image(np.full((2, 3, 4), 300, np.int16), np.eye(4)), path)
    with pytest.raises(NiftiError, match=r"instead of 0\.\.255"):
        read_labels(path)
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4)), path)
    flat = np.diag([1.0, 1.0, 0.0, 1.0])
    with pytest.raises(NiftiError, match="names no grid"):
        read_volume(path, affine_lps=flat)
