"""Tells senders what the node keeps: N-EVENT-REPORT on an association that the node opens (PS3.4 section J.3.3).

This is for reports that the association of the request did not take along. A source that does not answer is tried again
and again, later each time, until it confirms or is given up; it delays no other source.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role

from config import Reason, Settings
from node import commitment_rows, dimse
from node.commitment import STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE, CommitmentFiles, report
from node.database import Records
from node.records import CommitmentRequest
from node.scu import associate, tls_failure
from node.tls import TlsError

_log = structlog.get_logger(__name__)

_SOURCES_AT_ONCE = 4


class _UndeliveredError(Exception):
    """The report was not confirmed, and why."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Reporter:
    """`once` again and again, in one thread."""

    def __init__(self, records: Records, settings: Settings) -> None:
        self._records, self._settings = records, settings
        self._files = CommitmentFiles(settings.spool_dir)

    def once(self) -> None:
        """Send what is due, and take in what was confirmed on its own association.

        Raises sqlalchemy.exc.DBAPIError, OSError (of the spool's folder).
        """
        for token in self._files.answered():
            with self._records.session() as session:
                commitment_rows.end(session, token)
            self._files.forget(token)
        with self._records.reading() as session:
            due = commitment_rows.due(session)
        if due:
            with ThreadPoolExecutor(min(len(due), _SOURCES_AT_ONCE)) as pool:
                for sent in [pool.submit(self._tell, source, requests) for source, requests in due.items()]:
                    sent.result()

    def _tell(self, calling_ae: str, requests: Sequence[CommitmentRequest]) -> None:
        """All reports for one source over one association; after the first that fails the rest waits with it."""
        association = None
        failed: _UndeliveredError | None = None
        try:
            for request in requests:
                try:
                    if failed is None:
                        association = association or self._associate(calling_ae)
                        self._send(association, request)
                except _UndeliveredError as error:
                    failed = error
                if failed is None:
                    with self._records.session() as session:
                        commitment_rows.end(session, request.token)
                    self._files.forget(request.token)
                    _log.info("commitment_reported", calling_ae=calling_ae, count=len(request.references))
                else:
                    self._postpone(request, failed)
        finally:
            if association is not None:
                association.release()

    def _associate(self, calling_ae: str):  # type: ignore[no-untyped-def]
        source = self._settings.source_of(calling_ae)
        if source is None or not source.host:
            raise _UndeliveredError(Reason.NO_ADDRESS, f"{calling_ae} has no host and port under `sources`")
        ae = AE(ae_title=self._settings.dicom.ae_title)
        timeout = self._settings.delivery.timeout_s
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = timeout
        context = build_context(STORAGE_COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        role = build_role(STORAGE_COMMITMENT, scp_role=True)  # the one who opens it is the SCP here
        try:
            association = associate(ae, source.host, source.port, source.ae_title, [context], [role], tls=source.tls)
        except TlsError as error:
            raise _UndeliveredError(Reason.INTERNAL, str(error)) from error
        if association.is_rejected:
            raise _UndeliveredError(Reason.PEER_REFUSED, "the association was rejected")
        if not association.is_established:
            raise _UndeliveredError(tls_failure(association) or Reason.PEER_UNREACHABLE, "no association")
        return association

    def _send(self, association, request: CommitmentRequest) -> None:  # type: ignore[no-untyped-def]
        references = [(sop_class, uid) for sop_class, uid in request.references]
        failures = [(str(sop_class), str(uid), int(why)) for sop_class, uid, why in request.failures]
        event, answer = report(request.transaction_uid, references, failures)
        try:
            status, _ = association.send_n_event_report(answer, event, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE)
        except (RuntimeError, ValueError) as error:  # the association has ended, or the context was not accepted
            raise _UndeliveredError(Reason.PEER_REFUSED, "storage commitment is not accepted") from error
        if "Status" not in status:
            raise _UndeliveredError(Reason.PEER_UNREACHABLE, "the report was not answered")
        if status.Status != dimse.SUCCESS:
            raise _UndeliveredError(Reason.PEER_REFUSED, f"the report was answered with 0x{status.Status:04X}")

    def _postpone(self, request: CommitmentRequest, failed: _UndeliveredError) -> None:
        with self._records.session() as session:
            again = commitment_rows.postpone(
                session,
                request.token,
                failed.reason,
                failed.detail,
                self._settings.delivery,
                self._settings.dicom.report_for_s,
            )
        told = {"calling_ae": request.calling_ae, "reason": failed.reason, "detail": failed.detail}
        if again is None:
            self._files.forget(request.token)
            _log.error("commitment_given_up", **told)
        else:
            _log.warning("commitment_not_reported", **told, next_attempt=again.isoformat(timespec="seconds"))
