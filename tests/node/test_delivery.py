"""Delivery: real associations with real archives, alive, dead and revived; and what every status means."""

import socket
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, build_context, evt
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.presentation import negotiate_as_acceptor
from rows import (
    COMPREHENSIVE_3D_SR,
    QUICK,
    add_job,
    add_results,
    archive,
    deliveries,
    job,
    open_records,
    settings_for,
    small_object,
)
from sqlalchemy import update

from config import Priority, Reason
from node import breaker, outbox
from node.children import free_port
from node.database import Records
from node.delivery import Courier
from node.outbox import Fate
from node.records import Breaker, Delivery, Job, now
from node.states import State
from node.store_status import judge
from node.upper_layer import read_request

_SLOW = QUICK.model_copy(update={"retry_first_s": 1000.0, "retry_max_s": 1000.0})


def _due_now(records: Records) -> None:
    """The time that waiting objects and open breakers wait for has come."""
    with records.session() as session:
        session.execute(update(Delivery).where(Delivery.sent_at.is_(None)).values(due_at=now()))
        session.execute(update(Breaker).values(next_attempt_at=now()))


def breaker_of(records: Records, destination: str) -> Breaker | None:
    with records.reading() as session:
        return session.get(Breaker, destination)


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (0x0000, Fate.STORED),
        (0xB000, Fate.STORED),
        (0xB006, Fate.STORED),
        (0xB007, Fate.STORED),
        (0x0111, Fate.STORED),
        (0xA700, Fate.RETRY),
        (0xA7FF, Fate.RETRY),
        (0x0110, Fate.RETRY),
        (0x0122, Fate.REFUSED),
        (0x0124, Fate.REFUSED),
        (0xA900, Fate.REFUSED),
        (0xC123, Fate.REFUSED),
        (None, Fate.AWAY),
    ],
)
def test_what_a_status_means(status: int | None, fate: Fate) -> None:
    outcome = judge(status)
    assert outcome.fate is fate
    assert outcome.detail or status == 0


def test_seg_then_sr_in_one_association_and_the_job_is_sent(tmp_path: Path) -> None:
    associations, order = [], []
    ae = AE(ae_title="PACS")
    for sop_class in (SegmentationStorage, COMPREHENSIVE_3D_SR):
        ae.add_supported_context(sop_class)

    def store(event: evt.Event) -> int:
        order.append(event.request.AffectedSOPClassUID)
        return 0x0000

    handlers = [(evt.EVT_C_STORE, store), (evt.EVT_ESTABLISHED, lambda e: associations.append(e.assoc.requestor))]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    settings = settings_for(tmp_path, ("pacs", server.socket.getsockname()[1]))
    records = open_records(settings)
    jobs = [add_job(records, f"2.25.{n}", State.ENCODED) for n in (1, 2)]
    ids = [add_results(records, settings, each) for each in jobs]
    Courier(records, settings).deliver(ids[1][0])
    server.shutdown()
    assert order == [SegmentationStorage, COMPREHENSIVE_3D_SR] * 2
    assert len(associations) == 1
    assert associations[0].ae_title == settings.dicom.ae_title
    assert all(row.sent_at and row.attempts == 1 for row in deliveries(records, "pacs"))
    assert [job(records, each).state for each in jobs] == [State.SENT, State.SENT]


def test_objects_arrive_as_written_also_at_a_peer_that_takes_implicit_only(tmp_path: Path) -> None:
    arrived = []
    ae = AE(ae_title="OLD")
    ae.add_supported_context(SegmentationStorage, ImplicitVRLittleEndian)
    ae.add_supported_context(COMPREHENSIVE_3D_SR, ImplicitVRLittleEndian)

    def store(event: evt.Event) -> int:
        arrived.append(event.dataset)
        return 0x0000

    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    settings = settings_for(tmp_path, ("old", server.socket.getsockname()[1]))
    records = open_records(settings)
    job_id = add_job(records, state=State.ENCODED)
    Courier(records, settings).deliver(add_results(records, settings, job_id)[0])
    server.shutdown()
    written = [dcmread(path) for path in sorted(settings.results_dir.rglob("*.dcm"))]
    assert {d.SOPInstanceUID for d in arrived} == {d.SOPInstanceUID for d in written}
    assert all(d in written for d in arrived)


