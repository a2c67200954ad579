"""For a person: what could not be had from archives, studies that were announced and earlier readings."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text
from sqlalchemy import select
from sqlalchemy.orm import Session

from config import Reason, Settings
from node.priors import breaker_of
from node.records import Breaker, PullWish


def archive_tables(session: Session, settings: Settings, limit: int) -> Iterator[Table]:
    """One table, if there is anything to tell: the newest `limit` announced studies that are not there as a whole, and
    the archive of earlier readings while it is left alone.
    """
    wishes = session.scalars(
        select(PullWish).where(PullWish.reason.is_not(None)).order_by(PullWish.due_at.desc()).limit(limit)
    ).all()
    archive = settings.priors.source
    away = None if archive is None else session.get(Breaker, breaker_of(archive))
    if not wishes and away is None:
        return
    table = Table(title="Not had from archives", title_justify="left")
    table.add_column("Next try", no_wrap=True)
    table.add_column("What", overflow="fold")
    table.add_column("Why", overflow="fold")
    if away is not None:
        at = f"{away.next_attempt_at:%Y-%m-%d\n%H:%M:%S} UTC"
        table.add_row(at, Text(f"{archive}\nearlier readings"), _why(away.reason, away.detail))
    for row in wishes:
        at = "given up" if row.ended_at is not None else f"{row.due_at:%Y-%m-%d\n%H:%M:%S} UTC"
        table.add_row(at, Text(f"{row.source}\nstudy {row.study_instance_uid}"), _why(row.reason, row.detail))
    yield table


def _why(reason: Reason | None, detail: str) -> Text:
    code = Reason(reason or Reason.INTERNAL)
    return Text(f"{code}: {detail or code.meaning} → {code.cure}")
