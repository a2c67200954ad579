"""Storage commitment in SQL (PS3.4 annex J): what is to be asked, was asked, was answered, and when to give up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from pydicom.uid import generate_uid
from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from config import Reason
from config.settings import DeliverySettings
from node import outbox
from node.records import CommitmentTransaction, Delivery, Job, Result, now
from node.states import State

_LONGEST_WAIT_S = 86400.0
_STATES = (State.ENCODED, State.SENT, State.FAILED)
"""Jobs whose stored objects are asked for. FAILED: another destination, or another object, was refused."""
_DUPLICATE_TRANSACTION = 0x0131
_CLASS_NOT_SUPPORTED = 0x0122
_FAILURES = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "SOP class and instance do not fit",
    _CLASS_NOT_SUPPORTED: "SOP class not supported",
    _DUPLICATE_TRANSACTION: "duplicate transaction UID",
    0x0213: "resource limitation",
}
"""Failure Reason (0008,1197) in an N-EVENT-REPORT (PS3.3 C.14.1.1)."""


@dataclass(frozen=True)
class Item:
    """One stored object."""

    delivery_id: int
    sop_class_uid: str
    sop_instance_uid: str
    path: str
    """Relative to the results folder."""
    asks: int


@dataclass(frozen=True)
class Question:
    """The objects of one job that one destination is to be asked for now."""

    job_id: int
    items: tuple[Item, ...]

    @property
    def asks(self) -> int:
        """How often it was asked in vain."""
        return max(item.asks for item in self.items)


def questions(session: Session, destination: str) -> list[Question]:
    """What is to be asked now."""
    rows = session.execute(
        select(Job.id, Delivery.id, Result.sop_class_uid, Result.sop_instance_uid, Result.path, Delivery.asks)
        .join_from(Delivery, Result, Delivery.result_id == Result.id)
        .join(Job)
        .where(Delivery.destination == destination, Delivery.ask_at <= now())
        .order_by(Job.id, Result.id)
    ).tuples()
    by_job: dict[int, list[Item]] = {}
    for job_id, delivery_id, sop_class, sop_instance, path, asks in rows:
        by_job.setdefault(job_id, []).append(Item(delivery_id, sop_class, sop_instance, path, asks))
    return [Question(job_id, tuple(items)) for job_id, items in by_job.items()]


def claim(session: Session, question: Question, until: datetime) -> bool:
    """Take a question; without an answer it comes again at `until`. False: somebody else has it, or it is void now."""
    job = outbox.lock_job(session, question.job_id)
    due = (Delivery.id.in_(item.delivery_id for item in question.items), Delivery.ask_at <= now())
    if job.state not in _STATES:
        _update(session, *due, values={"ask_at": None})
        return False
    return _update(session, *due, values={"ask_at": until, "asks": Delivery.asks + 1}) == len(question.items)


def next_question(asks: int, settings: DeliverySettings) -> datetime:
    """When to ask again if there is no answer to the `asks`-th request; the wait doubles each time."""
    wait = settings.commitment_timeout_s * 2.0 ** max(0, min(asks - 1, 32))
    return now() + timedelta(seconds=min(wait, max(_LONGEST_WAIT_S, settings.commitment_timeout_s)))


def open_transaction(session: Session, job_id: int, destination: str) -> str:
    """A new Transaction UID, in the database before anybody else knows it."""
    uid = str(generate_uid(prefix=None))
    session.add(CommitmentTransaction(transaction_uid=uid, job_id=job_id, destination=destination))
    return uid


def not_answered(session: Session, question: Question, reason: Reason, detail: str, again: datetime | None) -> None:
    """There is no commitment for these objects; asked for again at `again`, None: not any more.

    PEER_UNREACHABLE does not count as a request: nobody was there to answer it.
    """
    outbox.lock_job(session, question.job_id)
    of_question = Delivery.id.in_(item.delivery_id for item in question.items)
    values: dict[str, Any] = {"ask_at": again, "commitment_reason": reason, "commitment_detail": detail[:1000]}
    if reason is Reason.PEER_UNREACHABLE:
        values["asks"] = question.asks
    _update(session, of_question, Delivery.committed_at.is_(None), values=values)
    outbox.settle(session, question.job_id)


def ask_anew(session: Session, job_id: int) -> int:
    """Ask again, from the beginning, for what the node has given up asking for; how many objects."""
    of_job = Delivery.result_id.in_(select(Result.id).where(Result.job_id == job_id))
    given_up = (of_job, Delivery.asked, Delivery.sent_at.is_not(None), Delivery.committed_at.is_(None))
    values = {"ask_at": now(), "asks": 0, "commitment_reason": None, "commitment_detail": ""}
    count = _update(session, *given_up, Delivery.ask_at.is_(None), values=values)
    outbox.settle(session, job_id)
    return count


def not_asked(session: Session, question: Question) -> None:
    """The destination is not asked any more (its setting)."""
    outbox.lock_job(session, question.job_id)
    of_question = Delivery.id.in_(item.delivery_id for item in question.items)
    _update(session, of_question, values={"ask_at": None, "asked": False})
    outbox.settle(session, question.job_id)


def answered(
    session: Session,
    job_id: int,
    destination: str,
    asked_at: datetime,
    *,
    kept: Sequence[str],
    failed: Mapping[str, int],
    how: str,
    settings: DeliverySettings,
) -> None:
    """The destination keeps `kept` (SOP Instance UIDs) and does not keep `failed` (with Failure Reason).

    Only what was stored before `asked_at` is meant: a late answer says nothing about an object that was sent again
    meanwhile. What is not kept is sent again, a bounded number of times, then refused for good (COMMITMENT_FAILED).
    """
    outbox.lock_job(session, job_id)
    rows = session.execute(
        select(Delivery, Result.sop_instance_uid)
        .join(Result)
        .where(Result.job_id == job_id, Delivery.destination == destination, Delivery.sent_at <= asked_at)
        .execution_options(populate_existing=True)
    ).tuples()
    for delivery, uid in rows:
        if delivery.committed_at is not None:
            continue
        if uid in failed:
            _failed(delivery, failed[uid], settings)
        elif uid in kept:
            delivery.committed_at, delivery.committed_by = now(), how
            delivery.ask_at, delivery.asks = None, 0
            delivery.commitment_reason, delivery.commitment_detail = None, ""
    session.flush()
    outbox.settle(session, job_id)


def _failed(delivery: Delivery, status: int, settings: DeliverySettings) -> None:
    text = f"not kept: failure reason 0x{status:04X} ({_FAILURES.get(status, 'unknown')})"
    delivery.commitment_reason, delivery.commitment_detail = Reason.COMMITMENT_FAILED, text
    if status == _DUPLICATE_TRANSACTION:
        delivery.ask_at = next_question(delivery.asks, settings)
        return
    delivery.sent_at, delivery.ask_at, delivery.asks = None, None, 0
    delivery.lost += 1
    delivery.reason, delivery.detail = Reason.COMMITMENT_FAILED, text
    if delivery.lost > settings.commitment_resends or status == _CLASS_NOT_SUPPORTED:
        delivery.refused = True
    else:
        delivery.attempts, delivery.due_at = 0, outbox.next_attempt(delivery.lost, settings)


def _update(session: Session, *where: Any, values: dict[str, Any]) -> int:
    statement = update(Delivery).where(*where).values(values).execution_options(synchronize_session=False)
    return cast("CursorResult[Any]", session.execute(statement)).rowcount
