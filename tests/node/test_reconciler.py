"""The reconciler: what it sends when, and that neither the broker's nor the database's absence harms."""

from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
import redis
from rows import add_job, add_results, deliveries, job, open_records, settings_for
from running import running_broker, wait_for
from spool_data import Bench, ct_slice, store
from sqlalchemy import update
from structlog.testing import capture_logs

from config import Reason, Settings
from config.prior_settings import PriorSettings
from config.settings import CompletionSettings, ModelSettings, Source, WorkSettings
from node import leases
from node.children import free_port
from node.database import Records
from node.logs import ALLOWED_KEYS
from node.reconciler import Reconciler
from node.records import Delivery, Job, Series, now
from node.release import release_digest
from node.states import State
from node.tasks import ANALYZE, DELIVER, Dispatcher, make_app


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    release = tmp_path / "release"
    release.mkdir()
    (release / "SHA256SUMS").write_text("sums of a release")
    return settings_for(
        tmp_path / "data",
        ("one", 104),
        ("two", 104),
        work=WorkSettings(max_attempts=2, reconcile_s=0.1),
        model=ModelSettings(release=str(release)),
    )


@pytest.fixture
def records(settings: Settings) -> Records:
    return open_records(settings)


def _reconciler(records: Records, settings: Settings) -> Reconciler:
    return Reconciler(records, settings, Dispatcher(make_app(settings)))


def _waiting(client: redis.Redis) -> dict[str, int]:
    return {queue: client.llen(queue) for queue in (ANALYZE, DELIVER)}


def test_an_empty_node_sends_nothing(records: Records, settings: Settings) -> None:
    with running_broker(settings.data_dir) as client:
        assert _reconciler(records, settings).once() is False
        assert _waiting(client) == {ANALYZE: 0, DELIVER: 0}


def test_a_vetted_series_gets_one_job_of_the_release_and_one_message(records: Records, settings: Settings) -> None:
    with records.session() as session:
        series = Series(
            series_instance_uid="2.25.1",
            study_instance_uid="2.25.2",
            modality="CT",
            source_ae="CT1",
            state=State.VETTED,
            first_at=now(),
            last_at=now(),
        )
        session.add(series)
    with running_broker(settings.data_dir) as client:
        reconciler = _reconciler(records, settings)
        assert [reconciler.once(), reconciler.once()] == [True, True]
        assert _waiting(client) == {ANALYZE: 1, DELIVER: 0}
    made = job(records, 1)
    assert (made.state, made.release_digest) == (State.QUEUED, release_digest(settings.model.release))


def test_a_new_job_is_issued_when_the_archive_was_asked_for_its_prior(tmp_path: Path, settings: Settings) -> None:
    bench = Bench(tmp_path / "bench")
    archive = Source(ae_title="PACS", host="127.0.0.1", port=free_port())
    more = {
        "priors": PriorSettings(source="pacs", wait_s=600.0),
        "sources": {"pacs": archive},
        "model": settings.model,
        "completion": CompletionSettings(quiet_s=0.01),
    }
    asking = bench.settings.model_copy(update=more)
    images = [ct_slice(number=number) for number in range(1, 21)]
    for image in images:
        image.StudyDate = "20260301"
    bench.receive(*images)
    with running_broker(asking.data_dir) as client, capture_logs() as logs:
        reconciler = _reconciler(bench.records, asking)
        wait_for(lambda: reconciler.once() and _waiting(client)[ANALYZE] == 1, "a worker may take it")
    (told,) = [line for line in logs if line["event"] == "prior_not_sought"]
    assert told["reason"] == Reason.PEER_UNREACHABLE
    assert told.keys() - {"log_level"} <= ALLOWED_KEYS
    assert job(bench.records, 1).held_until is None


def test_without_a_release_series_wait_and_it_is_told_once(records: Records, settings: Settings) -> None:
    (Path(settings.model.release) / "SHA256SUMS").unlink()
    with running_broker(settings.data_dir), capture_logs() as logs:
        reconciler = _reconciler(records, settings)
        for _ in range(3):
            reconciler.once()
        (Path(settings.model.release) / "SHA256SUMS").write_text("back")
        reconciler.once()
    assert [line["event"] for line in logs] == ["release_away", "release_back"]


def test_queued_jobs_are_sent_once_and_again_after_the_broker_was_wiped(records: Records, settings: Settings) -> None:
    for number in range(40):
        add_job(records, f"2.25.{number}")
    with running_broker(settings.data_dir) as client:
        reconciler = _reconciler(records, settings)
        reconciler.once()
        first = _waiting(client)[ANALYZE]
        assert 0 < first < 40  # the oldest; the rest follows when they are taken
        reconciler.once()
        assert _waiting(client)[ANALYZE] == first
        client.flushall()
        reconciler.once()
        assert _waiting(client)[ANALYZE] == first


def test_one_message_for_each_destination_with_something_due(records: Records, settings: Settings) -> None:
    jobs = [add_job(records, f"2.25.{n}", State.ENCODED) for n in range(3)]
    for each in jobs:
        add_results(records, settings, each)
    with records.session() as session:
        later = now() + timedelta(minutes=1)
        session.execute(update(Delivery).where(Delivery.destination == "two").values(due_at=later))
    with running_broker(settings.data_dir) as client:
        reconciler = _reconciler(records, settings)
        assert reconciler.once() is True
        assert _waiting(client)[DELIVER] == 1
        client.flushall()
        with records.session() as session:
            session.execute(update(Delivery).values(due_at=now()))
        reconciler.once()
        assert _waiting(client)[DELIVER] == 2


