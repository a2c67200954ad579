"""The answer to a storage commitment request: an N-EVENT-REPORT becomes rows, or is to be repeated by the peer.

It comes on the association of the request or on one that the peer opens; whoever takes it calls `take_report`, from any
process. Success is returned when the database has it, not before.
"""

from io import BytesIO

import structlog
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import decode
from sqlalchemy.exc import DBAPIError

from config.settings import DeliverySettings
from ct.part10 import Unfit, parsing
from node import commitment_due
from node.records import CommitmentTransaction, Records, now

_log = structlog.get_logger(__name__)

ALL_KEPT, SOME_FAILED = 1, 2
"""Event Type ID (PS3.4 table J.3-3)."""
SUCCESS = 0x0000
PROCESSING_FAILURE, NO_SUCH_EVENT_TYPE, INVALID_ARGUMENT = 0x0110, 0x0113, 0x0115
"""Status of the N-EVENT-REPORT response (PS3.7 10.1.1.1.8)."""
LONGEST_REPORT = 4 * 2**20
"""Bytes of a data set; an object takes about 150."""
TRANSFER_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
"""Those a report may come in."""
_UNKNOWN_REASON = 0x0110


def take_report(
    records: Records, settings: DeliverySettings, event_type: int, encoded: bytes, transfer_syntax: str
) -> int:
    """Write down an N-EVENT-REPORT of the Storage Commitment Push Model; the DIMSE status to answer with.

    `encoded`: its data set. PROCESSING_FAILURE while the database is away, so that the peer repeats; nothing is raised.
    A transaction that is not ours is an INVALID_ARGUMENT. A report may come twice.
    """
    if event_type not in (ALL_KEPT, SOME_FAILED):
        _log.warning("commitment_report_refused", detail="no such event type")
        return NO_SUCH_EVENT_TYPE
    try:
        transaction_uid, kept, failed = _read(encoded, transfer_syntax)
    except Unfit as error:
        _log.warning("commitment_report_refused", reason=error.reason, detail=error.detail)
        return INVALID_ARGUMENT
    try:
        with records.session() as session:
            request = session.get(CommitmentTransaction, transaction_uid, with_for_update=True)
            if request is None:
                _log.warning("commitment_report_refused", detail="the transaction is not ours")
                return INVALID_ARGUMENT
            request.answered_at = now()
            commitment_due.answered(
                session,
                request.job_id,
                request.destination,
                request.asked_at,
                kept=kept,
                failed=failed,
                how="N-EVENT-REPORT",
                settings=settings,
            )
            job_id, name = request.job_id, request.destination
    except DBAPIError as error:
        _log.error("database_away", error=type(error.orig).__name__, detail="a commitment report is to be repeated")
        return PROCESSING_FAILURE
    _log.info("commitment_report", job=job_id, destination=name, objects=len(kept), count=len(failed))
    return SUCCESS


def _read(encoded: bytes, transfer_syntax: str) -> tuple[str, list[str], dict[str, int]]:
    """Transaction UID, what is kept, what is not and why. Raises Unfit."""
    with parsing():
        if len(encoded) > LONGEST_REPORT or transfer_syntax not in TRANSFER_SYNTAXES:
            raise ValueError
        syntax = UID(transfer_syntax)
        dataset = decode(BytesIO(encoded), syntax.is_implicit_VR, syntax.is_little_endian)
        kept = [str(item.ReferencedSOPInstanceUID) for item in _items(dataset, "ReferencedSOPSequence")]
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or _UNKNOWN_REASON)
            for item in _items(dataset, "FailedSOPSequence")
        }
        return str(dataset.TransactionUID), kept, failed


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    return list(dataset.get(keyword) or [])
