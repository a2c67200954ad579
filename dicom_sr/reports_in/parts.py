"""What a report says, whatever it came as."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from pydicom.sr.coding import Code

from config import Reason
from dicom_sr import codes


class ReportError(ValueError):
    """The report cannot be read. Carries the stable reason code; the text holds no value of the report."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class SourceKind(StrEnum):
    """What the report came as."""

    SR = "sr"
    """DICOM Structured Report."""
    PDF = "pdf"
    """PDF, encapsulated in DICOM or bare."""
    CDA = "cda"
    """HL7 Clinical Document Architecture, encapsulated in DICOM or bare."""
    HL7 = "hl7"
    """HL7 version 2 ORU^R01."""
    FHIR = "fhir"
    """FHIR R4 DiagnosticReport."""


class Status(StrEnum):
    """How far the report has come."""

    PRELIMINARY = "preliminary"
    FINAL = "final"
    CORRECTED = "corrected"
    """Amended, corrected or added to after it was final."""


class ObserverKind(StrEnum):
    """Who speaks. A report that names both was edited by the person."""

    PERSON = "person"
    DEVICE = "device"


class Presence(StrEnum):
    """What is said of a finding."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"


PRESENCES = {
    codes.PRESENT.value: Presence.PRESENT,
    codes.ABSENT.value: Presence.ABSENT,
    codes.UNDETERMINED.value: Presence.UNDETERMINED,
}
"""Answers of CID 240, by SNOMED CT code."""


@dataclass(frozen=True)
class Section:
    """Text under a heading; the heading is empty where there is none."""

    title: str
    text: str


@dataclass(frozen=True)
class CodedFinding:
    """A finding that is stated by a code."""

    code: Code
    presence: Presence | None = Presence.PRESENT
    """None: only its certainty is given."""
    site: Code | None = None
    certainty_percent: float | None = None
    """0..100, where the report gives one."""
    tracking_uid: str = ""
    """Tracking Unique Identifier (112040, DCM) of its measurement group."""


@dataclass(frozen=True)
class Report:
    """One report. What the source does not say is empty or None."""

    source: SourceKind
    status: Status
    study_instance_uid: str = ""
    accession_number: str = ""
    patient_id: str = ""
    document_id: str = ""
    """SOP Instance UID, message control ID, FHIR or CDA id."""
    issued: datetime | None = None
    """Aware if the source gives a time zone; else the sender's local time, naive."""
    examined: date | None = None
    """Day of the examination, where the source says it."""
    language: str = ""
    """As given, such as `en` or `de-DE`."""
    title: str = ""
    sections: tuple[Section, ...] = ()
    findings: tuple[CodedFinding, ...] = ()
    observer: ObserverKind | None = None
    observer_name: str = ""
    """The person who speaks, as the source names them. Never to be logged."""

    @property
    def text(self) -> str:
        """All sections as plain text."""
        return "\n\n".join(f"{one.title}\n{one.text}".strip() for one in self.sections)
