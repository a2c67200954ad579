"""A whole node in one process, made of its real parts, that a test may crash at any commit or send, and restart.

Two things only are not the node's own: the broker is a list, and the archive at the other end a dictionary. All that a
change of the node's parts may touch is here.
"""

import hashlib
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import patch

import numpy as np
from pydicom import Dataset, dcmread
from rows import DIGEST, small_object
from spool_data import ct_slice, encode
from sqlalchemy import Engine, event

import node.clock
import node.delivery
import node.reconciler
import node.segment_writer
from config import Reason, Settings
from config.settings import (
    CompletionSettings,
    DeliverySettings,
    Destination,
    DicomSettings,
    RoutingSettings,
    WorkSettings,
)
from ct.anatomy import AlgorithmIdentity
from ct.series import read_header
from ct.volume import SourceSlice
from dicom_sr.identity import Kind, Names, WriteContext
from fvlm.reading import AnatomyReading, Reading
from node import records as records_module
from node.analysis import Analysis
from node.clean import clean
from node.completion import Completer
from node.database import Records, open_database
from node.delivery import Courier
from node.dimse_link import AwayError
from node.errors import CommandError
from node.indexer import Indexer
from node.intake import Intake, IntakeSession, Stored
from node.job_control import cancel
from node.jobs import Analyst
from node.migrations import upgrade
from node.outbox import Outcome
from node.reconciler import Reconciler
from node.records import Base
from node.spool import Record, SegmentReader
from node.store_status import judge
from node.tasks import ANALYZE, DELIVER

QUIET_S, LEASE_S = 15.0, 120.0
EXPLICIT = "1.2.840.10008.1.2.1"
_STATE_LOG = "".join(
    f"CREATE TRIGGER {table}_moves AFTER UPDATE OF state ON {table} WHEN OLD.state <> NEW.state"
    f" BEGIN INSERT INTO state_log VALUES ('{table}', OLD.id, OLD.state, NEW.state); END;"
    for table in ("series", "job")
)
"""Every change of state, whichever statement makes it."""


class Crash(BaseException):
    """The process ends here."""


@dataclass(frozen=True)
class Point:
    """Where it ends: before or after the commit or send of this number (from 1) within one action."""

    what: str
    """`commit` or `send`."""
    after: bool
    number: int


@dataclass
class Clock:
    """The node's clock, which only this moves."""

    ahead: timedelta = timedelta(0)

    def now(self) -> datetime:
        return _REAL_NOW() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead.total_seconds()


_REAL_NOW = records_module.now


@dataclass(frozen=True)
class Acknowledged:
    """An instance for which the sender has a success."""

    series: str
    uid: str
    sha256: str
    record: Record


@dataclass
class Archive:
    """The PACS: keeps what it is sent, and answers as `mode` says."""

    mode: str = "accept"
    """accept, refuse (for good), busy (for now) or dead (no association)."""
    commitment: str = "give"
    """give, refuse (it has no such object), silent (no report comes) or unknown (it does not offer the service)."""
    kept: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the objects, by SOP Instance UID."""
    committed: set[str] = field(default_factory=set)
    """SOP Instance UIDs that it has committed to."""
    meaning: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """SOP Instance UIDs by (kind and series, images that were read)."""
    rewritten: list[str] = field(default_factory=list)
    """Objects that came again with other bytes."""

    def keep(self, path: Path) -> None:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        dataset = dcmread(path)
        uid = str(dataset.SOPInstanceUID)
        if self.kept.setdefault(uid, content) != content:
            self.rewritten.append(uid)
        of = f"{dataset.Modality} of {dataset.SeriesDescription}", str(dataset.ImageComments)
        self.meaning.setdefault(of, set()).add(uid)


class Broker(list[tuple[str, int]]):
    """A dispatcher whose queues are a list."""

    def send(self, queue: str, row_id: int, *_: object, **__: object) -> None:
        self.append((queue, row_id))

    def waiting(self, queue: str) -> int:
        return sum(name == queue for name, _ in self)

    def take(self, queue: str) -> int | None:
        """The oldest message of a queue."""
        found = next((message for message in self if message[0] == queue), None)
        if found is not None:
            self.remove(found)
        return found[1] if found is not None else None


class ContentPipeline:
    """Reads nothing but bytes: its SEG and SR say of which images they were made, under the node's own names."""

    release_digest = DIGEST

    def vet(self, slices: Sequence[SourceSlice]) -> Any:
        return slices

    def whose(self, _: Any) -> None:
        return None

    def run(
        self,
        slices: Any,
        images_at: datetime,
        on_stage: Callable[[str], None] | None = None,
        former: Any = None,
        *_: Any,
    ) -> Analysis:
        if on_stage is not None:
            on_stage("read")
        images = image_set((one.sop_instance_uid, _data_set_digest(one)) for one in slices)
        who = AlgorithmIdentity("fake", "1", DIGEST, test_only=True)
        lung = AnatomyReading("lung", 4000.0, -800.0, (), np.array([1, 0, 0, 0.25], np.float16))
        reading = Reading(who, who, (lung,), (), images_at)
        series = read_header(slices[0]).series_instance_uid
        names = Names.of(
            reading, [one.sop_instance_uid for one in slices], series, images_at, WriteContext(predecessor=former)
        )
        objects = []
        for kind in (Kind.SEG, Kind.SR):
            made = small_object(kind.name, self.name_of(names, kind))
            made.SeriesDescription, made.ImageComments = series, images
            made.ContentDate, made.ContentTime = images_at.strftime("%Y%m%d"), images_at.strftime("%H%M%S.%f")
            objects.append(made)
        return Analysis(None, None, reading, tuple(objects), {"read": 0.25})  # type: ignore[arg-type]

    def name_of(self, names: Names, kind: Kind) -> str:
        return names.instance(kind)


