"""Routing: a vetted CT series becomes a job, is skipped or waits, as the rules say; without rules each becomes a job.

This is the one place where decisions on series are written. A new job takes the place of those of older generations.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import structlog
from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from config import Priority, Reason
from node.database import Records
from node.orders import Orders
from node.records import Job, Series
from node.releases import binding, registry
from node.rules.judge import Decision, Judge
from node.states import TRANSITIONS, State

_log = structlog.get_logger(__name__)


def job_for(
    session: Session,
    series: Series,
    release_digest: str,
    priority: Priority = Priority.ROUTINE,
    orders: Orders = Orders(),
    held_until: datetime | None = None,
) -> Job:
    """The job of a VETTED series and a release; made if there is none, which supersedes the older generations.

    It is at least as urgent as their jobs were, so that what a person has made urgent stays so when late images come.
    It keeps its `orders`; until `held_until` no worker takes it. The size of the series (`settings.routing.min_slices`,
    `max_slices`) was judged at vetting. Raises ValueError if the series is in another state.
    """
    if series.state != State.VETTED:
        raise ValueError(f"series {series.id} is {series.state}, not VETTED")
    job = session.scalar(select(Job).where(Job.series_id == series.id, Job.release_digest == release_digest))
    if job is None:
        of_older = session.scalar(select(func.min(Job.priority)).join(Series).where(_older(series)))
        priority = priority if of_older is None else Priority(min(priority, of_older))
        job = Job(
            series=series,
            release_digest=release_digest,
            state=State.QUEUED,
            priority=int(priority),
            held_until=held_until,
        )
        orders.give(job)
        session.add(job)
        session.flush()
        _supersede_older(session, series)
        _log.info("job_queued", job=job.id, series=series.id, generation=series.generation, priority=priority.label)
    return job


def routine(_: Session, __: Series) -> Priority:
    """Everything is routine."""
    return Priority.ROUTINE


def route(
    records: Records,
    release_digest: str,
    priority_of: Callable[[Session, Series], Priority] = routine,
    judge: Judge | None = None,
    destinations: Sequence[str] | None = None,
    held_until: datetime | None = None,
) -> list[int]:
    """Decide about each VETTED series that never had a job; the ids of the jobs that were made. A new release alone
    does not read old series again.

    `node.releases.binding` says which release reads a job; the one in force is `release_digest` where the database
    knows none.

    `priority_of` and `judge` (None: every series is read) are asked outside of the transaction that writes: they look
    into the images. `destinations` are those of a job whose rule names none; no new job is taken before `held_until`.
    Raises sqlalchemy.exc.DBAPIError.
    """
    query = select(Series).where(Series.state == State.VETTED, ~exists().where(Job.series_id == Series.id))
    with records.reading() as session:
        waiting = {row.id: row for row in session.scalars(query.order_by(Series.id))}
        decisions = (
            [Decision(series_id, together=frozenset({series_id})) for series_id in waiting]
            if judge is None
            else judge.decisions(session, list(waiting.values()))
        )
        decisions = [one for one in decisions if one.to != State.VETTED or not _noted(waiting[one.series_id], one)]
        priorities = {
            one.series_id: priority_of(session, waiting[one.series_id]) if one.priority is None else one.priority
            for one in decisions
            if one.to is State.QUEUED
        }
    if not decisions:
        return []
    with records.session() as session:
        ids = [one.series_id for one in decisions]
        locked = query.where(Series.id.in_(ids)).order_by(Series.id).with_for_update(skip_locked=True)
        rows = {row.id: row for row in session.scalars(locked)}
        in_force = registry.hold(session) or release_digest
        made = []
        for one in decisions:
            if one.series_id in rows and one.together <= rows.keys():
                job = _apply(session, rows[one.series_id], one, in_force, priorities, destinations, held_until)
                made += [] if job is None else [job.id]
        return made


def _apply(
    session: Session,
    row: Series,
    decision: Decision,
    in_force: str,
    priorities: dict[int, Priority],
    destinations: Sequence[str] | None,
    held_until: datetime | None,
) -> Job | None:
    """Write one decision; the job, if the series is read."""
    row.rule, row.rules_version, row.rules_digest = decision.rule, decision.version, decision.digest
    row.rank, row.patient = decision.rank, decision.patient
    if decision.to in (State.REJECTED, State.SUPERSEDED):
        row.move(decision.to, decision.reason, decision.detail[:1000])
        _log.info("series_not_read", series=row.id, state=decision.to, reason=decision.reason)
        return None
    if decision.to is State.VETTED or _newer_is_routed(session, row):
        return None
    job = job_for(
        session,
        row,
        binding.for_series(session, row, in_force, decision.release_digest),
        priorities[row.id],
        decision.orders.or_to(destinations),
        held_until,
    )
    for beaten in session.scalars(select(Job).where(Job.id.in_(decision.beaten)).with_for_update()):
        if beaten.state == State.QUEUED:
            detail = f"series {row.id} of the study came later and is better"
            beaten.move(State.SUPERSEDED, Reason.NOT_BEST_SERIES, detail)
            _log.info("job_superseded", job=beaten.id, series=beaten.series_id, reason=Reason.NOT_BEST_SERIES)
    return job


def _noted(row: Series, decision: Decision) -> bool:
    """Whether a series is known to wait already."""
    return (row.rule, row.rules_digest) == (decision.rule, decision.digest)


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
