"""Messages: written with the result, sent until they arrive, under one id, and no more in them than was allowed."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from console_bench import ConsoleBench, console_settings
from fake_pipeline import FakePipeline
from message_peers import (
    ACCESSION,
    PATIENT,
    PLANTED,
    SERIES,
    STUDY,
    FhirPeer,
    Hl7Peer,
    HttpPeer,
    deliver_all,
    hl7_peer,
    http_peer,
    read_series,
    rows_of,
    secret_file,
)
from postgres import running_postgres
from prometheus_client.parser import text_string_to_metric_families
from rows import QUICK, job, open_records, settings_for
from running import Processes, running_broker, wait_for
from sqlalchemy import update
from standardwebhooks.webhooks import Webhook

from config import Reason, Settings
from config.message_settings import Level
from node import breaker, outbox
from node.bell import bell_file
from node.children import free_port
from node.database import Records
from node.job_control import rerun
from node.jobs import Analyst
from node.messages import failures, rows
from node.messages.messenger import Messenger
from node.messages.probe import probe
from node.metrics import exposition
from node.outbox import Fate
from node.reconciler import Reconciler
from node.records import Breaker, Job, Message, now
from node.retry import retry
from node.states import State
from node.status import status_tables
from node.tasks import MESSAGES, Dispatcher, make_app

SLOW = QUICK.model_copy(update={"retry_first_s": 1000.0, "retry_max_s": 1000.0})
IMPATIENT = QUICK.model_copy(update={"timeout_s": 0.3})


def settings_with(folder: Path, *peers: dict[str, Any], urgent: float = 0.0, **more: object) -> Settings:
    """Settings whose message destinations are named after their kind; each gets results."""
    named = {peer["kind"]: peer for peer in peers}
    messages: dict[str, Any] = {"destinations": named, "results": list(named)}
    if urgent:
        messages["urgent"] = {"findings": {"lung.nodule": urgent}, "destinations": list(named)}
    return settings_for(folder / "data", messages=messages, **more)


def hook(folder: Path, peer: HttpPeer, **more: object) -> dict[str, Any]:
    return {"kind": "webhook", "url": f"http://127.0.0.1:{peer.port}/in", "secret": secret_file(folder), **more}


def ris(peer: Hl7Peer, **more: object) -> dict[str, Any]:
    return {"kind": "hl7", "host": "127.0.0.1", "port": peer.port, **more}


def all_due(records: Records) -> None:
    """The time that waiting messages and open breakers wait for has come."""
    with records.session() as session:
        session.execute(update(Message).where(Message.sent_at.is_(None)).values(due_at=now()))
        session.execute(update(Breaker).values(next_attempt_at=now()))


def only_row(records: Records) -> Message:
    (row,) = rows_of(records)
    return row


def test_nothing_is_said_until_the_settings_name_somebody(tmp_path: Path) -> None:
    with http_peer(HttpPeer()) as peer:
        quiet = {"destinations": {"webhook": hook(tmp_path, peer)}}
        settings = settings_for(tmp_path / "data", messages=quiet)
        records = open_records(settings)
        read_series(records, settings)
        assert rows_of(records) == []
    assert peer.got == []


def test_nothing_planted_leaves_at_level_none(tmp_path: Path) -> None:
    with http_peer(HttpPeer()) as web, http_peer(FhirPeer()) as server, hl7_peer(Hl7Peer()) as peer:
        fhir = {"kind": "fhir", "base_url": f"http://127.0.0.1:{server.port}/r4"}
        settings = settings_with(tmp_path, hook(tmp_path, web), ris(peer), fhir, urgent=0.7)
        records = open_records(settings)
        read_series(records, settings)
        assert not any(planted in json.dumps(row.content) for row in rows_of(records) for planted in PLANTED)
        deliver_all(records, settings)
    assert all(row.sent_at and row.attempts == 1 for row in rows_of(records))
    received = "\n".join([web.everything, server.everything, *peer.got])
    assert (len(web.got), len(server.got), len(peer.got)) == (2, 2, 2)
    assert received.count("TEST MODEL") >= 6
    assert "lung.nodule" in received
    assert not [planted for planted in PLANTED if planted in received]


@pytest.mark.parametrize(("level", "patient"), [(Level.IDENTIFIERS, False), (Level.PATIENT, True)])
def test_each_level_lets_out_what_it_says_and_the_row_forgets_it(tmp_path: Path, level: Level, patient: bool) -> None:
    with http_peer(HttpPeer()) as web, hl7_peer(Hl7Peer()) as peer:
        settings = settings_with(tmp_path, hook(tmp_path, web, level=level), ris(peer, level=level))
        records = open_records(settings)
        read_series(records, settings)
        deliver_all(records, settings)
    for received in (web.everything, peer.got[0]):
        assert all(planted in received for planted in (SERIES, STUDY, ACCESSION))
        assert (PATIENT in received) == patient
        assert "Planted" not in received
    assert {json.dumps(row.content) for row in rows_of(records)} == {"{}"}


def test_a_level_that_was_lowered_counts_for_what_waits(tmp_path: Path) -> None:
    with http_peer(HttpPeer()) as web:
        settings = settings_with(tmp_path, hook(tmp_path, web, level="patient"))
        records = open_records(settings)
        read_series(records, settings)
        assert PATIENT in json.dumps(only_row(records).content)
        deliver_all(records, settings_with(tmp_path, hook(tmp_path, web)))
    assert len(web.got) == 1
    assert not [planted for planted in PLANTED if planted in web.everything]


def test_a_webhook_is_signed_and_keeps_its_id(tmp_path: Path) -> None:
    with http_peer(HttpPeer(answer=lambda _: (503, b""))) as web:
        settings = settings_with(tmp_path, hook(tmp_path, web))
        records = open_records(settings)
        read_series(records, settings)
        deliver_all(records, settings)
        web.answer = lambda _: (200, b"")
        all_due(records)
        deliver_all(records, settings)
    secret = (tmp_path / "hook-secret").read_text()
    told = [Webhook(secret).verify(body, headers) for headers, body in web.got]
    assert [headers["webhook-id"] for headers, _ in web.got] == [told[0]["id"]] * 2
    assert told[0] == told[1]
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(secret).verify(web.got[0][1].replace(b"nodule", b"mass"), web.got[0][0])


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (200, "sent"),
        (204, "sent"),
        (302, "away"),
        (401, "away"),
        (404, "away"),
        (413, "refused"),
        (422, "refused"),
        (429, "away"),
        (500, "waits"),
        (503, "away"),
    ],
)
def test_what_an_http_status_means(tmp_path: Path, status: int, fate: str) -> None:
    with http_peer(HttpPeer(answer=lambda _: (status, b"Planted text"))) as web, http_peer(HttpPeer()) as elsewhere:
        web.location = f"http://127.0.0.1:{elsewhere.port}/" if status == 302 else ""
        settings = settings_with(tmp_path, hook(tmp_path, web), delivery=SLOW)
        records = open_records(settings)
        read_series(records, settings)
        deliver_all(records, settings)
    _assert_fate(records, fate)
    assert elsewhere.got == []
    row = only_row(records)
    assert "Planted" not in row.detail
    assert (str(status) in row.detail) == (fate != "sent")


def _assert_fate(records: Records, fate: str) -> None:
    """How the only message stands, its job untouched."""
    row = only_row(records)
    with records.reading() as session:
        shut = session.get(Breaker, row.destination)
        assert session.get_one(Job, row.job_id).state == State.SENT
    told = "sent" if row.sent_at else "refused" if row.refused else "away" if shut else "waits"
    assert told == fate
    assert (row.reason is None) == (fate == "sent")
    if fate in ("waits", "away"):
        assert row.due_at > now()


@pytest.mark.parametrize(
    ("answer", "fate", "detail"),
    [
        ("AA", "sent", ""),
        ("AE102", "refused", "HL7 acknowledgement AE, error 102"),
        ("AE207", "waits", "HL7 acknowledgement AE, error 207"),
        ("AR", "away", "HL7 acknowledgement AR"),
        ("nothing", "away", "did not acknowledge in time"),
        ("half", "away", "whole acknowledgement"),
        ("empty", "away", "whole acknowledgement"),
        ("junk", "away", "whole acknowledgement"),
        ("other", "away", "another message"),
    ],
)
def test_what_an_acknowledgement_means(tmp_path: Path, answer: str, fate: str, detail: str) -> None:
    with hl7_peer(Hl7Peer([answer])) as peer:
        delivery = SLOW.model_copy(update={"timeout_s": 0.3 if answer == "nothing" else 5.0})
        settings = settings_with(tmp_path, ris(peer), delivery=delivery)
        records = open_records(settings)
        read_series(records, settings)
        deliver_all(records, settings)
    _assert_fate(records, fate)
    assert detail in only_row(records).detail
    assert "Planted" not in only_row(records).detail
    assert len(peer.got) == 1


def test_whatever_happens_on_the_way_the_same_message_arrives_in_the_end(tmp_path: Path) -> None:
    script = ["nothing", "half", "AR", "AE207", "other", "AA"]
    with hl7_peer(Hl7Peer(list(script))) as peer:
        settings = settings_with(tmp_path, ris(peer), delivery=IMPATIENT)
        records = open_records(settings)
        read_series(records, settings)
        messenger = Messenger(records, settings)
        for _ in script:
            all_due(records)
            deliver_all(records, settings, messenger)
        all_due(records)
        deliver_all(records, settings, messenger)
    assert only_row(records).sent_at
    assert len(peer.got) == len(script)
    assert len(set(peer.got)) == 1  # byte for byte, MSH-10 too


def test_an_absent_receiver_opens_its_breaker_and_holds_up_nobody_else(tmp_path: Path) -> None:
    with http_peer(HttpPeer()) as web:
        settings = settings_with(tmp_path, hook(tmp_path, web), ris(Hl7Peer(port=free_port())), delivery=SLOW)
        records = open_records(settings)
        jobs = [read_series(records, settings, f"{SERIES}.{n}") for n in (1, 2)]
        deliver_all(records, settings)
        with records.reading() as session:
            shut = session.get_one(Breaker, "hl7")
            assert (breaker.state(shut), shut.reason) == ("open", Reason.PEER_UNREACHABLE)
            assert rows.due_by_destination(session) == {}
            assert rows.waiting(session) == {"hl7": 2}
        assert len(web.got) == 2
        assert {job(records, each).state for each in jobs} == {State.SENT}
        port = settings.messages.destinations["hl7"].port
        with hl7_peer(Hl7Peer(port=port)) as peer:
            all_due(records)
            deliver_all(records, settings)
        assert len(peer.got) == 2
    with records.reading() as session:
        assert session.get(Breaker, "hl7") is None


def test_a_fhir_server_that_gets_it_twice_has_it_once(tmp_path: Path) -> None:
    """A worker dies after the answer, before it is written down: its claim is given up, the message sent again."""
    with http_peer(FhirPeer()) as server:
        fhir = {"kind": "fhir", "base_url": f"http://127.0.0.1:{server.port}/r4/", "level": "identifiers"}
        settings = settings_with(tmp_path, fhir)
        records = open_records(settings)
        read_series(records, settings)
        (row,) = rows_of(records)
        with records.session() as session:
            (item,) = rows.due(session, "fhir")
            assert outbox.claim(session, row.id, 1000.0, Message)
        lost = Messenger(records, settings)
        assert lost._send(settings.messages.destinations["fhir"], item).fate is Fate.STORED
        first = dict(server.resources)
        deliver_all(records, settings)
        assert len(server.got) == 1  # somebody has it
        again = Messenger(records, settings)
        again.recover()
        deliver_all(records, settings, again)
    assert len(server.got) == 2
    assert server.resources == first
    assert only_row(records).sent_at
    assert STUDY in server.everything


def test_a_fhir_proxy_that_says_200_has_taken_nothing(tmp_path: Path) -> None:
    with http_peer(HttpPeer(answer=lambda _: (200, b"<html>Sign in</html>"))) as web:
        fhir = {"kind": "fhir", "base_url": f"http://127.0.0.1:{web.port}/r4"}
        settings = settings_with(tmp_path, fhir, delivery=SLOW)
        records = open_records(settings)
        read_series(records, settings)
        deliver_all(records, settings)
    _assert_fate(records, "away")
    assert only_row(records).reason == Reason.PROTOCOL_ERROR


def test_who_issues_messages_is_woken_at_once(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, ris(Hl7Peer(port=free_port())), urgent=0.5)
    records = open_records(settings)
    settings.spool_dir.mkdir()
    assert not bell_file(settings.spool_dir).exists()
    read_series(records, settings)
    assert bell_file(settings.spool_dir).exists()


@pytest.mark.parametrize(("threshold", "urgent"), [(0.75, True), (0.76, False)])
def test_an_urgent_finding_goes_first_to_whom_it_was_named(tmp_path: Path, threshold: float, urgent: bool) -> None:
    with hl7_peer(Hl7Peer()) as peer:
        settings = settings_with(tmp_path, ris(peer), urgent=threshold)
        records = open_records(settings)
        read_series(records, settings)
        deliver_all(records, settings)
    assert ["\rTQ1|1||||||||S" in message for message in peer.got] == ([True, False] if urgent else [False])
    assert ["|AA|" in message for message in peer.got] == [urgent] * len(peer.got)
    ids = {message.split("|")[9] for message in peer.got}
    assert len(ids) == len(peer.got)


@pytest.mark.peers
def test_all_of_it_on_postgresql(tmp_path: Path) -> None:
    with running_postgres() as url, http_peer(HttpPeer()) as web, hl7_peer(Hl7Peer(["AE207", "AA"])) as peer:
        settings = settings_with(tmp_path, hook(tmp_path, web), ris(peer), urgent=0.7, database_url=url)
        records = open_records(settings)
        job_id = read_series(records, settings)
        messenger = Messenger(records, settings)
        for _ in range(2):
            all_due(records)
            deliver_all(records, settings, messenger)
        assert all(row.sent_at for row in rows_of(records))
        assert (len(web.got), len(peer.got)) == (2, 3)
        with records.session() as session:
            failures.note(session, settings, now())
            assert rows.abandon(session, settings) == []
            assert rows.waiting(session) == rows.due_by_destination(session) == {}
            rows.forget(session, job_id)
        assert "hl7" in _text(status_tables(settings, 10)[1])
        records.engine.dispose()


def test_a_newer_generation_speaks_in_the_place_of_the_older(tmp_path: Path) -> None:
    with http_peer(HttpPeer()) as web, http_peer(FhirPeer()) as server:
        fhir = {"kind": "fhir", "base_url": f"http://127.0.0.1:{server.port}/r4"}
        settings = settings_with(tmp_path, hook(tmp_path, web), fhir)
        records = open_records(settings)
        old = read_series(records, settings)
        deliver_all(records, settings)
        kept = set(server.resources)
        with records.session() as session:
            session.execute(update(Job).where(Job.id == old).values(state=State.SUPERSEDED))
        read_series(records, settings, generation=2)
        deliver_all(records, settings)
    assert set(server.resources) == kept
    ids = {headers["webhook-id"] for headers, _ in web.got}
    assert len(ids) == len(web.got) == 2


def test_a_superseded_result_says_nothing_more(tmp_path: Path) -> None:
    with http_peer(HttpPeer()) as web:
        settings = settings_with(tmp_path, hook(tmp_path, web))
        records = open_records(settings)
        job_id = read_series(records, settings)
        with records.session() as session:
            session.execute(update(Job).where(Job.id == job_id).values(state=State.SUPERSEDED))
        deliver_all(records, settings)
        with records.reading() as session:
            assert rows.due_by_destination(session) == {}
    assert web.got == []


def test_a_result_that_is_not_written_down_is_not_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction: the job is encoded and there is a message, or neither."""
    settings = settings_with(tmp_path, ris(Hl7Peer(port=free_port())))
    records = open_records(settings)

    def dies(session: Any, *_: Any) -> None:
        assert session.query(Message).count() == 1
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("node.jobs.outbox.settle", dies)
        job_id = read_series(records, settings)
    assert rows_of(records) == []
    assert job(records, job_id).state == State.QUEUED
    Analyst(records, settings, FakePipeline(settings), "w").analyze(job_id)
    assert only_row(records).job_id == job_id


