"""The whole node at a glance: counts, what is ill, disk, workers."""

import os
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config import Settings
from node.console.processes import siblings
from node.console.queries import Queries, states
from node.console.views import Disk, Lease, Overview, WorklistRow
from node.records import Delivery, Job, Result, Series, Unreadable, WorklistContact, now
from node.states import State
from node.worklist import claims

SHOWN = 10
"""Series in each of the two lists."""
_LEASES = 64
"""Workers shown at most."""


def overview(queries: Queries) -> Overview:
    """Raises sqlalchemy.exc.SQLAlchemyError."""
    settings = queries.settings
    disk, processes = spool_disk(settings), siblings()
    with queries.records.reading() as session:
        oldest = session.scalar(select(func.min(Job.created_at)).where(Job.state == State.QUEUED))
        counts = states(session)
        return Overview(
            ae_title=settings.dicom.ae_title,
            at=now(),
            states=counts,
            queued=counts[State.QUEUED],
            oldest_queued_at=oldest,
            deliveries_waiting=_deliveries_waiting(session),
            unreadable=session.scalar(select(func.count()).select_from(Unreadable)) or 0,
            last_image_at=session.scalar(select(func.max(Series.last_at))),
            disk=disk,
            processes=processes,
            leases=_leases(session),
            worklists=_worklists(session, settings),
            attention=queries.attention(session, SHOWN),
            newest=queries.newest(session, SHOWN),
        )


def spool_disk(settings: Settings) -> Disk:
    """The disk of the spool, and whether it takes writes."""
    low_water = settings.dicom.min_free_mb * 2**20
    free, total = _space(settings.spool_dir)
    return Disk(free_bytes=free, total_bytes=total, low_water_bytes=low_water, writable=_writable(settings.spool_dir))


def _space(folder: Path) -> tuple[int | None, int | None]:
    try:
        status = os.statvfs(folder)
    except OSError:
        return None, None
    return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize


def _writable(folder: Path) -> bool:
    try:
        return os.access(folder, os.W_OK | os.X_OK) and not os.statvfs(folder).f_flag & os.ST_RDONLY
    except OSError:
        return False


def _deliveries_waiting(session: Session) -> int:
    waiting = select(func.count(Delivery.id)).join(Result).join(Job)
    is_open = (Delivery.sent_at.is_(None), Delivery.refused.is_(False), Job.state == State.ENCODED)
    return session.scalar(waiting.where(*is_open)) or 0


def _leases(session: Session) -> list[Lease]:
    query = select(Job.lease_owner, Job.id, Job.series_id, Job.changed_at, Job.lease_expires)
    held = query.where(Job.state == State.RUNNING, Job.lease_expires.is_not(None)).order_by(Job.id).limit(_LEASES)
    return [
        Lease(worker=worker, job_id=job_id, series_id=series_id, since=since, expires=expires)
        for worker, job_id, series_id, since, expires in session.execute(held).tuples()
        if expires is not None
    ]


def _worklists(session: Session, settings: Settings) -> list[WorklistRow]:
    found = []
    for name, worklist in settings.worklists.items():
        contact, counts = session.get(WorklistContact, name), claims.counts(session, name)
        held = sum(counts.get(phase, 0) for phase in claims.OPEN)
        seen_at, reason = (None, None) if contact is None else (contact.seen_at, contact.reason)
        found.append(WorklistRow(name=name, where=worklist.where, held=held, seen_at=seen_at, reason=reason))
    return found
