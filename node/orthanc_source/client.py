"""Orthanc's REST interface, as much of it as is needed. What it answers is looked at before it is believed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from config import Reason
from node.http_peer import HttpPeer, PeerError

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_AT_ONCE = 1000
"""Changes in one answer."""
NEW_INSTANCE, STABLE_SERIES = "NewInstance", "StableSeries"


def is_orthanc_id(text: str) -> bool:
    """Whether it can be Orthanc's own name of something."""
    return _ID.fullmatch(text) is not None


@dataclass(frozen=True)
class Change:
    """One line of Orthanc's list of changes."""

    seq: int
    kind: str
    """`NEW_INSTANCE`, `STABLE_SERIES`, or another."""
    resource: str
    """Orthanc's own name of it."""
    at: datetime
    """By Orthanc's clock, taken as UTC."""


@dataclass(frozen=True)
class OrthancSeries:
    """A series as Orthanc has it."""

    uid: str
    """Series Instance UID."""
    modality: str
    stable: bool
    """Nothing has come for Orthanc's StableAge, or since it was started."""
    instances: tuple[str, ...]
    """Orthanc's own names of its instances."""


@dataclass(frozen=True)
class OrthancInstance:
    """An instance as Orthanc has it."""

    name: str
    """Orthanc's own."""
    sop_instance_uid: str
    """As it stands there: it may be none."""
    size: int
    """Bytes of its file, uncompressed."""
    file_uuid: str
    """Name of the file in Orthanc's storage; empty if Orthanc does not say."""


class OrthancClient:
    """Every method raises PeerError: PEER_REFUSED with `status` 404 if Orthanc does not have it."""

    def __init__(self, peer: HttpPeer) -> None:
        self.peer = peer

    def changes(self, since: int) -> tuple[list[Change], int]:
        """What follows `since`, in order, at most 1000; and up to which number that is."""
        with _answer():
            found = self.peer.json("changes", {"since": since, "limit": _AT_ONCE})
            changes = [
                Change(
                    int(one["Seq"]),
                    str(one["ChangeType"]),
                    _name(one["ID"]),
                    datetime.strptime(one["Date"], "%Y%m%dT%H%M%S").replace(tzinfo=UTC),
                )
                for one in found["Changes"]
                if one["ChangeType"] in (NEW_INSTANCE, STABLE_SERIES)
            ]
            return changes, max(int(found["Last"]), since)

    def last_change(self) -> int:
        """The number of the newest change; 0 if there is none."""
        with _answer():
            return int(self.peer.json("changes", {"last": ""})["Last"])

    def series_of(self, instance: str) -> str:
        """Orthanc's own name of the series of an instance."""
        with _answer():
            return _name(self.peer.json(f"instances/{instance}")["ParentSeries"])

    def series(self, name: str) -> OrthancSeries:
        with _answer():
            found = self.peer.json(f"series/{name}")
            tags = found["MainDicomTags"]
            uid, modality = str(tags.get("SeriesInstanceUID", "")), str(tags.get("Modality", "")).strip()
            return OrthancSeries(uid, modality, bool(found["IsStable"]), tuple(map(_name, found["Instances"])))

    def instances(self, name: str) -> list[OrthancInstance]:
        """The instances of a series."""
        with _answer():
            return [
                OrthancInstance(
                    _name(one["ID"]),
                    str(one["MainDicomTags"].get("SOPInstanceUID", "")).strip(),
                    int(one["FileSize"]),
                    found if _UUID.fullmatch(found := str(one.get("FileUuid", ""))) else "",
                )
                for one in self.peer.json(f"series/{name}/instances")
            ]

    def md5(self, name: str) -> str:
        """Of the file of an instance, uncompressed, hex."""
        with _answer():
            return str(self.peer.json(f"instances/{name}/attachments/dicom/info")["UncompressedMD5"])


@contextmanager
def _answer() -> Iterator[None]:
    """An answer that is not Orthanc's is raised as PeerError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise PeerError(Reason.PEER_REFUSED, "the answer is not one of Orthanc") from error


def _name(value: Any) -> str:
    if not is_orthanc_id(str(value)):
        raise ValueError("not a name of Orthanc's")
    return str(value)
