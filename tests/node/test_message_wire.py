"""Where messages may go and over what: addresses that are checked and pinned, TLS, mail; who is told of failures."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email import message_from_bytes
from email.message import Message as Mail
from email.policy import default
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import hl7
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from hl7.mllp import HL7StreamReader, HL7StreamWriter, start_hl7_server
from message_peers import (
    PLANTED,
    Hl7Peer,
    HttpPeer,
    deliver_all,
    hl7_peer,
    http_peer,
    read_series,
    rows_of,
)
from rows import QUICK, add_job, open_records, settings_for
from sqlalchemy import update
from tls_files import Authority

from config import Reason, Settings
from node import breaker
from node.children import free_port
from node.database import Records
from node.dimse_link import AwayError
from node.messages import failures
from node.messages.guarded_http import Target, allowed, post
from node.records import Breaker, Job, Message, now
from node.states import State

SITE = [ip_network("10.0.0.0/8"), ip_network("fc00::/7")]
SLOW = QUICK.model_copy(update={"retry_first_s": 1000.0, "retry_max_s": 1000.0})


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "hospital")


@pytest.mark.parametrize(
    ("address", "host", "may"),
    [
        ("10.1.2.3", "hook.example.org", True),
        ("fd00::1", "hook.example.org", True),
        ("::ffff:10.1.2.3", "hook.example.org", True),
        ("203.0.113.7", "hook.example.org", False),
        ("127.0.0.1", "hook.example.org", False),
        ("::1", "hook.example.org", False),
        ("::ffff:127.0.0.1", "hook.example.org", False),
        ("169.254.169.254", "hook.example.org", False),
        ("fe80::1", "hook.example.org", False),
        ("0.0.0.0", "hook.example.org", False),
        ("224.0.0.1", "hook.example.org", False),
        ("127.0.0.1", "localhost", True),
        ("10.1.2.3", "localhost", False),
    ],
)
def test_where_a_host_may_be(address: str, host: str, may: bool) -> None:
    assert allowed(ip_address(address), host, SITE) == may


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "0.0.0.0"])
def test_no_list_allows_this_machine_or_its_cloud_under_another_name(address: str) -> None:
    assert not allowed(ip_address(address), "hook.example.org", [ip_network("0.0.0.0/0")])


def _resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Every name resolves to these addresses; the names that were asked for."""
    asked = []

    async def getaddrinfo(_: Any, host: str, port: int, **_more: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["203.0.113.7"]])
