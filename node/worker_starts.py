"""How the analyze workers started: whoever cannot load the model says so in the database, where `status` finds it."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from config import Reason
from node.database import Records
from node.records import WorkerStart, now


def note_start(records: Records, worker: str, reason: Reason | None = None, detail: str = "") -> None:
    """Write down that `worker` has started, or why it could not. Raises sqlalchemy.exc.DBAPIError."""
    with records.session() as session:
        session.merge(WorkerStart(worker=worker, at=now(), reason=reason, detail=detail[:1000]))


def failed_starts(session: Session) -> Sequence[WorkerStart]:
    """Workers whose last start failed."""
    query = select(WorkerStart).where(WorkerStart.reason.is_not(None)).order_by(WorkerStart.worker)
    return session.scalars(query).all()
