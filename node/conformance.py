"""The DICOM Conformance Statement, made from the code: `python -m node.conformance docs/conformance.md`.

In the order of PS3.2 annex N. What the node offers is asked of the parts that offer it, so that the page cannot say
anything else.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom import sop_class as sop

from config import Reason
from config.settings import DicomSettings
from dicom_sr import codes
from dicom_sr.identity import Kind
from node import dimse, intake
from node.announced import INSTANCE_AVAILABILITY, MPPS, NO_LONGER_UPDATED
from node.commitment import STORAGE_COMMITMENT
from node.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from node.intake import Refused
from node.messages import mllp
from node.negotiation import MORE_TRANSFER_SYNTAXES, STORAGE_CLASSES
from node.outbox import Fate
from node.part10_stream import CLASS_NOT_SUPPORTED
from node.store_status import judge
from node.web.stow import PROCESSING_FAILURE, Outcome
from node.web.stow_answer import status_of
from node.worklist.link import Fate as UpsFate
from node.worklist.ups_dimse import judge as ups_status

_SMALL = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_SENT = {
    Kind.SEG: sop.SegmentationStorage,
    Kind.SR: sop.Comprehensive3DSRStorage,
    Kind.SC: sop.SecondaryCaptureImageStorage,
    Kind.KO: sop.KeyObjectSelectionDocumentStorage,
    Kind.PDF: sop.EncapsulatedPDFStorage,
    Kind.TEXT: sop.EnhancedSRStorage,
    Kind.LABEL_MAP: sop.LabelMapSegmentationStorage,
    Kind.PM: sop.ParametricMapStorage,
}
"""SOP class of each kind of object."""
_ANSWERS = (
    (dimse.SUCCESS, "Success", "the instance is on the disk (written and synchronised)"),
    (intake.OUT_OF_RESOURCES, "Refused: out of resources", "the disk is full, fails, or is below the low-water mark"),
    (intake.DATA_SET_MISMATCH, "Error: data set does not match SOP class", "SOP class is not the context's"),
    (intake.CANNOT_UNDERSTAND, "Error: cannot understand", "a UID that is none, or no data set; a comment says which"),
    (dimse.CLASS_NOT_SUPPORTED, "Refused: SOP class not supported", "C-STORE on a context that is not for storage"),
)
_COMMITMENT_ANSWERS = (
    (dimse.SUCCESS, "Success", "the request is on the disk; the report follows, on this or another association"),
    (dimse.NO_SUCH_INSTANCE, "No such SOP instance", "not the well-known SOP instance"),
    (dimse.INVALID_ARGUMENT, "Invalid argument value", "Transaction UID or references are missing or cannot be parsed"),
    (dimse.CLASS_CONFLICT, "Class-instance conflict", "SOP class is not the context's"),
    (dimse.NO_SUCH_ACTION, "No such action type", "an action other than 1"),
    (dimse.RESOURCE_LIMITATION, "Resource limitation", "too many references; the disk fails or is nearly full"),
)
_ANNOUNCEMENT_ANSWERS = (
    (dimse.SUCCESS, "Success", "the step or notification is on the disk"),
    (dimse.INVALID_VALUE, "Invalid attribute value", "cannot be parsed; a step not created IN PROGRESS; no such value"),
    (dimse.PROCESSING_FAILURE, "Processing failure", f"the step has ended (Error ID `0x{NO_LONGER_UPDATED:04X}`)"),
    (dimse.DUPLICATE_INSTANCE, "Duplicate SOP instance", "created before"),
    (dimse.NO_SUCH_INSTANCE, "No such SOP instance", "N-SET of a step that was not created here"),
    (dimse.INVALID_INSTANCE, "Invalid SOP instance", "the SOP Instance UID is no UID"),
    (dimse.CLASS_CONFLICT, "Class-instance conflict", "SOP class is not the context's"),
    (dimse.MISSING_ATTRIBUTE, "Missing attribute", "what the SOP class requires is not there"),
    (dimse.MISSING_VALUE, "Missing attribute value", "what the SOP class requires is empty"),
    (dimse.RESOURCE_LIMITATION, "Resource limitation", "too long, too many items; the disk fails or is nearly full"),
)
_UNNAMED = {"1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage"}
"""What pydicom's dictionary does not have."""
_HEARD = (0x0000, 0xB000, 0xB006, 0xB007, 0x0107, 0x0111, 0x0117, 0x0122, 0x0124, 0xA700, 0xA900, 0xC000, None)
"""Statuses of a destination that are worth a row."""
_MEANINGS = {
    Fate.STORED: "stored",
    Fate.RETRY: "tried again, with growing waits",
    Fate.REFUSED: "not tried again; stays visible until `fvlm-node retry`",
    Fate.AWAY: "tried again; the destination's circuit breaker counts it",
}
_UPS_HEARD = (0x0000, 0xB304, 0xB306, 0xC300, 0xC301, 0xC302, 0xC303, 0xC304, 0xC307, 0xC310, 0xC311, 0x0124)
_UPS_FATES = {
    UpsFate.DONE: "done",
    UpsFate.CONFLICT: "another state, or another performer: the workitem is looked at; what is not ours is left alone",
    UpsFate.GONE: "the worklist does not have it: left alone",
    UpsFate.REFUSED: "tried again at each poll, 20 times",
}
_REJECTIONS = (
    (Reason.WRONG_CALLED_AE, "rejected-permanent, service-user, called-AE-title-not-recognized"),
    (Reason.UNKNOWN_AE, "rejected-permanent, service-user, calling-AE-title-not-recognized"),
    (Reason.TOO_MANY_ASSOCIATIONS, "rejected-transient, service-provider (presentation), local-limit-exceeded"),
    (Reason.PROTOCOL_ERROR, "rejected-permanent, service-provider (ACSE), protocol-version-not-supported; or A-ABORT"),
)
_CAPABILITIES = (
    ("Qualitative findings", "yes", "SR, TID 1500: a group for each finding (TID 1411, or 1501 without a segment)"),
    ("Measurements", "yes", "SR: volume and mean attenuation of each organ; certainty of each finding, %"),
    ("Locations", "no", "the model names an anatomy, not a point"),
    ("Regions", "yes", "SEG, one segment for each organ, referenced by the SR"),
    ("Parametric maps", "per destination", "where the model looked, for findings that are present"),
    ("Tracking identifiers", "yes", "the same pair in SR group and SEG segment; stable over reprocessing"),
    ("Image references", "yes", "image library, evidence sequences; Key Object Selection per destination"),
)
"""Primitives of IHE AI Results, and how they are encoded."""


