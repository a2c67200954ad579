"""The destinations as a table: circuit breaker, what waits, the last error, the next attempt."""

from datetime import datetime

from rich.table import Table
from rich.text import Text
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from config import Settings
from node import breaker
from node.outbox import is_open
from node.records import Breaker, Delivery, Job, Result
from node.states import State

_COLORS = {"closed": "green", "half-open": "yellow", "open": "red"}


def destination_table(session: Session, settings: Settings) -> Table | None:
    """A row for each destination of the settings, and for each other one that something waits for; None without any."""
    waits = select(Delivery.destination).where(is_open()).distinct()
    names = list(dict.fromkeys([*settings.destinations, *session.scalars(waits)]))
    if not names:
        return None
    table = Table(title="Destinations", title_justify="left")
    table.add_column("Destination", overflow="fold")
    table.add_column("Breaker", no_wrap=True)
    table.add_column("Waiting", no_wrap=True)
    table.add_column("Last error", overflow="fold")
    table.add_column("Next attempt", no_wrap=True)
    for name in names:
        table.add_row(*_row(session, settings, name))
    return table


def _row(session: Session, settings: Settings, name: str) -> tuple[str | Text, ...]:
    shut = session.get(Breaker, name)
    state = breaker.state(shut)
    destination = settings.destinations.get(name)
    of_jobs = select(func.count()).select_from(Delivery).join(Result).join(Job).where(Delivery.destination == name)
    waiting = session.scalar(of_jobs.where(is_open(), Job.state == State.ENCODED)) or 0
    uncommitted = session.scalar(of_jobs.where(Delivery.ask_at.is_not(None))) or 0
    error, upcoming = (f"{shut.reason}: {shut.detail}", shut.next_attempt_at) if shut else _object_error(session, name)
    return (
        f"{name}\n{destination.where if destination else 'not in the settings'}",
        Text(state, style=_COLORS[state]),
        f"{waiting} to send\n{uncommitted} to commit",
        Text(error),
        f"{upcoming:%Y-%m-%d\n%H:%M:%S} UTC" if upcoming else "",
    )


def _object_error(session: Session, name: str) -> tuple[str, datetime | None]:
    """The object that was tried last in vain, and when the first of them is tried again."""
    rows = select(Delivery).join(Result).join(Job).where(Delivery.destination == name, Job.state == State.ENCODED)
    tried = session.scalars(rows.where(is_open(), Delivery.reason.is_not(None)).order_by(Delivery.due_at)).all()
    if tried:
        return f"{tried[-1].reason}: {tried[-1].detail}", tried[0].due_at
    asked = select(Delivery).where(Delivery.destination == name, Delivery.ask_at.is_not(None))
    row = session.scalars(asked.order_by(Delivery.ask_at).limit(1)).first()
    if row is None:
        return "", None
    return (f"{row.commitment_reason}: {row.commitment_detail}" if row.commitment_reason else ""), row.ask_at