def test_a_dead_destination_waits_and_is_served_when_it_revives(tmp_path: Path) -> None:
    port = free_port()
    settings = settings_for(tmp_path, ("pacs", port), delivery=_SLOW)
    records = open_records(settings)
    jobs = [add_job(records, f"2.25.{n}", State.ENCODED) for n in (1, 2)]
    ids = [each for job_id in jobs for each in add_results(records, settings, job_id)]
    courier = Courier(records, settings)
    before = now()
    courier.deliver(ids[0])  # one connection is tried, not four
    shut = breaker_of(records, "pacs")
    assert shut is not None
    assert (shut.failures, shut.reason, breaker.state(shut)) == (1, Reason.PEER_UNREACHABLE, "open")
    assert f"127.0.0.1:{port}" in shut.detail
    assert shut.next_attempt_at > before
    assert all(row.attempts == 0 and not row.refused for row in deliveries(records, "pacs"))
    with records.reading() as session:
        assert outbox.due_by_destination(session) == {}
    courier.deliver(ids[0])  # not before its time
    assert breaker_of(records, "pacs").failures == 1  # type: ignore[union-attr]
    assert [job(records, each).state for each in jobs] == [State.ENCODED, State.ENCODED]
    _due_now(records)
    with archive(tmp_path / "pacs", "PACS", port) as pacs:
        courier.deliver(ids[0])
        assert len(pacs.files()) == 4
    assert [job(records, each).state for each in jobs] == [State.SENT, State.SENT]


def test_one_probe_decides_and_each_failure_opens_the_breaker_for_longer(tmp_path: Path) -> None:
    slow = QUICK.model_copy(update={"retry_first_s": 100.0, "retry_max_s": 1000.0})
    settings = settings_for(tmp_path, ("pacs", free_port()), delivery=slow)
    records = open_records(settings)
    ids = add_results(records, settings, add_job(records, state=State.ENCODED))
    waits = []
    for failures in (1, 2, 3):
        Courier(records, settings).deliver(ids[0])
        shut = breaker_of(records, "pacs")
        assert shut is not None
        assert shut.failures == failures
        waits.append((shut.next_attempt_at - now()).total_seconds())
        _due_now(records)
    for wait, whole in zip(waits, (100.0, 200.0, 400.0), strict=True):
        assert whole / 2 - 30 <= wait <= whole
    admitted = []
    for _ in range(3):  # the time has come: one of three is let through
        with records.session() as session:
            admitted.append(breaker.admit(session, "pacs", 60.0))
    assert admitted == [True, False, False]
    shut = breaker_of(records, "pacs")
    assert shut is not None
    assert breaker.state(shut) == "half-open"


def test_a_peer_that_aborts_in_the_middle_of_an_object_holds_up_only_that_object(tmp_path: Path) -> None:
    arrived = []
    ae = AE(ae_title="PACS")
    for sop_class in (SegmentationStorage, COMPREHENSIVE_3D_SR):
        ae.add_supported_context(sop_class)

    def store(event: evt.Event) -> int:
        uid = event.request.AffectedSOPInstanceUID
        if uid == poison:
            event.assoc.abort()
        arrived.append(uid)
        return 0x0000

    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    with archive(tmp_path / "good", "GOOD") as good:
        port = server.socket.getsockname()[1]
        settings = settings_for(tmp_path, ("pacs", port), ("good", good.port), delivery=_SLOW)
        records = open_records(settings)
        jobs = [add_job(records, f"2.25.{n}", State.ENCODED) for n in (1, 2)]
        poison = f"2.25.{jobs[0]}2"  # the SEG of the first job
        for job_id in jobs:
            add_results(records, settings, job_id)
        courier = Courier(records, settings)
        for name in ("pacs", "good"):
            courier.deliver(deliveries(records, name)[0].id)
        assert len(good.files()) == 4
        assert breaker_of(records, "good") is None
    assert breaker_of(records, "pacs") is not None
    assert all(row.sent_at is None for row in deliveries(records, "pacs"))
    with records.session() as session:
        session.execute(update(Breaker).values(next_attempt_at=now()))
    courier.deliver(deliveries(records, "pacs")[0].id)  # the object that failed waits for itself: another is the probe
    server.shutdown()
    assert breaker_of(records, "pacs") is None
    assert [job(records, each).state for each in jobs] == [State.ENCODED, State.SENT]
    assert sorted(set(arrived) - {poison}) == [f"2.25.{jobs[1]}1", f"2.25.{jobs[1]}2"]
    (stuck,) = [row for row in deliveries(records, "pacs") if row.attempts and row.sent_at is None]
    assert stuck.reason == Reason.PEER_UNREACHABLE


