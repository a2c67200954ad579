"""Announcements (MPPS, IAN) as small files in the spool, durable before they are answered with success.

So they outlive a crash and a database that is away. `announced/TOKEN.series` waits for the indexer, which takes it into
the database (`node.announced_rows`); `announced/known/TOKEN.json` is what the next message about the same SOP instance
is answered by, from whichever process. Names are made by the node, never by a peer.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from node import dimse
from node.announced import NO_LONGER_UPDATED, Kind, Named, RefusedError, Step, StepStatus
from node.durable import write_durably
from node.spool import sync_folder

ANNOUNCED_FOLDER = "announced"
"""In the spool."""
KEPT_S = 30 * 86400.0
"""How long an announcement is remembered after its last message, seconds."""
_SERIES = ".series"


@dataclass(frozen=True)
class Announcement:
    """What one SOP instance announces, when it has said its last word."""

    token: str
    """Named by the node."""
    kind: Kind
    calling_ae: str
    discontinued: bool
    """An MPPS that ended as DISCONTINUED: nothing is to be waited for."""
    received_at: datetime
    series: Mapping[str, Named]
    """By Series Instance UID."""
    study: str = ""
    """Study Instance UID, if it is known and a study may be fetched for it."""


class AnnouncementFiles:
    """The announcements of one spool. From any process."""

    def __init__(self, spool_dir: Path) -> None:
        self.folder = spool_dir / ANNOUNCED_FOLDER

    def create_step(self, uid: str, step: Step) -> None:
        """N-CREATE of an MPPS. Raises RefusedError, OSError."""
        if step.status is None:
            raise RefusedError(dimse.MISSING_ATTRIBUTE, "Performed Procedure Step Status is missing")
        if step.status != StepStatus.IN_PROGRESS:
            raise RefusedError(dimse.INVALID_VALUE, "a step is created IN PROGRESS")
        token = _token(Kind.MPPS, uid)
        with self._alone():
            if self._known(token) is not None:
                raise RefusedError(dimse.DUPLICATE_INSTANCE, "this step exists")
            self._remember(token, step.status, step.series, step.study)

    def set_step(self, uid: str, calling_ae: str, step: Step) -> StepStatus:
        """N-SET of an MPPS; its status now. Raises RefusedError, OSError."""
        token = _token(Kind.MPPS, uid)
        with self._alone():
            known = self._known(token)
            if known is None:
                raise RefusedError(dimse.NO_SUCH_INSTANCE, "no such step was created here")
            before, series, study = known
            if before != StepStatus.IN_PROGRESS:
                comment = "Performed Procedure Step Object may no longer be updated"
                raise RefusedError(dimse.PROCESSING_FAILURE, comment, NO_LONGER_UPDATED)
            series = series if step.series is None else step.series
            status = step.status or before
            if status == StepStatus.COMPLETED and not series:
                missing = dimse.MISSING_ATTRIBUTE if series is None else dimse.MISSING_VALUE
                raise RefusedError(missing, "COMPLETED without a Performed Series Sequence")
            if (
                status != StepStatus.IN_PROGRESS
            ):  # before it is known to have ended: a crash leaves it open to repetition
                self._announce(token, Kind.MPPS, calling_ae, status == StepStatus.DISCONTINUED, series or {}, study)
            self._remember(token, status, series, study)
        return status

    def create_notification(self, uid: str, calling_ae: str, series: Mapping[str, Named], study: str = "") -> None:
        """N-CREATE of an Instance Availability Notification. Raises RefusedError, OSError."""
        token = _token(Kind.IAN, uid)
        with self._alone():
            if self._known(token) is not None:
                raise RefusedError(dimse.DUPLICATE_INSTANCE, "this notification was given before")
            self._announce(token, Kind.IAN, calling_ae, False, series, study)
            self._remember(token, StepStatus.COMPLETED, None)

    def waiting(self) -> list[str]:
        """Tokens of what is not in the database yet."""
        return sorted(path.stem for path in self.folder.glob(f"*{_SERIES}"))

    def load(self, token: str) -> Announcement:
        """What waits. Raises OSError, ValueError if the file is damaged."""
        read = json.loads(self._path(token).read_bytes())
        try:
            kind, calling = Kind(read["kind"]), str(read["calling_ae"])
            received, study = datetime.fromisoformat(read["received_at"]), str(read.get("study", ""))
            series = _named(read["series"])
            return Announcement(token, kind, calling, bool(read["discontinued"]), received, series, study)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not an announcement") from error

    def taken(self, token: str) -> None:
        """It is in the database: remove it, and forget what is old. Raises OSError."""
        self._path(token).unlink(missing_ok=True)
        with suppress(FileNotFoundError), os.scandir(self.folder / "known") as entries:
            for entry in entries:
                if entry.stat().st_mtime < time.time() - KEPT_S:
                    Path(entry.path).unlink(missing_ok=True)

    def put_aside(self, token: str) -> None:
        """Keep a damaged file out of the way, for a person to look at. Raises OSError."""
        self._path(token).rename(self.folder / f"{token}.damaged")

    def _announce(
        self, token: str, kind: Kind, calling_ae: str, discontinued: bool, series: Mapping[str, Named], study: str
    ) -> None:
        content = {
            "kind": kind,
            "calling_ae": calling_ae,
            "discontinued": discontinued,
            "received_at": datetime.now(UTC).isoformat(),
            "series": _listed(series),
            "study": study,
        }
        write_durably(self._path(token), json.dumps(content))

    def _known(self, token: str) -> tuple[StepStatus, Mapping[str, Named] | None, str] | None:
        """Status, series and study of a SOP instance; None if nobody told of it.

        Raises OSError; RefusedError if it is damaged.
        """
        try:
            read = json.loads(self._known_path(token).read_bytes())
            series, study = read["series"], str(read.get("study", ""))
            return StepStatus(read["status"]), None if series is None else _named(series), study
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RefusedError(dimse.PROCESSING_FAILURE, "what is known of the step is damaged") from error

    def _remember(self, token: str, status: StepStatus, series: Mapping[str, Named] | None, study: str = "") -> None:
        if status != StepStatus.IN_PROGRESS:
            series = None  # nobody asks any more
        content = {"status": status, "series": None if series is None else _listed(series), "study": study}
        write_durably(self._known_path(token), json.dumps(content))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process looks and writes meanwhile."""
        known = self.folder / "known"
        if not known.exists():
            known.mkdir(parents=True, exist_ok=True)
            sync_folder(self.folder)
            sync_folder(self.folder.parent)
        descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, token: str) -> Path:
        return self.folder / f"{token}{_SERIES}"

    def _known_path(self, token: str) -> Path:
        return self.folder / "known" / f"{token}.json"


def _token(kind: Kind, uid: str) -> str:
    return f"{kind}-{hashlib.sha256(uid.encode()).hexdigest()[:32]}"


def _listed(series: Mapping[str, Named]) -> dict[str, Any]:
    return {uid: [list(named.images), list(named.away)] for uid, named in series.items()}


def _named(read: Any) -> dict[str, Named]:
    return {str(uid): Named(tuple(map(str, images)), tuple(map(str, away))) for uid, (images, away) in read.items()}
