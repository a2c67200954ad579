"""The outbox in SQL: which object is due at which destination, what became of it, and when its job is done.

An object that is not taken for now waits for itself (back-off with jitter, without an end); a destination that takes
nothing at all is `node.breaker`'s matter. What was stored is asked for afterwards: `node.commitment_due`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Select, case, func, select, update
from sqlalchemy.orm import Session

from config import Output, Reason
from config.outputs import essential
from config.settings import DeliverySettings
from node import breaker
from node.records import Delivery, Job, Message, Outgoing, Result, now
from node.states import State

Rows = type[Delivery] | type[Message]
"""Which outbox."""
_BATCH = 64
"""Objects looked up at once for one destination."""
_RANK = case({kind.value: rank for rank, kind in enumerate(Output)}, value=Result.kind, else_=len(Output))
"""The order of sending within a job."""
NO_DESTINATION = "no destination: results stay in the data folder"


class Fate(Enum):
    """What became of one attempt."""

    STORED = auto()
    RETRY = auto()
    """The object was not taken for now."""
    AWAY = auto()
    """The destination took nothing: nobody answered, or whoever did turned the node away as a whole."""
    REFUSED = auto()
    """The object was refused for good."""


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
    """What is due at one destination: urgent jobs first, then older ones; of a job what is referred to before the SR.

    An SR whose SEG still waits for its next attempt is left out; a SEG that was refused for good holds nothing up, nor
    does a companion, whatever became of it.
    """
    rows = session.execute(
        _pending(Delivery.id, Delivery.due_at, Job.id, Result.kind, Result.sop_class_uid, Result.path)
        .where(Delivery.destination == destination)
        .order_by(Job.priority, Job.id, _RANK, Result.id)
    )
    moment = now()
    found: list[Due] = []
    waiting: set[int] = set()
    for delivery_id, due_at, job_id, kind, sop_class_uid, path in rows:
        if kind == Output.SR and job_id in waiting:
            continue
        if due_at > moment:
            if kind == Output.SEG:
                waiting.add(job_id)
            continue
        found.append(Due(delivery_id, job_id, kind, sop_class_uid, path))
        if len(found) == _BATCH:
            break
    return found


def due_by_destination(session: Session) -> dict[str, int]:
    """For each destination with something to send or to ask now: the id of one such delivery."""
    to_send = _pending(Delivery.destination, func.min(Delivery.id)).where(Delivery.due_at <= now())
    to_ask = select(Delivery.destination, func.min(Delivery.id)).where(Delivery.ask_at <= now())
    found: dict[str, int] = {}
    for query in (to_send, to_ask):
        for name, delivery_id in session.execute(query.group_by(Delivery.destination)).tuples():
            found.setdefault(name, delivery_id)
    shut = breaker.open_now(session)
    return {name: delivery_id for name, delivery_id in found.items() if name not in shut}


def claim(session: Session, row_id: int, hold_s: float, rows: Rows = Delivery) -> bool:
    """Take one due row for `hold_s` seconds; False if somebody else has it or it is done."""
    statement = (
        update(rows)
        .where(rows.id == row_id, is_open(rows), rows.due_at <= now())
        .values(due_at=now() + timedelta(seconds=hold_s), attempts=rows.attempts + 1, reason=None)
        .execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount == 1


def give_up_claims(session: Session, rows: Rows = Delivery) -> int:
    """What is claimed and not concluded is due now; how many. For a deliver worker that starts: its past life is dead.

    A claim of another deliver worker that lives is given up with it: then an object may go out twice, under one UID.
    """
    statement = (
        update(rows)
        .where(is_open(rows), rows.attempts > 0, rows.reason.is_(None), rows.due_at > now())
        .values(due_at=now())
        .execution_options(synchronize_session=False)
    )
    return cast("CursorResult[Any]", session.execute(statement)).rowcount


def wait_no_longer(session: Session, row_ids: Sequence[int], rows: Rows = Delivery) -> None:
    """Those of them that are still to be sent are due now."""
    statement = update(rows).where(rows.id.in_(row_ids), is_open(rows), rows.due_at > now())
    session.execute(statement.values(due_at=now()).execution_options(synchronize_session=False))


def record(session: Session, delivery_id: int, outcome: Outcome, settings: DeliverySettings, asked: bool) -> None:
    """Write down how an attempt ended, and what follows for its job.

    `asked`: the destination is to be asked for commitment, as soon as it has all objects of the job.
    """
    job_id = session.scalars(select(Result.job_id).join(Delivery).where(Delivery.id == delivery_id)).one()
    lock_job(session, job_id)
    row = session.get_one(Delivery, delivery_id, populate_existing=True)
    conclude(row, outcome, settings)
    if outcome.fate is Fate.STORED:
        row.asked, row.asks = asked, 0
        row.committed_at, row.committed_by = None, ""
    session.flush()
    _ask_when_all_are_there(session, job_id, row.destination)
    settle(session, job_id)


def conclude(row: Outgoing, outcome: Outcome, settings: DeliverySettings) -> None:
    """Write into a row how an attempt ended, and when the next one is."""
    row.reason, row.detail = outcome.reason, outcome.detail[:1000]
    if outcome.fate is Fate.STORED:
        row.sent_at = now()
    elif outcome.fate is Fate.REFUSED:
        row.refused = True
    else:
        row.due_at = next_attempt(row.attempts, settings)


def _ask_when_all_are_there(session: Session, job_id: int, destination: str) -> None:
    rows = session.scalars(
        select(Delivery).join(Result).where(Result.job_id == job_id, Delivery.destination == destination)
    ).all()
    if any(row.sent_at is None and not row.refused for row in rows):
        return
    for row in rows:
        if row.asked and row.sent_at is not None and row.committed_at is None and row.ask_at is None:
            row.ask_at = now()
    session.flush()


def next_attempt(failures: int, settings: DeliverySettings) -> datetime:
    """When to try again after `failures` failed attempts: doubling from the first wait, capped, 50 to 100 % of it."""
    wait = min(settings.retry_max_s, settings.retry_first_s * 2.0 ** max(0, min(failures - 1, 32)))
    return now() + timedelta(seconds=wait * random.uniform(0.5, 1.0))


def reopen(delivery: Delivery) -> None:
    """Due now, as if it had never been tried."""
    begin_anew(delivery)
    delivery.asked, delivery.ask_at, delivery.asks, delivery.lost = False, None, 0, 0
    delivery.committed_at, delivery.committed_by = None, ""
    delivery.commitment_reason, delivery.commitment_detail = None, ""


def begin_anew(row: Outgoing) -> None:
    """The part of `reopen` that every outbox has."""
    row.sent_at, row.refused, row.reason, row.detail = None, False, None, ""
    row.attempts, row.due_at = 0, now()


def lock_job(session: Session, job_id: int) -> Job:
    """The job, its row locked until the transaction ends: whoever changes its deliveries begins with this."""
    return session.get_one(Job, job_id, with_for_update=True, populate_existing=True)


def settle(session: Session, job_id: int) -> None:
    """The state of a job follows from its deliveries.

    ENCODED while one is open; FAILED when none is open and an essential one (`config.outputs.essential`) was refused
    for good; else SENT, and COMMITTED as soon as all destinations that are asked have committed (a destination that is
    not asked counts when it has stored; a job of which none is asked ends as SENT). What companions were refused is
    told.
    """
    job = lock_job(session, job_id)
    if job.state not in (State.ENCODED, State.SENT):
        return
    rows = session.execute(
        select(
            Delivery.destination, Delivery.sent_at, Delivery.refused, Delivery.reason, Delivery.detail, Delivery.asked,
            Delivery.ask_at, Delivery.committed_at, Delivery.committed_by, Delivery.commitment_reason,
            Delivery.commitment_detail, Result.kind,
        )
        .join(Result)
        .where(Result.job_id == job_id)
    ).all()  # fmt: skip
    if any(row.sent_at is None and not row.refused for row in rows):
        if job.state == State.SENT:
            job.move(State.ENCODED)
        return
    refused = [row for row in rows if row.refused]
    told = "; ".join(f"{row.kind} at {row.destination}: {row.detail}" for row in refused)
    reason = Reason(refused[0].reason or Reason.PEER_REFUSED) if refused else None
    needed = {(name, kind) for name in {row.destination for row in rows} for kind in _essential_at(name, rows)}
    if any((row.destination, row.kind) in needed for row in refused):
        job.move(State.FAILED, reason, told[:1000])
        return
    if job.state == State.ENCODED:
        job.move(State.SENT, reason, told[:1000] if rows else NO_DESTINATION)
    _settle_commitment(job, [row for row in rows if row.asked and not row.refused], told)


def _essential_at(destination: str, rows: Sequence[Any]) -> frozenset[str]:
    """Kinds without which a destination does not have the result."""
    return frozenset(essential([Output(row.kind) for row in rows if row.destination == destination]))


def _settle_commitment(job: Job, asked: Sequence[Any], refused: str) -> None:
    """`refused`: what is told about companions that were refused; empty if none was."""
    missing = [row for row in asked if row.committed_at is None]
    if asked and not missing:
        known = "known by " + ", ".join(sorted({row.committed_by for row in asked}))
        job.move(State.COMMITTED, detail="; ".join(filter(None, [known, refused]))[:1000])
    elif missing:
        given_up = [row for row in missing if row.ask_at is None]
        names = ", ".join(sorted({row.destination for row in missing if row.ask_at is not None}))
        told = [f"{row.kind} at {row.destination}: {row.commitment_detail}" for row in given_up]
        waits = f"waits for the commitment of {names}" if names else ""
        job.detail = "; ".join(filter(None, [*told, waits, refused]))[:1000]
        job.reason = Reason(given_up[0].commitment_reason) if given_up and given_up[0].commitment_reason else None


def is_open(rows: Rows = Delivery) -> ColumnElement[bool]:
    """What is still to be sent."""
    return rows.sent_at.is_(None) & rows.refused.is_(False)


def _pending(*columns: Any) -> Select[Any]:
    """Open deliveries of jobs whose results still count (a superseded job sends nothing more)."""
    joined = select(*columns).join(Result, Delivery.result_id == Result.id).join(Job)
    return joined.where(is_open(), Job.state == State.ENCODED)
