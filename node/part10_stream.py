"""A Part 10 stream (PS3.10 section 7) that comes in pieces and goes through the door: DICOMweb, Orthanc, folders.

Of it 64 kB are held, no more: the file meta information until it is whole, and the beginning of the data set, to see
whether it is what it says it is.
"""

from collections.abc import Collection
from io import BytesIO
from typing import cast

from pydicom.filereader import read_dataset

from config import Reason, Settings
from ct.part10 import Unfit, Values, Window, is_uid, parsing
from node.file_meta import Origin
from node.headers import Names, read_names
from node.intake import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Incoming, IntakeSession, Refused, Stored
from node.negotiation import STORAGE_CLASSES
from node.spool import Buffer

CLASS_NOT_SUPPORTED = 0x0122
"""Status: SOP class not supported (PS3.7 C.4.2, PS3.18 table 10.5.3-2)."""
_HELD = 65536
"""Bytes."""
_PREFIX = 132
_NEXT_ELEMENT = 16
"""Bytes of what follows that the parser looks at to see that it is of another group."""
_GROUP_LENGTH = b"\x02\0\0\0UL\x04\0"


def accepted_classes(settings: Settings) -> frozenset[str]:
    """SOP classes that come in, whichever way: those that are offered to senders by C-STORE."""
    return frozenset(map(str, (*STORAGE_CLASSES, *settings.dicom.more_storage_classes)))


class Part10Stream:
    """Any number of `write`, then `finish`. What `finish` calls Stored is on the disk."""

    def __init__(
        self, session: IntakeSession, classes: Collection[str], longest: int, study: str = "", instance: str = ""
    ) -> None:
        """`classes`: SOP classes that are taken; `longest`: bytes of the largest stream that is taken; `study`,
        `instance`: the UIDs that it has to have, empty: any.
        """
        self._session, self._classes, self._longest = session, classes, longest
        self._study, self._instance = study, instance
        self._size = 0
        self._meta = bytearray()
        self._head = bytearray()
        """The beginning of the data set."""
        self._incoming: Incoming | None = None
        self._refused: Refused | None = None
        self.origin: Origin | None = None
        """Known as soon as the file meta information is."""
        self.names: Names | None = None
        """Where it belongs; known when it is stored, if that stands at the beginning of the data set."""

    def write(self, piece: Buffer) -> None:
        """The next bytes; they may be used again afterwards."""
        if self._refused is not None:
            return
        self._size += len(piece)
        if self._incoming is not None:
            self._pass(piece)
        else:
            self._meta += piece
            if self._meta_is_whole():
                self._begin()
        if self._size > self._longest:
            self.refuse(OUT_OF_RESOURCES, Reason.OBJECT_TOO_LARGE, "the object is larger than the node takes")

    def finish(self) -> Stored | Refused:
        """The end of the stream; waits for the disk."""
        if self._incoming is None and self._refused is None:
            self._begin()
        if self._refused is None:
            self._check_names()
        if self._refused is not None:
            return self._refused
        assert self._incoming is not None
        return self._incoming.finish()

    def refuse(self, status: int, reason: Reason, comment: str) -> None:
        """Do not take it; what was written of it is dropped, what comes is thrown away. The first refusal stands."""
        if self._refused is not None:
            return
        self._refused = Refused(status, reason, comment)
        if self._incoming is not None and self._incoming.refused is None:
            self._incoming.refuse(status, reason, comment)
        self._meta.clear()

    def _meta_is_whole(self) -> bool:
        if len(self._meta) >= _HELD:
            return True
        start = bytes(self._meta[_PREFIX : _PREFIX + 12])
        if len(start) < 12:
            return False
        length = int.from_bytes(start[8:], "little") if start[:8] == _GROUP_LENGTH else _HELD
        return len(self._meta) >= _PREFIX + 12 + length + _NEXT_ELEMENT

    def _begin(self) -> None:
        """The file meta information is here: announce the data set at the door."""
        meta, self._meta = bytes(self._meta), bytearray()
        try:
            origin, start = _read_meta(meta, self._session.calling_ae, self._session.called_ae)
        except Unfit as unfit:
            self.refuse(CANNOT_UNDERSTAND, unfit.reason, unfit.detail)
            return
        self.origin = origin
        if origin.sop_class_uid not in self._classes:
            self.refuse(CLASS_NOT_SUPPORTED, Reason.CLASS_NOT_TAKEN, "the node does not take this SOP class")
            return
        if self._instance and origin.sop_instance_uid != self._instance:
            self.refuse(CANNOT_UNDERSTAND, Reason.BAD_UID, "it is not the object that was asked for")
            return
        self._incoming = self._session.begin(origin.sop_class_uid, origin.sop_instance_uid, origin.transfer_syntax_uid)
        self._pass(memoryview(meta)[start:])

    def _pass(self, piece: Buffer) -> None:
        assert self._incoming is not None
        if len(piece):
            self._head += piece[: max(0, _HELD - len(self._head))]
            self._incoming.write(piece)
        self._refused = self._incoming.refused

    def _check_names(self) -> None:
        assert self.origin is not None
        try:
            self.names = read_names(memoryview(bytes(self._head)), self.origin)
        except Unfit as unfit:
            if unfit.reason == Reason.TRUNCATED and len(self._head) == _HELD:
                return  # they come later than what is held; the index looks further
            self.refuse(CANNOT_UNDERSTAND, unfit.reason, unfit.detail)
            return
        if self._study and self.names.study_instance_uid != self._study:
            self.refuse(CANNOT_UNDERSTAND, Reason.WRONG_STUDY, Reason.WRONG_STUDY.meaning)


def _read_meta(stream: bytes, calling_ae: str, called_ae: str) -> tuple[Origin, int]:
    """What the file meta information says, and where the data set starts.

    Raises Unfit: NOT_DICOM, TRUNCATED, BAD_UID.
    """
    if stream[128:_PREFIX] != b"DICM":
        raise Unfit(Reason.NOT_DICOM, "no DICM prefix: not a Part 10 stream" if stream else "it is empty")
    window = Window(BytesIO(stream), 0, len(stream), most_reads=2000)
    window.seek(_PREFIX)
    with parsing():
        meta = Values(read_dataset(cast(BytesIO, window), False, True, stop_when=lambda tag, *_: tag >> 16 != 2))
    uids = [meta.text(tag) for tag in (0x00020002, 0x00020003, 0x00020010)]
    if not all(map(is_uid, uids)):
        raise Unfit(Reason.BAD_UID, "file meta information without SOP class, instance or syntax")
    return Origin(uids[0], uids[1], uids[2], calling_ae, called_ae), window.tell()
