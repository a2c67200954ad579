"""What goes beside SEG and SR: valid, consistent, in the right place, and each destination's set complete in itself."""

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO

import highdicom
import numpy as np
import pytest
from pydicom import Dataset
from sr_synthetic import (
    FEET_FIRST,
    SPACING,
    anatomy_map,
    as_test_model,
    ct_headers,
    empty_map,
    feet_first_headers,
    grid,
    heat_at,
    labels,
    nothing_assessed,
    nothing_present,
    oblique_headers,
    reading,
    volume,
    with_heat,
)

import dicom_sr
from config import Output, Plan, Reason, outputs_of
from config.outputs import essential
from ct.anatomy import AnatomyMap
from ct.volume import Grid
from dicom_sr import identity
from dicom_sr.heat_stack import MOST_VALUES, heat_stack, key_slices
from dicom_sr.validate import validate, validate_set
from fvlm.heat import Heat
from fvlm.reading import Reading

ALL = Plan(frozenset(Output), frozenset(Output) - {Output.LABEL_MAP})


def written(
    of: Reading | None = None,
    source: AnatomyMap | None = None,
    headers: Sequence[Dataset] | None = None,
    plan: Plan = ALL,
) -> dict[Output, Dataset]:
    """The objects of a plan by kind; of several heat maps the last."""
    return {dicom_sr.output_of(each): each for each in all_written(of, source, headers, plan)}


def all_written(
    of: Reading | None = None,
    source: AnatomyMap | None = None,
    headers: Sequence[Dataset] | None = None,
    plan: Plan = ALL,
) -> list[Dataset]:
    source = source or anatomy_map()
    ct = volume(source.grid.source_axes)
    return dicom_sr.write(of or with_heat(reading()), source, headers or ct_headers(), plan=plan, volume=ct)


@pytest.fixture(scope="module")
def usual() -> list[Dataset]:
    """Every kind of object of the usual reading, marked as a test model's, in the order of sending."""
    return dicom_sr.write(as_test_model(with_heat(reading())), anatomy_map(), ct_headers(), plan=ALL, volume=volume())


def test_every_object_is_valid_and_sent_after_what_it_refers_to(usual: list[Dataset]) -> None:
    kinds = [dicom_sr.output_of(each) for each in usual]
    assert kinds == ["SEG", "LABELMAP", "PM", "PM", "SC", "KO", "PDF", "TEXT", "SR"]
    for made in usual:
        verdict = validate(made)
        assert (verdict.errors, verdict.warnings) == ((), ()), dicom_sr.output_of(made)
    assert validate_set([*ct_headers(), *usual]).ok


@pytest.mark.parametrize(
    ("of", "source", "headers"),
    [
        (nothing_present(), anatomy_map(), ct_headers()),
        (nothing_assessed(), empty_map(), ct_headers(BodyPartExamined=None)),
        (with_heat(reading()), anatomy_map(source_axes=FEET_FIRST), feet_first_headers()),
        (with_heat(reading()), anatomy_map(), oblique_headers()),
        (
            with_heat(reading()),
            anatomy_map(),
            ct_headers(PatientID="", PatientName="", StudyDate=None, StudyTime=None, InstanceNumber=None),
        ),
    ],
    ids=["nothing present", "nothing assessed", "feet first", "oblique", "hardly anything known"],
)
def test_companions_of_any_patient_are_valid(of: Reading, source: AnatomyMap, headers: list[Dataset]) -> None:
    made = all_written(of, source, headers)
    kinds = [dicom_sr.output_of(each) for each in made]
    assert (Output.KO in kinds) == bool(of.positives)
    assert kinds.count(Output.PM) == len(of.positives)
    for kind, each in zip(kinds, made, strict=True):
        if kind not in (Output.SEG, Output.SR):
            verdict = validate(each)
            assert (verdict.errors, verdict.warnings) == ((), ()), kind
    assert validate_set([*headers, *made]).ok


def test_what_each_destination_gets_is_complete_in_itself() -> None:
    air, keys = outputs_of("air"), outputs_of("air+sc", key_objects=True)
    made = written(plan=Plan.of([air, keys, outputs_of("air+sc", True, True, True), outputs_of("legacy")]))
    assert made.keys() == set(Output)
    for kinds in (air, keys):
        assert validate_set([*ct_headers(), *(each for kind, each in made.items() if kind in kinds)]).ok


