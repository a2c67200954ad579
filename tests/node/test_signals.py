"""What closes a series: commitment, the source's count, a clean release, quiet; and what must not close it early."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from commitment_peer import Reports, action, associate, send_action
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from running import wait_for
from spool_data import ROOT, Bench, Receiver, ct_slice, receiver, settings_for, store
from sqlalchemy import select

from config import Reason, Settings
from config.settings import CompletionSettings, DeliverySettings, Source
from node import completion, index_rows, signals
from node.bell import Bell, bell_file, ring
from node.commitment import CommitmentFiles
from node.completion import Completer
from node.database import Records, open_database
from node.migrations import upgrade
from node.reconciler import Reconciler
from node.records import Series, Signal
from node.source_count import NoCountError, SourceCounts, ask
from node.spool import Ending, EndMark, SegmentReader, scan, segments
from node.states import State
from node.tasks import Dispatcher, make_app

LONG = CompletionSettings(quiet_s=3600.0, missing_s=7200.0)


class Clock:
    """A monotonic clock that goes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Counts:
    """A source that is known by its answers."""

    def __init__(self, count: int | None = None, failed: bool = False) -> None:
        self.answer, self.fails = count, failed
        self.asked: list[bool] = []

    def knows(self, calling_ae: str) -> bool:  # noqa: ARG002
        return True

    def count(self, series: signals.Receiving, paused: bool) -> int | None:  # noqa: ARG002
        self.asked.append(paused)
        return self.answer

    def failed(self, series: signals.Receiving) -> bool:  # noqa: ARG002
        return self.fails

    def keep_only(self, series_ids: set[int]) -> None:
        pass


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path / "node")
    bench.settings = bench.settings.model_copy(update={"completion": LONG})
    return bench


def _completer(bench: Bench, counts: Any = None, clock: Clock | None = None) -> Completer:
    return Completer(bench.records, bench.settings, counts, clock or Clock())


def _stack(first: int, last: int) -> list[Dataset]:
    return [ct_slice(number=n) for n in range(first, last + 1)]


def _closed(records: Records) -> list[tuple[str, str | None, int | None, int | None]]:
    """State, signal, received and expected of each generation, oldest first."""
    with records.reading() as session:
        rows = session.scalars(select(Series).order_by(Series.id))
        return [(s.state, s.signal, s.received, s.expected) for s in rows]


_COMING = [(State.RECEIVING, None, None, None)]


# --- the release of the association


def test_a_clean_release_closes_a_series_at_once(bench: Bench) -> None:
    bench.receive(*_stack(1, 24), ending=Ending.RELEASED)
    (verdict,) = _completer(bench).once()
    assert verdict.state == State.VETTED
    assert _closed(bench.records) == [(State.VETTED, Signal.RELEASE, 24, None)]


@pytest.mark.parametrize("ending", [None, Ending.BROKEN_OFF])
def test_without_a_release_the_quiet_time_closes(bench: Bench, ending: Ending | None) -> None:
    clock = Clock()
    completer = _completer(bench, clock=clock)
    bench.receive(*_stack(1, 24), ending=ending)
    assert completer.once() == []
    clock.seconds += 3599
    assert completer.once() == []
    clock.seconds += 2
    assert len(completer.once()) == 1
    assert _closed(bench.records) == [(State.VETTED, Signal.QUIET_TIME, 24, None)]


def test_a_gap_falls_back_to_the_quiet_time_and_is_looked_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, looked = Clock(), []
    real = completion._look_at
    monkeypatch.setattr(completion, "_look_at", lambda *a: looked.append(a) or real(*a))
    completer = _completer(bench, clock=clock)
    bench.receive(*_stack(1, 10), *_stack(12, 24), ending=Ending.RELEASED)
    for _ in range(3):
        assert completer.once() == []
    assert len(looked) == 1
    assert _closed(bench.records) == _COMING
    clock.seconds += 3601
    (verdict,) = completer.once()
    assert (verdict.state, verdict.reason) == (State.REJECTED, Reason.GEOM_GAP)
    assert _closed(bench.records) == [(State.REJECTED, Signal.QUIET_TIME, 23, None)]


