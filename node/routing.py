"""The one routing rule: a vetted CT series becomes one job a release, and takes the place of its older generations."""

import structlog
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from node.records import TRANSITIONS, Job, Records, Series, State

_log = structlog.get_logger(__name__)


def job_for(session: Session, series: Series, release_digest: str) -> Job:
    """The job of a VETTED series and a release; made if there is none, which supersedes the older generations.

    The size of the series (`settings.routing.min_slices`, `max_slices`) was judged at vetting. Raises ValueError if
    the series is in another state.
    """
    if series.state != State.VETTED:
        raise ValueError(f"series {series.id} is {series.state}, not VETTED")
    job = session.scalar(select(Job).where(Job.series_id == series.id, Job.release_digest == release_digest))
    if job is None:
        job = Job(series=series, release_digest=release_digest, state=State.QUEUED)
        session.add(job)
        session.flush()
        _supersede_older(session, series)
        _log.info("job_queued", job=job.id, series=series.id, generation=series.generation)
    return job


def route(records: Records, release_digest: str) -> list[int]:
    """A job for each VETTED series that never had one; their ids. A new release alone does not read old series again.

    Raises sqlalchemy.exc.DBAPIError.
    """
    query = (
        select(Series)
        .where(Series.state == State.VETTED, ~exists().where(Job.series_id == Series.id))
        .order_by(Series.id)
        .with_for_update(skip_locked=True)
    )
    with records.session() as session:
        due = [row for row in session.scalars(query) if not _newer_is_routed(session, row)]
        return [job_for(session, row, release_digest).id for row in due]


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


def _supersede_older(session: Session, series: Series) -> None:
    older = select(Series).where(
        Series.series_instance_uid == series.series_instance_uid, Series.generation < series.generation
    )
    for former in session.scalars(older.with_for_update()):
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
