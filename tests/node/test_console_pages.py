"""What the console shows of a real database: pages, `/api`, probes, metrics; hostile values; patient data nowhere."""

import html
import re
from datetime import timedelta
from pathlib import Path

import pytest
from console_bench import ConsoleBench, console_settings
from prometheus_client.parser import text_string_to_metric_families
from rows import add_job, add_results
from spool_data import ROOT, SECRET, ct_slice, encode
from sqlalchemy import insert, select
from sqlalchemy.exc import SQLAlchemyError

from config import Reason
from config.worklist_settings import WebWorklist
from node.completion import complete_due
from node.console.refused import refused_callers
from node.console.views import Mood, Page, Releases, SeriesPage, SeriesRow
from node.indexer import Indexer
from node.intake import Intake
from node.records import Delivery, Job, Knock, Series, Unreadable, now
from node.release import Facts
from node.releases import registry
from node.releases.registry import Deed
from node.releases.rows import ShadowReading, ShadowState
from node.states import State
from node.worklist import claims

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"
SHORT_HOSTILE = "<b onload=x>'\""
LISTS = ("/", "/series", "/series/1", "/deliveries", "/unreadable", "/refused", "/releases")
APIS = (
    "/api/overview", "/api/series", "/api/series/1", "/api/deliveries", "/api/destinations", "/api/messages",
    "/api/unreadable", "/api/releases",
)  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> ConsoleBench:
    return ConsoleBench(console_settings(tmp_path, ("pacs", 11112), ("research", 11113)))


def change(bench: ConsoleBench, job_id: int, state: State, reason: Reason | None = None, detail: str = "") -> None:
    with bench.records.session() as session:
        job = session.get_one(Job, job_id)
        job.state, job.reason, job.detail = state, reason, detail


def one(bench: ConsoleBench, series_id: int) -> SeriesPage:
    return SeriesPage.model_validate_json(bench.get(f"/api/series/{series_id}"))


def rows(bench: ConsoleBench, query: str = "") -> list[SeriesRow]:
    return Page[SeriesRow].model_validate_json(bench.get(f"/api/series{query}")).rows


def test_an_empty_node_has_every_page(bench: ConsoleBench) -> None:
    for path in (*LISTS, "/rules"):
        if path != "/series/1":
            assert "fVLM Node" in bench.get(path)
    assert "Nothing has come in yet" in bench.get("/")
    assert "Needs attention" not in bench.get("/")


def test_patient_data_in_the_spool_appears_in_no_answer(bench: ConsoleBench) -> None:
    settings = bench.settings
    with Intake(settings.spool_dir, 0).open("STORESCU", "FVLM") as session:
        for number in range(1, 25):
            dataset = ct_slice(number=number)
            session.store(dataset.SOPClassUID, dataset.SOPInstanceUID, "1.2.840.10008.1.2.1", encode(dataset))
        broken = encode(ct_slice(number=99))[:-100]
        session.store(dataset.SOPClassUID, f"{ROOT}.99", "1.2.840.10008.1.2.1", broken)
    Indexer(bench.records, settings.spool_dir, poll_s=0.0).catch_up()
    complete_due(bench.records, settings, now() + timedelta(seconds=60))
    planted = b"".join(path.read_bytes() for path in settings.spool_dir.iterdir())
    assert all(secret.encode() in planted for secret in SECRET)
    assert len(rows(bench)) == 1
    client = bench.client()
    for path in (*LISTS, *APIS, "/metrics", "/readyz", "/healthz", "/api/openapi.json", "/nothing"):
        answer = client.get(path)
        assert not any(secret in answer.text + str(answer.headers) for secret in SECRET), path
    assert f"{ROOT}.99" in bench.get("/unreadable")


