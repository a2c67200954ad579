"""The one door: every way in (C-STORE now) ends here, and an instance that got `Stored` is on the disk.

Nothing is decoded here and duplicates are let in: the index sorts them out.
"""

import errno
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from config import Reason
from ct.part10 import is_uid
from node.file_meta import Origin
from node.spool import Buffer, Record, SegmentWriter, SpoolError, free_bytes

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
    """Stores what one sender sends into a segment of its own, made at the first instance."""

    def __init__(self, intake: Intake, calling_ae: str, called_ae: str) -> None:
        self._intake, self._calling_ae, self._called_ae = intake, calling_ae, called_ae
        self._writer: SegmentWriter | None = None
        self._closed = False
        self._lock = threading.Lock()

    def store(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, *data_set: Buffer
    ) -> Stored | Refused:
        """Put one encoded data set (as sent, in one or more buffers) into the spool and wait for the disk."""
        sop_class, instance, syntax = (
            uid.rstrip("\0 ") for uid in (sop_class_uid, sop_instance_uid, transfer_syntax_uid)
        )
        if not (is_uid(sop_class) and is_uid(instance) and is_uid(syntax)):
            return self._refused(CANNOT_UNDERSTAND, Reason.BAD_UID, "SOP class, instance or transfer syntax is no UID")
        size = sum(memoryview(buffer).nbytes for buffer in data_set)
        if size == 0:
            return self._refused(CANNOT_UNDERSTAND, Reason.NOT_DICOM, "no data set")
        origin = Origin(sop_class, instance, syntax, self._calling_ae, self._called_ae)
        with self._lock:
            if self._closed:
                return self._refused(CANNOT_UNDERSTAND, Reason.TRUNCATED, "the association has ended")
            try:
                if free_bytes(self._intake.spool_dir) - size < self._intake.min_free_bytes:
                    return self._refused(OUT_OF_RESOURCES, Reason.DISK_FULL, "spool disk is below its low-water mark")
                record = self._append(origin, *data_set)
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                return self._refused(
                    OUT_OF_RESOURCES,
                    Reason.DISK_FULL if full else Reason.SPOOL_FAILED,
                    "spool disk is full" if full else "spool disk error",
                    error,
                )
        self._intake.on_stored(record.segment)
        return Stored(record)

    def _append(self, origin: Origin, *data_set: Buffer) -> Record:
        if self._writer is None:
            self._writer = SegmentWriter(self._intake.spool_dir)
        try:
            return self._writer.append(origin, *data_set)
        except SpoolError:
            self._writer.close()
            self._writer = None  # the next instance starts a new segment
            raise

    def _refused(self, status: int, reason: Reason, comment: str, error: OSError | None = None) -> Refused:
        _log.warning(
            "instance_refused",
            status=f"0x{status:04X}",
            reason=reason,
            calling_ae=self._calling_ae,
            error=error and (error.strerror or type(error).__name__),
        )
        return Refused(status, reason, comment)

    def close(self) -> None:
        """End the session; whatever is stored afterwards is refused."""
        with self._lock:
            self._closed = True
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
