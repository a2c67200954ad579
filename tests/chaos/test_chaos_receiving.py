"""The fault table, what goes wrong while images come in: rows 1, 2, 7, 10, 11, 12, 20 and 21."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from archives import OrthancView
from house import ChaosNode, all_pids, pacs, wait_for
from ledger import SUCCESS, Ledger, send, send_until_acknowledged, slices
from peers import Orthanc
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AE
from raw_pdu import COMMAND, LAST, answer, command, connect, context, data, dial, read_pdu, request, store
from rooms import Room, room
from spool_data import dcmtk, encode, write_file
from tls_files import Authority, Pair

pytestmark = [
    pytest.mark.peers,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "hospital")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, hospital: Authority) -> Iterator[Room]:
    own = hospital.issue("node")
    tls = {"certificate": own.certificate, "key": own.key, "ca": hospital.ca, "port": 0}
    environment = {f"FVLM_DICOM__TLS__{name.upper()}": str(value) for name, value in tls.items()}
    environment["FVLM_DICOM__NETWORK_TIMEOUT_S"] = "3"
    with room(tmp_path_factory.mktemp("receiving"), environment=environment) as made:
        yield made


@pytest.fixture
def here(kept: Room) -> Room:
    """The module's node with an empty book."""
    wait_for(lambda: len(kept.node.processes().get("receiving", [])) >= 1, "a receiving process", kept.node)
    return Room(kept.node, kept.archive)


