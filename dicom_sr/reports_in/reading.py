"""Bytes or a data set -> Report, whatever kind of report it is."""

from dataclasses import replace
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.uid import EncapsulatedCDAStorage, EncapsulatedPDFStorage, KeyObjectSelectionDocumentStorage

from config import Reason
from dicom_sr.reports_in import cda, fhir, hl7, pdf, sr, text, times
from dicom_sr.reports_in.parts import Report, ReportError, SourceKind, Status

LARGEST = 64 * 2**20
"""Bytes of a report that is looked at."""
_LARGEST_TEXT = 16 * 2**20
"""Bytes of one that is not DICOM or PDF (with a base64 document inside it)."""


def read_report(data: bytes | Dataset) -> Report:
    """Read a report: a DICOM file or data set (SR, Encapsulated PDF or CDA), HL7 v2 ORU^R01, FHIR JSON, CDA or PDF.

    Raises ReportError: NOT_A_REPORT, REPORT_DAMAGED, REPORT_TOO_LARGE, REPORT_ENCRYPTED, REPORT_UNSAFE, or
    REPORT_NO_TEXT if it says nothing at all.
    """
    try:
        report = _of_dataset(data) if isinstance(data, Dataset) else _of_bytes(data)
    except ReportError:
        raise
    except MemoryError as error:
        raise ReportError(Reason.REPORT_TOO_LARGE, "it does not fit into memory") from error
    except Exception as error:  # strangers wrote it; pydicom decodes as it is asked and raises nearly any type
        raise ReportError(Reason.REPORT_DAMAGED, f"it cannot be read ({type(error).__name__})") from error
    if not report.sections and not report.findings:
        raise ReportError(Reason.REPORT_NO_TEXT, "it holds no text and no coded finding")
    return report


def _of_bytes(data: bytes) -> Report:
    if len(data) > LARGEST:
        raise ReportError(Reason.REPORT_TOO_LARGE, f"{len(data)} bytes, more than {LARGEST}")
    if data[128:132] == b"DICM":
        return _of_dataset(dcmread(BytesIO(data)))
    start = data[:64].lstrip(b"\xef\xbb\xbf\x0b \r\n\t")
    if start.startswith(b"%PDF"):
        return Report(SourceKind.PDF, Status.FINAL, sections=tuple(pdf.sections(data)))
    if len(data) > _LARGEST_TEXT:
        raise ReportError(Reason.REPORT_TOO_LARGE, f"{len(data)} bytes of text, more than {_LARGEST_TEXT}")
    if start.startswith(b"MSH"):
        return hl7.read(data)
    if start.startswith(b"{"):
        return fhir.read(data)
    if start.startswith(b"<"):
        return cda.read(data)
    raise ReportError(Reason.NOT_A_REPORT, "neither DICOM, PDF, HL7, FHIR nor CDA")


def _of_dataset(dataset: Dataset) -> Report:
    kind = dataset.get("SOPClassUID")
    if kind in (EncapsulatedPDFStorage, EncapsulatedCDAStorage):
        return _encapsulated(dataset)
    if kind == KeyObjectSelectionDocumentStorage:
        raise ReportError(Reason.NOT_A_REPORT, "a Key Object Selection")
    if dataset.get("ValueType") != "CONTAINER":
        raise ReportError(Reason.NOT_A_REPORT, "DICOM, but neither SR nor an encapsulated document")
    return sr.read(dataset)


def _encapsulated(dataset: Dataset) -> Report:
    """The document, under the identifiers of its DICOM header (PS3.3 C.24.2): those are the archive's."""
    length = dataset.get("EncapsulatedDocumentLength")
    document = bytes(dataset.get("EncapsulatedDocument") or b"")[: None if length is None else int(length)]
    if len(document) > LARGEST:
        raise ReportError(Reason.REPORT_TOO_LARGE, f"a document of {len(document)} bytes, more than {LARGEST}")
    if dataset.SOPClassUID == EncapsulatedPDFStorage:
        unverified = dataset.get("VerificationFlag") == "UNVERIFIED"
        status = Status.PRELIMINARY if unverified else Status.FINAL
        report = Report(SourceKind.PDF, status, sections=tuple(pdf.sections(document)))
    else:
        report = cda.read(document.rstrip(b"\0 "))
    names = dataset.get("ConceptNameCodeSequence")
    named = text.plain(str(dataset.get("DocumentTitle") or "")) or (str(names[0].CodeMeaning) if names else "")
    zone = str(dataset.get("TimezoneOffsetFromUTC") or "")
    issued = times.compact(f"{dataset.get('ContentDate') or ''}{dataset.get('ContentTime') or ''}", zone)
    return replace(
        report,
        study_instance_uid=str(dataset.get("StudyInstanceUID") or ""),
        accession_number=str(dataset.get("AccessionNumber") or "").strip() or report.accession_number,
        patient_id=str(dataset.get("PatientID") or "").strip() or report.patient_id,
        document_id=str(dataset.get("SOPInstanceUID") or ""),
        issued=report.issued or issued,
        examined=times.day(times.compact(str(dataset.get("StudyDate") or ""))) or report.examined,
        title=report.title or named,
    )