def test_after_an_outage_the_most_urgent_goes_out_first_although_it_was_tried_most(tmp_path: Path) -> None:
    """A peer that accepts and aborts: what was tried in vain meanwhile must not wait out a back-off of its own."""
    arrived: list[str] = []
    works = False
    ae = AE(ae_title="PACS")
    for sop_class in (SegmentationStorage, COMPREHENSIVE_3D_SR):
        ae.add_supported_context(sop_class)

    def store(event: evt.Event) -> int:
        if not works:
            event.assoc.abort()
        arrived.append(event.request.AffectedSOPInstanceUID)
        return 0x0000

    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    settings = settings_for(tmp_path, ("pacs", server.socket.getsockname()[1]), delivery=_SLOW)
    records = open_records(settings)
    priorities = (Priority.ROUTINE, Priority.URGENT, Priority.STAT)
    jobs = [add_job(records, f"2.25.{p}", State.ENCODED, priority=p) for p in priorities]
    for job_id in jobs:
        add_results(records, settings, job_id)
    courier, some = Courier(records, settings), deliveries(records, "pacs")[0].id
    with records.session() as session:
        breaker.trip(session, "pacs", Reason.PEER_UNREACHABLE, "")  # it is known to be away
    for _ in range(2):  # the SEG of the stat job, then, as that backs off, of the urgent one
        with records.session() as session:
            session.execute(update(Breaker).values(next_attempt_at=now()))
        courier.deliver(some)
    works, tried = True, len(arrived)
    with records.session() as session:
        session.execute(update(Breaker).values(next_attempt_at=now()))
    courier.deliver(some)
    server.shutdown()
    routine, urgent, stat = jobs
    order = [f"2.25.{each}{kind}" for each, kind in ((routine, 2), (stat, 2), (stat, 1), (urgent, 2), (urgent, 1))]
    assert arrived[tried:] == [*order, f"2.25.{routine}1"]


def test_refusals_are_final_visible_and_hold_up_nothing_else(tmp_path: Path) -> None:
    ae = AE(ae_title="PACS")
    ae.add_supported_context(COMPREHENSIVE_3D_SR)  # no SEG
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: 0xB000)])
    settings = settings_for(tmp_path, ("pacs", server.socket.getsockname()[1]))
    records = open_records(settings)
    job_id = add_job(records, state=State.ENCODED)
    courier = Courier(records, settings)
    courier.deliver(add_results(records, settings, job_id)[0])
    server.shutdown()
    sr, seg = deliveries(records, "pacs")
    assert (seg.refused, seg.reason, seg.sent_at) == (True, Reason.PEER_REFUSED, None)
    assert "Segmentation Storage" in seg.detail
    assert "Comprehensive 3D SR Storage" in seg.detail  # what it does accept
    assert (sr.sent_at is not None, sr.reason) == (True, Reason.STORED_WITH_WARNING)
    assert "0xB000: stored, but data elements were coerced" in sr.detail
    ended = job(records, job_id)
    assert (ended.state, ended.reason) == (State.FAILED, Reason.PEER_REFUSED)
    assert "SEG at pacs" in ended.detail


def test_a_peer_that_accepts_none_of_the_classes_refuses_all(tmp_path: Path) -> None:
    ae = AE(ae_title="PACS")
    ae.add_supported_context("1.2.840.10008.1.1")
    server = ae.start_server(("127.0.0.1", 0), block=False)
    settings = settings_for(tmp_path, ("pacs", server.socket.getsockname()[1]))
    records = open_records(settings)
    job_id = add_job(records, state=State.ENCODED)
    Courier(records, settings).deliver(add_results(records, settings, job_id)[0])
    server.shutdown()
    assert all(row.refused for row in deliveries(records, "pacs"))
    assert job(records, job_id).state == State.FAILED


