"""What modalities (MPPS) and archives (IAN) announce of a series: kept, answered, and what it closes."""

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.dsutils import encode as encode_data_set
from raw_pdu import COMMAND, LAST, answer, connect, context, data, read_pdu, status_in
from running import wait_for
from spool_data import ROOT, Bench, Receiver, ct_slice, receiver, settings_for
from sqlalchemy import select
from typer.testing import CliRunner

from config import Settings
from config.settings import CompletionSettings, SettingsError
from node import announced_rows
from node.announced import (
    INSTANCE_AVAILABILITY,
    LONGEST_ANNOUNCEMENT,
    MPPS,
    Kind,
    Named,
    RefusedError,
    Step,
    StepStatus,
    parse_availability,
    parse_step,
)
from node.announced_files import KEPT_S, AnnouncementFiles
from node.announced_request import Announcing
from node.cli import app
from node.completion import Completer
from node.database import Records, open_database
from node.dimse import Command, parse_command
from node.records import AnnouncedSeries, Series, Signal, now
from node.series_status import load, newest_first
from node.spool import Ending
from node.states import State

pytestmark = pytest.mark.timeout(900)  # a safety net on a busy machine, not an expectation

LONG = CompletionSettings(quiet_s=3600.0, missing_s=7200.0)
SERIES = f"{ROOT}.1"
_SUCCESS = 0x0000


def _settings(data_dir: Path, **dicom: object) -> Settings:
    announcing = {"mpps_from": ("STORESCU",), "ian_from": ("STORESCU",), **dicom}
    return settings_for(data_dir, receivers=2, **announcing).model_copy(update={"completion": LONG})


def _images(last: int, first: int = 1, series: int = 1) -> list[Dataset]:
    return [ct_slice(series, n) for n in range(first, last + 1)]


def _uids(images: Sequence[Dataset]) -> tuple[str, ...]:
    return tuple(str(image.SOPInstanceUID) for image in images)


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def performed(status: str | None, *series: Sequence[Dataset]) -> Dataset:
    """The attribute list of an MPPS message; the images of each series that was performed."""
    said = Dataset()
    said.PatientName = "PLANTED^NAME"
    if status is not None:
        said.PerformedProcedureStepStatus = status
    said.PerformedSeriesSequence = []
    for images in series:
        item = Dataset()
        item.SeriesInstanceUID = images[0].SeriesInstanceUID if images else SERIES
        item.ReferencedImageSequence = [_reference(image) for image in images]
        item.ReferencedNonImageCompositeSOPInstanceSequence = []
        said.PerformedSeriesSequence.append(item)
    return said


def available(images: Sequence[Dataset], availability: str = "ONLINE") -> Dataset:
    """The attribute list of an Instance Availability Notification."""
    said, item = Dataset(), Dataset()
    said.ReferencedPerformedProcedureStepSequence = []
    said.StudyInstanceUID = images[0].StudyInstanceUID
    item.SeriesInstanceUID = images[0].SeriesInstanceUID
    item.ReferencedSOPSequence = [_reference(image) for image in images]
    for reference in item.ReferencedSOPSequence:
        reference.InstanceAvailability, reference.RetrieveAETitle = availability, "PACS"
    said.ReferencedSeriesSequence = [item]
    return said


@contextmanager
def associated(running: Receiver, calling: str = "STORESCU") -> Iterator[Any]:
    ae = AE(ae_title=calling)
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    ae.add_requested_context(MPPS)
    ae.add_requested_context(INSTANCE_AVAILABILITY)
    association = ae.associate("127.0.0.1", running.port, ae_title="FVLM")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def create(association: Any, said: Dataset | None, uid: str | None, cls: str = MPPS) -> Any:
    return association.send_n_create(said, cls, uid)[0]


def change(association: Any, said: Dataset | None, uid: str) -> Any:
    return association.send_n_set(said, MPPS, uid)[0]


def _closed(records: Records, series: int = 1) -> list[tuple[str, str | None, int | None, int | None]]:
    """State, signal, received and expected of each generation, oldest first."""
    with records.reading() as session:
        of_it = select(Series).where(Series.series_instance_uid == f"{ROOT}.{series}")
        rows = session.scalars(of_it.order_by(Series.id))
        return [(s.state, s.signal, s.received, s.expected) for s in rows]


