"""Storage commitment: a sender asks what is kept and is told, whatever ends or fails in between."""

import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from commitment_peer import INSTANCE, STORAGE_COMMITMENT, Reports, action, associate, listener, send_action
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom.dsutils import encode as encode_data_set
from raw_pdu import COMMAND, LAST, answer, connect, context, data
from spool_data import Bench, Receiver, ct_slice, receiver, settings_for, store
from sqlalchemy import select, update

from config import Reason, Settings
from config.settings import DeliverySettings, Source
from ct.part10 import is_uid
from node import commitment_rows
from node.commitment import (
    CLASS_CONFLICT,
    LONGEST_ACTION,
    NO_SUCH_INSTANCE,
    BadActionError,
    CommitmentFiles,
    parse_action,
    report,
)
from node.commitment_reports import Reporter
from node.database import Records, open_database
from node.records import CommitmentRequest, now
from node.spool import segments

pytestmark = pytest.mark.timeout(900)  # a safety net on a busy machine, not an expectation

_QUICK = DeliverySettings(retry_first_s=0.05, retry_max_s=0.2, timeout_s=5.0)


def _settings(data_dir: Path, port: int | None = None, **dicom: object) -> Settings:
    settings = settings_for(data_dir, receivers=1, **dicom)
    sources = {} if port is None else {"it": Source(ae_title="STORESCU", host="127.0.0.1", port=port)}
    return settings.model_copy(update={"sources": sources, "delivery": _QUICK})


