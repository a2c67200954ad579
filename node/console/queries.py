"""What the console asks the database: read-only sessions, each list bounded, no images touched."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased, joinedload

from config import Reason, Settings
from config.settings import AnyDestination, Destination, WebDestination
from node.console.standing import EXPECTED, standing
from node.console.timeline import timeline
from node.console.views import (
    MOST,
    DeliveryRow,
    DestinationRow,
    JobRow,
    Page,
    ResultRow,
    SeriesPage,
    SeriesRow,
    UnreadableRow,
    View,
    Why,
)
from node.database import Records
from node.messages.standing import standings
from node.orders import Orders
from node.records import Breaker, Delivery, Job, Result, Series, Unreadable, now
from node.series_status import SeriesStatus, load, newest_first
from node.states import State

R = TypeVar("R")
V = TypeVar("V", bound=View)
OF_JOB = tuple(State)[tuple(State).index(State.QUEUED) :]
"""States that a job has; a series without a job has one of the others, or SUPERSEDED."""


class Queries:
    """Reads from the node's database. Every method may raise sqlalchemy.exc.SQLAlchemyError."""

    def __init__(self, records: Records, settings: Settings) -> None:
        self.records, self.settings = records, settings

    def series(self, page: int = 1, limit: int = 50, state: State | None = None, uid: str = "") -> Page[SeriesRow]:
        """The newest first; only those of a state, or whose Series or Study Instance UID begins with `uid`."""
        query = newest_first()
        if state is not None:
            query = query.where(_stands_at(state))
        if uid:
            begins = (Series.series_instance_uid, Series.study_instance_uid)
            query = query.where(or_(*(column.startswith(uid, autoescape=True) for column in begins)))
        with self.records.reading() as session:
            found = load(session, _slice(query, page, limit))
        return _page([self.row(status) for status in found], page, limit)

    def one_series(self, series_id: int) -> SeriesPage | None:
        """Everything about one; None if there is no such series."""
        with self.records.reading() as session:
            found = load(session, select(Series).where(Series.id == series_id))
            if not found:
                return None
            status = found[0]
            series = status.series
            same = select(Series.generation, Series.id).where(Series.series_instance_uid == series.series_instance_uid)
            generations = dict(session.execute(same.order_by(Series.generation).limit(MOST)).tuples().all())
        jobs = sorted(series.jobs, key=lambda job: job.id, reverse=True)
        return SeriesPage(
            row=self.row(status),
            study_instance_uid=series.study_instance_uid,
            rule=f"{series.rule} (version {series.rules_version})" if series.rule else "",
            reason=Why.of(status.reason),
            timeline=timeline(status),
            jobs=[_job(job) for job in jobs],
            generations=generations,
        )

    def attention(self, session: Session, limit: int) -> list[SeriesRow]:
        """Series that a person has to look at, newest first."""
        return [self.row(status) for status in load(session, newest_first().where(_ill()).limit(limit))]

    def newest(self, session: Session, limit: int) -> list[SeriesRow]:
        return [self.row(status) for status in load(session, newest_first().limit(limit))]

    def deliveries(
        self, page: int = 1, limit: int = 50, destination: str = "", undelivered: bool = False
    ) -> Page[DeliveryRow]:
        """The newest first; only those of a destination, only those that have not arrived."""
        query = select(Delivery).options(joinedload(Delivery.result).joinedload(Result.job))
        query = query.order_by(Delivery.id.desc())
        if destination:
            query = query.where(Delivery.destination == destination)
        if undelivered:
            query = query.where(Delivery.sent_at.is_(None))
        with self.records.reading() as session:
            rows = session.scalars(_slice(query, page, limit)).all()
        return _page([_delivery(row, row.result.job, row.result) for row in rows], page, limit)

    def destinations(self) -> list[DestinationRow]:
        """Those of the settings first, then those that only old deliveries know."""
        is_open, counted = _open(), func.count
        query = select(
            Delivery.destination,
            counted(Delivery.sent_at),
            counted().filter(is_open),
            counted().filter(Delivery.sent_at.is_(None), Delivery.refused),
            func.min(Delivery.due_at).filter(is_open),
            func.max(Delivery.id).filter(Delivery.sent_at.is_(None), Delivery.reason.is_not(None)),
        )
        with self.records.reading() as session:
            counts = {row[0]: row for row in session.execute(query.group_by(Delivery.destination)).tuples()}
            failed = [row[5] for row in counts.values() if row[5] is not None]
            last = {row.id: row for row in session.scalars(select(Delivery).where(Delivery.id.in_(failed)))}
            shut = {row.destination: row for row in session.scalars(select(Breaker))}
        found = []
        for name in [*self.settings.destinations, *(set(counts) - set(self.settings.destinations))]:
            peer = self.settings.destinations.get(name)
            _, sent, waiting, refused, due, newest = counts.get(name, (name, 0, 0, 0, None, None))
            error: Breaker | Delivery | None = shut.get(name) or (last.get(newest) if newest is not None else None)
            found.append(
                DestinationRow(
                    name=name,
                    ae_title=peer.ae_title if isinstance(peer, Destination) else "",
                    address=_address(peer),
                    sent=sent,
                    waiting=waiting,
                    refused=refused,
                    next_attempt=error.next_attempt_at if isinstance(error, Breaker) else due,
                    reason=Why.of(error.reason if error else None),
                    detail=error.detail if error else "",
                )
            )
        return found

    def messages(self) -> list[DestinationRow]:
        """The destinations of messages, those of the settings first."""
        with self.records.reading() as session:
            found = standings(session, self.settings)
        return [
            DestinationRow(
                name=one.name,
                ae_title=one.kind,
                address=one.where,
                sent=one.sent,
                waiting=one.waiting,
                refused=one.refused,
                next_attempt=one.next_attempt,
                reason=Why.of(one.reason),
                detail=one.detail,
            )
            for one in found
        ]

    def unreadable(self, page: int = 1, limit: int = 50) -> Page[UnreadableRow]:
        """The newest first."""
        with self.records.reading() as session:
            rows = session.scalars(_slice(select(Unreadable).order_by(Unreadable.id.desc()), page, limit)).all()
        return _page([_unreadable(row) for row in rows], page, limit)

    def row(self, status: SeriesStatus, at: datetime | None = None) -> SeriesRow:
        """The list's view of a series."""
        series = status.series
        return SeriesRow(
            id=series.id,
            series_instance_uid=series.series_instance_uid,
            generation=series.generation,
            modality=series.modality,
            source_ae=series.source_ae,
            state=status.state,
            reason=status.reason,
            first_at=series.first_at,
            last_at=series.last_at,
            images=status.images,
            conflicts=status.conflicts,
            job_id=status.job.id if status.job else None,
            deliveries=len(status.deliveries),
            sent=status.sent,
            standing=standing(status, self.settings, at or now()),
            why=status.why(),
        )


