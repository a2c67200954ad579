"""When a series is complete, and whether it may be read: RECEIVING -> COMPLETE -> VETTED or REJECTED with a reason.

The quiet time counts from when the index learnt of the last instance, and nothing is closed while the index lags
behind the spool, so neither a database that was away nor its rebuilding cuts a series in two.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from config import Reason, Settings
from config.settings import RoutingSettings
from ct.part10 import Unfit
from ct.series import Series as CtSeries
from ct.series import read_header
from ct.vetting import vet
from ct.volume import SourceSlice
from node.records import Instance, Records, Series, SpoolSegment, State, now
from node.retention import missing_images
from node.spool import Record, SegmentReader, segments

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What became of one series."""

    series_id: int
    state: State
    """VETTED or REJECTED."""
    reason: Reason | None = None
    detail: str = ""


def complete_due(records: Records, settings: Settings, at: datetime | None = None) -> list[Verdict]:
    """Close every series that was quiet long enough, and vet every closed one. `at` is the time, None for now.

    Vetting reads the headers in the spool outside of any transaction; a crash in between leaves the series COMPLETE
    and the next call goes on. Raises sqlalchemy.exc.DBAPIError.
    """
    _close_quiet(records, settings, at or now())
    with records.reading() as session:
        waiting = session.scalars(select(Series.id).where(Series.state == State.COMPLETE).order_by(Series.id)).all()
    return [verdict for series_id in waiting if (verdict := _vet_one(records, settings, series_id)) is not None]


def series_slices(session: Session, series: Series, spool_dir: Path) -> list[SourceSlice]:
    """Where the instances of a series lie: of this generation and all before it, one an SOP Instance UID."""
    return [
        SourceSlice(row.sop_instance_uid, spool_dir / row.segment, row.offset, row.length)
        for row in _first_arrivals(session, series)
    ]


def images_at(session: Session, series: Series) -> datetime:
    """When the last of the images that `series_slices` gives was received."""
    return max((row.received_at for row in _first_arrivals(session, series)), default=series.last_at)


def _first_arrivals(session: Session, series: Series) -> list[Instance]:
    """Of each SOP Instance UID what was received first, if it was for this series; in the order in which they came.

    Depends on what is in the spool, not on the order in which it was indexed: the loss of the database changes nothing.
    """
    same, up_to_now = Series.series_instance_uid == series.series_instance_uid, Series.generation <= series.generation
    uids = select(Instance.sop_instance_uid).join(Series).where(same, up_to_now)
    rows = session.execute(
        select(Instance, Series.series_instance_uid)
        .join(Series)
        .where(Instance.sop_instance_uid.in_(uids), or_(~same, up_to_now))
        .order_by(Instance.received_at, Instance.segment, Instance.offset)
    )
    first: dict[str, tuple[Instance, str]] = {}
    for row, series_uid in rows:
        first.setdefault(row.sop_instance_uid, (row, series_uid))
    return [row for row, series_uid in first.values() if series_uid == series.series_instance_uid]


def index_lag_s(session: Session, spool_dir: Path, at: datetime) -> float:
    """Age in seconds of the oldest record that is in the spool but not in the index; 0 if there is none."""
    marks = {row.name: row for row in session.scalars(select(SpoolSegment))}
    oldest = at
    for path in segments(spool_dir):
        mark = marks.get(path.name)
        if mark is not None and (mark.sealed or mark.released_at is not None):
            continue
        try:
            with SegmentReader(path) as reader:
                record = reader.record_at(mark.indexed_to if mark else 0)
        except OSError:
            continue  # gone or unreadable: the indexer says so, and nothing in it can be waited for
        if isinstance(record, Record):
            oldest = min(oldest, record.received_at)
    return (at - oldest).total_seconds()


def _close_quiet(records: Records, settings: Settings, at: datetime) -> None:
    quiet = settings.completion.quiet_s
    with records.reading() as session:
        due = select(Series.id).where(Series.state == State.RECEIVING, Series.last_at <= at - timedelta(seconds=quiet))
        ids = session.scalars(due).all()
        lag = index_lag_s(session, settings.spool_dir, at) if ids else 0.0
    if lag > quiet / 2:
        _log.warning("index_behind_spool", seconds=round(lag, 1), count=len(ids))
        return
    for series_id in ids:
        with records.session() as session:
            row = session.scalar(due.where(Series.id == series_id).with_for_update())
            if row is None:
                continue  # an instance has come since
            series = session.get_one(Series, series_id)
            series.move(State.COMPLETE)
            _log.info("series_complete", series=series_id, generation=series.generation)


def _vet_one(records: Records, settings: Settings, series_id: int) -> Verdict | None:
    with records.reading() as session:
        series = session.get_one(Series, series_id)
        slices = series_slices(session, series, settings.spool_dir)
        deleted = missing_images(session, series, [one.sop_instance_uid for one in slices])
    verdict = _judge(series, slices, deleted, settings.routing)
    with records.session() as session:
        row = session.get_one(Series, series_id, with_for_update=True)
        if row.state != State.COMPLETE:
            return None
        row.move(verdict.state, verdict.reason, verdict.detail[:1000])
    _log.info(
        "series_vetted",
        series=series_id,
        generation=series.generation,
        state=verdict.state,
        reason=verdict.reason,
        detail=verdict.detail,
        slices=len(slices),
    )
    return verdict


def _judge(series: Series, slices: list[SourceSlice], deleted: int, rule: RoutingSettings) -> Verdict:
    if not slices:
        detail = "every instance of the series re-uses a SOP Instance UID that came before with other bytes"
        return Verdict(series.id, State.REJECTED, Reason.DUPLICATE_CONFLICT, detail)
    if deleted:
        detail = f"deleted earlier (fvlm-node clean): {deleted} images; there now: {len(slices)}"
        return Verdict(series.id, State.REJECTED, Reason.IMAGES_DELETED, detail)
    try:
        headers = tuple(read_header(one) for one in slices)
        vetted = vet(
            CtSeries(series.study_instance_uid, series.series_instance_uid, headers), rule.min_slices, rule.max_slices
        )
    except Unfit as unfit:
        return Verdict(series.id, State.REJECTED, unfit.reason, unfit.detail)
    except Exception:  # an error in vetting ends one series with a reason; it must not stop the only coordinator
        _log.exception("unexpected_error", series=series.id)
        return Verdict(series.id, State.REJECTED, Reason.INTERNAL, "vetting failed; the log has the place")
    return Verdict(series.id, State.VETTED, detail="; ".join(vetted.notes))
