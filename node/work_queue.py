"""Which queued job is next: the most urgent, and of these the oldest. The database says so, not the order of messages.

Research work comes last. So that it does not wait for ever, every tenth turn of a worker goes to research work that has
waited for `settings.work.research_wait_h`, unless something stat or urgent waits: it never takes more than a tenth.
"""

from datetime import datetime, timedelta

from sqlalchemy import Select, case, or_, select

from config import Priority
from node.records import Job, now
from node.states import State

RESEARCH_TURN = 10
"""One turn in so many may go to research work that has waited for long."""


def most_urgent(limit: int, research_before: datetime | None = None) -> Select[int]:
    """The ids of the `limit` jobs that are next, the first first. Those that wait for an archive are not among them.

    `research_before`: research work that has been there since before that goes ahead of routine work.
    """
    free = or_(Job.held_until.is_(None), Job.held_until <= now())
    query = select(Job.id).where(Job.state == State.QUEUED, free).limit(limit)
    if research_before is not None:
        waited = (Job.priority == Priority.RESEARCH) & (Job.created_at <= research_before)
        query = query.order_by(case((Job.priority < Priority.ROUTINE, 0), (waited, 1), else_=2))
    return query.order_by(Job.priority, Job.id)


def research_due(turn: int, wait_h: float) -> datetime | None:
    """Since when research work must have waited to be taken at a worker's `turn` (counted from 1); None: not now."""
    return now() - timedelta(hours=wait_h) if turn % RESEARCH_TURN == 0 else None