def test_hostile_values_are_shown_escaped(tmp_path: Path) -> None:
    bench = ConsoleBench(console_settings(tmp_path, (SHORT_HOSTILE, 11112)))
    encoded, failed = add_job(bench.records, "2.25.1", State.ENCODED), add_job(bench.records, "2.25.2", State.FAILED)
    change(bench, failed, State.FAILED, Reason.UNDECODABLE, HOSTILE)
    add_results(bench.records, bench.settings, encoded)
    with bench.records.session() as session:
        for series in session.scalars(select(Series)):
            series.source_ae, series.modality, series.detail = SHORT_HOSTILE, SHORT_HOSTILE, HOSTILE
        for delivery in session.scalars(select(Delivery)):
            delivery.reason, delivery.detail = Reason.PEER_REFUSED, HOSTILE
        session.get_one(Job, encoded).lease_owner = HOSTILE[:80]
        session.add(
            Unreadable(
                segment=HOSTILE[:80],
                offset=1,
                length=1,
                sop_instance_uid=HOSTILE[:64],
                source_ae=SHORT_HOSTILE,
                reason=Reason.TRUNCATED,
                detail=HOSTILE,
                received_at=now(),
            )
        )
    for path in (*LISTS, "/series/2", "/deliveries?destination=" + "%3Cb%20onload%3Dx%3E", "/series?uid=2.25"):
        text = bench.get(path)
        assert "<script>alert" not in text, path
        assert "<b onload" not in text, path
        assert re.findall(r"<script[^>]*>", text) == ['<script src="/static/console.js" defer>']
        assert "49" not in re.sub(r"[0-9]{2}:[0-9]{2}:[0-9]{2}|\b[0-9.]{3,}\b", "", text), "a template in a value ran"
    assert "&lt;script&gt;alert(1)" in bench.get("/series/2")
    assert "&lt;b onload=x&gt;" in bench.get("/deliveries")


def test_problems_come_first_with_reason_and_cure(bench: ConsoleBench) -> None:
    good = add_job(bench.records, "2.25.1", State.SENT)
    bad = add_job(bench.records, "2.25.2")
    change(bench, bad, State.QUARANTINED, Reason.ATTEMPTS_EXHAUSTED, "OUT_OF_MEMORY: 8 GB")
    waiting = add_job(bench.records, "2.25.3", State.ENCODED)
    add_results(bench.records, bench.settings, waiting)
    with bench.records.session() as session:
        session.scalars(select(Delivery).where(Delivery.destination == "pacs")).first().reason = Reason.PEER_UNREACHABLE
        for uid, reason in (("2.25.4", Reason.NOT_CT), ("2.25.5", Reason.GEOM_GAP)):
            moment = now() - timedelta(days=1)
            session.add(
                Series(
                    series_instance_uid=uid,
                    study_instance_uid="2.25.9",
                    modality="CT",
                    source_ae="A",
                    state=State.REJECTED,
                    reason=reason,
                    first_at=moment,
                    last_at=moment,
                )
            )
    view = bench.client().get("/api/overview").json()
    assert [row["series_instance_uid"] for row in view["attention"]] == ["2.25.3", "2.25.2", "2.25.5"]
    assert len(view["newest"]) == 5
    assert {state: count for state, count in view["states"].items() if count} == {
        "SENT": 1, "QUARANTINED": 1, "ENCODED": 1, "REJECTED": 2,
    }  # fmt: skip
    text = bench.get("/")
    assert text.index("Needs attention") < text.index("Newest series")
    for reason in (Reason.ATTEMPTS_EXHAUSTED, Reason.PEER_UNREACHABLE, Reason.GEOM_GAP):
        assert reason in text
        assert reason.cure in html.unescape(text)
    assert [row.id for row in rows(bench, "?state=SENT")] == [good]
    assert [row.series_instance_uid for row in rows(bench, "?state=REJECTED")] == ["2.25.5", "2.25.4"]


def test_the_overview_shows_worklists_and_which_is_away(tmp_path: Path) -> None:
    lists = {
        name: WebWorklist(kind="rs", url=f"https://{name}.example.org", station="FVLM1^99HOSP^fVLM")
        for name in ("ris", "other")
    }
    bench = ConsoleBench(console_settings(tmp_path).model_copy(update={"worklists": lists}))
    with bench.records.session() as session:
        claims.contact(session, "ris")
        claims.contact(session, "other", Reason.PEER_UNREACHABLE, "does not answer")
    shown = [
        (row["name"], row["held"], row["reason"]) for row in bench.client().get("/api/overview").json()["worklists"]
    ]
    assert shown == [("ris", 0, None), ("other", 0, "PEER_UNREACHABLE")]
    text = bench.get("/")
    assert "Worklist other" in text
    assert "PEER_UNREACHABLE" in text