def test_a_second_attempt_at_a_job_says_nothing_twice(tmp_path: Path) -> None:
    with http_peer(HttpPeer()) as web:
        settings = settings_with(tmp_path, hook(tmp_path, web))
        records = open_records(settings)
        job_id = read_series(records, settings)
        deliver_all(records, settings)
        with records.session() as session:
            session.execute(update(Job).where(Job.id == job_id).values(state=State.QUEUED))
        Analyst(records, settings, FakePipeline(settings), "w").analyze(job_id)
        deliver_all(records, settings)
    assert len(web.got) == 1
    assert len(rows_of(records)) == 1


def test_who_has_a_series_read_again_has_it_said_again_under_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_peer(HttpPeer()) as web:
        settings = settings_with(tmp_path, hook(tmp_path, web))
        records = open_records(settings)
        job_id = read_series(records, settings)
        deliver_all(records, settings)
        monkeypatch.setattr("node.job_control.require_images", lambda *_: None)  # the test has no images
        rerun(records, settings, str(job_id))
        Analyst(records, settings, FakePipeline(settings), "w").analyze(job_id)
        deliver_all(records, settings)
    assert len(web.got) == 2
    assert web.got[0][0]["webhook-id"] == web.got[1][0]["webhook-id"]


def test_what_was_refused_is_seen_everywhere_until_somebody_tries_again(tmp_path: Path) -> None:
    with hl7_peer(Hl7Peer(["AE101"])) as peer:
        settings = settings_with(tmp_path, ris(peer))
        records = open_records(settings)
        job_id = read_series(records, settings)
        deliver_all(records, settings)
        (_, table) = status_tables(settings, 10)
        text = _text(table)
        assert "1 refused" in text
        assert "PEER_REFUSED: HL7 acknowledgement AE, error 101" in text
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(exposition(records, settings).decode())
            for sample in family.samples
        }
        assert samples["fvlm_refused", "PEER_REFUSED", "message"] == 1
        assert samples["fvlm_messages_waiting", "hl7"] == 0
        peer.script = ["AA"]
        assert retry(records, str(job_id)) == job_id
        deliver_all(records, settings)
    assert only_row(records).sent_at
    assert job(records, job_id).state == State.SENT