def test_a_full_peer_is_tried_again_and_the_sr_waits_for_its_seg(tmp_path: Path) -> None:
    full = True
    stored = []
    ae = AE(ae_title="PACS")
    for sop_class in (SegmentationStorage, COMPREHENSIVE_3D_SR):
        ae.add_supported_context(sop_class)

    def store(event: evt.Event) -> int:
        if full:
            return 0xA700
        stored.append(event.request.AffectedSOPClassUID)
        return 0x0000

    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    settings = settings_for(tmp_path, ("pacs", server.socket.getsockname()[1]))
    records = open_records(settings)
    job_id = add_job(records, state=State.ENCODED)
    courier = Courier(records, settings)
    ids = add_results(records, settings, job_id)
    courier.deliver(ids[0])
    sr, seg = deliveries(records, "pacs")
    assert (seg.reason, seg.refused, sr.attempts) == (Reason.PEER_REFUSED, False, 0)
    assert seg.attempts >= 1
    full = False
    _due_now(records)
    courier.deliver(ids[0])
    server.shutdown()
    assert stored == [SegmentationStorage, COMPREHENSIVE_3D_SR]
    assert job(records, job_id).state == State.SENT


def test_an_association_that_is_rejected_is_tried_again_and_told(tmp_path: Path) -> None:
    with archive(tmp_path / "pacs", "OTHERNAME") as pacs:
        settings = settings_for(tmp_path, ("pacs", pacs.port))
        records = open_records(settings)
        Courier(records, settings).deliver(add_results(records, settings, add_job(records, state=State.ENCODED))[0])
    shut = breaker_of(records, "pacs")
    assert shut is not None
    assert shut.reason == Reason.PEER_REFUSED
    assert "Called AE title not recognised" in shut.detail
    assert not any(row.refused for row in deliveries(records, "pacs"))


def test_a_destination_that_hangs_delays_nobody_else(tmp_path: Path) -> None:
    with socket.socket() as hanging, archive(tmp_path / "good", "GOOD") as good:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()  # the kernel accepts, nobody ever answers
        settings = settings_for(tmp_path, ("bad", hanging.getsockname()[1]), ("good", good.port))
        records = open_records(settings)
        job_id = add_job(records, state=State.ENCODED)
        add_results(records, settings, job_id)
        courier = Courier(records, settings)
        stuck = threading.Thread(target=courier.deliver, args=(deliveries(records, "bad")[0].id,))
        stuck.start()
        connection, _ = hanging.accept()
        courier.deliver(deliveries(records, "good")[0].id)
        assert stuck.is_alive()
        assert len(good.files()) == 2
        courier.deliver(deliveries(records, "bad")[1].id)  # returns at once: the destination is being served
        assert stuck.is_alive()
        connection.close()
        stuck.join()
    assert breaker_of(records, "bad").reason == Reason.PEER_UNREACHABLE  # type: ignore[union-attr]
    assert breaker_of(records, "good") is None
    assert job(records, job_id).state == State.ENCODED


def test_a_destination_gone_from_the_settings_and_a_lost_file_are_refused(tmp_path: Path) -> None:
    with archive(tmp_path / "pacs", "PACS") as pacs:
        settings = settings_for(tmp_path, ("pacs", pacs.port), ("gone", 104))
        records = open_records(settings)
        job_id = add_job(records, state=State.ENCODED)
        add_results(records, settings, job_id)
        (settings.results_dir / f"job-{job_id:08d}" / "2-seg.dcm").unlink()
        left = settings.model_copy(update={"destinations": {"pacs": settings.destinations["pacs"]}})
        courier = Courier(records, left)
        for name in ("gone", "pacs"):
            courier.deliver(deliveries(records, name)[0].id)
        assert len(pacs.files()) == 1
    assert all("no longer in the settings" in row.detail for row in deliveries(records, "gone"))
    assert deliveries(records, "pacs")[1].reason == Reason.INTERNAL
    assert job(records, job_id).state == State.FAILED


