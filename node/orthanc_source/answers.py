"""What the plugin of an Orthanc is told about a series, and what its users may ask for."""

from dataclasses import asdict, dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from config import Reason, Settings
from node.console.notice import console_url
from node.database import Records
from node.errors import CommandError
from node.orthanc_source import rows
from node.records import Series
from node.retry import retry
from node.series_status import load
from node.states import State

UNKNOWN, WANTED, NOT_FETCHED = "UNKNOWN", "WANTED", "NOT_FETCHED"
"""States of a series beside those of the state machine: the node has not got it; it is to be fetched because somebody
asked; it could not be fetched."""


@dataclass(frozen=True)
class Answer:
    """How a series stands. Holds no patient data."""

    state: str
    reason: str = ""
    detail: str = ""
    job: int | None = None
    console: str = ""
    """Where a browser sees more of it; empty: nowhere."""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def how_it_stands(session: Session, settings: Settings, source: str, orthanc_series: str, uid: str) -> Answer:
    """`uid`: its Series Instance UID. Raises sqlalchemy.exc.DBAPIError."""
    wish = rows.wish(session, source, orthanc_series)
    newest = select(Series).where(Series.series_instance_uid == uid).order_by(Series.generation.desc()).limit(1)
    status = next(iter(load(session, newest)), None)
    if wish is not None and wish[0]:
        return Answer(WANTED, console=_link(settings, None if status is None else status.series.id))
    if status is None:
        if wish is None:
            return Answer(UNKNOWN)
        reason = wish[1] or Reason.INTERNAL
        return Answer(NOT_FETCHED, reason, wish[2] or reason.meaning)
    detail = "; ".join(status.why())
    job = None if status.job is None else status.job.id
    return Answer(status.state, status.reason or "", detail, job, _link(settings, status.series.id))


def ask_for(records: Records, settings: Settings, source: str, orthanc_series: str, uid: str) -> Answer | None:
    """A person wants the series read: fetch what is missing of it, and run its job again if that failed.

    None: too many are waited for. Raises sqlalchemy.exc.DBAPIError, CommandError if the database is away.
    """
    with records.session() as session:
        before = how_it_stands(session, settings, source, orthanc_series, uid)
        if not rows.want(session, source, orthanc_series):
            return None
    if before.state in (State.FAILED, State.QUARANTINED) and before.job is not None:
        try:
            retry(records, str(before.job))
        except CommandError as error:  # it has changed its state meanwhile
            if error.__cause__ is not None:
                raise
    with records.reading() as session:
        return how_it_stands(session, settings, source, orthanc_series, uid)


def _link(settings: Settings, series_id: int | None) -> str:
    console = settings.console
    if not console.enabled or series_id is None:
        return ""
    base = console.public_url.rstrip("/") + "/" if console.public_url else console_url(console.host, console.port)
    return f"{base}series/{series_id}"
