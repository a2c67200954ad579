"""DICOM over TLS as receiver: real peers get in with the right certificate; everybody else is told, noted and shown."""

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from raw_pdu import RELEASE, request
from raw_pdu import store as store_message
from running import wait_for
from spool_data import Receiver, ct_slice, dcmtk, encode, receiver, settings_for, write_file
from sqlalchemy import select
from tls_files import Authority, Pair

from config import Reason, Settings
from config.settings import DicomSettings, ReceiverTls
from node import serve
from node.association import Association
from node.database import Records, open_database
from node.errors import CommandError
from node.intake import Intake
from node.knocks import Knocks
from node.negotiation import Negotiator
from node.records import Instance, Knock
from node.status import status_tables
from node.store_scp import StoreScp
from node.tls import TlsError, readable, server_context

pytestmark = pytest.mark.timeout(900)  # a safety net on a busy machine, not an expectation


@dataclass(frozen=True)
class Files:
    """Certificates of this run."""

    hospital: Authority
    node: Pair
    scanner: Pair
    expired: Pair
    stranger: Pair
    """Of an authority that the node does not know."""
    strange: Authority

    def tls(self, **more: object) -> dict[str, object]:
        own = {"certificate": self.node.certificate, "key": self.node.key, "ca": self.hospital.ca, "port": 0}
        return {**own, **more}

    def client(self, pair: Pair | None = None, authority: Authority | None = None) -> ssl.SSLContext:
        """A client's context, with Python's own sockets."""
        context = ssl.create_default_context(cafile=(authority or self.hospital).ca)
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("certificates")
    hospital, strange = Authority(folder, "hospital"), Authority(folder, "strange")
    pairs = hospital.issue("node"), hospital.issue("scanner"), hospital.issue("old", days=-1)
    return Files(hospital, *pairs, strange.issue("stranger"), strange)


