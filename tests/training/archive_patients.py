"""Patients of an archive, made to be found again: everything of a person in their images and reports is planted."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EncapsulatedCDAStorage,
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    XRayRadiationDoseSRStorage,
    generate_uid,
)

SLICES, ROWS, COLUMNS = 20, 32, 36
CLINICAL = ("A 12 x 5 mm nodule in the right upper lobe (series 4, image 123).", "No pleural effusion.", "Lung-RADS 4A")
"""Sentences that must survive."""
Change = Callable[[int, Dataset], None]


@dataclass(frozen=True)
class Planted:
    """One patient with one study."""

    number: int
    family: str
    given: str
    patient_id: str
    accession: str
    day: date
    born: date

    @property
    def study(self) -> str:
        return generate_uid(entropy_srcs=["study", str(self.number)])

    def series(self, name: str) -> str:
        return generate_uid(entropy_srcs=["series", str(self.number), name])

    @property
    def street(self) -> str:
        return f"{4000 + self.number} Wobblethorpe Crescent"

    @property
    def phone(self) -> str:
        return f"(555) 010-77{self.number:02d}"

    @property
    def physician(self) -> str:
        return ("Grimblewick", "Ostervane", "Pluckmore")[self.number % 3]

    def secrets(self) -> set[str]:
        """Texts of which none may be left anywhere."""
        days = {
            f"{day:{form}}" for day in (self.day, self.born) for form in ("%Y%m%d", "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y")
        }
        names = {self.family, self.given, self.physician, "Mumblecroft", "Vexington", "Wobblethorpe"}
        numbers = {self.patient_id, self.accession, f"ADM-{self.number}-99187", f"SN-{self.number}-77345"}
        phone = {self.phone, f"555-010-77{self.number:02d}", f"55501077{self.number:02d}"}
        return {*days, *names, *numbers, *phone, self.study, *(self.series(one) for one in ("thin", "sharp", "thick"))}

    def prose(self) -> str:
        """A report as it should not be written."""
        return (
            f"Patient name: {self.given} {self.family}\nDOB: {self.born:%m/%d/%Y}  MRN: {self.patient_id}\n"
            f"Lives at {self.street}, Vexington, IL 62704. Tel {self.phone}.\n"
            f"FINDINGS:\n{CLINICAL[0]} {CLINICAL[1]} Compared with {self.day:%d.%m.%Y} and {self.born:%Y-%m-%d}.\n"
            f"{self.family.upper()}'s heart is normal. Discussed with Dr. {self.physician} at 10:42.\n"
            f"Accession {self.accession}, ADM-{self.number}-99187.\n"
            f"IMPRESSION:\n{CLINICAL[2]}. Call 555-010-77{self.number:02d}.\n"
            f"Electronically signed by: Cornelia Mumblecroft, MD"
        )


PATIENTS = tuple(
    Planted(
        number,
        family,
        given,
        f"PID{number}-840{number}17",
        "ACC-5550001" if number in (4, 5) else f"ACC-77{number}00{number}",
        date(2021, 3, 10 + number),
        date(1950 + number, 7, 4),
    )
    for number, (family, given) in enumerate(
        [("Quibblesworth", "Zephyrine"), ("Thrumbleton", "Ignatius"), ("Snickerdoodle", "Ottoline"),
         ("Fazackerley", "Barnabas"), ("Hobblethwaite", "Clementina"), ("Wigglesmere", "Thaddeus"),
         ("Bumbleforth", "Araminta")],
        start=1,
    )
)  # fmt: skip


def header(patient: Planted) -> Dataset:
    """What all objects of the patient's study have, with something of the patient wherever it can be."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName, ds.PatientID = f"{patient.family}^{patient.given}", patient.patient_id
    ds.OtherPatientNames, ds.PatientMotherBirthName = f"Nick^{patient.given}", "Vexington"
    ds.PatientBirthDate, ds.PatientSex = f"{patient.born:%Y%m%d}", "F"
    ds.PatientAddress, ds.PatientTelephoneNumbers = f"{patient.street}^Vexington", patient.phone
    ds.PatientComments = f"{patient.given} {patient.family} prefers mornings"
    ds.AccessionNumber, ds.AdmissionID = patient.accession, f"ADM-{patient.number}-99187"
    ds.StudyDate, ds.StudyTime = f"{patient.day:%Y%m%d}", "101500"
    ds.StudyInstanceUID, ds.StudyID = patient.study, f"ADM-{patient.number}-99187"
    ds.StudyDescription = f"CT chest {patient.family}"
    ds.ReferringPhysicianName, ds.NameOfPhysiciansReadingStudy = f"{patient.physician}^Otto", "Mumblecroft^Cornelia"
    ds.InstitutionName, ds.InstitutionAddress = "Vexington General", patient.street
    return ds