def test_why_a_series_is_stuck_is_one_sentence_with_the_cure(bench: ConsoleBench) -> None:
    job = add_job(bench.records, "2.25.1")
    assert one(bench, 1).row.standing.mood is Mood.WAITING
    change(bench, job, State.QUEUED, Reason.OUT_OF_MEMORY)
    with bench.records.session() as session:
        session.get_one(Job, job).attempts = 2
    stands = one(bench, 1).row.standing
    assert stands.sentence.startswith("Attempt 2 of 3 failed")
    assert stands.cure == Reason.OUT_OF_MEMORY.cure
    change(bench, job, State.RUNNING)
    with bench.records.session() as session:
        row = session.get_one(Job, job)
        row.lease_owner, row.lease_expires = "w/1", now() - timedelta(hours=1)
    stands = one(bench, 1).row.standing
    assert (stands.mood, "not been heard of" in stands.sentence) == (Mood.PROBLEM, True)
    change(bench, job, State.ENCODED)
    add_results(bench.records, bench.settings, job)
    with bench.records.session() as session:
        row = session.scalars(select(Delivery).where(Delivery.destination == "research")).first()
        row.reason, row.detail, row.attempts = Reason.PEER_UNREACHABLE, "no answer in 30 s", 4
        row.due_at = now() + timedelta(minutes=9)
    stands = one(bench, 1).row.standing
    assert stands.sentence.startswith("Read; waits for research: The destination does not answer. Next try in ")
    assert stands.cure == Reason.PEER_UNREACHABLE.cure
    change(bench, job, State.FAILED, Reason.PEER_REFUSED)
    with bench.records.session() as session:
        session.scalars(select(Delivery).where(Delivery.destination == "pacs")).first().sent_at = now()
    stands = one(bench, 1).row.standing
    assert stands.sentence.startswith("Only 1 of 4 results were delivered.")
    text = bench.get("/series/1")
    assert stands.sentence in text
    assert stands.cure in html.unescape(text)


def test_a_series_that_the_coordinator_forgot_is_a_problem(bench: ConsoleBench) -> None:
    long_ago = now() - timedelta(hours=3)
    for number, state in enumerate((State.RECEIVING, State.COMPLETE, State.VETTED), 1):
        with bench.records.session() as session:
            session.add(
                Series(
                    series_instance_uid=f"2.25.{number}",
                    study_instance_uid="2.25.9",
                    modality="CT",
                    source_ae="A",
                    state=state,
                    first_at=long_ago,
                    last_at=long_ago,
                    changed_at=long_ago,
                )
            )
        stands = one(bench, number).row.standing
        assert stands.mood is Mood.PROBLEM
        assert "fvlm-node doctor" in stands.cure


def test_the_page_of_a_series_tells_its_story(bench: ConsoleBench) -> None:
    job = add_job(bench.records, "2.25.1", State.ENCODED)
    add_results(bench.records, bench.settings, job)
    add_job(bench.records, "2.25.1", State.QUEUED, generation=2)
    with bench.records.session() as session:
        row = session.get_one(Job, job)
        row.attempts, row.seconds, row.changed_at = 1, {"segment": 11.25}, now()
        row.series.detail = "1 localizer image left out"
        for delivery in session.scalars(select(Delivery).where(Delivery.destination == "pacs")):
            delivery.sent_at = now()
    page = one(bench, 1)
    assert page.generations == {1: 1, 2: 2}
    assert [event.what for event in page.timeline][:4] == [
        "First image", "Last image", "Complete, fit to be read", f"Job {job} queued",
    ]  # fmt: skip
    assert {event.what for event in page.timeline if "arrived" in event.what} == {
        "SR arrived at pacs", "SEG arrived at pacs",
    }  # fmt: skip
    assert {event.what for event in page.timeline if event.at is None} == {
        "SR waits for research", "SEG waits for research",
    }  # fmt: skip
    text = bench.get("/series/1")
    for expected in ("1 localizer image left out", "segment 11.2", 'href="/series/2"', f"2.25.{job}1", f"2.25.{job}2"):
        assert expected in text


