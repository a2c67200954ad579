"""Follows the spool and keeps the index: instances, series and their generations, conflicts, what is unreadable.

One mechanism for everything: each segment has a mark up to which it is indexed, and the mark moves in the same
transaction as the rows. So fresh records, a restart, a database that was away and a database that was lost are all the
same: read on from the mark. Nothing is queued in memory.
"""

import fcntl
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import structlog
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from config import Reason
from ct.part10 import Unfit
from node import announced_rows, commitment_rows
from node.announced_files import Announcement, AnnouncementFiles
from node.bell import bell_file, ring
from node.commitment import CommitmentFiles
from node.database import Records
from node.headers import read_names
from node.index_rows import Broken, Entry, Readable, write_entries
from node.records import Instance, SpoolSegment, Unreadable, now
from node.spool import Damage, Ending, EndMark, Record, SegmentReader, has_writer, segments

_log = structlog.get_logger(__name__)

BATCH = 500
"""Records a transaction."""
_LINGER_S = 0.05
"""Wait after the first news, seconds: what comes meanwhile shares the transaction."""
_RETRY_S = (0.2, 5.0)
"""First and longest wait while the database is away, seconds."""


@dataclass(frozen=True)
class _Mark:
    indexed_to: int = 0
    row_count: int = 0
    sealed: bool = False
    ending: Ending | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Indexed:
    """What one step has put into the index."""

    records: int = 0
    instances: int = 0
    conflicts: int = 0
    unreadable: int = 0
    known: int = 0
    """Identical repetitions, ignored."""