def slice_of(patient: Planted, name: str, index: int, step: float, kernel: str) -> Dataset:
    """One CT image, 12 bits stored, with something in the four bits above."""
    ds = header(patient)
    ds.SOPClassUID, ds.Modality = CTImageStorage, "CT"
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[patient.series(name), str(index)])
    ds.SeriesInstanceUID, ds.FrameOfReferenceUID = patient.series(name), generate_uid(entropy_srcs=[patient.study])
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", patient.family.upper()]
    ds.Manufacturer, ds.ManufacturerModelName, ds.StationName = "SIEMENS", "SOMATOM Force", patient.family.upper()
    ds.DeviceSerialNumber = f"SN-{patient.number}-77345"
    ds.SeriesDescription = ds.ProtocolName = f"{name} {patient.family}"
    ds.ImageComments = f"{patient.given} moved"
    ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = f"{patient.day:%Y%m%d}"
    ds.OperatorsName, ds.PerformingPhysicianName = "Mumblecroft^C", f"{patient.physician}^O"
    ds.ConvolutionKernel, ds.SliceThickness, ds.KVP = kernel, str(step), "120"
    ds.ContrastBolusAgent = f"Iodine for {patient.family}"
    ds.BodyPartExamined, ds.PatientPosition = "CHEST", "HFS"
    item = Dataset()
    item.RequestedProcedureDescription, item.RequestingPhysician = f"for {patient.family}", f"{patient.physician}^O"
    ds.RequestAttributesSequence = Sequence([item])
    block = ds.private_block(0x0099, f"{patient.family} PRIVATE", create=True)
    block.add_new(0x01, "LO", f"{patient.given} {patient.family}")
    block.add_new(0x02, "UN", f"{patient.patient_id}|{patient.phone}".encode())
    ds.add_new(0x60000022, "LO", patient.family)
    ds.add_new(0x60003000, "OW", patient.family.encode() + b" ")
    ds.InstanceNumber = str(SLICES - index)
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-10.0, -20.0, index * step], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = [0.8, 0.7], 1, -1024, "HU"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", ROWS, COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    values = (np.arange(ROWS * COLUMNS, dtype="<u2").reshape(ROWS, COLUMNS) * 5 + index * 7) % 3000
    ds.PixelData = (values | 0x5000).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def part10(ds: Dataset, file: Path | BytesIO) -> None:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    dcmwrite(file, ds, enforce_file_format=True)


def write_series(
    patient: Planted,
    folder: Path,
    name: str = "thin",
    step: float = 1.0,
    kernel: str = "Br40d",
    change: Change | None = None,
) -> Path:
    """A CT series of `SLICES` images in a folder of its own."""
    where = folder / str(patient.number) / name
    where.mkdir(parents=True)
    for index in range(SLICES):
        ds = slice_of(patient, name, index, step, kernel)
        if change is not None:
            change(index, ds)
        part10(ds, where / f"{index}.dcm")
    return where


def compress(file: Path, comment: str) -> None:
    """JPEG 2000, with a comment inside of the code stream, where decoders pass it over."""
    from pydicom import dcmread
    from pydicom.encaps import encapsulate, generate_frames

    ds = dcmread(file)
    values = np.frombuffer(ds.PixelData, "<u2") & 0x0FFF
    ds.PixelData = values.astype("<u2").tobytes()
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    (stream,) = generate_frames(ds.PixelData, number_of_frames=1)
    body = b"\x00\x01" + comment.encode()
    at = stream.index(b"\xff\x52")  # COD: anywhere in the main header may be a comment
    stream = stream[:at] + b"\xff\x64" + (len(body) + 2).to_bytes(2, "big") + body + stream[at:]
    ds.PixelData = encapsulate([stream])
    dcmwrite(file, ds, enforce_file_format=True)


def _object(patient: Planted, sop_class: str, name: str, modality: str) -> Dataset:
    ds = header(patient)
    ds.SOPClassUID, ds.Modality = sop_class, modality
    ds.SeriesInstanceUID = patient.series(name)
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[patient.series(name), "document"])
    ds.ContentDate, ds.ContentTime = f"{patient.day:%Y%m%d}", "111500"
    return ds


def _code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def sr(patient: Planted, text: str, name: str = "report", maker: str = "", title: str = "CT Report") -> Dataset:
    """A verified text report."""
    ds = _object(patient, EnhancedSRStorage, name, "SR")
    ds.Manufacturer = maker
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = _code("25045-6", "LN", title)
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "VERIFIED"
    verifier = Dataset()
    verifier.VerifyingObserverName, verifier.VerifyingOrganization = "Mumblecroft^Cornelia", "Vexington General"
    verifier.VerificationDateTime = f"{patient.day:%Y%m%d}111500"
    ds.VerifyingObserverSequence = Sequence([verifier])
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", text
    item.ConceptNameCodeSequence = _code("121071", "DCM", "Finding")
    ds.ContentSequence = Sequence([item])
    return ds


