"""Storage commitment requests in SQL: what is kept of what was asked, which report is due, and how it ended."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, undefer

from config import Reason
from config.settings import DeliverySettings
from node.commitment import CLASS_CONFLICT, NO_SUCH_INSTANCE, Failure, Reference, Request
from node.outbox import next_attempt
from node.records import CommitmentRequest, Instance, SpoolSegment, now

_CHUNK = 500
"""UIDs in one query."""
_AT_ONCE = 50
"""Reports in one pass."""
_OWN_ASSOCIATION_S = 4.0
"""How long the report is left to the association of the request, seconds."""
_KEPT = timedelta(days=30)
"""How long requests that are done are remembered."""


def take(session: Session, spool_dir: Path, request: Request) -> list[Failure]:
    """Write a request down with its verdict; what of it is not kept. A request that was taken before keeps its verdict.

    The caller knows that the index holds everything that was in the spool before the request.
    """
    known = session.scalar(select(CommitmentRequest).where(CommitmentRequest.token == request.token))
    if known is not None:
        return [(str(sop_class), str(uid), int(why)) for sop_class, uid, why in known.failures]
    failures = list(_failures(session, spool_dir, request.references))
    session.add(
        CommitmentRequest(
            token=request.token,
            transaction_uid=request.transaction_uid,
            calling_ae=request.calling_ae,
            called_ae=request.called_ae,
            received_at=request.received_at,
            references=[list(reference) for reference in request.references],
            failures=[list(failure) for failure in failures],
            due_at=now() + timedelta(seconds=_OWN_ASSOCIATION_S),
        )
    )
    done = CommitmentRequest.ended_at < now() - _KEPT
    session.execute(delete(CommitmentRequest).where(done, CommitmentRequest.weighed))
    return failures


def _failures(session: Session, spool_dir: Path, references: Sequence[Reference]) -> Iterator[Failure]:
    """What the index does not have in the spool, and what it has under another SOP class."""
    classes: dict[str, set[str]] = {}
    there: dict[str, bool] = {}
    for uids in chunks(uid for _, uid in references):
        held = select(Instance.sop_instance_uid, Instance.sop_class_uid, Instance.segment).join(
            SpoolSegment, SpoolSegment.name == Instance.segment
        )
        kept = held.where(Instance.sop_instance_uid.in_(uids), SpoolSegment.released_at.is_(None))
        for uid, sop_class, segment in session.execute(kept):
            if there.setdefault(segment, (spool_dir / segment).is_file()):
                classes.setdefault(uid, set()).add(sop_class)
    for sop_class, uid in references:
        if uid not in classes:
            yield sop_class, uid, NO_SUCH_INSTANCE
        elif sop_class not in classes[uid]:
            yield sop_class, uid, CLASS_CONFLICT


def due(session: Session) -> dict[str, list[CommitmentRequest]]:
    """Requests whose report is due, oldest first, by the AE title that asked."""
    query = select(CommitmentRequest).where(CommitmentRequest.ended_at.is_(None), CommitmentRequest.due_at <= now())
    loaded = query.options(undefer(CommitmentRequest.references), undefer(CommitmentRequest.failures))
    found: dict[str, list[CommitmentRequest]] = {}
    for row in session.scalars(loaded.order_by(CommitmentRequest.id).limit(_AT_ONCE)):
        found.setdefault(row.calling_ae, []).append(row)
    return found


def end(session: Session, token: str) -> None:
    """The sender has confirmed the report."""
    session.execute(
        update(CommitmentRequest)
        .where(CommitmentRequest.token == token, CommitmentRequest.ended_at.is_(None))
        .values(ended_at=now(), reason=None, detail="")
    )


def postpone(
    session: Session, token: str, reason: Reason, detail: str, settings: DeliverySettings, give_up_s: float
) -> datetime | None:
    """The report did not arrive: when it is sent again; None if it is given up, `give_up_s` after the request."""
    row = session.scalars(
        select(CommitmentRequest).where(CommitmentRequest.token == token).with_for_update()
    ).one_or_none()
    if row is None or row.ended_at is not None:
        return None
    row.attempts += 1
    row.reason, row.detail = reason, detail[:1000]
    row.due_at = next_attempt(row.attempts, settings)
    if now() - row.received_at > timedelta(seconds=give_up_s):
        row.ended_at = now()
        return None
    return row.due_at


def chunks(uids: Iterable[str]) -> Iterator[list[str]]:
    """Lists that fit into one query."""
    rest = iter(uids)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk
