"""The receiver as a process: who may send, what it keeps, stalled peers, sudden death, no patient data in logs."""

import random
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from raw_pdu import answer, command, connect, data, request
from spool_data import (
    ROOT,
    SECRET,
    Receiver,
    ct_slice,
    dcmtk,
    encode,
    read_until_closed,
    receiver,
    settings_for,
    write_file,
)
from sqlalchemy import func, select

from config import Settings
from node.database import Records, open_database
from node.indexer import Indexer
from node.migrations import upgrade
from node.records import Instance
from node.spool import SegmentReader, scan, segments

pytestmark = pytest.mark.timeout(900)  # a safety net on a busy machine, not an expectation


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "node")


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """One receiver for the tests that only ask it something; 5 s network time-out."""
    with receiver(settings_for(tmp_path_factory.mktemp("common") / "node", network_timeout_s=5.0)) as running:
        yield running


def _associate(running: Receiver, calling: str = "STORESCU", called: str = "FVLM", cls: str = CTImageStorage):  # type: ignore[no-untyped-def]
    ae = AE(ae_title=calling)
    ae.add_requested_context(cls, ExplicitVRLittleEndian)
    ae.add_requested_context(Verification)
    return ae.associate("127.0.0.1", running.port, ae_title=called)


def _spooled(settings: Settings) -> dict[str, bytes]:
    """Data sets in the spool by SOP Instance UID."""
    found = {}
    for path in segments(settings.spool_dir):
        with SegmentReader(path) as reader:
            for record in scan(path):
                found[record.origin.sop_instance_uid] = bytes(reader.data_set(record))
    return found


def _indexed(settings: Settings) -> set[str]:
    with Records(open_database(settings.database)).reading() as session:
        return set(session.scalars(select(Instance.sop_instance_uid)))


def test_what_is_acknowledged_is_spooled_and_indexed_and_no_torch_is_loaded(settings: Settings) -> None:
    sent = [ct_slice(number=n) for n in range(1, 11)]
    with receiver(settings) as running:
        association = _associate(running)
        assert association.send_c_echo().Status == 0x0000
        assert [association.send_c_store(dataset).Status for dataset in sent] == [0x0000] * 10
        association.release()
        assert running.end() == (0, "False\n")
    assert _spooled(settings) == {d.SOPInstanceUID: encode(d) for d in sent}
    assert _indexed(settings) == {d.SOPInstanceUID for d in sent}


@pytest.mark.parametrize(
    ("calling", "called", "diagnostic", "reason"),
    [("STRANGER", "FVLM", 0x03, "UNKNOWN_AE"), ("STORESCU", "OTHER", 0x07, "WRONG_CALLED_AE")],
)
def test_strangers_are_rejected_and_named(
    common: Receiver, calling: str, called: str, diagnostic: int, reason: str
) -> None:
    association = _associate(common, calling, called)
    assert association.is_rejected
    answer = association.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (0x01, 0x01, diagnostic)
    line = common.wait_for("association_rejected", reason=reason)
    assert (line["host"], line["calling_ae"], line["called_ae"]) == ("127.0.0.1", calling, called)


def test_one_association_too_many_is_rejected_for_the_moment(tmp_path: Path) -> None:
    with receiver(settings_for(tmp_path / "node", max_associations=1)) as running:
        first = _associate(running)
        second = _associate(running)
        assert second.is_rejected
        answer = second.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (0x02, 0x03, 0x02)
        first.release()
        running.end()
    assert running.events("association_rejected")[0]["reason"] == "TOO_MANY_ASSOCIATIONS"