def test_lists_are_bounded_and_paged(bench: ConsoleBench) -> None:
    for number in range(1, 6):
        add_results(bench.records, bench.settings, add_job(bench.records, f"2.25.{number}", State.ENCODED))
    client = bench.client()
    seen = [client.get(f"/api/series?limit=2&page={page}").json() for page in (1, 2, 3, 4)]
    assert [[row["series_instance_uid"] for row in page["rows"]] for page in seen] == [
        ["2.25.5", "2.25.4"], ["2.25.3", "2.25.2"], ["2.25.1"], [],
    ]  # fmt: skip
    assert [page["more"] for page in seen] == [True, True, False, False]
    assert len(client.get("/api/deliveries?limit=7&destination=pacs").json()["rows"]) == 7
    assert len(client.get("/api/deliveries?destination=nowhere").json()["rows"]) == 0
    assert [row.series_instance_uid for row in rows(bench, "?uid=2.25.3")] == ["2.25.3"]
    for _ in range(12):
        add_results(bench.records, bench.settings, add_job(bench.records, f"2.25.7{_}", State.ENCODED))
    text = bench.get("/deliveries?undelivered=true")
    assert 'href="?page=2&amp;undelivered=true"' in text
    assert bench.get("/deliveries?page=2&undelivered=true").count('<span class="chip waiting">waits</span>') == 18


@pytest.mark.parametrize(
    "query",
    ["/series/0", "/series/99999999999", "/series/x", "/series?page=0", "/series?page=99999999", "/series?uid=%00",
     "/series?uid=1'%20OR%201=1", "/series?state=NOWHERE", "/deliveries?destination=%00", "/unreadable?page=-1",
     "/deliveries?destination=" + "x" * 65],
)  # fmt: skip
def test_an_address_out_of_range_is_refused_without_a_traceback(bench: ConsoleBench, query: str) -> None:
    client = bench.client()
    for prefix in ("", "/api"):
        answer = client.get(prefix + query)
        assert answer.status_code == 400
        assert "Traceback" not in answer.text
    assert client.get("/api/series?limit=201").status_code == 400
    assert client.get("/series/77").status_code == client.get("/api/series/77").status_code == 404


def test_destinations_with_what_waits_and_why(bench: ConsoleBench) -> None:
    add_results(bench.records, bench.settings, add_job(bench.records, "2.25.1", State.ENCODED))
    with bench.records.session() as session:
        sent, waits = session.scalars(select(Delivery).where(Delivery.destination == "pacs")).all()
        sent.sent_at = now()
        waits.reason, waits.detail, waits.due_at = Reason.PEER_UNREACHABLE, "no route to host", now()
        session.scalars(select(Delivery).where(Delivery.destination == "research")).first().destination = "former"
    found = {row["name"]: row for row in bench.client().get("/api/destinations").json()}
    assert set(found) == {"pacs", "research", "former"}
    pacs = found["pacs"]
    assert (pacs["sent"], pacs["waiting"], pacs["refused"]) == (1, 1, 0)
    assert (pacs["ae_title"], pacs["reason"]["code"], pacs["detail"]) == (
        "PACS",
        "PEER_UNREACHABLE",
        "no route to host",
    )
    assert found["former"]["address"] == ""
    assert "no route to host" in bench.get("/deliveries")


def test_without_the_database_each_page_says_so(bench: ConsoleBench) -> None:
    add_job(bench.records)
    assert bench.client().get("/readyz").status_code == 200
    bench.lose_database()
    client = bench.client()
    for path in (*LISTS, *APIS):
        answer = client.get(path)
        assert answer.status_code == 503, path
        assert "The database does not answer" in answer.text
        assert "Traceback" not in answer.text
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["database"]["ok"], ready.json()["spool"]["ok"]) == (503, False, True)
    assert client.get("/healthz").status_code == 200
    assert "fvlm_database_up 0.0" in client.get("/metrics").text
    assert not list(bench.settings.data_dir.glob("node.sqlite*")), "the console made a database"


def test_readyz_names_the_spool(bench: ConsoleBench) -> None:
    bench.settings.spool_dir.rmdir()
    answer = bench.client().get("/readyz")
    assert (answer.status_code, answer.json()["spool"]["ok"], answer.json()["database"]["ok"]) == (503, False, True)


def test_below_the_low_water_mark_the_node_is_not_ready(tmp_path: Path) -> None:
    settings = console_settings(tmp_path)
    full = settings.model_copy(update={"dicom": settings.dicom.model_copy(update={"min_free_mb": 2**40})})
    bench = ConsoleBench(full)
    assert bench.client().get("/readyz").status_code == 503
    assert "images are refused" in bench.get("/")


def test_the_console_cannot_write(bench: ConsoleBench) -> None:
    add_job(bench.records)
    with bench.app_records.reading() as session, pytest.raises(SQLAlchemyError, match="readonly"):
        session.execute(insert(Unreadable).values(segment="x"))


