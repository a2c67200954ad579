"""A series of an Orthanc into the spool: several images at once, each through the one door, none twice."""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from config import Reason, Settings
from config.inlet_settings import OrthancSource
from ct.part10 import is_uid
from node.database import Records
from node.fetch_pool import Refusal, fetch_all, refusal
from node.http_peer import PeerError
from node.intake import Intake, IntakeSession, Refused, Stored
from node.kept import kept
from node.manifest import announce
from node.orthanc_source.client import OrthancClient, OrthancInstance
from node.part10_stream import Part10Stream, accepted_classes

_log = structlog.get_logger(__name__)

_READ = 2**20


@dataclass(frozen=True)
class Fetched:
    """What became of a series."""

    instances: tuple[str, ...] = ()
    """Orthanc's names of all its instances."""
    images: int = 0
    """Fetched now."""
    reason: Reason | None = None
    """Why it is not in the spool as a whole, though the archive and the node both work."""
    detail: str = ""


class SeriesFetch:
    """Fetches from one Orthanc."""

    def __init__(
        self,
        name: str,
        source: OrthancSource,
        client: OrthancClient,
        records: Records,
        settings: Settings,
        ended: threading.Event,
    ) -> None:
        """`ended`: stop where it is. Raises OSError if there is no spool."""
        self._ended = ended
        self._name, self._source, self._client = name, source, client
        self._records, self._settings = records, settings
        self._intake = Intake(settings.spool_dir, settings.dicom.min_free_mb * 2**20)
        self._classes = accepted_classes(settings)
        self._longest = settings.web.max_object_mb * 2**20

    def fetch(self, series: str) -> Fetched:
        """Everything of a CT series that is not in the spool yet; what is Stored stays if something fails.

        Raises PeerError, OSError, sqlalchemy.exc.DBAPIError: try again later; StoppedError.
        """
        try:
            found = self._client.series(series)
            if found.modality != "CT":
                return Fetched(found.instances, reason=Reason.NOT_CT, detail=Reason.NOT_CT.meaning)
            instances = self._client.instances(series)
        except PeerError as error:
            if not error.lasting:
                raise
            return Fetched(reason=Reason.GONE_AT_SOURCE, detail=error.detail)
        if not (is_uid(found.uid) and all(is_uid(one.sop_instance_uid) for one in instances)):
            names = tuple(one.name for one in instances)
            return Fetched(names, reason=Reason.BAD_UID, detail="a UID of the series or its images is none")
        spool_dir = self._settings.spool_dir
        uids = [one.sop_instance_uid for one in instances]
        announce(spool_dir, self._name, self._source.ae_title, found.uid, uids)
        with self._records.reading() as session:
            there = kept(session, spool_dir, uids)
        missing = [one for one in instances if one.sop_instance_uid not in there]
        calling, called = self._source.ae_title, self._settings.dicom.ae_title
        refused = fetch_all(self._intake, calling, called, missing, self._source.at_once, self._fetch_one, self._ended)
        images = len(uids) - len(there) - len(refused)
        _log.info("series_fetched", source=self._name, images=images, known=len(there), refused=len(refused))
        reason, detail = refused[0] if refused else (None, "")
        names = tuple(one.name for one in instances)
        return Fetched(names, images, reason, f"{detail} ({len(refused)} images)" if detail else "")

    def _fetch_one(self, session: IntakeSession, instance: OrthancInstance) -> Refusal | None:
        """Why it is not Stored. Raises PeerError, OSError."""
        answer = self._copy(session, instance) if self._source.storage_dir is not None else None
        if answer is None:
            stream = self._stream(session, instance)
            try:
                self._client.peer.fetch(
                    f"instances/{instance.name}/file", "application/dicom", lambda _: stream.write, self._longest
                )
            except PeerError as error:
                if not error.lasting:
                    raise
                return Reason.GONE_AT_SOURCE, error.detail
            answer = stream.finish()
        return refusal(answer)

    def _copy(self, session: IntakeSession, instance: OrthancInstance) -> Stored | Refused | None:
        """Out of Orthanc's storage; None if what lies there is not what Orthanc says it is, or nothing lies there."""
        if not instance.file_uuid or self._source.storage_dir is None:
            return None
        uuid = instance.file_uuid
        path = self._source.storage_dir / uuid[:2] / uuid[2:4] / uuid
        digest = hashlib.md5(usedforsecurity=False)
        stream = self._stream(session, instance)
        with suppress(OSError):
            for piece in _pieces(path, instance.size):
                digest.update(piece)
                stream.write(piece)
            if digest.hexdigest() == self._client.md5(instance.name):
                return stream.finish()
        return None

    def _stream(self, session: IntakeSession, instance: OrthancInstance) -> Part10Stream:
        return Part10Stream(session, self._classes, self._longest, instance=instance.sop_instance_uid)


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """Raises OSError if it cannot be read, or is compressed or another file: its size is not that of the image."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_size != size:
            raise OSError(0, "not of the size that Orthanc says")
        while piece := file.read(_READ):
            yield piece