def test_a_name_that_leads_where_it_may_not_gets_nothing(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    with http_peer(HttpPeer()) as web:
        _resolving(monkeypatch, *addresses)
        target = Target(f"http://hook.example.org:{web.port}/", SITE)
        with pytest.raises(AwayError) as refused:
            post(target, b"{}", {}, 5.0)
    assert refused.value.outcome.reason is Reason.ADDRESS_NOT_ALLOWED
    assert web.got == []


def test_the_connection_goes_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    """One look-up, and the certificate is still checked for the name."""
    with http_peer(HttpPeer(), authority.issue("web")) as web:
        asked = _resolving(monkeypatch, "127.0.0.1")
        target = Target(f"https://localhost:{web.port}/in?a=1", [], authority.ca)
        assert post(target, b"{}", {"X-What": "that"}, 5.0).status == 204
    assert asked == ["localhost"]
    headers, body = web.got[0]
    assert (headers["host"], headers["x-what"], body) == (f"localhost:{web.port}", "that", b"{}")


def test_a_certificate_of_nobody_known_or_for_another_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    with http_peer(HttpPeer(), authority.issue("other")) as web:
        for target in (
            Target(f"https://localhost:{web.port}/", []),
            Target(f"https://hook.example.org:{web.port}/", [ip_network("127.0.0.0/8")], authority.ca),
        ):
            if "hook" in target.url:
                _resolving(monkeypatch, "127.0.0.1")
                monkeypatch.setattr("node.messages.guarded_http.allowed", lambda *_: True)
            with pytest.raises(AwayError) as refused:
                post(target, b"{}", {}, 5.0)
            assert refused.value.outcome.reason is Reason.TLS_CERTIFICATE_UNTRUSTED
    assert web.got == []


def test_a_service_that_never_ends_its_answer_is_cut_off() -> None:
    with http_peer(HttpPeer(answer=lambda _: (200, b"x" * 2**22))) as web:
        answer = post(Target(f"http://127.0.0.1:{web.port}/", []), b"{}", {}, 5.0)
    assert len(answer.content) == 2**20


@pytest.mark.parametrize("trusted", [True, False])
def test_hl7_over_tls(tmp_path: Path, authority: Authority, trusted: bool) -> None:
    with hl7_peer(Hl7Peer(), authority.issue("ris")) as peer:
        tls = {"ca": str(authority.ca)} if trusted else {}
        ris = {"kind": "hl7", "host": "localhost", "port": peer.port, "tls": tls}
        messages = {"destinations": {"ris": ris}, "results": ["ris"]}
        settings = settings_for(tmp_path / "data", messages=messages, delivery=SLOW)
        records = open_records(settings)
        read_series(records, settings)
        deliver_all(records, settings)
    (row,) = rows_of(records)
    assert len(peer.got) == trusted
    assert row.reason == (None if trusted else Reason.TLS_CERTIFICATE_UNTRUSTED)


def test_another_implementation_of_mllp_takes_it(tmp_path: Path) -> None:
    """The asyncio server of python-hl7, in a thread, acknowledging as that library does."""
    got: list[str] = []
    started, port = threading.Event(), free_port()
    loop = asyncio.new_event_loop()

    async def receive(reader: HL7StreamReader, writer: HL7StreamWriter) -> None:
        message = await reader.readmessage()
        got.append(str(message))
        writer.writemessage(message.create_ack())
        await writer.drain()
        writer.close()

    async def run() -> None:
        await start_hl7_server(receive, "127.0.0.1", port, encoding="utf-8")
        started.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(run()), loop.run_forever()))
    thread.start()
    assert started.wait(30)
    try:
        ris = {"kind": "hl7", "host": "127.0.0.1", "port": port, "level": "patient"}
        settings = settings_for(tmp_path / "data", messages={"destinations": {"ris": ris}, "results": ["ris"]})
        records = open_records(settings)
        read_series(records, settings)
        deliver_all(records, settings)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert rows_of(records)[0].sent_at
    assert [str(hl7.parse(message).segment("PID")(3)) for message in got] == ["PLANTED-ID-7^^^PLANTED-ISSUER"]