def test_metrics_come_from_the_database(bench: ConsoleBench) -> None:
    settings = bench.settings
    with Intake(settings.spool_dir, 0).open("STORESCU", "FVLM") as session:
        for number in range(1, 4):
            dataset = ct_slice(number=number)
            session.store(dataset.SOPClassUID, dataset.SOPInstanceUID, "1.2.840.10008.1.2.1", encode(dataset))
        session.store(dataset.SOPClassUID, f"{ROOT}.99", "1.2.840.10008.1.2.1", b"rubbish " * 30)
    Indexer(bench.records, settings.spool_dir, poll_s=0.0).catch_up()
    add_results(bench.records, settings, add_job(bench.records, "2.25.1", State.ENCODED))
    waiting = add_job(bench.records, "2.25.2")
    with bench.records.session() as session:
        session.get_one(Job, waiting).created_at = now() - timedelta(seconds=500)
    text = bench.client().get("/metrics").text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["fvlm_database_up",] == 1
    assert found["fvlm_series", "RECEIVING"] == 1
    assert (found["fvlm_jobs", "ENCODED"], found["fvlm_jobs", "QUEUED"], found["fvlm_jobs", "FAILED"]) == (1, 1, 0)
    assert (found["fvlm_deliveries_waiting", "pacs"], found["fvlm_deliveries_waiting", "research"]) == (2, 2)
    assert found["fvlm_instances_received_total",] == 4
    assert 500 <= found["fvlm_oldest_queued_job_age_seconds",] < 5000
    assert found["fvlm_spool_free_bytes",] > 0
    refused = [sample.labels for family in text_string_to_metric_families(text) for sample in family.samples]
    (reason,) = [labels["reason"] for labels in refused if labels.get("what") == "instance"]
    assert reason in (Reason.NOT_DICOM, Reason.TRUNCATED)


def test_refused_callers_are_shown_the_last_first(bench: ConsoleBench) -> None:
    assert "Nobody" in bench.get("/refused")
    with bench.records.session() as session:
        for name, minutes in (("OLD", 5), ("NEW", 1)):
            at = now() - timedelta(minutes=minutes)
            session.add(
                Knock(
                    calling_ae=name, called_ae="FVLM", host="192.0.2.1", reason=Reason.UNKNOWN_AE,
                    count=3, first_at=at, last_at=at,
                )
            )  # fmt: skip
    text = bench.get("/refused")
    assert text.index("NEW") < text.index("OLD")
    with bench.app_records.reading() as session:
        page = refused_callers(session, 1, 1)
    assert [row.calling_ae for row in page.rows] == ["NEW"]
    assert (page.more, page.rows[0].count, page.rows[0].reason.cure) == (True, 3, Reason.UNKNOWN_AE.cure)


def test_releases_and_what_was_done_with_them(bench: ConsoleBench) -> None:
    assert "has not run with a release yet" in bench.get("/releases")
    deed, read = Deed("somebody", HOSTILE), add_job(bench.records, "2.25.1", State.SENT, "a" * 64)
    add_job(bench.records, "2.25.2", digest="a" * 64)
    with bench.records.session() as session:
        registry.promote(session, Facts("a" * 64, "/a", HOSTILE, False), deed)
        registry.shadow(session, Facts("b" * 64, "/b", "beside 2", True), deed)
        session.add(ShadowReading(job_id=read, release_digest="b" * 64, state=ShadowState.SKIPPED))
    page = bench.get("/releases")
    assert HOSTILE not in page
    assert html.escape(HOSTILE, quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
    found = Releases.model_validate_json(bench.get("/api/releases"))
    assert [(row.state, row.digest[0], row.at_work) for row in found.releases] == [
        ("current", "a", 1),
        ("shadow", "b", 0),
    ]
    assert [(row.action, row.done_by, row.why) for row in found.deeds] == [
        ("shadowed", "somebody", HOSTILE),
        ("promoted", "somebody", HOSTILE),
    ]
    assert (found.shadow["skipped"], found.shadow["done"]) == (1, 0)
    assert "beside 2 (bbbbbbbbbbbb): 1 skipped" in found.told[1]
    metrics = bench.client().get("/metrics").text
    assert 'fvlm_shadow_readings{state="skipped"} 1.0' in metrics
    assert 'name="beside 2",state="shadow"' in metrics
