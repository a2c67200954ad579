"""The index: what is in the spool is in the tables, once, in the right generation, or visibly unreadable."""

import os
import random
import threading
import time
import zlib
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from spool_data import ROOT, SECRET, Bench, ct_slice, encode, store
from sqlalchemy import delete, func, select, update

from config import Reason
from ct.part10 import Unfit
from node.file_meta import Origin
from node.headers import read_names
from node.indexer import BATCH, Indexed, Indexer
from node.intake import Stored
from node.records import Instance, Job, Series, SpoolSegment, Unreadable, now
from node.retention import release_segments
from node.spool import segments
from node.states import State


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "node")


def _instances(bench: Bench) -> list[Instance]:
    with bench.records.reading() as session:
        return list(session.scalars(select(Instance).order_by(Instance.id)))


def _series(bench: Bench) -> list[Series]:
    with bench.records.reading() as session:
        return list(session.scalars(select(Series).order_by(Series.id)))


def _unreadable(bench: Bench) -> list[Unreadable]:
    with bench.records.reading() as session:
        return list(session.scalars(select(Unreadable).order_by(Unreadable.id)))


def _move(bench: Bench, uid: str, *states: State) -> None:
    with bench.records.session() as session:
        newest = select(Series).where(Series.series_instance_uid == uid).order_by(Series.generation.desc())
        row = session.scalars(newest).first()
        assert row is not None
        for state in states:
            row.move(state)


def _picture(bench: Bench) -> list[tuple[object, ...]]:
    """The index without what depends on when it was written."""
    with bench.records.reading() as session:
        rows = session.execute(
            select(
                Instance.sop_instance_uid, Instance.segment, Instance.offset, Instance.length, Instance.sha256,
                Instance.conflict, Series.series_instance_uid, Series.generation, Series.modality, Series.source_ae,
            ).join(Series)
        )  # fmt: skip
        return sorted(tuple(row) for row in rows)


def test_an_instance_is_found_with_its_bytes_and_its_series(bench: Bench) -> None:
    sent = [ct_slice(number=n) for n in (1, 2, 3)]
    bench.receive(*sent)
    (series,) = _series(bench)
    assert (series.series_instance_uid, series.generation, series.state) == (f"{ROOT}.1", 1, State.RECEIVING)
    assert (series.modality, series.source_ae, series.study_instance_uid) == ("CT", "STORESCU", f"{ROOT}.91")
    rows = _instances(bench)
    assert [row.sop_instance_uid for row in rows] == [dataset.SOPInstanceUID for dataset in sent]
    for row, dataset in zip(rows, sent, strict=True):
        raw = (bench.settings.spool_dir / row.segment).read_bytes()
        assert raw[row.offset : row.offset + row.length].endswith(encode(dataset))
        assert (row.series_id, row.conflict) == (series.id, False)


def test_records_are_indexed_while_their_association_runs(bench: Bench) -> None:
    with bench.intake.open("STORESCU", "FVLM") as session:
        store(session, ct_slice(number=1))
        assert bench.indexer.catch_up() == Indexed(records=1, instances=1)
        store(session, ct_slice(number=2))
        assert bench.indexer.catch_up() == Indexed(records=1, instances=1)
        assert bench.indexer.catch_up() == Indexed()
    bench.indexer.catch_up()
    with bench.records.reading() as session:
        assert session.scalars(select(SpoolSegment)).one().sealed


def test_an_identical_repetition_is_ignored_and_other_bytes_are_a_conflict(bench: Bench) -> None:
    bench.receive(ct_slice(number=1), ct_slice(number=1), ct_slice(number=1, fill=7))
    bench.receive(ct_slice(number=1), ct_slice(number=1, fill=7), ct_slice(number=1, fill=8))
    assert [row.conflict for row in _instances(bench)] == [False, True, True]
    assert len(_series(bench)) == 1