@pytest.mark.parametrize("repeated", [False, True])
def test_another_association_with_images_of_the_series_is_waited_for(bench: Bench, repeated: bool) -> None:
    """Even if it brought only repetitions so far."""
    completer = _completer(bench)
    with bench.intake.open("STORESCU", "FVLM") as other:
        store(other, ct_slice(number=1 if repeated else 25))
        bench.receive(*_stack(1, 24), ending=Ending.RELEASED)
        assert completer.once() == []
        store(other, ct_slice(number=26))
        other.close(Ending.RELEASED)
    bench.indexer.catch_up()
    assert completer.once() == []
    assert _closed(bench.records) == _COMING


def test_what_the_index_has_not_read_of_another_association_is_waited_for(bench: Bench) -> None:
    """The index read the other segment before its image came, and this one after its release."""
    with bench.intake.open("STORESCU", "FVLM") as other:
        store(other, ct_slice(series=7))
        bench.indexer.catch_up()
        behind = ct_slice(number=25)
        with bench.intake.open("STORESCU", "FVLM") as session:
            for dataset in _stack(1, 24):
                store(session, dataset)
            store(other, behind)
            session.close(Ending.RELEASED)
        bench.indexer._list = lambda _: None  # type: ignore[method-assign] # only what it was told of
        bench.indexer._open = {segments(bench.settings.spool_dir)[1].name}
        bench.indexer.catch_up()
        assert _completer(bench).once() == []
        assert [state for state, *_ in _closed(bench.records)] == [State.RECEIVING] * 2


def test_a_late_image_is_not_closed_by_its_release(bench: Bench) -> None:
    completer = _completer(bench)
    bench.receive(*_stack(1, 24), ending=Ending.RELEASED)
    completer.once()
    bench.receive(ct_slice(number=25), ending=Ending.RELEASED)
    assert completer.once() == []
    assert [state for state, *_ in _closed(bench.records)] == [State.VETTED, State.RECEIVING]


def test_a_source_that_spreads_series_over_associations_is_not_closed_by_release(bench: Bench) -> None:
    source = Source(ae_title="STORESCU", one_association=False, quiet_s=10.0)
    bench.settings = bench.settings.model_copy(update={"sources": {"it": source}})
    clock = Clock()
    completer = _completer(bench, clock=clock)
    bench.receive(*_stack(1, 24), ending=Ending.RELEASED)
    assert completer.once() == []
    clock.seconds += 11
    assert len(completer.once()) == 1, "its own quiet time"


def test_the_end_of_an_association_survives_the_loss_of_the_database(bench: Bench) -> None:
    bench.receive(*_stack(1, 24), ending=Ending.RELEASED)
    bench.lose_database()
    bench.indexer.catch_up()
    assert len(_completer(bench).once()) == 1
    assert _closed(bench.records) == [(State.VETTED, Signal.RELEASE, 24, None)]


@pytest.mark.parametrize("ending", list(Ending))
def test_the_mark_of_the_end_is_no_record_and_no_damage(bench: Bench, ending: Ending) -> None:
    bench.receive(*_stack(1, 3), ending=ending)
    (path,) = segments(bench.settings.spool_dir)
    damages: list[object] = []
    assert len(list(scan(path, on_damage=damages.append))) == 3
    assert damages == []
    with SegmentReader(path) as reader:
        end = list(scan(path))[-1].end
        mark = reader.record_at(end)
        assert isinstance(mark, EndMark)
        assert mark.ending == ending
        assert path.stat().st_size == end + 32
    raw = bytearray(path.read_bytes())
    raw[end + 16] ^= 1
    path.write_bytes(raw)
    list(scan(path, on_damage=damages.append))
    assert len(damages) == 1, "a mark that is damaged is not believed"


# --- the clock


