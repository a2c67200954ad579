"""The lease of a job: who may work on it, until when. Every change is one SQL statement, so two workers never both win.

A lease ends by `release` or by its expiry; a worker that dies is found by the expiry, or sooner by its own restart.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Event, Thread
from typing import Any, cast

import structlog
from sqlalchemy import ColumnElement, CursorResult, Update, func, literal, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from node.attempts import worker_lost
from node.database import Records, UtcDateTime
from node.records import Job, now
from node.states import State

_log = structlog.get_logger(__name__)

_LONGEST_BEAT_S = 10.0
"""Seconds between two heartbeats at most: so soon is it known that a job was cancelled."""


class LeaseLostError(RuntimeError):
    """Somebody else owns the job now: nothing of this attempt may be written."""


def take(session: Session, job_id: int, owner: str, seconds: float) -> bool:
    """QUEUED -> RUNNING for `owner`; False if the job is not queued (any more)."""
    return _changed(
        session,
        update(Job)
        .where(Job.id == job_id, Job.state == State.QUEUED)
        .values(
            state=State.RUNNING,
            reason=None,
            detail="",
            changed_at=now(),
            attempts=Job.attempts + 1,
            first_taken_at=func.coalesce(Job.first_taken_at, literal(now(), UtcDateTime())),
            lease_owner=owner,
            lease_expires=now() + timedelta(seconds=seconds),
        ),
    )


def extend(session: Session, job_id: int, owner: str, seconds: float) -> bool:
    """Hold the lease for `seconds` more; False if it is lost. Locks the job's row until the transaction ends."""
    return _changed(
        session,
        update(Job)
        .where(Job.id == job_id, Job.state == State.RUNNING, Job.lease_owner == owner)
        .values(lease_expires=now() + timedelta(seconds=seconds)),
    )


def claim(session: Session, job_id: int, owner: str, seconds: float) -> Job:
    """The job, its row locked for the rest of the transaction. Raises LeaseLostError if `owner` does not hold it."""
    if not extend(session, job_id, owner, seconds):
        raise LeaseLostError(f"job {job_id}: the lease is lost")
    return session.get_one(Job, job_id, populate_existing=True)


def release(job: Job) -> None:
    """Forget owner and expiry; the caller moves the job on."""
    job.lease_owner, job.lease_expires = "", None


def expire_of(session: Session, worker: str) -> int:
    """Expire what a former life of `worker` still holds (owners are `worker` or begin with `worker/`); how many."""
    return _count(session, update(Job).where(_held_by(worker)).values(lease_expires=now()))


def hand_back(session: Session, worker: str) -> int:
    """What `worker`, ended on purpose, still holds is QUEUED again as if it had never been taken; how many."""
    values = {"state": State.QUEUED, "changed_at": now(), "attempts": Job.attempts - 1}
    return _count(session, update(Job).where(_held_by(worker)).values(**values, lease_owner="", lease_expires=None))


def requeue_expired(session: Session, max_attempts: int) -> int:
    """RUNNING with an expired lease -> QUEUED, or QUARANTINED after `max_attempts`; how many."""
    jobs = session.scalars(
        select(Job).where(Job.state == State.RUNNING, Job.lease_expires <= now()).with_for_update(skip_locked=True)
    ).all()
    for job in jobs:
        release(job)
        worker_lost(job, max_attempts)
        _log.warning("lease_expired", job=job.id, attempts=job.attempts, state=job.state)
    return len(jobs)


class Heartbeat:
    """Extends a lease from a thread of its own; `check` raises LeaseLostError as soon as it is known to be lost."""

    def __init__(self, records: Records, job_id: int, owner: str, seconds: float) -> None:
        self._records, self._job_id, self._owner, self._seconds = records, job_id, owner, seconds
        self._ended = Event()
        self._lost = Event()

    @contextmanager
    def beating(self) -> Iterator["Heartbeat"]:
        """Beat as long as the block runs."""
        thread = Thread(target=self._beats, name=f"lease-{self._job_id}", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()

    def check(self) -> None:
        """Raises LeaseLostError if a beat found that the job is not ours any more (superseded, cancelled …)."""
        if self._lost.is_set():
            raise LeaseLostError(f"job {self._job_id}: the lease is lost")

    def beat(self) -> None:
        """Extend the lease now. Raises LeaseLostError; an absent database is only told."""
        try:
            with self._records.session() as session:
                held = extend(session, self._job_id, self._owner, self._seconds)
        except DBAPIError as error:
            _log.warning("heartbeat_failed", job=self._job_id, error=type(error.orig).__name__)
            return
        if not held:
            self._lost.set()
            self.check()

    def _beats(self) -> None:
        with suppress(LeaseLostError):
            while not self._ended.wait(min(self._seconds / 3, _LONGEST_BEAT_S)):
                self.beat()


def _held_by(worker: str) -> ColumnElement[bool]:
    return (Job.state == State.RUNNING) & Job.lease_owner.startswith(f"{worker}/", autoescape=True)


def _changed(session: Session, statement: Update) -> bool:
    return _count(session, statement) == 1


def _count(session: Session, statement: Update) -> int:
    done = session.execute(statement.execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", done).rowcount
