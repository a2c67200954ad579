"""Orthanc in SQL: the cursor, and what a person wants read."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from config import Reason
from node.records import OrthancCursor, OrthancWanted, now

_CLOCKS_APART = timedelta(hours=26)
"""By how much an Orthanc's dates may be off: it may not write them in UTC."""
_TOLD_FOR = timedelta(days=30)
"""How long a series that could not be fetched is remembered."""
_SEEN_EVERY = timedelta(minutes=5)
MOST_WANTED = 1000
"""Series that may be waited for at the same time."""


@dataclass(frozen=True)
class Place:
    """Where to go on in an Orthanc's list of changes."""

    cursor: int
    not_before: datetime | None
    """Changes that are older were followed before."""


def place(session: Session, source: str) -> Place | None:
    """None: it was never followed."""
    row = session.get(OrthancCursor, source)
    return None if row is None else Place(row.cursor, row.not_before)


def begin(session: Session, source: str, cursor: int) -> None:
    """It is followed from here on."""
    session.add(OrthancCursor(source=source, cursor=cursor))


def begin_anew(session: Session, source: str) -> None:
    """Its list of changes is another one: read it from its start, for what was not followed in the former one."""
    row = session.get_one(OrthancCursor, source)
    row.cursor, row.not_before = 0, row.seen_at - _CLOCKS_APART


def move(session: Session, source: str, cursor: int) -> None:
    """Everything up to there is in the spool; it answers."""
    row = session.get_one(OrthancCursor, source)
    row.cursor, row.seen_at, row.reason, row.detail = cursor, now(), None, ""


def is_news(session: Session, source: str, cursor: int) -> bool:
    """Whether `move` would say something worth writing down."""
    row = session.get_one(OrthancCursor, source)
    return row.cursor != cursor or row.reason is not None or now() - row.seen_at > _SEEN_EVERY


def fail(session: Session, source: str, reason: Reason, detail: str) -> None:
    """Nothing can be fetched from it now."""
    row = session.get(OrthancCursor, source)
    if row is not None:
        row.reason, row.detail = reason, detail[:1000]


def want(session: Session, source: str, series: str) -> bool:
    """A person wants a series; False if too many are waited for."""
    waiting = session.query(OrthancWanted).filter_by(source=source, waits=True).count()
    row = _row(session, source, series)
    if waiting >= MOST_WANTED and not (row is not None and row.waits):
        return False
    if row is None:
        row = OrthancWanted(source=source, orthanc_series=series)
        session.add(row)
    row.waits, row.asked_at, row.reason, row.detail = True, now(), None, ""
    return True


def wanted(session: Session, source: str) -> list[str]:
    """What is to be fetched because a person wants it, oldest first."""
    query = select(OrthancWanted.orthanc_series).where(OrthancWanted.source == source, OrthancWanted.waits)
    return list(session.scalars(query.order_by(OrthancWanted.asked_at)))


def settle(session: Session, source: str, series: str, reason: Reason | None, detail: str) -> None:
    """A series was fetched, or cannot be (then with a reason): nobody waits for it any more."""
    row = _row(session, source, series)
    if reason is None:
        if row is not None:
            session.delete(row)
        return
    if row is None:
        row = OrthancWanted(source=source, orthanc_series=series)
        session.add(row)
    row.waits, row.asked_at, row.reason, row.detail = False, now(), reason, detail[:1000]
    old = OrthancWanted.asked_at < now() - _TOLD_FOR
    session.execute(delete(OrthancWanted).where(old, ~OrthancWanted.waits))


def wish(session: Session, source: str, series: str) -> tuple[bool, Reason | None, str] | None:
    """Whether a series is waited for, or why it could not be fetched; None: neither."""
    row = _row(session, source, series)
    return None if row is None else (row.waits, None if row.reason is None else Reason(row.reason), row.detail)


def _row(session: Session, source: str, series: str) -> OrthancWanted | None:
    return session.scalars(
        select(OrthancWanted).where(OrthancWanted.source == source, OrthancWanted.orthanc_series == series)
    ).one_or_none()