class _Postbox:
    """What an SMTP server was given; `status` is its answer to the next mails."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.status = "250 OK"
        self.encrypted: list[bool] = []

    async def handle_DATA(self, _: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        if self.status.startswith("250"):
            self.mails.append(message_from_bytes(bytes(envelope.content or b""), policy=default))
            self.encrypted.append(session.ssl is not None)
        return self.status

    @property
    def everything(self) -> str:
        return "\n".join(mail.as_string() for mail in self.mails)


@contextmanager
def _smtp(postbox: _Postbox, authority: Authority | None) -> Iterator[int]:
    context = None
    if authority is not None:
        pair = authority.issue("mail")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(postbox, "127.0.0.1", port, tls_context=context, require_starttls=context is not None)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


def _mailing(folder: Path, port: int, **more: object) -> Settings:
    mail = {"kind": "mail", "host": "localhost", "port": port, "sender": "node@example.org", "every_min": 60}
    receiver = {**mail, "recipients": ["it@example.org"], **more}
    return settings_for(folder / "data", messages={"destinations": {"it": receiver}}, delivery=SLOW)


def _fail(records: Records, job_id: int, reason: Reason = Reason.OUT_OF_MEMORY) -> None:
    """Half a minute ago, with a detail that quotes what it should not."""
    at = now() - timedelta(seconds=30)
    values = {"state": State.FAILED, "reason": reason, "detail": f"Planted^Patient {PLANTED[0]}", "changed_at": at}
    with records.session() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def _note(records: Records, settings: Settings, later: timedelta = timedelta()) -> int:
    """A look of the reconciler; messages there are now."""
    with records.session() as session:
        failures.note(session, settings, now() + later)
    return len(rows_of(records))


def test_a_failure_is_mailed_once_encrypted_and_without_patient_data(tmp_path: Path, authority: Authority) -> None:
    postbox = _Postbox()
    with _smtp(postbox, authority) as port:
        settings = _mailing(tmp_path, port, ca_file=str(authority.ca))
        records = open_records(settings)
        assert _note(records, settings) == 0
        failed, cancelled = add_job(records, PLANTED[0]), add_job(records, f"{PLANTED[0]}.2")
        _fail(records, failed)
        _fail(records, cancelled, Reason.CANCELLED)
        with records.session() as session:
            breaker.trip(session, "pacs", Reason.PEER_UNREACHABLE, "Planted").since = now() - timedelta(minutes=6)
            breaker.trip(session, "just now", Reason.PEER_UNREACHABLE, "Planted")
        assert _note(records, settings) == 1
        assert _note(records, settings) == 1
        deliver_all(records, settings)
        with records.session() as session:
            breaker.shut(session, "just now")
        assert _note(records, settings, timedelta(hours=2)) == 1  # nothing new, though pacs is still away
    (mail,) = postbox.mails
    assert postbox.encrypted == [True]
    text = mail.get_content()
    assert "1 job(s) FAILED with OUT_OF_MEMORY" in text
    assert f"Jobs {failed}." in text
    assert Reason.OUT_OF_MEMORY.cure in text
    assert "Destination pacs takes nothing since" in text
    assert "just now" not in text
    assert "CANCELLED" not in text
    assert not [planted for planted in PLANTED if planted in postbox.everything]


def test_what_fails_after_a_mail_waits_for_the_next_one_and_comes_in_it(tmp_path: Path) -> None:
    postbox = _Postbox()
    with _smtp(postbox, None) as port:
        settings = _mailing(tmp_path, port, starttls=False)
        records = open_records(settings)
        _fail(records, add_job(records, "2.25.1"))
        _note(records, settings)
        postbox.status = "451 later"
        deliver_all(records, settings)
        _fail(records, second := add_job(records, "2.25.2"))
        with records.session() as session:
            session.execute(update(Job).where(Job.id == second).values(changed_at=now() + timedelta(seconds=5)))
        assert _note(records, settings, timedelta(hours=5)) == 1  # the first one is still under way
        postbox.status = "250 OK"
        with records.session() as session:
            session.execute(update(Message).values(due_at=now()))
        deliver_all(records, settings)
        assert _note(records, settings, timedelta(minutes=59)) == 1
        assert _note(records, settings, timedelta(minutes=61)) == 2
        deliver_all(records, settings)
    assert [f"Jobs {n}." in mail.get_content() for mail, n in zip(postbox.mails, (1, 2), strict=True)] == [True, True]
    assert "Jobs 1." not in postbox.mails[1].get_content()
    assert postbox.mails[0]["Message-ID"] != postbox.mails[1]["Message-ID"]


@pytest.mark.parametrize(
    ("answer", "reason", "away"), [("554 no", "SMTP 554", False), ("451 later", "SMTP 451", False)]
)
def test_what_a_mail_server_says_is_heard(tmp_path: Path, answer: str, reason: str, away: bool) -> None:
    postbox = _Postbox()
    postbox.status = answer
    with _smtp(postbox, None) as port:
        settings = _mailing(tmp_path, port, starttls=False)
        records = open_records(settings)
        _fail(records, add_job(records))
        _note(records, settings)
        deliver_all(records, settings)
    (row,) = rows_of(records)
    assert row.refused == answer.startswith("5")
    assert reason in row.detail
    with records.reading() as session:
        assert (session.get(Breaker, "it") is not None) == away


def test_without_encryption_nothing_is_mailed_where_it_is_wanted(tmp_path: Path, authority: Authority) -> None:
    postbox = _Postbox()
    with _smtp(postbox, None) as port:
        settings = _mailing(tmp_path, port)
        records = open_records(settings)
        _fail(records, add_job(records))
        _note(records, settings)
        deliver_all(records, settings)
    assert postbox.mails == []
    assert rows_of(records)[0].reason == Reason.TLS_EXPECTED
    with _smtp(postbox, authority) as port:
        settings = _mailing(tmp_path, port)  # of an authority that is not known
        with records.session() as session:
            session.execute(update(Message).values(due_at=now()))
            session.execute(update(Breaker).values(next_attempt_at=now()))
        deliver_all(records, settings)
    assert postbox.mails == []
    assert rows_of(records)[0].reason == Reason.TLS_CERTIFICATE_UNTRUSTED
