"""Drops of reports: batches and bundles are split, machines are told from people, tables have columns."""

import json
from pathlib import Path

import pytest
from archive_patients import PATIENTS, dose_report, fhir, hl7, part10, sr
from pydicom import Dataset

from config import Reason
from dicom_sr.identity import MANUFACTURER
from dicom_sr.reports_in import Status
from training.archive.entries import CollectError
from training.archive.reports import FoundReport, Unread, of_archive, of_drop

ONE, TWO = PATIENTS[:2]


def dropped(path: Path, data: bytes, **columns: str) -> list[FoundReport | Unread]:
    path.write_bytes(data)
    return list(of_drop(path, columns))


def test_a_batch_of_messages_is_split(tmp_path: Path) -> None:
    data = b"FHS|^~\\&\rBHS|^~\\&\r\x0b" + hl7(ONE, "One.") + b"\x1c\r\x0b" + hl7(TWO, "Two.", status="P") + b"BTS|2\r"
    first, second = dropped(tmp_path / "batch", data)
    assert isinstance(first, FoundReport)
    assert isinstance(second, FoundReport)
    assert (first.accession, first.patient_id, first.examined) == (ONE.accession, ONE.patient_id, ONE.day)
    assert [first.status, second.status] == [Status.FINAL, Status.PRELIMINARY]
    assert [text for _, text in second.sections] == ["Two."]
    assert ONE.family in first.known.names
    assert ONE.family not in second.known.names


def test_a_bundle_is_split_and_each_report_keeps_its_own_people(tmp_path: Path) -> None:
    entries = []
    for one in (ONE, TWO):
        report = json.loads(fhir(one))
        patient = next(kept for kept in report["contained"] if kept["resourceType"] == "Patient")
        report["contained"].remove(patient)
        report["subject"] = {"reference": f"Patient/{one.number}"}
        entries += [{"resource": report}, {"resource": patient | {"id": str(one.number)}}]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    found = dropped(tmp_path / "bundle.json", json.dumps(bundle).encode())
    assert [one.study_uid for one in found if isinstance(one, FoundReport)] == [ONE.study, TWO.study]
    assert [ONE.family in one.known.names for one in found if isinstance(one, FoundReport)] == [True, False]
    lines = b"\n".join(fhir(one) for one in (ONE, TWO)) + b"\n"
    assert [type(one) for one in dropped(tmp_path / "lines.ndjson", lines)] == [FoundReport] * 2


def ai(ds: Dataset) -> Dataset:
    ds.VerifyingObserverSequence = None
    ds.ConceptNameCodeSequence[0].CodeValue, ds.ConceptNameCodeSequence[0].CodingSchemeDesignator = "126000", "DCM"
    return ds


@pytest.mark.parametrize(
    ("made", "machine"),
    [
        (sr(ONE, "A nodule."), False),
        (sr(ONE, "A nodule.", maker="Workstation Ltd"), False),
        (sr(ONE, "A nodule.", maker=MANUFACTURER), True),
        (ai(sr(ONE, "A nodule.")), True),
    ],
)
def test_our_own_results_and_measurements_are_no_reports(tmp_path: Path, made: Dataset, machine: bool) -> None:
    part10(made, tmp_path / "sr.dcm")
    found = of_archive(tmp_path / "sr.dcm")
    assert isinstance(found, FoundReport)
    assert found.by_machine is machine


def test_dose_reports_and_rubbish_say_why(tmp_path: Path) -> None:
    part10(dose_report(ONE), tmp_path / "dose.dcm")
    (tmp_path / "rubbish").write_bytes(b"\0" * 300)
    part10(sr(ONE, "A nodule."), tmp_path / "sr.dcm")
    (tmp_path / "sr.dcm").write_bytes((tmp_path / "sr.dcm").read_bytes()[:-20])
    reasons = {one.reason for one in of_drop(tmp_path, {}) if isinstance(one, Unread)}
    assert reasons == {Reason.NOT_A_REPORT, Reason.REPORT_NO_TEXT}


def test_a_table_may_name_its_columns_as_it_likes(tmp_path: Path) -> None:
    data = b"Fall,Pat,Datum,Befund,Beurteilung\nA-1,P-1,2021-03-11,Rundherd.,Kein Erguss.\nA-2,P-2,20210312,,\n"
    names = {"accession_number": "Fall", "patient_id": "Pat", "study_date": "Datum"}
    first, second = dropped(tmp_path / "t.csv", data, findings="Befund", impression="Beurteilung", **names)
    assert isinstance(first, FoundReport)
    assert first.sections == (("Findings", "Rundherd."), ("Impression", "Kein Erguss."))
    assert first.examined is not None
    assert f"{first.examined}" == "2021-03-11"
    assert isinstance(second, Unread)
    assert second.reason is Reason.REPORT_NO_TEXT


@pytest.mark.parametrize(
    ("data", "columns", "told"),
    [
        (b"text\nx\n", {}, "needs study_instance_uid"),
        (b"study_instance_uid\nx\n", {}, "one of findings"),
        (b"study_instance_uid,text\nx,y\n", {"txt": "text"}, "there is no txt"),
        (b"study_instance_uid,text\n\xff,y\n", {}, "cannot be read as CSV"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(tmp_path: Path, data: bytes, columns: dict[str, str], told: str) -> None:
    with pytest.raises(CollectError, match=told):
        dropped(tmp_path / "t.csv", data, **columns)
