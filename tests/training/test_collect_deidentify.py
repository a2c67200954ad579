"""Images without whose they are: every attribute planted, every byte looked at, and the same voxels."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from archive_patients import PATIENTS, SLICES, compress, leaks, write_series
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag

from ct import load_series
from ct.phantom import PhantomPatient
from ct.phantom import write_series as write_phantom
from ct.phantom.dicom import Orientation
from dicom_sr.validate import validate
from training.archive.deidentify import Subject, provenance, write
from training.archive.identifiers import of_dataset
from training.archive.scrub import Scrubber
from training.archive.secret import Secret
from training.collection import Provenance

PATIENT = PATIENTS[0]
SECRET = Secret(b"s" * 32)
PLANT = "Quibblesworth"
VALUES = {"DA": "20210311", "TM": "101500", "DT": "20210311101500", "UI": "1.2.826.0.99.84017", "CS": "QUIBBLESWORTH",
          "AS": "070Y", "DS": "84017.84017", "IS": "84017"}  # fmt: skip
BASIC_PROFILE = [
    "AccessionNumber", "AcquisitionComments", "AcquisitionDateTime", "AcquisitionDeviceProcessingDescription",
    "AcquisitionProtocolDescription", "AcquisitionTime", "AcquisitionUID", "AdditionalPatientHistory",
    "AdmittingDate", "AdmittingDiagnosesDescription", "Allergies", "AuthorObserverSequence", "BranchOfService",
    "CassetteID", "CommentsOnThePerformedProcedureStep", "ConcatenationUID",
    "ConfidentialityConstraintOnPatientDataDescription", "ContentCreatorName", "ContributionDescription",
    "CountryOfResidence", "CurrentPatientLocation", "DerivationDescription", "DetectorID", "DeviceUID",
    "DischargeDiagnosisDescription", "EthnicGroup", "FillerOrderNumberImagingServiceRequest", "GantryID",
    "GeneratorID", "IdentifyingComments", "ImageComments", "ImagePresentationComments",
    "ImagingServiceRequestComments", "InstanceCreatorUID", "InstitutionalDepartmentName", "IssuerOfPatientID",
    "LastMenstrualDate", "MedicalAlerts", "MedicalRecordLocator", "MilitaryRank", "Occupation", "OperatorsName",
    "PatientBirthName", "PatientBirthTime", "PatientInstitutionResidence", "PatientReligiousPreference",
    "PatientState", "PerformedLocation", "PerformedProcedureStepDescription", "PerformedProcedureStepID",
    "PerformedStationAETitle", "PerformedStationName", "PhysiciansOfRecord", "PlateID", "PreMedication",
    "ProtocolName", "ReasonForStudy", "RegionOfResidence", "RequestedProcedureComments",
    "RequestedProcedureDescription", "RequestedProcedureID", "RequestingPhysician", "RequestingService",
    "ResponsiblePerson", "ReviewerName", "ScheduledPerformingPhysicianName", "SmokingStatus", "SpecialNeeds",
    "StudyComments", "TextComments", "TextString", "TimezoneOffsetFromUTC", "UID", "VerifyingOrganization",
    "VisitComments", "DigitalSignaturesSequence", "FrameComments", "UDISequence", "LongDeviceDescription",
]  # fmt: skip
"""Attributes of PS3.15 table E.1-1 beside those that every planted image has."""


def plant(_: int, ds: Dataset) -> None:
    for keyword in BASIC_PROFILE:
        try:
            kind = dictionary_VR(Tag(keyword))
        except (KeyError, ValueError):
            continue
        if kind != "SQ":
            ds.add_new(
                Tag(keyword),
                kind,
                VALUES.get(kind, f"{PLANT} {PATIENT.patient_id}"[: 16 if kind in ("SH", "AE") else 64]),
            )


def subject(header: Dataset) -> Subject:
    return Subject(PATIENT.patient_id, SECRET, Scrubber(of_dataset(header)), PATIENT.day)


def test_nothing_planted_is_left_in_any_byte_and_the_volume_is_the_same(tmp_path: Path) -> None:
    source = write_series(PATIENT, tmp_path / "in", change=plant)
    files = sorted(source.iterdir())
    for file in files[:3]:
        compress(file, f"comment of {PATIENT.family}")
    assert f"comment of {PATIENT.family}".encode() in files[0].read_bytes()
    assert leaks(source, {PLANT, "84017"})
    (volume,) = load_series(source)
    header = dcmread(files[5], stop_before_pixels=True)
    out = tmp_path / "out"
    out.mkdir()
    assert write(volume, header, subject(header), out) == SLICES
    assert leaks(out, {*PATIENT.secrets(), PLANT, "84017", "101500", "Iodine"}) == []

    (again,) = load_series(out)
    assert np.array_equal(again.hu, volume.hu)
    assert again.grid.coincides(volume.grid)
    images = [dcmread(file) for file in sorted(out.iterdir())]
    assert len({one.SOPInstanceUID for one in images}) == SLICES
    assert {one.SOPInstanceUID for one in images} == {
        SECRET.uid(dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files
    }
    one = images[0]
    assert one.StudyInstanceUID == SECRET.uid(PATIENT.study)
    assert one.PatientID == one.PatientName == SECRET.subject(PATIENT.patient_id)
    assert one.StudyDate == f"{SECRET.shifted(PATIENT.day, PATIENT.patient_id):%Y%m%d}"
    assert [code.CodeValue for code in one.DeidentificationMethodCodeSequence] == ["113100", "113107", "113108"]
    assert (one.PatientIdentityRemoved, one.PatientBirthDate, one.AccessionNumber) == ("YES", "", "")
    assert validate(out / "0001.dcm").errors == ()


@pytest.mark.parametrize(("orientation", "lean"), [("FFP", (0, 0, 0)), ("HFDL", (0, 0, 0)), ("HFS", (2.0, 0, 3.0))])
def test_phantoms_in_any_position_come_out_as_they_are(
    tmp_path: Path, orientation: Orientation, lean: tuple[float, float, float]
) -> None:
    files = write_phantom(
        PhantomPatient.draw(7), tmp_path / "in", spacing=(9.0, 9.0, 8.0), shape=(30, 40, 44), orientation=orientation,
        lean_deg=lean,
    )  # fmt: skip
    (volume,) = load_series(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    write(volume, dcmread(files[9], stop_before_pixels=True), subject(Dataset()), out)
    (again,) = load_series(out)
    assert np.array_equal(again.hu, volume.hu)
    assert again.grid.coincides(volume.grid)


def test_provenance_keeps_what_is_nobodys(tmp_path: Path) -> None:
    header = dcmread(next(write_series(PATIENT, tmp_path).iterdir()), stop_before_pixels=True)
    shifted = SECRET.shifted(PATIENT.day, PATIENT.patient_id)
    assert provenance(header, subject(header)) == Provenance(
        "SIEMENS", "SOMATOM Force", 1.0, "Br40d", True, "F", 69, shifted.year
    )
    header.Manufacturer, header.ConvolutionKernel, header.PatientSex = f"Scanner of {PATIENT.family}", "SN-1-77345", "x"
    header.PatientBirthDate, header.SliceThickness = "19200101", None
    found = provenance(header, subject(header))
    assert found.model == "SOMATOM Force"


@pytest.mark.parametrize(("agent", "contrast"), [(None, None), ("", False), ("NONE", False), ("Ultravist", True)])
def test_contrast(agent: str | None, contrast: bool | None) -> None:
    header = Dataset()
    if agent is not None:
        header.ContrastBolusAgent = agent
    assert provenance(header, Subject("p", SECRET, Scrubber(of_dataset(header)), date(2021, 1, 1))).contrast is contrast


@pytest.mark.parametrize(("age", "years"), [("070Y", 70), ("018M", 1), ("099Y", 90), ("", None), ("old", None)])
def test_age_without_a_birth_date(age: str, years: int | None) -> None:
    header = Dataset()
    header.add_new("PatientAge", "AS", age)
    assert provenance(header, Subject("p", SECRET, Scrubber(of_dataset(header)), None)).age_years == years