def test_the_sr_is_the_root_of_what_all_get(usual: list[Dataset]) -> None:
    def named(document: Dataset) -> set[str]:
        (study,) = document.CurrentRequestedProcedureEvidenceSequence
        return {
            str(r.ReferencedSOPInstanceUID) for s in study.ReferencedSeriesSequence for r in s.ReferencedSOPSequence
        }

    label_map = usual[1]
    assert {str(each.SOPInstanceUID) for each in usual[:-1]} - named(usual[-1]) == {str(label_map.SOPInstanceUID)}
    both = Plan.of([outputs_of("air+sc"), outputs_of("air+sc", key_objects=True), outputs_of("legacy")])
    assert both.outputs == set(Output) - {Output.PM, Output.LABEL_MAP}
    assert both.linked == outputs_of("air+sc")
    made = written(plan=both)
    assert made[Output.TEXT].SOPInstanceUID in named(made[Output.SR])
    assert made[Output.KO].SOPInstanceUID not in named(made[Output.SR])


def test_the_same_again_gives_the_same_bytes_and_more_in_the_root_another_root() -> None:
    def as_bytes(dataset: Dataset) -> bytes:
        stream = BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    first, again = written(), written()
    assert {kind: as_bytes(each) for kind, each in first.items()} == {k: as_bytes(each) for k, each in again.items()}
    fewer = written(plan=Plan.of([outputs_of("air")]))
    assert fewer.keys() == {Output.SEG, Output.SR}
    assert as_bytes(fewer[Output.SEG]) == as_bytes(first[Output.SEG])
    assert fewer[Output.SR].SOPInstanceUID != first[Output.SR].SOPInstanceUID
    assert fewer[Output.SR].SeriesInstanceUID != first[Output.SR].SeriesInstanceUID
    uids = [str(each.SOPInstanceUID) for each in (*first.values(), fewer[Output.SR])]
    assert len(set(uids)) == len(uids)


def test_every_object_says_who_made_it_and_that_it_is_a_test_models(usual: list[Dataset]) -> None:
    for made in usual:
        assert identity.TEST_MARKER in made.SeriesDescription
        assert made.DeviceUID == identity.installation_uid()
        assert {"a" * 64, "b" * 64} <= {str(e.get("DeviceSerialNumber")) for e in made.ContributingEquipmentSequence}
        assert made.PatientName == "Müller^Jörg"
        assert made.SpecificCharacterSet == "ISO_IR 192"


def test_secondary_capture_says_what_it_is(usual: list[Dataset]) -> None:
    page = next(each for each in usual if dicom_sr.output_of(each) is Output.SC)
    assert (page.ConversionType, page.BurnedInAnnotation, page.BodyPartExamined) == ("WSD", "YES", "CHEST")
    shown = [str(each.ReferencedSOPInstanceUID) for each in page.SourceImageSequence]
    assert shown
    assert set(shown) <= {str(header.SOPInstanceUID) for header in ct_headers()}
    unknown = written(headers=ct_headers(BodyPartExamined=None), plan=Plan.of([outputs_of("legacy")]))
    assert unknown[Output.SC].BodyPartExamined == "CHESTABDOMEN"


def test_pdf_holds_the_page_and_everything_in_words(usual: list[Dataset]) -> None:
    made = next(each for each in usual if dicom_sr.output_of(each) is Output.PDF)
    content = made.EncapsulatedDocument[: made.EncapsulatedDocumentLength]
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    assert content.count(b"/Type /Page\n") >= 2 or content.count(b"/Type /Page") >= 3  # pages, and the tree of them


def test_text_report_reads_from_the_marks_to_the_method(usual: list[Dataset]) -> None:
    made = next(each for each in usual if dicom_sr.output_of(each) is Output.TEXT)
    assert (made.VerificationFlag, made.PreliminaryFlag, made.CompletionFlag) == (
        "UNVERIFIED", "PRELIMINARY", "COMPLETE",
    )  # fmt: skip
    text = dicom_sr.as_text(made)
    order = [
        identity.TEST_MARKER, identity.NOT_VERIFIED, "Present: Lung nodule", "PRESENT: Lung nodule (lung) 91.3 %",
        "Undetermined: Peribronchial thickening (lung) 31.0 %", "Absent: Fatty liver",
        "Not Evaluated", "Kidney: ", "weights SHA-256",
    ]  # fmt: skip
    places = [text.find(part) for part in order]
    assert -1 not in places
    assert places == sorted(places)
    sections = [each for each in made.ContentSequence if each.ValueType == "CONTAINER"]
    assert all(each.ContinuityOfContent == "SEPARATE" for each in (made, *sections))


