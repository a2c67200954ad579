"""TLS with peers that the node calls, over DICOM and HTTPS: the right certificate, and wrong ones."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom import dcmread
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from rows import settings_for, small_object
from running import wait_for
from spool_data import ct_slice, dcmtk, write_file
from tls_files import Authority, Pair

from config import Reason, Settings
from config.settings import Destination, PeerTls, ReceiverTls, Source, WebDestination
from node.certificates import expiries
from node.dimse_link import AwayError, DimseLink
from node.doctor import _certificate, _certificates, _destination
from node.outbox import Fate
from node.source_count import NoCountError, ask
from node.web_link import WebLink

pytestmark = pytest.mark.timeout(900)  # a safety net on a busy machine, not an expectation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module")
def hospital(folder: Path) -> Authority:
    return Authority(folder, "hospital")


@pytest.fixture(scope="module")
def strange(folder: Path) -> Authority:
    return Authority(folder, "strange")


@pytest.fixture(scope="module")
def node(hospital: Authority) -> Pair:
    return hospital.issue("node")


@pytest.fixture(scope="module")
def pacs(hospital: Authority) -> Pair:
    return hospital.issue("pacs")


@pytest.fixture(scope="module")
def image(folder: Path) -> Path:
    return write_file(ct_slice(side=256), folder / "image.dcm")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def storescp(folder: Path, hospital: Authority, pacs: Pair) -> Iterator[int]:
    """dcmtk's storescp over TLS, which insists on a certificate of the hospital; its port."""
    port, received = _free_port(), folder / "received"
    received.mkdir()
    command = ["storescp", "+tls", pacs.key, pacs.certificate, "+cf", hospital.ca, "-rc", "-od", received, str(port)]
    process = subprocess.Popen([str(part) for part in command])
    try:
        own = ("+tls", pacs.key, pacs.certificate, "+cf", hospital.ca)
        wait_for(lambda: dcmtk("echoscu", *own, "127.0.0.1", str(port)).returncode == 0, "storescp listens")
        yield port
    finally:
        process.kill()
        process.wait()


def _away(port: int, tls: PeerTls | None) -> Reason:
    """Why nothing can be sent."""
    destination = Destination(ae_title="PACS", host="127.0.0.1", port=port, tls=tls)
    with pytest.raises(AwayError) as raised:
        _send(destination)
    assert str(raised.value)
    return raised.value.outcome.reason or Reason.INTERNAL


def _send(destination: Destination, file: Path | None = None) -> Fate:
    with DimseLink(destination, [CTImageStorage], "FVLM", 30.0) as link:
        if file is None:  # with TLS 1.3 the peer's refusal may come after the handshake
            return link.store(Path("nothing"), CTImageStorage).fate
        return link.store(file, CTImageStorage).fate


def test_results_go_to_dcmtk_over_tls(
    storescp: int, folder: Path, hospital: Authority, node: Pair, image: Path
) -> None:
    tls = PeerTls(ca=hospital.ca, certificate=node.certificate, key=node.key)
    destination = Destination(ae_title="PACS", host="127.0.0.1", port=storescp, tls=tls)
    assert _send(destination, image) == Fate.STORED
    (received,) = (folder / "received").iterdir()
    assert dcmread(received).PixelData == dcmread(image).PixelData
    settings = settings_for(folder / "node")
    assert _destination("pacs", destination, settings).ok
    nameless = tls.model_copy(update={"ca": None, "verify": False})
    assert _send(destination.model_copy(update={"tls": nameless}), image) == Fate.STORED


def test_a_peer_that_is_not_what_it_should_be_gets_nothing(
    storescp: int, folder: Path, hospital: Authority, strange: Authority, node: Pair
) -> None:
    own = {"certificate": node.certificate, "key": node.key}
    assert _away(storescp, PeerTls(ca=strange.ca, **own)) == Reason.TLS_CERTIFICATE_UNTRUSTED
    assert _away(storescp, PeerTls(ca=hospital.ca, name="other.example.org", **own)) == Reason.TLS_CERTIFICATE_UNTRUSTED
    assert _away(storescp, PeerTls(**own)) == Reason.TLS_CERTIFICATE_UNTRUSTED, "no public authority signed it"
    assert _away(storescp, PeerTls(ca=folder / "none.pem", **own)) == Reason.INTERNAL
    destination = Destination(ae_title="PACS", host="127.0.0.1", port=storescp, tls=PeerTls(ca=strange.ca, **own))
    check = _destination("pacs", destination, settings_for(folder / "node"))
    assert (check.ok, check.cure) == (False, Reason.TLS_CERTIFICATE_UNTRUSTED.cure)


def test_a_peer_says_that_it_does_not_take_the_nodes_certificate(
    storescp: int, hospital: Authority, strange: Authority
) -> None:
    for pair in (hospital.issue("old", days=-1), strange.issue("node")):
        tls = PeerTls(ca=hospital.ca, certificate=pair.certificate, key=pair.key)
        assert _away(storescp, tls) == Reason.TLS_CERTIFICATE_REFUSED


@contextmanager
def peer(pair: Pair | None, *handlers: Any) -> Iterator[int]:
    """A pynetdicom SCP, over TLS if it has a certificate; its port."""
    ae = AE(ae_title="PACS")
    ae.add_supported_context(CTImageStorage)
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    context = None
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers), ssl_context=context)
    assert server is not None
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()