def test_a_late_instance_opens_the_next_generation_but_a_repetition_or_a_conflict_does_not(bench: Bench) -> None:
    uid = f"{ROOT}.1"
    bench.receive(ct_slice(number=1), ct_slice(number=2))
    _move(bench, uid, State.COMPLETE, State.VETTED)
    bench.receive(ct_slice(number=2), ct_slice(number=1, fill=9))
    assert [row.generation for row in _series(bench)] == [1]
    bench.receive(ct_slice(number=3))
    bench.receive(ct_slice(number=4))
    first, second = _series(bench)
    assert (first.state, second.state, second.generation) == (State.VETTED, State.RECEIVING, 2)
    assert [row.series_id for row in _instances(bench)] == [first.id] * 3 + [second.id] * 2


def test_a_stolen_uid_in_another_series_is_kept_as_conflict_of_that_series(bench: Bench) -> None:
    bench.receive(ct_slice(series=1, number=1))
    thief = ct_slice(series=2, number=1)
    thief.SOPInstanceUID = ct_slice(series=1, number=1).SOPInstanceUID
    bench.receive(thief)
    assert [row.series_instance_uid for row in _series(bench)] == [f"{ROOT}.1", f"{ROOT}.2"]
    assert [row.conflict for row in _instances(bench)] == [False, True]


@pytest.mark.parametrize("lost", ["database", "some rows", "nothing"])
def test_the_index_is_rebuilt_from_the_spool(bench: Bench, lost: str) -> None:
    bench.receive(*(ct_slice(series=1, number=n) for n in range(1, 6)), ct_slice(series=1, number=2, fill=3))
    bench.receive(*(ct_slice(series=2, number=n) for n in range(1, 4)), ct_slice(series=1, number=4))
    with bench.intake.open("STORESCU", "FVLM") as session:
        session.store(CTImageStorage, "1.2.3", ExplicitVRLittleEndian, b"rubbish " * 30)
    bench.indexer.catch_up()
    before = _picture(bench)
    if lost == "database":
        bench.lose_database()
    elif lost == "some rows":
        with bench.records.session() as session:
            session.execute(delete(Instance).where(Instance.sop_instance_uid.in_([f"{ROOT}.1.3", f"{ROOT}.2.1"])))
            session.execute(delete(Unreadable))
    indexer = Indexer(bench.records, bench.settings.spool_dir, poll_s=0.0)
    done = indexer.catch_up()
    assert _picture(bench) == before
    assert len(_unreadable(bench)) == 1
    assert (done.instances, done.unreadable) == {"database": (8, 1), "some rows": (2, 1), "nothing": (0, 0)}[lost]
    assert Indexer(bench.records, bench.settings.spool_dir, poll_s=0.0).catch_up() == Indexed()