def _rows(settings: Settings) -> list[CommitmentRequest]:
    with Records(open_database(settings.database)).reading() as session:
        return list(session.scalars(select(CommitmentRequest).order_by(CommitmentRequest.id)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- on the association of the request


def test_who_waits_is_told_on_the_same_association(tmp_path: Path) -> None:
    sent = [ct_slice(number=n) for n in range(1, 4)]
    stranger = ct_slice(number=9)
    other_class = ct_slice(number=2)
    other_class.SOPClassUID = SecondaryCaptureImageStorage
    with receiver(_settings(tmp_path / "node")) as running:
        reports = Reports()
        association = associate(running, reports)
        assert [association.send_c_store(dataset).Status for dataset in sent] == [0x0000] * 3
        asked = action(sent)
        assert send_action(association, asked).Status == 0x0000
        (told,) = reports.wait()
        assert (told.event, told.transaction, told.failed) == (1, asked.TransactionUID, {})
        assert told.kept == {dataset.SOPInstanceUID for dataset in sent}
        assert send_action(association, action([sent[0], other_class, stranger])).Status == 0x0000
        _, told = reports.wait(2)
        assert (told.event, told.kept) == (2, {sent[0].SOPInstanceUID})
        assert told.failed == {other_class.SOPInstanceUID: CLASS_CONFLICT, stranger.SOPInstanceUID: NO_SUCH_INSTANCE}
        association.release()
        assert association.is_released
        running.wait_for("commitment_taken", count=3)
        assert running.end()[0] == 0
    assert len(reports.told) == 2, "what was confirmed is not told again"


def test_what_was_confirmed_is_done_and_leaves_no_file(tmp_path: Path) -> None:
    settings = _settings(tmp_path / "node")
    with receiver(settings) as running:
        reports = Reports()
        association = associate(running, reports)
        assert association.send_c_store(ct_slice()).Status == 0x0000
        assert send_action(association, action([ct_slice()])).Status == 0x0000
        reports.wait()
        association.release()
        running.end()
    records = Records(open_database(settings.database))
    Reporter(records, settings).once()  # what the process had no time for before it ended
    (row,) = _rows(settings)
    assert row.ended_at is not None
    assert row.reason is None
    assert list((settings.spool_dir / "commitment").iterdir()) == []


# --- on an association of its own


def test_who_releases_at_once_is_told_on_another_association(tmp_path: Path) -> None:
    reports = Reports()
    with listener(reports) as port, receiver(_settings(tmp_path / "node", port)) as running:
        association = associate(running, Reports())
        assert association.send_c_store(ct_slice()).Status == 0x0000
        asked = action([ct_slice()])
        assert send_action(association, asked).Status == 0x0000
        association.abort()
        (told,) = reports.wait()
        assert (told.event, told.transaction, told.kept) == (1, asked.TransactionUID, {ct_slice().SOPInstanceUID})
        running.wait_for("commitment_reported", calling_ae="STORESCU")


def test_a_report_that_is_not_confirmed_is_sent_again(tmp_path: Path) -> None:
    reports = Reports(statuses=[0x0110, 0x0110])
    with listener(reports) as port, receiver(_settings(tmp_path / "node", port)) as running:
        association = associate(running, Reports())
        assert send_action(association, action([ct_slice()])).Status == 0x0000
        association.abort()
        told = reports.wait(3)
        assert {(one.event, one.transaction) for one in told} == {(2, told[0].transaction)}
        running.wait_for("commitment_not_reported", reason="PEER_REFUSED")
        running.wait_for("commitment_reported")


def test_killed_after_the_answer_the_node_still_tells(tmp_path: Path) -> None:
    """The database is away when the request comes: it is a file when the receiver is killed."""
    port = _free_port()
    settings = _settings(tmp_path / "node", port)
    away = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'nowhere' / 'node.sqlite'}"})
    sent = [ct_slice(number=n) for n in range(1, 4)]
    with receiver(away) as running:
        reports = Reports()
        association = associate(running, reports)
        for dataset in sent:
            assert association.send_c_store(dataset).Status == 0x0000
        asked = action([*sent, ct_slice(number=4)])
        assert send_action(association, asked).Status == 0x0000
        running.process.kill()
        running.process.wait()
        association.abort()
        assert reports.told == []
    assert len(CommitmentFiles(settings.spool_dir).waiting()) == 1
    with receiver(settings) as running:  # nobody listens yet
        running.wait_for("commitment_not_reported", reason="PEER_UNREACHABLE")
        running.process.kill()
    reports = Reports()
    with listener(reports, port), receiver(settings) as running:
        (told,) = reports.wait()
        running.wait_for("commitment_reported")
    assert (told.event, told.transaction) == (2, asked.TransactionUID)
    assert told.kept == {dataset.SOPInstanceUID for dataset in sent}
    assert told.failed == {ct_slice(number=4).SOPInstanceUID: NO_SUCH_INSTANCE}


def test_without_an_address_it_is_tried_until_it_is_given_up(tmp_path: Path) -> None:
    settings = _settings(tmp_path / "node", report_for_s=0.3)
    with receiver(settings) as running:
        association = associate(running, Reports())
        assert send_action(association, action([ct_slice()])).Status == 0x0000
        association.abort()
        line = running.wait_for("commitment_given_up", reason="NO_ADDRESS")
    assert "STORESCU" in str(line["detail"])
    (row,) = _rows(settings)
    assert row.ended_at is not None
    assert row.reason == Reason.NO_ADDRESS


# --- what cannot be a request


def _without(keyword: str) -> Dataset:
    asked = action([ct_slice()])
    delattr(asked, keyword)
    return asked


def _bad_reference() -> Dataset:
    asked = action([ct_slice()])
    del asked.ReferencedSOPSequence[0].ReferencedSOPClassUID
    return asked


@pytest.mark.parametrize(
    ("asked", "kind", "instance", "status"),
    [
        (_without("TransactionUID"), 1, INSTANCE, 0x0115),
        (_without("ReferencedSOPSequence"), 1, INSTANCE, 0x0115),
        (_bad_reference(), 1, INSTANCE, 0x0115),
        (None, 1, INSTANCE, 0x0115),
        (action([ct_slice()]), 2, INSTANCE, 0x0123),
        (action([ct_slice()]), 1, "1.2.3", 0x0112),
    ],
)
def test_a_malformed_request_is_refused_and_not_kept(
    common: Receiver, asked: Dataset | None, kind: int, instance: str, status: int
) -> None:
    association = associate(common, Reports())
    got = send_action(association, asked, kind, instance)
    assert got.Status == status
    assert got.ErrorComment
    assert association.send_c_store(ct_slice()).Status == 0x0000
    association.release()
    assert CommitmentFiles(common.settings.spool_dir).waiting() == []


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with receiver(_settings(tmp_path_factory.mktemp("common") / "node")) as running:
        yield running
        assert running.events("association_failed") == [], "an exception that nobody expected"


def _n_action(kind: int = 1) -> bytes:
    """Command set of an N-ACTION request (PS3.7 table 10.3-4)."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, number, len(value)) + value

    def word(number: int, value: int) -> bytes:
        return element(number, struct.pack("<H", value))

    return b"".join((
        element(0x0003, STORAGE_COMMITMENT.encode()), word(0x0100, 0x0130), word(0x0110, 7), word(0x0800, 0),
        element(0x1001, INSTANCE.encode()), word(0x1008, kind),
    ))  # fmt: skip


@pytest.mark.parametrize(("content", "status"), [(b"\xff" * 3000, 0x0115), (bytes(LONGEST_ACTION + 2), 0x0213)])
def test_damaged_and_endless_data_sets_are_refused(common: Receiver, content: bytes, status: int) -> None:
    with connect(common, context(1, STORAGE_COMMITMENT, ExplicitVRLittleEndian)) as connection:
        connection.sendall(data(COMMAND | LAST, _n_action()))
        for at in range(0, len(content), 100_000):
            connection.sendall(data(LAST * (at + 100_000 >= len(content)), content[at : at + 100_000]))
        assert answer(connection) == status


def test_below_the_low_water_mark_nothing_is_promised(tmp_path: Path) -> None:
    with receiver(_settings(tmp_path / "node", min_free_mb=2**40)) as running:
        association = associate(running, Reports())
        assert send_action(association, action([ct_slice()])).Status == 0x0213
        association.release()


# --- parts


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\x08\0\x95\x11UI\xff\xff", bytes(range(256)) * 4])
def test_any_bytes_are_a_request_or_refused(content: bytes) -> None:
    for implicit in (True, False):
        with pytest.raises(BadActionError):
            parse_action(content, implicit)


def _wide(count: int) -> bytes:
    """A Transaction UID and `count` empty items, Implicit VR."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    return struct.pack("<HHI4sHHI", 8, 0x1195, 4, b"1.2\0", 8, 0x1199, 8 * count) + item * count


def test_a_request_of_empty_items_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BadActionError, match="too many"):
        parse_action(_wide(LONGEST_ACTION // 8 - 4), implicit=True)
    with pytest.raises(BadActionError, match="no UID"):
        parse_action(_wide(3), implicit=True)


@hypothesis_settings(max_examples=600, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=12), st.integers(0, 12)), max_size=6))
def test_damaged_requests_are_read_or_refused_never_more(changes: list[tuple[int, bytes, int]]) -> None:
    for implicit in (True, False):
        raw = bytearray(
            encode_data_set(action([ct_slice(number=n) for n in (1, 2, 3)], "1.2.3"), implicit, True) or b""
        )
        for at, piece, removed in changes:
            at %= len(raw) + 1
            raw[at : at + removed] = piece
        try:
            transaction, references = parse_action(raw, implicit)
        except BadActionError:
            continue
        assert is_uid(transaction)
        assert references
        assert all(is_uid(uid) for reference in references for uid in reference)