def test_a_superseded_job_sends_nothing(tmp_path: Path) -> None:
    with archive(tmp_path / "pacs", "PACS") as pacs:
        settings = settings_for(tmp_path, ("pacs", pacs.port))
        records = open_records(settings)
        job_id = add_job(records, state=State.ENCODED)
        ids = add_results(records, settings, job_id)
        with records.session() as session:
            session.get_one(Job, job_id).move(State.SUPERSEDED)
        Courier(records, settings).deliver(ids[0])
        assert pacs.files() == []


def test_one_claim_wins(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, ("pacs", 104))
    records = open_records(settings)
    ids = add_results(records, settings, add_job(records, state=State.ENCODED))
    won = []
    for _ in range(2):
        with records.session() as session:
            won.append(outbox.claim(session, ids[0], 60.0))
    assert won == [True, False]


def test_what_a_dead_worker_had_claimed_is_due_at_once_and_what_backs_off_is_not(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, ("pacs", free_port()))
    records = open_records(settings)
    claimed, waiting = add_results(records, settings, add_job(records, state=State.ENCODED))
    with records.session() as session:
        assert outbox.claim(session, claimed, hold_s=3600)
        assert outbox.claim(session, waiting, hold_s=3600)
        later = now() + timedelta(hours=1)
        session.get_one(Delivery, waiting).reason = Reason.PEER_UNREACHABLE
        session.get_one(Delivery, waiting).due_at = later
    Courier(records, settings).recover()
    due = {row.id: row.due_at for row in deliveries(records, "pacs")}
    assert due[claimed] <= now()
    assert due[waiting] == later


def test_back_off_doubles_up_to_its_cap_with_jitter() -> None:
    settings = QUICK.model_copy(update={"retry_first_s": 5.0, "retry_max_s": 900.0})
    waits = {n: [(outbox.next_attempt(n, settings) - now()).total_seconds() for _ in range(50)] for n in (1, 2, 4, 99)}
    for failures, whole in ((1, 5.0), (2, 10.0), (4, 40.0), (99, 900.0)):
        assert all(whole / 2 - 0.1 <= wait <= whole for wait in waits[failures])
        assert len({round(wait, 3) for wait in waits[failures]}) > 1


def _accept_and_stop_reading(listener: socket.socket, held: list[socket.socket], half_an_answer: bytes) -> None:
    """Accept every context of an association that is asked for; then read nothing more, or answer by half."""
    connection, _ = listener.accept()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    held.append(connection)
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(read_request(connection, 30.0))
    wanted = pdu.to_primitive()
    contexts = [
        build_context(c.abstract_syntax, c.transfer_syntax) for c in wanted.presentation_context_definition_list
    ]
    results, _ = negotiate_as_acceptor(wanted.presentation_context_definition_list, contexts)
    wanted.result, wanted.result_source = 0, 1
    wanted.presentation_context_definition_results_list = results
    connection.sendall(A_ASSOCIATE_AC(wanted).encode() + half_an_answer)


@pytest.mark.parametrize("half_an_answer", [b"", b"\x04\x00\x00\x00\x10\x00half"])
def test_a_peer_that_stops_in_the_middle_of_an_object_is_given_up(tmp_path: Path, half_an_answer: bytes) -> None:
    held: list[socket.socket] = []
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        quick = _SLOW.model_copy(update={"timeout_s": 2.0})
        settings = settings_for(tmp_path, ("pacs", listener.getsockname()[1]), delivery=quick)
        records = open_records(settings)
        ids = add_results(records, settings, add_job(records, state=State.ENCODED))
        large = small_object("SEG", "2.25.77")
        large.EncapsulatedDocument = bytes(2**24)
        large.save_as(settings.results_dir / "job-00000001" / "2-seg.dcm", enforce_file_format=True)
        peer = threading.Thread(target=_accept_and_stop_reading, args=(listener, held, half_an_answer))
        peer.start()
        Courier(records, settings).deliver(ids[0])  # comes back
        peer.join()
        for connection in held:
            connection.close()
    shut = breaker_of(records, "pacs")
    assert shut is not None
    assert shut.reason == Reason.PEER_UNREACHABLE
