"""The answer to a storage commitment request: an N-EVENT-REPORT becomes rows, or is to be repeated by the peer.

It comes on the association of the request, and then success is returned when the database has it, not before; or on one
that the peer opens, and then it waits in a file (`node.commitment_event`) until `take_kept` finds it.
"""

import structlog
from sqlalchemy.exc import DBAPIError

from config import Settings
from config.settings import DeliverySettings
from ct.part10 import Unfit
from node import commitment_due
from node.commitment_event import ALL_KEPT, SOME_FAILED, EventFiles, parse_report
from node.database import Records
from node.records import CommitmentTransaction, now

_log = structlog.get_logger(__name__)

SUCCESS = 0x0000
PROCESSING_FAILURE, NO_SUCH_EVENT_TYPE, INVALID_ARGUMENT = 0x0110, 0x0113, 0x0115
"""Status of the N-EVENT-REPORT response (PS3.7 10.1.1.1.8)."""


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
        verdict = parse_report(encoded, transfer_syntax)
    except Unfit as error:
        _log.warning("commitment_report_refused", reason=error.reason, detail=error.detail)
        return INVALID_ARGUMENT
    try:
        with records.session() as session:
            request = session.get(CommitmentTransaction, verdict.transaction_uid, with_for_update=True)
            if request is None:
                _log.warning("commitment_report_refused", detail="the transaction is not ours")
                return INVALID_ARGUMENT
            request.answered_at = now()
            commitment_due.answered(
                session,
                request.job_id,
                request.destination,
                request.asked_at,
                kept=verdict.kept,
                failed=verdict.failed,
                how="N-EVENT-REPORT",
                settings=settings,
            )
            job_id, name = request.job_id, request.destination
    except DBAPIError as error:
        _log.error("database_away", error=type(error.orig).__name__, detail="a commitment report is to be repeated")
        return PROCESSING_FAILURE
    _log.info("commitment_report", job=job_id, destination=name, objects=len(verdict.kept), count=len(verdict.failed))
    return SUCCESS


def take_kept(records: Records, settings: Settings) -> None:
    """Take in the reports that came on associations of their own; while the database is away they wait.

    Raises OSError of the spool's folder.
    """
    files = EventFiles(settings.spool_dir)
    for path in files.waiting():
        try:
            report = files.load(path)
        except ValueError:
            _log.error("commitment_report_unreadable", file=path.name)
            files.put_aside(path)
            continue
        if take_report(records, settings.delivery, report.event_type, report.encoded, report.transfer_syntax) == (
            PROCESSING_FAILURE
        ):
            return
        path.unlink(missing_ok=True)