def test_a_peer_whose_certificate_has_expired_gets_nothing(hospital: Authority) -> None:
    with peer(hospital.issue("expired", days=-1)) as port:
        assert _away(port, PeerTls(ca=hospital.ca)) == Reason.TLS_CERTIFICATE_EXPIRED


def test_a_peer_without_tls_gets_nothing(hospital: Authority) -> None:
    with peer(None) as port:
        assert _away(port, PeerTls(ca=hospital.ca)) in (Reason.TLS_EXPECTED, Reason.PEER_UNREACHABLE)


def test_a_source_is_asked_over_tls(tmp_path: Path, hospital: Authority, strange: Authority, pacs: Pair) -> None:
    def found(event: evt.Event) -> Iterator[tuple[int, Any]]:
        answer = event.identifier
        answer.NumberOfSeriesRelatedInstances = 24
        yield 0xFF00, answer

    with peer(pacs, (evt.EVT_C_FIND, found)) as port:
        source = Source(ae_title="PACS", host="127.0.0.1", port=port, find=True, tls=PeerTls(ca=hospital.ca))
        settings = Settings(data_dir=tmp_path, sources={"pacs": source})
        assert ask(settings, source, "1.2.3", "1.2.3.4") == 24
        for tls in (PeerTls(ca=strange.ca), PeerTls(ca=tmp_path / "none.pem")):
            with pytest.raises(NoCountError):
                ask(settings, source.model_copy(update={"tls": tls}), "1.2.3", "1.2.3.4")


# --- STOW-RS


class _Service(BaseHTTPRequestHandler):
    """Stores everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        uid = self.server.uid  # type: ignore[attr-defined]
        body = f'{{"00081199": {{"vr": "SQ", "Value": [{{"00081155": {{"vr": "UI", "Value": ["{uid}"]}}}}]}}}}'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def https(pair: Pair, uid: str) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    server.uid = uid  # type: ignore[attr-defined]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_stow_over_https_with_a_private_authority(
    tmp_path: Path, hospital: Authority, strange: Authority, pacs: Pair
) -> None:
    result = small_object("SR", "2.25.7")
    file = tmp_path / "sr.dcm"
    result.save_as(file, enforce_file_format=True)
    with https(pacs, "2.25.7") as url:
        for ca, fate, reason in (
            (hospital.ca, Fate.STORED, None),
            (strange.ca, Fate.AWAY, Reason.TLS_CERTIFICATE_UNTRUSTED),
            (None, Fate.AWAY, Reason.TLS_CERTIFICATE_UNTRUSTED),
        ):
            with WebLink(WebDestination(stow_url=url, ca_file=ca), 30.0) as link:
                outcome = link.store(file, result.SOPClassUID)
            assert (outcome.fate, outcome.reason) == (fate, reason)


# --- certificates that end


def test_doctor_names_certificates_that_end_within_30_days(tmp_path: Path, hospital: Authority) -> None:
    soon, over = hospital.issue("soon", days=29), hospital.issue("over", days=-1)
    settings = Settings(
        data_dir=tmp_path,
        dicom={"tls": ReceiverTls(certificate=soon.certificate, key=soon.key, ca=hospital.ca)},
        sources={"ct": Source(ae_title="CT", tls=PeerTls(certificate=over.certificate, key=over.key))},
        destinations={
            "pacs": Destination(ae_title="PACS", host="h", port=104, tls=PeerTls(ca=tmp_path / "none.pem")),
            "web": WebDestination(stow_url="https://h/x", ca_file=hospital.ca),
            "plain": Destination(ae_title="PACS", host="h", port=104),
        },
    )
    checks = {where: _certificate(where, file) for where, file in _certificates(settings)}
    assert {where: check.ok for where, check in checks.items()} == {
        "dicom.tls.certificate": False,
        "dicom.tls.ca": True,
        "sources.ct.tls.certificate": False,
        "destinations.pacs.tls.ca": False,
        "destinations.web.ca_file": True,
    }
    assert "is good for 28 days" in checks["dicom.tls.certificate"].found
    assert "has expired" in checks["sources.ct.tls.certificate"].found
    assert "FileNotFoundError" in checks["destinations.pacs.tls.ca"].found


def test_when_certificates_end_is_read_as_openssl_says(tmp_path: Path, hospital: Authority, pacs: Pair) -> None:
    """Also of several in a file, and after 2049, where the time is written in another way."""
    late = hospital.issue("late", days=40 * 365)
    both = tmp_path / "both.pem"
    both.write_text(pacs.certificate.read_text() + "\n" + late.certificate.read_text())
    told = []
    for pair in (pacs, late):
        command = ["openssl", "x509", "-in", str(pair.certificate), "-noout", "-enddate"]
        line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        told.append(datetime.strptime(line, "notAfter=%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC))
    assert expiries(both) == told
    assert told[1].year > 2049
    assert told[0] - datetime.now(UTC) > timedelta(days=360)


@pytest.mark.parametrize(
    "content",
    ["", "no certificate", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "\u00e9"],
)
def test_what_is_no_certificate_is_a_value_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.pem"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r".+"):
        expiries(file)


@pytest.mark.parametrize(
    "tls",
    [{"certificate": "a.pem"}, {"key": "a.key"}, {"verify": False, "ca": "a.pem"}, {"verify": False, "name": "x"}],
)
def test_half_a_setting_is_refused(tls: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PeerTls(**tls)
