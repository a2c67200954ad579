"""Synthetic patients as files: valid CT instances, true geometry, the same bytes again."""

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from ct.phantom import LABELS, Orientation, PhantomPatient, render, to_volume, write_nifti, write_series

SPACING = (15.0, 4.0, 4.5)
SHAPE = (41, 72, 88)


def in_patient_space(paths: list[Path]) -> np.ndarray:
    """HU [z, y, x] put together from nothing but the geometry tags."""
    hu = np.full(SHAPE, -9999, dtype=np.int32)
    origin = [-(n - 1) / 2 * s for n, s in zip(SHAPE, SPACING, strict=True)]
    for path in paths:
        ds = pydicom.dcmread(path)
        row, column = np.array(ds.ImageOrientationPatient[:3]), np.array(ds.ImageOrientationPatient[3:])
        between_rows, between_columns = ds.PixelSpacing
        r, c = np.mgrid[: ds.Rows, : ds.Columns]
        at = (
            np.array(ds.ImagePositionPatient)
            + r[..., None] * between_rows * column
            + c[..., None] * between_columns * row
        )
        index = [np.rint((at[..., 2 - k] - origin[k]) / SPACING[k]).astype(int) for k in range(3)]
        hu[tuple(index)] = ds.pixel_array.astype(np.int32) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)
    return hu


def dciodvfy() -> str:
    beside = Path(sys.executable).parent / "dciodvfy"
    found = str(beside) if beside.exists() else shutil.which("dciodvfy")
    if found is None:
        pytest.skip("dciodvfy is not installed")
    return found


@pytest.mark.parametrize("orientation", ["HFS", "FFS", "HFP", "FFP", "HFDR", "HFDL", "FFDR", "FFDL"])
def test_orientations_show_the_same_patient(tmp_path: Path, orientation: Orientation) -> None:
    patient = PhantomPatient.draw(7, ["lung.nodule"])
    paths = write_series(patient, tmp_path, spacing=SPACING, shape=SHAPE, orientation=orientation)
    hu = in_patient_space(paths)
    assert np.array_equal(hu, render(patient, SPACING, SHAPE).hu)
    assert pydicom.dcmread(paths[0], stop_before_pixels=True).PatientPosition == orientation


def test_unknown_orientation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="orientation"):
        write_series(PhantomPatient.draw(7), tmp_path, spacing=SPACING, shape=SHAPE, orientation="XYZ")  # type: ignore[arg-type]


@pytest.mark.parametrize(("seed", "orientation"), [(7, "HFS"), (8, "HFS"), (9, "HFDR")])
def test_instances_are_valid(tmp_path: Path, seed: int, orientation: Orientation) -> None:
    paths = write_series(
        PhantomPatient.draw(seed), tmp_path, spacing=(60.0, 4.0, 4.0), shape=(10, 72, 88), orientation=orientation
    )
    answer = subprocess.run([dciodvfy(), str(paths[3])], capture_output=True, text=True, check=False)
    told = answer.stdout + answer.stderr
    assert "CTImage" in told
    assert "Error" not in told
    ds = pydicom.dcmread(paths[0])
    assert ds.PatientName == f"Phantom^Seed{seed}"
    assert ds.PatientID == f"PHANTOM-{seed:04d}"
    assert ds.SOPInstanceUID.startswith("2.25.")


def test_same_arguments_same_bytes_and_names_out_of_order(tmp_path: Path) -> None:
    patient = PhantomPatient.draw(3)
    seen: list[tuple[int, int]] = []
    first = write_series(
        patient, tmp_path / "a", spacing=SPACING, shape=SHAPE, progress=lambda n, of: seen.append((n, of))
    )
    again = write_series(PhantomPatient.draw(3), tmp_path / "b", spacing=SPACING, shape=SHAPE)
    assert [p.name for p in first] == [p.name for p in again]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, again, strict=True))
    assert seen == [(n, SHAPE[0]) for n in range(1, SHAPE[0] + 1)]
    assert sorted(p.name for p in first) != [p.name for p in first]
    uids = {pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in first}
    assert len(uids) == SHAPE[0]


def test_some_series_count_upwards_and_some_downwards(tmp_path: Path) -> None:
    rising = set()
    for seed in range(8):
        paths = write_series(PhantomPatient.draw(seed, ()), tmp_path / str(seed), spacing=(60, 9, 9), shape=(3, 24, 32))
        numbers = [int(pydicom.dcmread(p, stop_before_pixels=True).InstanceNumber) for p in paths]
        assert sorted(numbers) == [1, 2, 3]
        rising.add(numbers[0] < numbers[-1])
    assert rising == {True, False}


def test_nifti_is_in_ras(tmp_path: Path) -> None:
    patient = PhantomPatient.draw(7, ())
    image, labels = write_nifti(patient, tmp_path, spacing=SPACING, shape=SHAPE)
    ct, truth = nib.load(image), nib.load(labels)
    assert nib.aff2axcodes(ct.affine) == ("L", "P", "S")
    liver = np.argwhere(np.asanyarray(truth.dataobj) == LABELS["liver"]).mean(axis=0)
    spleen = np.argwhere(np.asanyarray(truth.dataobj) == LABELS["spleen"]).mean(axis=0)
    right, left = (nib.affines.apply_affine(truth.affine, p)[0] for p in (liver, spleen))
    assert right > 20
    assert left < -20
    assert ct.shape == SHAPE[::-1]
    assert np.array_equal(np.asanyarray(ct.dataobj).transpose(2, 1, 0), render(patient, SPACING, SHAPE).hu)


def test_volume_has_the_same_grid() -> None:
    patient = PhantomPatient.draw(7, ())
    volume, labels = to_volume(patient, SPACING, SHAPE)
    assert volume.hu.shape == labels.shape == SHAPE
    z, y, x = render(patient, SPACING, SHAPE).origin_mm
    assert np.allclose(volume.grid.affine @ [0, 0, 0, 1], [x, y, z, 1])
    assert np.allclose(volume.grid.affine @ [1, 2, 3, 1], [x + 3 * 4.5, y + 2 * 4.0, z + 15.0, 1])