@dataclass(frozen=True)
class Door:
    """A running receiver with a TLS port."""

    running: Receiver
    files: Files

    @property
    def port(self) -> int:
        return int(str(self.running.wait_for("receiver_listening_tls")["port"]))

    @property
    def settings(self) -> Settings:
        return self.running.settings

    def storescu(self, file: Path, pair: Pair | None) -> int:
        """The exit status of dcmtk's storescu, which has this certificate or none."""
        shows = ("+tla",) if pair is None else ("+tls", pair.key, pair.certificate)
        where = ("-aec", "FVLM", "127.0.0.1", str(self.port))
        return dcmtk("storescu", *shows, "+cf", self.files.hospital.ca, *where, file).returncode

    def dial(self, pair: Pair | None, authority: Authority | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return self.files.client(pair, authority).wrap_socket(plain, server_hostname="localhost")

    def knocks(self) -> set[Reason]:
        with Records(open_database(self.settings.database)).reading() as session:
            return {Reason(row.reason) for row in session.scalars(select(Knock)) if row.host == "127.0.0.1"}

    def digests(self) -> dict[str, str]:
        """SOP Instance UID -> SHA-256 of what is indexed."""
        with Records(open_database(self.settings.database)).reading() as session:
            rows = session.execute(select(Instance.sop_instance_uid, Instance.sha256))
            return dict(rows.tuples().all())


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[Door]:
    """With a plain port beside; two processes, places for two."""
    folder = tmp_path_factory.mktemp("tls") / "node"
    settings = settings_for(folder, receivers=2, max_associations=2, network_timeout_s=4.0, tls=files.tls())
    with receiver(settings) as running:
        yield Door(running, files)
        assert running.events("association_failed") == [], "an exception that nobody expected"


# --- who gets in


def test_dcmtk_stores_over_tls_and_over_the_plain_port_beside(door: Door, tmp_path: Path) -> None:
    over_tls, plain = ct_slice(number=1, side=512), ct_slice(number=2)
    assert door.storescu(write_file(over_tls, tmp_path / "1.dcm"), door.files.scanner) == 0
    where = ("-aec", "FVLM", "127.0.0.1", str(door.running.port))
    assert dcmtk("storescu", *where, write_file(plain, tmp_path / "2.dcm")).returncode == 0
    wait_for(lambda: {over_tls.SOPInstanceUID, plain.SOPInstanceUID} <= door.digests().keys(), "indexed")
    assert door.digests()[over_tls.SOPInstanceUID] == hashlib.sha256(encode(over_tls)).hexdigest()


def test_large_images_in_odd_pieces_arrive_whole(door: Door) -> None:
    images = [ct_slice(3, number, side=1024) for number in (1, 2)]
    sent = b"".join(store_message(str(image.SOPInstanceUID), encode(image)) for image in images)
    with door.dial(door.files.scanner) as connection:
        connection.sendall(request())
        assert (read_tls(connection) or (0, b""))[0] == 0x02
        sizes, at = (1, 5, 6, 7, 100, 16_384, 16_385, 50_000, 3), 0
        while at < len(sent):
            size = sizes[at % len(sizes)]
            connection.sendall(sent[at : at + size])
            at += size
        for _ in images:
            got = read_tls(connection)
            assert got is not None
            assert got[0] == 0x04
        connection.sendall(RELEASE)
        assert (read_tls(connection) or (0, b""))[0] == 0x06
    for image in images:
        uid, digest = str(image.SOPInstanceUID), hashlib.sha256(encode(image)).hexdigest()
        wait_for(lambda uid=uid: uid in door.digests(), "indexed")  # type: ignore[misc]
        assert door.digests()[uid] == digest


def read_tls(connection: ssl.SSLSocket) -> tuple[int, bytes] | None:
    """Type and body of the next PDU; None if the peer closed. TLS knows no MSG_WAITALL."""

    def exactly(count: int) -> bytes:
        content = b""
        while len(content) < count and (piece := connection.recv(count - len(content))):
            content += piece
        return content

    head = exactly(6)
    return (head[0], exactly(int.from_bytes(head[2:], "big"))) if len(head) == 6 else None


# --- who does not


def test_row_21_each_refused_certificate_is_told_noted_and_shown(door: Door, tmp_path: Path) -> None:
    file, own = write_file(ct_slice(number=1), tmp_path / "1.dcm"), door.files
    assert door.storescu(file, own.expired) != 0
    assert door.storescu(file, own.stranger) != 0
    assert door.storescu(file, None) != 0
    where = ("-aec", "FVLM", "127.0.0.1", str(door.port))
    assert dcmtk("storescu", *where, file).returncode != 0, "plain DICOM on the TLS port"
    with pytest.raises(ssl.SSLCertVerificationError):
        door.dial(own.scanner, authority=own.strange)
    refused = {
        Reason.TLS_CERTIFICATE_EXPIRED,
        Reason.TLS_CERTIFICATE_UNTRUSTED,
        Reason.TLS_CERTIFICATE_MISSING,
        Reason.TLS_EXPECTED,
        Reason.TLS_CERTIFICATE_REFUSED,
    }
    wait_for(lambda: refused <= door.knocks(), f"who knocked: {door.knocks()}")
    for reason in refused:
        door.running.wait_for("association_rejected", reason=reason, host="127.0.0.1")
    table = status_tables(door.settings, 50)[-1]
    shown = "".join(str(cell) for column in table.columns for cell in column.cells)
    for reason in refused:
        assert f"{reason}: {reason.meaning} → {reason.cure}" in shown


def test_a_version_before_tls_1_2_is_refused(door: Door) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", door.port), timeout=60) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain)
    wait_for(lambda: Reason.TLS_FAILED in door.knocks(), "noted")


def test_who_looks_whether_the_port_is_open_is_no_caller(door: Door) -> None:
    before = len(door.running.events("association_rejected"))
    for _ in range(3):
        socket.create_connection(("127.0.0.1", door.port), timeout=60).close()
    with door.dial(door.files.scanner):
        pass  # from here on the processes have seen them
    assert len(door.running.events("association_rejected")) == before


@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\x16\x03\x01\x40"])
def test_a_silent_client_holds_no_place(door: Door, tmp_path: Path, hello: bytes) -> None:
    """Nothing, half a ClientHello, half a record header; places for two."""
    silent = [socket.create_connection(("127.0.0.1", door.port), timeout=60) for _ in range(2)]
    try:
        for connection in silent:
            connection.sendall(hello)
        for connection in silent:
            while connection.recv(4096):  # until the node closes: its time is over
                pass
    finally:
        for connection in silent:
            connection.close()
    assert door.storescu(write_file(ct_slice(number=1), tmp_path / "1.dcm"), door.files.scanner) == 0


def test_half_a_record_within_an_association_ends_in_time(door: Door) -> None:
    with door.dial(door.files.scanner) as connection:
        connection.sendall(request())
        assert (read_tls(connection) or (0, b""))[0] == 0x02
        socket.socket.send(connection, b"\x17\x03\x03\x40\x00" + bytes(100))  # beside TLS: a record of 16 KiB, cut off
        got = read_tls(connection)
        assert got is None or got[0] == 0x07
    door.running.wait_for("association_aborted", reason=Reason.PEER_SILENT, calling_ae="STORESCU")


def test_rubbish_instead_of_a_record_ends_the_association(door: Door) -> None:
    with door.dial(door.files.scanner) as connection:
        connection.sendall(request())
        assert (read_tls(connection) or (0, b""))[0] == 0x02
        socket.socket.send(connection, bytes(range(256)))
        with suppress(OSError):  # the alert, or the end
            assert read_tls(connection) is None
    door.running.wait_for("association_lost", calling_ae="STORESCU", error="SSLError")


def test_without_mutual_authentication_no_certificate_is_needed(tmp_path: Path, files: Files) -> None:
    """And there is no plain port, if it is not wanted."""
    tls = files.tls(client_certificate=False, ca=None, only=True)
    with receiver(settings_for(tmp_path / "node", receivers=1, tls=tls)) as running:
        door = Door(running, files)
        assert running.port == door.port
        assert running.events("receiver_listening") == []
        assert door.storescu(write_file(ct_slice(), tmp_path / "1.dcm"), None) == 0


# --- parts


def _pair(files: Files) -> tuple[ssl.SSLSocket, socket.socket]:
    """A client over TLS, and the accepted plain socket; its handshake is still to come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=60)
        accepted, _ = listener.accept()
    secured = files.client(files.scanner).wrap_socket(
        client, server_hostname="localhost", do_handshake_on_connect=False
    )
    return secured, accepted


def test_the_node_that_ends_says_so_over_tls(tmp_path: Path, files: Files) -> None:
    dicom = DicomSettings(min_free_mb=0, tls=files.tls())
    client, accepted = _pair(files)
    context = server_context(dicom.tls)
    association = Association(
        accepted, False, dicom, Negotiator(dicom), Intake(tmp_path, 0), lambda _: None, tls=context
    )
    thread = threading.Thread(target=association.run, args=(lambda: None,))
    thread.start()
    with client:
        client.do_handshake()
        client.sendall(request())
        assert (read_tls(client) or (0, b""))[0] == 0x02
        association.end()
        assert read_tls(client) == (0x07, bytes(4)), "A-ABORT by the user, encrypted"
    thread.join(60)
    assert not thread.is_alive()


def test_what_tls_holds_back_is_readable(files: Files) -> None:
    client, accepted = _pair(files)
    served = server_context(ReceiverTls(**files.tls())).wrap_socket(
        accepted, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=served.do_handshake)
    thread.start()
    with client, served:
        client.do_handshake()
        thread.join()
        assert not readable(served, 0.0)
        client.sendall(b"ten bytes.")
        assert readable(served, 60.0)
        assert served.recv(4) == b"ten "
        assert readable(served, 0.0), "decrypted, and no longer in the socket"
        assert served.recv(6) == b"bytes."
        assert not readable(served, 0.0)


def test_files_that_cannot_be_used_are_one_line(tmp_path: Path, files: Files) -> None:
    with_password = tmp_path / "locked.key"
    with_password.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n", encoding="ascii"
    )
    for wrong in ({"certificate": tmp_path / "none.pem"}, {"key": with_password}, {"key": files.scanner.key}):
        dicom = DicomSettings(port=0, tls=files.tls(**wrong))
        with pytest.raises(CommandError, match=r"dicom\.tls: certificate and key cannot be used"):
            serve._usable_doors(dicom)
    dicom = DicomSettings(port=0, tls=files.tls(ca=files.node.key))
    with pytest.raises(TlsError, match="ca cannot be used"):
        StoreScp(dicom, Intake(tmp_path, 0), Knocks()).start()
    doors = serve._usable_doors(DicomSettings(port=0, tls=files.tls()))
    assert 0 not in (doors.port, doors.tls.port)


@pytest.mark.parametrize(
    "tls",
    [
        {"certificate": "a.pem"},
        {"key": "a.key"},
        {"only": True},
        {"certificate": "a.pem", "key": "a.key"},
    ],
)
def test_half_a_setting_is_refused(tls: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ReceiverTls(**tls)
