"""Studies that are announced are fetched from an archive: Instance Availability Notification, MPPS COMPLETED.

The wish is written in the transaction that takes the announcement, so it outlives every process. A study is fetched as
`fvlm-node pull` does: what is in the spool already is not fetched again, so a repeat does no harm.
"""

import itertools
from threading import Event

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, undefer

from config import Reason, Settings
from node import outbox
from node.announced import Kind
from node.announced_files import Announcement
from node.bell import bell_file, ring
from node.database import Records
from node.kept import kept
from node.records import AnnouncedSeries, PullWish, now
from node.retrieve.plan import Retrieved, RetrieveError

_log = structlog.get_logger(__name__)

_LOOK_S = 1.0
"""Seconds between two looks at what is due."""
_MOST_ATTEMPTS = 15
"""With the waits of `delivery` some two hours; then a person has to ask (`fvlm-node pull`)."""


def wish(settings: Settings, session: Session, announcement: Announcement) -> None:
    """Note the study of an announcement, if its sender's are to be fetched. Repeated announcements are one wish."""
    source = settings.source_of(announcement.calling_ae)
    if source is None or source.pull_from is None or not announcement.study or announcement.discontinued:
        return
    if not any(named.images for named in announcement.series.values()):
        return
    query = select(PullWish).filter_by(source=source.pull_from, study_instance_uid=announcement.study)
    row = session.scalars(query.with_for_update()).one_or_none()
    if row is None:
        row = PullWish(source=source.pull_from, study_instance_uid=announcement.study, token="")
        session.add(row)
    if row.token != announcement.token:
        row.token, row.due_at, row.attempts = announcement.token, now(), 0
        row.ended_at, row.reason, row.detail = None, None, ""


class Puller:
    """Fetches one study after the other. Run in one thread."""

    def __init__(self, records: Records, settings: Settings) -> None:
        self._records, self._settings = records, settings

    def run(self, ended: Event) -> None:
        """Until `ended`; a database that is away is waited for."""
        away = False
        while not ended.wait(_LOOK_S):
            try:
                while not ended.is_set() and self.once():
                    pass
                away = False
            except DBAPIError as error:
                if not away:
                    _log.warning("database_away", error=type(error.orig).__name__)
                away = True
            except Exception:  # it is tried again
                _log.exception("unexpected_error")

    def once(self) -> bool:
        """Fetch the study that has waited longest; False if none is due. Raises sqlalchemy.exc.DBAPIError."""
        due = select(PullWish).where(PullWish.ended_at.is_(None), PullWish.due_at <= now())
        with self._records.reading() as session:
            row = session.scalars(due.order_by(PullWish.due_at).limit(1)).first()
        if row is None:
            return False
        reason, detail = self._fetch(row)
        with self._records.session() as session:
            held = session.get_one(PullWish, row.id, with_for_update=True)
            if held.token == row.token:  # else it was announced anew meanwhile, and is fetched again
                self._note(held, reason, detail)
        ring(bell_file(self._settings.spool_dir))
        return True

    def _fetch(self, row: PullWish) -> tuple[Reason | None, str]:
        """Why the study is not there as a whole; None: it is."""
        source = self._settings.sources.get(row.source)
        if source is None:
            return Reason.GONE_AT_SOURCE, "the source has left the settings"
        if source.dicomweb_url:
            from node.retrieve.dicomweb import pull
        else:
            from node.retrieve.dimse import pull
        try:
            found = pull(self._settings, self._records, row.source, source, row.study_instance_uid, lambda *_: None)
        except RetrieveError as error:
            return error.reason, str(error)
        except OSError as error:
            return Reason.SPOOL_FAILED, error.strerror or type(error).__name__
        _log.info("study_pulled", source=row.source, images=found.fetched, known=found.known)
        return self._missing(row, found)

    def _missing(self, row: PullWish, found: Retrieved) -> tuple[Reason | None, str]:
        """An archive may list less than a modality has made: it is still on its way there."""
        if found.problems:
            return Reason.GONE_AT_SOURCE, "; ".join(itertools.islice(sorted(set(found.problems)), 3))
        query = (
            select(AnnouncedSeries).filter_by(token=row.token, kind=Kind.MPPS).options(undefer(AnnouncedSeries.images))
        )
        with self._records.reading() as session:
            rows = [one for one in session.scalars(query) if one.series_instance_uid not in found.others]
            named = {uid for one in rows for uid in one.images}
            missing = len(named) - len(kept(session, self._settings.spool_dir, named))
        if missing:
            return (
                Reason.GONE_AT_SOURCE,
                f"the archive does not have {missing} of the {len(named)} images that were made",
            )
        return None, ""

    def _note(self, row: PullWish, reason: Reason | None, detail: str) -> None:
        row.attempts += 1
        row.reason, row.detail = reason, detail[:1000]
        if reason is None or row.attempts >= _MOST_ATTEMPTS:
            row.ended_at = now()
        row.due_at = outbox.next_attempt(row.attempts, self._settings.delivery)
        if reason is not None:
            log = _log.error if row.ended_at else _log.warning
            log("study_not_pulled", source=row.source, reason=reason, detail=detail, attempts=row.attempts)
