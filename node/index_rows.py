"""Entries of the spool -> rows of the index: what is new, known, in conflict, late or unreadable."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from config import Reason
from node.headers import Names
from node.records import Instance, SegmentSeries, Series, Unreadable, now
from node.spool import Record
from node.states import State

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Readable:
    """A record whose names could be read."""

    record: Record
    names: Names
    sha256: str
    """Of the data set as sent, hex."""

    @property
    def place(self) -> tuple[str, int]:
        """Segment and offset: what identifies a row."""
        return self.record.segment, self.record.offset

    @property
    def sop_instance_uid(self) -> str:
        return self.record.origin.sop_instance_uid


@dataclass(frozen=True)
class Broken:
    """Something in the spool that cannot be indexed, and why."""

    segment: str
    offset: int
    length: int
    sop_instance_uid: str
    source_ae: str
    reason: Reason
    detail: str
    received_at: datetime

    @property
    def place(self) -> tuple[str, int]:
        """Segment and offset: what identifies a row."""
        return self.segment, self.offset


Entry = Readable | Broken


@dataclass
class Written:
    """What became of the entries."""

    instances: int = 0
    conflicts: int = 0
    unreadable: int = 0
    known: int = 0
    """The same instance with the same bytes was there."""
    opened: int = 0
    """Generations of series that began."""
    places: set[tuple[str, int]] = field(default_factory=set)
    """Entries that have a row now."""

    def rows(self, segment: str) -> int:
        """How many of the entries of a segment have a row now."""
        return sum(name == segment for name, _ in self.places)


def write_entries(session: Session, entries: Sequence[Entry]) -> Written:
    """Write one batch, in order. What has a row already is left alone, so a batch may be written again."""
    written = Written(places=_present(session, entries))
    fresh = [entry for entry in entries if entry.place not in written.places]
    _write_broken(session, [entry for entry in fresh if isinstance(entry, Broken)], written)
    _write_readable(session, [entry for entry in fresh if isinstance(entry, Readable)], written)
    _note_segments(session, entries)
    return written


def _present(session: Session, entries: Sequence[Entry]) -> set[tuple[str, int]]:
    """Places of the entries that have a row already."""
    first: dict[str, int] = {}
    for name, at in (entry.place for entry in entries):
        first[name] = min(at, first.get(name, at))
    found: set[tuple[str, int]] = set()
    for table in (Instance, Unreadable):
        for name, at in first.items():
            query = select(table.offset).where(table.segment == name, table.offset >= at)
            found |= {(name, offset) for offset in session.scalars(query)}
    return found & {entry.place for entry in entries}


def _write_broken(session: Session, entries: list[Broken], written: Written) -> None:
    for entry in entries:
        _log.warning("instance_unreadable", reason=entry.reason, segment=entry.segment, offset=entry.offset)
        written.places.add(entry.place)
    if entries:
        session.execute(insert(Unreadable), [vars(entry) for entry in entries])
    written.unreadable += len(entries)


def _write_readable(session: Session, entries: list[Readable], written: Written) -> None:
    series = _Generations(session, {entry.names.series_instance_uid for entry in entries})
    digests = _known_digests(session, {entry.sop_instance_uid for entry in entries})
    rows, repeated = [], []
    for entry in entries:
        known = digests.setdefault(entry.sop_instance_uid, set())
        if entry.sha256 in known:
            repeated.append(entry)
            continue
        conflict = bool(known)
        known.add(entry.sha256)
        if conflict:
            place = entry.place
            _log.warning("instance_conflict", reason=Reason.DUPLICATE_CONFLICT, segment=place[0], offset=place[1])
        rows.append(_row(entry, series.for_instance(entry, conflict), conflict))
        written.places.add(entry.place)
        written.conflicts += conflict
        written.instances += not conflict
    if rows:
        session.execute(insert(Instance), rows)
    _note_arrivals(session, repeated)
    written.opened = series.opened
    written.known += len(repeated)


def _note_arrivals(session: Session, repeated: Sequence[Readable]) -> None:
    """Of an instance that came more than once, keep when it came first; segments are not indexed in that order."""
    if repeated:
        statement = (
            update(Instance)
            .where(
                Instance.sop_instance_uid == bindparam("uid"),
                Instance.sha256 == bindparam("digest"),
                Instance.received_at > bindparam("arrival"),
            )
            .values(received_at=bindparam("arrival"))
        )
        arrivals = [
            {"uid": entry.sop_instance_uid, "digest": entry.sha256, "arrival": entry.record.received_at}
            for entry in repeated
        ]
        session.connection().execute(statement, arrivals)


def _note_segments(session: Session, entries: Sequence[Entry]) -> None:
    """Remember which segment brought which series, be it only what was there already."""
    brought = {(e.place[0], e.names.series_instance_uid) for e in entries if isinstance(e, Readable)}
    names = {segment for segment, _ in brought}
    query = select(SegmentSeries.segment, SegmentSeries.series_instance_uid).where(SegmentSeries.segment.in_(names))
    known = set(session.execute(query).tuples())
    rows = [{"segment": segment, "series_instance_uid": uid} for segment, uid in sorted(brought - known)]
    if rows:
        session.execute(insert(SegmentSeries), rows)


def _known_digests(session: Session, uids: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    query = select(Instance.sop_instance_uid, Instance.sha256).where(Instance.sop_instance_uid.in_(uids))
    for uid, digest in session.execute(query):
        found.setdefault(uid, set()).add(digest)
    return found


def _row(entry: Readable, series: Series, conflict: bool) -> dict[str, object]:
    record = entry.record
    return {
        "series_id": series.id,
        "sop_instance_uid": record.origin.sop_instance_uid,
        "sop_class_uid": record.origin.sop_class_uid,
        "transfer_syntax_uid": record.origin.transfer_syntax_uid,
        "segment": record.segment,
        "offset": record.offset,
        "length": record.length,
        "sha256": entry.sha256,
        "received_at": record.received_at,
        "conflict": conflict,
    }


class _Generations:
    """The newest generation of each series of a batch, its row locked until the transaction ends."""

    def __init__(self, session: Session, uids: Iterable[str]) -> None:
        self._session = session
        self.opened = 0
        query = select(Series).where(Series.series_instance_uid.in_(uids)).order_by(Series.generation)
        self._newest = {row.series_instance_uid: row for row in session.scalars(query.with_for_update())}

    def for_instance(self, entry: Readable, conflict: bool) -> Series:
        """The row that takes the instance.

        A new instance of a series that is no longer RECEIVING opens the next generation, which stands for all
        instances up to it. A conflicting one is only kept: it opens a series that nobody knew, no generation.
        """
        newest = self._newest.get(entry.names.series_instance_uid)
        if newest is None or (newest.state != State.RECEIVING and not conflict):
            newest = self._open(entry, newest.generation + 1 if newest else 1)
        if newest.state == State.RECEIVING:
            newest.last_at = now()
        return newest

    def _open(self, entry: Readable, generation: int) -> Series:
        opened = Series(
            series_instance_uid=entry.names.series_instance_uid,
            generation=generation,
            study_instance_uid=entry.names.study_instance_uid,
            modality=entry.names.modality,
            source_ae=entry.record.origin.calling_ae,
            state=State.RECEIVING,
            first_at=entry.record.received_at,
            last_at=now(),
        )
        self._session.add(opened)
        self._session.flush()
        self._newest[opened.series_instance_uid] = opened
        self.opened += 1
        _log.info("series_opened", series=opened.id, generation=generation, source_ae=opened.source_ae)
        return opened
