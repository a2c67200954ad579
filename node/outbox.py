"""The outbox in SQL: which object is due at which destination, what became of it, and when its job is done.

A destination that cannot be reached is tried with one object at a time (the rest is postponed with it), and everything
is due again as soon as it answers. Back-off is exponential with jitter, without an end.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Select, func, select, update
from sqlalchemy.orm import Session

from config import Reason
from config.settings import DeliverySettings
from node.records import Delivery, Job, Result, State, now

_BATCH = 64
"""Objects looked up at once for one destination."""


class Fate(Enum):
    """What became of one attempt."""

    STORED = auto()
    RETRY = auto()
    REFUSED = auto()


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt to deliver one object."""

    fate: Fate
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True)
class Due:
    """One object to send now."""

    delivery_id: int
    job_id: int
    kind: str
    sop_class_uid: str
    path: str
    """Relative to the results folder."""


def due(session: Session, destination: str) -> list[Due]:
    """What is due at one destination: urgent jobs first, then older ones, the SEG of a job before the SR.

    An SR whose SEG still waits for its next attempt is left out; a SEG that was refused for good holds nothing up.
    """
    rows = session.execute(
        _pending(Delivery.id, Delivery.due_at, Job.id, Result.kind, Result.sop_class_uid, Result.path)
        .where(Delivery.destination == destination)
        .order_by(Job.priority, Job.id, Result.kind != "SEG", Result.id)
    )
    moment = now()
    found: list[Due] = []
    waiting: set[int] = set()
    for delivery_id, due_at, job_id, kind, sop_class_uid, path in rows:
        if kind != "SEG" and job_id in waiting:
            continue
        if due_at > moment:
            waiting.add(job_id)
            continue
        found.append(Due(delivery_id, job_id, kind, sop_class_uid, path))
        if len(found) == _BATCH:
            break
    return found


def due_by_destination(session: Session) -> dict[str, int]:
    """For each destination with something due: the id of one due delivery."""
    rows = session.execute(
        _pending(Delivery.destination, func.min(Delivery.id))
        .where(Delivery.due_at <= now())
        .group_by(Delivery.destination)
    )
    return dict(rows.tuples().all())


def claim(session: Session, delivery_id: int, hold_s: float) -> bool:
    """Take one due delivery for `hold_s` seconds; False if somebody else has it or it is done."""
    statement = (
        update(Delivery)
        .where(Delivery.id == delivery_id, _open(), Delivery.due_at <= now())
        .values(due_at=now() + timedelta(seconds=hold_s), attempts=Delivery.attempts + 1, reason=None)
        .execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount == 1


def give_up_claims(session: Session) -> int:
    """What is claimed and not concluded is due now; how many. For a deliver worker that starts: its past life is dead.

    A claim of another deliver worker that lives is given up with it: then an object may go out twice, under one UID.
    """
    statement = (
        update(Delivery)
        .where(_open(), Delivery.attempts > 0, Delivery.reason.is_(None), Delivery.due_at > now())
        .values(due_at=now())
        .execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def record(session: Session, delivery_id: int, outcome: Outcome, settings: DeliverySettings) -> None:
    """Write down how an attempt ended, and end the job if that was its last open delivery."""
    row = session.get_one(Delivery, delivery_id)
    row.reason, row.detail = outcome.reason, outcome.detail[:1000]
    if outcome.fate is Fate.STORED:
        row.sent_at = now()
    elif outcome.fate is Fate.REFUSED:
        row.refused = True
    else:
        row.due_at = next_attempt(row.attempts, settings)
    session.flush()
    settle(session, row.result.job_id)


def postpone(session: Session, destination: str, outcome: Outcome, settings: DeliverySettings) -> datetime:
    """The destination cannot be reached: everything for it waits for one and the same next attempt; when that is."""
    open_rows = (Delivery.destination == destination, _open())
    failures = session.scalar(select(func.max(Delivery.attempts)).where(*open_rows)) or 1
    until = next_attempt(failures, settings)
    session.execute(
        update(Delivery)
        .where(*open_rows, Delivery.due_at < until)
        .values(due_at=until, reason=outcome.reason, detail=outcome.detail[:1000])
        .execution_options(synchronize_session=False)
    )
    return until


def revive(session: Session, destination: str) -> None:
    """The destination answers again: what was only waiting for it is due now."""
    session.execute(
        update(Delivery)
        .where(Delivery.destination == destination, _open(), Delivery.reason == Reason.PEER_UNREACHABLE)
        .values(due_at=now(), reason=None, detail="")
        .execution_options(synchronize_session=False)
    )


def next_attempt(failures: int, settings: DeliverySettings) -> datetime:
    """When to try again after `failures` failed attempts: doubling from the first wait, capped, 50 to 100 % of it."""
    wait = min(settings.retry_max_s, settings.retry_first_s * 2.0 ** min(failures - 1, 32))
    return now() + timedelta(seconds=wait * random.uniform(0.5, 1.0))


def reopen(delivery: Delivery) -> None:
    """Due now, as if it had never been tried."""
    delivery.sent_at, delivery.refused, delivery.reason, delivery.detail = None, False, None, ""
    delivery.attempts, delivery.due_at = 0, now()


def settle(session: Session, job_id: int) -> None:
    """ENCODED -> SENT when every delivery is sent, -> FAILED when the last open one is refused for good."""
    job = session.get_one(Job, job_id, with_for_update=True, populate_existing=True)
    if job.state != State.ENCODED:
        return
    rows = session.execute(
        select(Delivery.destination, Delivery.sent_at, Delivery.refused, Delivery.detail, Result.kind)
        .join(Result)
        .where(Result.job_id == job_id)
    ).all()
    if any(row.sent_at is None and not row.refused for row in rows):
        return
    refused = [f"{row.kind} at {row.destination}: {row.detail}" for row in rows if row.refused]
    if refused:
        job.move(State.FAILED, Reason.PEER_REFUSED, "; ".join(refused)[:1000])
    else:
        job.move(State.SENT)


def _open() -> ColumnElement[bool]:
    return Delivery.sent_at.is_(None) & Delivery.refused.is_(False)


def _pending(*columns: Any) -> Select[Any]:
    """Open deliveries of jobs whose results still count (a superseded job sends nothing more)."""
    joined = select(*columns).join(Result, Delivery.result_id == Result.id).join(Job)
    return joined.where(_open(), Job.state == State.ENCODED)
