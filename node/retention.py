"""When a spool segment may go: nothing in it is needed by a series that is not done. `fvlm-node clean` calls this.

What went is remembered, so that images which come later are never taken for the whole series.
"""

import hashlib
from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path

import structlog
from sqlalchemy import ColumnElement, and_, delete, exists, or_, select, update
from sqlalchemy.orm import Session

from config import Reason
from node.database import Records
from node.records import Instance, Job, SegmentSeries, Series, SpoolSegment, Unreadable, now
from node.result_retention import Candidate, unkept
from node.spool import SegmentBusyError, remove
from node.states import State

_log = structlog.get_logger(__name__)

_MARK = 8
"""Bytes of the mark of an image: the beginning of the SHA-256 of its SOP Instance UID."""
DONE = (State.SENT, State.COMMITTED, State.SUPERSEDED)
"""Jobs in these states need their images no more, SENT ones when everything is committed that is asked for (see
`node.result_retention`). FAILED and QUARANTINED ones may be run again."""


def release_segments(
    records: Records, spool_dir: Path, before: datetime, asked: Collection[str] = frozenset()
) -> list[str]:
    """Delete the segments whose series were all done before a time; the names of the deleted ones.

    `asked`: names of the destinations that are asked for commitment.

    First the row says so, then the file goes, then its instance rows: a crash in between is made good by the next
    call, and a released segment is never read again. An instance that is sent again later counts as new. Raises
    OSError, sqlalchemy.exc.DBAPIError.
    """
    with records.session() as session:
        marked = update(SpoolSegment).where(_unneeded(before, asked)).values(released_at=now())
        session.execute(marked, execution_options={"synchronize_session": False})
    with records.reading() as session:
        indexed = exists().where(Instance.segment == SpoolSegment.name)
        released = select(SpoolSegment.name, indexed).where(SpoolSegment.released_at.is_not(None))
        rows = session.execute(released.order_by(SpoolSegment.name)).tuples().all()
    deleted = []
    for name, has_rows in rows:
        if has_rows or (spool_dir / name).exists():
            try:
                remove(spool_dir / name)
            except SegmentBusyError:
                continue  # somebody looks at it; the next call deletes it
            with records.session() as session:
                _forget(session, name)
            _log.info("segment_released", segment=name)
            deleted.append(name)
    return deleted


def missing_images(session: Session, series: Series, present: Iterable[str]) -> int:
    """How many images of a series, up to this generation, were deleted and are not `present` (SOP Instance UIDs)."""
    generations = select(Series.released).where(
        Series.series_instance_uid == series.series_instance_uid, Series.generation <= series.generation
    )
    marks = b"".join(released for released in session.scalars(generations) if released)
    deleted = {marks[at : at + _MARK] for at in range(0, len(marks), _MARK)}
    return len(deleted - {_mark(uid) for uid in present})


def _forget(session: Session, segment: str) -> None:
    """Delete the instance rows of a segment that is gone; their series keep a mark of each image."""
    rows = select(Instance.series_id, Instance.sop_instance_uid).where(Instance.segment == segment, ~Instance.conflict)
    marks: dict[int, bytes] = {}
    for series_id, uid in session.execute(rows):
        marks[series_id] = marks.get(series_id, b"") + _mark(uid)
    for series_id, added in marks.items():
        series = session.get_one(Series, series_id, with_for_update=True)
        series.released = (series.released or b"") + added
    session.execute(delete(Instance).where(Instance.segment == segment))
    session.execute(delete(SegmentSeries).where(SegmentSeries.segment == segment))


def _mark(sop_instance_uid: str) -> bytes:
    return hashlib.sha256(sop_instance_uid.encode()).digest()[:_MARK]


def segment_candidates(session: Session, spool_dir: Path, before: datetime, asked: Collection[str]) -> list[Candidate]:
    """What `release_segments` would delete, and why the other sealed segments stay. Raises OSError."""
    going = set(session.scalars(select(SpoolSegment.name).where(_unneeded(before, asked))))
    rest = session.scalars(select(SpoolSegment.name).where(SpoolSegment.released_at.is_(None)))
    found = []
    for name in sorted(rest):
        path = spool_dir / name
        size = path.stat().st_size if path.exists() else 0
        found.append(Candidate(f"segment {name}", size, "" if name in going else _why(session, name, before, asked)))
    return found


def _why(session: Session, segment: str, before: datetime, asked: Collection[str]) -> str:
    """What needs a segment, the first thing that is found."""
    if not session.scalar(select(SpoolSegment.sealed).where(SpoolSegment.name == segment)):
        return "it is still being written or indexed"
    here = select(Series.series_instance_uid).join(Instance).where(Instance.segment == segment)
    query = (
        select(Series.id, Series.state, Job.id, Job.state, Job.reason, unkept(asked).label("missing"))
        .outerjoin(Job)
        .where(Series.series_instance_uid.in_(here), _waiting(before, asked))
        .order_by(Series.id)
    )
    row = session.execute(query.limit(1)).tuples().first()
    if row is None:
        return "something unreadable in it is too young"
    series_id, state, job_id, job_state, reason, missing = row
    if job_id is None:
        return f"series {series_id} is {state}" if state != State.REJECTED else f"series {series_id} is too young"
    if job_state not in DONE:
        return f"job {job_id} is {job_state}" + (f" ({Reason(reason)})" if reason else "")
    if missing and job_state == State.SENT:
        return f"job {job_id} is not committed: {reason or 'waits for the answer'}"
    return f"job {job_id} is too young"


def _waiting(before: datetime, asked: Collection[str]) -> ColumnElement[bool]:
    return or_(
        Series.state.in_((State.RECEIVING, State.COMPLETE)),
        and_(Series.state == State.VETTED, Job.id.is_(None)),
        Job.state.not_in(DONE),
        and_(Job.state == State.SENT, unkept(asked)),
        Series.changed_at >= before,
        Job.changed_at >= before,
    )


def _unneeded(before: datetime, asked: Collection[str]) -> ColumnElement[bool]:
    """Sealed, and every series with an instance in it is done, in all its generations, and was so before the time."""
    waiting = _waiting(before, asked)
    needed_series = select(Series.series_instance_uid).outerjoin(Job).where(waiting)
    needed = select(Instance.segment).join(Series).where(Series.series_instance_uid.in_(needed_series))
    recent = select(Unreadable.segment).where(Unreadable.received_at >= before)
    return and_(
        SpoolSegment.sealed,
        SpoolSegment.released_at.is_(None),
        SpoolSegment.name.not_in(needed),
        SpoolSegment.name.not_in(recent),
    )
