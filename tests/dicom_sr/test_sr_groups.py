"""The measurement groups one by one: sites and sides, regions, reasons, the predecessor, and what is refused."""

from collections.abc import Iterator
from io import BytesIO

import pytest
from highdicom.sr import Comprehensive3DSR
from pydicom import Dataset, dcmread
from pydicom.uid import Comprehensive3DSRStorage
from sr_patients import FORMER, short
from sr_synthetic import MOMENT, anatomy_map, ct_headers, reading

import dicom_sr
from config import Reason, load_vocabulary
from dicom_sr import codes, report, templates
from dicom_sr.identity import Kind, Names, WriteContext
from dicom_sr.segmentation import SegmentRow, Segments
from dicom_sr.sources import working_copies
from dicom_sr.validate import validate
from fvlm.reading import NotAssessed

ROWS = (
    SegmentRow(1, "lung", "right", "2.25.101", "Right lung", 3_000_000.4, -800.04),
    SegmentRow(2, "lung", "left", "2.25.102", "Left lung", 2_000_000.0, -790.0),
    SegmentRow(3, "heart", None, "2.25.103", "Heart", 640_000.0, 41.0),
    SegmentRow(4, "kidney", "left", "2.25.104", "Left kidney", 150_000.0, 35.0),
)


def sided(rows: tuple[SegmentRow, ...] = ROWS) -> Dataset:
    """The SR over a SEG whose paired anatomies are apart."""
    of, headers = reading(), working_copies(ct_headers(), anatomy_map())
    seg = dicom_sr.write(of, anatomy_map(), ct_headers())[0]
    names = Names.of(of, [str(h.SOPInstanceUID) for h in headers], str(headers[0].SeriesInstanceUID), MOMENT)
    seg.SOPInstanceUID = names.instance(Kind.SEG)
    return report.build(of, Segments(seg, rows), headers, names, WriteContext(), MOMENT, load_vocabulary())


def groups_of(sr: Dataset) -> list[Dataset]:
    container = next(item for item in sr.ContentSequence if codes.is_a(item, codes.IMAGING_MEASUREMENTS))
    return list(container.ContentSequence)


def values(group: Dataset, concept: object) -> Iterator[Dataset]:
    return (item for item in group.ContentSequence if codes.code_of(item.ConceptNameCodeSequence[0]) == concept)


def summary(group: Dataset) -> tuple[str, str, str | None, list[int]]:
    """Tracking identifier, site, side, referenced segments."""
    (tracking,) = values(group, codes.TRACKING_IDENTIFIER)
    (site,) = values(group, codes.FINDING_SITE)
    side = next((c for c in site.get("ContentSequence") or [] if codes.is_a(c, codes.LATERALITY)), None)
    numbers = [
        item.ReferencedSOPSequence[0].ReferencedSegmentNumber
        for item in group.ContentSequence
        if item.ValueType == "IMAGE"
    ]
    flat = [int(n) for one in numbers for n in ([one] if isinstance(one, int) else one)]
    return (
        str(tracking.TextValue),
        str(site.ConceptCodeSequence[0].CodeMeaning),
        None if side is None else str(side.ConceptCodeSequence[0].CodeMeaning),
        flat,
    )


@pytest.fixture(scope="module")
def sr() -> Dataset:
    return sided()


def test_each_side_is_a_group_and_a_finding_of_both_takes_no_side(sr: Dataset) -> None:
    told = [summary(group) for group in groups_of(sr)]
    assert told[:3] == [
        ("Right lung", "Lung", "Right", [1]),
        ("Left lung", "Lung", "Left", [2]),
        ("Lung (analysed region): Lung nodule", "Lung", None, [1, 2]),
    ]
    assert ("Heart", "Heart", None, [3]) in told
    assert ("Left kidney", "Kidney", "Left", [4]) in told
    assert ("Liver", "Liver", None, []) in told


def test_each_side_has_its_own_numbers_and_together_they_are_the_anatomy(sr: Dataset) -> None:
    right, left = (next(values(group, codes.VOLUME)) for group in groups_of(sr)[:2])
    assert [int(v.MeasuredValueSequence[0].NumericValue) for v in (right, left)] == [3_000_000, 2_000_000]
    lung = dicom_sr.read(sr).reading.anatomies[0]
    assert lung.volume_ml == pytest.approx(5000.0)
    assert lung.mean_hu == pytest.approx((3 * -800.0 + 2 * -790.0) / 5)
    assert dicom_sr.read(sr).tracking_uids["lung.left"] == "2.25.102"


