"""The SEG read back: the same mask in source order and in patient space, coded and tracked."""

from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset
from sr_synthetic import (
    FEET_FIRST,
    NAMES,
    SHAPE,
    anatomy_map,
    ct_headers,
    empty_map,
    feet_first_headers,
    labels,
    nothing_assessed,
    oblique_headers,
    reading,
)

import dicom_sr
from config import Reason, load_vocabulary
from ct.anatomy import AnatomyMap
from dicom_sr.segmentation import on_both_sides, segmented_anatomies
from fvlm.reading import NotAssessed

SHOWN = ("lung", "heart", "liver", "kidney")  # the spleen is implausible


def expected(source: AnatomyMap) -> np.ndarray:
    """The mask with the spleen left out, [slice, row, column]; labels happen to be segment numbers."""
    mask = source.grid.source_axes.to_source(labels())
    return np.where(mask == NAMES.index("spleen") + 1, 0, mask)


def segment_numbers(seg: Dataset) -> dict[str, int]:
    return {str(item.SegmentLabel): int(item.SegmentNumber) for item in seg.SegmentSequence}


@pytest.mark.parametrize(
    ("headers", "source"),
    [
        (ct_headers, anatomy_map()),
        (feet_first_headers, anatomy_map(source_axes=FEET_FIRST)),
        (oblique_headers, anatomy_map()),
    ],
    ids=["head first", "feet first", "oblique"],
)
def test_pixels_come_back_in_source_order(headers, source: AnatomyMap) -> None:  # type: ignore[no-untyped-def]
    images = headers()
    seg, _ = dicom_sr.write(reading(), source, images)
    back = hd.seg.Segmentation.from_dataset(seg).get_pixels_by_source_instance(
        [image.SOPInstanceUID for image in images], combine_segments=True, ignore_spatial_locations=True
    )
    assert np.array_equal(back, expected(source))


@pytest.mark.parametrize(
    ("headers", "source"),
    [(ct_headers, anatomy_map()), (feet_first_headers, anatomy_map(source_axes=FEET_FIRST))],
    ids=["head first", "feet first"],
)
def test_every_voxel_lies_where_it_lies_in_the_patient(headers, source: AnatomyMap) -> None:  # type: ignore[no-untyped-def]
    """From the frames' own positions and orientation to the voxel of the anatomy map at that point."""
    seg, _ = dicom_sr.write(reading(), source, headers())
    shared = seg.SharedFunctionalGroupsSequence[0]
    row_mm, column_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    inverse = np.linalg.inv(source.grid.affine)
    back = np.zeros(SHAPE, np.uint8)
    for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        number = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for row, column in np.argwhere(pixels):
            point = origin + cosines[:3] * column_mm * column + cosines[3:] * row_mm * row
            z, y, x = np.rint((inverse @ [*point, 1.0])[:3]).astype(int)
            back[z, y, x] = number
    assert np.array_equal(back, np.where(labels() == 5, 0, labels()))


def test_segments_are_coded_tracked_and_coloured() -> None:
    seg, sr = dicom_sr.write(reading(), anatomy_map(), ct_headers())
    vocabulary = load_vocabulary()
    assert [int(item.SegmentNumber) for item in seg.SegmentSequence] == [1, 2, 3, 4]
    tracking = dicom_sr.read(sr).tracking_uids
    for name, item in zip(SHOWN, seg.SegmentSequence, strict=True):
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == (vocabulary.anatomy(name).code.value, "SCT")
        assert item.TrackingUID == tracking[name]
        assert item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "Anatomy UNet"
        sides = kind.get("SegmentedPropertyTypeModifierCodeSequence")
        assert bool(sides) == vocabulary.anatomy(name).paired
        assert "RecommendedDisplayCIELabValue" in item
    assert seg.BodyPartExamined == "CHEST"
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    assert seg.SegmentationType == "BINARY"


