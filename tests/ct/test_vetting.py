"""Every reason to refuse a series, each on a series that is good but for one thing."""

import re
from collections.abc import Callable
from math import cos, radians, sin
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, MRImageStorage, SecondaryCaptureImageStorage, generate_uid
from tiny_series import FEET_FIRST_SUPINE, SLICES, Change, make_slice, store, write, write_series

from config import Reason
from ct import Unfit, Vetted, scan_folder, vet


def vetted(folder: Path, **limits: int) -> Vetted:
    scan = scan_folder(folder)
    assert not scan.problems
    assert len(scan.series) == 1
    return vet(scan.series[0], **limits)


def refusal(folder: Path, **limits: int) -> Unfit:
    with pytest.raises(Unfit) as caught:
        vetted(folder, **limits)
    return caught.value


def setting(which: Callable[[int], bool] = lambda _: True, **values: object) -> Callable[[int, Dataset], None]:
    """Sets attributes on the slices chosen."""

    def change(index: int, data: Dataset) -> None:
        if which(index):
            for keyword, value in values.items():
                setattr(data, keyword, value)

    return change


def shifting(shift: Callable[[int], tuple[float, float, float]]) -> Callable[[int, Dataset], None]:
    """Moves slices by (x, y, z) mm."""

    def change(index: int, data: Dataset) -> None:
        data.ImagePositionPatient = [a + b for a, b in zip(data.ImagePositionPatient, shift(index), strict=True)]

    return change


def smaller(index: int, data: Dataset) -> None:
    if index == 5:
        store(data, np.zeros((30, 40), np.int16))


def one(index: int) -> bool:
    return index == 5


def beyond_ascii(index: int, data: Dataset) -> None:
    """Ids that differ in letters of ISO_IR 100 only."""
    data.SpecificCharacterSet = "ISO_IR 100"
    data.PatientID = "Ä-7" if one(index) else "Ö-7"


def spread(step: float, thickness: float | None = None) -> Change:
    """Slices every `step` mm, with a Slice Thickness if one is given."""

    def change(index: int, data: Dataset) -> None:
        data.ImagePositionPatient = [-5, -7, index * step]
        if thickness is not None:
            data.SliceThickness = thickness

    return change