class Clock:
    """A monotonic clock that goes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path / "node")
    bench.settings = bench.settings.model_copy(update={"completion": LONG})
    return bench


def _files(bench: Bench) -> AnnouncementFiles:
    return AnnouncementFiles(bench.settings.spool_dir)


def _announce(bench: Bench, *images: Dataset, status: StepStatus = StepStatus.COMPLETED) -> None:
    """An MPPS that names these images, from creation to its end."""
    uid = generate_uid()
    _files(bench).create_step(uid, Step(StepStatus.IN_PROGRESS, None))
    _files(bench).set_step(uid, "MODALITY", Step(status, {SERIES: Named(_uids(images))}))
    bench.indexer.catch_up()


def _notify(bench: Bench, images: Sequence[Dataset], away: Sequence[Dataset] = ()) -> None:
    _files(bench).create_notification(generate_uid(), "PACS", {SERIES: Named(_uids(images), _uids(away))})
    bench.indexer.catch_up()


# --- the real receiver


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    settings = _settings(tmp_path_factory.mktemp("common") / "node", accept_from=("STORESCU", "OTHER"))
    with receiver(settings) as running:
        yield running
        assert running.events("association_failed") == [], "an exception that nobody expected"
        assert "PLANTED" not in "".join(running.log)


def test_a_completed_step_whose_images_are_there_closes_the_series(common: Receiver) -> None:
    settings, images, uid = common.settings, _images(24, series=3), generate_uid()
    with associated(common) as modality, associated(common) as sender:
        assert create(modality, performed("IN PROGRESS"), uid).Status == _SUCCESS
        for image in images[:23]:
            assert sender.send_c_store(image).Status == _SUCCESS
        assert change(modality, performed("IN PROGRESS", images[:5]), uid).Status == _SUCCESS
        assert change(modality, performed("COMPLETED", images), uid).Status == _SUCCESS
        common.wait_for("announcement_taken", kind="mpps", state="COMPLETED", count=1)
        records = Records(open_database(settings.database))
        completer = Completer(records, settings)
        wait_for(lambda: _received(records, 3) == 23, "indexed")
        assert completer.once() == []
        assert _closed(records, 3) == [(State.RECEIVING, None, None, 24)]
        assert sender.send_c_store(images[23]).Status == _SUCCESS
        wait_for(lambda: _received(records, 3) == 24, "indexed")
        (verdict,) = completer.once()  # while its association is open still
    assert verdict.state == State.VETTED
    assert _closed(records, 3) == [(State.VETTED, Signal.MPPS, 24, 24)]
    kept = [path for path in settings.spool_dir.rglob("announced/**/*") if path.is_file()]
    assert kept
    assert not any(b"PLANTED" in path.read_bytes() for path in kept)


def _received(records: Records, series: int) -> int:
    with records.reading() as session:
        return sum(row.images for row in load(session, newest_first()) if row.name == f"{ROOT}.{series}")


def test_an_archive_that_lists_every_image_closes_the_series(common: Receiver) -> None:
    images = _images(24, series=4)
    with associated(common) as archive:
        assert create(archive, available(images), generate_uid(), INSTANCE_AVAILABILITY).Status == _SUCCESS
        for image in images:
            assert archive.send_c_store(image).Status == _SUCCESS
        common.wait_for("announcement_taken", kind="ian", calling_ae="STORESCU", count=1)
        records = Records(open_database(common.settings.database))
        wait_for(lambda: _received(records, 4) == 24, "indexed")
        Completer(records, common.settings).once()
    assert _closed(records, 4) == [(State.VETTED, Signal.IAN, 24, 24)]


def test_killed_between_the_answer_and_the_index_nothing_is_forgotten(tmp_path: Path) -> None:
    """The database is away from the first message to the kill: everything is in the spool."""
    settings, images, uid = _settings(tmp_path / "node"), _images(24), generate_uid()
    away = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'nowhere' / 'node.sqlite'}"})
    with receiver(away) as running, associated(running) as modality:
        assert create(modality, performed("IN PROGRESS"), uid).Status == _SUCCESS
        for image in images:
            assert modality.send_c_store(image).Status == _SUCCESS
        assert change(modality, performed("COMPLETED", images), uid).Status == _SUCCESS
        running.process.kill()
        running.process.wait()
    assert len(AnnouncementFiles(settings.spool_dir).waiting()) == 1
    with receiver(settings) as running:
        running.wait_for("announcement_taken", kind="mpps")
        records = Records(open_database(settings.database))
        wait_for(lambda: _received(records, 1) == 24, "indexed")
        Completer(records, settings).once()
        assert _closed(records) == [(State.VETTED, Signal.MPPS, 24, 24)]
        with associated(running) as modality:  # which did not hear the answer, and asks again
            told = change(modality, performed("COMPLETED", images), uid)
            assert (told.Status, told.ErrorID) == (0x0110, 0xA710)


def test_a_step_goes_its_way_and_no_other(common: Receiver) -> None:
    uid = generate_uid()
    with associated(common) as first, associated(common) as second:  # in two processes
        assert change(first, performed("COMPLETED", _images(1)), uid).Status == 0x0112
        assert create(first, performed("COMPLETED"), uid).Status == 0x0106
        assert create(first, performed("IN PROGRESS"), uid).Status == _SUCCESS
        assert create(second, performed("IN PROGRESS"), uid).Status == 0x0111
        assert change(second, performed("DISCONTINUED"), uid).Status == _SUCCESS
        for status in StepStatus:
            told = change(first, performed(status, _images(1)), uid)
            assert (told.Status, told.ErrorID) == (0x0110, 0xA710)
            assert "no longer" in told.ErrorComment
        assert create(first, performed("IN PROGRESS"), uid).Status == 0x0111


def test_a_notification_comes_once(common: Receiver) -> None:
    uid, said = generate_uid(), available(_images(1))
    with associated(common) as archive:
        assert create(archive, said, uid, INSTANCE_AVAILABILITY).Status == _SUCCESS
        assert create(archive, said, uid, INSTANCE_AVAILABILITY).Status == 0x0111
        status, _ = archive.send_n_set(said, INSTANCE_AVAILABILITY, uid)
        assert status.Status == 0x0211


def test_without_a_uid_the_node_gives_one(common: Receiver) -> None:
    said = encode_data_set(performed("IN PROGRESS"), False, True) or b""
    with connect(common, context(1, MPPS, ExplicitVRLittleEndian)) as connection:
        connection.sendall(data(COMMAND | LAST, _raw(0x0140, b"")) + data(LAST, said))
        told = read_pdu(connection)
    assert told is not None
    assert status_in(told.body) == _SUCCESS
    uid = parse_command(told.body[6:]).sop_instance.decode("ascii").rstrip("\0")
    with associated(common) as modality:
        assert change(modality, performed("DISCONTINUED"), uid).Status == _SUCCESS


def test_who_is_not_named_in_the_settings_is_not_offered_it(common: Receiver) -> None:
    with associated(common, "OTHER") as association:
        assert [str(one.abstract_syntax) for one in association.accepted_contexts] == [CTImageStorage]


def test_who_announces_must_be_let_in(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("dicom: {accept_from: [CT1], mpps_from: [CT1, CT2]}")
    with pytest.raises(SettingsError, match="CT2 not in accept_from"):
        Settings.load(file)


# --- hostile data sets


def _without(said: Dataset, *path: str) -> Dataset:
    at = said
    for keyword in path[:-1]:
        at = at[keyword].value[0]
    delattr(at, path[-1])
    return said


def _with(said: Dataset, value: Any, *path: str) -> Dataset:
    at = said
    for keyword in path[:-1]:
        at = at[keyword].value[0]
    setattr(at, path[-1], value)
    return said


_SERIES_OF = "PerformedSeriesSequence"
_WRONG_STEPS: list[tuple[Callable[[], Dataset | None], int]] = [
    (lambda: performed("COMPLETED"), 0x0121),
    (lambda: _without(performed("COMPLETED"), _SERIES_OF), 0x0121),  # it was created with an empty one
    (lambda: performed("ENDED", _images(1)), 0x0106),
    (lambda: _without(performed("COMPLETED", _images(1)), _SERIES_OF, "SeriesInstanceUID"), 0x0121),
    (lambda: _with(performed("COMPLETED", _images(1)), ["1.2", "1.3"], _SERIES_OF, "SeriesInstanceUID"), 0x0106),
    (
        lambda: _without(
            performed("COMPLETED", _images(1)), _SERIES_OF, "ReferencedImageSequence", "ReferencedSOPInstanceUID"
        ),
        0x0121,
    ),
    (
        lambda: _without(
            performed("COMPLETED", _images(1)), _SERIES_OF, "ReferencedImageSequence", "ReferencedSOPClassUID"
        ),
        0x0121,
    ),
]


@pytest.mark.parametrize("number", range(len(_WRONG_STEPS)))
def test_a_malformed_step_is_refused_and_stays_open(common: Receiver, number: int) -> None:
    said, status = _WRONG_STEPS[number]
    uid = generate_uid()
    with associated(common) as modality:
        assert create(modality, performed("IN PROGRESS"), uid).Status == _SUCCESS
        told = change(modality, said(), uid)
        assert (told.Status, bool(told.ErrorComment)) == (status, True)
        assert change(modality, performed("COMPLETED", _images(1)), uid).Status == _SUCCESS


_REFERENCES = ("ReferencedSeriesSequence", "ReferencedSOPSequence")
_WRONG_NOTIFICATIONS: list[tuple[Callable[[], Dataset | None], int]] = [
    (lambda: _without(available(_images(1)), "ReferencedSeriesSequence"), 0x0120),
    (lambda: _with(available(_images(1)), [], "ReferencedSeriesSequence"), 0x0121),
    (lambda: _without(available(_images(1)), "StudyInstanceUID"), 0x0121),
    (lambda: _without(available(_images(1)), *_REFERENCES), 0x0120),
    (lambda: _without(available(_images(1)), *_REFERENCES, "InstanceAvailability"), 0x0121),
    (lambda: _without(available(_images(1)), *_REFERENCES, "RetrieveAETitle"), 0x0121),
    (lambda: available(_images(1), "SOMEWHERE"), 0x0106),
]


@pytest.mark.parametrize("number", range(len(_WRONG_NOTIFICATIONS)))
def test_a_malformed_notification_is_refused(common: Receiver, number: int) -> None:
    said, status = _WRONG_NOTIFICATIONS[number]
    with associated(common) as archive:
        told = create(archive, said(), generate_uid(), INSTANCE_AVAILABILITY)
        assert (told.Status, bool(told.ErrorComment)) == (status, True)


def _raw(field: int, uid: bytes, cls: str = MPPS, data_set: int = 0) -> bytes:
    """Command set of an N-CREATE (PS3.7 table 10.3-7)."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    def word(number: int, value: int) -> bytes:
        return element(number, struct.pack("<H", value))

    return b"".join((
        element(0x0002, cls.encode()), word(0x0100, field), word(0x0110, 7), word(0x0800, data_set),
        element(0x1000, uid),
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("uid", "content", "status"),
    [
        (b"1.2.3.4", b"\xff" * 3000, 0x0120),
        (b"1.2.3.4", bytes(LONGEST_ANNOUNCEMENT + 2), 0x0213),
        (b"../../x", b"", 0x0117),
        (b"1." + b"2" * 63, b"", 0x0117),
        (b"1.2.3.4", struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 50_000, 0x0213),
        (b"1.2.3.4", b"\x40\x00\x40\x03SQ\0\0" + struct.pack("<I", 4) + b"abcd", 0x0106),
    ],
)
def test_hostile_bytes_get_a_status(common: Receiver, uid: bytes, content: bytes, status: int) -> None:
    with connect(common, context(1, MPPS, ExplicitVRLittleEndian)) as connection:
        connection.sendall(data(COMMAND | LAST, _raw(0x0140, uid)))
        for at in range(0, len(content) or 1, 100_000):
            connection.sendall(data(LAST * (at + 100_000 >= len(content)), content[at : at + 100_000]))
        assert answer(connection) == status
        connection.sendall(data(COMMAND | LAST, _raw(0x0140, uid, data_set=0x0101)))
        assert answer(connection) in (0x0117, 0x0120), "a request without a data set"
        connection.sendall(data(COMMAND | LAST, _raw(0x0001, b"1.2.3", data_set=0x0101)))
        assert answer(connection) == 0x0122, "C-STORE where no images belong"
    assert not (common.settings.data_dir.parent / "x").exists()


@hypothesis_settings(max_examples=150, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=12), st.integers(0, 12)), max_size=6))
def test_damaged_announcements_are_read_or_refused_never_more(changes: list[tuple[int, bytes, int]]) -> None:
    for implicit in (True, False):
        for said, parse in (
            (performed("COMPLETED", _SOME), parse_step),
            (available(_SOME), parse_availability),
        ):
            raw = bytearray(encode_data_set(said, implicit, True) or b"")
            for at, piece, removed in changes:
                at %= len(raw) + 1
                raw[at : at + removed] = piece
            with suppress(RefusedError):  # and nothing else
                parse(raw, implicit)


