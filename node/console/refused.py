"""Who knocked and was refused an association: the one place where the console learns of it."""

from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from node.console.views import Page, RefusedRow, Why
from node.records import Base

KEPT: Table | None = Base.metadata.tables.get("knock")
"""The table of refused callers; None in a version whose database does not keep them: then they stand only in
`logs/receiver.log`, and the page says so."""


def refused_callers(session: Session, page: int, limit: int, kept: Table | None = KEPT) -> Page[RefusedRow] | None:
    """The last ones first; None if they are not kept in the database."""
    if kept is None:
        return None
    query = select(kept).order_by(kept.c.last_at.desc(), kept.c.id.desc())
    rows = session.execute(query.offset((page - 1) * limit).limit(limit + 1)).all()
    found = [
        RefusedRow(
            calling_ae=row.calling_ae,
            called_ae=row.called_ae,
            host=row.host,
            reason=Why.of_code(row.reason),
            count=row.count,
            first_at=row.first_at,
            last_at=row.last_at,
        )
        for row in rows[:limit]
    ]
    return Page(rows=found, page=page, more=len(rows) > limit)
