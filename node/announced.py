"""What others announce of a series: which images a modality made (MPPS, DICOM PS3.4 annex F), or which an archive has
(Instance Availability Notification, PS3.4 annex R). Data sets in, UIDs out; patient data in them are not looked at.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO

from pydicom import Dataset
from pydicom.filereader import read_dataset

from ct.part10 import Unfit, is_uid, parsing
from node import dimse

MPPS = "1.2.840.10008.3.1.2.3.3"
"""Modality Performed Procedure Step SOP Class."""
INSTANCE_AVAILABILITY = "1.2.840.10008.5.1.4.33"
"""Instance Availability Notification SOP Class."""

LONGEST_ANNOUNCEMENT = 4 * 2**20
"""Bytes of a data set: some 20,000 images."""
_MOST_ITEMS = 40_000
_ITEM = b"\xfe\xff\x00\xe0"
"""Tag of a sequence item, Little Endian."""
NO_LONGER_UPDATED = 0xA710
"""Error ID (0000,0903) beside status 0110H: the step has ended (PS3.4 section F.7.2.2.2)."""


class Kind(StrEnum):
    """Who announces."""

    MPPS = "mpps"
    IAN = "ian"


class StepStatus(StrEnum):
    """Performed Procedure Step Status (0040,0252)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class RefusedError(ValueError):
    """The request is answered with this status. The text is constant and fits an Error Comment."""

    def __init__(self, status: int, comment: str, error_id: int | None = None) -> None:
        super().__init__(comment)
        self.status, self.error_id = status, error_id


@dataclass(frozen=True)
class Named:
    """The images of one series that were named, by SOP Instance UID."""

    images: tuple[str, ...]
    """They exist (MPPS), or can be had (IAN: ONLINE, NEARLINE)."""
    away: tuple[str, ...] = ()
    """They cannot be had now (IAN: OFFLINE, UNAVAILABLE)."""


@dataclass(frozen=True)
class Step:
    """What one MPPS message says."""

    status: StepStatus | None
    """None: it does not say."""
    series: Mapping[str, Named] | None
    """By Series Instance UID; None: it does not say."""
    study: str = ""
    """Study Instance UID of its images, if it is one CT study (N-CREATE)."""


@dataclass(frozen=True)
class Notification:
    """What an Instance Availability Notification says."""

    study: str
    """Study Instance UID."""
    series: Mapping[str, Named]
    """By Series Instance UID."""


def parse_step(encoded: bytes | bytearray, implicit: bool) -> Step:
    """The attribute list of an N-CREATE or N-SET, Little Endian (PS3.4 table F.7.2-1). Raises RefusedError."""
    data_set = _parse(encoded, implicit)
    status = _text(data_set, "PerformedProcedureStepStatus")
    if status and status not in tuple(StepStatus):
        raise RefusedError(dimse.INVALID_VALUE, "no such Performed Procedure Step Status")
    series = None
    if "PerformedSeriesSequence" in data_set:
        series = _merged(
            (_uid(item, "SeriesInstanceUID"), Named(tuple(_references(item, *_PERFORMED))))
            for item in _items(data_set, "PerformedSeriesSequence")
        )
    return Step(StepStatus(status) if status else None, series, _ct_study(data_set))


def _ct_study(data_set: Dataset) -> str:
    """The study of a CT step; empty if it has none, several, or is of another modality."""
    if _text(data_set, "Modality") != "CT":
        return ""
    steps = _items(data_set, "ScheduledStepAttributesSequence")
    studies = {_text(step, "StudyInstanceUID") for step in steps}
    study = studies.pop() if len(studies) == 1 else ""
    return study if is_uid(study) else ""


_PERFORMED = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")


def parse_availability(encoded: bytes | bytearray, implicit: bool) -> Notification:
    """An Instance Availability Notification, Little Endian (PS3.4 table R.3.2-1). Raises RefusedError."""
    data_set = _parse(encoded, implicit)
    study = _uid(data_set, "StudyInstanceUID")
    found = []
    for item in _required(data_set, "ReferencedSeriesSequence"):
        images: list[str] = []
        away: list[str] = []
        for reference in _required(item, "ReferencedSOPSequence"):
            _uid(reference, "ReferencedSOPClassUID")
            availability = _text(reference, "InstanceAvailability")
            if not _text(reference, "RetrieveAETitle"):
                raise RefusedError(dimse.MISSING_VALUE, "Retrieve AE Title of an instance is missing")
            if availability not in _HAD | _AWAY:
                status = dimse.INVALID_VALUE if availability else dimse.MISSING_VALUE
                raise RefusedError(status, "Instance Availability is missing or no such value")
            uid = _uid(reference, "ReferencedSOPInstanceUID")
            (images if availability in _HAD else away).append(uid)
        found.append((_uid(item, "SeriesInstanceUID"), Named(tuple(images), tuple(away))))
    return Notification(study, _merged(found))


_HAD, _AWAY = frozenset({"ONLINE", "NEARLINE"}), frozenset({"OFFLINE", "UNAVAILABLE"})


def _parse(encoded: bytes | bytearray, implicit: bool) -> Dataset:
    if encoded.count(_ITEM) > _MOST_ITEMS:  # empty ones would take the parser long
        raise RefusedError(dimse.RESOURCE_LIMITATION, "too many items")
    try:
        with parsing():
            return read_dataset(BytesIO(encoded), implicit, True)
    except Unfit as error:
        raise RefusedError(dimse.INVALID_VALUE, _UNPARSABLE) from error


_UNPARSABLE = "the data set cannot be parsed"


def _text(data_set: Dataset, keyword: str) -> str:
    try:
        with parsing():  # values are converted when they are asked for
            return str(data_set.get(keyword) or "").strip()
    except Unfit as error:
        raise RefusedError(dimse.INVALID_VALUE, _UNPARSABLE) from error


def _uid(data_set: Dataset, keyword: str) -> str:
    uid = _text(data_set, keyword)
    if not is_uid(uid):
        raise RefusedError(dimse.INVALID_VALUE if uid else dimse.MISSING_VALUE, f"{keyword} is missing or no UID")
    return uid


def _items(data_set: Dataset, keyword: str) -> list[Dataset]:
    try:
        with parsing():
            items = list(data_set.get(keyword) or ())
            if not all(isinstance(item, Dataset) for item in items):
                raise ValueError
            return items
    except Unfit as error:
        raise RefusedError(dimse.INVALID_VALUE, _UNPARSABLE) from error


def _required(data_set: Dataset, keyword: str) -> list[Dataset]:
    items = _items(data_set, keyword)
    if not items:
        status = dimse.MISSING_VALUE if keyword in data_set else dimse.MISSING_ATTRIBUTE
        raise RefusedError(status, f"{keyword} is missing or empty")
    return items


def _references(data_set: Dataset, *keywords: str) -> Iterable[str]:
    for keyword in keywords:
        for reference in _items(data_set, keyword):
            _uid(reference, "ReferencedSOPClassUID")
            yield _uid(reference, "ReferencedSOPInstanceUID")


def _merged(named: Iterable[tuple[str, Named]]) -> dict[str, Named]:
    """A series that was named more than once has the images of all; each image once."""
    found: dict[str, Named] = {}
    for uid, one in named:
        before = found.get(uid, Named(()))
        images, away = before.images + one.images, before.away + one.away
        found[uid] = Named(tuple(dict.fromkeys(images)), tuple(dict.fromkeys(away)))
    return found
