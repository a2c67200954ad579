"""The one routing rule: a vetted CT series becomes one job a release, and takes the place of its older generations."""

from collections.abc import Callable

import structlog
from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from config import Priority
from node.database import Records
from node.records import Job, Series
from node.releases import registry
from node.states import TRANSITIONS, State

_log = structlog.get_logger(__name__)


def job_for(session: Session, series: Series, release_digest: str, priority: Priority = Priority.ROUTINE) -> Job:
    """The job of a VETTED series and a release; made if there is none, which supersedes the older generations.

    It is at least as urgent as their jobs were, so that what a person has made urgent stays so when late images come.
    The size of the series (`settings.routing.min_slices`, `max_slices`) was judged at vetting. Raises ValueError if
    the series is in another state.
    """
    if series.state != State.VETTED:
        raise ValueError(f"series {series.id} is {series.state}, not VETTED")
    job = session.scalar(select(Job).where(Job.series_id == series.id, Job.release_digest == release_digest))
    if job is None:
        of_older = session.scalar(select(func.min(Job.priority)).join(Series).where(_older(series)))
        priority = priority if of_older is None else Priority(min(priority, of_older))
        job = Job(series=series, release_digest=release_digest, state=State.QUEUED, priority=int(priority))
        session.add(job)
        session.flush()
        _supersede_older(session, series)
        _log.info("job_queued", job=job.id, series=series.id, generation=series.generation, priority=priority.label)
    return job


def routine(_: Session, __: Series) -> Priority:
    """Everything is routine."""
    return Priority.ROUTINE


def route(
    records: Records, release_digest: str, priority_of: Callable[[Session, Series], Priority] = routine
) -> list[int]:
    """A job for each VETTED series that never had one; their ids. A new release alone does not read old series again.

    It is bound to the release of its study if that was begun, else to the one in force (`node.releases.registry`),
    which is `release_digest` where the database knows none.

    `priority_of` is asked outside of the transaction that writes: it may look into the images. Raises
    sqlalchemy.exc.DBAPIError.
    """
    query = select(Series).where(Series.state == State.VETTED, ~exists().where(Job.series_id == Series.id))
    with records.reading() as session:
        priorities = {row.id: priority_of(session, row) for row in session.scalars(query.order_by(Series.id))}
    if not priorities:
        return []
    with records.session() as session:
        rows = session.scalars(
            query.where(Series.id.in_(priorities)).order_by(Series.id).with_for_update(skip_locked=True)
        )
        due = [row for row in rows if not _newer_is_routed(session, row)]
        in_force = registry.hold(session) or release_digest
        return [
            job_for(session, row, registry.digest_for(session, row.study_instance_uid, in_force), priorities[row.id]).id
            for row in due
        ]


def _newer_is_routed(session: Session, series: Series) -> bool:
    """A newer generation was faster: this one is superseded before it was read."""
    newer = (
        select(Job.id)
        .join(Series)
        .where(Series.series_instance_uid == series.series_instance_uid, Series.generation > series.generation)
    )
    if session.scalar(newer.limit(1)) is None:
        return False
    series.move(State.SUPERSEDED, detail="a newer generation was queued first")
    return True


def _older(series: Series) -> ColumnElement[bool]:
    return (Series.series_instance_uid == series.series_instance_uid) & (Series.generation < series.generation)


def _supersede_older(session: Session, series: Series) -> None:
    for former in session.scalars(select(Series).where(_older(series)).with_for_update()):
        jobs = session.scalars(select(Job).where(Job.series_id == former.id).with_for_update()).all()
        rows: list[Series | Job] = [former, *jobs]
        moved = [_end(row, f"generation {series.generation} took its place") for row in rows]
        if any(moved):
            _log.info("series_superseded", series=former.id, generation=former.generation)


def _end(row: Series | Job, detail: str) -> bool:
    """Supersede a row whose state allows it."""
    allowed = State.SUPERSEDED in TRANSITIONS[State(row.state)]
    if allowed:
        row.move(State.SUPERSEDED, detail=detail)
    return allowed
