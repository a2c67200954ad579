"""An announcement (N-CREATE or N-SET of an MPPS, N-CREATE of an Instance Availability Notification) on its way in."""

from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from pydicom.uid import ImplicitVRLittleEndian, generate_uid

from config import Reason
from ct.part10 import is_uid
from node import dimse
from node.announced import (
    INSTANCE_AVAILABILITY,
    LONGEST_ANNOUNCEMENT,
    MPPS,
    RefusedError,
    StepStatus,
    parse_availability,
    parse_step,
)
from node.announced_files import AnnouncementFiles
from node.dimse import Command
from node.spool import Buffer, free_bytes

_log = structlog.get_logger(__name__)

REQUESTS = {
    (dimse.N_CREATE_RQ, MPPS),
    (dimse.N_SET_RQ, MPPS),
    (dimse.N_CREATE_RQ, INSTANCE_AVAILABILITY),
}
"""Command Field and abstract syntax of what is taken."""


@dataclass(frozen=True)
class Answer:
    """How a request is answered."""

    command: Command
    """The request; with a SOP Instance UID, if it left that to the node."""
    status: int
    comment: str = ""
    error_id: int | None = None
    ended: bool = False
    """Something waits for the indexer."""


class Announcing:
    """Any number of `write`, then `finish`."""

    def __init__(self, command: Command, abstract_syntax: str, transfer_syntax: str) -> None:
        self._command, self._abstract_syntax = command, abstract_syntax
        self._implicit = transfer_syntax == ImplicitVRLittleEndian
        self._data_set = bytearray()
        self._size = 0

    def write(self, piece: Buffer) -> None:
        """The next piece of the data set; what is too long is thrown away."""
        self._size += memoryview(piece).nbytes
        if self._size <= LONGEST_ANNOUNCEMENT:
            self._data_set += piece

    def finish(self, spool_dir: Path, min_free_bytes: int, calling_ae: str) -> Answer:
        """Success: it is on the disk."""
        if not self._command.sop_instance.strip(b"\0 ") and self._command.field == dimse.N_CREATE_RQ:
            self._command = replace(self._command, sop_instance=generate_uid(prefix=None).encode("ascii"))
        try:
            status = self._take(spool_dir, min_free_bytes, calling_ae)
        except RefusedError as error:
            _log.warning(
                "announcement_refused", status=f"0x{error.status:04X}", calling_ae=calling_ae, detail=str(error)
            )
            return Answer(self._command, error.status, str(error), error.error_id)
        except OSError as error:
            _log.error("announcement_not_kept", reason=Reason.SPOOL_FAILED, error=error.strerror)
            return Answer(self._command, dimse.RESOURCE_LIMITATION, "spool disk error")
        kind = "mpps" if self._abstract_syntax == MPPS else "ian"
        _log.info("announcement_received", kind=kind, state=status, calling_ae=calling_ae)
        return Answer(self._command, dimse.SUCCESS, ended=status != StepStatus.IN_PROGRESS)

    def _take(self, spool_dir: Path, min_free_bytes: int, calling_ae: str) -> StepStatus:
        """The status of the step now; a notification has said all. Raises RefusedError, OSError."""
        sop_class, uid = (
            text.rstrip(b"\0 ").decode("ascii", "replace")
            for text in (self._command.sop_class, self._command.sop_instance)
        )
        if sop_class != self._abstract_syntax:
            raise RefusedError(dimse.CLASS_CONFLICT, "SOP class is not the one of the presentation context")
        if not is_uid(uid):
            raise RefusedError(dimse.INVALID_INSTANCE, "the SOP instance is no UID")
        if self._size > LONGEST_ANNOUNCEMENT:
            raise RefusedError(dimse.RESOURCE_LIMITATION, "the data set is too long")
        files = AnnouncementFiles(spool_dir)
        if self._abstract_syntax == MPPS:
            step = parse_step(self._data_set, self._implicit)
        else:
            told = parse_availability(self._data_set, self._implicit)
        if free_bytes(spool_dir) - 2 * self._size < min_free_bytes:
            raise RefusedError(dimse.RESOURCE_LIMITATION, "spool disk is below its low-water mark")
        if self._abstract_syntax != MPPS:
            files.create_notification(uid, calling_ae, told.series, told.study)
            return StepStatus.COMPLETED
        if self._command.field == dimse.N_SET_RQ:
            return files.set_step(uid, calling_ae, step)
        files.create_step(uid, step)
        return StepStatus.IN_PROGRESS
