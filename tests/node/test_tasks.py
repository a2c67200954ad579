"""Jobs: what one attempt leaves behind, and that a job ends once whatever dies meanwhile."""

import logging
import signal
import sys
import threading
import warnings
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog
from fake_pipeline import FakePipeline
from pydicom import dcmread
from rows import DIGEST, add_job, archive, deliveries, job, open_records, settings_for, small_object
from running import Processes, running_broker, wait_for
from sqlalchemy import func, select, update

from config import Output, Reason, Settings
from config.settings import WorkSettings
from node import embeddings, leases
from node.analysis import Analysis
from node.database import Records
from node.delivery import Courier
from node.jobs import Analyst
from node.logs import configure_logs
from node.reconciler import Reconciler
from node.records import Breaker, Delivery, Job, Result, now
from node.states import State
from node.tasks import ANALYZE, DELIVER, BrokerAwayError, Dispatcher, make_app

WORK = WorkSettings(max_attempts=3, lease_s=30.0, reconcile_s=0.2)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "data", ("pacs", 104), work=WORK)


@pytest.fixture
def records(settings: Settings) -> Records:
    return open_records(settings)


def _analyst(records: Records, settings: Settings, worker: str = "w") -> tuple[Analyst, FakePipeline]:
    pipeline = FakePipeline(settings)
    return Analyst(records, settings, pipeline, worker), pipeline


def _counts(records: Records) -> tuple[int, int]:
    with records.reading() as session:
        return tuple(session.scalar(select(func.count()).select_from(table)) for table in (Result, Delivery))


def test_an_attempt_leaves_files_results_and_due_deliveries(records: Records, settings: Settings) -> None:
    job_id = add_job(records)
    analyst, _ = _analyst(records, settings)
    due = analyst.analyze(job_id)
    ended = job(records, job_id)
    assert (ended.state, ended.attempts, ended.lease_owner, ended.lease_expires) == (State.ENCODED, 1, "", None)
    assert ended.seconds == {"read": 0.25}
    assert due == [row.id for row in deliveries(records, "pacs")]
    with records.reading() as session:
        rows = session.scalars(select(Result)).all()
    for row in rows:
        assert dcmread(settings.results_dir / row.path).SOPInstanceUID == row.sop_instance_uid
    assert [row.kind for row in rows] == ["SEG", "SR"]
    assert not list(settings.results_dir.rglob("*.part"))
    with records.reading() as session:
        assert embeddings.load(session, DIGEST, "lung").features.tolist() == [[1, 0, 0, 0.25]]


def test_a_label_map_goes_only_where_one_is_wanted(tmp_path: Path) -> None:
    plain = settings_for(tmp_path / "data", ("pacs", 104), ("viewer", 105), work=WORK)
    wants = plain.destinations["viewer"].model_copy(update={"label_map": True})
    settings = plain.model_copy(update={"destinations": {**plain.destinations, "viewer": wants}})
    assert (Output.LABEL_MAP in plain.plan.outputs, Output.LABEL_MAP in settings.plan.outputs) == (False, True)
    label_map = small_object("SEG", "2.25.72")
    label_map.SOPClassUID = label_map.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    label_map.SegmentationType = "LABELMAP"
    records = open_records(settings)
    job_id = add_job(records)
    analyst, pipeline = _analyst(records, settings)
    run = pipeline.run

    def with_label_map(*arguments: Any) -> Analysis:
        analysis: Analysis = run(*arguments)
        seg, sr = analysis.objects
        return replace(analysis, objects=(seg, label_map, sr))

    pipeline.run = with_label_map  # type: ignore[method-assign]
    analyst.analyze(job_id)
    with records.reading() as session:
        rows = session.execute(select(Delivery.destination, Result.kind, Result.path).join(Result)).all()
    assert {(name, kind) for name, kind, _ in rows} == {
        *((name, kind) for name in ("pacs", "viewer") for kind in ("SEG", "SR")),
        ("viewer", "LABELMAP"),
    }
    assert {Path(path).name for _, _, path in rows} == {"1-seg.dcm", "2-labelmap.dcm", "3-sr.dcm"}