def test_a_report_of_nothing_but_failures_has_no_references() -> None:
    event, told = report("1.2", [("1.3", "1.4")], [("1.3", "1.4", NO_SUCH_INSTANCE)])
    assert event == 2
    assert "ReferencedSOPSequence" not in told
    assert told.FailedSOPSequence[0].FailureReason == NO_SUCH_INSTANCE


def test_what_came_before_the_request_is_indexed_before_it_is_answered(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node")
    sent = [ct_slice(number=n) for n in range(1, 4)]
    files = CommitmentFiles(bench.settings.spool_dir)
    with bench.intake.open("STORESCU", "FVLM") as session:
        for dataset in sent:
            store(session, dataset)
        references = [(str(d.SOPClassUID), str(d.SOPInstanceUID)) for d in sent]
        request = files.keep("1.2.3", "STORESCU", "FVLM", references)
        assert files.verdict(request.token) is None
        bench.indexer.catch_up()
        assert files.verdict(request.token) == []
        assert files.waiting() == []
    assert files.folder.joinpath(f"{request.token}.request").exists() is False
    (row,) = _rows(bench.settings)
    assert (row.transaction_uid, row.calling_ae, row.received_at) == ("1.2.3", "STORESCU", request.received_at)


def test_a_request_is_taken_once_whatever_crashes(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node")
    request = CommitmentFiles(bench.settings.spool_dir).keep("1.2.3", "STORESCU", "FVLM", [("1.3", "1.4")])
    for _ in range(2):  # the file is still there after the row is
        with bench.records.session() as session:
            failures = commitment_rows.take(session, bench.settings.spool_dir, request)
        assert failures == [("1.3", "1.4", NO_SUCH_INSTANCE)]
    bench.indexer.catch_up()
    assert len(_rows(bench.settings)) == 1


def test_what_is_gone_from_the_disk_is_not_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node")
    bench.receive(ct_slice())
    (segment,) = segments(bench.settings.spool_dir)
    segment.unlink()
    reference = (str(ct_slice().SOPClassUID), str(ct_slice().SOPInstanceUID))
    request = CommitmentFiles(bench.settings.spool_dir).keep("1.2.3", "STORESCU", "FVLM", [reference])
    with bench.records.session() as session:
        failures = commitment_rows.take(session, bench.settings.spool_dir, request)
    assert failures == [(*reference, NO_SUCH_INSTANCE)]


def test_a_damaged_request_file_is_put_aside_and_the_others_are_taken(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node")
    files = CommitmentFiles(bench.settings.spool_dir)
    files.keep("1.2.3", "STORESCU", "FVLM", [("1.3", "1.4")])
    for name, content in (("0-0", b"{"), ("0-1", b"[]"), ("0-2", b'{"references": [[1]]}'), ("0-3", b"\xff")):
        (files.folder / f"{name}.request").write_bytes(content)
    bench.indexer.catch_up()
    assert files.waiting() == []
    assert len(list(files.folder.glob("*.damaged"))) == 4
    assert len(_rows(bench.settings)) == 1


def test_one_dead_source_does_not_delay_another(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node")
    reports = Reports()
    with listener(reports) as port:
        dead = Source(ae_title="DEAD", host="127.0.0.1", port=_free_port())
        alive = Source(ae_title="STORESCU", host="127.0.0.1", port=port)
        settings = bench.settings.model_copy(update={"sources": {"a": dead, "b": alive}, "delivery": _QUICK})
        files = CommitmentFiles(settings.spool_dir)
        for calling in ("DEAD", "DEAD", "STORESCU", "STORESCU"):
            files.keep("1.2.3", calling, "FVLM", [("1.3", "1.4")])
        bench.indexer.catch_up()
        with bench.records.session() as session:
            session.execute(update(CommitmentRequest).values(due_at=now()))
        Reporter(bench.records, settings).once()
    assert len(reports.told) == 2
    ended = {(row.calling_ae, row.ended_at is not None, row.reason, row.attempts) for row in _rows(settings)}
    assert ended == {("DEAD", False, Reason.PEER_UNREACHABLE, 1), ("STORESCU", True, None, 0)}
