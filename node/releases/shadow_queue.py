"""What the release in shadow reads: each series after its results are written, as long as the queue is not full.

Rows of the database are the queue; messages only say that there is something. Whatever goes wrong here is counted and
logged, and touches no job.
"""

from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, exists, func, select, update
from sqlalchemy.orm import Session

from config import Reason
from node.records import Job, now
from node.releases.registry import in_shadow
from node.releases.rows import ShadowReading, ShadowState
from node.states import State

MOST_WAITING = 64
"""Series that wait to be read in shadow; further ones are skipped."""
_ATTEMPTS = 2
"""A second one for a series during which the process was lost; not a third."""
_WITH_RESULTS = (State.ENCODED, State.SENT, State.COMMITTED)


def enlist(session: Session) -> list[int]:
    """Put every job that got its results since the release came into shadow into the queue, or note that it is skipped,
    but for those that a rule keeps out of it; the ids of readings that may be done now. None may while a job waits to
    be read for its own sake.
    """
    release = in_shadow(session)
    if release is None:
        return []
    known = exists().where(ShadowReading.job_id == Job.id, ShadowReading.release_digest == release.digest)
    changed = session.execute(  # by the time of change alone, for which there is an index
        select(Job.id, Job.state).where(
            Job.changed_at >= release.changed_at, Job.release_digest != release.digest, Job.shadow, ~known
        )
    ).tuples()
    fresh = sorted(job_id for job_id, state in changed if state in _WITH_RESULTS)
    places = MOST_WAITING - _count(session, release.digest, ShadowState.WAITING)
    for number, job_id in enumerate(fresh):
        state = ShadowState.WAITING if number < places else ShadowState.SKIPPED
        session.add(ShadowReading(job_id=job_id, release_digest=release.digest, state=state))
    session.flush()
    if session.scalar(select(Job.id).where(Job.state == State.QUEUED).limit(1)) is not None:
        return []
    waiting = select(ShadowReading.id).where(
        ShadowReading.release_digest == release.digest, ShadowReading.state == ShadowState.WAITING
    )
    return list(session.scalars(waiting.order_by(ShadowReading.id).limit(_AT_ONCE)))


_AT_ONCE = 4
"""Messages sent to an empty queue."""


def take(session: Session, reading_id: int) -> ShadowReading | None:
    """WAITING -> RUNNING; None if it does not wait, if its release is not in shadow (any more), or if a job waits."""
    release = in_shadow(session)
    if release is None or session.scalar(select(Job.id).where(Job.state == State.QUEUED).limit(1)) is not None:
        return None
    statement = (
        update(ShadowReading)
        .where(ShadowReading.id == reading_id, ShadowReading.state == ShadowState.WAITING)
        .where(ShadowReading.release_digest == release.digest)
        .values(state=ShadowState.RUNNING, changed_at=now(), attempts=ShadowReading.attempts + 1)
        .execution_options(synchronize_session=False)
    )
    if cast("CursorResult[Any]", session.execute(statement)).rowcount != 1:
        return None
    return session.get_one(ShadowReading, reading_id, populate_existing=True)


def done(session: Session, reading_id: int, reading: dict[str, Any]) -> None:
    """RUNNING -> DONE."""
    row = session.get_one(ShadowReading, reading_id)
    row.state, row.changed_at, row.reading = ShadowState.DONE, now(), reading
    row.reason, row.detail = None, ""


def failed(session: Session, reading_id: int, reason: Reason, detail: str) -> None:
    """RUNNING -> FAILED; it is not tried again."""
    row = session.get_one(ShadowReading, reading_id)
    row.state, row.changed_at, row.reason, row.detail = ShadowState.FAILED, now(), reason, detail[:1000]


def give_back(session: Session, before: datetime | None = None) -> int:
    """RUNNING since before that time (None: all) -> WAITING, or FAILED after the last attempt; how many.

    For a process that starts. That of another machine may lose its reading by it, which is then done twice.
    """
    lost = select(ShadowReading).where(ShadowReading.state == ShadowState.RUNNING)
    rows = session.scalars(lost if before is None else lost.where(ShadowReading.changed_at < before)).all()
    for row in rows:
        if row.attempts < _ATTEMPTS:
            row.state, row.changed_at = ShadowState.WAITING, now()
        else:
            failed(session, row.id, Reason.ATTEMPTS_EXHAUSTED, "the process was lost (out of the machine's memory?)")
    return len(rows)


def progress(session: Session, digest: str) -> dict[ShadowState, int]:
    """Readings of a release by state."""
    return {state: _count(session, digest, state) for state in ShadowState}


def _count(session: Session, digest: str, state: ShadowState) -> int:
    query = select(func.count()).select_from(ShadowReading)
    return session.scalar(query.where(ShadowReading.release_digest == digest, ShadowReading.state == state)) or 0