@pytest.mark.parametrize("side", [slice(0, 32), slice(32, 64)], ids=["right", "left"])
@pytest.mark.parametrize("stray", [0, 1])
def test_one_kidney_alone_is_not_right_and_left(side: slice, stray: int) -> None:
    source = anatomy_map()
    one = source.labels.copy()
    other = [index for index in range(SHAPE[2]) if index not in range(*side.indices(SHAPE[2]))]
    gone = np.isin(np.arange(SHAPE[2]), other)[None, None, :] & (one == NAMES.index("kidney") + 1)
    gone[tuple(np.argwhere(gone)[:stray].T)] = False
    one[gone] = 0
    seg, _ = dicom_sr.write(reading(), replace(source, labels=one), ct_headers())
    modified = {
        str(item.SegmentLabel): "SegmentedPropertyTypeModifierCodeSequence" in item.SegmentedPropertyTypeCodeSequence[0]
        for item in seg.SegmentSequence
    }
    assert modified == {"Lung": True, "Heart": False, "Liver": False, "Kidney": False}


def test_a_lone_lung_is_not_right_and_left() -> None:
    source = anatomy_map()
    assert on_both_sides(source, "lung")
    one = source.labels.copy()
    one[:, :, :32][one[:, :, :32] == 1] = 0
    assert not on_both_sides(replace(source, labels=one), "lung")


@pytest.mark.parametrize("reason", [Reason.ANATOMY_TOO_SMALL, Reason.ANATOMY_TOO_LARGE, Reason.ANATOMY_IMPLAUSIBLE_HU])
def test_implausible_masks_are_left_out(reason: Reason) -> None:
    doubted = replace(reading(), not_assessed=(NotAssessed("heart", reason),), anatomies=())
    seg, _ = dicom_sr.write(doubted, anatomy_map(), ct_headers())
    assert segment_numbers(seg) == {"Lung": 1, "Liver": 2, "Kidney": 3, "Spleen": 4}
    assert np.count_nonzero(seg.pixel_array) == np.count_nonzero(labels()[labels() != 2])


def test_cut_off_anatomy_keeps_its_segment() -> None:
    assert "kidney" in segmented_anatomies(reading(), anatomy_map())


def test_without_masks_there_is_no_seg() -> None:
    assert [d.Modality for d in dicom_sr.write(nothing_assessed(), empty_map(), ct_headers())] == ["SR"]
    unmeasured = replace(anatomy_map(), measures={})
    assert [d.Modality for d in dicom_sr.write(reading(), unmeasured, ct_headers())] == ["SR"]


def mixed(**changes: str | None) -> list[Dataset]:
    """Headers of which the last one differs."""
    return [*ct_headers()[:-1], ct_headers(**changes)[-1]]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], Reason.INTERNAL),
        (ct_headers(count=23), Reason.INTERNAL),
        (ct_headers(rows=32), Reason.MIXED_SIZE),
        (ct_headers(FrameOfReferenceUID=None), Reason.BAD_UID),
        (ct_headers(ImagePositionPatient=None), Reason.NO_GEOMETRY),
        (ct_headers(SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), Reason.NOT_CT),
        (
            [*ct_headers(count=23), *ct_headers(count=1, SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.4")],
            Reason.INTERNAL,
        ),
        (mixed(PatientID="P-18"), Reason.MIXED_PATIENT),
        (mixed(PatientID=None), Reason.MIXED_PATIENT),
        (mixed(StudyInstanceUID="1.2.3"), Reason.MIXED_STUDY),
        (mixed(FrameOfReferenceUID="1.2.3"), Reason.MIXED_FRAME_OF_REFERENCE),
    ],
    ids=[
        "none",
        "too few",
        "other size",
        "no frame of reference",
        "no position",
        "MR",
        "two series",
        "two patients",
        "a patient and nobody",
        "two studies",
        "two frames of reference",
    ],
)
def test_headers_that_do_not_fit_are_refused_with_a_reason(headers: list[Dataset], reason: Reason) -> None:
    with pytest.raises(dicom_sr.WriteError) as caught:
        dicom_sr.write(reading(), anatomy_map(), headers)
    assert caught.value.reason is reason
    assert "Müller" not in str(caught.value)
    assert "P-1" not in str(caught.value)