def test_more_than_a_batch_from_several_segments(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.indexer.BATCH", 7)
    assert BATCH > 7
    with bench.intake.open("ONE", "FVLM") as one, bench.intake.open("TWO", "FVLM") as two:
        for number in range(1, 21):
            store(one, ct_slice(series=1, number=number, side=8))
            store(two, ct_slice(series=2, number=number, side=8))
    assert bench.indexer.catch_up().instances == 40
    with bench.records.reading() as session:
        counts = session.execute(select(Series.series_instance_uid, func.count()).join(Instance).group_by(Series.id))
        assert dict(counts.tuples().all()) == {f"{ROOT}.1": 20, f"{ROOT}.2": 20}
        assert all(row.sealed and row.row_count == 20 for row in session.scalars(select(SpoolSegment)))


def test_while_the_database_is_away_nothing_is_lost_and_then_it_catches_up(bench: Bench) -> None:
    database = bench.settings.data_dir / "node.sqlite"
    bench.receive(ct_slice(number=1))
    bench.records.engine.dispose()
    away = database.with_suffix(".away")
    database.rename(away)
    database.mkdir()  # opening it fails
    bench.indexer = Indexer(bench.records, bench.settings.spool_dir, poll_s=0.05)
    bench.intake.on_stored = bench.indexer.notify
    thread = threading.Thread(target=bench.indexer.run)
    thread.start()
    with bench.intake.open("STORESCU", "FVLM") as session:
        for number in range(2, 7):
            store(session, ct_slice(number=number))
    assert thread.is_alive()
    database.rmdir()
    away.rename(database)
    deadline = time.monotonic() + 60
    while len(_instances(bench)) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    bench.indexer.stop()
    thread.join(30)
    assert [row.sop_instance_uid for row in _instances(bench)] == [f"{ROOT}.1.{n}" for n in range(1, 7)]


def test_two_indexers_on_one_spool_do_not_disturb_each_other(bench: Bench) -> None:
    first = Indexer(bench.records, bench.settings.spool_dir, poll_s=0.02)
    second = Indexer(bench.records, bench.settings.spool_dir, poll_s=0.02)
    threads = [threading.Thread(target=indexer.run) for indexer in (first, second)]
    for thread in threads:
        thread.start()
    with bench.intake.open("STORESCU", "FVLM") as session:
        for number in range(1, 31):
            store(session, ct_slice(number=number, side=8))
    for indexer, thread in zip((first, second), threads, strict=True):
        indexer.stop()
        thread.join(30)
    bench.indexer.catch_up()
    assert len(_instances(bench)) == 30


def test_a_torn_tail_is_reported_and_not_indexed(bench: Bench) -> None:
    bench.receive(ct_slice(number=1))
    with bench.intake.open("STORESCU", "FVLM") as session:
        for number in (2, 3):
            last = store(session, ct_slice(number=number)).record
    os.truncate(bench.settings.spool_dir / last.segment, last.end - 10)
    bench.indexer.catch_up()
    assert [row.sop_instance_uid for row in _instances(bench)] == [f"{ROOT}.1.1", f"{ROOT}.1.2"]
    (broken,) = _unreadable(bench)
    assert (broken.reason, broken.offset, broken.sop_instance_uid) == (Reason.TRUNCATED, last.start, f"{ROOT}.1.3")
    with bench.records.reading() as session:
        assert all(row.sealed for row in session.scalars(select(SpoolSegment)))


def test_a_record_that_the_disk_lost_is_reported_and_the_ones_behind_it_are_found(bench: Bench) -> None:
    with bench.intake.open("STORESCU", "FVLM") as session:
        records = [store(session, ct_slice(number=number)).record for number in (1, 2, 3)]
    path = bench.settings.spool_dir / records[1].segment
    with path.open("r+b") as file:
        file.seek(records[1].offset + 400)
        file.write(b"\xff" * 8)
    bench.indexer.catch_up()
    assert [row.sop_instance_uid for row in _instances(bench)] == [f"{ROOT}.1.1", f"{ROOT}.1.3"]
    assert "lost" in _unreadable(bench)[0].detail


def _mutations(count: int) -> list[bytes]:
    rng = random.Random(20260301)
    clean = encode(ct_slice(number=1, side=8))
    mutated = []
    for _ in range(count):
        data = bytearray(clean)
        for _ in range(rng.choice((1, 1, 2, 8))):
            kind, at = rng.randrange(6), rng.randrange(len(data) or 1)
            if kind == 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                del data[at : at + rng.randrange(1, 40)]
            elif kind == 3:
                data[at:at] = rng.randbytes(rng.randrange(1, 40))
            elif kind == 4:
                data[at : at + 4] = b"\xff\xff\xff\xff"
            else:
                data[at:at] = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * rng.randrange(1, 2000)
        mutated.append(bytes(data) or b"\0")
    return mutated


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_200_damaged_data_sets_are_each_indexed_or_unreadable(bench: Bench, syntax: str) -> None:
    mutations = _mutations(200)
    with bench.intake.open("STORESCU", "FVLM") as session:
        for number, data in enumerate(mutations):
            answer = session.store(CTImageStorage, f"{ROOT}.1.1", syntax, data)
            assert isinstance(answer, Stored), number
    done = bench.indexer.catch_up()
    assert done.records == 200
    assert done.instances + done.conflicts + done.known + done.unreadable == 200
    rows = _unreadable(bench)
    assert len(rows) == done.unreadable > 0
    assert {row.reason for row in rows} <= {Reason.NOT_DICOM, Reason.TRUNCATED, Reason.BAD_UID}
    told = " ".join(row.detail for row in rows)
    assert not any(secret in told for secret in SECRET)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: delattr(d, "SeriesInstanceUID"), Reason.BAD_UID),
        (lambda d: setattr(d, "SeriesInstanceUID", "PLANTED^NAME"), Reason.BAD_UID),
        (lambda d: setattr(d, "StudyInstanceUID", "../../x"), Reason.BAD_UID),
        (lambda d: setattr(d, "SOPInstanceUID", "1.2.3"), Reason.BAD_UID),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_a_bad_uid_in_the_data_set_is_unreadable(bench: Bench, change, reason: Reason) -> None:  # type: ignore[no-untyped-def]
    dataset = ct_slice()
    change(dataset)
    with bench.intake.open("STORESCU", "FVLM") as session:
        session.store(CTImageStorage, f"{ROOT}.1.1", ExplicitVRLittleEndian, encode(dataset))
    assert bench.indexer.catch_up().unreadable == 1
    assert _unreadable(bench)[0].reason == reason
    assert _instances(bench) == []