def test_a_job_without_destinations_is_sent_at_once(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    records = open_records(settings)
    job_id = add_job(records)
    assert _analyst(records, settings)[0].analyze(job_id) == []
    ended = job(records, job_id)
    assert (ended.state, ended.detail) == (State.SENT, "no destination: results stay in the data folder")


def test_a_second_message_for_the_same_job_and_one_for_no_job_end_silently(
    records: Records, settings: Settings
) -> None:
    job_id = add_job(records)
    analyst, pipeline = _analyst(records, settings)
    for each in (job_id, job_id, 999):
        analyst.analyze(each)
    assert pipeline.runs == 1
    assert _counts(records) == (2, 2)


def test_a_repeat_writes_the_same_objects_and_opens_refused_deliveries_again(
    records: Records, settings: Settings
) -> None:
    job_id = add_job(records)
    analyst, _ = _analyst(records, settings)
    first = analyst.analyze(job_id)
    written = {path: path.read_bytes() for path in settings.results_dir.rglob("*.dcm")}
    with records.session() as session:
        session.get_one(Delivery, first[0]).sent_at = now()
        refused = session.get_one(Delivery, first[1])
        refused.refused, refused.reason = True, Reason.PEER_REFUSED
        row = session.get_one(Job, job_id)
        row.move(State.FAILED, Reason.PEER_REFUSED)
        row.move(State.QUEUED)
    assert analyst.analyze(job_id) == [first[1]]
    assert {path: path.read_bytes() for path in settings.results_dir.rglob("*.dcm")} == written != {}
    assert _counts(records) == (2, 2)
    assert [row.refused for row in deliveries(records, "pacs")] == [False, False]
    assert job(records, job_id).state == State.ENCODED


@pytest.mark.parametrize("reason", [Reason.INVALID_OBJECT, Reason.GEOM_GAP, Reason.UNDECODABLE])
def test_a_permanent_reason_ends_the_job(records: Records, settings: Settings, reason: Reason) -> None:
    job_id = add_job(records)
    analyst, pipeline = _analyst(records, settings)
    (pipeline.control / "fail").write_text(reason)
    assert analyst.analyze(job_id) == []
    ended = job(records, job_id)
    assert (ended.state, ended.reason, ended.detail) == (State.FAILED, reason, "as the test wants it")
    assert _counts(records) == (0, 0)


def test_a_passing_reason_is_tried_again_until_the_job_is_quarantined(records: Records, settings: Settings) -> None:
    job_id = add_job(records)
    analyst, pipeline = _analyst(records, settings)
    (pipeline.control / "fail").write_text(Reason.INTERNAL)
    seen = []
    for _ in range(4):
        analyst.analyze(job_id)
        seen.append(job(records, job_id).state)
    ended = job(records, job_id)
    assert seen == [State.QUEUED, State.QUEUED, State.QUARANTINED, State.QUARANTINED]
    assert (ended.attempts, ended.reason) == (3, Reason.INTERNAL)
    assert ended.detail == "after 3 attempts: as the test wants it"


def test_a_results_folder_that_takes_nothing_is_a_failed_attempt(records: Records, settings: Settings) -> None:
    settings.results_dir.write_text("a file where the folder should be")
    job_id = add_job(records)
    _analyst(records, settings)[0].analyze(job_id)
    assert (job(records, job_id).state, job(records, job_id).reason) == (State.QUEUED, Reason.INTERNAL)


def test_an_unexpected_error_is_a_failed_attempt_and_its_text_stays_out_of_log_and_database(
    records: Records, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = add_job(records)
    analyst, pipeline = _analyst(records, settings)

    def quoting(*_: object) -> object:
        raise ValueError("cannot convert PLANTED^NAME")

    monkeypatch.setattr(pipeline, "run", quoting)
    out = StringIO()
    handlers, level, hooks = logging.root.handlers[:], logging.root.level, (sys.excepthook, threading.excepthook)
    with warnings.catch_warnings():
        configure_logs("json", out)
        try:
            assert analyst.analyze(job_id) == []
        finally:
            logging.captureWarnings(False)
            logging.basicConfig(handlers=handlers, level=level, force=True)
            sys.excepthook, threading.excepthook = hooks
            structlog.reset_defaults()
    assert '"error": "ValueError"' in out.getvalue()
    assert "PLANTED" not in out.getvalue()
    ended = job(records, job_id)
    assert (ended.state, ended.reason) == (State.QUEUED, Reason.INTERNAL)
    assert ended.detail == "unexpected ValueError"


@pytest.mark.parametrize("taken_by", [State.QUEUED, State.SUPERSEDED])
def test_an_attempt_that_lost_its_lease_records_nothing(
    records: Records, settings: Settings, taken_by: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = add_job(records)
    analyst, pipeline = _analyst(records, settings)
    run = pipeline.run

    def robbed(*arguments: object) -> object:
        with records.session() as session:
            row = session.get_one(Job, job_id)
            leases.release(row)
            row.move(taken_by)
        return run(*arguments)

    monkeypatch.setattr(pipeline, "run", robbed)
    assert analyst.analyze(job_id) == []
    assert job(records, job_id).state == taken_by
    assert _counts(records) == (0, 0)


def test_a_job_is_read_with_the_release_that_is_loaded(records: Records, settings: Settings) -> None:
    old = add_job(records, digest="0" * 64)
    analyst, pipeline = _analyst(records, settings)
    analyst.analyze(old)
    assert job(records, old).release_digest == DIGEST
    with records.session() as session:
        again = Job(series_id=job(records, old).series_id, release_digest="1" * 64)
        session.add(again)
        session.flush()
        second = again.id
    analyst.analyze(second)
    assert job(records, second).state == State.SUPERSEDED
    assert pipeline.runs == 1


def test_leases_expire_and_the_last_attempt_ends_in_quarantine(records: Records) -> None:
    jobs = [add_job(records, f"2.25.{n}") for n in range(3)]
    with records.session() as session:
        for job_id in jobs:
            assert leases.take(session, job_id, "dead/1", 60.0)
        session.execute(update(Job).where(Job.id == jobs[1]).values(attempts=3))
        session.execute(update(Job).where(Job.id.in_(jobs[:2])).values(lease_expires=now()))
    with records.session() as session:
        assert leases.requeue_expired(session, max_attempts=3) == 2
    assert [job(records, each).state for each in jobs] == [State.QUEUED, State.QUARANTINED, State.RUNNING]
    assert job(records, jobs[1]).reason == Reason.ATTEMPTS_EXHAUSTED


def test_a_restarted_worker_gives_up_what_its_former_life_held(records: Records, settings: Settings) -> None:
    mine, other = add_job(records, "2.25.1"), add_job(records, "2.25.2")
    with records.session() as session:
        leases.take(session, mine, "w/1234", 1000.0)
        leases.take(session, other, "w2/1234", 1000.0)
    _analyst(records, settings, "w")[0].recover()
    with records.session() as session:
        leases.requeue_expired(session, max_attempts=3)
    assert [job(records, each).state for each in (mine, other)] == [State.QUEUED, State.RUNNING]


def test_a_heartbeat_holds_the_lease_and_notices_its_loss(records: Records) -> None:
    job_id = add_job(records)
    with records.session() as session:
        leases.take(session, job_id, "w/1", 0.3)
    first = job(records, job_id).lease_expires
    with leases.Heartbeat(records, job_id, "w/1", 0.3).beating() as heartbeat:
        wait_for(lambda: job(records, job_id).lease_expires != first, "a longer lease")
        heartbeat.check()
        with records.session() as session:
            session.execute(update(Job).where(Job.id == job_id).values(lease_owner="other/1"))

        def lost() -> bool:
            try:
                heartbeat.check()
            except leases.LeaseLostError:
                return True
            return False

        wait_for(lost, "the loss of the lease")


def test_messages_carry_a_row_id_and_nothing_else(records: Records, settings: Settings) -> None:
    add_job(records, uid="2.25.424242")
    with running_broker(settings.data_dir) as client, Processes(settings) as processes:
        dispatcher = Dispatcher(make_app(settings))
        (settings.data_dir / "control").mkdir()
        (settings.data_dir / "control" / "hold").touch()
        processes.analyze()
        for row_id in (1, 2):
            dispatcher.send(ANALYZE, row_id)
        dispatcher.send(DELIVER, 7)
        wait_for(lambda: any((settings.data_dir / "control").glob("run-*")), "a job that is being worked on")
        dump = b"\n".join(_values(client))
        (settings.data_dir / "control" / "hold").unlink()
    assert b'"argsrepr": "[7]"' in dump
    assert dump.count(b'"argsrepr": "[1]"') == 1  # the one that is taken and not yet acknowledged
    for secret in (b"Planted", b"2.25.", b"SCANNER", str(settings.data_dir).encode()):
        assert secret not in dump


def _values(client) -> list[bytes]:
    found = []
    for key in client.keys("*"):
        kind = client.type(key)
        found.append(key)
        found += {
            b"list": lambda k: client.lrange(k, 0, -1),
            b"hash": lambda k: [item for pair in client.hgetall(k).items() for item in pair],
            b"set": lambda k: list(client.smembers(k)),
            b"zset": lambda k: client.zrange(k, 0, -1),
            b"string": lambda k: [client.get(k)],
        }[kind](key)
    return found


def test_the_broker_away_is_said_so(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True)
    dispatcher = Dispatcher(make_app(settings))
    with pytest.raises(BrokerAwayError):
        dispatcher.send(ANALYZE, 1)
    with pytest.raises(BrokerAwayError):
        dispatcher.waiting(ANALYZE)


def _reconcile_until(records: Records, settings: Settings, job_id: int, state: State) -> None:
    reconciler = Reconciler(records, settings, Dispatcher(make_app(settings)))

    def reached() -> bool:
        reconciler.once()
        return job(records, job_id).state == state

    wait_for(reached, f"the job to be {state}")


def test_kill_9_of_the_worker_in_a_task_costs_an_attempt_and_nothing_else(tmp_path: Path) -> None:
    with archive(tmp_path / "pacs", "PACS") as pacs:
        work = WORK.model_copy(update={"lease_s": 1.5})
        settings = settings_for(tmp_path / "data", ("pacs", pacs.port), work=work)
        records = open_records(settings)
        job_id = add_job(records)
        control = FakePipeline(settings).control
        (control / "hold").touch()
        with running_broker(settings.data_dir), Processes(settings) as processes:
            victim = processes.analyze("test:one")
            Dispatcher(make_app(settings)).send(ANALYZE, job_id)
            wait_for(lambda: any(control.glob("run-*")), "a job that is being worked on")
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            (control / "hold").unlink()
            assert job(records, job_id).state == State.RUNNING
            processes.analyze("test:two")
            processes.role("deliver")
            _reconcile_until(records, settings, job_id, State.SENT)
        assert len(pacs.files()) == 2
    assert job(records, job_id).attempts == 2
    assert _counts(records) == (2, 2)
    assert all(row.attempts == 1 for row in deliveries(records, "pacs"))


def test_a_wiped_broker_loses_nothing(tmp_path: Path) -> None:
    with archive(tmp_path / "pacs", "PACS") as pacs:
        settings = settings_for(tmp_path / "data", ("pacs", pacs.port), work=WORK)
        records = open_records(settings)
        jobs = [add_job(records, f"2.25.{n}") for n in range(3)]
        control = FakePipeline(settings).control
        (control / "hold").touch()
        with running_broker(settings.data_dir) as client, Processes(settings) as processes:
            for each in jobs:
                Dispatcher(make_app(settings)).send(ANALYZE, each)
            processes.analyze()
            wait_for(lambda: any(control.glob("run-*")), "a job that is being worked on")
            client.flushall()
            (control / "hold").unlink()
            processes.role("deliver")
            for each in jobs:
                _reconcile_until(records, settings, each, State.SENT)
    assert [job(records, each).attempts for each in jobs] == [1, 1, 1]


def test_workers_wait_for_a_broker_that_is_restarted(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data", work=WORK)
    records = open_records(settings)
    first, second = add_job(records, "2.25.1"), add_job(records, "2.25.2")
    with Processes(settings) as processes:
        with running_broker(settings.data_dir):
            processes.analyze()
            _reconcile_until(records, settings, first, State.SENT)
            with records.session() as session:
                session.get_one(Job, second).attempts = 0
        with running_broker(settings.data_dir):
            _reconcile_until(records, settings, second, State.SENT)


def test_delivery_to_a_dead_port_goes_on_when_it_listens(tmp_path: Path) -> None:
    from node.children import free_port

    port = free_port()
    settings = settings_for(tmp_path / "data", ("pacs", port), work=WORK)
    records = open_records(settings)
    job_id = add_job(records)
    _analyst(records, settings)[0].analyze(job_id)
    Courier(records, settings).deliver(deliveries(records, "pacs")[0].id)
    with records.reading() as session:
        assert session.get_one(Breaker, "pacs").reason == Reason.PEER_UNREACHABLE
    with running_broker(settings.data_dir), Processes(settings) as processes:
        processes.role("deliver")
        with archive(tmp_path / "pacs", "PACS", port) as pacs:
            _reconcile_until(records, settings, job_id, State.SENT)
            assert len(pacs.files()) == 2
