"""Reports that others wrote, read: SR of any template, encapsulated PDF and CDA, HL7 ORU, FHIR DiagnosticReport."""

from dicom_sr.reports_in.parts import (
    CodedFinding,
    ObserverKind,
    Presence,
    Report,
    ReportError,
    Section,
    SourceKind,
    Status,
)
from dicom_sr.reports_in.reading import LARGEST, read_report

__all__ = [
    "LARGEST",
    "CodedFinding",
    "ObserverKind",
    "Presence",
    "Report",
    "ReportError",
    "Section",
    "SourceKind",
    "Status",
    "read_report",
]
