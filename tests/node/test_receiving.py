"""The receiver's processes: places for associations, death and restart, a clean end, a failing disk, what they hold."""

import json
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES
from pynetdicom.sop_class import Verification
from raw_pdu import (
    COMMAND,
    LAST,
    RELEASE,
    abort_reason,
    answer,
    command,
    connect,
    context,
    data,
    dial,
    pdu,
    pdv,
    read_pdu,
    request,
    store,
)
from spool_data import Receiver, ct_slice, dcmtk, read_until_closed, receiver, settings_for, write_file

from config import Settings
from config.settings import DicomSettings
from node.dimse import BadCommandError, parse_command
from node.negotiation import MORE_TRANSFER_SYNTAXES, STORAGE_CLASSES, Accepted, Negotiator, Rejected
from node.spool import Damage, scan, segments
from node.upper_layer import ProtocolError, fragments

pytestmark = pytest.mark.timeout(900)  # a safety net on a busy machine, not an expectation


MakeSettings = Callable[..., Settings]


def _children(running: Receiver) -> list[int]:
    pid = running.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _count(pid: int, kind: str) -> int:
    """How many of `task` (threads) or `fd` (descriptors) a process has."""
    return len(list(Path(f"/proc/{pid}/{kind}").iterdir()))


def _memory(pid: int, name: str) -> int:
    """A line of /proc/PID/status, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _stored(running: Receiver) -> list[str]:
    return [r.origin.sop_instance_uid for path in segments(running.settings.spool_dir) for r in scan(path)]


def _verdict(running: Receiver) -> int | None:
    """Type of the PDU that answers a request for an association; None: closed without a word."""
    with dial(running) as connection:
        try:
            connection.sendall(request())
        except ConnectionError:
            return None
        got = read_pdu(connection)
        return got.kind if got else None


def _listens(running: Receiver) -> bool:
    try:
        dial(running).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture
def settings(tmp_path: Path) -> MakeSettings:
    return lambda **dicom: settings_for(tmp_path / "node", **dicom)


def test_a_place_is_free_as_soon_as_the_release_is_answered(settings: MakeSettings) -> None:
    with receiver(settings(max_associations=1, receivers=2)) as running:
        for _ in range(60):
            with connect(running) as connection:
                connection.sendall(RELEASE)
                assert read_pdu(connection).kind == 0x06


def test_places_are_counted_over_all_processes_and_a_crowd_is_not_let_to_the_door(
    settings: MakeSettings,
) -> None:
    with receiver(settings(max_associations=3, receivers=2)) as running:
        inside = [connect(running) for _ in range(3)]
        assert [_verdict(running) for _ in range(3)] == [0x03] * 3
        crowd = [dial(running) for _ in range(63)]

        def refused_with_one_more() -> bool:  # those who were rejected just now may still stand on the doorstep
            crowd.append(dial(running))
            return _verdict(running) is None

        _until(refused_with_one_more, "the doorstep holds any number")
        assert len(crowd) < 128
        for connection in crowd:
            connection.close()
        _until(lambda: _verdict(running) == 0x03, "those who left the doorstep still count")
        inside.pop().close()
        _until(lambda: _verdict(running) == 0x02, "a place that was left is not given again")
        for connection in inside:
            connection.close()
    assert running.events("connection_closed")


def test_associations_are_spread_over_the_processes(settings: MakeSettings) -> None:
    with receiver(settings(receivers=3)) as running:
        _until(lambda: len(_children(running)) == 3, "three processes")
        inside = [connect(running) for _ in range(6)]
        threads = [_count(pid, "task") for pid in _children(running)]
        assert threads == [3, 3, 3], "a main thread and two associations each"
        for connection in inside:
            connection.close()


def test_a_process_that_dies_is_started_again_and_takes_only_its_own_associations_along(
    settings: MakeSettings,
) -> None:
    with receiver(settings(receivers=2, max_associations=2)) as running:
        with connect(running) as one, connect(running) as two:
            first, second = _children(running)
            os.kill(first, signal.SIGTERM)  # a signal for the whole group is the listener's to act upon
            one.sendall(store("1.1", b"data"))
            assert answer(one) == 0x0000
            os.kill(first, signal.SIGKILL)
            assert read_until_closed(one) == b""
            two.sendall(store("1.2", b"data"))
            assert answer(two) == 0x0000
            assert _verdict(running) == 0x02, "the dead one's place is free"
        died = running.wait_for("receiver_process_died")
        assert died["status"] == -signal.SIGKILL
        _until(lambda: len(_children(running)) == 2, "it is started again")
        assert second in _children(running)
        with connect(running) as one, connect(running) as two:
            for number, connection in enumerate((one, two), 3):
                connection.sendall(store(f"1.{number}", b"data"))
                assert answer(connection) == 0x0000
        assert running.end()[0] == 0
    assert sorted(_stored(running)) == ["1.1", "1.2", "1.3", "1.4"]


def test_with_the_listener_all_its_processes_die(settings: MakeSettings) -> None:
    with receiver(settings(receivers=2)) as running, connect(running) as connection:
        children = _children(running)
        running.process.kill()
        assert read_until_closed(connection) == b""
        _until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "processes are left over")


def test_told_to_end_it_lets_associations_end_and_aborts_those_that_do_nothing(settings: MakeSettings) -> None:
    with receiver(settings(receivers=2)) as running:
        with connect(running) as working, connect(running) as idle:
            working.sendall(store("1.1", b"data"))
            assert answer(working) == 0x0000
            running.process.send_signal(signal.SIGTERM)
            _until(lambda: not _listens(running), "it still listens")
            working.sendall(store("1.2", b"data") + RELEASE)
            assert answer(working) == 0x0000
            assert read_pdu(working).kind == 0x06
            assert read_until_closed(working) == b""
            assert abort_reason(idle) == (0, 0)
        assert running.process.wait(60) == 0
    assert sorted(_stored(running)) == ["1.1", "1.2"]
    assert running.events("association_aborted")[0]["calling_ae"] == "STORESCU"


def test_a_disk_that_fails_is_answered_with_out_of_resources_until_it_works_again(
    settings: MakeSettings,
) -> None:
    limit = 20 * 2**20  # one step of growth fits, a second does not
    with receiver(settings(receivers=1)) as running, connect(running) as connection:
        connection.sendall(store("1.1", b"data"))
        assert answer(connection) == 0x0000
        for pid in _children(running):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        connection.sendall(store("1.2", bytes(limit)))
        assert answer(connection) == 0xA700
        connection.sendall(store("1.3", b"data"))
        assert answer(connection) == 0x0000, "the next instance goes to a new segment"
        for pid in _children(running):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        connection.sendall(store("1.4", bytes(limit)))
        assert answer(connection) == 0x0000
        connection.close()
        assert running.end()[0] == 0
    assert running.events("instance_refused")[0]["reason"] == "SPOOL_FAILED"
    assert sorted(_stored(running)) == ["1.1", "1.3", "1.4"]
    damages: list[Damage] = []
    assert [len(list(scan(path, on_damage=damages.append))) for path in segments(running.settings.spool_dir)] == [1, 2]
    assert damages == [], "the instance that was refused looks like a damaged one"


def test_memory_threads_and_descriptors_are_bounded_and_come_back(settings: MakeSettings) -> None:
    with receiver(settings(receivers=1)) as running:
        with connect(running) as connection:  # what is loaded at the first use is loaded now
            connection.sendall(store("1.1", bytes(3_000_000)))
            assert answer(connection) == 0x0000
        (pid,) = _children(running)
        _until(lambda: _count(pid, "task") == 1, "the thread is left over")
        held = [_memory(pid, "VmHWM"), _count(pid, "fd")]
        with connect(running) as connection:
            connection.sendall(data(COMMAND | LAST, command(b"1.2")))
            piece = data(0, bytes(1_000_000))
            for _ in range(200):
                connection.sendall(piece)
            connection.sendall(data(LAST, b"x"))
            assert answer(connection) == 0x0000
            tiny = pdu(0x04, pdv(0, b"") * 100_000)
            connection.sendall(data(COMMAND | LAST, command(b"1.3")) + tiny + pdu(0x04, pdv(0, b"x") * 50_000))
            connection.sendall(data(LAST, b"x"))
            assert answer(connection) == 0x0000
        assert _memory(pid, "VmHWM") - held[0] < 16e6, "a data set was held in memory"
        for number in range(150):
            with connect(running) as connection:
                connection.sendall(store(f"2.{number}", bytes(100_000)))
                if number % 3 == 0:
                    continue
                assert answer(connection) == 0x0000
                if number % 3 == 1:
                    connection.sendall(RELEASE)
                    read_pdu(connection)
        _until(lambda: _count(pid, "task") == 1, "threads are left over")
        assert _count(pid, "fd") == held[1]
        assert _memory(pid, "VmHWM") - held[0] < 24e6
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()


def test_without_descriptors_callers_are_turned_away_and_places_come_back(settings: MakeSettings) -> None:
    with receiver(settings(receivers=1, max_associations=4)) as running:
        with connect(running):
            (pid,) = _children(running)
        _until(lambda: _count(pid, "task") == 1, "the thread is left over")
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))  # one more than standard error
        assert [_verdict(running) for _ in range(8)] == [None] * 8
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        inside = [connect(running) for _ in range(4)]
        for connection in inside:
            connection.close()


def test_a_spool_folder_that_is_gone_is_out_of_resources_not_the_end(settings: MakeSettings) -> None:
    with receiver(settings(receivers=1)) as running:
        folder = running.settings.spool_dir
        folder.rename(folder.with_name("elsewhere"))
        with connect(running) as connection:
            connection.sendall(store("1.1", b"data"))
            assert answer(connection) == 0xA700
            folder.with_name("elsewhere").rename(folder)
            connection.sendall(store("1.2", b"data"))
            assert answer(connection) == 0x0000
        assert running.events("receiver_process_died") == []
    assert _stored(running) == ["1.2"]


def test_ipv6_and_names_of_hosts_are_listened_on(settings: MakeSettings) -> None:
    with receiver(settings(host="::1", receivers=1)) as running:
        with socket.create_connection(("::1", running.port), timeout=60) as connection:
            connection.sendall(request())
            assert read_pdu(connection).kind == 0x02
        assert running.wait_for("association_accepted")["host"] == "::1"
    with receiver(settings(host="localhost", receivers=1)) as running:
        assert _verdict(running) == 0x02


@pytest.mark.peers
def test_dcmtk_that_aborts_or_sends_any_size_of_pdu(settings: MakeSettings, tmp_path: Path) -> None:
    files = [write_file(ct_slice(number=n, side=300), tmp_path / f"{n}.dcm") for n in range(1, 9)]
    with receiver(settings(receivers=2)) as running:
        at = ("-aet", "STORESCU", "-aec", "FVLM", "127.0.0.1", str(running.port))
        for options in ((), ("--max-send-pdu", "4096"), ("--max-send-pdu", "131072"), ("--abort",)):
            sent = dcmtk("storescu", "-v", *options, *at, *files)
            assert (sent.stdout + sent.stderr).count("Received Store Response (Success)") == 8, sent.stderr
        assert dcmtk("echoscu", "--abort", *at).returncode == 0
        assert dcmtk("echoscu", "--propose-pc", "20", *at).returncode == 0
        assert running.end()[0] == 0
    assert len(_stored(running)) == 32
    assert running.events("association_aborted") == []


# --- parts, with everything that can come


def test_each_class_and_each_transfer_syntax_is_accepted_and_named() -> None:
    negotiator = Negotiator(DicomSettings())
    known = {str(uid) for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"}
    no_data_sets = {"1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2", "1.2.840.10008.1.20"}  # MIME, XML, Papyrus 3
    assert {*ALL_TRANSFER_SYNTAXES, *MORE_TRANSFER_SYNTAXES} == known - no_data_sets
    for syntax in (*ALL_TRANSFER_SYNTAXES, *MORE_TRANSFER_SYNTAXES):
        got = negotiator.answer(request(context(3, CTImageStorage, syntax)), full=False)
        assert isinstance(got, Accepted)
        assert [(n, c.abstract_syntax, c.transfer_syntax) for n, c in got.contexts.items()] == [
            (3, CTImageStorage, syntax)
        ]
    classes = [str(cls) for cls in (*STORAGE_CLASSES, Verification)]
    proposed = [context(2 * n + 1, cls, "1.2.840.10008.1.2") for n, cls in enumerate(classes)]
    got = negotiator.answer(request(*proposed, longest=0), full=False)
    assert isinstance(got, Accepted)
    assert [c.abstract_syntax for c in got.contexts.values()] == classes
    assert got.longest_pdu == 0


def test_the_largest_request_that_a_toolkit_makes_is_not_too_long() -> None:
    from node.upper_layer import LONGEST_REQUEST

    proposed = [context(n, "1" * 64, *ALL_TRANSFER_SYNTAXES) for n in range(1, 256, 2)]
    assert len(request(*proposed)) < LONGEST_REQUEST


_FUZZED = (request(), request(context(1), context(3, Verification)), command(b"1.2.3"))


@hypothesis_settings(max_examples=1500, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_damaged_requests_and_commands_are_understood_or_refused_never_more(data: st.DataObject, seed: int) -> None:
    rng = random.Random(seed)
    which = data.draw(st.integers(0, len(_FUZZED) - 1))
    raw = bytearray(_FUZZED[which])
    for _ in range(data.draw(st.integers(1, 6))):
        at = rng.randrange(len(raw))
        match data.draw(st.integers(0, 3)):
            case 0:
                raw[at] = rng.randrange(256)
            case 1:
                raw[at:at] = rng.randbytes(rng.randint(1, 20))
            case 2:
                del raw[at : at + rng.randint(1, 20)]
            case _:
                raw = raw[: at + 1]
        if not raw:
            return
    if which == 2:
        with suppress(BadCommandError):
            parse_command(raw)
        return
    try:
        got = _NEGOTIATOR.answer(bytes(raw), full=False)
    except ProtocolError:
        return
    assert isinstance(got, Accepted | Rejected)
    assert got.answer[0] == (2 if isinstance(got, Accepted) else 3)
    assert int.from_bytes(got.answer[2:6], "big") == len(got.answer) - 6


_NEGOTIATOR = Negotiator(DicomSettings())


@hypothesis_settings(max_examples=500, deadline=None)
@given(body=st.binary(max_size=200))
def test_fragments_cover_the_pdu_or_are_refused(body: bytes) -> None:
    try:
        found = list(fragments(memoryview(body)))
    except ProtocolError:
        return
    assert b"".join(pdv(control, bytes(content), number) for number, control, content in found) == body


def test_settings_of_the_receiver_survive_the_hand_over() -> None:
    from node.handover import Setup

    dicom = DicomSettings(accept_from=("A B", "C'\"D"), more_storage_classes=("1.2.3",))
    setup = Setup(1, 2, "/spool/é", 3, dicom.model_dump(mode="json"))
    assert Setup.decode(setup.encode()) == setup
    assert DicomSettings(**Setup.decode(setup.encode()).dicom) == dicom
    assert json.loads(setup.encode())["number"] == 1


def test_the_receiver_spools_what_pynetdicom_sends(settings: MakeSettings) -> None:
    ae = AE(ae_title="DEMO")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    with receiver(settings(receivers=1)) as running:
        association = ae.associate("127.0.0.1", running.port, ae_title="FVLM")
        assert association.send_c_store(ct_slice(number=4)).Status == 0x0000
        association.release()
        assert association.is_released
        assert running.end()[0] == 0
    assert _stored(running) == [str(ct_slice(number=4).SOPInstanceUID)]
