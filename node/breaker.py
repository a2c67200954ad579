"""The circuit breaker of a destination, in the database: closed, open until a time, then half-open: one attempt.

Closed is no row. An attempt that finds the destination away opens it (back-off doubling with jitter); everything for
the destination waits, nothing of it is touched. When the time has come one attempt is let through: it closes the
breaker, or opens it for longer.
"""

from datetime import timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.orm import Session

from config import Reason
from node.records import Breaker, now


def admit(session: Session, destination: str, hold_s: float) -> bool:
    """Whether the destination may be called now. If the breaker is not closed, the caller is the one attempt: it ends
    with `shut` or `trip`, or counts as lost after `hold_s` seconds.
    """
    if session.get(Breaker, destination) is None:
        return True
    statement = (
        update(Breaker)
        .where(Breaker.destination == destination, Breaker.next_attempt_at <= now())
        .values(next_attempt_at=now() + timedelta(seconds=hold_s), probing=True)
        .execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount == 1


def trip(session: Session, destination: str, reason: Reason | None, detail: str) -> Breaker:
    """An attempt failed. The row; the caller sets `next_attempt_at` from `failures`."""
    row = session.get(Breaker, destination, with_for_update=True, populate_existing=True)
    if row is None:
        row = Breaker(destination=destination, failures=0, since=now(), next_attempt_at=now())
        session.add(row)
    row.failures += 1
    row.probing, row.reason, row.detail = False, reason, detail[:1000]
    return row


def shut(session: Session, destination: str) -> bool:
    """The destination works; True if the breaker was not closed."""
    statement = delete(Breaker).where(Breaker.destination == destination)
    return cast("CursorResult[Any]", session.execute(statement)).rowcount == 1


def open_now(session: Session) -> frozenset[str]:
    """Destinations that may not be called now."""
    return frozenset(session.scalars(select(Breaker.destination).where(Breaker.next_attempt_at > now())))


def state(row: Breaker | None) -> str:
    """For a person: closed, open or half-open."""
    if row is None:
        return "closed"
    return "half-open" if row.probing or row.next_attempt_at <= now() else "open"
