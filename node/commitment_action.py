"""A request for storage commitment (N-ACTION) within its association: taken, answered, reported if that is quick."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.dsutils import encode

from config import Reason
from node import dimse
from node.commitment import (
    LONGEST_ACTION,
    REQUEST_COMMITMENT,
    STORAGE_COMMITMENT,
    WELL_KNOWN_INSTANCE,
    BadActionError,
    CommitmentFiles,
    Request,
    parse_action,
    report,
)
from node.dimse import Command
from node.spool import Buffer, free_bytes
from node.tls import readable

_log = structlog.get_logger(__name__)

_AT_ONCE_S = 2.0
"""Longest wait for the index before an association goes on without its report, seconds."""
_LOOK_S = 0.02
_MESSAGE_ID = 1


class Action:
    """One N-ACTION request on its way in: any number of `write`, then `finish`."""

    def __init__(self, command: Command, transfer_syntax: str) -> None:
        self._command, self._implicit = command, transfer_syntax == ImplicitVRLittleEndian
        self._data_set = bytearray()
        self._size = 0

    def write(self, piece: Buffer) -> None:
        """The next piece of the data set; what is too long is thrown away."""
        self._size += memoryview(piece).nbytes
        if self._size <= LONGEST_ACTION:
            self._data_set += piece

    def finish(self, spool_dir: Path, min_free_bytes: int, titles: tuple[str, str]) -> tuple[int, str, Request | None]:
        """Status, Error Comment and, if it was taken, the request. `titles`: calling and called AE title."""
        status, comment, request = self._take(spool_dir, min_free_bytes, titles)
        if request is None:
            _log.warning("commitment_refused", status=f"0x{status:04X}", calling_ae=titles[0], detail=comment)
        else:
            _log.info("commitment_asked", calling_ae=titles[0], count=len(request.references))
        return status, comment, request

    def _take(self, spool_dir: Path, min_free_bytes: int, titles: tuple[str, str]) -> tuple[int, str, Request | None]:
        sop_class, instance = (
            uid.rstrip(b"\0 ").decode("ascii", "replace")
            for uid in (self._command.sop_class, self._command.sop_instance)
        )
        if sop_class != STORAGE_COMMITMENT:
            return dimse.CLASS_CONFLICT, "SOP class is not the one of the presentation context", None
        if instance != WELL_KNOWN_INSTANCE:
            return dimse.NO_SUCH_INSTANCE, "not the well-known SOP instance", None
        if self._command.type_id != REQUEST_COMMITMENT:
            return dimse.NO_SUCH_ACTION, "only action type 1 is known", None
        if self._size > LONGEST_ACTION:
            return dimse.RESOURCE_LIMITATION, "too many references; ask in several requests", None
        try:
            transaction, references = parse_action(self._data_set, self._implicit)
            if free_bytes(spool_dir) - self._size < min_free_bytes:
                return dimse.RESOURCE_LIMITATION, "spool disk is below its low-water mark", None
            return dimse.SUCCESS, "", CommitmentFiles(spool_dir).keep(transaction, *titles, references)
        except BadActionError as error:
            return dimse.INVALID_ARGUMENT, str(error), None
        except OSError as error:
            _log.error("commitment_not_kept", reason=Reason.SPOOL_FAILED, error=error.strerror)
            return dimse.RESOURCE_LIMITATION, "spool disk error", None


class Report:
    """The report of one request on the association on which it came."""

    def __init__(self, request: Request, context_id: int, transfer_syntax: str, spool_dir: Path) -> None:
        self.context_id = context_id
        self._request, self._implicit = request, transfer_syntax == ImplicitVRLittleEndian
        self._files = CommitmentFiles(spool_dir)

    def wait(self, connection: socket.socket, ending: Callable[[], bool]) -> tuple[bytes, bytes] | None:
        """Command set and data set of the N-EVENT-REPORT request, if the verdict is there before the peer goes on.

        Whoever sends something meanwhile is busy with something else: it gets its report on another association.
        """
        deadline = time.monotonic() + _AT_ONCE_S
        while time.monotonic() < deadline and not ending():
            failures = self._files.verdict(self._request.token)
            if failures is not None:
                event, answer = report(self._request.transaction_uid, self._request.references, failures)
                data_set = encode(answer, self._implicit, True)
                assert data_set is not None, "UIDs and numbers can be encoded"
                command = dimse.encode_event(STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE, event, _MESSAGE_ID)
                return command, data_set
            if readable(connection, _LOOK_S):
                break
        return None

    def confirmed(self, status: int | None) -> None:
        """The peer has answered the report."""
        if status == dimse.SUCCESS:
            try:
                self._files.mark_answered(self._request.token)
            except OSError as error:  # it is told once more, on another association
                _log.error("commitment_not_kept", reason=Reason.SPOOL_FAILED, error=error.strerror)