def dose_report(patient: Planted) -> Dataset:
    ds = sr(patient, f"DLP of {patient.family} 321 mGy.cm", "dose")
    ds.SOPClassUID = XRayRadiationDoseSRStorage
    return ds


def encapsulated(patient: Planted, document: bytes, cda: bool = False) -> Dataset:
    ds = _object(patient, EncapsulatedCDAStorage if cda else EncapsulatedPDFStorage, "report", "DOC")
    ds.DocumentTitle = f"CT report of {patient.family}"
    ds.MIMETypeOfEncapsulatedDocument = "text/XML" if cda else "application/pdf"
    ds.EncapsulatedDocumentLength = len(document)
    ds.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    return ds


def cda(patient: Planted) -> bytes:
    paragraphs = "".join(f"<paragraph>{line}</paragraph>" for line in patient.prose().split("\n"))
    return f"""<?xml version="1.0" encoding="UTF-8"?><ClinicalDocument xmlns="urn:hl7-org:v3">
  <id root="1.2.3" extension="doc-{patient.number}"/><title>CT of {patient.family}</title>
  <effectiveTime value="{patient.day:%Y%m%d}111500"/>
  <recordTarget><patientRole><id extension="{patient.patient_id}"/><addr><streetAddressLine>{patient.street}
  </streetAddressLine><city>Vexington</city></addr><telecom value="tel:{patient.phone}"/><patient><name>
  <given>{patient.given}</given><family>{patient.family}</family></name></patient></patientRole></recordTarget>
  <author><assignedAuthor><assignedPerson><name><given>Cornelia</given><family>Mumblecroft</family></name>
  </assignedPerson></assignedAuthor></author><legalAuthenticator><assignedEntity/></legalAuthenticator>
  <component><structuredBody><component><section><text>{paragraphs}</text></section></component></structuredBody>
  </component></ClinicalDocument>""".encode()


def hl7(patient: Planted, text: str, number: int = 1, status: str = "F") -> bytes:
    """An ORU^R01 without Study Instance UID."""
    escaped = text.replace("&", r"\T\ ").split("\n")
    lines = [
        rf"MSH|^~\&|RIS|VEXINGTON|NODE|HOSP|{patient.day:%Y%m%d}120000||ORU^R01|M-{patient.number}-{number}|P|2.5.1",
        f"PID|1||{patient.patient_id}^^^HOSP^MR||{patient.family}^{patient.given}||{patient.born:%Y%m%d}|F|||"
        f"{patient.street}^^Vexington^IL^62704||{patient.phone}",
        f"OBR|1|PL-{number}|FI-{number}|CTCHEST^CT chest|||{patient.day:%Y%m%d}101500|||||||||"
        f"77^{patient.physician}^Otto||{patient.accession}||||{patient.day:%Y%m%d}111500|||{status}|||||||"
        "9&Mumblecroft&Cornelia",
        *(f"OBX|{at}|TX|GDT^Report||{line}||||||{status}" for at, line in enumerate(escaped, 1)),
    ]
    return ("\r".join(lines) + "\r").encode()


def fhir(patient: Planted) -> bytes:
    """A DiagnosticReport that names the study by its UID."""
    report: dict[str, Any] = {
        "resourceType": "DiagnosticReport", "id": f"r{patient.number}", "status": "final", "language": "en",
        "issued": f"{patient.day:%Y-%m-%d}T11:15:00Z",
        "contained": [
            {"resourceType": "Patient", "id": "p", "identifier": [{"value": patient.patient_id}],
             "name": [{"family": patient.family, "given": [patient.given]}],
             "address": [{"line": [patient.street], "city": "Vexington"}], "telecom": [{"value": patient.phone}]},
            {"resourceType": "Practitioner", "id": "d", "name": [{"text": "Cornelia Mumblecroft"}]},
            {"resourceType": "ImagingStudy", "id": "s",
             "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{patient.study}"}]},
        ],
        "subject": {"reference": "#p"}, "resultsInterpreter": [{"reference": "#d"}],
        "imagingStudy": [{"reference": "#s"}],
        "presentedForm": [{"contentType": "text/plain", "data": base64.b64encode(patient.prose().encode()).decode()}],
    }  # fmt: skip
    return json.dumps(report).encode()


def every_byte(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """All files below a folder, with their names."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file, str(file.relative_to(folder)).encode() + b"\n" + file.read_bytes()


def leaks(folder: Path, texts: set[str]) -> list[tuple[str, str]]:
    """(file, text) of every planted text found, in any case, in UTF-8 or UTF-16."""
    found = []
    for file, content in every_byte(folder):
        lowered = content.lower()
        for text in texts:
            if text.lower().encode() in lowered or text.lower().encode("utf-16-le") in lowered:
                found.append((file.name, text))
    return found
