"""The destinations of messages as a table: circuit breaker, what waits, what was refused, the last error."""

from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session

from config import Settings
from node.messages.standing import Standing, standings

_COLORS = {"closed": "green", "half-open": "yellow", "open": "red"}


def message_table(session: Session, settings: Settings) -> Table | None:
    """A row for each destination; None without any."""
    found = standings(session, settings)
    if not found:
        return None
    table = Table(title="Messages", title_justify="left")
    table.add_column("Destination", overflow="fold")
    table.add_column("Breaker", no_wrap=True)
    table.add_column("Waiting", no_wrap=True)
    table.add_column("Last error", overflow="fold")
    table.add_column("Next attempt", no_wrap=True)
    for one in found:
        table.add_row(*_row(one))
    return table


def _row(one: Standing) -> tuple[str | Text, ...]:
    return (
        f"{one.name}\n{f'{one.kind} {one.where}' if one.kind else 'not in the settings'}",
        Text(one.breaker, style=_COLORS[one.breaker]),
        f"{one.waiting} to send\n{one.refused} refused",
        Text(f"{one.reason}: {one.detail}" if one.reason else ""),
        f"{one.next_attempt:%Y-%m-%d\n%H:%M:%S} UTC" if one.next_attempt else "",
    )
