"""One STOW-RS request (PS3.18 section 10.5): its parts go through the door as they come; each has an outcome."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import structlog

from config import Reason
from node.file_meta import Origin
from node.intake import CANNOT_UNDERSTAND, IntakeSession, Refused
from node.part10_stream import Part10Stream
from node.web.multipart import MultipartError, MultipartReader, media_type

_log = structlog.get_logger(__name__)

DICOM = "application/dicom"
PROCESSING_FAILURE = 0x0110
"""Failure Reason (PS3.18 table 10.5.3-2): processing failure."""
_MOST_PARTS = 20_000


@dataclass(frozen=True)
class Outcome:
    """What became of one object."""

    origin: Origin | None
    """What it is; None if that cannot be said."""
    refused: Refused | None
    """None: it is stored."""


class StowRequest:
    """Any number of `write`, then `end`; or `break_off`. Each object that an Outcome calls stored is on the disk."""

    def __init__(
        self, session: IntakeSession, classes: Collection[str], longest: int, content_type: str, study: str = ""
    ) -> None:
        """`study`: the Study Instance UID of the address; empty: none. Raises MultipartError for another type."""
        self._session, self._classes, self._longest, self._study = session, classes, longest, study
        self.outcomes: list[Outcome] = []
        self.broken = ""
        """Why the message cannot be read to its end; empty: it can."""
        self._reader = MultipartReader(content_type, self._begin)

    def write(self, piece: bytes) -> None:
        """The next bytes; after the message is found to be broken they are thrown away."""
        if self.broken:
            return
        try:
            self._reader.write(piece)
        except MultipartError as error:
            self.break_off(str(error))

    def end(self) -> None:
        """No more comes."""
        if self.broken:
            return
        try:
            self._reader.end()
        except MultipartError as error:
            self.break_off(str(error))

    def break_off(self, why: str) -> None:
        """The rest does not come, or cannot be read: the object under way is not stored."""
        _log.warning("stow_broken_off", calling_ae=self._session.calling_ae, detail=why, stored=self.stored)
        self.broken = why
        refused = Refused(PROCESSING_FAILURE, Reason.TRUNCATED, why)
        self.outcomes.append(Outcome(None, refused))

    @property
    def stored(self) -> int:
        """Objects that are on the disk."""
        return sum(outcome.refused is None for outcome in self.outcomes)

    def _begin(self, headers: Mapping[str, str]) -> "_Object":
        if len(self.outcomes) >= _MOST_PARTS:
            raise MultipartError("it has too many parts")
        stream = Part10Stream(self._session, self._classes, self._longest, study=self._study)
        if media_type(headers.get("content-type", DICOM))[0] != DICOM:
            stream.refuse(CANNOT_UNDERSTAND, Reason.NOT_DICOM, "the part is not application/dicom")
        return _Object(stream, self.outcomes)


class _Object:
    """One part."""

    def __init__(self, stream: Part10Stream, outcomes: list[Outcome]) -> None:
        self._stream, self._outcomes = stream, outcomes

    def write(self, piece: memoryview) -> None:
        self._stream.write(piece)

    def end(self) -> None:
        answer = self._stream.finish()
        self._outcomes.append(Outcome(self._stream.origin, answer if isinstance(answer, Refused) else None))