_SOME = _images(3)


# --- what closes a series, and what does not


def test_images_that_were_named_and_did_not_come_are_waited_for(bench: Bench) -> None:
    clock = Clock()
    completer = Completer(bench.records, bench.settings, None, clock)
    bench.receive(*_images(23), ending=Ending.RELEASED)
    _announce(bench, *_images(24))
    assert completer.once() == [], "the release does not count while an image is missing"
    clock.seconds += 7199
    assert completer.once() == []
    clock.seconds += 2
    completer.once()
    assert _closed(bench.records) == [(State.VETTED, Signal.QUIET_TIME, 23, 24)]
    bench.receive(*_images(24, 24))
    completer.once()
    assert _closed(bench.records)[1] == (State.VETTED, Signal.MPPS, 24, 24), "what came late closes generation 2"


class _Counts:
    """An archive that counts 23 images."""

    def knows(self, calling_ae: str) -> bool:  # noqa: ARG002
        return True

    def count(self, series: object, paused: bool) -> int:  # noqa: ARG002
        return 23

    def failed(self, series: object) -> bool:  # noqa: ARG002
        return False

    def keep_only(self, series_ids: set[int]) -> None:
        pass


def test_after_the_patience_the_next_best_signal_closes(bench: Bench) -> None:
    clock, counts = Clock(), _Counts()
    completer = Completer(bench.records, bench.settings, counts, clock)  # type: ignore[arg-type]
    bench.receive(*_images(23))
    _announce(bench, *_images(24))
    assert completer.once() == []
    clock.seconds += 7201
    completer.once()
    assert _closed(bench.records) == [(State.VETTED, Signal.FIND_COUNT, 23, 24)]


