"""A report on storage commitment (N-EVENT-REPORT) that a destination brings on an association of its own.

It is durable as a small file in the spool before it is answered with success, so it outlives a crash and a database
that is away; the receiver's clerk takes it into the database (`node.commitment_result`).
"""

import json
import secrets
import time
from base64 import b64decode, b64encode
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import structlog
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import decode

from config import Reason
from ct.part10 import Unfit, is_uid, parsing
from node import dimse
from node.commitment import COMMITMENT_FOLDER, STORAGE_COMMITMENT, WELL_KNOWN_INSTANCE
from node.dimse import Command
from node.durable import write_durably
from node.spool import Buffer, free_bytes

_log = structlog.get_logger(__name__)

ALL_KEPT, SOME_FAILED = 1, 2
"""Event Type ID (PS3.4 table J.3-3)."""
LONGEST_REPORT = 4 * 2**20
"""Bytes of a data set; an object takes about 150."""
TRANSFER_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
"""Those a report may come in."""
_UNKNOWN_REASON = 0x0110
_ITEM = b"\xfe\xff\x00\xe0"
_MOST_ITEMS = 40_000
_SUFFIX = ".event"


@dataclass(frozen=True)
class Verdict:
    """What a report says."""

    transaction_uid: str
    kept: tuple[str, ...]
    """SOP Instance UIDs."""
    failed: dict[str, int]
    """SOP Instance UID -> Failure Reason (PS3.3 section C.14.1.1)."""


def parse_report(encoded: bytes | bytearray, transfer_syntax: str) -> Verdict:
    """The data set of an N-EVENT-REPORT (PS3.4 table J.3-2). Raises Unfit."""
    with parsing():
        if len(encoded) > LONGEST_REPORT or transfer_syntax not in TRANSFER_SYNTAXES:
            raise ValueError
        if encoded.count(_ITEM) > _MOST_ITEMS:  # empty ones would take the parser long
            raise ValueError
        syntax = UID(transfer_syntax)
        dataset = decode(BytesIO(encoded), syntax.is_implicit_VR, syntax.is_little_endian)
        transaction = str(dataset.TransactionUID)
        if not is_uid(transaction):
            raise ValueError
        kept = tuple(str(item.ReferencedSOPInstanceUID) for item in _items(dataset, "ReferencedSOPSequence"))
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or _UNKNOWN_REASON)
            for item in _items(dataset, "FailedSOPSequence")
        }
        return Verdict(transaction, kept, failed)


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    return list(dataset.get(keyword) or [])


class Event:
    """One N-EVENT-REPORT request on its way in: any number of `write`, then `finish`."""

    def __init__(self, command: Command, transfer_syntax: str) -> None:
        self._command, self._transfer_syntax = command, transfer_syntax
        self._data_set = bytearray()
        self._size = 0

    def write(self, piece: Buffer) -> None:
        """The next piece of the data set; what is too long is thrown away."""
        self._size += memoryview(piece).nbytes
        if self._size <= LONGEST_REPORT:
            self._data_set += piece

    def finish(self, spool_dir: Path, min_free_bytes: int, calling_ae: str) -> tuple[int, str]:
        """Status and Error Comment. Success: the report is kept."""
        status, comment = self._take(spool_dir, min_free_bytes)
        if status == dimse.SUCCESS:
            _log.info("commitment_report_received", calling_ae=calling_ae)
        else:
            _log.warning("commitment_report_refused", status=f"0x{status:04X}", calling_ae=calling_ae, detail=comment)
        return status, comment

    def _take(self, spool_dir: Path, min_free_bytes: int) -> tuple[int, str]:
        sop_class, instance = (
            uid.rstrip(b"\0 ").decode("ascii", "replace")
            for uid in (self._command.sop_class, self._command.sop_instance)
        )
        if sop_class != STORAGE_COMMITMENT:
            return dimse.CLASS_CONFLICT, "SOP class is not the one of the presentation context"
        if instance != WELL_KNOWN_INSTANCE:
            return dimse.NO_SUCH_INSTANCE, "not the well-known SOP instance"
        if self._command.type_id not in (ALL_KEPT, SOME_FAILED):
            return dimse.NO_SUCH_EVENT_TYPE, "only event types 1 and 2 are known"
        if self._size > LONGEST_REPORT:
            return dimse.RESOURCE_LIMITATION, "the report is too long"
        try:
            parse_report(self._data_set, self._transfer_syntax)
            if free_bytes(spool_dir) - 2 * self._size < min_free_bytes:
                return dimse.RESOURCE_LIMITATION, "spool disk is below its low-water mark"
            EventFiles(spool_dir).keep(Kept(self._command.type_id, self._transfer_syntax, bytes(self._data_set)))
        except Unfit:
            return dimse.INVALID_ARGUMENT, "the data set is no report on storage commitment"
        except OSError as error:
            _log.error("commitment_not_kept", reason=Reason.SPOOL_FAILED, error=error.strerror)
            return dimse.RESOURCE_LIMITATION, "spool disk error"
        return dimse.SUCCESS, ""


@dataclass(frozen=True)
class Kept:
    """A report as it was received."""

    event_type: int
    transfer_syntax: str
    encoded: bytes


class EventFiles:
    """The reports in one spool that are not in the database yet. Names are made by the node."""

    def __init__(self, spool_dir: Path) -> None:
        self._folder = spool_dir / COMMITMENT_FOLDER

    def keep(self, report: Kept) -> None:
        """Write a report down and wait for the disk. Raises OSError."""
        name = f"{time.time_ns():020d}-{secrets.token_hex(6)}{_SUFFIX}"
        content = json.dumps({**vars(report), "encoded": b64encode(report.encoded).decode("ascii")})
        write_durably(self._folder / name, content)

    def waiting(self) -> list[Path]:
        """Oldest first."""
        return sorted(self._folder.glob(f"*{_SUFFIX}"))

    @staticmethod
    def load(path: Path) -> Kept:
        """A report that was kept. Raises OSError, ValueError if the file is damaged."""
        read: dict[str, Any] = json.loads(path.read_bytes())
        try:
            return Kept(int(read["event_type"]), str(read["transfer_syntax"]), b64decode(read["encoded"]))
        except (KeyError, TypeError) as error:
            raise ValueError("not a report on storage commitment") from error

    @staticmethod
    def put_aside(path: Path) -> None:
        """Keep a damaged file out of the way, for a person to look at. Raises OSError."""
        path.rename(path.with_suffix(".damaged"))
