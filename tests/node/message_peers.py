"""Receivers of messages for tests: real servers on free loopback ports that keep what they get and answer as told."""

import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hl7
from fake_pipeline import FakePipeline
from rows import add_job
from tls_files import Pair

from config import Settings
from node.database import Records
from node.jobs import Analyst
from node.messages.messenger import Messenger
from node.records import Message, Series

SERIES, STUDY, PATIENT, ACCESSION = "2.25.471147114711", "2.25.815815815815", "PLANTED-ID-7", "PLANTED-ACC"
PLANTED = (SERIES, STUDY, PATIENT, ACCESSION, "Planted", "PLANTED-ISSUER")


class PlantedPipeline(FakePipeline):
    """Its objects name a patient."""

    def run(self, *arguments: Any, **more: Any) -> Any:
        analysis = super().run(*arguments, **more)
        for made in analysis.objects:
            made.PatientID, made.AccessionNumber, made.IssuerOfPatientID = PATIENT, ACCESSION, "PLANTED-ISSUER"
        return analysis


def read_series(records: Records, settings: Settings, series: str = SERIES, generation: int = 1) -> int:
    """A job whose result is there, with the messages about it; its id."""
    job_id = add_job(records, series, generation=generation)
    with records.session() as session:
        session.query(Series).filter_by(series_instance_uid=series).update({"study_instance_uid": STUDY})
    Analyst(records, settings, PlantedPipeline(settings), "w").analyze(job_id)
    return job_id


def rows_of(records: Records) -> list[Message]:
    with records.reading() as session:
        return list(session.query(Message).order_by(Message.id))


def deliver_all(records: Records, settings: Settings, messenger: Messenger | None = None) -> None:
    """What is due is sent, to each destination."""
    messenger = messenger or Messenger(records, settings)
    for row in {row.destination: row for row in rows_of(records)}.values():
        messenger.deliver(row.id)


@dataclass
class HttpPeer:
    """Keeps each POST; `answer` makes status and body of the next ones."""

    answer: Callable[[bytes], tuple[int, bytes]] = lambda _: (204, b"")
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    port: int = 0
    location: str = ""

    @property
    def everything(self) -> str:
        return "\n".join(f"{headers}\n{body.decode()}" for headers, body in self.got)


@contextmanager
def http_peer(peer: HttpPeer, pair: Pair | None = None) -> Iterator[HttpPeer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            peer.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            status, content = peer.answer(body)
            self.send_response(status)
            if peer.location:
                self.send_header("Location", peer.location)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    peer.port = server.server_port
    with _serving(server):
        yield peer


@dataclass
class FhirPeer(HttpPeer):
    """Does what a transaction asks for: keeps each resource under its address."""

    resources: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.answer = self._take

    def _take(self, body: bytes) -> tuple[int, bytes]:
        entries = json.loads(body)["entry"]
        for entry in entries:
            assert entry["request"]["method"] == "PUT"
            self.resources[entry["request"]["url"]] = entry["resource"]
        told = [{"response": {"status": "200 OK"}} for _ in entries]
        return 200, json.dumps({"resourceType": "Bundle", "type": "transaction-response", "entry": told}).encode()


@dataclass
class Hl7Peer:
    """Keeps each message; `script` names how the next ones are answered: AA, AE, AE207, AR, or a misbehaviour."""

    script: list[str] = field(default_factory=lambda: ["AA"])
    got: list[str] = field(default_factory=list)
    port: int = 0
    silent: threading.Event = field(default_factory=threading.Event)
    """Ends a silence."""

    def answer(self, message: str) -> bytes | None:
        """The bytes to send; None: nothing, and the connection stays open."""
        how = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if how == "junk":
            return b"HTTP/1.1 400 Bad Request\r\n\r\n\x1c\r"
        if how == "empty":
            return b"\x0b\x1c\r"
        if how == "nothing":
            return None
        control = "X" * 20 if how == "other" else str(hl7.parse(message).segment("MSH")(10))
        code = how[:2] if how[:2] in ("AA", "AE", "AR") else "AA"
        error = f"ERR|||{how[2:]}^text^HL70357|E|||Planted text\r" if how[2:].isdecimal() else ""
        text = f"MSH|^~\\&|RIS||FVLM||20260101||ACK^R01^ACK|1|P|2.5.1\rMSA|{code}|{control}\r{error}"
        whole = b"\x0b" + text.encode() + b"\x1c\r"
        return whole[: len(whole) // 2] if how == "half" else whole


@contextmanager
def hl7_peer(peer: Hl7Peer, pair: Pair | None = None) -> Iterator[Hl7Peer]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            content = b""
            while not content.endswith(b"\x1c\r"):
                chunk = self.request.recv(65536)
                if not chunk:
                    return
                content += chunk
            message = content.strip(b"\x0b\x1c\r").decode()
            peer.got.append(message)
            answer = peer.answer(message)
            if answer is None:
                peer.silent.wait(60)
            else:
                self.request.sendall(answer)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    server = Server(("127.0.0.1", peer.port), Handler)
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    peer.port = server.server_address[1]
    try:
        with _serving(server):
            yield peer
    finally:
        peer.silent.set()


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def secret_file(folder: Path, content: str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") -> str:
    """As the settings name it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "hook-secret"
    file.write_text(content)
    return f"file:{file}"