def test_an_image_that_was_not_named_leaves_it_to_the_other_signals(bench: Bench) -> None:
    completer = Completer(bench.records, bench.settings, None, Clock())
    bench.receive(*_images(24))
    _announce(bench, *_images(23))
    assert completer.once() == []
    assert _closed(bench.records) == [(State.RECEIVING, None, None, None)]
    _announce(bench, *_images(24, 24))  # the series had two steps
    completer.once()
    assert _closed(bench.records) == [(State.VETTED, Signal.MPPS, 24, 24)]


def test_a_discontinued_step_is_shown_and_closes_nothing(bench: Bench) -> None:
    completer = Completer(bench.records, bench.settings, None, Clock())
    bench.receive(*_images(24))
    _announce(bench, *_images(24), status=StepStatus.DISCONTINUED)
    assert completer.once() == []
    assert _closed(bench.records) == [(State.RECEIVING, None, None, None)]
    with bench.records.reading() as session:
        (status,) = load(session, newest_first())
        assert list(status.completeness()) == ["step discontinued by the modality (MPPS)"]


def test_what_the_archive_does_not_have_is_not_waited_for(bench: Bench) -> None:
    completer = Completer(bench.records, bench.settings, None, Clock())
    bench.receive(*_images(24))
    _notify(bench, _images(25))
    assert completer.once() == []
    assert _closed(bench.records) == [(State.RECEIVING, None, None, 25)]
    _notify(bench, (), away=_images(25, 25))  # its newest word on that image
    completer.once()
    assert _closed(bench.records) == [(State.VETTED, Signal.IAN, 24, 24)]


