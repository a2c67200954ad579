"""The SEG read back: the same mask in source order and in patient space, coded and tracked."""

import csv
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import totalsegmentator
from highdicom.color import CIELabColor
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
    sided_map,
)

import dicom_sr
from config import Output, Plan, Reason, load_vocabulary
from config.outputs import AIR
from ct.anatomy import AnatomyMap
from dicom_sr import codes
from dicom_sr.identity import Names
from dicom_sr.segmentation import Segments, segment_rows, segmented_anatomies
from dicom_sr.validate import validate, validate_set
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
        assert "SegmentedPropertyTypeModifierCodeSequence" not in kind
        assert "RecommendedDisplayCIELabValue" in item
    assert seg.BodyPartExamined == "CHEST"
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    assert seg.SegmentationType == "BINARY"


SIDED = [
    ("Right lung", "24028007"),
    ("Left lung", "7771000"),
    ("Heart", None),
    ("Liver", None),
    ("Right kidney", "24028007"),
    ("Left kidney", "7771000"),
]


def labelled(seg: Dataset) -> list[tuple[str, str | None]]:
    """Label and laterality of each segment."""
    found = []
    for item in seg.SegmentSequence:
        sides = item.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence")
        found.append((str(item.SegmentLabel), str(sides[0].CodeValue) if sides else None))
    return found


def mask_of(seg: Dataset, number: int, images: list[Dataset]) -> np.ndarray:
    """One segment as [slice, row, column]."""
    found = hd.seg.Segmentation.from_dataset(seg).get_pixels_by_source_instance(
        [image.SOPInstanceUID for image in images], segment_numbers=[number], assert_missing_frames_are_empty=True
    )
    return found[..., 0].astype(bool)


@pytest.mark.parametrize(
    ("headers", "axes"), [(ct_headers, None), (feet_first_headers, FEET_FIRST)], ids=["head first", "feet first"]
)
def test_left_and_right_have_segments_of_their_own(headers, axes) -> None:  # type: ignore[no-untyped-def]
    images, source = headers(), sided_map(axes)
    seg, sr = dicom_sr.write(reading(), source, images)
    assert labelled(seg) == SIDED
    whole = labels()
    for number, (label, anatomy, columns) in enumerate(
        [(1, "lung", slice(0, 32)), (1, "lung", slice(32, 64)), (2, "", slice(0, 64)), (3, "", slice(0, 64)),
         (4, "kidney", slice(0, 32)), (4, "kidney", slice(32, 64))], start=1,
    ):  # fmt: skip
        expected_mask = np.zeros(SHAPE, bool)
        expected_mask[:, :, columns] = whole[:, :, columns] == label
        assert np.array_equal(mask_of(seg, number, images), source.grid.source_axes.to_source(expected_mask)), anatomy
    tracking = dicom_sr.read(sr).tracking_uids
    for item in seg.SegmentSequence:
        side, _, anatomy = str(item.SegmentLabel).lower().rpartition(" ")
        assert item.TrackingUID == tracking[f"{anatomy}.{side}" if side else anatomy]
        assert item.TrackingID == item.SegmentLabel


@pytest.mark.parametrize("gone", ["left", "right"])
def test_one_kidney_alone_has_its_side_and_no_segment_of_the_other(gone: str) -> None:
    seg, _ = dicom_sr.write(reading(), sided_map(gone=gone), ct_headers())
    assert labelled(seg) == [entry for entry in SIDED if not entry[0].startswith(gone.capitalize())]


def test_an_anatomy_whose_sides_are_not_known_stays_one() -> None:
    seg, _ = dicom_sr.write(reading(), sided_map(without=("kidney",)), ct_headers())
    assert labelled(seg) == [*SIDED[:4], ("Kidney", None)]


def test_rows_are_what_the_report_can_say_of_each_segment() -> None:
    source, of = sided_map(), reading()
    names = Names.of(of, ["1.2"], "1.2.3", of.analysed_at)
    rows = segment_rows(of, source, names, load_vocabulary())
    kidneys = Segments(Dataset(), rows).of("kidney")
    assert [(row.number, row.laterality, row.tracking_id) for row in kidneys] == [
        (5, "right", "Right kidney"),
        (6, "left", "Left kidney"),
    ]
    for row in kidneys:
        measure = source.sides["kidney"].measures[row.laterality]  # type: ignore[index]
        assert (row.volume_mm3, row.mean_hu) == (measure.volume_ml * 1000, measure.mean_hu)
        assert row.tracking_uid == names.tracking(f"kidney.{row.laterality}")
    assert sum(row.volume_mm3 for row in kidneys) == pytest.approx(source.measures["kidney"].volume_ml * 1000)
    assert Segments(Dataset(), rows).of("spleen") == ()