def states(session: Session) -> dict[State, int]:
    """Series by state; of a series with jobs the newest one's state counts."""
    jobs = select(Job.state, func.count()).where(_newest_job()).group_by(Job.state)
    others = select(Series.state, func.count()).where(~_has_job()).group_by(Series.state)
    found = dict.fromkeys(State, 0)
    for query in (jobs, others):
        for state, count in session.execute(query).tuples():
            found[State(state)] += count
    return found


def _newest_job() -> ColumnElement[bool]:
    later = aliased(Job)
    return ~exists().where(later.series_id == Job.series_id, later.id > Job.id)


def _has_job() -> ColumnElement[bool]:
    return exists().where(Job.series_id == Series.id)


def _stands_at(state: State) -> ColumnElement[bool]:
    if state in OF_JOB:
        by_job = exists().where(Job.series_id == Series.id, Job.state == state, _newest_job())
        return or_(by_job, and_(Series.state == state, ~_has_job()))
    return and_(Series.state == state, ~_has_job())


def _ill() -> ColumnElement[bool]:
    """Failed, refused, or waiting for a destination that was tried in vain."""
    ended = exists().where(
        Job.series_id == Series.id,
        Job.state.in_((State.FAILED, State.QUARANTINED)),
        Job.reason.is_distinct_from(Reason.SKIPPED_BY_RULE),
        _newest_job(),
    )
    in_vain = exists().where(
        Job.series_id == Series.id,
        Job.state == State.ENCODED,
        Result.job_id == Job.id,
        Delivery.result_id == Result.id,
        Delivery.reason.is_not(None),
        _open(),
    )
    unwanted = and_(Series.state == State.REJECTED, Series.reason.not_in(EXPECTED))
    return or_(ended, in_vain, unwanted)


def _open() -> ColumnElement[bool]:
    return and_(Delivery.sent_at.is_(None), Delivery.refused.is_(False))


def _slice(query: Select[R], page: int, limit: int) -> Select[R]:
    """One row more than a page: it tells whether there is a next one."""
    return query.offset((page - 1) * limit).limit(limit + 1)


def _page(rows: Sequence[V], page: int, limit: int) -> Page[V]:
    return Page(rows=list(rows[:limit]), page=page, more=len(rows) > limit)


def _address(peer: AnyDestination | None) -> str:
    if isinstance(peer, WebDestination):
        return peer.stow_url
    return f"{peer.host}:{peer.port}" if peer else ""


def _delivery(row: Delivery, job: Job, result: Result) -> DeliveryRow:
    is_open = row.sent_at is None and not row.refused
    return DeliveryRow(
        id=row.id,
        destination=row.destination,
        kind=result.kind,
        sop_instance_uid=result.sop_instance_uid,
        series_id=job.series_id,
        job_id=job.id,
        attempts=row.attempts,
        sent_at=row.sent_at,
        refused=row.refused,
        due_at=row.due_at if is_open and job.state == State.ENCODED else None,
        reason=Why.of(row.reason),
        detail=row.detail,
    )


def _job(job: Job) -> JobRow:
    return JobRow(
        id=job.id,
        state=State(job.state),
        reason=Why.of(job.reason),
        detail=job.detail,
        created_at=job.created_at,
        changed_at=job.changed_at,
        attempts=job.attempts,
        lease_owner=job.lease_owner,
        lease_expires=job.lease_expires,
        release_digest=job.release_digest,
        seconds=job.seconds,
        orders=Orders.of(job).told(job.later_rule),
        results=[
            ResultRow(
                kind=result.kind,
                sop_instance_uid=result.sop_instance_uid,
                sop_class_uid=result.sop_class_uid,
                deliveries=[_delivery(row, job, result) for row in result.deliveries],
            )
            for result in job.results
        ],
    )


def _unreadable(row: Unreadable) -> UnreadableRow:
    return UnreadableRow(
        id=row.id,
        received_at=row.received_at,
        source_ae=row.source_ae,
        sop_instance_uid=row.sop_instance_uid,
        segment=row.segment,
        offset=row.offset,
        length=row.length,
        reason=Why.of_code(row.reason),
        detail=row.detail,
    )
