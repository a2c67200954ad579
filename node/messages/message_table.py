"""The destinations of messages as a table: circuit breaker, what waits, what was refused, the last error."""

from rich.table import Table
from rich.text import Text
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config import Settings
from node import breaker
from node.messages.rows import waiting
from node.outbox import is_open
from node.records import Breaker, Message

_COLORS = {"closed": "green", "half-open": "yellow", "open": "red"}


def message_table(session: Session, settings: Settings) -> Table | None:
    """A row for each destination of the settings, and for each other one that refused something; None without any."""
    peers, counts = settings.messages.destinations, waiting(session)
    query = select(Message.destination, func.count()).where(Message.refused).group_by(Message.destination)
    refused = dict(session.execute(query).tuples().all())
    names = list(dict.fromkeys([*peers, *counts, *refused]))
    if not names:
        return None
    table = Table(title="Messages", title_justify="left")
    table.add_column("Destination", overflow="fold")
    table.add_column("Breaker", no_wrap=True)
    table.add_column("Waiting", no_wrap=True)
    table.add_column("Last error", overflow="fold")
    for name in names:
        shut = session.get(Breaker, name)
        state = breaker.state(shut)
        where = f"{peers[name].kind} {peers[name].where}" if name in peers else "not in the settings"
        table.add_row(
            f"{name}\n{where}",
            Text(state, style=_COLORS[state]),
            f"{counts.get(name, 0)} to send\n{refused.get(name, 0)} refused",
            Text(_error(session, name, shut)),
        )
    return table


def _error(session: Session, name: str, shut: Breaker | None) -> str:
    """Why the destination is away, else what was told last of a message that has not arrived."""
    if shut is not None:
        return f"{shut.reason}: {shut.detail}\nnext attempt {shut.next_attempt_at:%Y-%m-%d %H:%M:%S} UTC"
    query = select(Message).where(Message.destination == name, Message.reason.is_not(None), Message.sent_at.is_(None))
    row = session.scalars(query.order_by(is_open(Message).desc(), Message.id.desc()).limit(1)).first()
    if row is None:
        return ""
    job = f" (job {row.job_id})" if row.job_id is not None else ""
    return f"{row.reason}: {row.detail}{job}"
