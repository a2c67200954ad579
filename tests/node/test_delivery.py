"""Delivery: real associations with real archives, alive, dead and revived; and what every status means."""

import socket
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, evt
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
)
from sqlalchemy import update

from config import Reason
from node import outbox
from node.children import free_port
from node.delivery import Courier, judge
from node.outbox import Fate
from node.records import Delivery, Job, Records, State, now


def _due_now(records: Records) -> None:
    with records.session() as session:
        session.execute(update(Delivery).where(Delivery.sent_at.is_(None)).values(due_at=now()))


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
        (None, Fate.RETRY),
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
    settings = settings_for(tmp_path, ("pacs", port))
    records = open_records(settings)
    jobs = [add_job(records, f"2.25.{n}", State.ENCODED) for n in (1, 2)]
    ids = [each for job_id in jobs for each in add_results(records, settings, job_id)]
    courier = Courier(records, settings)
    before = now()
    courier.deliver(ids[0])
    rows = deliveries(records, "pacs")
    assert {row.reason for row in rows} == {Reason.PEER_UNREACHABLE}
    assert all(f"127.0.0.1:{port}" in row.detail for row in rows)
    assert sorted(row.attempts for row in rows) == [0, 0, 0, 1]  # one connection was tried, not four
    assert all(row.due_at > before and not row.refused for row in rows)
    assert [job(records, each).state for each in jobs] == [State.ENCODED, State.ENCODED]
    _due_now(records)
    with archive(tmp_path / "pacs", "PACS", port) as pacs:
        courier.deliver(ids[0])
        assert len(pacs.files()) == 4
    assert [job(records, each).state for each in jobs] == [State.SENT, State.SENT]


def test_the_first_success_makes_due_what_only_waited_for_the_destination(tmp_path: Path) -> None:
    port = free_port()
    settings = settings_for(tmp_path, ("pacs", port), delivery=QUICK.model_copy(update={"retry_first_s": 1000.0}))
    records = open_records(settings)
    jobs = [add_job(records, f"2.25.{n}", State.ENCODED) for n in (1, 2)]
    ids = [each for job_id in jobs for each in add_results(records, settings, job_id)]
    courier = Courier(records, settings)
    courier.deliver(ids[0])
    with records.session() as session:  # one of them comes up again, as the reconciler would see it
        session.execute(update(Delivery).where(Delivery.id == ids[1]).values(due_at=now()))
    with archive(tmp_path / "pacs", "PACS", port) as pacs:
        courier.deliver(ids[1])
        assert len(pacs.files()) == 4


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
    assert sr.sent_at is not None
    assert "0xB000" in sr.detail
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
    rows = deliveries(records, "pacs")
    assert {(row.reason, row.refused) for row in rows} == {(Reason.PEER_REFUSED, False)}
    assert all("Called AE title not recognised" in row.detail for row in rows)


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
    assert {row.reason for row in deliveries(records, "bad")} == {Reason.PEER_UNREACHABLE}
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