def page() -> str:
    """The statement, Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# DICOM Conformance Statement"
    yield ""
    yield "Made from the code by `python -m node.conformance docs/conformance.md`; do not edit."
    yield ""
    yield "fVLM Node receives CT series and returns Structured Reports, Segmentations and their companions."
    yield f"Implementation Class UID `{IMPLEMENTATION_CLASS_UID}`, version name `{IMPLEMENTATION_VERSION}`."
    yield ""
    yield "## Overview"
    yield ""
    yield from _table(("Service", "SCU", "SCP"), _services())
    yield from _receiving()
    yield from _web()
    yield from _sending()
    yield from _worklists()
    yield from _objects()
    yield from _messages()
    yield from _security()


def _services() -> list[tuple[str, str, str]]:
    return [
        ("Verification", "`fvlm-node doctor`", "yes"),
        ("Storage of images and documents", "no", "yes"),
        ("Storage of results", "yes", "no"),
        ("Storage Commitment Push Model", "yes", "yes"),
        ("Modality Performed Procedure Step", "no", "where configured (`dicom.mpps_from`)"),
        ("Instance Availability Notification", "no", "where configured (`dicom.ian_from`)"),
        ("Query/Retrieve, Study Root, FIND", "where configured (`sources.X.find`, `priors`)", "no"),
        (
            "Query/Retrieve, Study Root, GET and MOVE",
            "`fvlm-node pull`, `pull_from`, `priors` (`sources.X.retrieve`)",
            "no",
        ),
        ("STOW-RS (PS3.18 10.5)", "where configured (`stow_url`)", "where configured (`web`)"),
        ("QIDO-RS (PS3.18 10.6)", "where configured (`sources.X.dicomweb_url`, `stow_url`)", "no"),
        ("WADO-RS (PS3.18 10.4)", "`fvlm-node pull`, `pull_from`, `priors` (`sources.X.dicomweb_url`)", "no"),
        ("Unified Procedure Step: Pull, Watch, Event", "where configured (`worklists`)", "no"),
        ("UPS-RS (PS3.18 11)", "where configured (`worklists`)", "no"),
    ]


def _receiving() -> Iterator[str]:
    defaults = DicomSettings()
    yield "## The node as acceptor"
    yield ""
    yield f"AE title `{defaults.ae_title}` (`dicom.ae_title`), port {defaults.port} on {defaults.host} until told"
    yield f"otherwise. At most {defaults.max_associations} associations at once (`dicom.max_associations`), PDUs of up"
    yield f"to {defaults.max_pdu} bytes (`dicom.max_pdu`), one operation at a time in each. Silence of"
    yield f"{defaults.network_timeout_s:.0f} s ends an association (`dicom.network_timeout_s`)."
    yield ""
    yield "### Presentation contexts"
    yield ""
    stored = sorted((_name(uid), uid) for uid in map(str, STORAGE_CLASSES))
    rows = [(_name(str(sop.Verification)), f"`{sop.Verification}`", "Explicit, Implicit VR Little Endian")]
    rows += [
        (_name(uid), f"`{uid}`", "Explicit, Implicit VR Little Endian")
        for uid in (STORAGE_COMMITMENT, MPPS, INSTANCE_AVAILABILITY)
    ]
    where = "Explicit, Implicit VR Little Endian; on a port of its own (`worklists.X.events_port`)"
    rows.append((_name(str(sop.UnifiedProcedureStepEvent)), f"`{sop.UnifiedProcedureStepEvent}`", where))
    rows += [(name, f"`{uid}`", "all of the next table") for name, uid in stored]
    yield from _table(("Abstract syntax", "UID", "Transfer syntaxes"), rows)
    yield "`dicom.more_storage_classes` adds others. What is not CT is kept and ends as `NOT_CT`; a reader's SR or"
    yield "Key Object Selection about results of the node is taken as feedback."
    yield ""
    syntaxes = [*map(str, ALL_TRANSFER_SYNTAXES), *MORE_TRANSFER_SYNTAXES]
    yield from _table(("Transfer syntax of storage", "UID"), [(_name(uid), f"`{uid}`") for uid in syntaxes])
    yield "Instances are kept as they were sent; nothing is decoded, coerced or converted."
    yield ""
    yield "### Answers to C-STORE"
    yield ""
    yield from _answered(_ANSWERS)
    yield "### Answers to N-ACTION (storage commitment)"
    yield ""
    yield from _answered(_COMMITMENT_ANSWERS)
    yield "### Answers to N-CREATE and N-SET (performed procedure steps, availability)"
    yield ""
    yield from _answered(_ANNOUNCEMENT_ANSWERS)
    yield "### Association rejection"
    yield ""
    yield from _table(("Reason shown", "Answer"), [(f"`{reason}`", answer) for reason, answer in _REJECTIONS])


def _web() -> Iterator[str]:
    """STOW-RS. The statuses are asked of the code that gives them."""
    yield "## The node as origin server of DICOMweb (Store)"
    yield ""
    yield "`POST /dicom-web/studies` and `/dicom-web/studies/{study}` (`web`, off by default), multipart/related of"
    yield "application/dicom: the same SOP classes, every transfer syntax. The answer is application/dicom+json or"
    yield "application/dicom+xml, as Accept asks. Retrieve URL is empty: the node offers no Retrieve and no Search."
    yield ""
    stored = Outcome(None, None)
    rows = [("all objects are stored (on the disk, synchronised)", status_of([stored], False))]
    rows += [
        (f"{'some are stored, ' if some else ''}{text}", status_of([*some, Outcome(None, refused)], broken))
        for text, some, refused, broken in (
            ("others are not", [stored], Refused(intake.CANNOT_UNDERSTAND, Reason.NOT_DICOM, ""), False),
            ("none is stored", [], Refused(intake.CANNOT_UNDERSTAND, Reason.NOT_DICOM, ""), False),
            ("the message cannot be read, or holds nothing", [], Refused(0x0110, Reason.TRUNCATED, ""), True),
            ("all are larger than `web.max_object_mb`", [], Refused(0xA700, Reason.OBJECT_TOO_LARGE, ""), False),
            ("the disk has no place now", [], Refused(intake.OUT_OF_RESOURCES, Reason.DISK_FULL, ""), False),
        )
    ]
    rows += [("no token, or an unknown one", 401), ("another Accept", 406), ("another Content-Type", 415)]
    yield from _table(("When", "HTTP status"), [(when, str(status)) for when, status in rows])
    reasons = (
        (intake.OUT_OF_RESOURCES, "the disk is full or fails, or the object is too large"),
        (CLASS_NOT_SUPPORTED, "the SOP class is not taken"),
        (intake.CANNOT_UNDERSTAND, "not DICOM, a UID that is none or missing, cut off, of another study"),
        (PROCESSING_FAILURE, "the message breaks off: its last object is not stored"),
    )
    yield from _table(("Failure Reason", "When"), [(f"`0x{code:04X}`", when) for code, when in reasons])


def _sending() -> Iterator[str]:
    yield "## The node as requestor"
    yield ""
    yield "One association at a time for each destination, with the results that are due. They are offered in"
    yield f"{' and '.join(_name(str(uid)) for uid in _SMALL)}."
    yield ""
    rows = [(_name(uid), f"`{uid}`") for uid in (*map(str, _SENT.values()), STORAGE_COMMITMENT)]
    asked = (
        sop.StudyRootQueryRetrieveInformationModelFind,
        sop.StudyRootQueryRetrieveInformationModelGet,
        sop.StudyRootQueryRetrieveInformationModelMove,
    )
    rows += [(_name(str(uid)), f"`{uid}`") for uid in asked]
    rows += [(_name(str(uid)), f"`{uid}`") for uid in (sop.UnifiedProcedureStepPull, sop.UnifiedProcedureStepWatch)]
    yield from _table(("Abstract syntax", "UID"), rows)
    yield "### What is made of a destination's answer to C-STORE"
    yield ""
    yield from _table(("Status", "Result", "Told as"), [_heard(status) for status in _HEARD])
    yield "An object is `COMMITTED` when the destination has confirmed storage commitment (N-EVENT-REPORT on the same"
    yield "or a new association), where the destination offers it."
    yield ""


def _worklists() -> Iterator[str]:
    yield "## The node as performer on a worklist (IHE AIW-I Task Performer)"
    yield ""
    yield "Pull and triggered pull; no push. Algorithms: the model release, for CT series. Inputs: the CT series of the"
    yield "Input Information Sequence, each with Study and Series Instance UID."
    yield ""
    rows = (
        ("Query (RAD-81)", "C-FIND", "GET /workitems", "state SCHEDULED, input READY, workitem code or station"),
        (
            "Claim (RAD-82)",
            "N-ACTION 1",
            "PUT /workitems/{uid}/state",
            "IN PROGRESS with a Transaction UID of the node",
        ),
        ("Contents (RAD-83)", "N-GET", "GET /workitems/{uid}", "station, workitem code, inputs, priority, state"),
        ("Update (RAD-84)", "N-SET", "POST /workitems/{uid}?{transaction}", "progress; performed procedure, outputs"),
        ("Complete (RAD-85)", "N-ACTION 1", "PUT /workitems/{uid}/state", "COMPLETED, or CANCELED with coded reasons"),
        ("Subscribe (RAD-86)", "N-ACTION 3", "POST /workitems/{uid}/subscribers/{AE}", "global, no deletion lock"),
        ("Events (RAD-87, RAD-109)", "N-EVENT-REPORT", "WebSocket /subscribers/{AE}", "cancel requests are honoured"),
    )
    yield from _table(("Transaction", "DIMSE", "UPS-RS", "What"), rows)
    yield from _table(
        ("Status of N-ACTION, N-SET", "Taken as"),
        [(f"`0x{status:04X}`", _UPS_FATES[ups_status(status).fate]) for status in _UPS_HEARD],
    )


def _answered(answers: Iterable[tuple[int, str, str]]) -> Iterator[str]:
    yield from _table(("Status", "Meaning", "When"), [(f"`0x{code:04X}`", name, when) for code, name, when in answers])


def _heard(status: int | None) -> tuple[str, str, str]:
    outcome = judge(status)
    told = outcome.detail or "-"
    return "no answer" if status is None else f"`0x{status:04X}`", _MEANINGS[outcome.fate], told


def _objects() -> Iterator[str]:
    yield "## Objects written"
    yield ""
    rows = [(str(kind.series_number), _name(str(_SENT[kind])), kind.series_description(False)) for kind in Kind]
    yield from _table(("Series number", "SOP class", "Series description"), rows)
    yield "Patient and study attributes are copied from the images. Character set ISO_IR 192. Reports are UNVERIFIED"
    yield "and PRELIMINARY, always. UIDs are derived from what was read (`2.25.`): the same images, read again by the"
    yield f"same release, give the same objects. Findings without a public code use the scheme `{codes.LOCAL_SCHEME}`,"
    yield "declared in the object."
    yield ""
    yield "## IHE AI Results (AIR), Evidence Creator"
    yield ""
    yield from _table(("Primitive", "Created", "How"), _CAPABILITIES)
    yield "Storing: RAD-18, RAD-43 (C-STORE), RAD-108 (STOW-RS); storage commitment: RAD-10. Each algorithm"
    yield "(segmentation, reading) is an item of the Contributing Equipment Sequence; its Device UID changes with its"
    yield "weights."
    yield ""


def _messages() -> Iterator[str]:
    yield "## Messages beside DICOM"
    yield ""
    yield "Where configured (`messages`), off until then. All are preliminary, and say that they are of an AI and not"
    yield "verified. What they tell of the study is set for each receiver (`level`), nothing until told otherwise."
    yield ""
    rows = [
        ("HL7 v2.5.1 ORU^R01, MLLP (TLS)", "OBR-25 and OBX-11 `P`; urgent: TQ1-9 `S`", "PID only at level `patient`"),
        ("FHIR R4 transaction", "DiagnosticReport, Observation, Device; urgent: Task", "no Patient resource"),
        ("Webhook, signed (HMAC-SHA256)", "JSON", "Standard Webhooks"),
        ("SMTP (STARTTLS)", "failures of the node", "never about results"),
    ]
    yield from _table(("Message", "Content", "Note"), rows)
    yield "### What is made of an HL7 acknowledgement"
    yield ""
    acknowledgements = ("AA", "AE", "AE with error 206 or 207", "AR")
    yield from _table(("MSA-1", "Result"), [(name, _acknowledged(name)) for name in acknowledgements])


def _acknowledged(name: str) -> str:
    error = "ERR|||207^^HL70357|E\r" if "207" in name else ""
    answer = f"MSH|^~\\&|||||||ACK|1|P|2.5.1\rMSA|{name[:2]}|1\r{error}"
    return _MEANINGS[mllp.judge(answer.encode(), "1").fate].replace("stored", "taken")


def _security() -> Iterator[str]:
    yield "## Security"
    yield ""
    yield "- Listeners are on loopback until told otherwise. Calling AE titles that are not listed are rejected."
    yield "- DICOM over TLS (PS3.15 annex B, BCP 195: TLS 1.2 or newer) for the receiver (`dicom.tls`, with client"
    yield "  certificates where asked for), for destinations and for sources. HTTPS for DICOMweb."
    yield "- Files are named by the node, never by a received UID. No attribute of a patient is logged, queued or"
    yield "  measured."
    yield ""
    yield "## Character sets"
    yield ""
    yield "All of PS3.5 are read in images. Results are written in ISO_IR 192 (UTF-8)."


def _name(uid: str) -> str:
    """Of a UID, in the words of PS3.6."""
    return _UNNAMED.get(uid) or UID(uid).name


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
