"""When a series is complete, and whether it may be read: RECEIVING -> COMPLETE -> VETTED or REJECTED with a reason.

`node.signals` says what may close a series. The quiet time is counted on the coordinator's monotonic clock, from when
it saw that the index learnt of the last instance: a jump of the wall clock closes nothing early, and a coordinator that
was started again counts anew. Nothing is closed while the index lags behind the spool, so neither a database that was
away nor its rebuilding cuts a series in two.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from config import Reason, Settings
from config.settings import RoutingSettings
from ct.part10 import Unfit
from ct.series import Series as CtSeries
from ct.series import read_header
from ct.vetting import vet
from ct.volume import SourceSlice
from node import feedback_arrivals, signals
from node.announced_rows import Announced
from node.database import Records
from node.records import CommitmentRequest, Instance, Series, Signal, now
from node.retention import missing_images
from node.signals import Receiving
from node.states import State

if TYPE_CHECKING:
    from node.source_count import SourceCounts  # pynetdicom

_log = structlog.get_logger(__name__)

_PAUSE_S = 1.0
"""Without a new image for so long, seconds, the source is asked for its count."""


@dataclass(frozen=True)
class Verdict:
    """What became of one series."""

    series_id: int
    state: State
    """VETTED or REJECTED."""
    reason: Reason | None = None
    detail: str = ""


def complete_due(records: Records, settings: Settings, at: datetime | None = None) -> list[Verdict]:
    """Close every series that is complete, and vet every closed one. `at` is the time, None for now.

    For callers that look once: quiet is what the wall clock says, and no source is asked for its count. The reconciler
    uses a `Completer`. Raises sqlalchemy.exc.DBAPIError.
    """
    return Completer(records, settings, at=at or now()).once()


class Completer:
    """Closes and vets what is complete, pass after pass. One thread."""

    def __init__(
        self,
        records: Records,
        settings: Settings,
        counts: "SourceCounts | None" = None,
        clock: Callable[[], float] = time.monotonic,
        at: datetime | None = None,
    ) -> None:
        """`counts`: asks sources; None: nobody is asked. `clock`: seconds, never goes back. `at`: for who looks once,
        and has seen nothing before: the time, by which quiet is told instead.
        """
        self._records, self._settings, self._counts = records, settings, counts
        self._clock, self._at = clock, at
        self._seen: dict[int, tuple[datetime, float]] = {}
        """Series -> its `last_at`, and when that was seen first by the clock."""
        self._flawed: dict[int, datetime] = {}
        """Series whose geometry was not fit for a release to close them -> `last_at` at that time."""

    def once(self) -> list[Verdict]:
        """Close every series that is complete, and vet every closed one.

        Vetting reads the headers in the spool outside of any transaction; a crash in between leaves the series COMPLETE
        and the next call goes on. Raises sqlalchemy.exc.DBAPIError.
        """
        verdicts = self._close()
        with self._records.reading() as session:
            query = select(Series.id).where(Series.state == State.COMPLETE).order_by(Series.id)
            waiting = session.scalars(query).all()
        for series_id in waiting:
            verdict = _vet_one(self._records, self._settings, series_id)
            if verdict is not None:
                verdicts.append(verdict)
        return verdicts

    def _close(self) -> list[Verdict]:
        with self._records.reading() as session:
            coming = signals.receiving(session)
            asked = signals.asked(session, coming, self._settings.completion.missing_s)
            announced = signals.announced(session, coming)
            released = {
                one.series_id for one in coming if signals.released_at(session, one.series_instance_uid) is not None
            }
        ids = {one.series_id for one in coming}
        self._flawed = {key: value for key, value in self._flawed.items() if key in ids}
        self._seen = {key: value for key, value in self._seen.items() if key in ids}
        if self._counts is not None:
            self._counts.keep_only(ids)
        closed = (self._close_one(one, asked, announced, one.series_id in released) for one in coming)
        verdicts = [verdict for verdict in closed if verdict is not None]
        if asked.done:
            with self._records.session() as session:
                weighed = update(CommitmentRequest).where(CommitmentRequest.id.in_(asked.done)).values(weighed=True)
                session.execute(weighed)
        return verdicts

    def _close_one(self, one: Receiving, asked: signals.Asked, announced: Announced, released: bool) -> Verdict | None:
        """Close a series if there is a signal for it. The verdict, if it had to be vetted for that.

        `released`: the one association that brought it was released in order.
        """
        uid = one.series_instance_uid
        quiet = self._quiet_s(one)
        if uid in asked.complete:
            self._settle(one, Signal.COMMITMENT, asked.complete[uid])
            return None
        if uid in announced.complete:
            self._settle(one, announced.complete[uid], one.received)
            return None
        source = self._settings.source_of(one.source_ae)
        wait_s = (source and source.quiet_s) or self._settings.completion.quiet_s
        patience_s = max(wait_s, self._settings.completion.missing_s)
        count = self._counts.count(one, released or quiet >= _PAUSE_S) if self._counts is not None else None
        named = announced.expected.get(uid)
        if count == one.received and (named is None or quiet >= patience_s):
            self._settle(one, Signal.FIND_COUNT, named or count)
            return None
        told = (asked.expected.get(uid), named, count, one.expected)
        expected = max((n for n in told if n is not None), default=None)
        if expected is not None and expected != one.expected:
            self._expect(one, expected)
        missing = expected is not None and expected > one.received
        trusted = source is None or source.one_association
        if (
            released
            and trusted
            and not missing
            and self._flawed.get(one.series_id) != one.last_at
            and not self._waits_for_count(one)
            and self._nothing_before(one)
        ):
            verdict = self._vet_released(one)
            if verdict is not None and self._settle(one, Signal.RELEASE, expected):
                return _conclude(self._records, verdict)
        if quiet >= (patience_s if missing else wait_s):
            self._settle_quiet(one, expected, wait_s)
        return None

    def _quiet_s(self, one: Receiving) -> float:
        """Seconds without a new instance."""
        if self._at is not None:
            return (self._at - one.last_at).total_seconds()
        moment = self._clock()
        last_at, since = self._seen.get(one.series_id, (one.last_at, moment))
        if last_at != one.last_at:
            since = moment
        self._seen[one.series_id] = (one.last_at, since)
        return moment - since

    def _settle_quiet(self, one: Receiving, expected: int | None, wait_s: float) -> None:
        """Nothing came for long enough; but it may be that the index has not seen it."""
        with self._records.reading() as session:
            behind = signals.unindexed(session, self._settings.spool_dir)
        moment = self._at or now()
        ages = [(moment - record.received_at).total_seconds() for record in behind]
        # A record from the future: the clock went back, nobody knows how old it is.
        if any(age < 0 or age > wait_s / 2 for age in ages):
            _log.warning("index_behind_spool", seconds=round(max(ages), 1), series=one.series_id)
        else:
            self._settle(one, Signal.QUIET_TIME, expected)

    def _nothing_before(self, one: Receiving) -> bool:
        """The index holds all that came, on any other association, before the one of this series was released."""
        with self._records.reading() as session:
            released_at = signals.released_at(session, one.series_instance_uid)
            behind = signals.unindexed(session, self._settings.spool_dir) if released_at is not None else []
        return released_at is not None and all(record.received_at > released_at for record in behind)

    def _waits_for_count(self, one: Receiving) -> bool:
        """The source is better to be believed than the release, as long as it may answer."""
        return self._counts is not None and self._counts.knows(one.source_ae) and not self._counts.failed(one)

    def _vet_released(self, one: Receiving) -> tuple[Verdict, int] | None:
        """The verdict on a series whose association was released, and the number of slices, if it is fit to be read."""
        found = _look_at(self._records, self._settings, one.series_id)
        if found[0].state == State.VETTED:
            return found
        self._flawed[one.series_id] = one.last_at
        return None

    def _expect(self, one: Receiving, expected: int) -> None:
        with self._records.session() as session:
            row = session.get_one(Series, one.series_id, with_for_update=True)
            if row.state == State.RECEIVING:
                row.expected = expected

    def _settle(self, one: Receiving, signal: Signal, expected: int | None) -> bool:
        """RECEIVING -> COMPLETE; False if an instance has come since it was looked at."""
        with self._records.session() as session:
            row = session.get_one(Series, one.series_id, with_for_update=True)
            if row.state != State.RECEIVING or row.last_at != one.last_at:
                return False
            signals.close(row, signal, one.received, expected)
        _log.info("series_complete", series=one.series_id, generation=row.generation, signal=signal, count=one.received)
        return True


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
    ages = [(at - one.received_at).total_seconds() for one in signals.unindexed(session, spool_dir)]
    return max(ages, default=0.0)


def _vet_one(records: Records, settings: Settings, series_id: int) -> Verdict | None:
    """Vet a COMPLETE series; None if that is no longer its state."""
    return _conclude(records, _look_at(records, settings, series_id))


def _look_at(records: Records, settings: Settings, series_id: int) -> tuple[Verdict, int]:
    """The verdict on a series as it is now, and the number of its slices."""
    with records.reading() as session:
        series = session.get_one(Series, series_id)
        slices = series_slices(session, series, settings.spool_dir)
        deleted = missing_images(session, series, [one.sop_instance_uid for one in slices])
    if series.modality in feedback_arrivals.MODALITIES and slices:
        answer = feedback_arrivals.take_series(records, settings, series_id, slices)
        if answer is not None:
            return Verdict(series.id, State.REJECTED, *answer), len(slices)
    return _judge(series, slices, deleted, settings.routing), len(slices)


def _conclude(records: Records, found: tuple[Verdict, int]) -> Verdict | None:
    """COMPLETE -> VETTED or REJECTED; None if the series is no longer COMPLETE."""
    verdict, slices = found
    with records.session() as session:
        row = session.get_one(Series, verdict.series_id, with_for_update=True)
        if row.state != State.COMPLETE:
            return None
        row.move(verdict.state, verdict.reason, verdict.detail[:1000])
    _log.info(
        "series_vetted",
        series=row.id,
        generation=row.generation,
        state=verdict.state,
        reason=verdict.reason,
        detail=verdict.detail,
        slices=slices,
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
