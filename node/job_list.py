"""`fvlm-node jobs`: jobs in the order in which they will be taken, or by state, as a table."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text
from sqlalchemy import case, func, select
from sqlalchemy.orm import joinedload

from config import Priority, Reason
from node.database import Records
from node.errors import CommandError
from node.records import Job
from node.states import OF_JOBS, State

_ORDER = (State.RUNNING, State.QUEUED)
"""What comes first; the rest is newest first."""


def states_named(names: Sequence[str]) -> list[State]:
    """The states of jobs of these names, in any case. Raises CommandError."""
    known = {str(state): state for state in OF_JOBS}
    unknown = [name for name in names if name.upper() not in known]
    if unknown:
        raise CommandError(f"No job is ever in the state {', '.join(unknown)}.", f"One of: {', '.join(known)}")
    return [known[name.upper()] for name in names]


def jobs_table(records: Records, states: Sequence[State], limit: int) -> Table:
    """The jobs in `states` (none: in all): what runs, what waits in its order, then the others. Holds no patient data.

    Raises sqlalchemy.exc.DBAPIError.
    """
    place = case({state: number for number, state in enumerate(_ORDER)}, value=Job.state, else_=len(_ORDER))
    query = select(Job).where(Job.state.in_(states)) if states else select(Job)
    with records.reading() as session:
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        shown = query.options(joinedload(Job.series)).limit(limit)
        waits = case((Job.state.in_(_ORDER), Job.id), else_=-Job.id)
        urgent = case((Job.state.in_(_ORDER), Job.priority), else_=0)
        jobs = session.scalars(shown.order_by(place, urgent, waits)).all()
    table = Table(title=f"Jobs: {len(jobs)} of {total}", title_justify="left")
    for name in ("Job", "Priority"):
        table.add_column(name, no_wrap=True)
    table.add_column("Series", overflow="fold")
    table.add_column("State", no_wrap=True)
    table.add_column("Why", overflow="fold")
    for job in jobs:
        table.add_row(*_row(job))
    return table


def _row(job: Job) -> tuple[str | Text, ...]:
    series = job.series
    name = series.series_instance_uid + (f" ({series.generation})" if series.generation > 1 else "")
    why = [Reason(job.reason).meaning if job.reason and not job.detail else job.detail]
    if job.frugal and job.state in _ORDER:
        why.append("in the smaller configuration")
    state = "\n".join(filter(None, [job.state, job.reason, f"attempt {job.attempts}" if job.attempts else ""]))
    return (
        str(job.id),
        Priority(job.priority).label,
        f"{name}\nfrom {series.source_ae}",
        state,
        Text("\n".join(filter(None, [*why, f"since {job.changed_at:%Y-%m-%d %H:%M:%S} UTC"]))),
    )
