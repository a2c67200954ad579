"""What there is to do: counted once at the start of the reconciler, so that the log says what a crash has left."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from node.records import Delivery, Job, Result, SpoolSegment, now
from node.spool import SegmentReader, segments
from node.states import State


@dataclass(frozen=True)
class Survey:
    """Counts."""

    queued: int
    """Jobs that wait."""
    running: int
    """Jobs with a lease, expired or not."""
    expired: int
    """Of these, jobs whose lease has expired."""
    due: int
    """Deliveries that are due now."""
    segments: int
    """Spool segments that hold something which is not in the index."""


def survey(session: Session, spool_dir: Path) -> Survey:
    """Count. Raises sqlalchemy.exc.DBAPIError."""
    jobs = select(Job.state, func.count()).where(Job.state.in_((State.QUEUED, State.RUNNING))).group_by(Job.state)
    count = dict(session.execute(jobs).tuples().all())
    expired = select(func.count(Job.id)).where(Job.state == State.RUNNING, Job.lease_expires <= now())
    waiting = select(func.count()).select_from(Delivery).join(Result).join(Job).where(Job.state == State.ENCODED)
    due = waiting.where(Delivery.sent_at.is_(None), Delivery.refused.is_(False), Delivery.due_at <= now())
    return Survey(
        queued=count.get(State.QUEUED, 0),
        running=count.get(State.RUNNING, 0),
        expired=session.scalar(expired) or 0,
        due=session.scalar(due) or 0,
        segments=_unindexed(session, spool_dir),
    )


def _unindexed(session: Session, spool_dir: Path) -> int:
    marks = {row.name: row for row in session.scalars(select(SpoolSegment))}
    found = 0
    for path in segments(spool_dir):
        mark = marks.get(path.name)
        if mark is not None and (mark.sealed or mark.released_at is not None):
            continue
        try:
            with SegmentReader(path) as reader:
                found += reader.record_at(mark.indexed_to if mark else 0) is not None
        except OSError:
            continue  # gone or unreadable: the indexer says so
    return found