def test_expired_leases_go_back_to_the_queue_and_into_a_message(records: Records, settings: Settings) -> None:
    job_id = add_job(records)
    with records.session() as session:
        leases.take(session, job_id, "dead/1", 0.0)
    with running_broker(settings.data_dir) as client:
        _reconciler(records, settings).once()
        assert _waiting(client)[ANALYZE] == 1
    again = job(records, job_id)
    assert (again.state, again.attempts, again.lease_owner) == (State.QUEUED, 1, "")


def test_an_encoded_job_with_nothing_left_to_send_ends(records: Records, settings: Settings) -> None:
    sent, refused, none, waiting = (add_job(records, f"2.25.{n}", State.ENCODED) for n in range(4))
    for each in (sent, refused, waiting):
        add_results(records, settings, each)
    with records.session() as session:
        for job_id, values in ((sent, {"sent_at": now()}), (refused, {"refused": True})):
            for row in session.get_one(Job, job_id).results:
                session.execute(update(Delivery).where(Delivery.result_id == row.id).values(**values))
    with running_broker(settings.data_dir):
        _reconciler(records, settings).once()
    states = [job(records, each).state for each in (sent, refused, none, waiting)]
    assert states == [State.SENT, State.FAILED, State.SENT, State.ENCODED]


def test_an_absent_broker_is_told_once_and_stops_nothing_else(records: Records, settings: Settings) -> None:
    job_id = add_job(records)
    with records.session() as session:
        leases.take(session, job_id, "dead/1", 0.0)
    reconciler = _reconciler(records, settings)
    with capture_logs() as logs:
        for _ in range(3):
            reconciler.once()
        assert job(records, job_id).state == State.QUEUED
        with running_broker(settings.data_dir) as client:
            reconciler.once()
            assert _waiting(client)[ANALYZE] == 1
    assert [line["event"] for line in logs] == ["lease_expired", "broker_away", "broker_back"]


def test_an_absent_database_is_told_once_and_waited_for(records: Records, settings: Settings, tmp_path: Path) -> None:
    add_job(records)
    reconciler = _reconciler(records, settings)
    moved = tmp_path / "moved"
    records.engine.dispose()
    with capture_logs() as logs:
        settings.data_dir.rename(moved)
        for _ in range(3):
            assert reconciler.once() is False
        moved.rename(settings.data_dir)
        with running_broker(settings.data_dir) as client:
            assert reconciler.once() is True
            assert _waiting(client)[ANALYZE] == 1
    assert [line["event"] for line in logs] == ["database_away", "database_back"]


def test_what_is_there_at_the_start_is_told_once_before_anything_is_done(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "data")
    settings = settings_for(tmp_path / "data", ("pacs", 104), model=ModelSettings(release=str(tmp_path / "none")))
    records = bench.records
    queued, running, dead = (add_job(records, f"2.25.{n}") for n in range(3))
    add_results(records, settings, add_job(records, "2.25.9", State.ENCODED))
    with records.session() as session:
        leases.take(session, running, "w/1", 60.0)
        leases.take(session, dead, "w/2", 0.0)
    with bench.intake.open("STORESCU", "FVLM") as session:
        store(session, ct_slice())
    ended = Event()
    with running_broker(settings.data_dir) as client, capture_logs() as logs:
        thread = Thread(target=_reconciler(records, settings).run, args=(ended,))
        thread.start()
        try:
            wait_for(lambda: _waiting(client)[ANALYZE] > 0, "a message")
        finally:
            ended.set()
            thread.join(10)
    (told,) = [line for line in logs if line["event"] == "found_at_start"]
    assert told == {
        "event": "found_at_start", "log_level": "info",
        "queued": 1, "running": 2, "expired": 1, "due": 2, "segments": 1,
    }  # fmt: skip
    assert logs[0] is told
    assert told.keys() - {"log_level"} <= ALLOWED_KEYS
    assert job(records, queued).state == State.QUEUED


def test_the_first_look_waits_for_the_database(records: Records, settings: Settings, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    records.engine.dispose()
    settings.data_dir.rename(moved)
    ended = Event()
    with capture_logs() as logs:
        thread = Thread(target=_reconciler(records, settings).run, args=(ended,))
        thread.start()
        try:
            wait_for(lambda: any(line["event"] == "database_away" for line in logs), "the database to be missed")
            moved.rename(settings.data_dir)
            wait_for(lambda: any(line["event"] == "found_at_start" for line in logs), "the summary")
        finally:
            ended.set()
            thread.join(30)
    assert [line["event"] for line in logs][:3] == ["database_away", "database_back", "found_at_start"]


def test_it_runs_until_it_is_told_to_end(records: Records, settings: Settings) -> None:
    ended = Event()
    with running_broker(settings.data_dir) as client:
        thread = Thread(target=_reconciler(records, settings).run, args=(ended,))
        thread.start()
        try:
            add_job(records)
            wait_for(lambda: _waiting(client)[ANALYZE] == 1, "a message")
            assert len(deliveries(records, "one")) == 0
        finally:
            ended.set()
            thread.join(10)
    assert not thread.is_alive()