SPOILED = {
    "MR": (setting(SOPClassUID=MRImageStorage, Modality="MR"), Reason.NOT_CT, "24 of 24.*MR Image Storage"),
    "one MR": (setting(one, SOPClassUID=MRImageStorage), Reason.NOT_CT, "1 of 24"),
    "secondary capture": (setting(SOPClassUID=SecondaryCaptureImageStorage), Reason.NOT_CT, "Secondary Capture"),
    "modality": (setting(Modality="PT"), Reason.NOT_CT, "modality is PT"),
    "enhanced": (setting(SOPClassUID=EnhancedCTImageStorage), Reason.MULTI_FRAME, "Enhanced CT"),
    "frames": (setting(NumberOfFrames=3), Reason.MULTI_FRAME, "3 frames"),
    "localizer": (setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), Reason.LOCALIZER, "24 images"),
    "scout": (setting(ImageType=["DERIVED", "PRIMARY", "SCOUT"]), Reason.LOCALIZER, "24 images"),
    "no position": (setting(one, ImagePositionPatient=None), Reason.NO_GEOMETRY, "Image Position .* in 1 of 24"),
    "no orientation": (setting(ImageOrientationPatient=None), Reason.NO_GEOMETRY, "Image Orientation .* 24 of 24"),
    "no spacing": (setting(PixelSpacing=None), Reason.NO_GEOMETRY, "Pixel Spacing"),
    "zero spacing": (setting(PixelSpacing=[0, 0]), Reason.NO_GEOMETRY, "Pixel Spacing 0"),
    "negative spacing": (setting(one, PixelSpacing=[-0.8, 0.7]), Reason.NO_GEOMETRY, "Pixel Spacing -0.8"),
    "two numbers": (setting(one, ImagePositionPatient=[0, 0]), Reason.NO_GEOMETRY, "Image Position"),
    "far away": (setting(one, ImagePositionPatient=[0, 0, "1e300"]), Reason.NO_GEOMETRY, "1e.300 mm"),
    "not unit": (setting(ImageOrientationPatient=[2, 0, 0, 0, 1, 0]), Reason.NO_GEOMETRY, "unit vectors"),
    "enormous": (setting(one, ImageOrientationPatient=["1e300", 0, 0, 0, 1, 0]), Reason.NO_GEOMETRY, "unit vectors"),
    "not perpendicular": (setting(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), Reason.NO_GEOMETRY, "perpendicular"),
    "all zero": (setting(ImageOrientationPatient=[0] * 6), Reason.NO_GEOMETRY, "unit vectors"),
    "no frame of reference": (setting(FrameOfReferenceUID=""), Reason.NO_GEOMETRY, "Frame of Reference"),
    "one size": (smaller, Reason.MIXED_SIZE, "23 of 36 x 40 pixels, 1 of 30 x 40"),
    "one spacing": (setting(one, PixelSpacing=[0.8, 0.71]), Reason.MIXED_SIZE, "Pixel Spacing runs"),
    "frames of reference": (
        setting(lambda index: index > 19, FrameOfReferenceUID=generate_uid()),
        Reason.MIXED_FRAME_OF_REFERENCE,
        "2 frames of reference with 20, 4",
    ),
    "patients": (
        setting(lambda index: index > 19, PatientID="PLANTED-OTHER"),
        Reason.MIXED_PATIENT,
        "2 patients with 20, 4 images",
    ),
    "one patient nameless": (setting(one, PatientID=""), Reason.MIXED_PATIENT, "2 patients with 23, 1"),
    "patients beyond ASCII": (beyond_ascii, Reason.MIXED_PATIENT, "2 patients with 23, 1"),
    "patients and MR": (
        setting(one, PatientID="PLANTED-OTHER", SOPClassUID=MRImageStorage),
        Reason.MIXED_PATIENT,
        "2 patients",
    ),
    "studies": (setting(one, StudyInstanceUID=generate_uid()), Reason.MIXED_STUDY, "2 studies with 23, 1 images"),
    "one orientation": (
        setting(one, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0]),
        Reason.MIXED_ORIENTATION,
        "1 of 24",
    ),
    "no rescale": (setting(RescaleSlope=None), Reason.BAD_RESCALE, "slope None"),
    "slope 0": (setting(one, RescaleSlope=0), Reason.BAD_RESCALE, "slope 0"),
    "effective Z": (setting(RescaleType="Z_EFF"), Reason.BAD_RESCALE, "Z_EFF"),
    "lying rows": (setting(one, Rows=4000), Reason.UNDECODABLE, "4000 x 40 pixels .* need 320000 bytes"),
    "huge": (setting(one, Rows=65535, Columns=65535), Reason.UNDECODABLE, "65535 x 65535"),
    "no rows": (setting(one, Rows=0), Reason.UNDECODABLE, "0 x 40"),
    "colour": (setting(SamplesPerPixel=3), Reason.NOT_CT, "colour"),
    "bits": (setting(BitsStored=0), Reason.UNDECODABLE, "stored 0"),
    "32 bits": (setting(BitsAllocated=32), Reason.UNDECODABLE, "allocated 32"),
    "gap": (shifting(lambda i: (0, 0, 5.0 if i >= 10 else 0)), Reason.GEOM_GAP, "2 slices missing between 52.5 and 60"),
    "gaps": (
        shifting(lambda i: (0, 0, 2.5 * (i >= 10) + 5 * (i >= 15))),
        Reason.GEOM_GAP,
        "1 slice missing .* 2 slices at 1 more place",
    ),
    "interval scan": (spread(12.0), Reason.GEOM_GAP, "12.00 mm apart, at most 10 mm"),
    "thin slices far apart": (spread(10.0, 1.0), Reason.GEOM_GAP, "slices of 1.00 mm lie 10.00 mm apart"),
    "step changes": (shifting(lambda i: (0, 0, 0.4 * max(0, i - 12))), Reason.GEOM_IRREGULAR, "2.50 to 2.90 mm"),
    "doubled step": (shifting(lambda i: (0, 0, 2.5 * max(0, i - 12))), Reason.GEOM_IRREGULAR, "2.50 to 5.00 mm"),
    "no whole gap": (shifting(lambda i: (0, 0, 1.4 if i >= 10 else 0)), Reason.GEOM_IRREGULAR, "2.50 to 3.90 mm"),
    "one slice off": (shifting(lambda i: (0, 0, 0.6 if i == 9 else 0)), Reason.GEOM_IRREGULAR, "off the regular grid"),
    "sideways": (shifting(lambda i: (0, 3 if i == 9 else 0, 0)), Reason.GEOM_IRREGULAR, "3.00 mm off"),
    "last one sideways": (shifting(lambda i: (0, 9 if i == 23 else 0, 0)), Reason.GEOM_IRREGULAR, "off the regular"),
    "same place": (shifting(lambda i: (0, 0, -2.5 * i)), Reason.GEOM_DUPLICATE, "24 slices at only 1 position,"),
    "one twice": (shifting(lambda i: (0, 0, -2.5 if i == 9 else 0)), Reason.GEOM_DUPLICATE, "23 positions, .* 50.0 mm"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_refused_with_reason_and_numbers(tmp_path: Path, name: str) -> None:
    change, reason, told = SPOILED[name]
    unfit = refusal(write_series(tmp_path, change))
    assert unfit.reason is reason
    assert re.search(told, unfit.detail), unfit.detail
    assert "\n" not in unfit.detail
    assert "planted" not in unfit.detail.lower()
    assert len(unfit.detail) < 250


def test_a_good_series_is_ordered_foot_to_head(tmp_path: Path) -> None:
    good = vetted(write_series(tmp_path))
    assert [header.position[2] for header in good.headers if header.position] == [30 + 2.5 * i for i in range(SLICES)]
    assert good.grid.shape == (24, 36, 40)
    assert good.grid.spacing == pytest.approx((2.5, 0.8, 0.7))
    assert good.notes == ()


def test_feet_first_is_ordered_foot_to_head_too(tmp_path: Path) -> None:
    good = vetted(write_series(tmp_path, orientation=FEET_FIRST_SUPINE))
    heights = [header.position[2] for header in good.headers if header.position]
    assert heights == sorted(heights)


def tilted(degrees: float) -> tuple[float, ...]:
    """Orientation of axial slices tilted about the x axis, as a tilted gantry or an oblique reconstruction has it."""
    return (1, 0, 0, 0, cos(radians(degrees)), sin(radians(degrees)))


@pytest.mark.parametrize("degrees", [-20, -2, 2, 15, 30])
def test_gantry_tilt(tmp_path: Path, degrees: float) -> None:
    unfit = refusal(write_series(tmp_path, orientation=tilted(degrees), step=(0, 0, 2.5)))
    assert unfit.reason is Reason.TILT
    assert f"{abs(degrees):.1f} degrees" in unfit.detail


@pytest.mark.parametrize("degrees", [-9, 3, 9])
def test_a_small_obliquity_is_kept(tmp_path: Path, degrees: float) -> None:
    grid = vetted(write_series(tmp_path, orientation=tilted(degrees))).grid
    assert grid.affine[1, 1] == pytest.approx(0.8 * cos(radians(degrees)))
    assert grid.affine[2, 1] == pytest.approx(0.8 * sin(radians(degrees)))


@pytest.mark.parametrize("degrees", [11, 45, 90])
def test_oblique_slices_are_not_axial(tmp_path: Path, degrees: float) -> None:
    unfit = refusal(write_series(tmp_path, orientation=tilted(degrees)))
    assert unfit.reason is Reason.NON_AXIAL
    assert f"{degrees} degrees off" in unfit.detail


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1), (0, -1, 0, 0, 0, 1)])
def test_coronal_and_sagittal(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    assert refusal(write_series(tmp_path, orientation=orientation)).reason is Reason.NON_AXIAL


def test_images_turned_in_their_plane(tmp_path: Path) -> None:
    unfit = refusal(write_series(tmp_path, orientation=(cos(0.5), sin(0.5), 0, -sin(0.5), cos(0.5), 0)))
    assert unfit.reason is Reason.NON_AXIAL
    assert "29 degrees in their plane" in unfit.detail


def test_rounded_positions_are_regular(tmp_path: Path) -> None:
    """Senders round to 0.1 mm: 0.625 mm steps become 0.6 and 0.7."""

    def rounded(index: int, data: Dataset) -> None:
        data.ImagePositionPatient = [-5, -7, round(index * 0.625, 1)]

    assert vetted(write_series(tmp_path, rounded)).grid.spacing[0] == pytest.approx(0.625, abs=0.005)


@pytest.mark.parametrize(("step", "thickness"), [(10.0, None), (10.0, 5.0), (5.0, 5.0), (3.0, 1.0), (5.0, 0.0)])
def test_slices_close_enough_make_a_volume(tmp_path: Path, step: float, thickness: float | None) -> None:
    good = vetted(write_series(tmp_path, spread(step, thickness)))
    assert good.grid.spacing[0] == pytest.approx(step)
    assert {header.slice_thickness for header in good.headers} == {thickness}


def test_limits(tmp_path: Path) -> None:
    folder = write_series(tmp_path, slices=10)
    assert refusal(folder).detail == "10 slices, at least 20 are needed"
    assert refusal(folder).reason is Reason.TOO_FEW_SLICES
    assert len(vetted(folder, min_slices=10, max_slices=10).headers) == 10
    too_many = refusal(folder, min_slices=2, max_slices=9)
    assert (too_many.reason, too_many.detail) == (Reason.TOO_MANY_SLICES, "10 slices, at most 9 are taken")


def test_a_single_slice_never_makes_a_volume(tmp_path: Path) -> None:
    assert refusal(write_series(tmp_path, slices=1), min_slices=1).reason is Reason.TOO_FEW_SLICES


def test_a_stray_localizer_is_left_out_and_noted(tmp_path: Path) -> None:
    write_series(tmp_path)
    scout = make_slice(99, orientation=(1, 0, 0, 0, 0, -1))
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    store(scout, np.zeros((50, 60), np.int16))
    write(scout, tmp_path / "scout")
    good = vetted(tmp_path)
    assert len(good.headers) == SLICES
    assert good.notes == ("1 localizer image left out",)


def test_a_localizer_of_another_patient_is_not_just_left_out(tmp_path: Path) -> None:
    write_series(tmp_path)
    scout = make_slice(99)
    scout.ImageType, scout.PatientID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "PLANTED-OTHER"
    write(scout, tmp_path / "scout")
    assert refusal(tmp_path).reason is Reason.MIXED_PATIENT


@pytest.mark.parametrize("identity", ["", "PLANTED-ID ", None])
def test_one_patient_however_the_id_is_written(tmp_path: Path, identity: str | None) -> None:
    write_series(tmp_path, setting(PatientID=identity))
    last = make_slice(SLICES - 1)
    last.PatientID = identity and identity.strip()
    write(last, tmp_path / "again")
    assert len(vetted(tmp_path).headers) == SLICES


def test_a_repeated_instance_counts_once(tmp_path: Path) -> None:
    write_series(tmp_path)
    write(make_slice(4), tmp_path / "again")
    good = vetted(tmp_path)
    assert len(good.headers) == SLICES
    assert good.notes == ("1 slice came more than once with the same content",)


def test_one_uid_with_two_contents(tmp_path: Path) -> None:
    write_series(tmp_path)
    other = make_slice(4)
    store(other, np.zeros((36, 40), np.int16))
    write(other, tmp_path / "again")
    assert refusal(tmp_path).reason is Reason.DUPLICATE_CONFLICT


def test_two_phases_are_told_apart(tmp_path: Path) -> None:
    write_series(tmp_path, setting(AcquisitionNumber=1))

    def second(index: int, data: Dataset) -> None:
        data.SOPInstanceUID, data.AcquisitionNumber = f"1.2.3.{index}", 2

    write_series(tmp_path / "second", second)
    unfit = refusal(tmp_path)
    assert unfit.reason is Reason.GEOM_DUPLICATE
    assert "48 slices at only 24 positions, the first at 30.0 mm" in unfit.detail
    assert re.search(r"differ in Acquisition Number \((1, 2|2, 1)\)", unfit.detail)


def test_a_missing_file_is_a_gap(tmp_path: Path) -> None:
    folder = write_series(tmp_path)
    sorted(folder.iterdir())[len(list(folder.iterdir())) // 2].unlink()
    assert refusal(folder).reason is Reason.GEOM_GAP
