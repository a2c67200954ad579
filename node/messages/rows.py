"""The outbox of messages in SQL: what is to be said to whom, what became of it.

Sibling of `node.outbox`, which has what both share. A job does not wait for its messages: its state tells of the DICOM
objects; a message tells of itself.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydicom import Dataset
from sqlalchemy import ColumnElement, Select, case, delete, func, or_, select
from sqlalchemy.orm import Session

from config import Priority, Reason, Settings
from config.message_settings import Level, MailDestination, MessageSettings, ResultDestination
from config.settings import DeliverySettings
from fvlm.reading import Reading
from node import breaker, outbox
from node.messages.content import Content, content_of, derived, whom_of
from node.outbox import Fate, Outcome
from node.pseudonyms import Pseudonyms
from node.records import Job, Message, now
from node.states import State

_BATCH = 64
_GONE = "the destination is no longer in the settings"
_READ = (State.ENCODED, State.SENT, State.COMMITTED, State.FAILED)
"""States of a job whose result counts. A superseded one says nothing more; one that is read again waits."""


class Kind(StrEnum):
    """What a message is about."""

    RESULT = "result"
    URGENT = "urgent"
    """A finding that somebody wants to know at once."""
    FAILURES = "failures"
    """Of the node itself."""


@dataclass(frozen=True)
class Due:
    """One message to send now."""

    row_id: int
    job_id: int | None
    kind: Kind
    message_id: str
    content: dict[str, Any]
    as_of: datetime


def store(session: Session, job: Job, reading: Reading, objects: Sequence[Dataset], settings: Settings) -> bool:
    """Write what is to be said of a job's result; True if there is anything. What was said is not said twice.

    Raises OSError if the node's key for pseudonyms cannot be read or made.
    """
    wanted = settings.messages
    if not wanted.results and not wanted.urgent.destinations:
        return False
    series = job.series
    whom = whom_of(series.study_instance_uid, series.series_instance_uid, objects)
    key = Pseudonyms(settings.data_dir).of(f"messages {series.series_instance_uid} {job.release_digest}")
    content = content_of(job.id, key, reading, whom, wanted.urgent.findings)
    found = {(row.destination, row.kind): row for row in session.scalars(select(Message).where(_of(job)))}
    stored = False
    for name, kind, level in _receivers(wanted, bool(content.urgent)):
        row = found.pop((name, kind), None)
        if row is None:
            row = Message(job_id=job.id, destination=name, kind=kind)
            session.add(row)
        elif row.sent_at is not None:
            continue
        # One message for each generation of the series; all about one thread.
        row.message_id = derived(key, str(series.generation), name, kind)
        row.content, row.as_of = content.at(level).to_json() | {"thread": derived(key, name)}, content.analysed_at
        outbox.begin_anew(row)
        stored = True
    for row in found.values():
        if row.sent_at is None:
            session.delete(row)
    return stored


def _of(job: Job) -> ColumnElement[bool]:
    return Message.job_id == job.id


def _receivers(wanted: MessageSettings, urgent: bool) -> Iterator[tuple[str, Kind, Level]]:
    asked = [(name, Kind.RESULT) for name in wanted.results]
    asked += [(name, Kind.URGENT) for name in wanted.urgent.destinations if urgent]
    for name, kind in dict.fromkeys(asked):
        receiver = wanted.destinations[name]
        if not isinstance(receiver, MailDestination):
            yield name, kind, receiver.level


def due(session: Session, destination: str) -> list[Due]:
    """What is due at one destination: urgent findings first, then by priority and age of the jobs."""
    rows = session.scalars(
        _pending(Message)
        .where(Message.destination == destination, Message.due_at <= now())
        .order_by(case((Message.kind == Kind.URGENT, 0), else_=1), func.coalesce(Job.priority, Priority.ROUTINE))
        .order_by(Message.id)
        .limit(_BATCH)
    )
    return [Due(row.id, row.job_id, Kind(row.kind), row.message_id, row.content, row.as_of) for row in rows]


def due_by_destination(session: Session) -> dict[str, int]:
    """For each destination that something is due for and that may be called: the id of one such row."""
    query = _pending(Message.destination, func.min(Message.id)).where(Message.due_at <= now())
    shut = breaker.open_now(session)
    found = session.execute(query.group_by(Message.destination)).tuples()
    return {name: row_id for name, row_id in found if name not in shut}


def record(session: Session, row_id: int, outcome: Outcome, settings: DeliverySettings) -> None:
    """Write down how an attempt ended. What has arrived is not kept any longer."""
    row = session.get_one(Message, row_id, with_for_update=True, populate_existing=True)
    outbox.conclude(row, outcome, settings)
    if outcome.fate is Fate.STORED:
        row.content = {}


def abandon(session: Session, settings: Settings) -> list[int]:
    """Messages to destinations that have left the settings are refused; ids of these rows."""
    known = list(settings.messages.destinations)
    rows = session.scalars(select(Message).where(outbox.is_open(Message), Message.destination.not_in(known))).all()
    for row in rows:
        outbox.conclude(row, Outcome(Fate.REFUSED, Reason.PEER_REFUSED, _GONE), settings.delivery)
    return [row.id for row in rows]


def refused(session: Session, job_id: int) -> Sequence[Message]:
    """What was refused of what is said about a job."""
    return session.scalars(select(Message).where(Message.job_id == job_id, Message.refused)).all()


def reopen(rows: Iterable[Message]) -> None:
    """Due now, as if it had never been tried."""
    for row in rows:
        outbox.begin_anew(row)


def forget(session: Session, job_id: int) -> None:
    """The job is read again and everything is to be sent again: under the same ids."""
    session.execute(delete(Message).where(Message.job_id == job_id))


def waiting(session: Session) -> dict[str, int]:
    """What is still to be sent, due or not, by destination."""
    query = _pending(Message.destination, func.count()).group_by(Message.destination)
    return dict(session.execute(query).tuples().all())


def said_to(receiver: ResultDestination, kept: dict[str, Any]) -> Content:
    """What a row says to its receiver as the settings are now: a lower level than before counts at once."""
    return Content.from_json(kept).at(receiver.level)


def _pending(*columns: Any) -> Select[Any]:
    """What is still to be sent and will be: about a job whose result counts, or about the node."""
    counts = Job.state.in_(_READ) & Job.reason.is_distinct_from(Reason.CANCELLED)
    joined = select(*columns).select_from(Message).outerjoin(Job, Message.job_id == Job.id)
    return joined.where(outbox.is_open(Message), or_(Message.job_id.is_(None), counts))