def _origin(syntax: str) -> Origin:
    return Origin(CTImageStorage, f"{ROOT}.1.1", syntax, "STORESCU", "FVLM")


def test_names_are_read_from_every_native_encoding_and_a_deflate_bomb_is_not_blown_up() -> None:
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        assert read_names(memoryview(encode(ct_slice(), syntax)), _origin(syntax)).series_instance_uid == f"{ROOT}.1"
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    small = deflate.compress(encode(ct_slice())) + deflate.flush()
    names = read_names(memoryview(small), _origin(DeflatedExplicitVRLittleEndian))
    assert (names.modality, names.study_instance_uid) == ("CT", f"{ROOT}.91")
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = b"".join(deflate.compress(bytes(2**20)) for _ in range(512)) + deflate.flush()
    with pytest.raises(Unfit):
        read_names(memoryview(bomb), _origin(DeflatedExplicitVRLittleEndian))


def test_a_modality_that_is_no_code_string_is_not_taken_over() -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, f"{ROOT}.1.1"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2", "1.3"
    dataset.add_new(0x00080060, "CS", "planted^name")
    assert read_names(memoryview(encode(dataset)), _origin(ExplicitVRLittleEndian)).modality == ""


def test_a_segment_is_released_only_when_all_in_it_is_done(bench: Bench) -> None:
    bench.receive(ct_slice(series=1, number=1), ct_slice(series=2, number=1))
    later = now() + timedelta(hours=1)
    _move(bench, f"{ROOT}.1", State.COMPLETE, State.REJECTED)
    _move(bench, f"{ROOT}.2", State.COMPLETE, State.VETTED)
    assert release_segments(bench.records, bench.settings.spool_dir, later) == []
    with bench.records.session() as session:
        series = session.scalars(select(Series).where(Series.series_instance_uid == f"{ROOT}.2")).one()
        session.add(Job(series=series, release_digest="d", state=State.SENT))
    assert release_segments(bench.records, bench.settings.spool_dir, now() - timedelta(hours=1)) == []
    (name,) = release_segments(bench.records, bench.settings.spool_dir, later)
    assert segments(bench.settings.spool_dir) == []
    assert _instances(bench) == []
    assert release_segments(bench.records, bench.settings.spool_dir, later) == []
    bench.receive(ct_slice(series=2, number=1))  # sent again: a new generation, from its new bytes
    (row,) = _instances(bench)
    assert row.segment != name
    assert [s.generation for s in _series(bench) if s.series_instance_uid == f"{ROOT}.2"] == [1, 2]


def test_a_batch_may_be_written_again(bench: Bench) -> None:
    bench.receive(ct_slice(number=1))
    with bench.records.session() as session:
        session.execute(update(SpoolSegment).values(indexed_to=0, row_count=0, sealed=False))
    assert Indexer(bench.records, bench.settings.spool_dir).catch_up() == Indexed(records=1)
    assert len(_instances(bench)) == 1
