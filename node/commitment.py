"""Storage commitment as receiver (DICOM PS3.4 annex J): what a sender asks, what it is told, and the files in between.

A request is a small file in the spool, durable before it is answered with success, so it outlives a crash and a
database that is away. The indexer takes it into the database (`node.commitment_rows`) when everything that was in the
spool before it is in the index; then the sender gets its report (`node.commitment_reports`).
"""

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from ct.part10 import Unfit, is_uid, parsing
from node.durable import write_durably

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model SOP Class."""
WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Its only instance (PS3.4 section J.3.5)."""
REQUEST_COMMITMENT = 1
"""Action Type ID."""
ALL_KEPT, SOME_NOT_KEPT = 1, 2
"""Event Type ID (PS3.4 section J.3.3)."""
NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0112, 0x0119
"""Failure Reason (0008,1197): PS3.3 section C.14.1.1."""

LONGEST_ACTION = 2 * 2**20
"""Bytes of the data set of a request: about 19,000 objects."""
_MOST_ITEMS = 20_000
_ITEM = b"\xfe\xff\x00\xe0"
"""Tag of a sequence item, Little Endian."""
COMMITMENT_FOLDER = "commitment"
"""In the spool: requests of senders, and reports of destinations (`node.commitment_event`)."""
_REQUEST, _VERDICT, _ANSWERED = ".request", ".verdict", ".answered"

Reference = tuple[str, str]
"""SOP class and SOP instance UID."""
Failure = tuple[str, str, int]
"""SOP class, SOP instance, Failure Reason."""


class BadActionError(ValueError):
    """The data set of a request cannot be used. The text is constant and fits an Error Comment."""


@dataclass(frozen=True)
class Request:
    """What one sender wants to know."""

    token: str
    """Named by the node."""
    transaction_uid: str
    calling_ae: str
    called_ae: str
    received_at: datetime
    references: tuple[Reference, ...]


def parse_action(encoded: bytes | bytearray, implicit: bool) -> tuple[str, tuple[Reference, ...]]:
    """Transaction UID and references (each once) of an N-ACTION, Little Endian (PS3.4 table J.3-1).

    Raises BadActionError.
    """
    if encoded.count(_ITEM) > _MOST_ITEMS:  # empty ones would take the parser long
        raise BadActionError("too many references; ask in several requests")
    try:
        with parsing():
            data_set = read_dataset(BytesIO(encoded), implicit, True)
            transaction = str(data_set.get("TransactionUID") or "")
            named = [
                (str(item.get("ReferencedSOPClassUID") or ""), str(item.get("ReferencedSOPInstanceUID") or ""))
                for item in data_set.get("ReferencedSOPSequence") or ()
            ]
    except Unfit as error:
        raise BadActionError("the data set cannot be parsed") from error
    if not is_uid(transaction):
        raise BadActionError("Transaction UID is missing or no UID")
    if not named:
        raise BadActionError("Referenced SOP Sequence is missing or empty")
    if not all(is_uid(uid) for reference in named for uid in reference):
        raise BadActionError("a referenced SOP class or instance is no UID")
    return transaction, tuple(dict.fromkeys(named))


def report(transaction_uid: str, references: Iterable[Reference], failures: Sequence[Failure]) -> tuple[int, Dataset]:
    """Event Type ID and data set of an N-EVENT-REPORT (PS3.4 table J.3-2)."""
    failed = {uid for _, uid, _ in failures}
    answer = Dataset()
    answer.TransactionUID = transaction_uid
    kept = [_reference(sop_class, uid) for sop_class, uid in references if uid not in failed]
    if kept or not failures:
        answer.ReferencedSOPSequence = kept
    if failures:
        answer.FailedSOPSequence = [_reference(sop_class, uid, why) for sop_class, uid, why in failures]
    return SOME_NOT_KEPT if failures else ALL_KEPT, answer


def _reference(sop_class: str, uid: str, failure: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    if failure is not None:
        item.FailureReason = failure
    return item


class CommitmentFiles:
    """The requests of one spool that are on their way. Names are made by the node."""

    def __init__(self, spool_dir: Path) -> None:
        self.folder = spool_dir / COMMITMENT_FOLDER

    def keep(self, transaction_uid: str, calling_ae: str, called_ae: str, references: Sequence[Reference]) -> Request:
        """Write a request down and wait for the disk. Raises OSError."""
        received = time.time_ns()
        request = Request(
            token=f"{received:020d}-{secrets.token_hex(6)}",
            transaction_uid=transaction_uid,
            calling_ae=calling_ae,
            called_ae=called_ae,
            received_at=datetime.fromtimestamp(received / 1e9, UTC),
            references=tuple(references),
        )
        content = json.dumps({**vars(request), "received_at": request.received_at.isoformat()})
        write_durably(self._path(request.token, _REQUEST), content)
        return request

    def waiting(self) -> list[str]:
        """Tokens of the requests that are not in the database yet, oldest first."""
        return sorted(path.stem for path in self.folder.glob(f"*{_REQUEST}"))

    def load(self, token: str) -> Request:
        """A request that was kept. Raises OSError, ValueError if the file is damaged."""
        read = json.loads(self._path(token, _REQUEST).read_bytes())
        try:
            references = tuple((str(sop_class), str(uid)) for sop_class, uid in read["references"])
            received = datetime.fromisoformat(read["received_at"])
            transaction, calling, called = (str(read[n]) for n in ("transaction_uid", "calling_ae", "called_ae"))
        except (KeyError, TypeError) as error:
            raise ValueError("not a storage commitment request") from error
        return Request(token, transaction, calling, called, received, references)

    def put_aside(self, token: str) -> None:
        """Keep a damaged request out of the way, for a person to look at. Raises OSError."""
        self._path(token, _REQUEST).rename(self.folder / f"{token}.damaged")

    def taken(self, token: str, failures: Sequence[Failure]) -> None:
        """It is in the database: tell the association, if it still waits, and remove the file. Raises OSError."""
        verdict = self._path(token, _VERDICT)
        unready = self.folder / f".{token}.new"
        unready.write_text(json.dumps(failures), encoding="ascii")
        unready.rename(verdict)
        self._path(token, _REQUEST).unlink(missing_ok=True)

    def verdict(self, token: str) -> list[Failure] | None:
        """What is not kept of a request; None if that is not known yet."""
        try:
            read = json.loads(self._path(token, _VERDICT).read_bytes())
        except (OSError, ValueError):
            return None
        return [(str(sop_class), str(uid), int(why)) for sop_class, uid, why in read]

    def mark_answered(self, token: str) -> None:
        """The sender has confirmed the report on its own association. Raises OSError."""
        self._path(token, _ANSWERED).touch()

    def answered(self) -> list[str]:
        """Tokens of the requests whose report was confirmed on their own association."""
        return sorted(path.stem for path in self.folder.glob(f"*{_ANSWERED}"))

    def forget(self, token: str) -> None:
        """The request is done, or the association does not wait any more. Raises OSError."""
        for suffix in (_VERDICT, _ANSWERED):
            self._path(token, suffix).unlink(missing_ok=True)

    def _path(self, token: str, suffix: str) -> Path:
        return self.folder / f"{token}{suffix}"