def test_label_map_shows_the_same_and_nothing_refers_to_it() -> None:
    images, source = ct_headers(), sided_map()
    seg, label_map, sr = dicom_sr.write(reading(), source, images, plan=Plan(AIR | {Output.LABEL_MAP}))
    assert label_map.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert label_map.SegmentationType == "LABELMAP"
    assert label_map.SeriesInstanceUID != seg.SeriesInstanceUID
    described = [item for item in label_map.SegmentSequence if int(item.SegmentNumber) > 0]
    for item, other in zip(described, seg.SegmentSequence, strict=True):
        assert (item.TrackingUID, item.TrackingID, item.SegmentNumber) == (
            other.TrackingUID,
            other.TrackingID,
            other.SegmentNumber,
        )
    uids = [image.SOPInstanceUID for image in images]
    one, two = (
        hd.seg.Segmentation.from_dataset(d).get_pixels_by_source_instance(
            uids, combine_segments=True, assert_missing_frames_are_empty=True
        )
        for d in (seg, label_map)
    )
    assert np.array_equal(one, two)
    assert label_map.SOPInstanceUID not in str(sr)
    assert seg.SOPInstanceUID in str(sr)


@pytest.mark.parametrize("headers", [ct_headers, oblique_headers], ids=["axial", "oblique"])
def test_objects_with_sides_and_a_label_map_are_valid(headers) -> None:  # type: ignore[no-untyped-def]
    images = headers()
    written = dicom_sr.write(reading(), sided_map(), images, plan=Plan(AIR | {Output.LABEL_MAP}))
    assert [d.SeriesNumber for d in written] == [9001, 9006, 9002]
    for dataset in written:
        verdict = validate(dataset)
        assert verdict.ok, verdict.errors
        assert not verdict.warnings
    assert validate_set([*images, *written]).errors == ()


def test_the_report_has_a_group_a_side_and_findings_refer_to_all_segments_of_their_anatomy() -> None:
    source, of = sided_map(), reading()
    seg, sr = dicom_sr.write(of, source, ct_headers())
    groups = [i for i in descendants(sr) if codes.is_a(i, codes.MEASUREMENT_GROUP)]
    referred: dict[str, list[int]] = {}
    for group in groups:
        kind = next(i for i in group.ContentSequence if codes.is_a(i, codes.FINDING))
        numbers = [
            int(number)
            for i in group.ContentSequence
            for reference in i.get("ReferencedSOPSequence") or []
            for number in np.atleast_1d(reference.ReferencedSegmentNumber)
        ]
        referred.setdefault(kind.ConceptCodeSequence[0].CodeMeaning, []).extend(numbers)
    assert referred["Lung"] == [1, 2]
    assert referred["Kidney"] == [5, 6]
    assert referred["Cardiomegaly"] == [3]
    assert referred["Nodule of lung"] == [1, 2]
    parsed = dicom_sr.read(sr)
    lung = parsed.reading.anatomies[0]
    sides = source.sides["lung"].measures
    assert lung.volume_ml == pytest.approx(sum(side.volume_ml for side in sides.values()), abs=0.001)
    assert lung.mean_hu == pytest.approx(
        sum(side.mean_hu * side.voxels for side in sides.values()) / source.measures["lung"].voxels, abs=0.1
    )
    tracked = {str(item.TrackingUID) for item in seg.SegmentSequence}
    assert tracked <= set(parsed.tracking_uids.values())
    assert {"lung.left", "lung.right", "kidney.left", "kidney.right", "liver"} <= parsed.tracking_uids.keys()


def descendants(parent: Dataset) -> Iterator[Dataset]:
    for child in parent.get("ContentSequence") or []:
        yield child
        yield from descendants(child)


def test_colours_are_those_that_totalsegmentator_recommends() -> None:
    """The table of codes and colours in the package; no two the same to the eye (CIELab distance over twice 2.3)."""
    table = Path(totalsegmentator.__file__).parent / "resources" / "totalsegmentator_snomed_mapping.csv"
    with table.open(encoding="utf-8-sig", newline="") as file:
        recommended = {
            row["Structure"]: tuple(int(level) for level in row["DicomRGBColor"].split(","))
            for row in csv.DictReader(file)
            if row["DicomRGBColor"]
        }
    anatomies = load_vocabulary().anatomies
    for anatomy in anatomies:
        if anatomy.name.startswith("renal_"):  # TotalSegmentator has no such class
            continue
        first = anatomy.totalsegmentator[0] if anatomy.totalsegmentator else anatomy.name
        assert (anatomy.color == recommended[first]) == (anatomy.name not in {"iliac_vein", "iliopsoas", "scapula"})
        right = next((name for name in anatomy.totalsegmentator if "right" in name), None) if anatomy.paired else None
        assert anatomy.color_right == (recommended[right] if right else None)
    lab = [np.array(CIELabColor.from_rgb(*anatomy.color).lab) for anatomy in anatomies]
    assert min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(lab, 2)) > 4.6


@pytest.mark.parametrize(
    "reason",
    [Reason.ANATOMY_TOO_SMALL, Reason.ANATOMY_TOO_LARGE, Reason.ANATOMY_IMPLAUSIBLE_HU, Reason.ANATOMY_FRAGMENTED],
)
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