def test_the_console_tells_how_each_destination_stands_and_a_probe_says_nothing(tmp_path: Path) -> None:
    with http_peer(HttpPeer()) as web, hl7_peer(Hl7Peer(["AE101"])) as peer:
        away = {"kind": "mail", "host": "127.0.0.1", "port": free_port(), "starttls": False}
        mail = {**away, "sender": "node@example.org", "recipients": ["it@example.org"]}
        named = {"hook": hook(tmp_path, web), "ris": ris(peer), "it": mail}
        settings = console_settings(tmp_path)
        messages = {"destinations": named, "results": ["hook", "ris"]}
        settings = Settings(**{**settings.model_dump(), "messages": messages})
        bench = ConsoleBench(settings)
        read_series(bench.records, settings)
        deliver_all(bench.records, settings)
        found = {row["name"]: row for row in bench.client().get("/api/messages").json()}
        assert [(row["sent"], row["waiting"], row["refused"]) for row in found.values()] == [
            (1, 0, 0),
            (0, 0, 1),
            (0, 0, 0),
        ]
        assert found["ris"]["reason"]["code"] == "PEER_REFUSED"
        assert "error 101 (job 1)" in bench.get("/deliveries")
        receivers = settings.messages.destinations
        probe(receivers["hook"], 5.0)
        probe(receivers["ris"], 5.0)
        with pytest.raises(OSError, match="refused"):
            probe(receivers["it"], 5.0)
    assert len(web.got) == 1