class Indexer:
    """Indexes one spool. One at a time works on a spool; a second one waits for the first to end."""

    def __init__(
        self,
        records: Records,
        spool_dir: Path,
        poll_s: float = 1.0,
        announced: Callable[[Session, Announcement], None] = lambda *_: None,
    ) -> None:
        """`poll_s`: seconds between two looks for segments of other processes; `announced`: called in the transaction
        that takes an announcement into the database.
        """
        self._announced = announced
        self._records, self._spool_dir, self._poll_s = records, spool_dir, poll_s
        self._requests = CommitmentFiles(spool_dir)
        self._announcements = AnnouncementFiles(spool_dir)
        self._marks: dict[str, _Mark] | None = None
        self._open: set[str] = set()
        """Segments that may have more to read."""
        self._news: deque[str] = deque()
        self._fresh = threading.Event()
        self._ended = threading.Event()
        self._listed_at = float("-inf")

    def notify(self, segment: str) -> None:
        """Something was stored in a segment (empty: a storage commitment request or an announcement): look soon.

        From any thread.
        """
        if segment:
            self._news.append(segment)
        self._fresh.set()

    def stop(self) -> None:
        """Let `run` index what is there and return."""
        self._ended.set()
        self._fresh.set()

    def run(self) -> None:
        """Follow the spool until `stop`; a database that is away is waited for."""
        wait = _RETRY_S[0]
        self._marks = None
        with self._only_one() as alone:
            while alone:
                ending = self._ended.is_set()
                self._fresh.clear()
                try:
                    self.catch_up()
                except DBAPIError as error:
                    _log.warning("database_away", error=type(error.orig).__name__, seconds=wait)
                    if ending:
                        return
                    self._marks = None  # what was committed is read again from the database
                    self._ended.wait(wait)
                    wait = min(2 * wait, _RETRY_S[1])
                    continue
                wait = _RETRY_S[0]
                if ending:
                    return
                if self._fresh.wait(self._poll_s):
                    self._ended.wait(_LINGER_S)

    @contextmanager
    def _only_one(self) -> Iterator[bool]:
        """Hold the spool's index lock; False if the indexer was stopped before it was free."""
        descriptor = os.open(self._spool_dir / ".indexer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            waiting = False
            while not self._ended.is_set():
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if not waiting:
                        _log.warning("another_indexer_works_on_this_spool")
                    waiting = True
                    self._ended.wait(self._poll_s)
                else:
                    yield True
                    return
            yield False
        finally:
            os.close(descriptor)

    def catch_up(self) -> Indexed:
        """Index everything that is in the spool now. Raises DBAPIError; what was committed stays."""
        total = Indexed()
        asked = self._requests.waiting()
        if asked:
            self._listed_at = float("-inf")  # every segment that there is now is read before they are taken
        while True:
            step, more = self._step()
            total = Indexed(*(getattr(total, f) + getattr(step, f) for f in Indexed.__dataclass_fields__))
            if not more:
                break
        announced = self._announcements.waiting()
        for token in asked:
            self._take_request(token)
        for token in announced:
            self._take_announcement(token)
        if asked or announced:
            ring(bell_file(self._spool_dir))
        return total

    def _take_request(self, token: str) -> None:
        """A storage commitment request, and what is kept of it, into the database."""
        try:
            request = self._requests.load(token)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            _log.error("commitment_request_unreadable", error=type(error).__name__)
            with suppress(OSError):
                self._requests.put_aside(token)
            return
        with self._records.session() as session:
            failures = commitment_rows.take(session, self._spool_dir, request)
        try:
            self._requests.taken(token, failures)
        except OSError as error:  # it is taken again, to no effect
            _log.error("commitment_not_kept", reason=Reason.SPOOL_FAILED, error=error.strerror)
        _log.info("commitment_taken", calling_ae=request.calling_ae, count=len(request.references) - len(failures))

    def _take_announcement(self, token: str) -> None:
        """What a modality or an archive says of series, into the database."""
        try:
            announcement = self._announcements.load(token)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            _log.error("announcement_unreadable", error=type(error).__name__)
            with suppress(OSError):
                self._announcements.put_aside(token)
            return
        with self._records.session() as session:
            announced_rows.take(session, announcement)
            self._announced(session, announcement)
        try:
            self._announcements.taken(token)
        except OSError as error:  # it is taken again, to no effect
            _log.error("announcement_not_kept", reason=Reason.SPOOL_FAILED, error=error.strerror)
        _log.info(
            "announcement_taken",
            kind=announcement.kind,
            calling_ae=announcement.calling_ae,
            state="DISCONTINUED" if announcement.discontinued else "COMPLETED",
            count=len(announcement.series),
        )

    def _step(self) -> tuple[Indexed, bool]:
        """One transaction; True if there may be more."""
        marks = self._marks = self._load_marks() if self._marks is None else self._marks
        self._list(marks)
        entries: list[Entry] = []
        moved: dict[str, _Mark] = {}
        for name in sorted(self._open):
            mark = marks.get(name, _Mark())
            found, new = self._read(name, mark, BATCH - len(entries))
            entries += found
            if new != mark:
                moved[name] = new
            if len(entries) >= BATCH:
                break
        if not moved:
            return Indexed(), False
        with self._records.session() as session:
            written = write_entries(session, entries)
            for name, mark in moved.items():
                mark = replace(mark, row_count=mark.row_count + written.rows(name))
                moved[name] = mark
                session.merge(SpoolSegment(name=name, **vars(mark)))
        marks.update(moved)
        sealed = {name for name, mark in moved.items() if mark.sealed}
        self._open -= sealed
        if sealed or written.opened:
            ring(bell_file(self._spool_dir))
        done = Indexed(len(entries), written.instances, written.conflicts, written.unreadable, written.known)
        if entries:
            _log.info("indexed", **{k: v for k, v in vars(done).items() if v and k != "records"}, count=done.records)
        return done, len(entries) >= BATCH

    def _load_marks(self) -> dict[str, _Mark]:
        """Marks from the database; back to the start where rows are missing that were written once."""
        with self._records.reading() as session:
            rows = session.scalars(select(SpoolSegment)).all()
            counts: dict[str, int] = {}
            for table in (Instance, Unreadable):
                for name, count in session.execute(select(table.segment, func.count()).group_by(table.segment)):
                    counts[name] = counts.get(name, 0) + count
        marks = {}
        for row in rows:
            complete = row.released_at is not None or counts.get(row.name, 0) >= row.row_count
            if not complete:
                _log.warning("index_rows_missing", segment=row.name)
            marks[row.name] = _marked(row) if complete else _Mark()
        self._listed_at = float("-inf")
        return marks

    def _list(self, marks: dict[str, _Mark]) -> None:
        while self._news:
            self._open.add(self._news.popleft())
        if time.monotonic() - self._listed_at < self._poll_s:
            return
        self._listed_at = time.monotonic()
        found = (path.name for path in segments(self._spool_dir))
        self._open |= {name for name in found if not marks.get(name, _Mark()).sealed}

    def _read(self, name: str, mark: _Mark, limit: int) -> tuple[list[Entry], _Mark]:
        """Up to `limit` entries that follow the mark, and the mark behind them."""
        entries: list[Entry] = []
        path = self._spool_dir / name
        try:
            finished = not has_writer(path)  # asked before reading: what is written later needs no second look
            with SegmentReader(path) as reader:
                at = mark.indexed_to
                while len(entries) < limit:
                    found = reader.record_at(at)
                    if found is None or (isinstance(found, Damage) and not finished):
                        return entries, replace(mark, indexed_to=at, sealed=found is None and finished)
                    if isinstance(found, EndMark):
                        ended = replace(mark, indexed_to=at, sealed=True, ending=found.ending, ended_at=found.at)
                        return entries, ended
                    if isinstance(found, Damage):
                        entries.append(_broken(found))
                        at = found.start + found.length
                        if found.last:
                            return entries, replace(mark, indexed_to=at, sealed=True)
                    else:
                        entries.append(_entry(reader, found))
                        at = found.end
                return entries, replace(mark, indexed_to=at)
        except FileNotFoundError:
            self._open.discard(name)  # released by retention, or closed without a record
        except OSError as error:
            _log.error("segment_unreadable", segment=name, error=error.strerror)
            self._open.discard(name)  # the other segments go on; this one is listed and tried again
        return [], mark


def _marked(row: SpoolSegment) -> _Mark:
    return _Mark(row.indexed_to, row.row_count, row.sealed, row.ending, row.ended_at)


def _entry(reader: SegmentReader, record: Record) -> Entry:
    with reader.data_set(record) as data_set:
        digest = hashlib.sha256(data_set).hexdigest()
        try:
            return Readable(record, read_names(data_set, record.origin), digest)
        except Unfit as unfit:
            origin = record.origin
            return Broken(
                record.segment,
                record.offset,
                record.length,
                origin.sop_instance_uid,
                origin.calling_ae,
                unfit.reason,
                unfit.detail,
                record.received_at,
            )


def _broken(damage: Damage) -> Broken:
    detail = "a write was cut short; it was never acknowledged" if damage.last else "the disk lost a stored record"
    return Broken(
        damage.segment, damage.start, damage.length, damage.sop_instance_uid, "", Reason.TRUNCATED, detail, now()
    )
