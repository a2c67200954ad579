"""`fvlm-node status`: what the database knows, as a table."""

from pathlib import Path

from rich.table import Table
from rich.text import Text
from sqlalchemy import func, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, selectinload

from config import Reason, Settings
from node.errors import CommandError
from node.records import Delivery, Instance, Job, Records, Result, Series, State, open_database

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
    except SQLAlchemyError as error:
        raise CommandError(
            f"The database {url.render_as_string()} cannot be reached ({type(error).__name__}).",
            "Check database_url, and that its server runs.",
        ) from error
    if not known:
        raise CommandError(f"{url.render_as_string()} holds no records.", "Start the node once: fvlm-node serve")
    return Records(engine)


def status_table(settings: Settings, limit: int) -> Table:
    """The newest `limit` series, newest first: state, reason, results and deliveries. Holds no patient data."""
    table = Table(title=f"Series of the node {settings.dicom.ae_title}", title_justify="left")
    for column, kind in (("Last image (UTC)", "left"), ("From", "left"), ("Series", "left"), ("Images", "right")):
        table.add_column(column, justify="right" if kind == "right" else "left", overflow="fold")
    for column in ("State", "Why", "Delivered"):
        table.add_column(column, overflow="fold")
    with open_existing(settings).session() as session:
        newest = select(Series).order_by(Series.last_at.desc(), Series.id.desc()).limit(limit)
        loaded = newest.options(
            selectinload(Series.jobs).selectinload(Job.results).selectinload(Result.deliveries)
        )
        for series in session.scalars(loaded):
            table.add_row(*_row(session, series))
    return table


def _row(session: Session, series: Series) -> tuple[str | Text, ...]:
    images = session.scalar(select(func.count()).where(Instance.series_id == series.id, ~Instance.conflict))
    job = max(series.jobs, key=lambda job: job.id, default=None)
    row = series if job is None else job
    why = ""
    if row.reason is not None:
        why = f"{row.reason}: {row.detail or Reason(row.reason).meaning}"
    deliveries: list[Delivery] = [] if job is None else [d for r in job.results for d in r.deliveries]
    waiting = next((d for d in deliveries if d.sent_at is None and d.reason is not None), None)
    if waiting is not None and not why:
        why = f"{waiting.reason}: {waiting.detail}"
    delivered = f"{sum(d.sent_at is not None for d in deliveries)} of {len(deliveries)}" if deliveries else ""
    name = series.series_instance_uid + (f" ({series.generation})" if series.generation > 1 else "")
    return (
        f"{series.last_at:%Y-%m-%d %H:%M:%S}",
        series.source_ae,
        name,
        str(images),
        Text(State(row.state), style=_COLORS.get(State(row.state), "")),
        why,
        delivered,
    )