def test_only_offered_classes_are_accepted(common: Receiver) -> None:
    ae = AE(ae_title="STORESCU")
    for cls in (UltrasoundImageStorage, SecondaryCaptureImageStorage):
        ae.add_requested_context(cls, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", common.port, ae_title="FVLM")
    assert [cx.abstract_syntax for cx in association.accepted_contexts] == [SecondaryCaptureImageStorage]
    association.release()


def test_below_the_low_water_mark_the_answer_is_out_of_resources(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node", min_free_mb=2**40)
    with receiver(settings) as running:
        association = _associate(running)
        answer = association.send_c_store(ct_slice())
        assert answer.Status == 0xA700
        assert "low-water" in answer.ErrorComment
        assert association.send_c_store(ct_slice()).Status == 0xA700
        association.release()
    assert _spooled(settings) == {}


# --- raw sockets: what no toolkit sends


@pytest.mark.parametrize(
    ("uid", "cls", "status"),
    [
        (b"../../etc/passwd", CTImageStorage.encode(), 0xC000),
        (b"", CTImageStorage.encode(), None),
        (b"1.2.3.1", SecondaryCaptureImageStorage.encode(), 0xA900),
        (b"1.2.3.2", CTImageStorage.encode(), 0x0000),
    ],
)
def test_status_of_odd_commands(common: Receiver, uid: bytes, cls: bytes, status: int | None) -> None:
    with connect(common) as connection:
        connection.sendall(data(0x03, command(uid, cls)) + data(0x02, encode(ct_slice())))
        assert answer(connection) == status
    assert (uid.decode() in _spooled(common.settings)) == (status == 0)


def test_a_store_without_data_set_is_refused(common: Receiver) -> None:
    with connect(common) as connection:
        connection.sendall(data(0x03, command(b"1.2.3.3", data_set=0x0101)))
        assert answer(connection) != 0x0000
    assert "1.2.3.3" not in _spooled(common.settings)


def test_a_pdu_that_claims_gigabytes_is_not_believed(common: Receiver) -> None:
    with connect(common) as connection:
        connection.sendall(struct.pack(">BxI", 0x04, 0xFFFFFFF0) + bytes(1000))
        read_until_closed(connection)
    association = _associate(common)
    assert association.send_c_echo().Status == 0x0000
    association.release()


def test_fragments_may_be_split_anyhow(common: Receiver) -> None:
    content = encode(ct_slice(series=5))
    uid = ct_slice(series=5).SOPInstanceUID
    encoded = command(uid.encode())
    with connect(common) as connection:
        pieces = [data(0x01, encoded[:9]), data(0x03, encoded[9:]), data(0x00, b"")]
        pieces += [data(0x00, content[at : at + 777]) for at in range(0, len(content), 777)]
        connection.sendall(b"".join(pieces) + data(0x02, b""))
        assert answer(connection) == 0x0000
    assert _spooled(common.settings)[uid] == content


def _stall(running: Receiver, how: str) -> None:
    """Connect, stop in the middle of something, and wait until the receiver closes."""
    half = data(0x02, encode(ct_slice()))
    if how in ("before the request", "in the request"):
        connection = socket.create_connection(("127.0.0.1", running.port), timeout=60)
        connection.sendall(request()[:50] if how == "in the request" else b"")
    else:
        connection = connect(running)
        connection.sendall(data(0x03, command(b"1.2.3")))
        connection.sendall({"in a header": half[:3], "in a PDU": half[:500], "drip": half[:500]}.get(how, b""))
    ended = threading.Event()

    def drip() -> None:
        with suppress(OSError):
            while not ended.wait(0.2):
                connection.sendall(b"\0")

    if how == "drip":
        threading.Thread(target=drip, daemon=True).start()
    with connection:
        read_until_closed(connection)
    ended.set()


def test_peers_that_stop_anywhere_are_put_out_and_others_go_on(common: Receiver) -> None:
    stalls = ("before the request", "in the request", "in a header", "in a PDU", "between", "drip")
    with ThreadPoolExecutor() as pool:
        stalled = {how: pool.submit(_stall, common, how) for how in stalls}
        association = _associate(common)
        assert association.send_c_store(ct_slice(series=6)).Status == 0x0000
        association.release()
        for how, future in stalled.items():
            assert future.result(60) is None, how
    assert ct_slice(series=6).SOPInstanceUID in _spooled(common.settings)
    assert "1.2.3" not in _spooled(common.settings)


def test_no_patient_data_in_the_log(settings: Settings) -> None:
    broken = encode(ct_slice(number=2)).replace(f"{ROOT}.1\0".encode(), b"PLANTED^NAME".ljust(len(ROOT) + 3))
    with receiver(settings) as running:
        association = _associate(running)
        association.send_c_store(ct_slice())
        association.send_c_store(ct_slice(fill=1))
        association.release()
        with connect(running) as connection:
            for uid in (f"{ROOT}.1.2", "PLANTED^NAME", "PLANTED-ID-4711" * 8):
                connection.sendall(data(0x03, command(uid.encode())) + data(0x02, broken))
                if answer(connection) is None:
                    break
        with connect(running) as connection:
            connection.sendall(data(0x03, b"PLANTED^NAME" * 20) + data(0x02, broken))
            read_until_closed(connection)
        assert running.end()[0] == 0
    assert running.events("instance_conflict")
    assert running.events("instance_unreadable")
    text = "".join(running.log)
    assert not [secret for secret in SECRET if secret in text]
    assert ROOT not in text


# --- real senders, sudden death


def _files(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    return [write_file(ct_slice(number=n, side=128), folder / f"{n:04d}.dcm") for n in range(1, count + 1)]


def _send(running: Receiver, *files: Path) -> list[str]:
    return ["storescu", "-v", "-aet", "STORESCU", "-aec", "FVLM", "127.0.0.1", str(running.port), *map(str, files)]


def _acknowledged(output: str) -> int:
    return output.count("Received Store Response (Success)")


@pytest.mark.peers
def test_dcmtk_sends_and_every_byte_is_kept(settings: Settings, tmp_path: Path) -> None:
    files = _files(tmp_path / "files", 60)
    with receiver(settings) as running:
        assert dcmtk("echoscu", "-aet", "STORESCU", "-aec", "FVLM", "127.0.0.1", str(running.port)).returncode == 0
        threads = []
        results: list[subprocess.CompletedProcess[str]] = []
        for part in (files[:30], files[30:], files[20:40]):  # at once, overlapping
            thread = threading.Thread(target=lambda p=part: results.append(dcmtk(*_send(running, *p))))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        assert [r.returncode for r in results] == [0, 0, 0], [r.stderr for r in results]
        assert running.end() == (0, "False\n")
    kept = _spooled(settings)
    assert len(kept) == 60
    for file in files:
        dataset = dcmread(file)
        assert kept[dataset.SOPInstanceUID] == encode(dataset)
    with Records(open_database(settings.database)).reading() as session:
        assert session.scalar(select(func.count()).select_from(Instance)) == 60


@pytest.mark.peers
def test_strangers_are_turned_away_by_dcmtk_too(common: Receiver, tmp_path: Path) -> None:
    files = _files(tmp_path / "files", 1)
    sent = dcmtk("storescu", "-v", "-aet", "NOBODY", "-aec", "FVLM", "127.0.0.1", str(common.port), files[0])
    assert sent.returncode != 0
    assert "Calling AE Title Not Recognized" in sent.stdout + sent.stderr


@pytest.mark.peers
@pytest.mark.slow
def test_ten_times_killed_while_receiving_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "node")
    files = _files(tmp_path / "files", 160)  # many more than fit into the pipe that tells of them
    uids = [str(dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files]
    content = {uid: encode(dcmread(file)) for uid, file in zip(uids, files, strict=True)}
    rng = random.Random(4711)
    promised: set[str] = set()
    interrupted = 0
    for round_ in range(10):
        rng.shuffle(files)
        order = [uids[int(file.stem) - 1] for file in files]
        with receiver(settings) as running:
            sender = subprocess.Popen(
                _send(running, *files), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env={"TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"},
            )  # fmt: skip
            assert sender.stdout is not None
            lines, wanted = [], rng.randrange(1, 60)
            for line in sender.stdout:
                lines.append(line)
                if _acknowledged(line) and (wanted := wanted - 1) == 0:
                    time.sleep(rng.random() * 0.01)
                    running.process.send_signal(signal.SIGKILL)
            sender.wait(120)
        acknowledged = _acknowledged("".join(lines))
        interrupted += acknowledged < len(files)
        promised |= set(order[:acknowledged])
        kept = _spooled(settings)
        assert promised <= kept.keys(), f"round {round_}"
        assert all(kept[uid] == content[uid] for uid in kept)
    assert interrupted >= 8
    with receiver(settings) as running:  # a restart alone brings the index up to date
        assert running.end()[0] == 0
    records = Records(open_database(settings.database))
    upgrade(records.engine)
    Indexer(records, settings.spool_dir).catch_up()
    assert _indexed(settings) == _spooled(settings).keys() >= promised
    with records.reading() as session:
        assert session.scalar(select(func.count()).select_from(Instance)) == len(_indexed(settings))