def test_key_objects_name_the_slices_of_the_heat(usual: list[Dataset]) -> None:
    made = next(each for each in usual if dicom_sr.output_of(each) is Output.KO)
    by_uid = {str(header.SOPInstanceUID): index for index, header in enumerate(ct_headers())}
    items = [each for each in made.ContentSequence if each.ValueType == "IMAGE"]
    shown = sorted(by_uid[str(each.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)] for each in items)
    assert len(shown) == 2
    assert 13 <= shown[0] <= 15
    assert 17 <= shown[1] <= 20
    assert "Lung nodule, lung, 91.3 %" in dicom_sr.as_text(made)
    assert not any("ConceptNameCodeSequence" in each for each in items)  # TID 2010 rows 7 to 10


@pytest.mark.parametrize(
    ("source", "headers"),
    [(anatomy_map(), ct_headers()), (anatomy_map(source_axes=FEET_FIRST), feet_first_headers())],
    ids=["head first", "feet first"],
)
def test_heat_map_lies_in_the_frame_of_reference_of_the_ct(source: AnatomyMap, headers: list[Dataset]) -> None:
    made = written(source=source, headers=headers)[Output.PM]  # the heart's
    assert made.FrameOfReferenceUID == headers[0].FrameOfReferenceUID
    read = highdicom.pm.ParametricMap.from_dataset(made).get_volume(dtype=np.float32)
    hottest = np.unravel_index(int(read.array.argmax()), read.array.shape)
    x, y, z = (read.affine @ [*map(float, hottest), 1.0])[:3]
    token = np.array([14.5, 27.5, 35.5])  # the middle of the token, voxels
    place = grid().affine @ [*token, 1.0]
    assert np.abs(np.array([z, y, x]) - place[[2, 1, 0]]) == pytest.approx([0, 0, 0], abs=6.5)
    outside = labels() != 2
    inverse = np.linalg.inv(grid().affine)
    for at in np.argwhere(read.array != 0):
        voxel = np.rint(inverse @ read.affine @ [*at, 1.0])[:3].astype(int)
        assert not outside[tuple(voxel)]
    spacing = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(spacing.PixelSpacing[0]) == pytest.approx(3 * SPACING[1])
    planes = {round(float(header.ImagePositionPatient[2]), 3): header.SOPInstanceUID for header in headers}
    for frame in made.PerFrameFunctionalGroupsSequence:
        (named,) = frame.DerivationImageSequence[0].SourceImageSequence
        height = round(float(frame.PlanePositionSequence[0].ImagePositionPatient[2]), 3)
        assert named.ReferencedSOPInstanceUID == planes[height]


def test_heat_is_sampled_within_bounds() -> None:
    huge = Grid.axis_aligned((400, 300, 300), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0))
    whole = AnatomyMap(np.ones(huge.shape, np.uint8), huge, ("lung",), anatomy_map().algorithm)
    coarse = Grid.axis_aligned((4, 3, 3), (50.0, 50.0, 50.0), (24.75, 24.75, 24.75))
    stack = heat_stack(Heat(np.ones((4, 3, 3), np.float16), coarse), whole, "lung")
    assert stack is not None
    assert stack.step == (4, 4, 4)
    assert stack.values.size <= MOST_VALUES
    finding = with_heat(reading()).positives[0]
    assert heat_stack(heat_at(1, 1, 1), empty_map(), "lung") is None
    assert key_slices(finding, empty_map(), None) == []
    assert key_slices(finding, anatomy_map(), None) == [12]


def test_a_page_needs_a_volume() -> None:
    with pytest.raises(dicom_sr.WriteError) as told:
        dicom_sr.write(reading(), anatomy_map(), ct_headers(), plan=Plan.of())
    assert told.value.reason is Reason.INTERNAL


def test_what_a_destination_has_to_take() -> None:
    assert essential(outputs_of("air+sc", True, True)) == {Output.SEG, Output.SR}
    assert essential(outputs_of("legacy")) == {Output.SC}
    assert essential([Output.SR, Output.SC]) == {Output.SR}
    assert essential([Output.KO]) == {Output.KO}
    assert {kind.name for kind in identity.Kind} >= {kind.name for kind in Output}


def test_present_findings_without_heat_have_companions_too() -> None:
    made = written(replace(reading()))
    assert Output.PM not in made
    assert Output.KO in made