def test_the_step_is_believed_before_the_archive(bench: Bench) -> None:
    bench.receive(*_images(24))
    _notify(bench, _images(24))
    _announce(bench, *_images(24))
    Completer(bench.records, bench.settings, None, Clock()).once()
    assert _closed(bench.records) == [(State.VETTED, Signal.MPPS, 24, 24)]


# --- files and rows


def test_an_announcement_is_taken_once_whatever_crashes(bench: Bench) -> None:
    files, uid = _files(bench), generate_uid()
    step = Step(StepStatus.COMPLETED, {SERIES: Named(_uids(_images(2)))})
    files.create_step(uid, Step(StepStatus.IN_PROGRESS, None))
    real = files._remember
    files._remember = lambda *_: (_ for _ in ()).throw(OSError("killed"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="killed"):
        files.set_step(uid, "CT1", step)  # between its two files: it was not answered with success
    files._remember = real  # type: ignore[method-assign]
    (token,) = files.waiting()
    for _ in range(2):  # the file is still there after the row is
        with bench.records.session() as session:
            announced_rows.take(session, files.load(token))
    files.set_step(uid, "CT1", step)  # the modality asks again
    bench.indexer.catch_up()
    assert files.waiting() == []
    with bench.records.reading() as session:
        (row,) = session.scalars(select(AnnouncedSeries))
        assert (row.kind, row.calling_ae, row.images) == (Kind.MPPS, "CT1", list(_uids(_images(2))))


def test_damaged_files_are_put_aside_and_the_others_are_taken(bench: Bench) -> None:
    _announce(bench, *_images(1))
    files = _files(bench)
    for name, content in (("0", b"{"), ("1", b"[]"), ("2", b'{"kind": "mpps"}'), ("3", b"\xff")):
        (files.folder / f"{name}.series").write_bytes(content)
    _announce(bench, *_images(2))
    assert files.waiting() == []
    assert len(list(files.folder.glob("*.damaged"))) == 4
    with bench.records.reading() as session:
        assert len(session.scalars(select(AnnouncedSeries)).all()) == 2


def test_a_damaged_memory_of_a_step_is_a_status(bench: Bench) -> None:
    files = _files(bench)
    files.create_step("1.2.3", Step(StepStatus.IN_PROGRESS, None))
    (known,) = (files.folder / "known").iterdir()
    known.write_bytes(b"[1]")
    with pytest.raises(RefusedError) as raised:
        files.set_step("1.2.3", "CT1", Step(StepStatus.COMPLETED, None))
    assert raised.value.status == 0x0110


def test_what_is_old_is_forgotten(bench: Bench) -> None:
    _announce(bench, *_images(1))
    (known,) = (_files(bench).folder / "known").iterdir()
    long_ago = now().timestamp() - KEPT_S - 1
    os.utime(known, (long_ago, long_ago))
    with bench.records.session() as session:
        for row in session.scalars(select(AnnouncedSeries)):
            row.received_at = row.received_at.fromtimestamp(long_ago, row.received_at.tzinfo)
    _announce(bench, *_images(2))
    assert known.exists() is False
    with bench.records.reading() as session:
        assert [len(row.images) for row in session.scalars(select(AnnouncedSeries))] == [2]


def test_below_the_low_water_mark_nothing_is_promised(bench: Bench) -> None:
    command = Command(0x0140, 1, MPPS.encode(), b"1.2.3", True)
    announcing = Announcing(command, MPPS, ExplicitVRLittleEndian)
    announcing.write(encode_data_set(performed("IN PROGRESS"), False, True) or b"")
    assert announcing.finish(bench.settings.spool_dir, 2**60, "CT1").status == 0x0213
    assert announcing.finish(bench.settings.spool_dir, 0, "CT1").status == _SUCCESS


# --- closed by a person


def test_a_person_closes_a_series_that_waits(bench: Bench) -> None:
    bench.receive(*_images(23))
    _announce(bench, *_images(24))
    completer = Completer(bench.records, bench.settings, None, Clock())
    completer.once()
    file = bench.settings.data_dir / "node.yaml"
    file.write_text(f"data_dir: {bench.settings.data_dir}")
    done = CliRunner().invoke(app, ["series", "complete", SERIES, "--config", str(file)])
    assert (done.exit_code, done.output.strip()) == (0, "closed with 23 images of 24")
    completer.once()
    assert _closed(bench.records) == [(State.VETTED, Signal.FORCED, 23, 24)]
    again = CliRunner().invoke(app, ["series", "complete", SERIES, "--config", str(file)])
    assert "only one that waits for images (RECEIVING) can be closed" in str(again.exception)
    unknown = CliRunner().invoke(app, ["series", "complete", "1.2.3", "--config", str(file)])
    assert "no series of that UID" in str(unknown.exception)