def test_groups_have_the_tracking_pair_of_their_segments_and_no_two_the_same(sr: Dataset) -> None:
    pairs = [
        (str(next(values(g, codes.TRACKING_UID)).UID), str(next(values(g, codes.TRACKING_IDENTIFIER)).TextValue))
        for g in groups_of(sr)
    ]
    assert {(row.tracking_uid, row.tracking_id) for row in ROWS} <= set(pairs)
    assert len({uid for uid, _ in pairs}) == len(pairs)
    whole_seg, whole = dicom_sr.write(reading(), anatomy_map(), ct_headers())
    of_seg = {(str(s.TrackingUID), str(s.TrackingID)) for s in whole_seg.SegmentSequence}
    assert of_seg <= {
        (str(next(values(g, codes.TRACKING_UID)).UID), str(next(values(g, codes.TRACKING_IDENTIFIER)).TextValue))
        for g in groups_of(whole)
    }


def test_two_segments_in_one_reference_are_read_by_validator_and_library(sr: Dataset) -> None:
    assert validate(sr).errors == ()
    stream = BytesIO()
    sr.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    content = Comprehensive3DSR.from_dataset(dcmread(stream)).content
    nodule = codes.coded(load_vocabulary().finding("lung.nodule").code)
    (group,) = content.get_volumetric_roi_measurement_groups(finding_type=nodule)
    assert list(group.referenced_segment[0].ReferencedSOPSequence[0].ReferencedSegmentNumber) == [1, 2]


@pytest.mark.parametrize("numbers", [(), (0,), (1, 1)])
def test_a_region_has_segment_numbers(numbers: tuple[int, ...]) -> None:
    with pytest.raises(dicom_sr.WriteError):
        templates.referenced_segments("2.25.1", numbers, "2.25.2")


def test_a_negative_volume_and_a_group_that_states_nothing_are_refused() -> None:
    with pytest.raises(dicom_sr.WriteError):
        templates.volume("liver", -1.0, reading().segmenter)
    with pytest.raises(dicom_sr.WriteError):
        templates.measurement_group(
            templates.TrackingIdentifier("2.25.1", "x"), templates.algorithm_identification(reading().model)
        )


def test_what_was_not_assessed_has_a_coded_reason_and_names_its_findings() -> None:
    entry = NotAssessed("kidney", Reason.ANATOMY_IMPLAUSIBLE_HU, "mean 400 HU", ("kidney.cyst", "kidney.stone"))
    sr = dicom_sr.write(reading(not_assessed=(entry,)), anatomy_map(), ct_headers())[-1]
    assert dicom_sr.read(sr).reading.not_assessed == (entry,)
    text = dicom_sr.as_text(sr).splitlines()
    at = text.index("    Kidney: Not Evaluated")
    assert text[at + 1 : at + 5] == [
        "      Reason for not being assessed: The mean attenuation inside the mask is implausible.",
        "      Comment: mean 400 HU",
        "      Simple renal cyst: Not Evaluated",
        "      Kidney stone: Not Evaluated",
    ]
    assert sr.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == codes.LOCAL_SCHEME


def test_a_new_generation_names_what_it_replaces_under_names_of_its_own() -> None:
    first = dicom_sr.write(short(), anatomy_map(), ct_headers())
    second = dicom_sr.write(short(), anatomy_map(), ct_headers(), WriteContext(predecessor=FORMER))
    assert "PredecessorDocumentsSequence" not in first[1]
    (study,) = second[1].PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    assert study.StudyInstanceUID == second[1].StudyInstanceUID
    assert series.SeriesInstanceUID == FORMER.series_instance_uid
    assert instance.ReferencedSOPInstanceUID == FORMER.sop_instance_uid
    assert instance.ReferencedSOPClassUID == Comprehensive3DSRStorage
    assert any("takes the place" in said for said in dicom_sr.read(second[1]).statements)
    assert first[0].SOPInstanceUID == second[0].SOPInstanceUID
    assert first[1].SOPInstanceUID != second[1].SOPInstanceUID
    assert dicom_sr.read(first[1]).tracking_uids == dicom_sr.read(second[1]).tracking_uids


def test_a_predecessor_has_valid_uids() -> None:
    with pytest.raises(ValueError, match="not a valid UID"):
        dicom_sr.Predecessor("", "2.25.1", "2.25.2")
