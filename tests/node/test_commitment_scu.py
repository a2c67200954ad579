"""Storage commitment: what is asked, what each answer and each silence leads to, against scripted peers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage
from pynetdicom import AE, evt
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from rows import COMPREHENSIVE_3D_SR, QUICK, add_job, add_results, deliveries, job, open_records, settings_for
from sqlalchemy import select, update

from config import Reason, Settings
from config.settings import DeliverySettings
from node import commitment_result
from node.commitment_event import LONGEST_REPORT
from node.commitment_result import take_report
from node.database import Records, open_database
from node.delivery import Courier
from node.records import Breaker, CommitmentTransaction, Delivery, Job, now
from node.retry import retry
from node.states import State

PATIENT = DeliverySettings(
    **QUICK.model_dump() | {"commitment_wait_s": 30.0, "commitment_resends": 2, "commitment_attempts": 2}
)
HASTY = PATIENT.model_copy(update={"commitment_wait_s": 0.0})


@dataclass
class Peer:
    """A storage and commitment SCP that answers as it is told."""

    port: int = 0
    action_status: int = 0x0000
    judge: Callable[[str], int] = lambda _: 0
    """Failure reason of a SOP instance; 0: kept."""
    same_association: bool = True
    hangs_up: bool = False
    """N-ACTION is answered with an abort."""
    on_request: Callable[[Dataset], None] = lambda _: None
    stored: list[str] = field(default_factory=list)
    requests: list[Dataset] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Statuses that the node gave to our reports."""

    def report(self, request: Dataset) -> tuple[int, Dataset]:
        """Event type and information that answer a request."""
        answer = Dataset()
        answer.TransactionUID = request.TransactionUID
        verdicts = [(item, self.judge(item.ReferencedSOPInstanceUID)) for item in request.ReferencedSOPSequence]
        answer.ReferencedSOPSequence = [item for item, reason in verdicts if not reason]
        failed = []
        for item, reason in verdicts:
            if reason:
                item.FailureReason = reason
                failed.append(item)
        if failed:
            answer.FailedSOPSequence = failed
        return (2 if failed else 1), answer

    def on_store(self, event: evt.Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def on_action(self, event: evt.Event) -> tuple[int, None]:
        self.requests.append(event.action_information)
        self.on_request(self.requests[-1])
        if self.hangs_up:
            event.assoc.abort()
        return self.action_status, None

    def on_sent(self, event: evt.Event) -> None:
        """After the N-ACTION response: the report, on the same association."""
        if type(event.message).__name__ == "N_ACTION_RSP" and self.same_association and not self.action_status:
            event_type, answer = self.report(self.requests[-1])

            def send() -> None:
                status, _ = event.assoc.send_n_event_report(
                    answer, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
                )
                self.answers.append(status.get("Status", -1))

            threading.Thread(target=send, daemon=True).start()


@contextmanager
def peer(commits: bool = True, **how: Any) -> Iterator[Peer]:
    """A running peer called PACS."""
    running = Peer(**how)
    ae = AE(ae_title="PACS")
    for sop_class in (SegmentationStorage, COMPREHENSIVE_3D_SR):
        ae.add_supported_context(sop_class)
    if commits:
        ae.add_supported_context(StorageCommitmentPushModel)
    handlers = [
        (evt.EVT_C_STORE, running.on_store),
        (evt.EVT_N_ACTION, running.on_action),
        (evt.EVT_DIMSE_SENT, running.on_sent),
    ]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    running.port = server.socket.getsockname()[1]
    try:
        yield running
    finally:
        server.shutdown()


class Node:
    """Records and courier of a node whose only destination is a peer that is asked for commitment."""

    def __init__(self, folder: Path, port: int, delivery: DeliverySettings) -> None:
        asked = settings_for(folder, ("pacs", port), delivery=delivery)
        pacs = asked.destinations["pacs"].model_copy(update={"commitment": True})
        self.settings: Settings = asked.model_copy(update={"destinations": {"pacs": pacs}})
        self.records = open_records(self.settings)
        self.job_id = add_job(self.records, state=State.ENCODED)
        self.ids = add_results(self.records, self.settings, self.job_id)

    def deliver(self) -> None:
        Courier(self.records, self.settings).deliver(self.ids[0])

    def later(self) -> None:
        """The time for whatever waits has come."""
        with self.records.session() as session:
            session.execute(update(Delivery).values(due_at=now()))
            session.execute(update(Delivery).where(Delivery.ask_at.is_not(None)).values(ask_at=now()))

    def take(self, event_type: int, answer: Dataset) -> int:
        """The answer as it comes on an association that the peer opens."""
        encoded = encode(answer, False, True)
        assert encoded is not None
        return take_report(self.records, self.settings.delivery, event_type, encoded, ExplicitVRLittleEndian)

    @property
    def job(self) -> Job:
        return job(self.records, self.job_id)

    @property
    def rows(self) -> list[Delivery]:
        return deliveries(self.records, "pacs")


def test_what_is_committed_on_the_same_association_is_committed(tmp_path: Path) -> None:
    with peer() as pacs:
        node = Node(tmp_path, pacs.port, PATIENT)
        node.deliver()
        (request,) = pacs.requests
        assert {i.ReferencedSOPInstanceUID for i in request.ReferencedSOPSequence} == set(pacs.stored)
        assert {i.ReferencedSOPClassUID for i in request.ReferencedSOPSequence} == {
            SegmentationStorage,
            COMPREHENSIVE_3D_SR,
        }
    assert (node.job.state, node.job.detail) == (State.COMMITTED, "known by N-EVENT-REPORT")
    assert all(row.committed_at and row.ask_at is None for row in node.rows)
    with node.records.reading() as session:
        (transaction,) = session.scalars(select(CommitmentTransaction))
    assert transaction.transaction_uid == request.TransactionUID
    assert transaction.answered_at is not None


def test_the_answer_on_another_association_commits_and_may_come_twice(tmp_path: Path) -> None:
    with peer(same_association=False) as pacs:
        node = Node(tmp_path, pacs.port, HASTY)
        node.deliver()
        assert (node.job.state, node.job.detail) == (State.SENT, "waits for the commitment of pacs")
        for _ in range(2):
            assert node.take(*pacs.report(pacs.requests[0])) == commitment_result.SUCCESS
        assert node.job.state == State.COMMITTED
        node.later()
        node.deliver()
        assert len(pacs.requests) == 1


def test_what_was_not_kept_is_sent_again_and_asked_for_anew(tmp_path: Path) -> None:
    with peer(same_association=False) as pacs:
        node = Node(tmp_path, pacs.port, HASTY)
        node.deliver()
        lost = f"2.25.{node.job_id}2"
        pacs.judge = lambda uid: 0x0112 if uid == lost else 0
        assert node.take(*pacs.report(pacs.requests[0])) == commitment_result.SUCCESS
        assert node.job.state == State.ENCODED
        (again,) = [row for row in node.rows if row.sent_at is None]
        assert (again.reason, again.lost) == (Reason.COMMITMENT_FAILED, 1)
        assert "0x0112 (no such object instance)" in again.detail
        node.later()
        node.deliver()
        assert pacs.stored.count(lost) == 2
        assert len(pacs.stored) == 3
        first, second = pacs.requests
        assert first.TransactionUID != second.TransactionUID
        assert [item.ReferencedSOPInstanceUID for item in second.ReferencedSOPSequence] == [lost]
        # A late repeat of the first answer says nothing about the object that was sent again.
        assert node.take(*pacs.report(first)) == commitment_result.SUCCESS
        assert node.job.state == State.SENT
        pacs.judge = lambda _: 0
        node.take(*pacs.report(second))
        assert node.job.state == State.COMMITTED


@pytest.mark.parametrize(("reason", "sent"), [(0x0112, 3), (0x0119, 3), (0x0110, 3), (0x0213, 3), (0x0122, 1)])
def test_what_is_never_kept_fails_after_a_bounded_number_of_times(tmp_path: Path, reason: int, sent: int) -> None:
    with peer(judge=lambda _: reason) as pacs:
        node = Node(tmp_path, pacs.port, PATIENT)
        for _ in range(5):
            node.deliver()
            node.later()
        assert len(pacs.stored) == 2 * sent
    ended = node.job
    assert (ended.state, ended.reason) == (State.FAILED, Reason.COMMITMENT_FAILED)
    assert f"0x{reason:04X}" in ended.detail
    retry(node.records, str(node.job_id))
    assert all(not row.refused and row.lost == 0 for row in node.rows)


def test_silence_is_asked_again_with_a_new_transaction_then_told(tmp_path: Path) -> None:
    with peer(same_association=False) as pacs:
        node = Node(tmp_path, pacs.port, HASTY.model_copy(update={"commitment_timeout_s": 1000.0}))
        waits = []
        for _ in range(4):
            node.deliver()
            waits += [(row.ask_at - now()).total_seconds() for row in node.rows[:1] if row.ask_at is not None]
            node.later()
        assert len(pacs.stored) == 2
        assert len({request.TransactionUID for request in pacs.requests}) == 2
        assert 900 < waits[0] <= 1000
        assert 1900 < waits[1] <= 2000
        ended = node.job
        assert (ended.state, ended.reason) == (State.SENT, Reason.COMMITMENT_TIMEOUT)
        assert "no answer to 2 requests" in ended.detail
        # It is asked anew when somebody says so; and an answer that comes after all counts.
        assert retry(node.records, str(node.job_id)) == node.job_id
        assert node.job.reason is None
        node.deliver()
        assert len(pacs.requests) == 3
        node.take(*pacs.report(pacs.requests[0]))
        assert (node.job.state, node.job.reason) == (State.COMMITTED, None)


def test_who_hangs_up_when_asked_still_gets_results_at_once(tmp_path: Path) -> None:
    with peer(hangs_up=True) as pacs:
        node = Node(tmp_path, pacs.port, HASTY)
        node.deliver()
        assert (len(pacs.requests), len(pacs.stored)) == (1, 2)
        next_job = add_job(node.records, "2.25.2", state=State.ENCODED)
        ids = add_results(node.records, node.settings, next_job)
        Courier(node.records, node.settings).deliver(ids[0])
        assert len(pacs.stored) == 4
        with node.records.reading() as session:
            assert session.scalars(select(Breaker)).all() == []
        assert all(row.commitment_reason is not None or row.asks for row in node.rows)


def test_no_such_service_is_told_from_a_refusal(tmp_path: Path) -> None:
    with peer(commits=False) as pacs:
        node = Node(tmp_path / "a", pacs.port, PATIENT)
        node.deliver()
    assert (node.job.state, node.job.reason) == (State.SENT, Reason.COMMITMENT_UNSUPPORTED)
    with peer(action_status=0x0124) as pacs:
        node = Node(tmp_path / "b", pacs.port, PATIENT)
        node.deliver()
    assert (node.job.state, node.job.reason) == (State.SENT, Reason.COMMITMENT_REFUSED)
    assert "0x0124" in node.job.detail


def test_a_refusal_for_now_is_asked_again(tmp_path: Path) -> None:
    with peer(action_status=0x0213) as pacs:
        node = Node(tmp_path, pacs.port, PATIENT)
        node.deliver()
        pacs.action_status = 0x0000
        node.later()
        node.deliver()
        assert len(pacs.requests) == 2
    assert node.job.state == State.COMMITTED


def test_a_destination_that_is_away_when_it_is_to_be_asked_is_not_given_up(tmp_path: Path) -> None:
    with peer(same_association=False) as pacs:
        node = Node(tmp_path, pacs.port, HASTY)
        node.deliver()
    node.later()
    for _ in range(4):
        node.deliver()
    assert node.job.reason is None
    assert all(row.asks == 1 and row.ask_at is not None for row in node.rows)


def test_switched_off_meanwhile_it_is_not_asked_and_stored_is_enough(tmp_path: Path) -> None:
    with peer(same_association=False) as pacs:
        node = Node(tmp_path, pacs.port, HASTY)
        node.deliver()
        off = {"pacs": node.settings.destinations["pacs"].model_copy(update={"commitment": False})}
        node.settings = node.settings.model_copy(update={"destinations": off})
        node.later()
        node.deliver()
        assert len(pacs.requests) == 1
    assert (node.job.state, node.job.reason) == (State.SENT, None)
    assert not any(row.asked for row in node.rows)


def test_reports_that_are_none_are_refused_for_good(tmp_path: Path) -> None:
    with peer(same_association=False) as pacs:
        node = Node(tmp_path, pacs.port, HASTY)
        node.deliver()
        event_type, answer = pacs.report(pacs.requests[0])
    assert node.take(3, answer) == commitment_result.NO_SUCH_EVENT_TYPE
    foreign = Dataset()
    foreign.TransactionUID = "2.25.1"
    assert node.take(1, foreign) == commitment_result.INVALID_ARGUMENT
    assert node.take(1, Dataset()) == commitment_result.INVALID_ARGUMENT
    for encoded, syntax in [
        (b"\xff" * 50, ExplicitVRLittleEndian),
        (b"", ExplicitVRLittleEndian),
        (b"\0" * (LONGEST_REPORT + 1), ExplicitVRLittleEndian),
        (b"x\x9c", "1.2.840.10008.1.2.1.99"),
    ]:
        status = take_report(node.records, HASTY, event_type, encoded, syntax)
        assert status == commitment_result.INVALID_ARGUMENT
    assert node.job.state == State.SENT


def test_without_the_database_the_peer_is_told_to_repeat(tmp_path: Path) -> None:
    with peer(same_association=False) as pacs:
        node = Node(tmp_path, pacs.port, HASTY)
        node.deliver()
        event_type, answer = pacs.report(pacs.requests[0])
    away = Records(open_database(f"sqlite:///{tmp_path / 'nowhere' / 'node.sqlite'}"))
    encoded = encode(answer, False, True)
    assert encoded is not None
    told = take_report(away, HASTY, event_type, encoded, ExplicitVRLittleEndian)
    assert told == commitment_result.PROCESSING_FAILURE
    assert node.take(event_type, answer) == commitment_result.SUCCESS
    assert node.job.state == State.COMMITTED


def test_the_transaction_is_in_the_database_before_the_peer_knows_it(tmp_path: Path) -> None:
    known = []
    with peer(same_association=False) as pacs:
        node = Node(tmp_path, pacs.port, HASTY)

        def look(request: Dataset) -> None:
            with node.records.reading() as session:
                known.append(session.get(CommitmentTransaction, request.TransactionUID) is not None)

        pacs.on_request = look
        node.deliver()
    assert known == [True]
