"""Worklists for a person: whether they answer, what the node holds of them, and the newest claims."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.orm import Session

from config import Priority, Reason, Settings
from node.records import WorkitemClaim, WorklistContact
from node.worklist import claims


def worklists_table(session: Session, settings: Settings) -> Table:
    """A row for each worklist of the settings."""
    table = Table(title="Worklists", title_justify="left")
    table.add_column("Worklist", overflow="fold")
    table.add_column("Answered", no_wrap=True)
    table.add_column("Workitems", overflow="fold")
    table.add_column("Why", overflow="fold")
    for name, worklist in settings.worklists.items():
        row = session.get(WorklistContact, name)
        counts = claims.counts(session, name)
        seen = "never" if row is None or row.seen_at is None else f"{row.seen_at:%Y-%m-%d\n%H:%M:%S} UTC"
        table.add_row(
            Text(f"{name} ({worklist.kind})\n{worklist.where}"),
            seen,
            "\n".join(f"{phase}: {counts[phase]}" for phase in claims.Phase if phase in counts) or "none",
            Text("" if row is None else _why(row.reason, row.detail)),
        )
    return table


def claims_table(session: Session, limit: int) -> Iterator[Table]:
    """The newest claims, if there are any."""
    rows = session.scalars(select(WorkitemClaim).order_by(WorkitemClaim.id.desc()).limit(limit)).all()
    if not rows:
        return
    table = Table(title="Workitems", title_justify="left")
    table.add_column("Claimed", no_wrap=True)
    table.add_column("Workitem", overflow="fold")
    table.add_column("State", overflow="fold")
    table.add_column("Why", overflow="fold")
    for row in rows:
        priority = Priority(row.priority).label
        told = f"{row.phase}\n{row.progress} %" if row.phase in claims.OPEN and row.progress >= 0 else row.phase
        table.add_row(
            f"{row.claimed_at:%Y-%m-%d\n%H:%M:%S} UTC",
            Text(f"{row.uid}\n{row.worklist}, {priority}, {len(row.inputs)} series"),
            Text(told + ("\ncancellation asked for" if row.cancel_asked else "")),
            Text(_why(row.reason, row.detail)),
        )
    yield table


def _why(reason: Reason | None, detail: str) -> str:
    if reason is None:
        return detail
    code = Reason(reason)
    return f"{code}: {detail or code.meaning} → {code.cure}"