def image_set(images: Any) -> str:
    """What stands for a set of (SOP Instance UID, SHA-256)."""
    return hashlib.sha256(repr(sorted(images)).encode()).hexdigest()


def _data_set_digest(source: SourceSlice) -> str:
    """SHA-256 of the data set behind the Part 10 header."""
    with source.path.open("rb") as file:
        file.seek(source.offset)
        data = file.read(source.length or -1)
    return hashlib.sha256(data[144 + int.from_bytes(data[140:144], "little") :]).hexdigest()


class WholeNode:
    """Spool, database, and the processes around them; each action of a process may end it."""

    pipeline: type[ContentPipeline] = ContentPipeline

    def __init__(self, folder: Path, template: Path) -> None:
        """`template`: a database from `make_template`."""
        self.settings = Settings(
            data_dir=folder,
            dicom=DicomSettings(min_free_mb=0),
            completion=CompletionSettings(quiet_s=QUIET_S),
            routing=RoutingSettings(min_slices=2, destinations=("pacs",)),
            destinations={"pacs": Destination(ae_title="PACS", host="127.0.0.1", port=104)},
            delivery=DeliverySettings(
                retry_first_s=5.0, retry_max_s=60.0, commitment_timeout_s=60.0, commitment_resends=2
            ),
            work=WorkSettings(max_attempts=3, lease_s=LEASE_S),
        )
        self._template, self._file = template, folder / "node.sqlite"
        assert str(self._file) in self.settings.database, "the database lies elsewhere now"
        folder.mkdir(parents=True, exist_ok=True)
        self.clock, self.archive, self.broker = Clock(), Archive(), Broker()
        self.acknowledged: list[Acknowledged] = []
        self._point: Point | None = None
        self._seen: Counter[str] = Counter()
        self._sessions: dict[int, IntakeSession] = {}
        self._patches = [patch.object(module, "now", self.clock.now) for module in _clocked()]
        _take_over_defaults()
        self._patches += [
            patch.object(node.delivery, "DimseLink", self._link),
            patch.object(node.delivery, "CommitmentLink", self._commitment_link),
            patch.object(node.segment_writer, "_PREALLOCATE", 65536),
            patch.object(node.clock, "time", SimpleNamespace(monotonic=self.clock.monotonic)),
            patch.object(node.reconciler, "release_digest", lambda _: DIGEST),
        ]
        for one in self._patches:
            one.start()
        self.intake = Intake(self.settings.spool_dir, 0)
        shutil.copy(template, self._file)
        self._reader = sqlite3.connect(self._file)
        self.start()

    # --- processes

    def start(self) -> None:
        """New objects on the files that are there."""
        self.records = Records(_engine(self))
        self.indexer = Indexer(self.records, self.settings.spool_dir, poll_s=0.0)
        self.reconciler = Reconciler(self.records, self.settings, self.broker)  # type: ignore[arg-type]
        self.reconciler._completer = Completer(self.records, self.settings, clock=self.clock.monotonic)
        self.analyst = Analyst(self.records, self.settings, self.pipeline(), "worker")  # type: ignore[arg-type]
        self.courier = Courier(self.records, self.settings)

    def restart(self) -> None:
        """All processes but the receiver end and come back; the worker knows that its former life is over."""
        self.records.engine.dispose()
        self.start()
        self.analyst.recover()

    def lose_database(self) -> None:
        """And start with an empty one."""
        self.records.engine.dispose()
        self._reader.close()
        for path in self.settings.data_dir.glob(f"{self._file.name}*"):
            path.unlink()
        shutil.copy(self._template, self._file)
        self._reader = sqlite3.connect(self._file)
        self.start()

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._reader.close()
        self.records.engine.dispose()
        _present.clear()
        for one in self._patches:
            one.stop()

    @contextmanager
    def crashing(self, point: Point | None) -> Iterator[None]:
        """The action within ends at `point`, if it comes so far; then everything is started again."""
        self._point, self._seen = point, Counter()
        try:
            yield
        except Crash:
            self._point = None
            self.restart()
        finally:
            self._point = None

    @contextmanager
    def counted(self, what: str) -> Iterator[None]:
        self._seen[what] += 1
        here = self._point is not None and (self._point.what, self._point.number) == (what, self._seen[what])
        if here and self._point is not None and not self._point.after:
            raise Crash
        yield
        if here:
            raise Crash

    # --- ways in

    def session(self, number: int) -> IntakeSession:
        """The open association of that number."""
        if number not in self._sessions:
            self._sessions[number] = self.intake.open("STORESCU", "FVLM")
        return self._sessions[number]

    def release(self, number: int) -> None:
        """The association ends."""
        session = self._sessions.pop(number, None)
        if session is not None:
            session.close()

    def receive(self, number: int, dataset: Dataset) -> None:
        """C-STORE over an association; it must be taken."""
        data = encode(dataset)
        answer = self.session(number).store(dataset.SOPClassUID, dataset.SOPInstanceUID, EXPLICIT, data)
        assert isinstance(answer, Stored), answer
        sha256 = hashlib.sha256(data).hexdigest()
        self.acknowledged.append(
            Acknowledged(str(dataset.SeriesInstanceUID), str(dataset.SOPInstanceUID), sha256, answer.record)
        )

    def receive_half(self, number: int, dataset: Dataset) -> None:
        """The peer goes away within a data set."""
        data = encode(dataset)
        self.session(number).begin(dataset.SOPClassUID, dataset.SOPInstanceUID, EXPLICIT).write(data[: len(data) // 2])
        self.release(number)

    # --- work

    def index(self) -> None:
        self.indexer.catch_up()

    def reconcile(self, seconds: float) -> None:
        """One pass, after a while."""
        self.clock.ahead += timedelta(seconds=seconds)
        self.reconciler.once()

    def work(self) -> bool:
        """One message of the analyze queue; False if there is none."""
        job_id = self.broker.take(ANALYZE)
        if job_id is None:
            return False
        for delivery_id in self.analyst.analyze(job_id):
            self.broker.send(DELIVER, delivery_id)
        return True

    def deliver(self) -> bool:
        """One message of the deliver queue; False if there is none."""
        delivery_id = self.broker.take(DELIVER)
        if delivery_id is None:
            return False
        self.courier.deliver(delivery_id)
        return True

    def _link(self, *_: object, **__: object) -> "_Link":
        if self.archive.mode == "dead":
            raise AwayError(Reason.PEER_UNREACHABLE, "dead")
        return _Link(self)

    def _commitment_link(self, _: object, __: str, ___: float, take: Callable[[int, bytes, str], int]) -> "_Question":
        if self.archive.mode == "dead":
            raise AwayError(Reason.PEER_UNREACHABLE, "dead")
        return _Question(self, take)

    def ask_archive(self, transaction_uid: str, uids: dict[str, str], take: Callable[[int, bytes, str], int]) -> None:
        """N-ACTION at the destination, and its N-EVENT-REPORT. `uids`: SOP Instance UID -> SOP Class UID."""
        with self.counted("send"):
            if self.archive.commitment == "silent":
                return
            has = self.archive.kept.keys() if self.archive.commitment == "give" else set()
            told = Dataset()
            told.TransactionUID = transaction_uid
            told.ReferencedSOPSequence = [reference(uids[uid], uid) for uid in uids if uid in has]
            failed = [reference(uids[uid], uid, 0x0112) for uid in uids if uid not in has]
            if failed:
                told.FailedSOPSequence = failed
            self.archive.committed |= {uid for uid in uids if uid in has}
        assert take(2 if failed else 1, encode(told), EXPLICIT) == 0x0000

    def cancel(self, job_id: int) -> bool:
        """Whether the job could be cancelled."""
        try:
            cancel(self.records, str(job_id))
        except CommandError:
            return False
        return True

    def clean(self) -> None:
        """Delete all that may go, as if it were old enough."""
        self.clock.ahead += timedelta(seconds=1)
        for _ in clean(self.records, self.settings, 0):
            pass

    def store_in_archive(self, path: Path) -> Outcome:
        """C-STORE at the destination."""
        with self.counted("send"):
            if self.archive.mode != "accept":
                return judge({"refuse": 0xA900, "busy": 0xA700}[self.archive.mode])
            self.archive.keep(path)
        return judge(0)

    # --- what is there

    def acknowledged_in_spool(self) -> bool:
        """Whether every acknowledged data set is on the disk with its hash."""
        by_segment: dict[str, list[Acknowledged]] = {}
        for one in self.acknowledged:
            by_segment.setdefault(one.record.segment, []).append(one)
        for name, those in by_segment.items():
            with SegmentReader(self.settings.spool_dir / name) as reader:
                for one in those:
                    found = reader.record_at(one.record.start)
                    if found != one.record or hashlib.sha256(reader.data_set(found)).hexdigest() != one.sha256:
                        return False
        return True

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._reader.execute(query).fetchall()


class _Link:
    """What `node.delivery` needs of an association with the archive."""

    alive = True

    def __init__(self, whole: WholeNode) -> None:
        self._node = whole

    def store(self, path: Path, *_: object) -> Outcome:
        return self._node.store_in_archive(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Question(_Link):
    """What `node.delivery` needs of an association in which commitment is asked for."""

    def __init__(self, whole: WholeNode, take: Callable[[int, bytes, str], int]) -> None:
        super().__init__(whole)
        self._take = take
        self.offered = whole.archive.commitment != "unknown"

    def ask(self, transaction_uid: str, question: Any) -> int:
        uids = {str(item.sop_instance_uid): str(item.sop_class_uid) for item in question.items}
        self._node.ask_archive(transaction_uid, uids, self._take)
        return 0x0000

    def wait(self, *_: object) -> None:
        pass


def reference(sop_class: str, uid: str, failure: int | None = None) -> Dataset:
    """An item of a Referenced or Failed SOP Sequence; `failure`: Failure Reason (PS3.3 C.14.1.1)."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    if failure is not None:
        item.FailureReason = failure
    return item


@lru_cache(maxsize=1)
def _clocked() -> tuple[Any, ...]:
    """The modules of the node that look at the clock."""
    named = [module for name, module in list(sys.modules.items()) if name.startswith("node.")]
    return tuple(module for module in named if getattr(module, "now", None) is _REAL_NOW)


@lru_cache(maxsize=1)
def _take_over_defaults() -> None:
    """Columns that take the time of their row get it from the present node's clock (SQLAlchemy keeps what it calls)."""
    for table in Base.metadata.tables.values():
        for column in table.columns:
            default: Any = column.default
            if default is not None and getattr(default.arg, "__name__", "") == _REAL_NOW.__name__:
                default.arg = lambda _: _present[0].clock.now() if _present else _REAL_NOW()
                column.__dict__.pop("_default_description_tuple", None)  # kept since the first row


_present: list["WholeNode"] = []
"""Whose database the engine opens, and whose clock holds."""


@lru_cache(maxsize=1)
def _the_engine() -> Engine:
    """One for all nodes, one after the other: SQLAlchemy compiles each statement once an engine."""
    engine = open_database("sqlite:///nowhere")
    dialect: Any = engine.dialect
    commit = dialect.do_commit

    def do_commit(connection: Any) -> None:
        with _present[0].counted("commit"):
            commit(connection)

    def where(_: object, __: object, arguments: list[Any], ___: object) -> None:
        arguments[0] = str(_present[0].settings.data_dir / "node.sqlite")

    dialect.do_commit = do_commit
    event.listen(engine, "do_connect", where)
    return engine


def _engine(whole: WholeNode) -> Engine:
    """The engine, with new connections, on the database of a node."""
    _present[:] = [whole]
    engine = _the_engine()
    engine.dispose()
    return engine


def make_template(path: Path) -> Path:
    """An empty database of the present schema that logs every change of state in `state_log`."""
    engine = open_database(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE state_log (kind, id, old, new);" + _STATE_LOG)
        connection.execute("PRAGMA journal_mode=DELETE")
    return path


def image(series: int, number: int, fill: int = 0, of: int | None = None) -> Dataset:
    """A tiny slice; `of`: another series whose SOP Instance UID it re-uses."""
    dataset = ct_slice(series, number, side=4, fill=fill)
    if of is not None:
        dataset.SOPInstanceUID = ct_slice(of, number, side=4).SOPInstanceUID
    return dataset