def _text(table: Any) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_a_destination_that_left_the_settings_is_given_up_by_name(tmp_path: Path) -> None:
    with http_peer(HttpPeer()) as web:
        settings = settings_with(tmp_path, hook(tmp_path, web))
        records = open_records(settings)
        read_series(records, settings)
        without = settings_for(tmp_path / "data")
        with records.session() as session:
            assert len(rows.abandon(session, without)) == 1
        row = only_row(records)
        assert (row.refused, row.reason) == (True, Reason.PEER_REFUSED)
        assert "no longer in the settings" in row.detail
    assert web.got == []


def test_a_row_of_another_version_is_refused_and_not_a_traceback(tmp_path: Path) -> None:
    with http_peer(HttpPeer()) as web:
        settings = settings_with(tmp_path, hook(tmp_path, web))
        records = open_records(settings)
        read_series(records, settings)
        with records.session() as session:
            session.execute(update(Message).values(content={"what": "nobody knows"}))
        deliver_all(records, settings)
    row = only_row(records)
    assert (row.refused, row.reason) == (True, Reason.INTERNAL)


@pytest.mark.parametrize("content", ["short", "whsec_no base64!"])
def test_without_a_good_secret_nothing_is_sent(tmp_path: Path, content: str) -> None:
    with http_peer(HttpPeer()) as web:
        settings = settings_with(tmp_path, hook(tmp_path, web), delivery=SLOW)
        secret_file(tmp_path, content)
        records = open_records(settings)
        read_series(records, settings)
        deliver_all(records, settings)
    assert web.got == []
    assert content not in only_row(records).detail
    _assert_fate(records, "away")


