"""The node's memory of the workitems that it has claimed, in SQL: it survives every restart."""

from datetime import timedelta
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config import Reason
from node.records import WorkitemClaim, WorklistContact, now
from node.worklist.workitem import Workitem

_SEEN_EVERY = timedelta(minutes=1)
_LONGEST = 1000


class Phase(StrEnum):
    """How far a claim is."""

    CLAIMING = "CLAIMING"
    """The Transaction UID is kept; whether the worklist has taken it is not known yet."""
    HELD = "HELD"
    """The workitem is IN PROGRESS with our Transaction UID."""
    COMPLETED = "COMPLETED"
    """Ended with outputs."""
    CANCELED = "CANCELED"
    """Ended with a reason."""
    LOST = "LOST"
    """Somebody else has it, or had it ended."""


OPEN = (Phase.CLAIMING, Phase.HELD)


def begin(session: Session, worklist: str, item: Workitem, transaction: str) -> int:
    """Remember a claim that is about to be made; its id. Raises sqlalchemy.exc.IntegrityError if there is one."""
    row = WorkitemClaim(
        worklist=worklist,
        uid=item.uid,
        transaction_uid=transaction,
        phase=str(Phase.CLAIMING),
        inputs=[[one.study, one.series] for one in item.inputs],
        priority=int(item.priority),
    )
    session.add(row)
    session.flush()
    return row.id


def open_claims(session: Session, worklist: str) -> list[WorkitemClaim]:
    """Claims that have not ended, most urgent and oldest first."""
    query = select(WorkitemClaim).where(WorkitemClaim.worklist == worklist, WorkitemClaim.phase.in_(OPEN))
    return list(session.scalars(query.order_by(WorkitemClaim.priority, WorkitemClaim.id)))


def known(session: Session, worklist: str, uids: list[str]) -> set[str]:
    """Which of these were claimed, or tried to be, before."""
    query = select(WorkitemClaim.uid).where(WorkitemClaim.worklist == worklist, WorkitemClaim.uid.in_(uids))
    return set(session.scalars(query))


def move(session: Session, claim_id: int, phase: Phase, reason: Reason | None = None, detail: str = "") -> None:
    """Another phase; the end is timed."""
    row = session.get_one(WorkitemClaim, claim_id)
    row.phase, row.reason, row.detail = str(phase), reason, detail[:_LONGEST]
    row.ended_at = None if phase in OPEN else now()


def ask_cancel(session: Session, worklist: str, uid: str) -> bool:
    """Somebody asks for its cancellation; False if the node does not hold it."""
    query = select(WorkitemClaim).where(
        WorkitemClaim.worklist == worklist, WorkitemClaim.uid == uid, WorkitemClaim.phase.in_(OPEN)
    )
    row = session.scalars(query).one_or_none()
    if row is not None:
        row.cancel_asked = True
    return row is not None


def contact(session: Session, worklist: str, reason: Reason | None = None, detail: str = "") -> None:
    """How it went with a worklist: with a reason it is away."""
    row = session.get(WorklistContact, worklist)
    if row is None:
        row = WorklistContact(worklist=worklist)
        session.add(row)
    row.reason, row.detail = reason, detail[:_LONGEST]
    if reason is None and (row.seen_at is None or now() - row.seen_at > _SEEN_EVERY):
        row.seen_at = now()


def counts(session: Session, worklist: str) -> dict[str, int]:
    """Claims in each phase."""
    query = select(WorkitemClaim.phase, func.count()).where(WorkitemClaim.worklist == worklist)
    return dict(session.execute(query.group_by(WorkitemClaim.phase)).tuples().all())