@pytest.mark.parametrize("victim", ["receiving", "receiver"])
def test_row_01_receiver_killed_mid_file(here: Room, victim: str) -> None:
    node, datasets = here.node, slices({"receiving": 101, "receiver": 102}[victim])
    whole, half = encode(datasets[0]), str(datasets[0].SOPInstanceUID)
    before = len(node.events("receiver_process_died")) + len(node.events("process_died", role="receiver"))
    with connect(node) as connection:
        connection.sendall(data(COMMAND | LAST, command(half.encode())) + data(0, whole[: len(whole) // 2]))
        for pid in node.processes()[victim]:
            os.kill(pid, signal.SIGKILL)
        assert answer(connection) is None, "success for half a file"
    assert half not in node.stored(), "half a file counts as stored"
    send_until_acknowledged(node, datasets, here.ledger)
    here.settle()
    told = len(node.events("receiver_process_died")) + len(node.events("process_died", role="receiver"))
    assert told > before, "the log does not tell the death"


def test_row_02_receiver_killed_after_success(here: Room) -> None:
    node, datasets = here.node, slices(201, 6)
    for dataset in datasets:
        encoded = encode(dataset)
        with wait_for(lambda: _accepted(node), "an association", node) as connection:
            connection.sendall(store(str(dataset.SOPInstanceUID), encoded))
            got = answer(connection)
            for pid in node.processes().get("receiving", []):
                os.kill(pid, signal.SIGKILL)
            assert got == SUCCESS
            here.ledger.note(dataset, encoded)
        assert here.ledger.missing(node.stored()) == set()
    here.settle()
    assert node.events("receiver_process_died", status=-signal.SIGKILL)


def test_row_07_disk_full(tmp_path: Path) -> None:
    """The spool is a small tmpfs in a mount namespace of the node's own: no root is needed."""
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this system has no user namespaces; test_receiving.py fills a disk by RLIMIT_FSIZE")
    ledger, datasets = Ledger(), slices(701)
    with Orthanc(tmp_path / "orthanc") as orthanc:
        node = ChaosNode(
            tmp_path / "node",
            pacs("pacs", orthanc.ae_title, orthanc.port),
            {"FVLM_DICOM__MIN_FREE_MB": "0", "FVLM_DICOM__RECEIVERS": "1"},
        )
        spool = node.data / "spool"
        spool.mkdir(parents=True)
        mount = f'mount -t tmpfs -o size=48m tmpfs "{spool}" && exec "$@"'
        node.command = ["unshare", "-rm", "sh", "-c", mount, "sh", *node.command]
        with node:
            node.wait_until_ready()
            assert node.process is not None
            inside = Path(f"/proc/{node.process.pid}/root{spool}")
            assert send(node, datasets[:2], ledger) == [SUCCESS, SUCCESS]
            filler = inside / "filler"
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(65536))
            assert shutil.disk_usage(inside).free == 0
            refused = send(node, datasets[2:], Ledger())
            assert refused == [0xA700, 0xA700]
            assert {event["reason"] for event in node.events("instance_refused")} == {"DISK_FULL"}
            filler.unlink()
            assert send(node, datasets[2:], ledger) == [SUCCESS, SUCCESS], "it does not go on by itself"
            archive = OrthancView(orthanc)
            here = Room(_Looking(node, inside), archive, ledger)
            here.settle()
            assert node.events("instance_unreadable") == [], "the full disk left something damaged"


class _Looking:
    """A node whose spool is seen through its mount namespace."""

    def __init__(self, node: ChaosNode, spool: Path) -> None:
        self._node, self._spool = node, spool

    def __getattr__(self, name: str) -> object:
        return getattr(self._node, name)

    def stored(self) -> dict[str, set[str]]:
        return self._node.stored(self._spool)


def test_row_10_idle_slow_and_half_open_peers(here: Room) -> None:
    node = here.node
    send(node, slices(1001, 3), here.ledger)
    held = {pid: _holds(pid) for role, pid in all_pids(node) if role.startswith("recei")}
    silent = len(node.events("association_aborted", reason="PEER_SILENT"))
    for _ in range(500):
        dial(node).close()  # a health probe
    slow = [dial(node) for _ in range(10)]
    for connection in slow:
        connection.sendall(request()[:5])
    half_said = wait_for(lambda: _accepted(node), "a place", node)
    half_said.sendall(data(COMMAND | LAST, command(b"1.2")) + data(0, b"\0" * 10))
    crowd: list[socket.socket] = []
    for _ in range(500):
        with suppress(OSError):
            crowd.append(dial(node))
    wait_for(lambda: len(node.events("association_aborted", reason="PEER_SILENT")) > silent, "PEER_SILENT told", node)
    assert node.events("connection_closed", reason="TOO_MANY_ASSOCIATIONS")
    for connection in (*slow, half_said, *crowd):
        connection.close()
    send_until_acknowledged(node, slices(1002), here.ledger)
    here.settle()
    for pid, (threads, memory, descriptors) in held.items():
        wait_for(lambda pid=pid, n=threads: _holds(pid)[0] <= n, "threads are left over", node)
        assert _holds(pid)[1] - memory < 24e6, "memory grew"
        wait_for(lambda pid=pid, n=descriptors: _holds(pid)[2] <= n + 1, "descriptors are left over", node)


def test_row_11_damaged_and_hostile_data(here: Room) -> None:
    node = here.node
    before = dict(all_pids(node))
    memory = {role: _holds(pid)[1] for role, pid in before.items()}
    truncated, lying, bomb, huge = slices(1101), slices(1102), slices(1103), slices(1104)
    _put(here, [(dataset, encode(dataset)[:-200]) for dataset in truncated])
    _put(here, [(dataset, _with_lying_length(encode(dataset))) for dataset in lying])
    _put(here, [(dataset, _bomb(encode(dataset))) for dataset in bomb], DeflatedExplicitVRLittleEndian)
    for dataset in huge:
        dataset.Rows = dataset.Columns = 60000
        dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51" * 4])
    _put(here, [(dataset, encode(dataset)) for dataset in huge], JPEG2000Lossless)
    with connect(node) as connection:
        connection.sendall(b"\x04\x00" + (2**31).to_bytes(4, "big") + bytes(65536))
        with suppress(ConnectionError):
            assert read_pdu(connection).kind == 0x07, "a PDU of 2 GB is not answered with A-ABORT"
    send(node, slices(1105), here.ledger)
    refused = [str(group[0].SeriesInstanceUID) for group in (truncated, lying, bomb, huge)]
    wait_for(lambda: all(_ended(here, group[0]) for group in (truncated, lying, bomb, huge)), "a verdict each", node)
    for uid in refused:
        here.ledger.series.pop(uid)
    here.settle()
    assert dict(all_pids(node)) == before, "a process died of it"
    assert node.events("association_aborted", reason="PROTOCOL_ERROR")
    for role, pid in before.items():
        assert _holds(pid)[1] - memory[role] < 200e6, f"{role} took the bomb whole"


def test_row_12_same_uid_again_with_other_bytes_and_in_another_series(here: Room) -> None:
    node, datasets = here.node, slices(1201)
    send(node, datasets, here.ledger)
    send(node, datasets, here.ledger)
    changed = slices(1201)[0]
    changed.PatientName = "Planted^Other"
    send(node, [changed], here.ledger)
    stranger = slices(1202, 1)[0]
    stranger.SOPInstanceUID = datasets[1].SOPInstanceUID
    send(node, [stranger], here.ledger)
    elsewhere = str(stranger.SeriesInstanceUID)
    wait_for(lambda: ("REJECTED", "DUPLICATE_CONFLICT") in node.states(elsewhere), "a refusal of the stranger", node)
    here.settle(elsewhere)
    assert len(node.states(str(datasets[0].SeriesInstanceUID))) == 1, "a repetition opened a generation"
    assert "DUPLICATE_CONFLICT: 1 came again" in node.status()


def test_row_20_uids_that_are_none(here: Room, tmp_path: Path) -> None:
    node, good = here.node, slices(2001)
    before = set(tmp_path.parents[1].rglob("x*"))
    with connect(node) as connection:
        for uid in ("../../x", "1." + "2" * 63, "1.2\0.3", "1..2"):
            connection.sendall(store(uid, encode(good[0])))
            assert answer(connection) == 0xC000, uid
    assert len(node.events("instance_refused", reason="BAD_UID")) >= 4
    inside = slices(2002, 1)[0]
    inside.SeriesInstanceUID = "../../x"
    encoded = encode(inside)
    with connect(node) as connection:
        connection.sendall(store(str(inside.SOPInstanceUID), encoded))
        assert answer(connection) == SUCCESS
    send(node, good, here.ledger)
    here.settle()
    assert str(inside.SOPInstanceUID) in node.stored(), "acknowledged, and not kept"
    wait_for(lambda: "BAD_UID" in node.status(), "the reason in `status`", node)
    assert set(tmp_path.parents[1].rglob("x*")) == before, "a UID became a path"


def test_row_21_unknown_and_wrong_ae_titles(here: Room) -> None:
    node = here.node
    for calling, called, source, reason in (("STRANGER", "FVLM", 1, 3), ("STORESCU", "WRONG", 1, 7)):
        ae = AE(ae_title=calling)
        ae.add_requested_context(CTImageStorage)
        association = ae.associate("127.0.0.1", node.port, ae_title=called)
        assert association.is_rejected
        answered = association.acceptor.primitive
        assert (answered.result, answered.result_source, answered.diagnostic) == (1, source, reason)
    assert node.events("association_rejected", reason="UNKNOWN_AE", calling_ae="STRANGER", host="127.0.0.1")
    assert node.events("association_rejected", reason="WRONG_CALLED_AE", called_ae="WRONG")
    send(node, slices(2101), here.ledger)
    here.settle()


def test_row_21_an_expired_client_certificate(here: Room, hospital: Authority, tmp_path: Path) -> None:
    node, datasets = here.node, slices(2102)
    port = json.loads((node.data / "run" / "settings.json").read_text())["dicom"]["tls"]["port"]
    files = [write_file(dataset, tmp_path / f"{number}.dcm") for number, dataset in enumerate(datasets)]

    def storescu(pair: Pair) -> int:
        own = ("+tls", pair.key, pair.certificate, "+cf", hospital.ca)
        return dcmtk("storescu", *own, "-aec", "FVLM", "127.0.0.1", str(port), *files).returncode

    assert storescu(hospital.issue("expired", days=-1)) != 0
    wait_for(lambda: "TLS_CERTIFICATE_EXPIRED" in node.status(), "the reason in `status`", node)
    assert node.events("association_rejected", reason="TLS_CERTIFICATE_EXPIRED", host="127.0.0.1")
    assert not {str(dataset.SOPInstanceUID) for dataset in datasets} & node.stored().keys()
    assert storescu(hospital.issue("scanner")) == 0
    for dataset in datasets:
        here.ledger.note(dataset, encode(dataset))
    here.settle()


# --- helpers


def _accepted(node: ChaosNode) -> socket.socket | None:
    with suppress(OSError, AssertionError):
        return connect(node)
    return None


def _put(here: Room, pairs: Iterable[tuple[Dataset, bytes]], *syntax: str) -> None:
    """Send these bytes as data sets over one association; all must be acknowledged."""
    with connect(here.node, context(1, CTImageStorage, *syntax)) as connection:
        for dataset, encoded in pairs:
            connection.sendall(store(str(dataset.SOPInstanceUID), encoded))
            assert answer(connection) == SUCCESS
            here.ledger.note(dataset, encoded)


def _with_lying_length(encoded: bytes) -> bytes:
    """Rows (0028,0010) claims to be 65,520 bytes long."""
    at = encoded.index(b"\x28\x00\x10\x00US\x02\x00") + 6
    return encoded[:at] + b"\xf0\xff" + encoded[at + 2 :]


def _bomb(encoded: bytes) -> bytes:
    """A deflated data set that goes on with 256 MiB of zeros."""
    packer = zlib.compressobj(wbits=-15)
    parts = [packer.compress(encoded), *(packer.compress(bytes(2**20)) for _ in range(256)), packer.flush()]
    return b"".join(parts)


def _ended(here: Room, dataset: Dataset) -> bool:
    """The series was refused with a reason, or its instance is listed as unreadable; never read."""
    states = here.node.states(str(dataset.SeriesInstanceUID))
    assert not {"ENCODED", "SENT", "COMMITTED"} & {state for state, _ in states}, states
    if states:
        return states[-1][0] in ("REJECTED", "FAILED") and states[-1][1] is not None
    return str(dataset.SOPInstanceUID) in here.node.status()


def _holds(pid: int) -> tuple[int, int, int]:
    """Threads, resident bytes and descriptors of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.split(":")[0] in ("Threads", "VmRSS")}
    return int(values["Threads"]), int(values["VmRSS"]) * 1024, len(list(Path(f"/proc/{pid}/fd").iterdir()))
