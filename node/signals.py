"""What tells that a series is complete, best first: storage commitment, what a modality or an archive announces, the
source's count, a clean release, quiet.

All of it is read from the index, so it is right after a restart too; a signal that was lost costs the quiet time.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, undefer

from node import announced_rows
from node.announced_rows import Announced
from node.commitment_rows import chunks
from node.records import CommitmentRequest, Instance, SegmentSeries, Series, Signal, SpoolSegment, now
from node.spool import Ending, Record, SegmentReader, segments
from node.states import State


@dataclass(frozen=True)
class Unindexed:
    """The first record of a segment that is in the spool and not yet in the index."""

    segment: str
    start: int
    received_at: datetime


@dataclass(frozen=True)
class Receiving:
    """A series that is coming in, as the index knows it now."""

    series_id: int
    series_instance_uid: str
    study_instance_uid: str
    source_ae: str
    last_at: datetime
    received: int
    """Images that are its own, of all generations."""
    expected: int | None
    """Images that it has as the source told before."""


@dataclass
class Asked:
    """What storage commitment requests say about the series that are coming in."""

    complete: dict[str, int] = field(default_factory=dict)
    """Series Instance UID -> images, where the sender listed all that came, and nothing that did not."""
    expected: dict[str, int] = field(default_factory=dict)
    """Series Instance UID -> images, where it listed more than came and nothing of another series."""
    done: list[int] = field(default_factory=list)
    """Requests that have no more to say."""


def receiving(session: Session) -> list[Receiving]:
    """Every series that is coming in, oldest first."""
    rows = session.scalars(select(Series).where(Series.state == State.RECEIVING).order_by(Series.id)).all()
    uids = _images(session, [row.series_instance_uid for row in rows])
    return [
        Receiving(
            row.id,
            row.series_instance_uid,
            row.study_instance_uid,
            row.source_ae,
            row.last_at,
            len(uids.get(row.series_instance_uid, ())),
            row.expected,
        )
        for row in rows
    ]


def _images(session: Session, series_uids: list[str]) -> dict[str, set[str]]:
    """SOP Instance UIDs of each series, of all generations; what is only there in conflict belongs to another one."""
    found: dict[str, set[str]] = {}
    for some in chunks(series_uids):
        query = select(Series.series_instance_uid, Instance.sop_instance_uid).join(Instance.series)
        for series_uid, uid in session.execute(query.where(Series.series_instance_uid.in_(some), ~Instance.conflict)):
            found.setdefault(series_uid, set()).add(uid)
    return found


def unindexed(session: Session, spool_dir: Path) -> list[Unindexed]:
    """Where the index is behind the spool."""
    over = or_(SpoolSegment.sealed, SpoolSegment.released_at.is_not(None))
    done = set(session.scalars(select(SpoolSegment.name).where(over)))
    marks = dict(session.execute(select(SpoolSegment.name, SpoolSegment.indexed_to).where(~over)).tuples().all())
    found = []
    for path in segments(spool_dir):
        if path.name in done:
            continue
        start = marks.get(path.name, 0)
        try:
            with SegmentReader(path) as reader:
                record = reader.record_at(start)
        except OSError:
            continue  # gone or unreadable: the indexer says so, and nothing in it can be waited for
        if isinstance(record, Record):
            found.append(Unindexed(path.name, start, record.received_at))
    return found


def asked(session: Session, series: list[Receiving], wait_s: float) -> Asked:
    """What the senders of these series asked to be committed. A request counts for `wait_s` seconds if it lists images
    that have not come; one whose sender is not the series' counts not at all.
    """
    told = Asked()
    query = select(CommitmentRequest).where(~CommitmentRequest.weighed).order_by(CommitmentRequest.id)
    requests = session.scalars(query.options(undefer(CommitmentRequest.references))).all()
    images = _images(session, [one.series_instance_uid for one in series]) if requests else {}
    senders = {one.series_instance_uid: one.source_ae for one in series}
    for request in requests:
        listed = {uid for _, uid in request.references}
        known = _series_of(session, listed)
        missing = len(listed) - len(known)
        about = set(known.values())
        for uid in about & senders.keys():
            if senders[uid] != request.calling_ae or not images[uid] <= listed:
                continue
            if not missing:
                told.complete[uid] = len(images[uid])
            elif len(about) == 1:
                told.expected[uid] = len(listed)
        if not missing or request.received_at < now() - timedelta(seconds=wait_s):
            told.done.append(request.id)
    return told


def announced(session: Session, series: list[Receiving]) -> Announced:
    """What was announced of these series, whoever sent them."""
    named = announced_rows.named(session, [one.series_instance_uid for one in series])
    came = _images(session, [uid for _, uid in named]) if named else {}
    return announced_rows.weigh(named, came)


def _series_of(session: Session, uids: set[str]) -> dict[str, str]:
    """SOP Instance UID -> Series Instance UID, for those that are in the index."""
    found: dict[str, str] = {}
    for some in chunks(sorted(uids)):
        query = select(Instance.sop_instance_uid, Series.series_instance_uid).join(Instance.series)
        rows = session.execute(query.where(Instance.sop_instance_uid.in_(some), ~Instance.conflict))
        found |= dict(rows.tuples().all())
    return found


def released_at(session: Session, series_instance_uid: str) -> datetime | None:
    """When the one association was released in order that brought everything of a series; None if there is no such.

    An association that brought only repetitions of its images counts: while it is open, more may come.
    """
    query = (
        select(SpoolSegment)
        .join(SegmentSeries, SegmentSeries.segment == SpoolSegment.name)
        .where(SegmentSeries.series_instance_uid == series_instance_uid)
    )
    brought = session.scalars(query).all()
    if len(brought) != 1 or not brought[0].sealed or brought[0].ending != Ending.RELEASED:
        return None
    return brought[0].ended_at


def close(series: Series, signal: Signal, received: int, expected: int | None) -> None:
    """RECEIVING -> COMPLETE, and why. The caller holds the row."""
    series.move(State.COMPLETE)
    series.signal, series.received, series.expected = signal, received, expected
