"""Who knocked and was refused an association."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from config import Reason
from node.console.views import Page, RefusedRow, Why
from node.records import Knock


def refused_callers(session: Session, page: int, limit: int) -> Page[RefusedRow]:
    """The last ones first."""
    query = select(Knock).order_by(Knock.last_at.desc(), Knock.id.desc())
    rows = session.scalars(query.offset((page - 1) * limit).limit(limit + 1)).all()
    found = [
        RefusedRow(
            calling_ae=row.calling_ae,
            called_ae=row.called_ae,
            host=row.host,
            reason=Why.of_code(Reason(row.reason)),
            count=row.count,
            first_at=row.first_at,
            last_at=row.last_at,
        )
        for row in rows[:limit]
    ]
    return Page(rows=found, page=page, more=len(rows) > limit)
