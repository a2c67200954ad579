"""What failed in the node since the last mail about it: counts, reason codes, job numbers. No patient data.

A mail covers a stretch of time that begins where the one before ended; the next may follow after `every_min`. A
destination is told of when it has been away for some minutes: most are back before anybody could look.
"""

import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config import Reason, Settings
from config.message_settings import MailDestination
from node.messages.rows import Kind
from node.records import Breaker, Job, Message, WorkerStart
from node.states import State

_SETTLED = timedelta(seconds=10)
"""Transactions that began longer ago have been committed."""
_PATIENCE = timedelta(minutes=5)
"""How long a destination is away before somebody is told."""
_NAMED = 20
"""Job numbers in a line, at most."""


def note(session: Session, settings: Settings, at: datetime) -> None:
    """Write a message to each mail destination for which there is something new and which may get one again."""
    for name, receiver in settings.messages.destinations.items():
        if not isinstance(receiver, MailDestination):
            continue
        pause, until = timedelta(minutes=receiver.every_min), at - _SETTLED
        query = select(Message).where(Message.destination == name, Message.kind == Kind.FAILURES)
        last = session.scalars(query.order_by(Message.id.desc()).limit(1)).first()
        if last is not None and _too_early(last, at, pause):
            continue
        since = until - pause if last is None else min(last.as_of, until)
        if lines := list(failed(session, since, until)):
            content: dict[str, Any] = {"since": since.isoformat(timespec="minutes"), "lines": lines}
            row = Message(destination=name, kind=Kind.FAILURES, message_id=secrets.token_hex(16), as_of=until)
            row.content = content
            session.add(row)


def _too_early(last: Message, at: datetime, pause: timedelta) -> bool:
    if last.sent_at is None and not last.refused:
        return True
    return last.as_of <= at < (last.sent_at or last.as_of) + pause


def failed(session: Session, since: datetime, until: datetime) -> Iterator[str]:
    """A line for each thing that failed after `since`, until `until`."""
    jobs = select(Job.state, Job.reason, Job.id).where(
        Job.state.in_((State.FAILED, State.QUARANTINED)),
        func.coalesce(Job.reason, "").not_in((Reason.CANCELLED, Reason.SKIPPED_BY_RULE)),
        Job.changed_at > since,
        Job.changed_at <= until,
    )
    groups: dict[tuple[State, Reason], list[int]] = {}
    for state, why, job_id in session.execute(jobs.order_by(Job.id)).tuples():
        groups.setdefault((State(state), Reason(why or Reason.INTERNAL)), []).append(job_id)
    for (state, reason), ids in groups.items():
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        numbers = ", ".join(map(str, ids[:_NAMED]))
        yield f"{len(ids)} job(s) {state} with {reason}: {reason.meaning} Jobs {numbers}{more}. Cure: {reason.cure}"
    starts = select(WorkerStart).where(WorkerStart.reason.is_not(None), WorkerStart.at > since, WorkerStart.at <= until)
    for start in session.scalars(starts.order_by(WorkerStart.worker)):
        reason = Reason(start.reason or Reason.INTERNAL)
        yield f"A worker cannot start: {reason}: {reason.meaning} Cure: {reason.cure}"
    unheard = (
        select(Message.destination, Message.reason, func.count())
        .where(Message.refused, Message.due_at > since, Message.due_at <= until)
        .group_by(Message.destination, Message.reason)
    )
    for name, why, count in session.execute(unheard).tuples():
        reason = Reason(why or Reason.INTERNAL)
        yield f"{count} message(s) to {name} refused: {reason}. Which and why: fvlm-node status; fvlm-node retry JOB"
    away = select(Breaker).where(Breaker.since > since - _PATIENCE, Breaker.since <= until - _PATIENCE)
    for row in session.scalars(away.order_by(Breaker.destination)):
        reason = Reason(row.reason or Reason.PEER_UNREACHABLE)
        yield (
            f"Destination {row.destination} takes nothing since {row.since:%Y-%m-%d %H:%M} UTC: {reason}: "
            f"{reason.meaning} Cure: {reason.cure}"
        )