def test_the_real_process_survives_a_kill_between_sending_and_writing_it_down(tmp_path: Path) -> None:
    """At least once, under one id: the receiver holds its answer while the messenger is killed."""
    answered = threading.Event()

    def slowly(_: bytes) -> tuple[int, bytes]:
        answered.wait(60)
        return 204, b""

    with http_peer(HttpPeer(answer=slowly)) as web:
        settings = settings_with(tmp_path, hook(tmp_path, web))
        records = open_records(settings)
        read_series(records, settings)
        dispatcher = Dispatcher(make_app(settings))
        with running_broker(settings.data_dir), Processes(settings) as processes:
            first = processes.role("messenger")
            Reconciler(records, settings, dispatcher).once()
            wait_for(lambda: len(web.got) == 1, "the first attempt")
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
            answered.set()
            assert only_row(records).sent_at is None
            processes.role("messenger")
            log = processes.log
            wait_for(lambda: "messages_of_a_dead_worker" in log.read_text(), "the new one to look what was left")
            dispatcher.send(MESSAGES, only_row(records).id)
            wait_for(lambda: only_row(records).sent_at is not None, "the second attempt")
        text = log.read_text()
    assert len({headers["webhook-id"] for headers, _ in web.got}) == 1
    assert len(web.got) == 2
    assert not [planted for planted in PLANTED if planted in text]
