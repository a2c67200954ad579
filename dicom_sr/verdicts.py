"""What an SR or a Key Object Selection says about findings that somebody else has reported.

IHE AI Results: who changes a finding keeps its Tracking Unique Identifier. A result as a whole is rejected by a Key
Object Selection of a rejecting title that refers to it (PS3.16 CID 7010, 7011; IHE IOCM).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import KeyObjectSelectionDocumentStorage

from config import ReaderVerdict, Reason
from ct.part10 import is_uid
from dicom_sr import codes
from dicom_sr.reports_in import sr
from dicom_sr.reports_in.parts import ObserverKind, Presence, ReportError

_TITLES = {
    Code("113001", "DCM", "Rejected for Quality Reasons"): ReaderVerdict.REJECTED,
    Code("113037", "DCM", "Rejected for Patient Safety Reasons"): ReaderVerdict.REJECTED,
    Code("113000", "DCM", "Of Interest"): ReaderVerdict.OF_INTEREST,
}

_MOST_REFERENCES = 20_000
"""Objects that a reader's document may name: more than any study has."""


@dataclass(frozen=True)
class Statement:
    """One object and what it says."""

    sop_instance_uid: str
    study_instance_uid: str
    patient_id: str
    observer: ObserverKind | None
    observer_name: str
    at: datetime | None
    """Aware if the object gives its time zone."""
    verified: bool
    """A person has verified the whole document: what they left as it was they agree with."""
    findings: Mapping[str, Presence | None]
    """By Tracking UID. None: nothing is said about it being there. Empty for a Key Object Selection."""
    predecessors: frozenset[str]
    """SOP Instance UIDs of the documents that this one is a new version of."""
    references: frozenset[str]
    """SOP Instance UIDs of all other objects it refers to."""
    whole: ReaderVerdict | None = None
    """Of a Key Object Selection: what its title says of `references`; None for a title that says nothing of it."""
    key_object: bool = False


def read_statement(dataset: Dataset) -> Statement:
    """Raises ReportError: NOT_A_REPORT for what is neither SR nor Key Object Selection, REPORT_DAMAGED."""
    try:
        if dataset.get("ValueType") != "CONTAINER":
            raise ReportError(Reason.NOT_A_REPORT, "neither SR nor Key Object Selection")
        return _statement(dataset)
    except ReportError:
        raise
    except Exception as error:  # pydicom decodes elements as they are asked for, and raises nearly any type then
        raise ReportError(Reason.REPORT_DAMAGED, f"it cannot be read ({type(error).__name__})") from error


def _statement(dataset: Dataset) -> Statement:
    report = sr.read(dataset)
    key_object = dataset.get("SOPClassUID") == KeyObjectSelectionDocumentStorage
    predecessors = frozenset(filter(is_uid, _instances(dataset, "PredecessorDocumentsSequence")))
    evidence = {
        *_instances(dataset, "CurrentRequestedProcedureEvidenceSequence"),
        *_instances(dataset, "PertinentOtherEvidenceSequence"),
    }
    references = frozenset(filter(is_uid, evidence | set(_items(dataset))))
    findings = {f.tracking_uid: f.presence for f in report.findings if is_uid(f.tracking_uid)}
    if max(map(len, (references, predecessors, findings))) > _MOST_REFERENCES:
        raise ReportError(Reason.REPORT_TOO_LARGE, f"it refers to more than {_MOST_REFERENCES} objects")
    return Statement(
        sop_instance_uid=report.document_id,
        study_instance_uid=report.study_instance_uid,
        patient_id=report.patient_id,
        observer=report.observer,
        observer_name=report.observer_name,
        at=report.issued,
        verified=dataset.get("VerificationFlag") == "VERIFIED" and report.observer is ObserverKind.PERSON,
        findings={} if key_object else findings,
        predecessors=predecessors,
        references=references,
        whole=next((verdict for title, verdict in _TITLES.items() if codes.is_a(dataset, title)), None)
        if key_object
        else None,
        key_object=key_object,
    )


def _instances(dataset: Dataset, keyword: str) -> Iterator[str]:
    """SOP Instance UIDs of a Hierarchical SOP Instance Reference (PS3.3 table 10-3)."""
    for study in dataset.get(keyword) or []:
        for series in study.get("ReferencedSeriesSequence") or []:
            for instance in series.get("ReferencedSOPSequence") or []:
                yield str(instance.get("ReferencedSOPInstanceUID") or "")


def _items(item: Dataset) -> Iterator[str]:
    """SOP Instance UIDs that content items refer to."""
    for child in item.get("ContentSequence") or []:
        for instance in child.get("ReferencedSOPSequence") or []:
            yield str(instance.get("ReferencedSOPInstanceUID") or "")
        yield from _items(child)
