"""`fvlm-node status`: what the database knows, as tables."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table
from rich.text import Text
from sqlalchemy import func, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from config import Reason, Settings
from node.archive_table import archive_tables
from node.console.notice import Notice
from node.database import Records, open_database
from node.destination_table import destination_table
from node.errors import CommandError
from node.messages.message_table import message_table
from node.migrations import is_current
from node.node_lock import node_runs
from node.records import CommitmentRequest, Knock, OrthancCursor, OrthancWanted, Series, Unreadable
from node.releases.standing import standing
from node.series_status import SeriesStatus, load, newest_first
from node.states import State
from node.worker_starts import failed_starts
from node.worklist.table import worklists_table

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
    """The newest `limit` series, newest first, the destinations of results and messages; and if there is any: what is
    unreadable, what archives did not give, which senders could not be told what is kept, and who was refused an
    association. Holds no patient data.
    """
    with open_existing(settings).reading() as session:
        tables = [_series_table(session, settings.dicom.ae_title, limit)]
        if (destinations := destination_table(session, settings)) is not None:
            tables.append(destinations)
        if settings.orthancs:
            tables.append(_orthanc_table(session, settings))
        if settings.worklists:
            tables.append(worklists_table(session, settings))
        if (told := message_table(session, settings)) is not None:
            tables.append(told)
        unreadable = session.scalar(select(func.count()).select_from(Unreadable)) or 0
        if unreadable:
            tables.append(_unreadable_table(session, unreadable, limit))
        tables += [
            *archive_tables(session, settings, limit),
            *_commitment_table(session, limit),
            *_knocks_table(session, limit),
        ]
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


def console_line(settings: Settings) -> list[str]:
    """Where the web console is, or why it is not to be seen; nothing if there never was one."""
    told = Notice.of(settings.data_dir).read() if settings.console.enabled else ""
    return [f"Console: {told}"] if told else []


def release_lines(settings: Settings) -> list[str]:
    """Which release is in force, and which one is in shadow."""
    with open_existing(settings).reading() as session:
        return standing(session, settings).lines()


def _series_table(session: Session, ae_title: str, limit: int) -> Table:
    """Images, state, reason and deliveries; four columns, so that it fits a terminal of 80 characters."""
    table = Table(title=f"Series of the node {ae_title}", title_justify="left")
    table.add_column("Last image", no_wrap=True)
    table.add_column("Series", overflow="fold")
    table.add_column("State", no_wrap=True)
    table.add_column("Why", overflow="fold")
    for status in load(session, newest_first().limit(limit)):
        table.add_row(*_series_row(status))
    return table


def _series_row(status: SeriesStatus) -> tuple[str | Text, ...]:
    series = status.series
    return (
        f"{series.last_at:%Y-%m-%d\n%H:%M:%S} UTC",
        "\n".join((status.name, f"{status.images} images from {series.source_ae}", *status.completeness())),
        _state(status),
        Text("\n".join(status.why())),
    )


def _state(status: SeriesStatus) -> Text:
    """State, reason code, job and how much was sent: a line each."""
    lines = [] if status.reason is None else [str(status.reason)]
    if status.job is not None:
        lines.append(f"job {status.job.id}")
    if status.deliveries:
        lines.append(f"sent {status.sent} of {len(status.deliveries)}")
    if status.asked:
        lines.append(f"committed {status.committed} of {len(status.asked)}")
    state = Text(status.state, style=_COLORS.get(status.state, ""))
    return state.append("".join(f"\n{line}" for line in lines), style="default")


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


def _orthanc_table(session: Session, settings: Settings) -> Table:
    """Orthancs whose series are fetched: whether they answer, and which series could not be fetched as a whole."""
    table = Table(title="Orthancs", title_justify="left")
    table.add_column("Source", overflow="fold")
    table.add_column("Answered", no_wrap=True)
    table.add_column("Why", overflow="fold")
    for name, source in settings.orthancs.items():
        row = session.get(OrthancCursor, name)
        query = select(OrthancWanted.reason, func.count()).filter_by(source=name, waits=False)
        failed = session.execute(query.group_by(OrthancWanted.reason)).tuples().all()
        lines = [f"{row.reason}: {row.detail}"] if row is not None and row.reason is not None else []
        lines += [f"{count} series not fetched: {reason}" for reason, count in failed]
        seen = "never" if row is None else f"{row.seen_at:%Y-%m-%d\n%H:%M:%S} UTC"
        table.add_row(f"{name}\n{source.url}", seen, Text("\n".join(lines)))
    return table


def _commitment_table(session: Session, limit: int) -> Iterator[Table]:
    """Storage commitment requests whose report does not get through, or was given up."""
    query = select(CommitmentRequest).where(CommitmentRequest.reason.is_not(None))
    rows = session.scalars(query.order_by(CommitmentRequest.id.desc()).limit(limit)).all()
    if not rows:
        return
    table = Table(title="Storage commitment: senders that could not be told", title_justify="left")
    table.add_column("Asked", no_wrap=True)
    table.add_column("Sender", overflow="fold")
    table.add_column("Why", overflow="fold")
    for row in rows:
        reason = Reason(row.reason or Reason.INTERNAL)
        state = "given up" if row.ended_at is not None else f"tried {row.attempts} times, goes on"
        table.add_row(
            f"{row.received_at:%Y-%m-%d\n%H:%M:%S} UTC",
            Text(f"{row.calling_ae}\n{state}"),
            Text(f"{reason}: {row.detail or reason.meaning} → {reason.cure}"),
        )
    yield table


def _knocks_table(session: Session, limit: int) -> Iterator[Table]:
    rows = session.scalars(select(Knock).order_by(Knock.last_at.desc(), Knock.id.desc()).limit(limit)).all()
    if not rows:
        return
    table = Table(title="Refused associations: who knocked", title_justify="left")
    table.add_column("Last", no_wrap=True)
    table.add_column("Caller", overflow="fold")
    table.add_column("Why", overflow="fold")
    for row in rows:
        reason = Reason(row.reason)
        titles = f"{row.calling_ae} called {row.called_ae}\n" if row.calling_ae or row.called_ae else ""
        times = f", {row.count} times since {row.first_at:%Y-%m-%d %H:%M}" if row.count > 1 else ""
        table.add_row(
            f"{row.last_at:%Y-%m-%d\n%H:%M:%S} UTC",
            Text(f"{titles}from {row.host}{times}"),
            Text(f"{reason}: {reason.meaning} → {reason.cure}"),
        )
    yield table
