"""How each destination of messages stands: for `status`, the console and whoever else shows it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config import Reason, Settings
from node import breaker
from node.messages.rows import waiting
from node.outbox import is_open
from node.records import Breaker, Message


@dataclass(frozen=True)
class Standing:
    """One destination."""

    name: str
    kind: str
    """Empty if it is not in the settings (any more)."""
    where: str
    breaker: str
    """closed, open or half-open"""
    sent: int
    waiting: int
    refused: int
    reason: Reason | None
    """Why it is away, else why the newest message that was tried in vain has not arrived."""
    detail: str
    next_attempt: datetime | None


def standings(session: Session, settings: Settings) -> list[Standing]:
    """Those of the settings first, then those that only old messages know."""
    query = select(Message.destination, func.count(Message.sent_at), func.count().filter(Message.refused)).group_by(
        Message.destination
    )
    counts = {name: (sent, refused) for name, sent, refused in session.execute(query).tuples()}
    to_send, peers = waiting(session), settings.messages.destinations
    found = []
    for name in dict.fromkeys([*peers, *counts]):
        shut, tried = session.get(Breaker, name), _tried_in_vain(session, name)
        sent, refused = counts.get(name, (0, 0))
        error: Breaker | Message | None = shut or tried
        upcoming = tried.due_at if tried is not None and not tried.refused else None
        job = f" (job {tried.job_id})" if error is tried and tried is not None and tried.job_id is not None else ""
        found.append(
            Standing(
                name=name,
                kind=peers[name].kind if name in peers else "",
                where=peers[name].where if name in peers else "",
                breaker=breaker.state(shut),
                sent=sent,
                waiting=to_send.get(name, 0),
                refused=refused,
                reason=Reason(error.reason) if error is not None and error.reason else None,
                detail=f"{error.detail}{job}" if error is not None else "",
                next_attempt=shut.next_attempt_at if shut is not None else upcoming,
            )
        )
    return found


def _tried_in_vain(session: Session, name: str) -> Message | None:
    """The newest message that was, one that still waits before one that was refused."""
    query = select(Message).where(Message.destination == name, Message.reason.is_not(None), Message.sent_at.is_(None))
    return session.scalars(query.order_by(is_open(Message).desc(), Message.id.desc()).limit(1)).first()