def test_a_jump_of_the_wall_clock_closes_nothing_early(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    completer = _completer(bench, clock=clock)
    bench.receive(*_stack(1, 12))
    completer.once()
    for jump in (timedelta(days=1), timedelta(days=-1)):
        shifted: Callable[[], datetime] = lambda jump=jump: datetime.now(UTC) + jump  # type: ignore[misc] # noqa: E731
        with monkeypatch.context() as jumped:
            for module in (completion, signals, index_rows):
                jumped.setattr(module, "now", shifted)
            clock.seconds += 1800
            assert completer.once() == []
            bench.receive(ct_slice(number=13 if jump.days > 0 else 14))
            clock.seconds += 1801
            assert completer.once() == [], "an image has come since"
    clock.seconds += 3601
    assert len(completer.once()) == 1


def test_an_index_that_stands_still_is_noticed_though_the_clock_went_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    completer = _completer(bench, clock=clock)
    bench.receive(*_stack(1, 24))
    with bench.intake.open("STORESCU", "FVLM") as session:
        store(session, ct_slice(number=25))
        monkeypatch.setattr(completion, "now", lambda: datetime.now(UTC) - timedelta(days=1))
        assert completer.once() == []
        clock.seconds += 3601
        assert completer.once() == []
        bench.indexer.catch_up()
    assert completer.once() == []
    clock.seconds += 3601
    assert len(completer.once()) == 1
    assert _closed(bench.records) == [(State.VETTED, Signal.QUIET_TIME, 25, None)]


# --- storage commitment


def _ask(bench: Bench, datasets: list[Dataset], calling: str = "STORESCU") -> None:
    references = [(str(d.SOPClassUID), str(d.SOPInstanceUID)) for d in datasets]
    CommitmentFiles(bench.settings.spool_dir).keep("1.2.3", calling, "FVLM", references)
    bench.indexer.catch_up()


def test_a_request_that_lists_everything_closes_a_series_at_once(bench: Bench) -> None:
    with bench.intake.open("STORESCU", "FVLM") as session:  # still open
        for dataset in _stack(1, 24):
            store(session, dataset)
        _ask(bench, _stack(1, 24))
        assert len(_completer(bench).once()) == 1
    assert _closed(bench.records) == [(State.VETTED, Signal.COMMITMENT, 24, 24)]


def test_a_request_that_lists_more_than_came_is_waited_for(bench: Bench) -> None:
    completer = _completer(bench)
    bench.receive(*_stack(1, 23), ending=Ending.RELEASED)
    _ask(bench, _stack(1, 24))
    assert completer.once() == []
    assert _closed(bench.records) == [(State.RECEIVING, None, None, 24)]
    bench.receive(ct_slice(number=24))
    assert len(completer.once()) == 1
    assert _closed(bench.records) == [(State.VETTED, Signal.COMMITMENT, 24, 24)]


def test_images_that_never_come_are_given_up_after_a_while(bench: Bench) -> None:
    clock = Clock()
    bench.receive(*_stack(1, 23), ending=Ending.RELEASED)
    _ask(bench, _stack(1, 24))
    assert _completer(bench, clock=clock).once() == []
    completer = _completer(bench, clock=clock)  # started again: it knows from the database
    assert completer.once() == []
    clock.seconds += 3601
    assert completer.once() == [], "longer than the quiet time"
    clock.seconds += 3600
    assert len(completer.once()) == 1
    assert _closed(bench.records) == [(State.VETTED, Signal.QUIET_TIME, 23, 24)]


@pytest.mark.parametrize(("listed", "calling"), [(23, "STORESCU"), (24, "ELSEWHERE")])
def test_a_request_for_a_part_or_of_somebody_else_closes_nothing(bench: Bench, listed: int, calling: str) -> None:
    bench.receive(*_stack(1, 24))
    _ask(bench, _stack(1, listed), calling)
    assert _completer(bench).once() == []
    assert _closed(bench.records) == _COMING


# --- the source's count


def test_as_many_images_as_the_source_counts_close_a_series(bench: Bench) -> None:
    clock, counts = Clock(), Counts()
    completer = _completer(bench, counts, clock)
    bench.receive(*_stack(1, 24), ending=Ending.RELEASED)
    assert completer.once() == [], "the source may still answer, and knows better than the release"
    assert counts.asked == [True]
    counts.answer = 25
    assert completer.once() == []
    assert _closed(bench.records) == [(State.RECEIVING, None, None, 25)]
    bench.receive(ct_slice(number=25))
    assert len(completer.once()) == 1
    assert _closed(bench.records) == [(State.VETTED, Signal.FIND_COUNT, 25, 25)]


def test_a_source_that_does_not_answer_leaves_it_to_the_release(bench: Bench) -> None:
    bench.receive(*_stack(1, 24), ending=Ending.RELEASED)
    assert len(_completer(bench, Counts(failed=True)).once()) == 1
    assert _closed(bench.records) == [(State.VETTED, Signal.RELEASE, 24, None)]


def test_the_source_is_asked_when_images_pause(bench: Bench) -> None:
    clock, counts = Clock(), Counts()
    completer = _completer(bench, counts, clock)
    bench.receive(*_stack(1, 24))
    completer.once()
    clock.seconds += 2
    completer.once()
    assert counts.asked == [False, True]


@contextmanager
def _archive(answer: Callable[[Dataset], Iterator[tuple[int, Dataset | None]]]) -> Iterator[int]:
    """A C-FIND SCP called STORESCU; its port."""
    ae = AE(ae_title="STORESCU")
    ae.require_called_aet = True
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    handlers = [(evt.EVT_C_FIND, lambda event: answer(event.identifier))]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def _found(asked: Dataset, count: object) -> Dataset:
    found = Dataset()
    found.QueryRetrieveLevel = "SERIES"
    found.StudyInstanceUID, found.SeriesInstanceUID = asked.StudyInstanceUID, asked.SeriesInstanceUID
    found.NumberOfSeriesRelatedInstances = count
    return found


def _with_source(settings: Settings, **source: Any) -> tuple[Settings, Source]:
    found = Source(ae_title="STORESCU", **source)
    quick = DeliverySettings(timeout_s=5.0)
    return settings.model_copy(update={"sources": {"it": found}, "delivery": quick}), found


def test_c_find_says_how_many_images_there_are(bench: Bench) -> None:
    asked: list[Dataset] = []

    def answer(identifier: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        asked.append(identifier)
        yield 0xFF00, _found(identifier, 24)

    with _archive(answer) as port:
        settings, source = _with_source(bench.settings, host="127.0.0.1", port=port, find=True)
        assert ask(settings, source, "1.2", "1.3") == 24
    assert [(d.StudyInstanceUID, d.SeriesInstanceUID, d.QueryRetrieveLevel) for d in asked] == [
        ("1.2", "1.3", "SERIES")
    ]


@pytest.mark.parametrize("answers", [[], [(0xA700, None)], [(0xFF00, None)], [(0xFF00, "no count")]])
def test_whatever_else_c_find_answers_is_no_count(bench: Bench, answers: list[Any]) -> None:
    def answer(identifier: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        for status, found in answers:
            yield status, found and _found(identifier, None)

    with _archive(answer) as port:
        settings, source = _with_source(bench.settings, host="127.0.0.1", port=port, find=True)
        with pytest.raises(NoCountError):
            ask(settings, source, "1.2", "1.3")
    with pytest.raises(NoCountError):  # nobody there
        ask(settings, source, "1.2", "1.3")


@contextmanager
def _dicomweb(status: int, body: bytes) -> Iterator[tuple[str, list[str]]]:
    """A QIDO-RS server that answers everything in one way; its address, and what it was asked."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/web", paths
    finally:
        server.shutdown()
        server.server_close()


def test_qido_says_how_many_images_there_are(bench: Bench) -> None:
    with _dicomweb(200, json.dumps([{"00201209": {"vr": "IS", "Value": [24]}}]).encode()) as (url, paths):
        settings, source = _with_source(bench.settings, dicomweb_url=url)
        assert ask(settings, source, "1.2", "1.3") == 24
    assert paths[0].startswith("/web/studies/1.2/series?")
    assert "SeriesInstanceUID=1.3" in paths[0]


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"[]"), (200, b"{"), (404, b""), (500, b"no"), (200, b'[{"00201209": {"vr": "IS"}}]'), (200, b"[3]")],
)
def test_whatever_else_qido_answers_is_no_count(bench: Bench, status: int, body: bytes) -> None:
    with _dicomweb(status, body) as (url, _):
        settings, source = _with_source(bench.settings, dicomweb_url=url)
        with pytest.raises(NoCountError):
            ask(settings, source, "1.2", "1.3")


def test_a_slow_source_blocks_nobody_and_is_asked_again_later(bench: Bench) -> None:
    entered, released = threading.Event(), threading.Event()
    count = 23

    def answer(identifier: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        entered.set()
        released.wait(60)
        yield 0xFF00, _found(identifier, count)

    clock = Clock()
    with _archive(answer) as port:
        bench.settings, _ = _with_source(bench.settings, host="127.0.0.1", port=port, find=True)
        counts = SourceCounts(bench.settings, clock)
        completer = _completer(bench, counts, clock)
        bench.receive(*_stack(1, 24), ending=Ending.RELEASED)
        assert completer.once() == []
        assert entered.wait(60)
        assert completer.once() == [], "it is under way, and the pass did not wait for it"
        released.set()

        def expected() -> bool:
            completer.once()
            with bench.records.reading() as session:
                return session.scalars(select(Series.expected)).one() == 23

        wait_for(expected, "the first answer")
        count = 24
        assert completer.once() == [], "too early for another question"
        clock.seconds += 3
        wait_for(lambda: bool(completer.once()), "the second answer")
        counts.stop()
    assert _closed(bench.records) == [(State.VETTED, Signal.FIND_COUNT, 24, 24)]


# --- real processes


@contextmanager
def _coordinated(running: Receiver) -> Iterator[Records]:
    """A reconciler, in a thread, beside a running receiver; there is no broker."""
    records = Records(open_database(running.settings.database))
    upgrade(records.engine)
    ended = threading.Event()
    reconciler = Reconciler(records, running.settings, Dispatcher(make_app(running.settings)))
    thread = threading.Thread(target=reconciler.run, args=(ended,), daemon=True)
    thread.start()
    try:
        yield records
    finally:
        ended.set()
        thread.join(60)


def _long_settings(data_dir: Path) -> Settings:
    settings = settings_for(data_dir, receivers=1)
    return settings.model_copy(update={"completion": LONG, "broker_url": "redis://127.0.0.1:1/0"})


@pytest.mark.timeout(900)
def test_a_released_association_is_a_closed_series_long_before_the_quiet_time(tmp_path: Path) -> None:
    with receiver(_long_settings(tmp_path / "node")) as running, _coordinated(running) as records:
        association = associate(running, Reports())
        for dataset in _stack(1, 24):
            assert association.send_c_store(dataset).Status == 0x0000
        association.release()
        wait_for(lambda: [row[:2] for row in _closed(records)] == [(State.VETTED, Signal.RELEASE)], "closed")


@pytest.mark.timeout(900)
def test_an_aborted_association_closes_nothing_and_commitment_does(tmp_path: Path) -> None:
    with receiver(_long_settings(tmp_path / "node")) as running, _coordinated(running) as records:
        association = associate(running, Reports())
        for dataset in _stack(1, 24):
            assert association.send_c_store(dataset).Status == 0x0000
        association.abort()
        wait_for(lambda: any(isinstance(_last(path), EndMark) for path in segments(running.settings.spool_dir)), "end")
        time.sleep(1.5)  # more than one pass
        assert _closed(records) == _COMING
        reports = Reports()
        association = associate(running, reports)
        assert send_action(association, action(_stack(1, 24))).Status == 0x0000
        assert reports.wait()[0].event == 1
        wait_for(lambda: [row[1:] for row in _closed(records)] == [(Signal.COMMITMENT, 24, 24)], "closed")
        association.release()


def _last(path: Path) -> object:
    with SegmentReader(path) as reader:
        records = list(scan(path))
        return reader.record_at(records[-1].end if records else 0)


def test_a_bell_is_heard_and_its_loss_costs_a_pause(tmp_path: Path) -> None:
    ended = threading.Event()
    bell = Bell(bell_file(tmp_path))
    threading.Timer(0.2, ring, [bell_file(tmp_path)]).start()
    before = time.monotonic()
    assert bell.wait(ended, 60) is False
    assert time.monotonic() - before < 60
    assert bell.wait(ended, 0.01) is False
    ring(tmp_path / "nowhere" / "bell")
    ended.set()
    assert bell.wait(ended, 60) is True


def test_series_uids_are_counted_over_all_generations(bench: Bench) -> None:
    bench.receive(*_stack(1, 24), ending=Ending.RELEASED)
    _completer(bench).once()
    bench.receive(ct_slice(number=25), ct_slice(number=3, fill=9))
    with bench.records.reading() as session:
        (coming,) = signals.receiving(session)
    assert (coming.series_instance_uid, coming.received) == (f"{ROOT}.1", 25)
