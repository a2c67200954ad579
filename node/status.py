"""`fvlm-node status`: what the database knows, as tables."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text
from sqlalchemy import func, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, selectinload

from config import Reason, Settings
from node.errors import CommandError
from node.migrations import is_current
from node.node_lock import node_runs
from node.records import Delivery, Instance, Job, Records, Result, Series, State, Unreadable, open_database
from node.worker_starts import failed_starts

_COLORS = {
    State.SENT: "green",
    State.COMMITTED: "green",
    State.ENCODED: "cyan",
    State.REJECTED: "yellow",
    State.SUPERSEDED: "dim",
    State.FAILED: "red",
    State.QUARANTINED: "red",
}


def open_existing(settings: Settings) -> Records:
    """The node's database. Raises CommandError if it is not there, cannot be reached, or holds no records."""
    url = make_url(settings.database)
    if url.drivername.startswith("sqlite") and not Path(url.database or "").is_file():
        raise CommandError(
            f"{url.database} does not exist: no node has run with data_dir {settings.data_dir}.",
            "Name the node's configuration with --config, or start it: fvlm-node serve",
        )
    engine = open_database(settings.database)
    try:
        known = inspect(engine).has_table(Series.__tablename__)
        current = is_current(engine)
    except SQLAlchemyError as error:
        raise CommandError(
            f"The database {url.render_as_string()} cannot be reached ({type(error).__name__}).",
            "Check database_url, and that its server runs.",
        ) from error
    if not known:
        raise CommandError(f"{url.render_as_string()} holds no records.", "Start the node once: fvlm-node serve")
    if not current:
        raise CommandError(
            f"{url.render_as_string()} was written by another version of the node.",
            "Start this version once: fvlm-node serve brings an older database up to date",
        )
    return Records(engine)


def status_tables(settings: Settings, limit: int) -> list[Table]:
    """The newest `limit` series, newest first, and what is unreadable, if anything is. Holds no patient data."""
    with open_existing(settings).reading() as session:
        tables = [_series_table(session, settings.dicom.ae_title, limit)]
        unreadable = session.scalar(select(func.count()).select_from(Unreadable)) or 0
        if unreadable:
            tables.append(_unreadable_table(session, unreadable, limit))
    return tables


def problems(settings: Settings) -> list[str]:
    """What keeps the node as a whole from working, a line each: it does not run, or a worker has no model."""
    found = []
    if not node_runs(settings.data_dir):
        found.append(
            f"The node is not running: no process holds the data folder {settings.data_dir.resolve()}; nothing is "
            "received, read or sent. → fvlm-node serve"
        )
    with open_existing(settings).reading() as session:
        for row in failed_starts(session):
            reason = Reason(row.reason) if row.reason else Reason.INTERNAL
            found.append(
                f"Worker {row.worker} cannot work since {row.at:%Y-%m-%d %H:%M:%S} UTC: {reason}: {row.detail} "
                f"→ {reason.cure}"
            )
    return found


def _series_table(session: Session, ae_title: str, limit: int) -> Table:
    """Images, state, reason and deliveries; four columns, so that it fits a terminal of 80 characters."""
    table = Table(title=f"Series of the node {ae_title}", title_justify="left")
    table.add_column("Last image", no_wrap=True)
    table.add_column("Series", overflow="fold")
    table.add_column("State", no_wrap=True)
    table.add_column("Why", overflow="fold")
    newest = select(Series).order_by(Series.last_at.desc(), Series.id.desc()).limit(limit)
    loaded = newest.options(selectinload(Series.jobs).selectinload(Job.results).selectinload(Result.deliveries))
    for series in session.scalars(loaded):
        table.add_row(*_series_row(session, series))
    return table


def _series_row(session: Session, series: Series) -> tuple[str | Text, ...]:
    counts = select(Instance.conflict, func.count()).where(Instance.series_id == series.id).group_by(Instance.conflict)
    images = dict(session.execute(counts).tuples().all())
    job = max(series.jobs, key=lambda job: job.id, default=None)
    deliveries: list[Delivery] = [] if job is None else [d for r in job.results for d in r.deliveries]
    name = series.series_instance_uid + (f" ({series.generation})" if series.generation > 1 else "")
    return (
        f"{series.last_at:%Y-%m-%d\n%H:%M:%S} UTC",
        f"{name}\n{images.get(False, 0)} images from {series.source_ae}",
        _state(series, job, deliveries),
        Text("\n".join(_why(series, job, deliveries, images.get(True, 0)))),
    )


def _waiting(deliveries: Sequence[Delivery]) -> Delivery | None:
    """The first delivery that was tried in vain."""
    return next((d for d in deliveries if d.sent_at is None and d.reason is not None), None)


def _state(series: Series, job: Job | None, deliveries: Sequence[Delivery]) -> Text:
    """State, reason code, job and how much was sent: a line each."""
    row, waiting = job or series, _waiting(deliveries)
    reason = row.reason or (waiting and waiting.reason)
    lines = [] if reason is None else [str(reason)]
    if job is not None:
        lines.append(f"job {job.id}")
    if deliveries:
        lines.append(f"sent {sum(d.sent_at is not None for d in deliveries)} of {len(deliveries)}")
    state = Text(State(row.state), style=_COLORS.get(State(row.state), ""))
    return state.append("".join(f"\n{line}" for line in lines), style="default")


def _why(series: Series, job: Job | None, deliveries: Sequence[Delivery], conflicts: int) -> list[str]:
    """Why it is in this state, what vetting noted, and how many images are in conflict."""
    row, waiting = job or series, _waiting(deliveries)
    lines = [row.detail]
    if row.reason is not None and not row.detail:
        lines.append(Reason(row.reason).meaning)
    if row.reason is None and waiting is not None:
        lines.append(waiting.detail)
    return [line for line in dict.fromkeys([*lines, *notes(series, conflicts)]) if line]


def notes(series: Series, conflicts: int) -> list[str]:
    """What a person should know of a series beside its state: what vetting left out, and images in conflict."""
    told = [] if series.reason is not None or not series.detail else [series.detail]
    if conflicts:
        told.append(
            f"{Reason.DUPLICATE_CONFLICT}: {conflicts} came again with other bytes under a SOP Instance UID already "
            "known (another transfer syntax, or changed); what came first is used"
        )
    return told


def _unreadable_table(session: Session, total: int, limit: int) -> Table:
    table = Table(title=f"Unreadable: kept in the spool, never read ({total} in all)", title_justify="left")
    table.add_column("Received", no_wrap=True)
    table.add_column("SOP instance, segment and byte", overflow="fold")
    table.add_column("Why", overflow="fold")
    for row in session.scalars(select(Unreadable).order_by(Unreadable.id.desc()).limit(limit)):
        reason = Reason(row.reason)
        sender = f" from {row.source_ae}" if row.source_ae else ""
        table.add_row(
            f"{row.received_at:%Y-%m-%d\n%H:%M:%S} UTC",
            f"{row.sop_instance_uid or 'unknown'}{sender}\n{row.segment} {row.offset}",
            Text(f"{reason}: {row.detail or reason.meaning} → {reason.cure}"),
        )
    return table
