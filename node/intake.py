"""The one door: every way in (C-STORE now) ends here, and an instance that got `Stored` is on the disk.

Nothing is decoded here and duplicates are let in: the index sorts them out.
"""

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from config import Reason
from ct.part10 import is_uid
from node.file_meta import Origin
from node.segment_writer import SegmentWriter
from node.spool import Buffer, Ending, Record, free_bytes

_log = structlog.get_logger(__name__)

OUT_OF_RESOURCES = 0xA700
"""C-STORE status: refused, out of resources (PS3.4 table B.2-1)."""
DATA_SET_MISMATCH = 0xA900
"""C-STORE status: data set does not match SOP class."""
CANNOT_UNDERSTAND = 0xC000
"""C-STORE status: cannot understand."""

_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")


@dataclass(frozen=True)
class Stored:
    """The instance is durable in the spool."""

    record: Record


@dataclass(frozen=True)
class Refused:
    """The instance was not taken."""

    status: int
    """C-STORE status (PS3.4 table B.2-1)."""
    reason: Reason
    comment: str
    """For the sender: Error Comment (0000,0902), at most 64 characters, no patient data."""


class Intake:
    """Opens sessions on one spool."""

    def __init__(self, spool_dir: Path, min_free_bytes: int, on_stored: Callable[[str], None] = lambda _: None) -> None:
        """`on_stored` hears the name of the segment after each stored instance. Raises OSError."""
        spool_dir.mkdir(parents=True, exist_ok=True)
        self.spool_dir = spool_dir
        self.min_free_bytes = min_free_bytes
        self.on_stored = on_stored

    def open(self, calling_ae: str, called_ae: str) -> "IntakeSession":
        """A session for one sender (an association). Raises ValueError for an AE title that is none."""
        for title in (calling_ae, called_ae):
            if not _AE_TITLE.fullmatch(title):
                raise ValueError("not an AE title (PS3.5 section 6.2)")
        return IntakeSession(self, calling_ae, called_ae)


class IntakeSession:
    """Stores what one sender sends into a segment of its own, made at the first instance. One thread at a time."""

    def __init__(self, intake: Intake, calling_ae: str, called_ae: str) -> None:
        self.intake, self.calling_ae, self.called_ae = intake, calling_ae, called_ae
        self._writer: SegmentWriter | None = None
        self.closed = False

    def begin(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> "Incoming":
        """Announce an instance whose data set comes in pieces; it may be refused at once."""
        sop_class, instance, syntax = (
            uid.rstrip("\0 ") for uid in (sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        )
        incoming = Incoming(self, Origin(sop_class, instance, syntax, self.calling_ae, self.called_ae))
        if not (is_uid(sop_class) and is_uid(instance) and is_uid(syntax)):
            incoming.refuse(CANNOT_UNDERSTAND, Reason.BAD_UID, "SOP class, instance or transfer syntax is no UID")
        return incoming

    def store(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, *data_set: Buffer
    ) -> Stored | Refused:
        """Put one encoded data set (as sent, in one or more buffers) into the spool and wait for the disk."""
        return self.begin(sop_class_uid, sop_instance_uid, transfer_syntax_uid).finish(*data_set)

    def writer(self) -> SegmentWriter:
        """The session's segment. Raises SpoolError."""
        if self._writer is None:
            self._writer = SegmentWriter(self.intake.spool_dir)
        return self._writer

    def abandon(self) -> None:
        """End the segment after an error of the disk; the next instance starts a new one."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def close(self, ending: Ending | None = None) -> None:
        """End the session; whatever is stored afterwards is refused, what is not finished is dropped.

        `ending`: how, if that is known; the segment says so from then on.
        """
        self.closed = True
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close(ending)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Incoming:
    """One instance on its way into the spool: any number of `write`, then `finish`.

    One at a time in a session; one that was begun and not finished is dropped by the next. After a refusal the rest is
    taken and thrown away, so that the sender can be answered at its end.
    """

    def __init__(self, session: IntakeSession, origin: Origin) -> None:
        self._session, self._origin = session, origin
        self._size = 0
        """Bytes of the data set so far."""
        self._begun = False
        self.refused: Refused | None = None

    def write(self, *data_set: Buffer) -> None:
        """The next piece of the encoded data set, as sent. The buffers may be used again afterwards."""
        self._put(data_set, last=False)

    def finish(self, *data_set: Buffer) -> Stored | Refused:
        """The last piece; waits for the disk."""
        record = self._put(data_set, last=True)
        if record is None:
            assert self.refused is not None, "no record without a refusal"
            return self.refused
        self._session.intake.on_stored(record.segment)
        return Stored(record)

    def refuse(self, status: int, reason: Reason, comment: str, error: OSError | None = None) -> None:
        """Do not take it; what was written of it is dropped."""
        _log.warning(
            "instance_refused",
            status=f"0x{status:04X}",
            reason=reason,
            calling_ae=self._session.calling_ae,
            error=error and (error.strerror or type(error).__name__),
        )
        self.refused = Refused(status, reason, comment)

    def _put(self, data_set: tuple[Buffer, ...], last: bool) -> Record | None:
        """The record if this was the last piece; None if there is more to come or the instance is refused."""
        if self.refused is not None:
            return None
        if self._session.closed:
            self.refuse(CANNOT_UNDERSTAND, Reason.TRUNCATED, "the association has ended")
            return None
        size = sum(memoryview(buffer).nbytes for buffer in data_set)
        self._size += size
        if last and self._size == 0:
            self.refuse(CANNOT_UNDERSTAND, Reason.NOT_DICOM, "no data set")
            return None
        intake = self._session.intake
        try:
            if free_bytes(intake.spool_dir) - size < intake.min_free_bytes:
                self.refuse(OUT_OF_RESOURCES, Reason.DISK_FULL, "spool disk is below its low-water mark")
                return None
            writer = self._session.writer()
            if not self._begun:
                writer.begin(self._origin)
                self._begun = True
            if last:
                return writer.commit(*data_set)
            writer.write(*data_set)
        except OSError as error:
            self._session.abandon()
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self.refuse(
                OUT_OF_RESOURCES,
                Reason.DISK_FULL if full else Reason.SPOOL_FAILED,
                "spool disk is full" if full else "spool disk error",
                error,
            )
        return None
